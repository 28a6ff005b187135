//! The table `gold/realtime_revenue`.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
};
use deltalake::datafusion::{
    catalog::TableProvider,
    logical_expr::lit,
    prelude::{SessionContext, ident},
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use lakeward_change::Position;
use lakeward_lakehouse::{GoldTable, Lake, LakeError, Watermark, WatermarkTable};

use super::Minutes;
use crate::{
    FeatureError, Money, Result, RevenueMinute, ShopNames, ShopTable, columns::Kind, shop::known_columns,
    store::rows::Rows,
};

const NAME: &str = "realtime_revenue";
const WINDOW: &str = "window_start";
/// Digits of an amount that is the sum of many.
const DIGITS: u8 = 28;
/// The number of the definition of what counts. With another one all is summed anew.
const DEFINITION: u32 = 1;
/// What the commits' marks are called.
const MARKS: [&str; 4] = ["orders/table", "orders/epoch", "orders/commit", "orders/version"];

/// Revenue by minute in the lake: `window_start` (a minute's start), `total_revenue` and `orders` of the kept orders placed
/// in it. Minutes without such orders have no row.
///
/// [`Self::follow`] brings it from one watermark to the next. The commit that changes the rows says up to where they count,
/// so whoever goes on after a crash, or twice at a time, counts nothing twice.
pub struct RevenueTable {
    lake: Lake,
    names: ShopNames,
    table: GoldTable,
    /// What the rows are of, as last seen.
    held: Option<Mark>,
}

/// Up to where orders are counted: a position, and the version of silver that holds just that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    /// Stands for the source's table and the definition.
    table: i64,
    epoch: i64,
    commit: i64,
    version: i64,
}

impl RevenueTable {
    /// Makes the table if there is none.
    ///
    /// # Errors
    /// If there is one of this name with other columns, or the store fails.
    pub async fn open(lake: &Lake, names: &ShopNames) -> Result<Self> {
        let table = GoldTable::open(lake, NAME, schema()).await?;
        Ok(Self { lake: lake.clone(), names: names.clone(), table, held: None })
    }

    /// Whether a watermark has orders to count.
    pub fn is_fed_by(watermark: &Watermark, names: &ShopNames) -> bool {
        current_orders(watermark, names).is_some()
    }

    /// Brings the table to a watermark, and gives the minutes that are others than before. Nothing happens if it is there
    /// already or beyond, or if the watermark has no orders that are current rows.
    ///
    /// # Errors
    /// If orders cannot be read, others commit at the same time, or the store fails. What is committed then is right; the
    /// same call may be made again.
    pub async fn follow(&mut self, watermark: &Watermark) -> Result<Vec<RevenueMinute>> {
        let Some(orders) = current_orders(watermark, &self.names) else { return Ok(Vec::new()) };
        let path = orders.silver_path.as_str();
        let mark = Mark {
            table: stands_for(watermark, path),
            epoch: orders.epoch,
            commit: watermark.lsn.as_i64(),
            version: orders.silver_version,
        };
        self.table.refresh().await?;
        self.held = self.mark().await?.filter(|held| held.table == mark.table);
        if let Some(held) = self.held
            && (held >= mark || (held.epoch, held.version) == (mark.epoch, mark.version))
        {
            return Ok(Vec::new());
        }
        let (before, after) = match self.held.filter(|held| held.epoch == mark.epoch) {
            Some(held) => match self.since(path, held.version, mark.version).await {
                Ok(Some(sums)) => sums,
                found => {
                    tell_anew(found.err().as_ref());
                    self.anew(path, mark.version).await?
                }
            },
            None => self.anew(path, mark.version).await?,
        };
        let changed = before.changed(&after);
        let (rows, deleted) = stored(&changed).map_err(convert)?;
        self.table.put(rows, deleted, &mark.named()).await?;
        self.held = Some(mark);
        Ok(changed)
    }

    /// All minutes as they are now, with the position up to which they count; `None` before there are any.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn minutes(&mut self) -> Result<Option<(Position, Vec<RevenueMinute>)>> {
        self.table.refresh().await?;
        let Some(mark) = self.mark().await? else { return Ok(None) };
        Ok(Some((mark.position(), self.rows(None).await?.range(i64::MIN, i64::MAX).collect())))
    }

    /// The position up to which the last [`Self::follow`] counted.
    pub fn position(&self) -> Option<Position> {
        self.held.map(Mark::position)
    }

    /// Now and then keeps the table's files few. `now` is in microseconds UTC.
    ///
    /// # Errors
    /// If the store fails; the rows are the same either way.
    pub async fn tidy(&mut self, now: i64) -> Result<()> {
        Ok(self.table.tidy(now).await?)
    }

    async fn mark(&self) -> Result<Option<Mark>> {
        let mut parts = [0; MARKS.len()];
        for (part, name) in parts.iter_mut().zip(MARKS) {
            let Some(held) = self.table.mark(name).await? else { return Ok(None) };
            *part = held;
        }
        let [table, epoch, commit, version] = parts;
        Ok(Some(Mark { table, epoch, commit, version }))
    }

    /// The minutes concerned by what came between two versions of silver, before and after it. `None` if that does not
    /// fit what the table holds.
    async fn since(&self, path: &str, from: i64, to: i64) -> Result<Option<(Minutes, Minutes)>> {
        let difference = self.difference(path, Some(from), to).await?;
        let minutes = difference.0.first_key_value().zip(difference.0.last_key_value());
        let Some(((first, _), (last, _))) = minutes else { return Ok(Some(Default::default())) };
        let before = self.rows(Some((*first, *last))).await?;
        let after = before.clone().plus(&difference);
        Ok((!after.lacks()).then_some((before, after)))
    }

    /// All minutes as the table has them, and as they should be.
    async fn anew(&self, path: &str, version: i64) -> Result<(Minutes, Minutes)> {
        Ok((self.rows(None).await?, self.difference(path, None, version).await?))
    }

    async fn difference(&self, path: &str, from: Option<i64>, to: i64) -> Result<Minutes> {
        let difference = self.lake.difference(path, from, to).await?;
        let mut minutes = Minutes::default();
        let session = self.lake.session();
        if let Some(rows) = difference.removed {
            each_kept(&session, rows, |placed, amount| minutes.take(placed, amount)).await?;
        }
        if let Some(rows) = difference.added {
            each_kept(&session, rows, |placed, amount| minutes.add(placed, amount)).await?;
        }
        Ok(minutes)
    }

    /// The table's rows, of some minutes or all.
    async fn rows(&self, span: Option<(i64, i64)>) -> Result<Minutes> {
        let failed = |source| FeatureError::Query { view: NAME, source };
        let frame = self.lake.session().read_table(self.table.rows().await?).map_err(failed)?;
        let frame = match span {
            Some((first, last)) => frame.filter(ident(WINDOW).between(lit(time(first)), lit(time(last)))),
            None => Ok(frame),
        };
        let mut rows = frame.map_err(failed)?.execute_stream().await.map_err(failed)?;
        let mut minutes = Minutes::default();
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let starts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let revenue = batch.column(1).as_primitive::<Decimal128Type>();
            let orders = batch.column(2).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let units =
                    i64::try_from(revenue.value(row)).map_err(|_| self.damaged("an amount beyond reason"))?;
                minutes.put(starts.value(row), Money::from_units(units), orders.value(row));
            }
        }
        Ok(minutes)
    }

    fn damaged(&self, reason: &str) -> FeatureError {
        LakeError::Damaged { table: self.table.path().to_owned(), reason: reason.to_owned() }.into()
    }
}

impl Mark {
    fn position(self) -> Position {
        Position { epoch: self.epoch, commit: self.commit, order: 0 }
    }

    fn named(self) -> Vec<(&'static str, i64)> {
        MARKS.into_iter().zip([self.table, self.epoch, self.commit, self.version]).collect()
    }
}

/// The watermark's orders, if there are any and they are current rows.
fn current_orders<'w>(watermark: &'w Watermark, names: &ShopNames) -> Option<&'w WatermarkTable> {
    watermark.tables.get(names.id(ShopTable::Orders)).filter(|orders| !orders.key.is_empty())
}

fn tell_anew(error: Option<&FeatureError>) {
    let error = error.map(|error| error as &dyn std::error::Error);
    tracing::warn!(error, "what changed of orders cannot be told: revenue is summed anew");
}

/// A number for the source's table and the definition (FNV-1a of their names).
fn stands_for(watermark: &Watermark, path: &str) -> i64 {
    let text = format!("{}/{}/{path}/{DEFINITION}", watermark.source, watermark.system_id);
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, fold).cast_signed()
}

/// Calls with each kept order's time and amount.
async fn each_kept(
    session: &SessionContext,
    orders: Arc<dyn TableProvider>,
    mut call: impl FnMut(i64, Money),
) -> Result<()> {
    let table = ShopTable::Orders;
    let mut batches = known_columns(session, table, orders).await?;
    while let Some(batch) = batches.try_next().await.map_err(|source| FeatureError::Read { table, source })? {
        let rows = Rows::of(table, &batch)?;
        for (placed, amount) in (0..rows.len()).filter_map(|row| rows.order(row).revenue()) {
            call(placed, amount);
        }
    }
    Ok(())
}

fn schema() -> SchemaRef {
    let field = |name, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field(WINDOW, Kind::Time.arrow()),
        field("total_revenue", DataType::Decimal128(DIGITS, Money::SCALE)),
        field("orders", DataType::Int64),
    ]))
}

/// Minutes as rows, and which of them are to go.
fn stored(minutes: &[RevenueMinute]) -> Result<(RecordBatch, BooleanArray), arrow::error::ArrowError> {
    let starts = minutes.iter().map(|minute| minute.minute);
    let revenue = minutes.iter().map(|minute| i128::from(minute.revenue.units()));
    let orders = minutes.iter().map(|minute| i64::try_from(minute.orders).unwrap_or(i64::MAX));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(starts).with_timezone("UTC")),
        Arc::new(Decimal128Array::from_iter_values(revenue).with_precision_and_scale(DIGITS, Money::SCALE)?),
        Arc::new(Int64Array::from_iter_values(orders)),
    ];
    let deleted = minutes.iter().map(|minute| Some(minute.orders == 0)).collect();
    Ok((RecordBatch::try_new(schema(), columns)?, deleted))
}

fn time(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

fn convert(source: arrow::error::ArrowError) -> FeatureError {
    FeatureError::Lake(LakeError::Arrow { table: NAME.to_owned(), source })
}
