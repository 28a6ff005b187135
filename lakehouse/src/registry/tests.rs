#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use object_store::memory::InMemory;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const KIND: &str = "churn";

fn draft(as_of: i64, bytes: &[u8]) -> Draft {
    Draft {
        as_of,
        parameters: json!({"l2": 10.0}),
        metrics: json!({"auc": 0.9}),
        watermark: json!({"lsn": "0/1"}),
        bytes: bytes.to_vec(),
    }
}

/// Both kinds of store: with conditional puts of its own, and a local folder with the lock.
fn registries() -> (tempfile::TempDir, [Registry; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let local =
        Registry::open(&Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap()).unwrap();
    let memory = Registry::with_store(Arc::new(InMemory::new()), Path::from("lake/models"));
    (folder, [local, memory])
}

#[tokio::test]
async fn a_promoted_version_is_the_champion_until_the_next_promotion() {
    let (_folder, registries) = registries();
    for registry in registries {
        assert_eq!(registry.champion_etag(KIND).await.unwrap(), None);
        assert!(registry.champion(KIND).await.unwrap().is_none());

        let first = registry.publish(KIND, draft(1_000_000, b"one")).await.unwrap();
        assert!(registry.champion(KIND).await.unwrap().is_none(), "published is not promoted");
        let etag = registry.promote(KIND, &first.version, None).await.unwrap();
        let champion = registry.champion(KIND).await.unwrap().unwrap();
        assert_eq!((&champion.manifest, champion.bytes.as_slice()), (&first, b"one".as_slice()));
        assert_eq!(champion.etag, etag);
        assert_eq!(registry.champion_etag(KIND).await.unwrap(), Some(etag.clone()));

        let second = registry.publish(KIND, draft(2_000_000, b"two")).await.unwrap();
        let newer = registry.promote(KIND, &second.version, Some(&etag)).await.unwrap();
        assert_ne!(newer, etag);
        assert_eq!(registry.champion(KIND).await.unwrap().unwrap().bytes, b"two");
        assert_eq!(registry.versions(KIND).await.unwrap(), [first.version.clone(), second.version]);
        assert_eq!(registry.load(KIND, &first.version).await.unwrap().1, b"one", "old versions stay");
        assert!(registry.versions("recommender").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn publishing_again_changes_nothing_and_other_content_is_refused() {
    let (_folder, registries) = registries();
    for registry in registries {
        let manifest = registry.publish(KIND, draft(5, b"model")).await.unwrap();
        assert_eq!(registry.publish(KIND, draft(5, b"model")).await.unwrap(), manifest);
        let other = Draft { metrics: json!({"auc": 0.1}), ..draft(5, b"model") };
        let error = registry.publish(KIND, other).await.unwrap_err();
        assert!(matches!(error, RegistryError::AlreadyExists { .. }), "{error}");
        assert_eq!(registry.load(KIND, &manifest.version).await.unwrap().0, manifest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_promotions_that_saw_the_same_champion_one_loses() {
    let (_folder, registries) = registries();
    for registry in registries {
        let mut versions = Vec::new();
        for model in ["one", "two", "three", "four", "five"] {
            versions.push(registry.publish(KIND, draft(1, model.as_bytes())).await.unwrap().version);
        }
        let mut seen: Option<String> = None;
        for _ in 0..10 {
            let racers = versions.iter().map(|version| {
                let (registry, version, seen) = (registry.clone(), version.clone(), seen.clone());
                tokio::spawn(async move { registry.promote(KIND, &version, seen.as_deref()).await })
            });
            let mut winners = Vec::new();
            for result in futures::future::join_all(racers).await {
                match result.unwrap() {
                    Ok(etag) => winners.push(etag),
                    Err(error) => assert!(matches!(error, RegistryError::Conflict { .. }), "{error}"),
                }
            }
            assert_eq!(winners.len(), 1);
            seen = registry.champion_etag(KIND).await.unwrap();
            assert_eq!(seen.as_ref(), winners.first());
        }
    }
}

#[tokio::test]
async fn the_tag_must_be_the_one_that_was_seen() {
    let (_folder, registries) = registries();
    for registry in registries {
        let version = registry.publish(KIND, draft(1, b"one")).await.unwrap().version;
        for seen in [Some("never-there"), None, None, Some("never-there")] {
            let had = registry.champion_etag(KIND).await.unwrap();
            let result = registry.promote(KIND, &version, seen).await;
            if had.is_none() && seen.is_none() {
                result.unwrap();
            } else {
                assert!(matches!(result.unwrap_err(), RegistryError::Conflict { .. }));
                assert_eq!(registry.champion_etag(KIND).await.unwrap(), had);
            }
        }
    }
}

#[tokio::test]
async fn any_changed_file_is_reported_as_damaged() {
    for file in [MODEL, MANIFEST, CHAMPION] {
        let (_folder, registries) = registries();
        for registry in registries {
            let version = registry.publish(KIND, draft(1, b"one")).await.unwrap().version;
            registry.promote(KIND, &version, None).await.unwrap();
            let path = match file {
                CHAMPION => registry.kind(KIND).unwrap(),
                _ => registry.folder(KIND, &version).unwrap(),
            }
            .join(file);
            let (whole, _) = registry.get(&path).await.unwrap().unwrap();

            let half = whole[..whole.len() / 2].to_vec();
            registry.put(&path, half, PutMode::Overwrite).await.unwrap();
            let error = registry.champion(KIND).await.unwrap_err();
            assert!(matches!(error, RegistryError::Damaged { .. }), "{file}: {error}");

            // A change that is still a readable file of its kind.
            let text = String::from_utf8(whole.clone()).unwrap();
            let altered =
                text.replace("0.9", "0.8").replace("one", "two").replace("_sha256\": \"", "_sha256\": \"0");
            assert_ne!(altered, text, "{file}");
            registry.put(&path, altered.into_bytes(), PutMode::Overwrite).await.unwrap();
            let error = registry.champion(KIND).await.unwrap_err();
            assert!(matches!(error, RegistryError::Damaged { .. }), "{file}: {error}");

            registry.put(&path, whole, PutMode::Overwrite).await.unwrap();
            assert_eq!(registry.champion(KIND).await.unwrap().unwrap().bytes, b"one");

            registry.store.delete(&path).await.unwrap();
            match (file, registry.champion(KIND).await) {
                (CHAMPION, champion) => assert!(champion.unwrap().is_none()),
                (_, champion) => assert!(matches!(champion.unwrap_err(), RegistryError::Damaged { .. })),
            }
        }
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let (_folder, registries) = registries();
    for registry in registries {
        let path = registry.kind(KIND).unwrap().join(CHAMPION);
        let text = br#"{"format": 2, "unknown": true}"#.to_vec();
        registry.put(&path, text, PutMode::Overwrite).await.unwrap();
        let error = registry.champion(KIND).await.unwrap_err();
        assert!(matches!(error, RegistryError::NewerFormat { found: 2, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_version_without_manifest_does_not_exist() {
    let (_folder, registries) = registries();
    for registry in registries {
        let manifest = registry.publish(KIND, draft(1, b"one")).await.unwrap();
        let path = registry.folder(KIND, &manifest.version).unwrap().join(MANIFEST);
        registry.store.delete(&path).await.unwrap();
        assert!(registry.versions(KIND).await.unwrap().is_empty());
        for result in [
            registry.promote(KIND, &manifest.version, None).await.map(drop),
            registry.load(KIND, &manifest.version).await.map(drop),
        ] {
            assert!(matches!(result.unwrap_err(), RegistryError::NotFound { .. }));
        }
        // What a crash left half done, the next run completes.
        assert_eq!(registry.publish(KIND, draft(1, b"one")).await.unwrap(), manifest);
        registry.promote(KIND, &manifest.version, None).await.unwrap();
    }
}

#[tokio::test]
async fn names_cannot_leave_the_registry() {
    let (_folder, registries) = registries();
    for registry in registries {
        for name in ["", "..", "a/b", "a.b", "ä"] {
            let result = registry.publish(name, draft(1, b"one")).await;
            assert!(matches!(result.unwrap_err(), RegistryError::InvalidName(_)));
            assert!(matches!(registry.champion(name).await.unwrap_err(), RegistryError::InvalidName(_)));
            assert!(matches!(registry.load(KIND, name).await.unwrap_err(), RegistryError::InvalidName(_)));
        }
        let result = registry.publish(KIND, draft(i64::MAX, b"one")).await;
        assert!(matches!(result.unwrap_err(), RegistryError::InvalidTime(_)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn versions_sort_by_time(mut seconds in prop::collection::btree_set(0_i64..4_000_000_000, 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = Registry::with_store(Arc::new(InMemory::new()), Path::default());
            let mut published = Vec::new();
            while let Some(second) = seconds.pop_first() {
                let draft = draft(second * 1_000_000, &second.to_le_bytes());
                published.push(registry.publish(KIND, draft).await.unwrap().version);
            }
            assert_eq!(registry.versions(KIND).await.unwrap(), published);
        });
    }
}
