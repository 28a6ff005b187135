//! The shop's tables as of one watermark.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, TimestampMicrosecondType},
};
use deltalake::datafusion::{
    catalog::TableProvider,
    datasource::MemTable,
    error::DataFusionError,
    execution::SendableRecordBatchStream,
    functions_aggregate::expr_fn::max,
    logical_expr::{Expr, cast, lit, when},
    prelude::{DataFrame, SessionContext, ident},
    scalar::ScalarValue,
};
use lakeward_change::{Position, TableId};
use lakeward_lakehouse::{Hold, Lake, Watermark, WatermarkTable};

use crate::{
    DAY, FeatureError, Result, View,
    columns::{CLOSED_STATUSES, Kind},
    views,
};

/// The tables every shop has; of these only `events` may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShopTable {
    Users,
    Products,
    Orders,
    OrderItems,
    Events,
}

impl ShopTable {
    pub const ALL: [Self; 5] = [Self::Users, Self::Products, Self::Orders, Self::OrderItems, Self::Events];

    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Products => "products",
            Self::Orders => "orders",
            Self::OrderItems => "order_items",
            Self::Events => "events",
        }
    }
}

/// Which captured table is which of the shop's; by default those of these names in the schema `public`.
#[derive(Debug, Clone)]
pub struct ShopNames {
    pub users: TableId,
    pub products: TableId,
    pub orders: TableId,
    pub order_items: TableId,
    pub events: TableId,
}

impl ShopNames {
    pub fn id(&self, table: ShopTable) -> &TableId {
        match table {
            ShopTable::Users => &self.users,
            ShopTable::Products => &self.products,
            ShopTable::Orders => &self.orders,
            ShopTable::OrderItems => &self.order_items,
            ShopTable::Events => &self.events,
        }
    }

    /// Which of the shop's tables this is.
    pub fn table(&self, id: &TableId) -> Option<ShopTable> {
        ShopTable::ALL.into_iter().find(|table| self.id(*table) == id)
    }
}

impl Default for ShopNames {
    fn default() -> Self {
        let [users, products, orders, order_items, events] =
            ShopTable::ALL.map(|table| TableId::new("public", table.name()));
        Self { users, products, orders, order_items, events }
    }
}

/// The shop's rows as plain batches, columns by name; an empty list is a table that the shop does not have.
#[derive(Debug, Clone, Default)]
pub struct ShopBatches {
    pub users: Vec<RecordBatch>,
    pub products: Vec<RecordBatch>,
    pub orders: Vec<RecordBatch>,
    pub order_items: Vec<RecordBatch>,
    pub events: Vec<RecordBatch>,
}

impl ShopBatches {
    pub(crate) fn table(&self, table: ShopTable) -> &[RecordBatch] {
        match table {
            ShopTable::Users => &self.users,
            ShopTable::Products => &self.products,
            ShopTable::Orders => &self.orders,
            ShopTable::OrderItems => &self.order_items,
            ShopTable::Events => &self.events,
        }
    }
}

/// The shop's tables as of one watermark, and the views over them.
pub struct ShopTables {
    /// In the schema [`ShopTable::schema`], all five.
    tables: Vec<(ShopTable, Arc<dyn TableProvider>)>,
    missing: Vec<String>,
    known_at: Option<i64>,
    position: Option<Position>,
    /// Gives each query's session its configuration and stores.
    base: SessionContext,
    _hold: Option<Hold>,
}

impl ShopTables {
    /// Opens silver at the versions of a watermark.
    ///
    /// # Errors
    /// Tables or columns that nothing can be computed without are missing, or the lake cannot be read.
    pub async fn open(lake: &Lake, watermark: &Watermark, names: &ShopNames) -> Result<Self> {
        let hold = lake.hold(watermark).await;
        let found = open_silver(lake, watermark, names).await?;
        let base = lake.session();
        let known_at = newest_time(&base, &found).await?;
        let orders = watermark.tables.get(names.id(ShopTable::Orders));
        let at = |orders: &WatermarkTable| Position {
            epoch: orders.epoch,
            commit: watermark.lsn.as_i64(),
            order: 0,
        };
        Ok(Self { position: orders.map(at), _hold: Some(hold), ..Self::new(found, known_at, base)? })
    }

    /// From plain batches that were read at `known_at`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_batches(batches: &ShopBatches, known_at: i64) -> Result<Self> {
        let mut found: Vec<(ShopTable, Arc<dyn TableProvider>)> = Vec::new();
        for table in ShopTable::ALL {
            if let Some(first) = batches.table(table).first() {
                let memory = MemTable::try_new(first.schema(), vec![batches.table(table).to_vec()])
                    .map_err(|source| FeatureError::Read { table, source })?;
                found.push((table, Arc::new(memory)));
            }
        }
        Self::new(found, Some(known_at), SessionContext::new())
    }

    fn new(
        found: Vec<(ShopTable, Arc<dyn TableProvider>)>,
        known_at: Option<i64>,
        base: SessionContext,
    ) -> Result<Self> {
        require(found.iter().map(|(table, _)| *table))?;
        let mut shop =
            Self { tables: Vec::new(), missing: Vec::new(), known_at, position: None, base, _hold: None };
        for (table, provider) in found {
            let read = |source| FeatureError::Read { table, source };
            let indices = table.locate(&provider.schema())?;
            for (column, index) in table.columns().iter().zip(&indices) {
                if index.is_none() && table.is_viewed(column.name) {
                    let taken = match column.name {
                        "cancelled_at" | "returned_at" => {
                            "known from the status alone, since the newest known change"
                        }
                        _ => "taken as unknown",
                    };
                    shop.missing.push(format!("{table} has no column {}: {taken}", column.name));
                }
            }
            let frame = shop.base.read_table(provider).map_err(read)?;
            let view = frame.select(select(table, &indices, known_at)).map_err(read)?.into_view();
            shop.tables.push((table, view));
        }
        for table in ShopTable::ALL {
            if shop.tables.iter().any(|(found, _)| *found == table) {
                continue;
            }
            shop.missing.push(format!("there is no table {table}: taken as empty"));
            let empty = MemTable::try_new(table.schema(), vec![vec![]]);
            shop.tables
                .push((table, Arc::new(empty.map_err(|source| FeatureError::Read { table, source })?)));
        }
        Ok(shop)
    }

    /// The newest time that the rows tell of, as the online store's stream time: the moment to compute for unless another
    /// is asked for. `None` for a shop without any.
    pub fn known_at(&self) -> Option<i64> {
        self.known_at
    }

    /// The place of the watermark in the order of commits: before every change that commits at its LSN or later. `None`
    /// for plain batches.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// What the shop lacks and how that is taken, in plain sentences.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// A view's rows as of a moment, sorted by entity. [`View::ChurnTraining`] has the newest four moments whose
    /// horizon of 30 days is over at `as_of`.
    ///
    /// # Errors
    /// The query fails or the lake cannot be read.
    pub async fn view(&self, view: View, as_of: i64) -> Result<RecordBatch> {
        let moments = match view {
            View::ChurnTraining => churn_moments(as_of, 30),
            _ => vec![(as_of, as_of)],
        };
        self.collect(view.name(), &moments, view.entity()).await
    }

    /// What customers bought, for a recommender: `user_id`, `item_id`, `timestamp`, `weight` (quantity) and `basket_id`
    /// (the order) of the orders kept at `as_of`, sorted by customer, time, order and item.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn interactions(&self, as_of: i64) -> Result<RecordBatch> {
        self.collect(
            views::INTERACTIONS,
            &[(as_of, as_of)],
            &["user_id", "timestamp", "basket_id", "item_id"],
        )
        .await
    }

    /// [`crate::Activity`] at several moments of each customer with a kept order by then: `user_id`, `event_time` (the
    /// moment) and [`crate::ACTIVITY_COLUMNS`], sorted by moment and customer.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn activity(&self, as_of: &[i64]) -> Result<RecordBatch> {
        let moments: Vec<_> = as_of.iter().map(|moment| (*moment, *moment)).collect();
        self.collect(View::UserActivity.name(), &moments, View::ChurnTraining.entity()).await
    }

    /// [`Self::activity`] with `label`: 1 if the customer placed no order in the `horizon_days` after the moment that was
    /// still kept at their end.
    ///
    /// # Errors
    /// As [`Self::view`], or a horizon ends after the newest known change.
    pub async fn churn_training(&self, moments: &[i64], horizon_days: u32) -> Result<RecordBatch> {
        let horizon = i64::from(horizon_days).saturating_mul(DAY);
        let moments: Vec<_> =
            moments.iter().map(|moment| (*moment, moment.saturating_add(horizon))).collect();
        if moments.iter().any(|(_, label_at)| self.known_at.is_some_and(|known_at| *label_at > known_at)) {
            return Err(FeatureError::HorizonUnknown { horizon_days });
        }
        self.collect(View::ChurnTraining.name(), &moments, View::ChurnTraining.entity()).await
    }

    /// When the first and the newest order were placed; `None` without any.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn order_period(&self) -> Result<Option<(i64, i64)>> {
        let query = |source| FeatureError::Query { view: "orders", source };
        // A catalog of its own: queries may run side by side, each with its moments.
        let session = SessionContext::new_with_config_rt(self.base.copied_config(), self.base.runtime_env());
        for (table, provider) in self.tables.iter().filter(|(table, _)| *table == ShopTable::Orders) {
            session.register_table(table.name(), Arc::clone(provider)).map_err(query)?;
        }
        let sql = "select min(created_at) as first, max(created_at) as newest from orders";
        let found = session.sql(sql).await.map_err(query)?.collect().await.map_err(query)?;
        let time = |column: usize| {
            let times = found.first()?.column(column).as_primitive_opt::<TimestampMicrosecondType>()?;
            times.iter().next().flatten()
        };
        Ok(time(0).zip(time(1)))
    }

    /// A view at the given (moment, label time) pairs, not yet run.
    pub(crate) async fn frame(
        &self,
        view: &'static str,
        moments: &[(i64, i64)],
        order: &[&str],
    ) -> Result<DataFrame> {
        let query = |source| FeatureError::Query { view, source };
        // A catalog of its own: queries may run side by side, each with its moments.
        let session = SessionContext::new_with_config_rt(self.base.copied_config(), self.base.runtime_env());
        for (table, provider) in &self.tables {
            session.register_table(table.name(), Arc::clone(provider)).map_err(query)?;
        }
        session.register_table("moments", Arc::new(moments_table(moments).map_err(query)?)).map_err(query)?;
        views::define(&session).await?;
        let frame = session.table(view).await.map_err(query)?;
        frame.sort(order.iter().map(|column| ident(*column).sort(true, false)).collect()).map_err(query)
    }

    async fn collect(
        &self,
        view: &'static str,
        moments: &[(i64, i64)],
        order: &[&str],
    ) -> Result<RecordBatch> {
        let query = |source| FeatureError::Query { view, source };
        let frame = self.frame(view, moments, order).await?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(query)?;
        concat_batches(&schema, &batches).map_err(|error| query(DataFusionError::from(error)))
    }
}

/// The shop's silver tables at the versions of a watermark, as they are.
///
/// # Errors
/// A table that nothing can be computed without is missing, or the lake cannot be read.
pub(crate) async fn open_silver(
    lake: &Lake,
    watermark: &Watermark,
    names: &ShopNames,
) -> Result<Vec<(ShopTable, Arc<dyn TableProvider>)>> {
    let entries: Vec<_> = ShopTable::ALL
        .into_iter()
        .filter_map(|table| Some((table, watermark.tables.get(names.id(table))?)))
        // Without a key there are no current rows, or equal ones are one row with a number.
        .filter(|(_, entry)| !entry.key.is_empty())
        .collect();
    require(entries.iter().map(|(table, _)| *table))?;
    let mut found = Vec::new();
    for (table, entry) in entries {
        found.push((table, lake.read(&entry.silver_path, Some(entry.silver_version)).await?));
    }
    Ok(found)
}

/// A table's rows, with those of its columns that we know and it has.
///
/// # Errors
/// It lacks a column that nothing can be computed without, or cannot be read.
pub(crate) async fn known_columns(
    session: &SessionContext,
    table: ShopTable,
    provider: Arc<dyn TableProvider>,
) -> Result<SendableRecordBatchStream> {
    let read = |source| FeatureError::Read { table, source };
    let located = table.locate(&provider.schema())?;
    let there = table.columns().iter().zip(located).filter(|(_, index)| index.is_some());
    let columns: Vec<_> = there.map(|(column, _)| ident(column.name)).collect();
    let frame = session.read_table(provider).and_then(|frame| frame.select(columns)).map_err(read)?;
    frame.execute_stream().await.map_err(read)
}

/// The greatest of all times in the tables.
async fn newest_time(
    session: &SessionContext,
    tables: &[(ShopTable, Arc<dyn TableProvider>)],
) -> Result<Option<i64>> {
    let mut newest = None;
    for (table, provider) in tables {
        let read = |source| FeatureError::Read { table: *table, source };
        let located = table.locate(&provider.schema())?;
        let times: Vec<_> = table
            .columns()
            .iter()
            .zip(located)
            .filter(|(column, index)| column.kind == Kind::Time && index.is_some())
            .map(|(column, _)| max(cast(ident(column.name), Kind::Time.arrow())))
            .collect();
        if times.is_empty() {
            continue;
        }
        let rows = session.read_table(Arc::clone(provider)).and_then(|rows| rows.aggregate(vec![], times));
        for batch in rows.map_err(read)?.collect().await.map_err(read)? {
            for column in batch.columns() {
                let times = column.as_primitive_opt::<TimestampMicrosecondType>();
                newest = times.and_then(|times| times.iter().flatten().max()).max(newest);
            }
        }
    }
    Ok(newest)
}

/// Of the shop's tables, only `events` may be missing.
fn require(found: impl Iterator<Item = ShopTable>) -> Result<()> {
    let found: Vec<_> = found.collect();
    let missing: Vec<_> = ShopTable::ALL
        .into_iter()
        .filter(|table| *table != ShopTable::Events && !found.contains(table))
        .map(|table| table.to_string())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(FeatureError::MissingTables(missing)) }
}

/// The newest four training moments whose horizon is over at `as_of`, newest first, each with the time its label is
/// taken at.
pub(crate) fn churn_moments(as_of: i64, horizon_days: u32) -> Vec<(i64, i64)> {
    let horizon = i64::from(horizon_days).saturating_mul(DAY);
    let before = |back| as_of.saturating_sub(horizon.saturating_mul(back));
    (1..=4).map(|back| (before(back), before(back - 1))).collect()
}

/// The columns of a shop's table as we read them.
///
/// Where a status alone says that an order was cancelled or returned, that is known from `known_at` on; if that is not
/// known either, always.
fn select(table: ShopTable, indices: &[Option<usize>], known_at: Option<i64>) -> Vec<Expr> {
    let null = |kind: Kind| cast(lit(ScalarValue::Null), kind.arrow());
    let mut columns: Vec<_> = table
        .columns()
        .iter()
        .zip(indices)
        .map(|(column, index)| match index {
            Some(_) => cast(ident(column.name), column.kind.arrow()),
            None => null(column.kind),
        })
        .collect();
    let position = |name| table.columns().iter().position(|column| column.name == name);
    if let (Some(cancelled), Some(status)) = (position("cancelled_at"), position("status"))
        && indices[status].is_some()
    {
        let times: Vec<_> = ["cancelled_at", "returned_at"]
            .iter()
            .filter_map(|name| position(name).map(|index| columns[index].clone().is_null()))
            .collect();
        let closed = columns[status]
            .clone()
            .in_list(CLOSED_STATUSES.iter().map(|status| lit(*status)).collect(), false);
        let unknown = times.into_iter().fold(closed, Expr::and);
        let known = lit(ScalarValue::TimestampMicrosecond(Some(known_at.unwrap_or(0)), Some("UTC".into())));
        if let Ok(expression) = when(unknown, known).otherwise(columns[cancelled].clone()) {
            columns[cancelled] = expression;
        }
    }
    columns
        .into_iter()
        .zip(table.columns())
        .map(|(expression, column)| expression.alias(column.name))
        .collect()
}

fn moments_table(moments: &[(i64, i64)]) -> Result<MemTable, DataFusionError> {
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(
        ["as_of", "label_at"].map(|name| Field::new(name, time.clone(), false)).to_vec(),
    ));
    let (as_of, label_at): (Vec<_>, Vec<_>) = moments.iter().copied().unzip();
    let columns = [as_of, label_at].map(|values| {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as arrow::array::ArrayRef
    });
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.to_vec())?;
    MemTable::try_new(schema, vec![vec![batch]])
}
