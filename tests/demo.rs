//! The demo on the made-up shop, and on real baskets where they are at hand.

use crate::stand::{json, lakeward, succeed};

fn once(arguments: &[&str]) -> serde_json::Value {
    let mut command = lakeward(&["demo", "--once", "--address", "127.0.0.1:0"]);
    command.args(arguments);
    json(&succeed(command))
}

#[test]
fn the_made_up_shop_from_end_to_end() {
    let report = once(&["--synthetic"]);
    assert_eq!(report["untrue"], serde_json::json!([]), "{report}");
    assert_eq!(report["reconcile_differences"], 0);
    assert_eq!(report["freshness"]["orders"], 200);
    assert!(report["reconciled_tables"].as_u64().expect("a count") >= 5);
}

#[test]
fn a_real_grocers_year_from_end_to_end() {
    let Some(wheel) =
        std::env::var_os("LAKEWARD_COMPLETE_JOURNEY").filter(|wheel| std::path::Path::new(wheel).exists())
    else {
        eprintln!("skipped: LAKEWARD_COMPLETE_JOURNEY names no file; `make test` fetches it");
        return;
    };
    let report = once(&["--wheel", wheel.to_str().expect("a path of plain letters")]);
    assert_eq!(report["untrue"], serde_json::json!([]), "{report}");
    assert!(report["order_lines"].as_u64().expect("a count") > 1_300_000);
}
