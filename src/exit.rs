//! Exit codes: 0 done, 1 retryable (or a difference found), 2 permanent.

use std::process::ExitCode;

use lakeward_cdc::CdcError;
use lakeward_events::EventsError;
use lakeward_features::FeatureError;
use lakeward_pipeline::PipelineError;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It ran to its end and found what it looked for: a difference, a server that is not ready.
    Found,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Found => Self::from(1),
        }
    }
}

/// The work was stopped by Ctrl-C or SIGTERM before it was whole; nothing was lost.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the end; run the same command again")]
pub struct Interrupted;

/// Prints the error with its causes, once, and gives the exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let retryable = is_retryable(error);
    if json {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        println!("{}", serde_json::json!({ "error": causes.join(": "), "retryable": retryable }));
    }
    eprintln!("error: {error:#}");
    ExitCode::from(if retryable { 1 } else { 2 })
}

/// Whether trying again later can succeed without anybody changing anything.
pub fn is_retryable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Interrupted>()
            || cause.downcast_ref().is_some_and(PipelineError::is_retryable)
            || cause.downcast_ref().is_some_and(CdcError::is_retryable)
            || cause.downcast_ref().is_some_and(lakeward_postgres::Error::is_retryable)
            || cause.downcast_ref().is_some_and(lakeward_lakehouse::LakeError::is_retryable)
            || cause.downcast_ref().is_some_and(lakeward_simulator::Error::is_retryable)
            || cause.downcast_ref().is_some_and(EventsError::is_retryable)
            || cause.downcast_ref().is_some_and(FeatureError::is_retryable)
            || cause.downcast_ref().is_some_and(lakeward_online::OnlineError::is_retryable)
            || cause.downcast_ref().is_some_and(lakeward_connect::ConnectError::is_retryable)
    })
}
