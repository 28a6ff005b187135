//! Columns whose values a connector's events do not carry as Postgres has them.

use std::collections::BTreeSet;

use lakeward_change::TableId;
use tokio_postgres::Client;

use crate::CdcError;

/// Of these types the text can be had back, whatever the connector's settings, also in arrays. Other types are sent as
/// something else (`docs/types.md`), as bytes whose form depends on a setting, or not at all.
const ELEMENTS: [&str; 22] = [
    "boolean",
    "bytea",
    "smallint",
    "integer",
    "bigint",
    "oid",
    "real",
    "double precision",
    "numeric",
    "text",
    "character",
    "character varying",
    "json",
    "jsonb",
    "uuid",
    "date",
    "time without time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "inet",
    "cidr",
    "macaddr",
];
/// The same, but not in arrays; and so it is with enums.
const ALONE: [&str; 14] = [
    "\"char\"",
    "name",
    "xml",
    "interval",
    "bit",
    "point",
    "macaddr8",
    "tsvector",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
];
const OF_EXTENSIONS: [&str; 3] = ["citext", "hstore", "ltree"];

const UNCARRIED: &str = "
    WITH RECURSIVE base(oid, base) AS (
        SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
        UNION ALL
        SELECT t.oid, b.base FROM pg_type t JOIN base b ON t.typtype = 'd' AND t.typbasetype = b.oid)
    SELECT n.nspname, c.relname, a.attname
    FROM pg_attribute a JOIN base b ON b.oid = a.atttypid JOIN pg_type t ON t.oid = b.base
        LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
        JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
        AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND CASE
            WHEN e.oid IS NOT NULL THEN
                e.typnamespace <> 'pg_catalog'::regnamespace OR format_type(e.oid, NULL) <> ALL ($2)
            WHEN t.typtype = 'e' THEN false
            WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(t.oid, NULL) <> ALL ($1)
            ELSE t.typname <> ALL ($3)
        END";

/// The columns of all tables that are to be left out where changes come by a connector.
pub(crate) async fn uncarried(client: &Client) -> Result<BTreeSet<(TableId, String)>, CdcError> {
    let scalars = [&ELEMENTS[..], &ALONE[..]].concat();
    let rows = client.query(UNCARRIED, &[&scalars, &&ELEMENTS[..], &&OF_EXTENSIONS[..]]).await;
    let rows = rows.map_err(CdcError::query("read its catalog"))?;
    let column = |row: &tokio_postgres::Row| {
        (TableId::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2))
    };
    Ok(rows.iter().map(column).collect())
}
