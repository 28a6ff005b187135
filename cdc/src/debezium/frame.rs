//! How all columns of a topic are written, and the schema around an event that tells it.

use super::{
    Topic,
    json::{self, Parser, Value},
    kind::Kind,
    names::Names,
    reading::Reading,
};
use crate::CdcError;

/// How an event with a schema begins.
pub(super) const START: &[u8] = b"{\"schema\":";
const PAYLOAD: &[u8] = b",\"payload\":";

const ALIKE: &str = "another column of the table has the same name in Avro; rename one of them";

/// What each column of a table is called, and how it is written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) names: Names,
    pub(super) readings: Vec<Reading>,
}

impl Plan {
    pub(super) fn stated(topic: &Topic) -> Result<Self, CdcError> {
        Self::new(topic, Names::plain(topic), |_, kind| Reading::stated(kind, &topic.modes))
    }

    /// By the Connect schema of events in Avro.
    pub(super) fn in_avro(topic: &Topic, schema: Value<'_>) -> Result<Self, CdcError> {
        let names = Names::in_avro(topic).map_err(|column| unread(topic, column, ALIKE))?;
        Self::found(topic, names, schema)
    }

    fn found(topic: &Topic, names: Names, schema: Value<'_>) -> Result<Self, CdcError> {
        let row = part(schema, "after").and_then(|row| json::field(row, "fields"));
        let field = |name: &str| json::elements(row?).find(|field| is_called(field, name));
        Self::new(topic, names, |name, kind| match field(name) {
            Some(field) => Reading::found(kind, field, &topic.modes),
            // The row will lack it too.
            None => Ok(Reading::Other),
        })
    }

    fn new(
        topic: &Topic,
        names: Names,
        reading: impl Fn(&str, &Kind) -> Result<Reading, &'static str>,
    ) -> Result<Self, CdcError> {
        let table = &topic.table;
        let column = |index: usize| {
            if Some(index) == table.leaf() {
                return Ok(Reading::Text);
            }
            reading(&names.columns()[index], &Kind::of(&table.columns[index]))
                .map_err(|problem| unread(topic, index, problem))
        };
        let readings = (0..table.columns.len()).map(column).collect::<Result<_, _>>()?;
        Ok(Self { names, readings })
    }
}

fn unread(topic: &Topic, column: usize, problem: &'static str) -> CdcError {
    let (table, column) = (topic.table.id.clone(), topic.table.columns[column].name.clone());
    CdcError::ConnectorSettings { table, column, problem }
}

/// What lies before the payload of events, the same in all until the table changes, and what it says.
#[derive(Debug)]
pub(super) struct Frame {
    prefix: Vec<u8>,
    pub(super) plan: Plan,
}

impl Frame {
    /// `None` if the event is not one with a schema.
    pub(super) fn read(event: &[u8], topic: &Topic) -> Result<Option<Self>, CdcError> {
        let Some(at) = event.windows(PAYLOAD.len()).position(|window| window == PAYLOAD) else {
            return Ok(None);
        };
        let prefix = &event[..at + PAYLOAD.len()];
        // Only where the schema ends is this a whole document.
        let whole = [prefix, b"null}"].concat();
        let plan = Parser::new().read(&whole, |document| {
            let schema = json::field(document, "schema").filter(|_| json::fields(document).count() == 2)?;
            Some(if json::is_null(schema) {
                Plan::stated(topic)
            } else {
                Plan::found(topic, Names::plain(topic), schema)
            })
        });
        match plan {
            Ok(Some(plan)) => Ok(Some(Self { prefix: prefix.to_vec(), plan: plan? })),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    pub(super) fn is_of(&self, event: &[u8]) -> bool {
        event.starts_with(&self.prefix) && event.ends_with(b"}")
    }

    pub(super) fn payload<'a>(&self, event: &'a [u8]) -> &'a [u8] {
        event.get(self.prefix.len()..event.len() - 1).unwrap_or_default()
    }
}

/// A field of a structure's schema.
fn part<'a>(schema: Value<'a>, name: &str) -> Option<Value<'a>> {
    json::elements(json::field(schema, "fields")?).find(|field| is_called(field, name))
}

fn is_called(field: Value<'_>, name: &str) -> bool {
    json::field(field, "field").and_then(json::string) == Some(name)
}
