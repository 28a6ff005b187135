//! Behaviour events of topics, as rows.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{ArrayRef, Int32Builder, Int64Builder, RecordBatch},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Contract,
    behaviour::{self, FIELDS, Texts, Values},
    broken,
};

/// Where a row was in its topic.
const PARTITION: &str = "_partition";
const OFFSET: &str = "_offset";

/// How a topic has its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A message is an event, and was checked before.
    Checked,
    /// A message is an event; it is checked here.
    Raw,
    /// A message is Debezium's of a change, an event the row after it; it is checked here. Events that the shop takes back are
    /// events all the same.
    Change,
}

/// A message whose event cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub partition: i32,
    pub offset: i64,
    /// Fields and rules; never a value.
    pub reason: String,
    pub message: Vec<u8>,
}

/// Messages as they become rows.
pub struct TopicRows {
    form: Form,
    contract: Arc<Contract>,
    events: behaviour::Columns,
    partitions: Int32Builder,
    offsets: Int64Builder,
    refused: Vec<Refused>,
}

/// The columns of a topic's events: `event_id`, the nine, `_partition` and `_offset`.
pub fn topic_schema() -> SchemaRef {
    behaviour::schema([(PARTITION, DataType::Int32), (OFFSET, DataType::Int64)])
}

impl TopicRows {
    pub fn new(form: Form, contract: Arc<Contract>) -> Self {
        Self {
            form,
            contract,
            events: behaviour::Columns::default(),
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            refused: Vec::new(),
        }
    }

    /// Takes a message: its event becomes a row, or it is refused; one without an event is passed over.
    pub fn push(&mut self, partition: i32, offset: i64, message: &[u8]) {
        match self.event(message) {
            Ok(true) => {
                self.partitions.append_value(partition);
                self.offsets.append_value(offset);
            }
            Ok(false) => {}
            Err(reason) => {
                self.refused.push(Refused { partition, offset, reason, message: message.to_vec() });
            }
        }
    }

    /// The rows so far in [`topic_schema`], and what was refused.
    ///
    /// # Errors
    /// The rows do not make columns.
    pub fn finish(&mut self) -> Result<(RecordBatch, Vec<Refused>), ArrowError> {
        let mut columns = self.events.finish()?;
        columns.push(Arc::new(self.partitions.finish()) as ArrayRef);
        columns.push(Arc::new(self.offsets.finish()));
        Ok((RecordBatch::try_new(topic_schema(), columns)?, std::mem::take(&mut self.refused)))
    }

    /// Whether there was an event.
    fn event(&mut self, message: &[u8]) -> Result<bool, String> {
        let no_json = |_| broken("", "json");
        if self.form != Form::Checked
            && let Err(reasons) = self.contract.check(message)
        {
            let all = reasons.iter().map(|reason| broken(&reason.field, reason.rule));
            return Err(all.collect::<Vec<_>>().join("; "));
        }
        match self.form {
            Form::Checked | Form::Raw => {
                let event = serde_json::from_slice(message).map_err(no_json)?;
                self.append(&event, &["event_time"]).map(|()| true)
            }
            Form::Change => {
                let change: Change<'_> = serde_json::from_slice(message).map_err(no_json)?;
                match (change.op.as_ref(), change.after) {
                    ("c" | "r" | "u", Some(event)) => {
                        self.append(&event, &["after", "event_time"]).map(|()| true)
                    }
                    ("c" | "r" | "u", None) => Err(broken("after", "required")),
                    _ => Ok(false),
                }
            }
        }
    }

    fn append(&mut self, event: &Event<'_>, time: &[&str]) -> Result<(), String> {
        let id = text(event.event_id).ok_or_else(|| broken(behaviour::EVENT_ID, "required"))?;
        let id = Uuid::try_parse(&id).map_err(|_| broken(behaviour::EVENT_ID, "format"))?;
        let texts = event.fields().map(text);
        let mut borrowed: Texts<'_> = Default::default();
        for (borrowed, text) in borrowed.iter_mut().zip(&texts) {
            *borrowed = text.as_deref();
        }
        let values = Values::of(&borrowed).map_err(|(field, rule)| broken(field, rule))?;
        let at = borrowed[behaviour::TIME].ok_or_else(|| broken("event_time", "required"))?;
        let at = self.contract.micros(time, at).ok_or_else(|| broken("event_time", "format"))?;
        self.events.append(id, at, &values);
        Ok(())
    }
}

/// An event's fields as they stand there.
#[derive(Deserialize)]
struct Event<'e> {
    #[serde(borrow)]
    event_id: Option<&'e RawValue>,
    event_time: Option<&'e RawValue>,
    event_type: Option<&'e RawValue>,
    product_id: Option<&'e RawValue>,
    category_id: Option<&'e RawValue>,
    category_code: Option<&'e RawValue>,
    brand: Option<&'e RawValue>,
    price: Option<&'e RawValue>,
    user_id: Option<&'e RawValue>,
    user_session: Option<&'e RawValue>,
}

impl<'e> Event<'e> {
    /// In the order of [`FIELDS`].
    fn fields(&self) -> [Option<&'e RawValue>; FIELDS.len()] {
        [
            self.event_time,
            self.event_type,
            self.product_id,
            self.category_id,
            self.category_code,
            self.brand,
            self.price,
            self.user_id,
            self.user_session,
        ]
    }
}

#[derive(Deserialize)]
struct Change<'e> {
    #[serde(borrow)]
    op: Cow<'e, str>,
    #[serde(borrow)]
    after: Option<Event<'e>>,
}

/// A string's text, or a number as it is written; `None` for null.
fn text(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let text = value?.get();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(text).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(text)).filter(|text| text != "null"),
    }
}
