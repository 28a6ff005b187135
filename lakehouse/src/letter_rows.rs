//! The rows of `ops/dead_letters`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
};
use deltalake::{
    datafusion::logical_expr::{Expr, cast, lit},
    protocol::DeltaOperation,
};
use lakeward_change::{DeadLetter, Op, Position, TableId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Lake, LakeError, Layer, SourceRef, Watermark,
    canonical::hex,
    commit::{Work, commit},
    condition::column,
    rewrite::Rewritten,
    table::{Definition, Partition, Table},
};

pub(crate) const EPOCH: &str = "epoch";
pub(crate) const COMMIT: &str = "commit_lsn";
pub(crate) const ORDINAL: &str = "ordinal";
const SOURCE: &str = "source";
const SYSTEM: &str = "system_id";
const TABLE_SCHEMA: &str = "table_schema";
const TABLE_NAME: &str = "table_name";
const FILE_BYTES: u64 = 32 << 20;
/// Files that a replay has replaced are removed after so long.
const GRACE: Duration = Duration::from_secs(3600);

/// What became of a letter that was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replayed {
    /// Its change is in silver.
    Applied,
    /// A later change of the row, or a later copy, had come already: there was nothing to do.
    Superseded,
}

impl Replayed {
    const ALL: [Self; 2] = [Self::Applied, Self::Superseded];
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Applied => "applied",
            Self::Superseded => "superseded",
        })
    }
}

/// A letter as the lake has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// Made of its table and position: 16 hexadecimal digits.
    pub id: String,
    pub source: SourceRef,
    pub letter: DeadLetter,
    /// Microseconds UTC, as are all times here.
    pub set_aside_at: i64,
    pub replayed: Option<(i64, Replayed)>,
    /// How often its replay was tried.
    pub attempts: i64,
    /// When it was decided that it stays as it is; only who names it replays it.
    pub parked_at: Option<i64>,
}

/// How many letters of a table are open, by reason.
pub type OpenLetters = BTreeMap<String, u64>;

pub(crate) fn path() -> String {
    format!("{}/dead_letters", Layer::Ops)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("id", DataType::Utf8),
        (SYSTEM, DataType::Utf8),
        (TABLE_SCHEMA, DataType::Utf8),
        (TABLE_NAME, DataType::Utf8),
        (EPOCH, DataType::Int64),
        (COMMIT, DataType::Int64),
        (ORDINAL, DataType::Int64),
        ("lsn", DataType::Int64),
        ("xid", DataType::Int64),
        ("committed_at", time.clone()),
        ("op", DataType::Utf8),
        ("reason", DataType::Utf8),
        ("message", DataType::Binary),
        ("relation", DataType::Binary),
        ("set_aside_at", time.clone()),
        ("replayed_at", time.clone()),
        ("outcome", DataType::Utf8),
        ("attempts", DataType::Int64),
        ("parked_at", time),
        (SOURCE, DataType::Utf8),
    ];
    Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

pub(crate) fn definition() -> Definition {
    Definition {
        schema: schema(),
        partition: Some(SOURCE),
        statistics: Some([TABLE_SCHEMA, TABLE_NAME, EPOCH, COMMIT, ORDINAL].map(str::to_owned).to_vec()),
        target_file_bytes: FILE_BYTES,
        captured: None,
    }
}

fn id(source: &SourceRef, letter: &DeadLetter) -> String {
    let TableId { schema, name } = &letter.table;
    let of = format!("{:?} {:?} {schema:?} {name:?} {:?}", source.name, source.system_id, letter.position);
    hex(&Sha256::digest(of.as_bytes())[..8])
}

/// New letters, set aside `now`.
pub(crate) fn batch(source: &SourceRef, letters: &[DeadLetter], now: i64) -> Result<RecordBatch, LakeError> {
    let stored = letters.iter().map(|letter| StoredLetter {
        id: id(source, letter),
        source: source.clone(),
        letter: letter.clone(),
        set_aside_at: now,
        replayed: None,
        attempts: 0,
        parked_at: None,
    });
    stored_batch(&stored.collect::<Vec<_>>())
}

fn stored_batch(letters: &[StoredLetter]) -> Result<RecordBatch, LakeError> {
    let texts = |pick: fn(&StoredLetter) -> Option<&str>| -> ArrayRef {
        Arc::new(letters.iter().map(pick).collect::<StringArray>())
    };
    let numbers = |pick: fn(&StoredLetter) -> Option<i64>| -> ArrayRef {
        Arc::new(letters.iter().map(pick).collect::<Int64Array>())
    };
    let times = |pick: fn(&StoredLetter) -> Option<i64>| -> ArrayRef {
        Arc::new(letters.iter().map(pick).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let bytes = |pick: fn(&StoredLetter) -> &[u8]| -> ArrayRef {
        Arc::new(BinaryArray::from_iter_values(letters.iter().map(pick)))
    };
    let outcomes = letters.iter().map(|l| l.replayed.map(|(_, outcome)| outcome.to_string()));
    let columns = vec![
        texts(|l| Some(&l.id)),
        texts(|l| Some(&l.source.system_id)),
        texts(|l| Some(&l.letter.table.schema)),
        texts(|l| Some(&l.letter.table.name)),
        numbers(|l| Some(l.letter.position.epoch)),
        numbers(|l| Some(l.letter.position.commit)),
        numbers(|l| Some(l.letter.position.order)),
        numbers(|l| Some(l.letter.lsn)),
        numbers(|l| l.letter.xid),
        times(|l| l.letter.committed_at),
        texts(|l| Some(l.letter.op.letter())),
        texts(|l| Some(&l.letter.reason)),
        bytes(|l| &l.letter.message),
        bytes(|l| &l.letter.relation),
        times(|l| Some(l.set_aside_at)),
        times(|l| l.replayed.map(|(at, _)| at)),
        Arc::new(outcomes.collect::<StringArray>()) as ArrayRef,
        numbers(|l| Some(l.attempts)),
        times(|l| l.parked_at),
        texts(|l| Some(&l.source.name)),
    ];
    RecordBatch::try_new(schema(), columns).map_err(LakeError::arrow(&path()))
}

pub(crate) fn of_table(source: &SourceRef, table: &TableId) -> Expr {
    column(SOURCE)
        .eq(lit(&source.name))
        .and(column(SYSTEM).eq(lit(&source.system_id)))
        .and(column(TABLE_SCHEMA).eq(lit(&table.schema)))
        .and(column(TABLE_NAME).eq(lit(&table.name)))
}

/// Letters in order of table and position; without their bytes if those are not wanted.
pub(crate) async fn read(
    lake: &Lake,
    stored: &Table,
    wanted: Option<Expr>,
    bytes: bool,
) -> Result<Vec<StoredLetter>, LakeError> {
    let failed = || LakeError::query(&stored.path, "read");
    let session = lake.session();
    let schema = schema();
    let columns = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Binary if !bytes => cast(lit(Vec::<u8>::new()), DataType::Binary).alias(field.name()),
        // A partition's value comes as a dictionary.
        data_type => cast(column(field.name()), data_type.clone()).alias(field.name()),
    });
    let order = [SOURCE, SYSTEM, TABLE_SCHEMA, TABLE_NAME, EPOCH, COMMIT, ORDINAL];
    let batches = session
        .read_table(stored.provider(&session).await?)
        .and_then(|rows| match wanted {
            Some(wanted) => rows.filter(wanted),
            None => Ok(rows),
        })
        .and_then(|rows| rows.select(columns.collect::<Vec<_>>()))
        .and_then(|rows| rows.sort(order.map(|name| column(name).sort(true, false)).to_vec()))
        .map_err(failed())?
        .collect()
        .await
        .map_err(failed())?;
    let rows = concat_batches(&schema, &batches).map_err(LakeError::arrow(&stored.path))?;
    (0..rows.num_rows()).map(|row| letter(&rows, row)).collect()
}

/// One row of the schema.
fn letter(rows: &RecordBatch, row: usize) -> Result<StoredLetter, LakeError> {
    let damaged =
        |what: &str| LakeError::Damaged { table: path(), reason: format!("a letter lacks its {what}") };
    let at = |name: &str| {
        rows.column_by_name(name).filter(|column| column.is_valid(row)).ok_or_else(|| damaged(name))
    };
    let text = |name: &str| Ok::<_, LakeError>(at(name)?.as_string::<i32>().value(row).to_owned());
    let bytes = |name: &str| Ok::<_, LakeError>(at(name)?.as_binary::<i32>().value(row).to_vec());
    let number = |name: &str| Ok::<_, LakeError>(at(name)?.as_primitive::<Int64Type>().value(row));
    let time =
        |name: &str| Ok::<_, LakeError>(at(name)?.as_primitive::<TimestampMicrosecondType>().value(row));
    let outcome = text("outcome").ok();
    let outcome = Replayed::ALL.into_iter().find(|known| Some(known.to_string()) == outcome);
    Ok(StoredLetter {
        id: text("id")?,
        source: SourceRef { name: text(SOURCE)?, system_id: text(SYSTEM)? },
        letter: DeadLetter {
            table: TableId { schema: text(TABLE_SCHEMA)?, name: text(TABLE_NAME)? },
            position: Position { epoch: number(EPOCH)?, commit: number(COMMIT)?, order: number(ORDINAL)? },
            op: Op::from_letter(&text("op")?).ok_or_else(|| damaged("operation"))?,
            lsn: number("lsn")?,
            xid: number("xid").ok(),
            committed_at: time("committed_at").ok(),
            reason: text("reason")?,
            message: bytes("message")?,
            relation: bytes("relation")?,
        },
        set_aside_at: time("set_aside_at")?,
        replayed: time("replayed_at").ok().zip(outcome),
        attempts: number("attempts")?,
        parked_at: time("parked_at").ok(),
    })
}

fn is_of(partition: &Partition, source: &str) -> bool {
    partition.get(SOURCE).is_some_and(|value| value.as_deref() == Some(source))
}

impl Lake {
    /// The letters of a source, or of all, in order of table and position; without their bytes if those are not wanted.
    ///
    /// # Errors
    /// If the store fails or a row is damaged.
    pub async fn dead_letters(
        &self,
        source: Option<&str>,
        bytes: bool,
    ) -> Result<Vec<StoredLetter>, LakeError> {
        let stored = Table::open(self, &path()).await?;
        if stored.state.is_none() {
            return Ok(Vec::new());
        }
        read(self, &stored, source.map(|source| column(SOURCE).eq(lit(source))), bytes).await
    }

    /// How many letters are open at a cut of a source, by table and reason: neither replayed by now, nor of another copy
    /// than the one that the cut has.
    ///
    /// # Errors
    /// If the store fails or a row is damaged.
    pub async fn open_letters(&self, cut: &Watermark) -> Result<BTreeMap<TableId, OpenLetters>, LakeError> {
        let mut open: BTreeMap<TableId, OpenLetters> = BTreeMap::new();
        for stored in self.dead_letters(Some(&cut.source), false).await? {
            let letter = stored.letter;
            let Position { epoch, commit, order } = letter.position;
            let current = cut.tables.get(&letter.table).is_some_and(|table| table.epoch == epoch);
            // Copied rows, whose order is negative, committed before the snapshot.
            let before = commit < cut.lsn.as_i64() + i64::from(order < 0);
            if current && before && stored.replayed.is_none() && stored.source.system_id == cut.system_id {
                *open.entry(letter.table).or_default().entry(letter.reason).or_default() += 1;
            }
        }
        Ok(open)
    }

    /// Notes that letters' replay was tried, and what became of them, unless that is noted already; `None` for those that
    /// still cannot be taken in.
    ///
    /// # Errors
    /// If the store fails for longer than some retries take.
    pub async fn note_replayed(
        &self,
        source: &str,
        tried: &HashMap<String, Option<Replayed>>,
        now: i64,
    ) -> Result<(), LakeError> {
        self.note(source, now, |letter| {
            let Some(outcome) = tried.get(&letter.id) else { return false };
            letter.attempts += 1;
            letter.replayed = outcome.map(|outcome| (now, outcome));
            true
        })
        .await
    }

    /// Parks open letters of a source: they stay as they are.
    ///
    /// # Errors
    /// If the store fails for longer than some retries take.
    pub async fn park_letters(
        &self,
        source: &str,
        ids: &BTreeSet<String>,
        now: i64,
    ) -> Result<(), LakeError> {
        self.note(source, now, |letter| {
            let parks = letter.parked_at.is_none() && ids.contains(&letter.id);
            letter.parked_at = letter.parked_at.or(parks.then_some(now));
            parks
        })
        .await
    }

    /// Writes a source's letters anew if open ones change.
    async fn note(
        &self,
        source: &str,
        now: i64,
        mut change: impl FnMut(&mut StoredLetter) -> bool,
    ) -> Result<(), LakeError> {
        let _only = self.letter_files().lock().await;
        let mut stored = Table::open(self, &path()).await?;
        if stored.state.is_none() {
            return Ok(());
        }
        let mut letters = read(self, &stored, Some(column(SOURCE).eq(lit(source))), true).await?;
        let mut news = false;
        for letter in letters.iter_mut().filter(|letter| letter.replayed.is_none()) {
            news |= change(letter);
        }
        if !news {
            return Ok(());
        }
        let removed = stored.removes(|file| is_of(file, source), true)?;
        let added = stored.stage(&[stored_batch(&letters)?]).await?;
        let operation = DeltaOperation::Update { predicate: None };
        commit(&mut stored, &Work::Exchange { files: Rewritten { removed, added }, operation }, &[]).await?;
        if let Err(error) = stored.vacuum(&BTreeSet::new(), GRACE, now).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old files of letters were not removed");
        }
        Ok(())
    }
}
