//! A naive model of a Postgres table, and the changes its log would hold.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray,
        StructArray, TimestampMicrosecondArray,
    },
    datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType},
    error::ArrowError,
};
use futures::{Stream, stream};
use lakeward_change::{
    ChangeBatch, Column, ColumnType, DeadLetter, LEAF, Lsn, Op, Position, RawBuilder, TableId, TableSchema,
    raw_of, raw_text, with_raw,
};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, SourceRef, Watermark};

pub const EPOCH: i64 = 1;
/// Where the log stands when the table is copied.
pub const SNAPSHOT: i64 = 1000;
/// 2026-03-01 00:00 UTC.
pub const TAKEN_AT: i64 = 1_772_323_200_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Large: left out of updates that keep it.
    pub notes: Option<String>,
    pub price: Option<i128>,
    /// The price is not a number.
    pub nan: bool,
    pub at: Option<i64>,
}

pub fn row(notes: &str, price: i128) -> Row {
    let row = Row { notes: Some(notes.to_owned()), at: Some(TAKEN_AT + price as i64), ..Row::default() };
    row.priced(price)
}

impl Row {
    fn priced(self, price: i128) -> Self {
        let nan = price % 5 == 4;
        Self { price: (!nan).then_some(price), nan, ..self }
    }
}

pub type Rows = BTreeMap<i64, Row>;

/// A change as the log holds it.
#[derive(Debug, Clone)]
struct Logged {
    position: Position,
    /// Where it lies in the log, which is no order.
    lsn: i64,
    op: Op,
    id: Option<i64>,
    old_id: Option<i64>,
    row: Row,
    kept_notes: bool,
    /// No decoder can read it; it touches no row that the others know.
    dead: bool,
    /// The partition that was emptied.
    leaf: Option<String>,
}

/// The partition that a row is in.
fn leaf_of(id: i64) -> String {
    format!("public.products_{}", id.rem_euclid(2))
}

impl Logged {
    fn apply(&self, rows: &mut Rows) {
        if self.dead {
            return;
        }
        match (self.op, self.id) {
            (Op::Truncate, _) => {
                rows.retain(|id, _| self.leaf.as_ref().is_some_and(|leaf| *leaf != leaf_of(*id)));
            }
            (Op::Delete, Some(id)) => drop(rows.remove(&id)),
            (_, Some(id)) => {
                let before = rows.remove(&self.old_id.unwrap_or(id));
                let mut row = self.row.clone();
                if self.kept_notes {
                    row.notes = before.expect("a row that is updated is there").notes;
                }
                rows.insert(id, row);
            }
            (_, None) => panic!("a change without a key"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Source {
    pub rows: Rows,
    /// The rows that this epoch began with.
    base: Rows,
    epoch: i64,
    commit: i64,
    order: i64,
    /// Where the log ends; transactions of several sessions lie in it one across the other.
    lsn: i64,
    one_lsn: bool,
    log: Vec<Logged>,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            rows: Rows::new(),
            base: Rows::new(),
            epoch: EPOCH,
            commit: SNAPSHOT,
            order: 0,
            lsn: SNAPSHOT - 50,
            one_lsn: false,
            log: Vec::new(),
        }
    }
}

impl Source {
    pub fn with_rows(rows: impl IntoIterator<Item = (i64, Row)>) -> Self {
        let rows: Rows = rows.into_iter().collect();
        Self { base: rows.clone(), rows, ..Self::default() }
    }

    /// What is logged from here on belongs to the next transaction.
    pub fn commit(&mut self) {
        self.commit += 10;
        self.order = 0;
    }

    pub fn start_epoch(&mut self, epoch: i64) {
        self.epoch = epoch;
        self.commit();
        self.log.clear();
        self.base = self.rows.clone();
    }

    fn log(&mut self, op: Op, id: Option<i64>, old_id: Option<i64>, row: Row, kept_notes: bool) {
        self.order += 1;
        if !self.one_lsn {
            self.lsn += 1;
        }
        let position = Position { epoch: self.epoch, commit: self.commit, order: self.order };
        self.log.push(Logged {
            position,
            lsn: self.lsn,
            op,
            id,
            old_id,
            row,
            kept_notes,
            leaf: None,
            dead: false,
        });
    }

    /// What is logged within is one record of the log.
    pub fn at_one_lsn(&mut self, statement: impl FnOnce(&mut Self)) {
        self.lsn += 1;
        self.one_lsn = true;
        statement(self);
        self.one_lsn = false;
    }

    /// Postgres logs an insert before it checks its unique indexes.
    pub fn log_last_two_the_other_way_round(&mut self) {
        if let [.., a, b] = &mut self.log[..] {
            std::mem::swap(&mut a.lsn, &mut b.lsn);
        }
    }

    pub fn insert(&mut self, id: i64, row: Row) {
        if self.rows.contains_key(&id) {
            return;
        }
        self.rows.insert(id, row.clone());
        self.log(Op::Insert, Some(id), None, row, false);
    }

    /// Sets a row, under a new id if one is given and free; its notes stay and are not sent if `notes` is none.
    pub fn update(&mut self, id: i64, new_id: Option<i64>, notes: Option<&str>, price: i128) {
        let to = new_id.unwrap_or(id);
        if to != id && self.rows.contains_key(&to) {
            return;
        }
        let Some(mut row) = self.rows.remove(&id) else { return };
        row = row.priced(price);
        if let Some(notes) = notes {
            row.notes = Some(notes.to_owned());
        }
        self.rows.insert(to, row.clone());
        if notes.is_none() {
            row.notes = None;
        }
        self.log(Op::Update, Some(to), (to != id).then_some(id), row, notes.is_none());
    }

    pub fn delete(&mut self, id: i64) {
        if self.rows.remove(&id).is_some() {
            self.log(Op::Delete, Some(id), None, Row::default(), false);
        }
    }

    pub fn truncate(&mut self) {
        self.rows.clear();
        self.log(Op::Truncate, None, None, Row::default(), false);
    }

    /// Empties the partition that this row would be in.
    pub fn truncate_leaf(&mut self, id: i64) {
        self.log(Op::Truncate, None, None, Row::default(), false);
        if let Some(change) = self.log.last_mut() {
            change.leaf = Some(leaf_of(id));
            change.apply(&mut self.rows);
        }
    }

    /// A change that cannot be read.
    pub fn garble(&mut self) {
        self.log(Op::Insert, None, None, Row::default(), false);
        self.log.last_mut().unwrap().dead = true;
    }

    /// The last change cannot be read, or can be again, from now on.
    pub fn garble_last(&mut self, dead: bool) {
        self.log.last_mut().unwrap().dead = dead;
    }

    /// The changes in a range that cannot be read.
    pub fn letters(&self, range: std::ops::Range<usize>) -> Vec<DeadLetter> {
        let dead = self.log[range].iter().filter(|logged| logged.dead);
        let letter = |logged: &Logged| DeadLetter {
            table: table().id.clone(),
            position: logged.position,
            op: logged.op,
            lsn: logged.lsn,
            xid: Some(logged.position.commit * 7),
            committed_at: Some(TAKEN_AT),
            reason: "garbled".to_owned(),
            message: vec![0, 0xff],
            relation: Vec::new(),
        };
        dead.map(letter).collect()
    }

    /// How many changes can be read.
    pub fn readable(&self) -> usize {
        self.log.iter().filter(|logged| !logged.dead).count()
    }

    /// The rows as the changes up to a position leave them.
    pub fn rows_at(&self, position: Position) -> Rows {
        assert_eq!(position.epoch, self.epoch, "positions of two epochs are not compared");
        let mut rows = self.base.clone();
        for change in self.log.iter().take_while(|change| change.position <= position) {
            change.apply(&mut rows);
        }
        rows
    }

    /// Whether a change is its transaction's last so far.
    pub fn ends_transaction(&self, change: usize) -> bool {
        let commit = |change: usize| self.log.get(change).map(|change| change.position.commit);
        commit(change) != commit(change + 1)
    }

    pub fn changes(&self) -> usize {
        self.log.len()
    }

    /// The log's changes in a range, in batches of some length.
    pub fn batches(&self, range: std::ops::Range<usize>, length: usize) -> Vec<ChangeBatch> {
        let readable: Vec<Logged> = self.log[range].iter().filter(|logged| !logged.dead).cloned().collect();
        readable.chunks(length).map(batch).collect()
    }

    /// All of the log as one batch.
    pub fn all(&self) -> Vec<ChangeBatch> {
        self.batches(0..self.log.len(), usize::MAX)
    }

    /// The rows as a copy reads them.
    pub fn copy(
        &self,
        batch_rows: usize,
    ) -> impl Stream<Item = Result<RecordBatch, ArrowError>> + Send + use<> {
        let rows: Vec<Logged> = self
            .rows
            .iter()
            .map(|(id, row)| Logged {
                position: Position::default(),
                lsn: 0,
                op: Op::Read,
                id: Some(*id),
                old_id: None,
                row: row.clone(),
                kept_notes: false,
                leaf: None,
                dead: false,
            })
            .collect();
        let batches: Vec<_> = rows.chunks(batch_rows).map(|rows| Ok(batch(rows).values)).collect();
        stream::iter(batches)
    }
}

pub fn table() -> Arc<TableSchema> {
    let column =
        |name: &str, column_type| Column { name: name.into(), column_type, source_type: "any".into() };
    Arc::new(TableSchema {
        id: TableId::new("public", "products"),
        columns: vec![
            column("id", ColumnType::Int8),
            column("Notes", ColumnType::Text),
            column("price", ColumnType::Numeric { precision: 12, scale: 2 }),
            column("at", ColumnType::Timestamp { zoned: true }),
            column(LEAF, ColumnType::Text),
        ],
        key: vec![0],
        origin: Default::default(),
    })
}

fn batch(log: &[Logged]) -> ChangeBatch {
    let table = table();
    let leaf = |l: &Logged| match l.op {
        Op::Truncate => l.leaf.clone(),
        Op::Delete => None,
        _ => l.id.map(leaf_of),
    };
    let number = |pick: fn(&Logged) -> i64| log.iter().map(|l| Some(pick(l))).collect::<Int64Array>();
    let times = |times: Vec<Option<i64>>| TimestampMicrosecondArray::from(times).with_timezone("UTC");
    let prices: Decimal128Array = log.iter().map(|l| l.row.price).collect();
    let values: Vec<ArrayRef> = vec![
        Arc::new(log.iter().map(|l| l.id).collect::<Int64Array>()),
        Arc::new(log.iter().map(|l| l.row.notes.clone()).collect::<StringArray>()),
        Arc::new(prices.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(times(log.iter().map(|l| l.row.at).collect())),
        Arc::new(log.iter().map(leaf).collect::<StringArray>()),
    ];
    let mut raw = RawBuilder::default();
    for (row, _) in log.iter().enumerate().filter(|(_, l)| l.row.nan) {
        raw.push(row, "price", "NaN");
    }
    let old_keys = log.iter().any(|l| l.old_id.is_some()).then(|| {
        let ids: Int64Array = log.iter().map(|l| l.old_id).collect();
        let present: Vec<bool> = log.iter().map(|l| l.old_id.is_some()).collect();
        StructArray::new(table.key_arrow().fields().clone(), vec![Arc::new(ids)], Some(present.into()))
    });
    let kept: BooleanArray = log.iter().map(|l| Some(l.kept_notes)).collect();
    ChangeBatch {
        epoch: log[0].position.epoch,
        ops: log.iter().map(|l| l.op).collect(),
        commits: number(|l| l.position.commit),
        orders: number(|l| l.position.order),
        lsns: number(|l| l.lsn),
        xids: number(|l| l.position.commit * 7),
        committed_at: times(log.iter().map(|l| Some(TAKEN_AT + l.position.commit)).collect()),
        values: with_raw(
            RecordBatch::try_new(table.arrow(), values).unwrap(),
            raw.finish(log.len()).unwrap(),
        )
        .unwrap(),
        old_keys,
        unavailable: vec![None, (kept.true_count() > 0).then_some(kept), None, None, None],
        table,
    }
}

pub fn server() -> SourceRef {
    SourceRef { name: "shop".into(), system_id: "7301".into() }
}

pub async fn open(lake: &Lake) -> CapturedTable {
    CapturedTable::open(lake, &server(), table()).await.unwrap()
}

/// A table with the source's rows copied.
pub async fn copied(lake: &Lake, source: &Source) -> CapturedTable {
    let mut table = open(lake).await;
    copy(&mut table, source).await.unwrap();
    table
}

pub async fn copy(table: &mut CapturedTable, source: &Source) -> Result<u64, LakeError> {
    table.copy(source.epoch, Lsn(source.commit as u64), TAKEN_AT, source.copy(3), &|_| {}).await
}

pub async fn flush(table: &mut CapturedTable, source: &Source) -> Result<(), LakeError> {
    table.flush(&source.all(), true, TAKEN_AT + 5).await
}

pub async fn query(lake: &Lake, path: &str, version: Option<i64>, sql: &str) -> Vec<RecordBatch> {
    let session = lake.session();
    session.register_table("t", lake.read(path, version).await.unwrap()).unwrap();
    let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
    session.deregister_table("t").unwrap();
    rows
}

/// Silver at a version.
pub async fn silver(lake: &Lake, table: &CapturedTable, version: Option<i64>) -> Rows {
    let mut rows = Rows::new();
    for batch in query(lake, table.silver_path(), version, "SELECT * FROM t").await {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let notes = batch.column(1).as_string::<i32>();
        let prices = batch.column(2).as_primitive::<Decimal128Type>();
        let times = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        let leaves = batch.column(4).as_string::<i32>();
        for i in 0..batch.num_rows() {
            assert_eq!(leaves.value(i), leaf_of(ids.value(i)));
            let row = Row {
                notes: notes.is_valid(i).then(|| notes.value(i).to_owned()),
                price: prices.is_valid(i).then(|| prices.value(i)),
                nan: raw_text(raw_of(&batch), i, "price") == Some("NaN"),
                at: times.is_valid(i).then(|| times.value(i)),
            };
            assert!(rows.insert(ids.value(i), row).is_none(), "a key comes twice");
        }
    }
    rows
}

/// The rows that a naive fold makes of the newest epoch in bronze, and the last position in it; none comes twice.
pub async fn folded(lake: &Lake, table: &CapturedTable) -> (Rows, Position) {
    let epoch = table.epoch().unwrap();
    let sql = format!(
        r#"SELECT id, "Notes", price, at, _op, _epoch, _commit, _order, _old_key['id'] AS old_id,
        _unavailable IS NOT NULL AS kept, _leaf, _raw FROM t WHERE _epoch = {epoch}
        ORDER BY _commit, _order"#
    );
    let (mut rows, mut last) = (Rows::new(), Position::default());
    for batch in query(lake, table.bronze_path(), None, &sql).await {
        let number = |column: usize, row: usize| {
            let numbers = batch.column(column).as_primitive::<Int64Type>();
            numbers.is_valid(row).then(|| numbers.value(row))
        };
        let notes = batch.column(1).as_string::<i32>();
        let prices = batch.column(2).as_primitive::<Decimal128Type>();
        let times = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        let leaves = batch.column(10).as_string::<i32>();
        for i in 0..batch.num_rows() {
            let position = Position { epoch, commit: number(6, i).unwrap(), order: number(7, i).unwrap() };
            // Copied rows lie before all others, the last one first.
            assert!(position > last, "{position:?} comes twice in bronze");
            last = position;
            let change = Logged {
                position: last,
                lsn: 0,
                op: Op::from_letter(batch.column(4).as_string::<i32>().value(i)).unwrap(),
                id: number(0, i),
                old_id: number(8, i),
                row: Row {
                    notes: notes.is_valid(i).then(|| notes.value(i).to_owned()),
                    price: prices.is_valid(i).then(|| prices.value(i)),
                    nan: raw_text(raw_of(&batch), i, "price") == Some("NaN"),
                    at: times.is_valid(i).then(|| times.value(i)),
                },
                kept_notes: batch.column(9).as_boolean().value(i),
                leaf: leaves.is_valid(i).then(|| leaves.value(i).to_owned()),
                dead: false,
            };
            change.apply(&mut rows);
        }
    }
    (rows, last)
}

async fn number(lake: &Lake, path: &str, sql: &str) -> i64 {
    query(lake, path, None, sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// Bronze has this many rows, no position twice.
pub async fn assert_bronze(lake: &Lake, table: &CapturedTable, rows: usize) {
    let path = table.bronze_path();
    assert_eq!(number(lake, path, "SELECT count(*) FROM t").await, rows as i64, "rows in bronze");
    let positions = "SELECT count(*) FROM (SELECT DISTINCT _epoch, _commit, _order FROM t)";
    assert_eq!(number(lake, path, positions).await, rows as i64, "positions in bronze");
}

pub fn watermark(source: &str, lsn: u64, table: Option<&CapturedTable>) -> Watermark {
    Watermark {
        source: source.to_owned(),
        system_id: "7301".to_owned(),
        timeline: 1,
        epoch: EPOCH,
        lsn: Lsn(lsn),
        stream_time: Some(TAKEN_AT + lsn as i64),
        written_at: 0,
        reason: "test".to_owned(),
        tables: table.map(|t| (t.id().clone(), t.watermark_entry())).into_iter().collect(),
        stopped: Vec::new(),
        offsets: BTreeMap::new(),
    }
}
