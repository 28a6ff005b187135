//! What Prometheus sees, and that documents and dashboards speak of nothing else.

use std::{collections::BTreeSet, fs, path::Path};

use crate::stand::{Background, Stand, free_port, until};

/// Metrics of ours that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let ours = words.filter(|word| word.starts_with("lakeward_"));
    let series = ["_bucket", "_count", "_sum"];
    let whole = |word: &str| series.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned();
    ours.map(whole).collect()
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the project")
}

#[test]
fn dashboards_and_alerts_name_metrics_that_are_documented() {
    let documented = named(&file("docs/metrics.md"));
    for path in ["deploy/grafana/dashboards/lakeward.json", "deploy/prometheus/alerts.yml"] {
        let used = named(&file(path));
        assert!(used.len() > 5, "{path}: {used:?}");
        assert!(used.is_subset(&documented), "{path}: {:?}", used.difference(&documented));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingester_tells_of_every_hop() {
    let stand = Stand::new().await;
    stand.sql("create table t(id int primary key)").await;
    stand.ingest_until_idle();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut command = stand.capture(&["ingest", "--metrics", &address]);
    command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.2");
    let ingester = Background::start(command);
    let metrics = async || {
        let answer = reqwest::get(format!("http://{address}/metrics")).await.ok()?;
        answer.text().await.ok()
    };
    stand.sql("insert into t select generate_series(1, 123)").await;
    let told = file("docs/metrics.md");
    let capture = told.split("## Behaviour events").next().expect("what ingesters tell");
    // They come with the first that happens, or with topics.
    let seldom =
        ["lakeward_commit_failures_total", "lakeward_dead_letters_total", "lakeward_source_repeats_total"]
            .map(str::to_owned);
    let expected: BTreeSet<String> = named(capture).difference(&seldom.into()).cloned().collect();
    until("all is told", async || {
        let Some(text) = metrics().await else { return false };
        let flushed = "lakeward_flushed_changes_total{table=\"public.t\"} 123";
        text.contains(flushed) && named(&text).is_superset(&expected)
    })
    .await;
    let text = metrics().await.expect("an answer");
    assert!(text.contains("lakeward_freshness_seconds_bucket{table=\"public.t\",le=\"60\"} 1"), "{text}");
    assert!(text.contains("lakeward_commit_seconds_count{table=\"silver/shop/public/t\"}"), "{text}");
    // The server's log goes on, since the control database is in it.
    until("the lag is small", async || {
        let Some(text) = metrics().await else { return false };
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            lines.next().unwrap_or(f64::INFINITY)
        };
        value("lakeward_source_lag_bytes ") < 10_000.0 && value("lakeward_source_lag_seconds ") < 10.0
    })
    .await;
    ingester.interrupt();
}
