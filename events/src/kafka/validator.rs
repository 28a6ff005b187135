//! `lakeward validate`: from one topic into two, exactly once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    names,
    options::Topics,
    output::Judged,
    session::{Session, is_fenced},
};
use crate::{Change, Contract, ContractFile, EventsError};

/// How often it is looked whether the contract's file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// After an error: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// One who is fenced so often without being at work for a minute between has a rival of the same name.
const FENCED: u32 = 3;
const AT_WORK: Duration = Duration::from_secs(60);

/// Reads the raw topic, sends what conforms to the contract to one topic and the rest to another, each message once: what
/// is written and how far was read are one transaction of Kafka's.
pub struct Validator {
    topics: Topics,
    contract: ContractFile,
    looked: Instant,
    tally: Tally,
}

/// What was moved by a validator since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub valid: u64,
    pub invalid: u64,
    pub transactions: u64,
}

impl Validator {
    pub fn new(topics: Topics, contract: ContractFile) -> Self {
        Self { topics, contract, looked: Instant::now(), tally: Tally::default() }
    }

    /// Works until `shutdown`, or with `until_idle` until its partitions are read to their ends. Blocks its thread. After
    /// `shutdown` the transaction under way is committed.
    ///
    /// # Errors
    /// Only what does not pass: settings and permissions, a message too large for the other topics, a rival.
    pub fn run(mut self, until_idle: bool, shutdown: &CancellationToken) -> Result<Tally, EventsError> {
        names::describe();
        tell_contract(self.contract.contract(), true);
        let (mut pause, mut fenced) = (PAUSES.0, 0);
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let before = self.tally.transactions;
            let error = match self.session(until_idle, shutdown) {
                Ok(()) => return Ok(self.tally),
                Err(error) => error,
            };
            if began.elapsed() > AT_WORK {
                fenced = 0;
            }
            if self.tally.transactions > before {
                pause = PAUSES.0;
            }
            fenced += u32::from(is_fenced(&error));
            if fenced >= FENCED {
                return Err(EventsError::Fenced { instance: self.topics.instance });
            }
            if !error.is_retryable() {
                return Err(error);
            }
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "events are not moved; trying again in {:.1} s",
                pause.as_secs_f64()
            );
            sleep(pause, shutdown);
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(self.tally)
    }

    fn session(&mut self, until_idle: bool, shutdown: &CancellationToken) -> Result<(), EventsError> {
        self.topics.ensure()?;
        let topics = self.topics.clone();
        let mut session = Session::open(&topics)?;
        while !shutdown.is_cancelled() {
            self.look();
            match session.transaction(self.contract.contract())? {
                Some(judged) => self.count(&judged),
                None if until_idle && session.is_idle() => break,
                None => metrics::gauge!(names::LAG).set(0.0),
            }
        }
        Ok(())
    }

    fn count(&mut self, judged: &Judged) {
        self.tally.transactions += 1;
        self.tally.valid += judged.valid;
        self.tally.invalid += judged.invalid;
        metrics::counter!(names::VALID).increment(judged.valid);
        metrics::counter!(names::INVALID).increment(judged.invalid);
        for (reason, count) in &judged.broken {
            let labels = [("field", reason.field.to_string()), ("rule", reason.rule.to_owned())];
            metrics::counter!(names::BROKEN, &labels).increment(*count);
        }
    }

    /// Takes a new contract, between two transactions.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let before = Arc::clone(self.contract.contract());
        match self.contract.refresh() {
            Change::None => return,
            Change::Taken => {
                let contract = self.contract.contract();
                tell_contract(&before, false);
                tell_contract(contract, true);
                tracing::warn!("contract {} {} is in use", contract.id(), contract.version());
            }
            Change::Refused(error) => {
                tracing::error!("{error}\nversion {} of the contract stays in use", before.version());
                metrics::gauge!(names::CONTRACT_REFUSED).set(1.0);
                return;
            }
        }
        metrics::gauge!(names::CONTRACT_REFUSED).set(0.0);
    }
}

fn tell_contract(contract: &Contract, in_use: bool) {
    let labels = [("contract", contract.id().to_owned()), ("version", contract.version().to_owned())];
    metrics::gauge!(names::CONTRACT, &labels).set(f64::from(u8::from(in_use)));
    if let Some(latency) = contract.latency().filter(|_| in_use) {
        metrics::gauge!(names::LAG_PROMISED).set(latency.as_secs_f64());
    }
}

fn sleep(pause: Duration, shutdown: &CancellationToken) {
    let began = Instant::now();
    while began.elapsed() < pause && !shutdown.is_cancelled() {
        std::thread::sleep(Duration::from_millis(50));
    }
}
