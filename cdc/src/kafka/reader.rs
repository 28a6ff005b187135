//! Tasks that read partitions and decode them: as many as there are, each ahead of the log by a few pieces at most.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use lakeward_change::{Lsn, Op};
use rdkafka::{
    Message as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    client::{Client, Partition},
    interruption::Written,
    queue::{Event, Piece, ROOM, What},
    registry::Registry,
    topics::{blocking, partitions},
};
use crate::{
    CdcError,
    debezium::{Marks, Message, NoMark, Snapshot, Taken, TopicDecoder, Transaction},
};

const OLD_KEY: &str = "__debezium.oldkey";
/// So many bytes of messages are a piece, or so many messages.
const PIECE_BYTES: usize = 4 << 20;
const PIECE_EVENTS: usize = 16_384;
/// How often it is looked whether there are other topics or partitions.
const WATCH: Duration = Duration::from_secs(5);

/// An end of a transaction, as its topic has it.
#[derive(Debug)]
pub(super) struct RawEnd {
    pub(super) xid: i64,
    pub(super) end: Lsn,
    /// How many events each table has, by the names that the connector has for them.
    pub(super) tables: Vec<(String, i64)>,
    pub(super) offset: i64,
    /// Its beginning, if that was read, and itself.
    pub(super) beginning: Option<Written>,
    pub(super) written: Written,
}

pub(super) enum Incoming {
    /// Of the table and its queue with these numbers.
    Piece {
        table: usize,
        queue: usize,
        piece: Piece,
    },
    Ends {
        ends: Vec<RawEnd>,
        room: OwnedSemaphorePermit,
    },
    Failed(CdcError),
}

pub(super) type Outbox = mpsc::UnboundedSender<Incoming>;

/// What a partition's reader knows of it.
pub(super) struct Reader {
    pub(super) table: usize,
    pub(super) queue: usize,
    pub(super) topic: String,
    pub(super) partition: Partition,
    pub(super) decoder: TopicDecoder,
    pub(super) registry: Option<Arc<Registry>>,
    /// Rows of a snapshot that was taken later say that the connector has lost changes.
    pub(super) from: Lsn,
}

impl Reader {
    pub(super) async fn run(mut self, outbox: Outbox) {
        let room = Arc::new(Semaphore::new(ROOM));
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let sent = match self.piece(permit).await {
                Ok(piece) => outbox.send(Incoming::Piece { table: self.table, queue: self.queue, piece }),
                Err(error) => {
                    let _ = outbox.send(Incoming::Failed(error));
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// The messages that are at hand, at least one.
    async fn piece(&mut self, room: OwnedSemaphorePermit) -> Result<Piece, CdcError> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        let mut message = received(&self.partition, &self.topic).await?;
        let next_offset = loop {
            bytes += message.payload_len() + message.key_len();
            decode(&mut self.decoder, self.registry.as_deref(), &message, &mut events).await?;
            let next_offset = message.offset() + 1;
            if bytes >= PIECE_BYTES || events.len() >= PIECE_EVENTS {
                break next_offset;
            }
            match received(&self.partition, &self.topic).now_or_never() {
                Some(next) => message = next?,
                None => break next_offset,
            }
        };
        let batch = self.decoder.take()?;
        let (mut read, mut letters) = (self.decoder.take_letters().into_iter(), VecDeque::new());
        // Rows of the connector's snapshot are no changes: the table's copy has them, or letters of its own.
        events.retain(|event| {
            let letter = if event.what == What::Letter { read.next() } else { return true };
            let Some(letter) = letter.filter(|letter| letter.letter.op != Op::Read) else { return false };
            letters.push_back(letter.of_topic(&self.topic));
            true
        });
        if let Some(batch) = &batch {
            let rows = events.iter_mut().filter(|event| event.what == What::Row);
            for (row, event) in rows.enumerate() {
                let snapshot = batch.snapshots[row];
                if snapshot != Snapshot::No {
                    event.what = What::Copied;
                }
                let taken_at = Lsn::from_i64(batch.changes.lsns.value(row));
                if matches!(snapshot, Snapshot::Row | Snapshot::Last) && taken_at > self.from {
                    return Err(CdcError::SnapshotAgain { topic: self.topic.clone() });
                }
            }
        }
        let changes = batch.map(|batch| Arc::new(batch.changes));
        Ok(Piece { events, changes, letters, next_offset, _room: Some(room) })
    }
}

async fn decode(
    decoder: &mut TopicDecoder,
    registry: Option<&Registry>,
    message: &BorrowedMessage<'_>,
    events: &mut Vec<Event>,
) -> Result<(), CdcError> {
    let old_key = message.headers().and_then(|headers| headers.iter().find(|header| header.key == OLD_KEY));
    let (offset, written_at) = (message.offset(), written_at(message));
    let message = Message {
        partition: message.partition(),
        offset,
        key: message.key(),
        value: message.payload(),
        old_key: old_key.and_then(|header| header.value),
    };
    let taken = match decoder.read(&message)? {
        Taken::Lacks(schema) => decode_by(decoder, registry, schema, &message).await?,
        taken => taken,
    };
    let what = match taken {
        Taken::Change => What::Row,
        Taken::Letter => What::Letter,
        Taken::Changed(_) => What::Changed,
        Taken::Nothing | Taken::Lacks(_) => return Ok(()),
    };
    let mut row = DefaultHasher::new();
    message.key.or(message.value).hash(&mut row);
    events.push(Event { offset, what, place: decoder.place(), row: row.finish(), written_at });
    Ok(())
}

fn written_at(message: &BorrowedMessage<'_>) -> i64 {
    message.timestamp().to_millis().unwrap_or_default()
}

/// Reads a message by a schema that the decoder lacks.
async fn decode_by(
    decoder: &mut TopicDecoder,
    registry: Option<&Registry>,
    schema: u32,
    message: &Message<'_>,
) -> Result<Taken, CdcError> {
    let reason = match registry {
        None => "is in Avro, and [source.kafka] registry is not given".to_owned(),
        Some(registry) if registry.tell(decoder, schema).await? => return decoder.read(message),
        Some(_) => format!("is in Avro, of schema {schema}, which the registry does not have"),
    };
    decoder.refuse(message, &reason);
    Ok(Taken::Letter)
}

/// Reads the topic of transactions.
pub(super) struct Ends {
    pub(super) topic: String,
    pub(super) partition: Partition,
    pub(super) marks: Marks,
    /// The last transaction that began.
    pub(super) begun: Option<(i64, Written)>,
    pub(super) registry: Option<Arc<Registry>>,
}

impl Ends {
    pub(super) async fn run(mut self, outbox: Outbox) {
        let room = Arc::new(Semaphore::new(ROOM));
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let incoming = match self.piece().await {
                Ok(ends) => Incoming::Ends { ends, room: permit },
                Err(error) => Incoming::Failed(error),
            };
            let failed = matches!(incoming, Incoming::Failed(_));
            if outbox.send(incoming).is_err() || failed {
                return;
            }
        }
    }

    async fn piece(&mut self) -> Result<Vec<RawEnd>, CdcError> {
        let Self { topic, partition, marks, begun, registry } = self;
        let mut ends = Vec::new();
        let mut message = received(partition, topic).await?;
        loop {
            let value = message.payload().unwrap_or_default();
            let Ok(transaction) = read_mark(marks, registry.as_deref(), topic, value).await? else {
                return Err(CdcError::NoTransaction { topic: topic.clone(), offset: message.offset() });
            };
            let (xid, lsn) = (transaction.xid, transaction.lsn);
            let events = transaction.end.as_ref().map_or(0, |end| end.events);
            let written = Written { lsn, events, at: written_at(&message) };
            match transaction.end {
                None => *begun = Some((xid, written)),
                Some(end) => ends.push(RawEnd {
                    xid,
                    end: Lsn::from_i64(lsn),
                    tables: end.tables,
                    offset: message.offset(),
                    beginning: begun.take_if(|(of, _)| *of == xid).map(|(_, beginning)| beginning),
                    written,
                }),
            }
            if ends.len() >= PIECE_EVENTS {
                return Ok(ends);
            }
            match received(partition, topic).now_or_never() {
                Some(next) => message = next?,
                None => return Ok(ends),
            }
        }
    }
}

async fn read_mark(
    marks: &mut Marks,
    registry: Option<&Registry>,
    topic: &str,
    value: &[u8],
) -> Result<Result<Transaction, NoMark>, CdcError> {
    let read = marks.transaction(value);
    let Err(NoMark::Lacks(schema)) = read else { return Ok(read) };
    // Passing it over would lose an end, and so would all that follow it.
    let registry = registry.ok_or_else(|| CdcError::NoRegistry { topic: topic.to_owned() })?;
    let registered = registry.schema(schema).await?.ok_or_else(|| registry.lacks(topic, schema))?;
    marks.tell(schema, &registered);
    Ok(marks.transaction(value))
}

/// The next message. Passing troubles are the client's own: it goes on by itself.
async fn received<'a>(partition: &'a Partition, topic: &str) -> Result<BorrowedMessage<'a>, CdcError> {
    loop {
        match partition.recv().await {
            Ok(message) => return Ok(message),
            Err(error) if is_passing(&error) => {
                tracing::warn!(topic, error = &error as &dyn std::error::Error, "Kafka does not answer");
            }
            Err(error) => return Err(CdcError::kafka(format!("read topic {topic}"))(error)),
        }
    }
}

/// Serves the client; what it is told belongs to no partition.
pub(super) async fn serve(consumer: Arc<Client>, outbox: Outbox) {
    loop {
        match consumer.recv().await {
            // Partitions have readers of their own: what came here would be missing there.
            Ok(_) => {
                let _ = outbox.send(Incoming::Failed(CdcError::Ended));
                return;
            }
            Err(error) if is_passing(&error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "Kafka does not answer");
            }
            Err(error) => {
                let _ = outbox.send(Incoming::Failed(CdcError::kafka("read its topics")(error)));
                return;
            }
        }
    }
}

/// Tells when a topic that is read, or would be, has come or has other partitions.
pub(super) async fn watch(
    consumer: Arc<Client>,
    prefix: String,
    read: BTreeMap<String, usize>,
    outbox: Outbox,
) {
    loop {
        tokio::time::sleep(WATCH).await;
        let prefix = prefix.clone();
        // Whoever reads finds out whether Kafka answers.
        let Ok(now) = blocking(&consumer, move |consumer| partitions(consumer, &prefix)).await else {
            continue;
        };
        let changed = read.iter().find(|(topic, count)| now.get(*topic).map_or(0, Vec::len) != **count);
        if let Some((topic, _)) = changed {
            let _ = outbox.send(Incoming::Failed(CdcError::NewRelation { relation: topic.clone() }));
            return;
        }
    }
}

fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::RequestTimedOut
        )
    )
}
