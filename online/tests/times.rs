//! How long values live, and how old they may be.

use std::time::Duration;

use lakeward_features::View;
use lakeward_online::{Status, TimesToLive, ViewValue};

use crate::server::{DAY, Server, at, row};

fn days(days: u64) -> TimesToLive {
    let ttl = Duration::from_secs(days * 86_400);
    TimesToLive { user_rfm: ttl, user_activity: ttl, user_item_interactions: ttl, product_popularity: ttl }
}

#[tokio::test]
async fn a_time_to_live_is_never_shortened() {
    let Some(server) = Server::start().await else { return };
    let left = async |key: &str| server.ask::<i64>("TTL", &[key]).await;
    let scored = ["7", "{\"product_id\":7,\"score\":1.0}"];
    let keys = ["shop:user:1", "user:1:interactions", "shop:product:1"];
    let put = async |ttl: TimesToLive, commit: i64| {
        let online = server.online_with(ttl);
        online.put(View::UserRfm, at(1, commit, 0, 0), &[row(1, &["{}"])]).await.unwrap();
        online.put(View::UserItemInteractions, at(1, commit, 0, 0), &[row(1, &scored)]).await.unwrap();
        online.put(View::ProductPopularity, at(1, commit, 0, 0), &[row(1, &["{}"])]).await.unwrap();
    };
    let day = 86_400;
    put(days(10), 1).await;
    for key in keys {
        assert!((9 * day..=10 * day).contains(&left(key).await), "{key}");
    }
    put(days(1), 2).await;
    for key in keys {
        assert!((9 * day..=10 * day).contains(&left(key).await), "{key} lives shorter than before");
    }
    put(days(20), 3).await;
    for key in keys {
        assert!((19 * day..=20 * day).contains(&left(key).await), "{key} lives no longer");
    }
}

#[tokio::test]
async fn an_entity_lives_as_long_as_the_longest_of_its_views() {
    let Some(server) = Server::start().await else { return };
    let ttl = TimesToLive { user_item_interactions: Duration::from_secs(30 * 86_400), ..days(7) };
    server.online_with(ttl).put(View::UserRfm, at(1, 1, 0, 0), &[row(1, &["{}"])]).await.unwrap();
    let left: i64 = server.ask("TTL", &["shop:user:1"]).await;
    assert!(left > 29 * 86_400, "{left}");
}

#[tokio::test]
async fn what_is_older_than_its_view_allows_is_not_told() {
    let Some(server) = Server::start().await else { return };
    let online = server.online_with(days(7));
    online.put(View::UserRfm, at(1, 1, 0, 100 * DAY), &[row(1, &["{\"a\":1}"])]).await.unwrap();
    let scored = ["7", "{\"product_id\":7,\"score\":1.0}"];
    online.put(View::UserItemInteractions, at(1, 1, 0, 104 * DAY), &[row(1, &scored)]).await.unwrap();
    online.put(View::ProductPopularity, at(1, 1, 0, 100 * DAY), &[row(3, &["{}"])]).await.unwrap();
    use Status::{NotFound, OutsideMaxAge, Present};
    let statuses = async |as_of| {
        let found = online.customers(&[1, 2], as_of).await.unwrap();
        let told = |view: &ViewValue| {
            assert_eq!(view.values.is_some(), view.status == Present);
            view.status
        };
        found.iter().flat_map(|one| one.views.iter().map(told)).collect::<Vec<_>>()
    };
    let nothing = [NotFound; 4];
    let first = async |as_of| {
        let told = statuses(as_of).await;
        assert_eq!(told[4..], nothing);
        <[Status; 4]>::try_from(&told[..4]).unwrap()
    };
    assert_eq!(first(107 * DAY).await, [Present, NotFound, Present, NotFound]);
    assert_eq!(first(107 * DAY + 1).await, [OutsideMaxAge, NotFound, Present, NotFound]);
    assert_eq!(statuses(112 * DAY).await[2], OutsideMaxAge);
    let products = online.products(&[3, 4], 108 * DAY).await.unwrap();
    assert_eq!([products[0].views[0].status, products[1].views[0].status], [OutsideMaxAge, NotFound]);
    assert!(online.customers(&[], 0).await.unwrap().is_empty());
}
