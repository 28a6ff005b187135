//! Feature tables into Redis.

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{Array, AsArray, Int64Array, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::{DataType, Int64Type},
    error::ArrowError,
};
use chrono::{DateTime, SecondsFormat};
use deltalake::datafusion::{
    catalog::TableProvider,
    error::DataFusionError,
    logical_expr::lit,
    prelude::{DataFrame, SessionContext, ident},
    scalar::ScalarValue,
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::ready, stream};
use lakeward_features::{Interaction, View};
use lakeward_lakehouse::{FeatureRun, Lake};
use serde::{Deserialize, Serialize};

use crate::{
    Online, OnlineError, Result, Row, Stamp, VIEWS, keys,
    value::{interaction_rows, interactions, json_rows},
};

/// Connections that rows are written by.
const CONNECTIONS: usize = 2;
/// Rows handed to one of them at a time.
const ROWS: usize = 4_096;
/// Batches of which rows are made at a time.
const AHEAD: usize = 2;
/// Keys looked at in one step where what is no more is looked for.
const SCANNED: usize = 1_000;

/// What to bring into Redis, and how.
#[derive(Debug, Clone, Default)]
pub struct MaterializeOptions {
    /// By default [`VIEWS`].
    pub views: Option<Vec<View>>,
    /// The run as of this moment (microseconds UTC); by default the newest of each view.
    pub as_of: Option<i64>,
    /// Write all rows, whatever Redis is said to hold, and take away what the run does not have.
    pub full: bool,
}

/// What a view's part of the work did.
#[derive(Debug, Clone, Serialize)]
pub struct ViewReport {
    pub view: View,
    /// The moment that the run is for, microseconds UTC.
    pub as_of: i64,
    /// The version of the feature table.
    pub version: i64,
    /// Why it was these entities that were sent.
    pub sent: Sent,
    pub entities: u64,
    /// The others are held as of a later position.
    pub written: u64,
    /// Entities taken away by `full`, which no row of the run names.
    pub removed: u64,
    pub elapsed: Duration,
}

/// Which entities were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// None: Redis holds this very run.
    Nothing,
    /// Those whose rows differ from what Redis holds.
    Changed,
    All,
}

/// What Redis holds of a view; kept there, too, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Materialized {
    /// The version of the feature table.
    pub version: i64,
    /// The run, microseconds UTC.
    pub as_of: i64,
    /// The watermark that the run comes from, as a position.
    pub position: String,
}

impl Online {
    /// Brings runs of feature tables into Redis; `progress` hears of each view. Whatever it meets, it can be done again.
    ///
    /// # Errors
    /// A view is not kept online or has no such run, or the lake or Redis fails.
    pub async fn materialize(
        &self,
        lake: &Lake,
        options: &MaterializeOptions,
        progress: &(dyn Fn(&ViewReport) + Send + Sync),
    ) -> Result<Vec<ViewReport>> {
        let mut reports = Vec::new();
        for view in options.views.as_deref().unwrap_or(&VIEWS) {
            if !VIEWS.contains(view) {
                return Err(OnlineError::NotOnline { view: *view });
            }
            let report = self.materialize_view(lake, *view, options).await?;
            progress(&report);
            reports.push(report);
        }
        Ok(reports)
    }

    /// What Redis holds of a view by [`Self::materialize`].
    ///
    /// # Errors
    /// Redis fails.
    pub async fn materialized(&self, view: View) -> Result<Option<Materialized>> {
        let key = self.keys.loaded();
        let mut command = redis::cmd("HGET");
        command.arg(&key).arg(view.name());
        let text: Option<String> = command.query_async(&mut self.writer.clone()).await?;
        let parse = |text: String| serde_json::from_str(&text);
        text.map(parse).transpose().map_err(|error| OnlineError::Foreign { key, problem: error.to_string() })
    }

    async fn materialize_view(
        &self,
        lake: &Lake,
        view: View,
        options: &MaterializeOptions,
    ) -> Result<ViewReport> {
        let started = Instant::now();
        let run = lake.feature_run(view.name(), options.as_of).await?.ok_or_else(|| {
            let time = options.as_of.and_then(DateTime::from_timestamp_micros);
            OnlineError::NotBuilt {
                view,
                as_of: time.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            }
        })?;
        let position = run.position.ok_or(OnlineError::NoPosition { view })?;
        let stamp = Stamp { position, event_time: run.created_time };
        let now =
            Materialized { version: run.version, as_of: run.created_time, position: keys::place(position) };
        let before = if options.full { None } else { self.materialized(view).await? };
        let mut report = ViewReport {
            view,
            as_of: run.created_time,
            version: run.version,
            sent: Sent::Nothing,
            entities: 0,
            written: 0,
            removed: 0,
            elapsed: Duration::ZERO,
        };
        if before.as_ref() != Some(&now) {
            let rows;
            (report.sent, rows) = rows_to_send(lake, view, &run, before.as_ref()).await?;
            (report.entities, report.written) = self.send(view, stamp, rows).await?;
            if options.full {
                report.removed = self.remove_earlier(view, stamp).await?;
            }
            let text = serde_json::to_string(&now).unwrap_or_default();
            let mut command = redis::cmd("HSET");
            command.arg(self.keys.loaded()).arg(view.name()).arg(text);
            command.exec_async(&mut self.writer.clone()).await?;
        }
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Returns how many entities there were and how many of them were written.
    async fn send(&self, view: View, stamp: Stamp, rows: DataFrame) -> Result<(u64, u64)> {
        let query = |source| OnlineError::Query { view, source };
        let writers = (0..CONNECTIONS).map(|_| self.another_writer()).collect::<Result<Vec<_>>>()?;
        let batches = rows.execute_stream().await.map_err(query)?;
        let rows = grouped(view, batches.map_err(query));
        let written = rows
            .enumerate()
            .map(|(number, rows)| {
                let writer = &writers[number % CONNECTIONS];
                async move {
                    let rows = rows?;
                    let written = self.put_with(writer, view.into(), stamp, &rows, false).await?;
                    Ok::<_, OnlineError>((rows.len() as u64, written))
                }
            })
            .buffer_unordered(CONNECTIONS);
        written.try_fold((0, 0), async |sum, of| Ok((sum.0 + of.0, sum.1 + of.1))).await
    }

    /// Takes away what stands before the stamp: all that the run has stands there by now, or later.
    async fn remove_earlier(&self, view: View, stamp: Stamp) -> Result<u64> {
        let mut writer = self.writer.clone();
        let (mut cursor, mut removed) = (0_u64, 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.keys.pattern(view.into())).arg("COUNT").arg(SCANNED);
            let found: Vec<String>;
            (cursor, found) = scan.query_async(&mut writer).await?;
            let ids = found.iter().filter_map(|key| self.keys.id(view.into(), key));
            let rows: Vec<_> = ids.map(|entity| Row { entity, texts: Vec::new() }).collect();
            removed += self.put_with(&writer, view.into(), stamp, &rows, true).await?;
            if cursor == 0 {
                return Ok(removed);
            }
        }
    }
}

/// The entities to send, as rows with the columns `entity`, `present` (null where the run has no row of it) and those of
/// the value, the rows of one entity together.
async fn rows_to_send(
    lake: &Lake,
    view: View,
    run: &FeatureRun,
    before: Option<&Materialized>,
) -> Result<(Sent, DataFrame)> {
    let query = |source| OnlineError::Query { view, source };
    let base = lake.session();
    let session = SessionContext::new_with_config_rt(base.copied_config(), base.runtime_env());
    let provider = lake.read(&run.path, Some(run.version)).await?;
    let columns = define(&session, "now_in", view, provider, run.created_time).map_err(query)?;
    let value: String = columns.iter().map(|column| format!(", n.\"{column}\"")).collect();
    // A version that is gone tells nothing: then all is sent.
    let earlier = match before {
        Some(before) => lake.read(&run.path, Some(before.version)).await.ok().map(|held| (before, held)),
        None => None,
    };
    // Only of interactions an entity has several rows.
    let order = if view == View::UserItemInteractions { "ORDER BY 1" } else { "" };
    let (sent, sql) = match earlier {
        None => (Sent::All, format!("SELECT n.entity, n.entity AS present{value} FROM now_in n {order}")),
        Some((before, held)) => {
            define(&session, "was_in", view, held, before.as_of).map_err(query)?;
            let (sent, concerned) = if before.as_of == run.created_time {
                let changed = "(SELECT * FROM now_in EXCEPT SELECT * FROM was_in) UNION ALL \
                               (SELECT * FROM was_in EXCEPT SELECT * FROM now_in)";
                (Sent::Changed, format!("SELECT DISTINCT entity AS id FROM ({changed}) AS changed"))
            } else {
                // Another moment: every value is another one, if only in its time.
                let both = "SELECT entity AS id FROM now_in UNION SELECT entity FROM was_in";
                (Sent::All, both.to_owned())
            };
            let sql = format!(
                "SELECT c.id AS entity, n.entity AS present{value} FROM ({concerned}) AS c \
                 LEFT JOIN now_in n ON n.entity = c.id {order}"
            );
            (sent, sql)
        }
    };
    Ok((sent, session.sql(&sql).await.map_err(query)?))
}

/// Makes a run's rows a table of the session: `entity` and the columns of the value, whose names are returned.
fn define(
    session: &SessionContext,
    name: &str,
    view: View,
    provider: Arc<dyn TableProvider>,
    created_time: i64,
) -> Result<Vec<String>, DataFusionError> {
    let id = view.entity()[0];
    let value: Vec<String> = match view {
        View::UserItemInteractions => ["product_id", "interaction_score"].map(str::to_owned).to_vec(),
        _ => {
            let schema = provider.schema();
            let names = schema.fields().iter().map(|field| field.name().clone());
            names.filter(|name| ![id, "event_time", "created_time"].contains(&name.as_str())).collect()
        }
    };
    let columns = std::iter::once(ident(id).alias("entity")).chain(value.iter().map(ident));
    let time = lit(ScalarValue::TimestampMicrosecond(Some(created_time), Some("UTC".into())));
    let rows = session.read_table(provider)?.filter(ident("created_time").eq(time))?;
    session.register_table(name, rows.select(columns.collect::<Vec<_>>())?.into_view())?;
    Ok(value)
}

/// Rows of entities, some thousand at a time. They are made of batches ahead of whoever sends them, on threads of their own.
fn grouped(
    view: View,
    batches: impl stream::Stream<Item = Result<RecordBatch>> + Send,
) -> impl stream::Stream<Item = Result<Vec<Row>>> + Send {
    let columns = move |source: ArrowError| OnlineError::Columns { view, source };
    // The last entity of a batch may go on in the next one: the end is told by `None`.
    let ended = stream::once(async { Ok(None) });
    let whole = batches.map_ok(Some).chain(ended).scan(None, move |begun, batch| {
        let whole = batch.and_then(|batch| match view {
            View::UserItemInteractions => whole_entities(begun, batch).map_err(columns),
            _ => Ok(batch),
        });
        ready(Some(whole))
    });
    let made = whole.try_filter_map(|batch| ready(Ok(batch))).map_ok(move |batch| {
        let made = tokio::task::spawn_blocking(move || match view {
            View::UserItemInteractions => interactions_of(&batch),
            _ => rows_of(&batch),
        });
        made.map(move |made| made.unwrap_or_else(|panic| resume_unwind(panic.into_panic())).map_err(columns))
    });
    made.try_buffered(AHEAD).flat_map(|rows| {
        let pieces: Vec<Result<Vec<Row>>> = match rows {
            Ok(mut rows) => {
                let mut pieces = Vec::new();
                while !rows.is_empty() {
                    let rest = rows.split_off(rows.len().min(ROWS));
                    pieces.push(Ok(std::mem::replace(&mut rows, rest)));
                }
                pieces
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    })
}

/// The rows of the entities that are whole; `begun` holds those of the one that may go on. Without a batch it does not.
fn whole_entities(
    begun: &mut Option<RecordBatch>,
    batch: Option<RecordBatch>,
) -> Result<Option<RecordBatch>, ArrowError> {
    let Some(batch) = batch else { return Ok(begun.take()) };
    let all = match begun.take() {
        Some(begun) => concat_batches(&batch.schema(), [&begun, &batch])?,
        None => batch,
    };
    let entities = integers(&all, 0)?;
    let last = entities.iter().next_back();
    let held = entities.iter().rev().take_while(|entity| Some(*entity) == last).count();
    let whole = all.num_rows() - held;
    *begun = Some(all.slice(whole, held));
    Ok(Some(all.slice(0, whole)))
}

fn integers(batch: &RecordBatch, column: usize) -> Result<Int64Array, ArrowError> {
    Ok(cast(batch.column(column), &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let (entities, present) = (integers(batch, 0)?, integers(batch, 1)?);
    let value = batch.project(&(2..batch.num_columns()).collect::<Vec<_>>())?;
    let texts = json_rows(&value)?;
    let rows = texts.into_iter().enumerate().filter(|(row, _)| entities.is_valid(*row));
    Ok(rows
        .map(|(row, text)| Row {
            entity: entities.value(row),
            texts: Vec::from_iter(present.is_valid(row).then_some(text)),
        })
        .collect())
}

fn interactions_of(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let entities = integers(batch, 0)?;
    let all = entities.iter().zip(interaction_rows(batch)?).filter_map(|(entity, one)| Some((entity?, one)));
    let all: Vec<(i64, Option<Interaction>)> = all.collect();
    let of_one = all.chunk_by(|(entity, _), (next, _)| entity == next);
    let row = |rows: &[(i64, Option<Interaction>)]| Row {
        entity: rows[0].0,
        texts: interactions(rows.iter().filter_map(|(_, one)| *one).collect()),
    };
    Ok(of_one.map(row).collect())
}
