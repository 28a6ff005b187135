//! The tables that are captured, and those that were asked for and are not.

use lakeward_change::TableId;
use postgres_protocol::escape::escape_identifier;
use serde::Serialize;
use tokio_postgres::Client;

use super::PostgresOptions;
use crate::{
    CdcError, SlotState, catalog::Catalog, debezium, definition::Definition, pattern::Selection,
    publication::Publication, rule, slot,
};

/// A table that was asked for and cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedTable {
    pub id: TableId,
    /// What it lacks, and what mends it.
    pub reason: String,
    /// It is the table's own definition; otherwise a right, or the publication.
    pub by_definition: bool,
}

/// A table of which inserts and truncates alone are captured: without a key, its updates and deletes cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryTable {
    #[serde(flatten)]
    pub id: TableId,
    /// What it lacks, and what mends it.
    pub reason: String,
}

/// The catalog's tables that are asked for and can be published.
pub(super) async fn read_catalog(
    client: &Client,
    options: &PostgresOptions,
    user: &str,
    slot: &str,
    publication: &str,
) -> Result<Catalog, CdcError> {
    let selection = Selection::new(&options.include, &options.exclude);
    let mut catalog = Catalog::read(client, &selection).await?;
    let rules = |table: &TableId, column: &str| rule::left_out(&options.rules, table).contains(column);
    catalog.leave_out(rules, "the configuration leaves out");
    if options.has_topics() {
        let uncarried = debezium::uncarried(client).await?;
        let is_out = |table: &TableId, column: &str| uncarried.contains(&(table.clone(), column.to_owned()));
        catalog.leave_out(is_out, "the connector's events do not carry");
    }
    rule::convert(options, &mut catalog);
    match Publication::find(client, publication).await? {
        None if options.has_topics() => {
            let problem = "is missing: its tables are those of the connector's topics".to_owned();
            let (name, fix) = (publication.to_owned(), "`lakeward connector apply`".to_owned());
            return Err(CdcError::Publication { name, problem, fix });
        }
        Some(found) if !found.ours || options.has_topics() => {
            let theirs = escape_identifier(publication);
            catalog.leave_out_histories(&format!(
                "publication {theirs} is not one of ours, which take the inserts of such tables alone"
            ));
            catalog.restrict(&found.tables, found.via_root, publication);
        }
        found => {
            let inserts = Publication::find_inserts(client, publication).await?;
            if found.is_some() && inserts.is_none() && slot::state(client, slot).await? != SlotState::Missing
            {
                catalog.leave_out_histories(
                    "the replication slot is older than such tables' publication: `lakeward source drop` and a new \
                     `lakeward ingest` begin anew with both",
                );
            }
            catalog.via_root = [&found, &inserts].into_iter().flatten().any(|found| found.via_root);
            let holds = |found: &Option<Publication>, table: &Definition| {
                found.as_ref().is_some_and(|found| found.tables.contains_key(&table.schema.id))
            };
            catalog.restrict_to_owned(user, |table| {
                holds(if table.schema.is_history() { &inserts } else { &found }, table)
            });
        }
    }
    Ok(catalog)
}

pub(super) fn histories(catalog: &Catalog) -> Vec<HistoryTable> {
    let histories = catalog.tables.iter().filter(|table| table.schema.is_history());
    let reason = |id| catalog.without_key.get(id).map(ToString::to_string).unwrap_or_default();
    histories
        .map(|table| HistoryTable { id: table.schema.id.clone(), reason: reason(&table.schema.id) })
        .collect()
}
