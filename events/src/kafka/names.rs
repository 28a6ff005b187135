//! What metrics and headers are called.

/// Events that conform, counted when their transaction is committed.
pub const VALID: &str = "lakeward_events_valid_total";
/// Events that do not, once for each `field` and `rule` that they break.
pub const BROKEN: &str = "lakeward_events_broken_rules_total";
/// Events that do not, each once.
pub const INVALID: &str = "lakeward_events_invalid_total";
/// 1 for the contract in use, by `contract` and `version`; 0 for those of before.
pub const CONTRACT: &str = "lakeward_events_contract";
/// 1 while the contract's file cannot be used and the one of before is.
pub const CONTRACT_REFUSED: &str = "lakeward_events_contract_refused";
/// Transactions committed.
pub const TRANSACTIONS: &str = "lakeward_events_transactions_total";
/// How old the oldest event of the last transaction was when it was committed, by Kafka's timestamps.
pub const LAG: &str = "lakeward_events_lag_seconds";
/// What the contract promises of it (`slaProperties`, `latency`).
pub const LAG_PROMISED: &str = "lakeward_events_lag_promised_seconds";
/// Events that Kafka removed before they were read.
pub const LOST: &str = "lakeward_events_lost_total";

/// Messages taken into the lake, by `topic`.
pub const LOADED: &str = "lakeward_events_loaded_total";
/// How old the oldest message of the last commit was then, by Kafka's timestamps and by `topic`.
pub const LOADED_LAG: &str = "lakeward_events_loaded_lag_seconds";

/// Checked events taken into customers' sessions.
pub const TRACKED: &str = "lakeward_events_tracked_total";
/// How old the newest of them was then, by Kafka's timestamps.
pub const TRACKED_LAG: &str = "lakeward_events_tracked_lag_seconds";

/// JSON: the fields and rules that are broken, `[{"field":"price","rule":"minimum"}]`.
pub const REASONS: &str = "lakeward-reasons";
/// The contract that decided, as `id:version`; on both topics.
pub const CONTRACT_HEADER: &str = "lakeward-contract";
/// Where the message was read.
pub const TOPIC: &str = "lakeward-topic";
pub const PARTITION: &str = "lakeward-partition";
pub const OFFSET: &str = "lakeward-offset";

/// Tells the metrics recorder what they mean.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_counter!(VALID, "events that conform to the contract");
    describe_counter!(INVALID, "events that do not conform to the contract");
    describe_counter!(BROKEN, "rules that events broke, by field and rule");
    describe_gauge!(CONTRACT, "1 for the contract in use, by id and version");
    describe_gauge!(CONTRACT_REFUSED, "1 while the contract's file cannot be used, and the one of before is");
    describe_counter!(TRANSACTIONS, "transactions of events committed");
    describe_gauge!(LAG, Unit::Seconds, "age of the oldest event of the last transaction at its commit");
    describe_gauge!(LAG_PROMISED, Unit::Seconds, "the latency that the contract promises");
    describe_counter!(LOADED, "messages taken into the lake");
    describe_gauge!(LOADED_LAG, Unit::Seconds, "age of the oldest message of the last commit into the lake");
    describe_counter!(TRACKED, "checked events taken into customers' sessions");
    describe_gauge!(
        TRACKED_LAG,
        Unit::Seconds,
        "age of the newest event when it was taken into its customer's session"
    );
    describe_counter!(LOST, "events that Kafka removed before they were read");
}
