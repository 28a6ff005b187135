use std::time::Duration;

use lakeward_postgres::{Control, CutState, Error, connect};
use serde_json::json;

use crate::server;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn migrations_apply_once_however_many_open() {
    let (_folder, server) = server().await;
    server.create_database("control").await.unwrap();
    let url = server.url("control");
    let opening = [(); 6].map(|()| {
        let url = url.clone();
        tokio::spawn(async move { Control::open(&url).await.map(drop) })
    });
    for opened in opening {
        opened.await.unwrap().unwrap();
    }
    Control::open(&url).await.unwrap();
    let client = connect(&url).await.unwrap();
    let rows = client.query("SELECT version FROM schema_migrations ORDER BY version", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1, 2, 3, 4, 5]);

    client.batch_execute("INSERT INTO schema_migrations (version, md5) VALUES (1000, '')").await.unwrap();
    let error = Control::open(&url).await.err().unwrap();
    assert!(matches!(error, Error::Migration { version: 1000 }), "a newer program's: {error}");
    client.batch_execute("DELETE FROM schema_migrations WHERE version = 1000").await.unwrap();
    client.batch_execute("UPDATE schema_migrations SET md5 = 'x' WHERE version = 1").await.unwrap();
    let error = Control::open(&url).await.err().unwrap();
    assert!(matches!(error, Error::Migration { version: 1 }), "changed afterwards: {error}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_newest_report_of_an_ingester_counts() {
    let (_folder, server) = server().await;
    let control = Control::open(&server.url("postgres")).await.unwrap();
    assert_eq!(control.ingester("shop").await.unwrap(), None);
    for read in [1, 2] {
        control.report_ingester("shop", &serde_json::json!({ "read": read })).await.unwrap();
    }
    let (state, age) = control.ingester("shop").await.unwrap().unwrap();
    assert_eq!(state["read"], 2);
    assert!(age < LIMIT);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_stays_until_it_is_answered() {
    let (_folder, server) = server().await;
    let control = Control::open(&server.url("postgres")).await.unwrap();
    let table = ("public", "orders");
    let first = control.request_table("shop", table, "resync", None).await.unwrap();
    let second = control.request_table("shop", table, "repair", Some(&json!({"keys": [1]}))).await.unwrap();
    control.request_table("other", table, "resync", None).await.unwrap();
    let open = control.open_table_requests("shop").await.unwrap();
    assert_eq!(open.iter().map(|request| request.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!((open[1].action.as_str(), &open[1].argument), ("repair", &Some(json!({"keys": [1]}))));
    let early = control.wait_table_request(first, Duration::ZERO).await.unwrap_err();
    assert!(matches!(early, Error::RequestTimeout { .. }), "{early}");

    control.answer_table_request(first, Ok(&json!({"rows": 7}))).await.unwrap();
    control.answer_table_request(first, Err("too late")).await.unwrap();
    assert_eq!(control.wait_table_request(first, LIMIT).await.unwrap(), json!({"rows": 7}));
    control.answer_table_request(second, Err("no such key")).await.unwrap();
    let refused = control.wait_table_request(second, LIMIT).await.unwrap_err();
    assert!(refused.to_string().contains("no such key"), "{refused}");
    assert_eq!(control.open_table_requests("shop").await.unwrap(), []);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_lease_has_one_holder_and_its_term_rises() {
    let (_folder, server) = server().await;
    let url = server.url("postgres");
    let control = Control::open(&url).await.unwrap();
    let first = control.take_lease("shop", "a", false).await.unwrap();
    assert_eq!((first.term, first.taken_over), (1, false));
    let held = control.take_lease("shop", "b", false).await.unwrap_err();
    assert!(matches!(&held, Error::LeaseHeld { holder, .. } if holder == "a"), "{held}");
    control.renew_lease("shop", 1).await.unwrap();
    control.release_lease("shop", 1).await.unwrap();
    let second = control.take_lease("shop", "b", false).await.unwrap();
    assert_eq!((second.term, second.taken_over), (2, false));

    let client = connect(&url).await.unwrap();
    client.batch_execute("UPDATE leases SET renewed_at = now() - interval '1 hour'").await.unwrap();
    let third = control.take_lease("shop", "c", false).await.unwrap();
    assert_eq!((third.term, third.taken_over), (3, true), "an owner that was not heard of may be replaced");
    let lost = control.renew_lease("shop", 2).await.unwrap_err();
    assert!(matches!(lost, Error::LeaseLost { .. }), "{lost}");
    let forced = control.take_lease("shop", "d", true).await.unwrap();
    assert_eq!((forced.term, forced.taken_over), (4, true));

    // With the process its session ends.
    let waiting = Control::open(&url).await.unwrap();
    assert!(!waiting.lease_is_free("shop").await.unwrap());
    drop(control);
    while !waiting.lease_is_free("shop").await.unwrap() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fifth = waiting.take_lease("shop", "e", false).await.unwrap();
    assert_eq!((fifth.term, fifth.taken_over), (5, true));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_cut_goes_through_its_states() {
    let (_folder, server) = server().await;
    let url = server.url("postgres");
    let requester = Control::open(&url).await.unwrap();
    let ingester = Control::open(&url).await.unwrap();
    assert_eq!(ingester.poll_open_cuts("shop").await.unwrap(), []);

    let id = requester.announce_cut("shop").await.unwrap();
    assert_eq!(ingester.poll_open_cuts("other").await.unwrap(), []);
    let open = ingester.poll_open_cuts("shop").await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].id, open[0].state, open[0].at_lsn), (id, CutState::Announced, None));
    let early = requester.set_cut_lsn(id, 1).await.unwrap_err();
    assert!(matches!(early, Error::CutNotIn { .. }), "not before the pause: {early}");

    let pause = async {
        ingester.mark_paused(id).await.unwrap();
    };
    let (paused, ()) = tokio::join!(requester.wait_cut(id, CutState::Paused, LIMIT), pause);
    assert_eq!(paused.unwrap().state, CutState::Paused);
    let lsn = 0x1_0000_0028;
    requester.set_cut_lsn(id, lsn).await.unwrap();
    let open = ingester.poll_open_cuts("shop").await.unwrap();
    assert_eq!((open[0].state, open[0].at_lsn), (CutState::Requested, Some(lsn)));

    let answer = json!({"lsn": "1/28", "tables": {"public.orders": {"silver_version": 7}}});
    ingester.finish_cut(id, &answer).await.unwrap();
    let done = requester.wait_cut(id, CutState::Done, LIMIT).await.unwrap();
    assert_eq!(done.answer, Some(answer.clone()));
    assert_eq!(ingester.poll_open_cuts("shop").await.unwrap(), []);
    requester.withdraw_cut(id).await.unwrap();
    let kept = requester.wait_cut(id, CutState::Done, LIMIT).await.unwrap();
    assert_eq!(kept.answer, Some(answer), "withdrawing after the answer takes nothing away");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_dead_requester_holds_nobody() {
    let (_folder, server) = server().await;
    let url = server.url("postgres");
    let ingester = Control::open(&url).await.unwrap();
    let requester = Control::open(&url).await.unwrap();
    let living = Control::open(&url).await.unwrap();
    let id = requester.announce_cut("shop").await.unwrap();
    let other = living.announce_cut("shop").await.unwrap();
    ingester.mark_paused(id).await.unwrap();
    drop(requester);
    let began = std::time::Instant::now();
    loop {
        let open = ingester.poll_open_cuts("shop").await.unwrap();
        if open.iter().map(|cut| cut.id).eq([other]) {
            break;
        }
        assert!(began.elapsed() < LIMIT, "still held: {open:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = living.wait_cut(id, CutState::Done, LIMIT).await.unwrap_err();
    assert!(matches!(&error, Error::CutFailed { reason, .. } if reason.contains("gone")), "{error}");
    let late = ingester.mark_paused(id).await.unwrap_err();
    assert!(matches!(late, Error::CutNotIn { .. }), "{late}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_cut_can_fail_time_out_and_be_withdrawn() {
    let (_folder, server) = server().await;
    let url = server.url("postgres");
    let requester = Control::open(&url).await.unwrap();
    let ingester = Control::open(&url).await.unwrap();

    let id = requester.announce_cut("shop").await.unwrap();
    ingester.fail_cut(id, "the slot is lost").await.unwrap();
    let error = requester.wait_cut(id, CutState::Paused, LIMIT).await.unwrap_err();
    assert!(matches!(&error, Error::CutFailed { reason, .. } if reason == "the slot is lost"), "{error}");

    let id = requester.announce_cut("shop").await.unwrap();
    let error = requester.wait_cut(id, CutState::Paused, Duration::from_millis(120)).await.unwrap_err();
    assert!(matches!(error, Error::CutTimeout { state: CutState::Announced, .. }), "{error}");
    requester.withdraw_cut(id).await.unwrap();
    assert_eq!(ingester.poll_open_cuts("shop").await.unwrap(), []);
    let error = requester.wait_cut(id + 1, CutState::Paused, LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::CutNotIn { .. }), "never announced: {error}");

    // Both sides go on after the control database was restarted.
    server.restart().await.unwrap();
    let id = requester.announce_cut("shop").await.unwrap();
    assert_eq!(ingester.poll_open_cuts("shop").await.unwrap()[0].id, id);
    server.stop().await.unwrap();
}
