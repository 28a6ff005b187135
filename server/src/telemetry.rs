//! The server's Prometheus metrics: names, buckets and the process's one recorder.

use std::sync::OnceLock;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Seconds from the request's head to the answer's head, by method, route and status.
pub(crate) const REQUEST_SECONDS: &str = "lakeward_http_request_duration_seconds";
/// Lists answered, by kind of list and by whether they fell back to popularity.
pub(crate) const LISTS: &str = "lakeward_recommendation_lists_total";
/// Attempts to take a new model into use, by kind and outcome.
pub(crate) const MODEL_LOADS: &str = "lakeward_model_loads_total";
/// Behaviour events that were sent, by outcome: taken, refused, failed.
pub(crate) const EVENTS: &str = "lakeward_events_received_total";
/// Entities whose features were answered, by the store that had them.
pub(crate) const FEATURES: &str = "lakeward_features_answered_total";
/// Live streams that are open.
pub(crate) const STREAMS: &str = "lakeward_live_streams";

const LATENCY_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What takes longer than requests: the pipeline's work.
const SLOW: [&str; 3] = ["lakeward_freshness_seconds", "lakeward_flush_seconds", "lakeward_commit_seconds"];
const SLOW_BUCKETS: [f64; 13] = [0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 300.0, 1800.0];

/// Installs the process's metrics recorder at the first call; later calls find the same one.
///
/// # Errors
/// Another recorder is installed in this process, so ours would see nothing.
pub fn install_metrics() -> Result<PrometheusHandle, MetricsError> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE.get_or_init(|| install().map_err(|error| error.to_string())).clone().map_err(MetricsError)
}

/// The metrics recorder could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the metrics recorder: {0}")]
pub struct MetricsError(String);

fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)?;
    for name in SLOW {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &SLOW_BUCKETS)?;
    }
    let handle = builder.install_recorder()?;
    describe_histogram!(
        REQUEST_SECONDS,
        metrics::Unit::Seconds,
        "time to answer a request, by method, route and status"
    );
    describe_counter!(LISTS, "lists of products answered, by kind and by fallback");
    describe_counter!(MODEL_LOADS, "attempts to take a model into use, by kind and outcome");
    describe_counter!(EVENTS, "behaviour events sent to the API, by outcome");
    describe_counter!(FEATURES, "entities whose features were answered, by store (redis, memory)");
    describe_gauge!(STREAMS, "live streams that are open");
    Ok(handle)
}
