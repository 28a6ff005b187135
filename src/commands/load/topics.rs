//! `lakeward load topics`

mod chunk;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::Utc;
use futures::future::try_join_all;
use lakeward_change::TableId;
use lakeward_events::{Change, ContractFile, EventsError, Form, TopicReader, Topics, names};
use lakeward_lakehouse::{Lake, LakeError, LoadedLetters, LoadedTable, Period, Progress, SourceRef};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::chunk::Chunk;
use super::{CHANGES, INVALID, SCHEMA, SOURCE, TOPIC, topic_rows};
use crate::{
    config::Config,
    events::{blocking, topics},
    exit::{Interrupted, Outcome, is_retryable},
    session::{LakePlace, lake, serve_metrics, shutdown_token},
};

/// After a failure, and before it is looked again for a topic that is not there.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether a topic has more partitions by now.
const LOOK: Duration = Duration::from_secs(30);

/// Takes in three topics: `tracking.user_behavior.validated` and `tracking_postgres_cdc.public.events`, into bronze's tables
/// `topic` and `changes`, and into `silver/events/tracking/events` where an event is once, by whatever way it comes; and
/// `tracking.user_behavior.invalid`, as dead letters. How far it is stands in the lake, so that it may be killed at any
/// moment. Stop it with Ctrl-C. docs/events.md has the rest.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: LakePlace,
    /// Kafka, host:port [default: from the configuration]
    #[arg(long, value_name = "HOSTS")]
    brokers: Option<String>,
    /// Stop once all that is in the topics is in the lake
    #[arg(long)]
    until_idle: bool,
    /// Where Prometheus finds /metrics [default: from the configuration, nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

/// What was done of a topic.
#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    messages: u64,
    dead_letters: u64,
}

/// A topic and where it goes.
struct Road {
    topic: String,
    /// Bronze's, or what the dead letters are of.
    table: &'static str,
    kind: Kind,
}

enum Kind {
    Events(Form, ContractFile),
    Invalid,
}

/// What a topic goes into.
enum Into {
    Table(Box<LoadedTable>),
    Letters(LoadedLetters),
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    let Arguments { place, brokers, until_idle, metrics } = arguments;
    place.apply(&mut config);
    config.events.brokers = brokers.or(config.events.brokers);
    let events = &config.events;
    let checked = ContractFile::open(events.contract.as_deref())?;
    let changes = ContractFile::of_changes(events.changes_contract.as_deref())?;
    let road = |topic: &String, table, kind| Road { topic: topic.clone(), table, kind };
    let roads = [
        road(&events.validated_topic, TOPIC, Kind::Events(Form::Checked, checked)),
        road(&events.changes_topic, CHANGES, Kind::Events(Form::Change, changes)),
        road(&events.invalid_topic, INVALID, Kind::Invalid),
    ];
    let shutdown = shutdown_token()?;
    serve_metrics(metrics.or(events.metrics_address), &shutdown).await?;
    names::describe();
    let (topics, lake) = (topics(&config), lake(&config)?);
    let every = Duration::from_secs_f64(config.ingest.flush_seconds);
    let (most_letters, period) = (config.events.most_letters, config.events.partition);
    let follower = Follower { topics, lake, every, most_letters, period, until_idle, shutdown };
    let reports = try_join_all(roads.into_iter().map(|road| follower.follow(road))).await?;
    if json {
        println!("{}", serde_json::to_string(&reports)?);
    } else {
        for Report { topic, messages, dead_letters } in &reports {
            println!("{topic}: {messages} messages, {dead_letters} of them dead letters");
        }
    }
    if until_idle && follower.shutdown.is_cancelled() {
        return Err(Interrupted.into());
    }
    Ok(Outcome::Done)
}

struct Follower {
    topics: Topics,
    lake: Arc<Lake>,
    /// From one commit to the next.
    every: Duration,
    /// Share of messages.
    most_letters: f64,
    /// Of silver's partitions.
    period: Period,
    until_idle: bool,
    shutdown: CancellationToken,
}

impl Follower {
    /// Until all is told to end, over whatever passes.
    async fn follow(&self, mut road: Road) -> Result<Report> {
        let mut report = Report { topic: road.topic.clone(), messages: 0, dead_letters: 0 };
        while !self.shutdown.is_cancelled() {
            match self.session(&mut road, &mut report).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) if is_passing(&error) => {
                    tracing::warn!("topic {} is not taken in; trying again: {error:#}", road.topic);
                    self.shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
                Err(error) => return Err(error.context(format!("topic {} cannot be taken in", road.topic))),
            }
        }
        Ok(report)
    }

    /// From where the lake is. Whether that was all, or the topic is to be opened anew.
    async fn session(&self, road: &mut Road, report: &mut Report) -> Result<bool> {
        let (topics, topic) = (self.topics.clone(), road.topic.clone());
        let opened = blocking(move || TopicReader::open(&topics, &topic)).await?;
        let Some(mut reader) = opened else {
            if !self.until_idle {
                self.shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
            return Ok(self.until_idle);
        };
        let source = SourceRef { name: SOURCE.to_owned(), system_id: reader.cluster().to_owned() };
        let mut into = Into::open(road, self.period, &self.lake, &source).await?;
        let done = into.done(&reader).await?;
        reader = blocking(move || reader.start(&done).map(|()| reader)).await?;
        let mut looked = Instant::now();
        while !self.shutdown.is_cancelled() {
            let (decoder, every) = (road.decoder(), self.every);
            let (returned, chunk) = blocking(move || {
                let chunk = Chunk::read(&mut reader, decoder, every)?;
                Ok::<_, anyhow::Error>((reader, chunk))
            })
            .await?;
            reader = returned;
            if chunk.ends.is_empty() {
                metrics::gauge!(names::LOADED_LAG, "topic" => road.topic.clone()).set(0.0);
                if self.until_idle && reader.is_at_end() {
                    return Ok(true);
                }
            } else {
                if matches!(into, Into::Table(_)) {
                    chunk.hold_back(self.most_letters)?;
                }
                into.load(&chunk, Utc::now().timestamp_micros()).await?;
                report.messages += chunk.messages;
                report.dead_letters += chunk.letters.len() as u64;
                metrics::counter!(names::LOADED, "topic" => road.topic.clone()).increment(chunk.messages);
                let oldest = chunk.oldest.unwrap_or_default();
                let age = (Utc::now().timestamp_millis() - oldest) as f64 / 1e3;
                metrics::gauge!(names::LOADED_LAG, "topic" => road.topic.clone()).set(age.max(0.0));
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                let (returned, grown) = blocking(move || {
                    let grown = reader.has_grown()?;
                    Ok::<_, EventsError>((reader, grown))
                })
                .await?;
                reader = returned;
                if grown {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl Road {
    /// How messages are read now; none if they all are dead letters. A contract that has changed holds from here on.
    fn decoder(&mut self) -> chunk::Decoder {
        let table = TableId::new(SCHEMA, self.table);
        let rows = match &mut self.kind {
            Kind::Events(form, contract) => {
                if let Change::Refused(error) = contract.refresh() {
                    tracing::error!("{error}\nthe contract of before stays in use");
                }
                Some((*form, Arc::clone(contract.contract())))
            }
            Kind::Invalid => None,
        };
        chunk::Decoder { topic: self.topic.clone(), table, rows }
    }
}

impl Into {
    async fn open(road: &Road, period: Period, lake: &Lake, source: &SourceRef) -> Result<Self, LakeError> {
        if matches!(road.kind, Kind::Invalid) {
            return Ok(Self::Letters(LoadedLetters::new(lake, source, TableId::new(SCHEMA, road.table))));
        }
        Ok(Self::Table(Box::new(LoadedTable::open(lake, source, topic_rows(road.table, period)).await?)))
    }

    async fn done(&self, reader: &TopicReader) -> Result<Progress, LakeError> {
        let partitions: Vec<i32> = reader.partitions().collect();
        match self {
            Self::Table(table) => table.done(partitions).await,
            Self::Letters(letters) => letters.done(partitions).await,
        }
    }

    async fn load(&mut self, chunk: &Chunk, now: i64) -> Result<(), LakeError> {
        match self {
            Self::Letters(letters) => letters.keep(&chunk.ends, &chunk.letters, now).await,
            Self::Table(table) => {
                table.load(&chunk.ends, &chunk.rows, &chunk.letters, now).await?;
                if let Err(error) = table.tidy(now).await {
                    tracing::warn!("small files of events stay: {:#}", anyhow::Error::new(error));
                }
                Ok(())
            }
        }
    }
}

/// Another process that takes in the same commits in between: what it has done is done.
fn is_passing(error: &anyhow::Error) -> bool {
    let other = |cause: &LakeError| matches!(cause, LakeError::OtherWriter { .. });
    is_retryable(error) || error.chain().any(|cause| cause.downcast_ref().is_some_and(other))
}
