//! Messages in Avro, as Confluent's wire format has them: a zero byte, the number of the schema at the registry in four, and
//! a datum of that schema.

mod schema;
mod tape;

pub(super) use self::{schema::Schema, tape::Reader};

/// The number of the message's schema, and its datum; `None` if the message is not in Avro.
pub(super) fn framed(message: &[u8]) -> Option<(u32, &[u8])> {
    let (number, datum) = message.strip_prefix(&[0])?.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), datum))
}
