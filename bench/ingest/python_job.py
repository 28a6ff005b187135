"""Debezium's topics into bronze and silver with confluent-kafka and the `deltalake` package: the least that does it.

It knows no restarts, repeats, schema changes, truncates or dead letters. Arguments as those of spark_job.py.
"""

import json
import sys

import pyarrow
import pyarrow.compute as pc
import pyarrow.json
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, write_deltalake

BATCH = 250_000
TYPES = {"bigint": pyarrow.int64(), "int": pyarrow.int32(), "string": pyarrow.string(),
         "decimal(12,2)": pyarrow.decimal128(12, 2), "timestamp": pyarrow.timestamp("us", "UTC")}
SENT = {"bigint": pyarrow.int64(), "int": pyarrow.int64(), "string": pyarrow.string(),
        "decimal(12,2)": pyarrow.string(), "timestamp": pyarrow.string()}

brokers, tables = sys.argv[1], json.loads(sys.argv[2])


def batches(table):
    """Values of the topic, from the offset to where it ends now."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "bench", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True})
    consumer.assign([TopicPartition(table["topic"], 0, table["offsets"]["0"])])
    values, ended = [], False
    while not ended:
        for message in consumer.consume(10_000, 1.0):
            if message.error():
                ended = True
            elif message.value() is not None:
                values.append(message.value())
        if len(values) >= BATCH or ended and values:
            yield values
            values = []
    consumer.close()


def decoded(values, columns):
    image = pyarrow.struct([(name, SENT[kind]) for name, kind in columns.items()])
    schema = pyarrow.schema([("op", pyarrow.string()), ("before", image), ("after", image)])
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    events = pyarrow.json.read_json(pyarrow.BufferReader(b"\n".join(values)), parse_options=options).combine_chunks()
    op = events["op"].combine_chunks()
    row = pc.if_else(pc.equal(op, "d"), events["before"].combine_chunks(), events["after"].combine_chunks())
    fields = {name: pc.struct_field(row, [at]).cast(TYPES[kind]) for at, (name, kind) in enumerate(columns.items())}
    return pyarrow.table({**fields, "_op": op})


for table in tables:
    columns, key = table["columns"], table["key"]
    for values in batches(table):
        changes = decoded(values, columns)
        write_deltalake(table["bronze"], changes, mode="append")
        numbered = changes.append_column("row", pyarrow.array(range(len(changes))))
        last = numbered.group_by(key).aggregate([("row", "max")])["row_max"]
        update = {name: f"s.{name}" for name in columns}
        (
            DeltaTable(table["silver"]).merge(changes.take(last), f"t.{key} = s.{key}", source_alias="s", target_alias="t")
            .when_matched_delete("s._op = 'd'").when_matched_update(update)
            .when_not_matched_insert(update, predicate="s._op <> 'd'").execute()
        )
