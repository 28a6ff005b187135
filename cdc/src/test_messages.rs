//! Encodes pgoutput messages, for tests. A row's value: `None` unchanged, `Some(None)` null, `Some(Some(text))`.

use lakeward_change::Lsn;

use crate::protocol::Relation;

pub(crate) type Value<'a> = Option<Option<&'a str>>;

pub(crate) fn begin(final_lsn: Lsn, time: i64, xid: u32) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.extend(final_lsn.0.to_be_bytes());
    out.extend(time.to_be_bytes());
    out.extend(xid.to_be_bytes());
    out
}

pub(crate) fn commit(lsn: Lsn, end: Lsn) -> Vec<u8> {
    let mut out = vec![b'C', 0];
    out.extend(lsn.0.to_be_bytes());
    out.extend(end.0.to_be_bytes());
    out.extend(0i64.to_be_bytes());
    out
}

pub(crate) fn relation(relation: &Relation) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(relation.id.to_be_bytes());
    for text in [&relation.schema, &relation.name] {
        out.extend(text.as_bytes());
        out.push(0);
    }
    out.push(relation.identity);
    out.extend(u16::try_from(relation.columns.len()).expect("few columns").to_be_bytes());
    for column in &relation.columns {
        out.push(u8::from(column.key));
        out.extend(column.name.as_bytes());
        out.push(0);
        out.extend(column.type_oid.to_be_bytes());
        out.extend(column.type_modifier.to_be_bytes());
    }
    out
}

pub(crate) fn insert(relation: u32, new: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'I'];
    out.extend(relation.to_be_bytes());
    tuple(&mut out, b'N', new);
    out
}

pub(crate) fn update(relation: u32, old: Option<(u8, &[Value<'_>])>, new: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'U'];
    out.extend(relation.to_be_bytes());
    if let Some((tag, old)) = old {
        tuple(&mut out, tag, old);
    }
    tuple(&mut out, b'N', new);
    out
}

pub(crate) fn delete(relation: u32, tag: u8, old: &[Value<'_>]) -> Vec<u8> {
    let mut out = vec![b'D'];
    out.extend(relation.to_be_bytes());
    tuple(&mut out, tag, old);
    out
}

pub(crate) fn truncate(relations: &[u32]) -> Vec<u8> {
    let mut out = vec![b'T'];
    out.extend(u32::try_from(relations.len()).expect("few relations").to_be_bytes());
    out.push(0);
    relations.iter().for_each(|id| out.extend(id.to_be_bytes()));
    out
}

fn tuple(out: &mut Vec<u8>, tag: u8, values: &[Value<'_>]) {
    out.push(tag);
    out.extend(u16::try_from(values.len()).expect("few values").to_be_bytes());
    for value in values {
        match value {
            None => out.push(b'u'),
            Some(None) => out.push(b'n'),
            Some(Some(text)) => {
                out.push(b't');
                out.extend(u32::try_from(text.len()).expect("short text").to_be_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
}
