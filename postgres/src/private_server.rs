use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use url::Url;

use crate::binaries::data_dir;
use crate::embedded::{EmbeddedOptions, EmbeddedPostgres};
use crate::error::{At, Result};

/// The private server of a lake, with its database `control`. One a user and lake, in the user's data folder, named by
/// the lake: every spelling of one local path means the same server.
///
/// # Errors
/// As [`EmbeddedPostgres::start`].
pub async fn private_server(lake_url: &str) -> Result<EmbeddedPostgres> {
    let folder = data_dir()?.join("postgres").join(name(&identity(lake_url)?));
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(folder)).await?;
    server.create_database("control").await?;
    Ok(server)
}

/// The lake's URL without a trailing slash; a local path absolute and without symbolic links.
fn identity(lake_url: &str) -> Result<String> {
    let local = match Url::parse(lake_url) {
        Ok(url) if url.scheme() == "file" => url.to_file_path().ok(),
        Ok(_) => None,
        Err(_) => Some(PathBuf::from(lake_url)),
    };
    Ok(match local {
        Some(path) => resolve(&path)?.to_string_lossy().into_owned(),
        None => lake_url.trim_end_matches('/').to_owned(),
    })
}

/// Resolves what exists of a path, so that it gives the same before and after the folder is made.
fn resolve(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).at("resolve", path)?;
    for ancestor in path.ancestors() {
        if let Ok(real) = fs::canonicalize(ancestor) {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            // Collecting drops a trailing slash, which joining would keep.
            return Ok(real.components().chain(rest.components()).collect());
        }
    }
    Ok(path)
}

/// The end of the URL, for people, and a hash of all of it.
fn name(identity: &str) -> String {
    let slug: String = identity
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|letter| letter.to_ascii_lowercase())
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(32)
        .collect();
    let hash = Sha256::digest(identity);
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{slug}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_are_one_lake() {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = folder.path().join("lake");
        let plain = identity(&lake.to_string_lossy()).expect("an identity");
        fs::create_dir(&lake).expect("the lake");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&lake, &link).expect("a link");
        for spelling in [
            lake.to_string_lossy().into_owned(),
            format!("{}/", lake.display()),
            format!("{}/./", lake.display()),
            format!("file://{}", lake.display()),
            link.to_string_lossy().into_owned(),
        ] {
            assert_eq!(identity(&spelling).expect("an identity"), plain, "{spelling}");
        }
        assert_ne!(identity("s3://a/lake").expect("an identity"), plain);
        assert_eq!(
            identity("s3://a/lake/").expect("an identity"),
            identity("s3://a/lake").expect("an identity")
        );
    }

    #[test]
    fn names_are_plain_and_distinct() {
        let one = name("s3://bucket/Shop Lake");
        assert!(one.starts_with("shop-lake-"), "{one}");
        assert_ne!(one, name("s3://other/Shop Lake"));
    }
}
