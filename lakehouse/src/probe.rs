//! Whether the store keeps what the commit protocol and the model registry build on.

use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};
use uuid::Uuid;

use crate::{Lake, LakeError};

impl Lake {
    /// Tries conditional puts on an object that is then removed: of two that create it the second must fail, and so
    /// must one that replaces a state which is no longer there.
    ///
    /// # Errors
    /// [`LakeError::Untrue`] if one does not; or the store fails.
    pub async fn probe(&self) -> Result<(), LakeError> {
        let path = self.object_path(&format!("ops/_probe-{}", Uuid::new_v4().simple()))?;
        let probed = self.try_conditional_puts(&path).await;
        let removed = self.store().delete(&path).await;
        probed?;
        removed.map_err(failed(&path))
    }

    async fn try_conditional_puts(&self, path: &Path) -> Result<(), LakeError> {
        let put = async |content: &'static str, mode| {
            self.store()
                .put_opts(path, PutPayload::from_static(content.as_bytes()), PutOptions::from(mode))
                .await
        };
        let lies = |promise| Err(LakeError::Untrue { root: self.url().to_string(), promise });
        let first = put("first", PutMode::Create).await.map_err(failed(path))?;
        match put("second", PutMode::Create).await {
            Err(Error::AlreadyExists { .. }) => {}
            Ok(_) => return lies("creates an object that is there already (If-None-Match)"),
            Err(error) => return Err(failed(path)(error)),
        }
        // A folder has no such condition: the registry holds a lock there.
        if self.url().scheme() == "file" {
            return Ok(());
        }
        let first = UpdateVersion { e_tag: first.e_tag, version: first.version };
        put("third", PutMode::Update(first.clone())).await.map_err(failed(path))?;
        match put("fourth", PutMode::Update(first)).await {
            Err(Error::Precondition { .. }) => Ok(()),
            Ok(_) => lies("replaces a state that is no longer there (If-Match)"),
            Err(error) => Err(failed(path)(error)),
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(Error) -> LakeError {
    let path = path.to_string();
    move |source| LakeError::Store { path, doing: "tried out", source }
}
