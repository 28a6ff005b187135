//! The messages of logical replication with pgoutput, protocol version 1.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats". Decoding borrows from the message and
//! checks it whole, so that reading a decoded message cannot fail.

use lakeward_change::{Lsn, Op};

/// Microseconds between the Unix epoch and Postgres's, 2000-01-01.
pub(crate) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Begin(Begin),
    Commit {
        end: Lsn,
    },
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Type, Origin and Message: nothing that changes a row.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// Where the transaction's commit record begins.
    pub(crate) final_lsn: Lsn,
    /// Microseconds UTC.
    pub(crate) committed_at: i64,
    pub(crate) xid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `d`efault, `n`othing, `f`ull or `i`ndex.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// The row before an update or delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old<'a> {
    /// The replica identity's columns; the others are null.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    pub(crate) fn tuple(&self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => *tuple,
        }
    }
}

/// A row's values, still in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datum<'a> {
    Null,
    /// An unchanged value kept out of line (TOAST), not sent.
    Unchanged,
    Text(&'a [u8]),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("message {message:?} ends early, at byte {at}")]
    Truncated { message: char, at: usize },
    #[error("message {message:?} has {left} bytes too many")]
    TooLong { message: char, left: usize },
    #[error("unknown message type {0:?}")]
    UnknownMessage(char),
    #[error("message {message:?} holds {found:?} where one of {expected} is expected")]
    UnknownTag { message: char, found: char, expected: &'static str },
    #[error("message {message:?} holds a name that is not UTF-8")]
    NotUtf8 { message: char },
    #[error("empty message")]
    Empty,
}

/// What a message is about that cannot be decoded: a change of a row, and of which relation.
pub(crate) fn undecoded(bytes: &[u8]) -> Option<(Op, u32)> {
    let (tag, rest) = bytes.split_first()?;
    let op = match tag {
        b'I' => Op::Insert,
        b'U' => Op::Update,
        b'D' => Op::Delete,
        _ => return None,
    };
    Some((op, u32::from_be_bytes(*rest.first_chunk()?)))
}

impl<'a> Message<'a> {
    /// Decodes one message of the stream.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let (&tag, _) = bytes.split_first().ok_or(ProtocolError::Empty)?;
        let mut reader = Reader { bytes, at: 1, message: char::from(tag) };
        let message = match tag {
            b'B' => Self::Begin(Begin {
                final_lsn: reader.lsn()?,
                committed_at: reader.time()?,
                xid: reader.u32()?,
            }),
            b'C' => {
                reader.u8()?; // flags, unused
                reader.lsn()?; // the commit record itself: Begin has told it
                let end = reader.lsn()?;
                reader.time()?;
                Self::Commit { end }
            }
            b'R' => Self::Relation(reader.relation()?),
            b'I' => {
                let relation = reader.u32()?;
                reader.tag(b"N", "N")?;
                Self::Insert { relation, new: reader.tuple()? }
            }
            b'U' => {
                let relation = reader.u32()?;
                let old = match reader.tag(b"KON", "K, O, N")? {
                    b'K' => Some(Old::Key(reader.tuple()?)),
                    b'O' => Some(Old::Full(reader.tuple()?)),
                    _ => None,
                };
                if old.is_some() {
                    reader.tag(b"N", "N")?;
                }
                Self::Update { relation, old, new: reader.tuple()? }
            }
            b'D' => {
                let relation = reader.u32()?;
                let old = match reader.tag(b"KO", "K, O")? {
                    b'K' => Old::Key(reader.tuple()?),
                    _ => Old::Full(reader.tuple()?),
                };
                Self::Delete { relation, old }
            }
            b'T' => {
                let count = reader.u32()?;
                reader.u8()?; // CASCADE, RESTART IDENTITY: the list of relations is complete without them
                let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Self::Truncate { relations }
            }
            b'Y' | b'O' | b'M' => return Ok(Self::Other),
            other => return Err(ProtocolError::UnknownMessage(char::from(other))),
        };
        match bytes.len() - reader.at {
            0 => Ok(message),
            left => Err(ProtocolError::TooLong { message: reader.message, left }),
        }
    }
}

impl<'a> Tuple<'a> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Size in the message, bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Datum<'a>> + Clone + use<'a> {
        let mut rest = self.bytes;
        (0..self.columns).map(move |_| {
            let (datum, tail) = split_datum(rest).unwrap_or((Datum::Null, &[]));
            rest = tail;
            datum
        })
    }
}

/// The first value of a tuple's bytes and what follows it; `None` if the bytes end early or the kind is unknown.
fn split_datum(bytes: &[u8]) -> Option<(Datum<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        b'n' => Some((Datum::Null, rest)),
        b'u' => Some((Datum::Unchanged, rest)),
        b't' => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (value, rest) = rest.split_at_checked(length)?;
            Some((Datum::Text(value), rest))
        }
        _ => None,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    message: char,
}

impl<'a> Reader<'a> {
    fn truncated(&self) -> ProtocolError {
        ProtocolError::Truncated { message: self.message, at: self.bytes.len() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let chunk = *rest.first_chunk::<N>().ok_or_else(|| self.truncated())?;
        self.at += N;
        Ok(chunk)
    }

    fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, ProtocolError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A time in microseconds UTC.
    fn time(&mut self) -> Result<i64, ProtocolError> {
        self.array().map(|bytes| i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_MICROS))
    }

    fn tag(&mut self, known: &[u8], expected: &'static str) -> Result<u8, ProtocolError> {
        let found = self.u8()?;
        if known.contains(&found) {
            return Ok(found);
        }
        Err(ProtocolError::UnknownTag { message: self.message, found: char::from(found), expected })
    }

    fn string(&mut self) -> Result<String, ProtocolError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == 0).ok_or_else(|| self.truncated())?;
        let text = std::str::from_utf8(&rest[..end])
            .map_err(|_| ProtocolError::NotUtf8 { message: self.message })?;
        self.at += end + 1;
        Ok(text.to_owned())
    }

    fn relation(&mut self) -> Result<Relation, ProtocolError> {
        let id = self.u32()?;
        let schema = self.string()?;
        let name = self.string()?;
        let identity = self.u8()?;
        let count = self.u16()?;
        let columns = (0..count)
            .map(|_| {
                Ok(RelationColumn {
                    key: self.u8()? & 1 == 1,
                    name: self.string()?,
                    type_oid: self.u32()?,
                    type_modifier: i32::from_be_bytes(self.array()?),
                })
            })
            .collect::<Result<_, ProtocolError>>()?;
        Ok(Relation { id, schema, name, identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, ProtocolError> {
        let columns = self.u16()?;
        let start = self.bytes.get(self.at..).unwrap_or_default();
        let mut rest = start;
        for _ in 0..columns {
            let Some((_, tail)) = split_datum(rest) else {
                return Err(match rest.first() {
                    Some(&kind) if !b"nut".contains(&kind) => ProtocolError::UnknownTag {
                        message: self.message,
                        found: char::from(kind),
                        expected: "n, u, t",
                    },
                    _ => self.truncated(),
                });
            };
            rest = tail;
        }
        let size = start.len() - rest.len();
        self.at += size;
        Ok(Tuple { columns, bytes: &start[..size] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_messages as wire;

    #[test]
    fn messages_are_read_back() {
        let relation = Relation {
            id: 7,
            schema: "public".into(),
            name: "t".into(),
            identity: b'd',
            columns: vec![RelationColumn { key: true, name: "id".into(), type_oid: 23, type_modifier: -1 }],
        };
        assert_eq!(Message::decode(&wire::relation(&relation)), Ok(Message::Relation(relation)));
        assert_eq!(
            Message::decode(&wire::begin(Lsn(0x1_0000_0002), 5, 9)),
            Ok(Message::Begin(Begin {
                final_lsn: Lsn(0x1_0000_0002),
                committed_at: POSTGRES_EPOCH_MICROS + 5,
                xid: 9
            }))
        );
        assert_eq!(Message::decode(&wire::commit(Lsn(8), Lsn(9))), Ok(Message::Commit { end: Lsn(9) }));
        let row = [Some(Some("1")), Some(None), None];
        let bytes = wire::update(7, Some((b'K', &row)), &row);
        let Ok(Message::Update { relation: 7, old: Some(old @ Old::Key(_)), new }) = Message::decode(&bytes)
        else {
            panic!("not an update with a key");
        };
        let expected = [Datum::Text(b"1"), Datum::Null, Datum::Unchanged];
        assert_eq!(new.iter().collect::<Vec<_>>(), expected);
        assert_eq!(old.tuple().iter().collect::<Vec<_>>(), expected);
        assert_eq!(
            Message::decode(&wire::truncate(&[3, 4])),
            Ok(Message::Truncate { relations: vec![3, 4] })
        );
    }

    #[test]
    fn damage_is_an_error() {
        let whole = wire::update(7, Some((b'O', &[Some(Some("abc"))])), &[Some(Some("xyz"))]);
        for end in 0..whole.len() {
            assert!(Message::decode(&whole[..end]).is_err(), "cut at {end}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(Message::decode(&longer), Err(ProtocolError::TooLong { message: 'U', left: 1 }));
        assert_eq!(Message::decode(b"Z"), Err(ProtocolError::UnknownMessage('Z')));
        // A length far beyond the message must not be believed.
        let mut huge = wire::insert(7, &[Some(Some("a"))]);
        let at = huge.len() - 5;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(Message::decode(&huge), Err(ProtocolError::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(
            tag in prop::sample::select(&b"BCRIUDTYOMZ"[..]),
            mut rest in prop::collection::vec(any::<u8>(), 0..200),
            valid_tags in prop::collection::vec((0usize..200, prop::sample::select(&b"KONnut\0"[..])), 0..12),
        ) {
            for (at, byte) in valid_tags {
                if let Some(slot) = rest.get_mut(at) {
                    *slot = byte;
                }
            }
            rest.insert(0, tag);
            if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = Message::decode(&rest) {
                prop_assert_eq!(new.iter().count(), new.len());
            }
        }

        #[test]
        fn tuples_keep_their_values(values in prop::collection::vec(prop::option::of(prop::option::of(".{0,20}")), 0..20)) {
            let row: Vec<_> = values.iter().map(|v| v.as_ref().map(|v| v.as_deref())).collect();
            let bytes = wire::insert(1, &row);
            let Ok(Message::Insert { new, .. }) = Message::decode(&bytes) else { panic!("not an insert") };
            let expected: Vec<_> = row
                .iter()
                .map(|v| match v {
                    None => Datum::Unchanged,
                    Some(None) => Datum::Null,
                    Some(Some(text)) => Datum::Text(text.as_bytes()),
                })
                .collect();
            prop_assert_eq!(new.iter().collect::<Vec<_>>(), expected);
        }
    }
}
