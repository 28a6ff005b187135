//! What a connector writes, as Kafka keeps it, and how far it has been read.

use super::*;

pub(super) const TABLES: usize = 2;
pub(super) const TRANSACTIONS: &str = "shop.transaction";

pub(super) fn schema(table: usize) -> Arc<TableSchema> {
    let column = Column { name: "id".into(), column_type: ColumnType::Int8, source_type: "bigint".into() };
    let id = TableId::new("public", format!("t{table}"));
    Arc::new(TableSchema { id, columns: vec![column], key: vec![0], origin: Origin::default() })
}

/// What a connector writes, in order.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Event { table: usize, partition: usize, id: i64, place: Option<Place>, what: What },
    End { xid: i64, end: i64, counts: Vec<(usize, i64)> },
}

/// What became of an event when it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Row,
    Letter,
    /// A row, before it a message that is not the connector's.
    AfterStray,
}

/// Of messages that are not the connector's.
pub(super) const STRAY: i64 = -2;

/// A transaction's events: table, partition, and what they are.
pub(super) type Events = Vec<(usize, usize, Kind)>;

/// Numbers of transactions are in no order.
pub(super) fn xid(index: i64) -> i64 {
    1000 + (index * 7919) % 1009
}

/// Pairs share one.
pub(super) fn lsn(after: i64, number: usize) -> i64 {
    after + 1 + number as i64 / 2
}

pub(super) fn log(transactions: &[Events]) -> Vec<Record> {
    let mut records = Vec::new();
    let (mut after, mut id) = (0, 0);
    for (index, events) in transactions.iter().enumerate() {
        let (xid, mut counts) = (xid(index as i64), vec![0; TABLES]);
        for (number, &(table, partition, kind)) in events.iter().enumerate() {
            counts[table] += 1;
            let (order, lsn) = (number as i64 + 1, lsn(after, number));
            let place = Some(Place { xid, after, lsn, order, table_order: counts[table] });
            let what = if kind == Kind::Letter { What::Letter } else { What::Row };
            if kind == Kind::AfterStray {
                records.push(Record::Event { table, partition, id: STRAY, place: None, what: What::Letter });
            }
            if id % 3 == 0 {
                // A snapshot's row.
                records.push(Record::Event { table, partition, id: -1, place, what: What::Copied });
            }
            records.push(Record::Event { table, partition, id, place, what });
            id += 1;
        }
        after += 10 * (events.len() as i64 + 1);
        let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
        records.push(Record::End { xid, end: after, counts });
    }
    records
}

/// What a connector writes that starts again at these places, each time some records back.
pub(super) fn with_repeats(records: &[Record], restarts: &[(prop::sample::Index, usize)]) -> Vec<Record> {
    let mut at: Vec<(usize, usize)> =
        restarts.iter().map(|(place, back)| (place.index(records.len()), *back)).collect();
    at.sort_unstable();
    let mut written = Vec::new();
    for (index, record) in records.iter().enumerate() {
        written.push(record.clone());
        for (_, back) in at.iter().filter(|(place, _)| *place == index) {
            written.extend(records[index.saturating_sub(*back)..=index].iter().cloned());
        }
    }
    written
}

pub(super) fn piece(table: usize, records: &[(i64, Record)]) -> Piece {
    let mut events = Vec::new();
    let (mut ids, mut letters) = (Vec::new(), VecDeque::new());
    for (offset, record) in records {
        let Record::Event { id, place, what, .. } = record else { panic!("no end") };
        events.push(Event {
            offset: *offset,
            what: *what,
            place: *place,
            row: id.cast_unsigned(),
            written_at: 0,
        });
        match what {
            What::Letter => letters.push_back(DeadLetter {
                table: schema(table).id.clone(),
                position: Position::default(),
                op: Op::Insert,
                lsn: *id,
                xid: None,
                committed_at: None,
                reason: String::new(),
                message: Vec::new(),
                relation: Vec::new(),
            }),
            _ => ids.push(*id),
        }
    }
    let number = |value| Int64Array::from_value(value, ids.len());
    let table = schema(table);
    let values = RecordBatch::try_new(table.arrow(), vec![Arc::new(Int64Array::from(ids.clone()))]);
    let changes = (!ids.is_empty()).then(|| {
        Arc::new(ChangeBatch {
            ops: vec![Op::Insert; ids.len()],
            epoch: 1,
            commits: number(0),
            orders: number(0),
            lsns: number(0),
            xids: number(0),
            committed_at: TimestampMicrosecondArray::from(vec![0; ids.len()]),
            values: values.expect("one column"),
            old_keys: None,
            unavailable: vec![None],
            table,
        })
    });
    let next_offset = records.last().map_or(0, |(offset, _)| offset + 1);
    Piece { events, changes, letters, next_offset, _room: None }
}

/// The topics as Kafka keeps them.
pub(super) struct Kafka {
    pub(super) partitions: Vec<Vec<Vec<(i64, Record)>>>,
    pub(super) ends: Vec<(i64, Record)>,
}

impl Kafka {
    pub(super) fn new(written: &[Record], partitions: usize) -> Self {
        let mut kafka = Self { partitions: vec![vec![Vec::new(); partitions]; TABLES], ends: Vec::new() };
        // Offsets have gaps.
        for (offset, record) in (0..).step_by(3).zip(written) {
            match record {
                Record::Event { table, partition, .. } => {
                    kafka.partitions[*table][*partition % partitions].push((offset, record.clone()));
                }
                Record::End { .. } => kafka.ends.push((offset, record.clone())),
            }
        }
        kafka
    }

    pub(super) fn reader(&self, from: i64, offsets: &Offsets, durable: &[i64]) -> Reassembly {
        let at = |topic: &str, partition: usize| {
            offsets.get(topic).and_then(|topic| topic.get(&(partition as i32))).copied().unwrap_or_default()
        };
        let tables = (0..TABLES).map(|table| {
            let durable = Position { epoch: 1, commit: durable[table], order: 0 };
            let mut of = Table::new(schema(table).id.clone(), durable);
            let topic = format!("t{table}");
            for partition in 0..self.partitions[table].len() {
                let queue = Queue::new(topic.clone(), partition as i32, at(&topic, partition));
                of.queues.push(queue);
            }
            of
        });
        Reassembly::new(tables.collect(), Lsn::from_i64(from), at(TRANSACTIONS, 0))
    }
}

/// How far everything has been read.
pub(super) struct Reading<'a> {
    kafka: &'a Kafka,
    partitions: Vec<Vec<usize>>,
    ends: usize,
}

impl<'a> Reading<'a> {
    pub(super) fn new(kafka: &'a Kafka) -> Self {
        let partitions = kafka.partitions.iter().map(|partitions| vec![0; partitions.len()]).collect();
        Self { kafka, partitions, ends: 0 }
    }

    /// Goes on from these offsets.
    pub(super) fn at(kafka: &'a Kafka, offsets: &Offsets) -> Self {
        let before = |records: &[(i64, Record)], topic: &str, partition: usize| {
            let at = offsets[topic][&(partition as i32)];
            records.partition_point(|(offset, _)| *offset < at)
        };
        let of_table = |(table, partitions): (usize, &Vec<Vec<(i64, Record)>>)| {
            let read = partitions.iter().enumerate();
            read.map(|(partition, records)| before(records, &format!("t{table}"), partition)).collect()
        };
        let partitions = kafka.partitions.iter().enumerate().map(of_table).collect();
        Self { kafka, partitions, ends: before(&kafka.ends, TRANSACTIONS, 0) }
    }

    /// So many records of a place go to the reader, if it has room: of a partition, or behind them all the ends.
    pub(super) fn feed(&mut self, reader: &mut Reassembly, place: usize, count: usize) {
        let partitions = self.partitions[0].len();
        if place < TABLES * partitions {
            let (table, partition) = (place / partitions, place % partitions);
            let there = &self.kafka.partitions[table][partition];
            let read = &mut self.partitions[table][partition];
            let until = (*read + count).min(there.len());
            if until > *read && !reader.tables[table].queues[partition].is_full() {
                reader.push(table, partition, piece(table, &there[*read..until]));
                *read = until;
            }
        } else {
            let until = (self.ends + count).min(self.kafka.ends.len());
            push_ends(reader, &self.kafka.ends[self.ends..until]);
            self.ends = until;
        }
    }
}

pub(super) fn push_ends(reader: &mut Reassembly, ends: &[(i64, Record)]) {
    for (offset, record) in ends {
        let Record::End { xid, end, counts } = record else { panic!("an event") };
        reader.push_end(end_of(*xid, *end, counts.clone(), *offset));
    }
}

/// Everything was written at once.
pub(super) fn end_of(xid: i64, end: i64, counts: Vec<(usize, i64)>, offset: i64) -> End {
    let events = counts.iter().map(|(_, count)| count).sum();
    let written = Written { lsn: end, events, at: 0 };
    let beginning = Some(Written { lsn: 0, events: 0, at: 0 });
    End { xid, end: Lsn::from_i64(end), counts, offset, beginning, written, _room: None }
}

/// What a connector writes that begins again in the middle of a transaction, some events back: it counts from there.
pub(super) fn counted_anew(
    transactions: &[Events],
    restarts: &[(prop::sample::Index, usize, usize)],
) -> Vec<Record> {
    let (mut records, mut after, mut first) = (Vec::new(), 0, 0);
    for (index, events) in transactions.iter().enumerate() {
        let here = restarts.iter().filter(|(of, ..)| of.index(transactions.len()) == index);
        let mut stops: Vec<_> = here.map(|&(_, at, back)| (at % (events.len() + 1), back)).collect();
        let (xid, mut number, mut order, mut counts) = (xid(index as i64), 0, 0, vec![0; TABLES]);
        loop {
            if let Some(stop) = stops.iter().position(|(at, _)| *at == number) {
                number = number.saturating_sub(stops.remove(stop).1);
                (order, counts) = (0, vec![0; TABLES]);
                continue;
            }
            let Some(&(table, partition, _)) = events.get(number) else { break };
            counts[table] += 1;
            order += 1;
            let place = Place { xid, after, lsn: lsn(after, number), order, table_order: counts[table] };
            let (id, what) = (first + number as i64, What::Row);
            records.push(Record::Event { table, partition, id, place: Some(place), what });
            number += 1;
        }
        after += 10 * (events.len() as i64 + 1);
        first += events.len() as i64;
        let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
        records.push(Record::End { xid, end: after, counts });
    }
    records
}
