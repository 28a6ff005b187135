//! What became of a table's rows between two of its versions.

use std::{collections::BTreeSet, sync::Arc};

use deltalake::datafusion::catalog::TableProvider;
use object_store::path::Path;

use crate::{Lake, LakeError, rewrite::old_files, table::Table};

/// The rows of the files that one of two versions has and the other lacks. A row that was only written anew, into
/// another file, is on both sides: whatever is summed over `added` less `removed` is right all the same.
pub struct Difference {
    /// As the earlier version has them; `None` if no file went.
    pub removed: Option<Arc<dyn TableProvider>>,
    /// As the later version has them; `None` if no file came.
    pub added: Option<Arc<dyn TableProvider>>,
}

impl Lake {
    /// From one version of the table at a path to a later one; without the first, all of its rows are added. Takes time
    /// as the files that were written between the two do.
    ///
    /// # Errors
    /// If one of the versions, or a file of it, is no longer kept, or the store fails.
    pub async fn difference(&self, path: &str, from: Option<i64>, to: i64) -> Result<Difference, LakeError> {
        let after = Table::open_at(self, path, Some(to)).await?;
        let Some(from) = from else {
            return Ok(Difference { removed: None, added: self.files_but(&after, &BTreeSet::new()).await? });
        };
        let before = Table::open_at(self, path, Some(from)).await?;
        Ok(Difference {
            removed: self.files_but(&before, &after.file_names()?).await?,
            added: self.files_but(&after, &before.file_names()?).await?,
        })
    }

    /// A table's rows without those of some files; `None` if there is no other file.
    async fn files_but(
        &self,
        table: &Table,
        others: &BTreeSet<String>,
    ) -> Result<Option<Arc<dyn TableProvider>>, LakeError> {
        let files = old_files(table, false, |path| !others.contains(path))?;
        if files.is_empty() {
            return Ok(None);
        }
        let paths = files.iter().map(|file| String::from(Path::from(file.removed.path.as_str())));
        table.files(&self.session(), paths).await.map(Some)
    }
}
