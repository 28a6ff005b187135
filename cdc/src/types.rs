//! Which of our types a type of Postgres becomes. `docs/types.md` is written from here.

use lakeward_change::ColumnType;

pub(crate) const TEXT: u32 = 25;
pub(crate) const VARCHAR: u32 = 1043;
pub(crate) const NUMERIC: u32 = 1700;

/// Types by their fixed OIDs (src/include/catalog/pg_type.dat); numeric is decided by its modifier, all others are text.
const TYPES: [(u32, &str, ColumnType); 13] = [
    (16, "boolean", ColumnType::Bool),
    (21, "smallint", ColumnType::Int2),
    (23, "integer", ColumnType::Int4),
    (20, "bigint", ColumnType::Int8),
    (700, "real", ColumnType::Float4),
    (701, "double precision", ColumnType::Float8),
    (2950, "uuid", ColumnType::Uuid),
    (114, "json", ColumnType::Json),
    (3802, "jsonb", ColumnType::Json),
    (17, "bytea", ColumnType::Bytes),
    (1082, "date", ColumnType::Date),
    (1114, "timestamp", ColumnType::Timestamp { zoned: false }),
    (1184, "timestamp with time zone", ColumnType::Timestamp { zoned: true }),
];

/// `base` has no domain around it; `modifier` is what the column, or a domain around it, declares.
pub(crate) fn column_type(base: u32, modifier: i32) -> ColumnType {
    if base == NUMERIC {
        return numeric(modifier);
    }
    TYPES.iter().find(|(oid, ..)| *oid == base).map_or(ColumnType::Text, |(_, _, column_type)| *column_type)
}

/// numeric(p,s) holds ((p << 16) | (s & 0x7ff)) + 4 in its modifier; the scale has a sign of 11 bits.
fn numeric(modifier: i32) -> ColumnType {
    if modifier < 4 {
        return ColumnType::Text;
    }
    let packed = modifier - 4;
    let scale = ((packed & 0x7ff) ^ 0x400) - 0x400;
    match (u8::try_from(packed >> 16), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale @ 0..)) if scale.unsigned_abs() <= precision => {
            ColumnType::Numeric { precision, scale }
        }
        _ => ColumnType::Text,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn numeric_modifiers() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | (scale & 0x7ff)) + 4;
        assert_eq!(numeric(modifier(12, 2)), ColumnType::Numeric { precision: 12, scale: 2 });
        assert_eq!(numeric(modifier(38, 38)), ColumnType::Numeric { precision: 38, scale: 38 });
        for wide in [-1, modifier(39, 0), modifier(5, -2), modifier(2, 5), modifier(1000, 200)] {
            assert_eq!(numeric(wide), ColumnType::Text);
        }
    }

    /// Delta's name of the type, the canonical text that checksums are taken of, and what is text in `_raw` instead.
    fn told(column_type: ColumnType) -> [&'static str; 3] {
        let beyond = "infinite, or outside what 64 bits of microseconds hold";
        match column_type {
            ColumnType::Bool => ["boolean", "`t` or `f`", ""],
            ColumnType::Int2 => ["short", "decimal digits", ""],
            ColumnType::Int4 => ["integer", "decimal digits", ""],
            ColumnType::Int8 => ["long", "decimal digits", ""],
            ColumnType::Float4 => ["float", "hexadecimal digits of the IEEE bits; `NaN`", ""],
            ColumnType::Float8 => ["double", "hexadecimal digits of the IEEE bits; `NaN`", ""],
            ColumnType::Numeric { .. } => {
                ["decimal(p,s)", "decimal digits, exactly s of them a fraction", "NaN"]
            }
            ColumnType::Text | ColumnType::Uuid | ColumnType::Json => ["string", "the text itself", ""],
            ColumnType::Hashed { .. } => ["string", "the hash", ""],
            ColumnType::Bytes => ["binary", "lower-case hexadecimal digits", ""],
            ColumnType::Date => ["date", "days since 1970-01-01", "infinite"],
            ColumnType::Timestamp { .. } => ["timestamp", "microseconds since 1970-01-01 UTC", beyond],
        }
    }

    fn document() -> String {
        let mut text = "# Types\n\n\
            What a column of Postgres becomes. Domains count as the type they are of. Written by\n\
            `LAKEWARD_WRITE_DOCS=1 cargo test --workspace --lib types` from `cdc/src/types.rs`; a test holds the two together.\n\n\
            | Postgres | Arrow | Delta | canonical text for `reconcile` | text in `_raw` |\n|---|---|---|---|---|\n"
            .to_owned();
        let numeric = ColumnType::Numeric { precision: 38, scale: 38 };
        let rows = TYPES.iter().map(|(_, name, column_type)| (*name, *column_type));
        let rows = rows.chain([
            ("numeric(p,s), p up to 38, s from 0 to p", numeric),
            (
                "everything else: text, varchar, numeric without scale, arrays, enums, ranges, inet, …",
                ColumnType::Text,
            ),
        ]);
        for (name, column_type) in rows {
            let [delta, canonical, null] = told(column_type);
            let arrow = match column_type {
                ColumnType::Numeric { .. } => "Decimal128(p, s)".to_owned(),
                column_type => column_type.arrow().to_string(),
            };
            writeln!(text, "| {name} | {arrow} | {delta} | {canonical} | {null} |")
                .expect("a string takes all");
        }
        text.push_str(
            "\nA timestamp without time zone is read as UTC. Whatever lands as text has Postgres's own output format, with\n\
             ISO dates, UTC and hexadecimal bytes. A value of the last column is null in its own column and text, as Postgres\n\
             writes it, in the map column `_raw` of bronze and silver, by the column's name; in a key it makes a dead letter\n\
             of the row. With `numeric_scale` a numeric without scale is decimal(38,s), and what does not fit is in `_raw`. A\n\
             column with `hash` is the hexadecimal SHA-256 of salt and text. Generated columns are not published by\n\
             Postgres and are left out.\n",
        );
        text.push_str(DEBEZIUM);
        text
    }

    const DEBEZIUM: &str = "
## From Debezium's events

The connector writes values in ways of its own. They become the values above, whatever its settings, but for what this
table says. Columns of the last rows are left out by `lakeward ingest`, and it says so. The settings are found in the event's schema, which it always has in Avro, or stated where events have none; what is neither is an error.
`binary.handling.mode` must be stated if it is base64, base64-url-safe or hex, since schemas call all of them strings.

| Postgres | what cannot be had back from the event |
|---|---|
| numeric without scale | with `precise`, zeros at the end of the fraction; with `double`, those and all digits beyond 15 |
| numeric(p,s) | with `double` a value of more than 15 digits: a dead letter |
| numeric, NaN | with `precise` the connector stops |
| timestamp | with `connect`, microseconds; with `nanoseconds`, years before 1678 and after 2261 |
| time | with `connect`, microseconds; with `isostring`, that 24:00 is not 00:00 |
| interval | with `interval.handling.mode=numeric` all but a number of microseconds, which it then is; with `string`, nothing |
| arrays | dimensions and lower bounds |
| tstzrange | the zone of its bounds is that of the connector's JVM: run it in UTC |
| left out: money, time with time zone, bit varying | the currency, the zone, zeros at the beginning |
| left out: box, circle, line, lseg, path, polygon, geometry, vectors | their text: they are JSON of the connector's |
| left out: composites, multiranges, tsquery, pg_lsn, xid, reg…, ranges and types of one's own and of extensions but citext, hstore, ltree; arrays of those, of interval, name, xml, point, bit, and of ranges, enums and types of extensions | all: they are not sent, or as bytes |

A domain counts as its base type, except where that has no type of its own above: of a domain over `time`, `interval`, or a
numeric of more than 38 digits, text is taken for Postgres's own unless the event's schema says more. With the time modes
`adaptive` and `adaptive_time_microseconds`, a domain over `timestamp` needs events with schemas. `structured` is not read.
`isostring`, or `microseconds`, and `decimal.handling.mode=string` lose least. A text that is the connector's
`unavailable.value.placeholder` itself cannot be told from a value that was not sent.
";

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/types.md");
        if std::env::var_os("LAKEWARD_WRITE_DOCS").is_some() {
            std::fs::write(path, document()).expect("docs/types.md is written");
        }
        let found = std::fs::read_to_string(path).expect("docs/types.md");
        assert_eq!(found, document(), "docs/types.md is not what the code does");
    }
}
