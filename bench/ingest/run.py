"""Debezium's topics into bronze and silver: Lakeward, Spark and a Python job read the same events in the same run.

On a quiet machine, `make stack`'s services needed; README.md beside this file says what is measured, and how. `ROWS` and
`CHANGES` set other sizes; `PEERS=` leaves the others out.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import pyarrow
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, write_deltalake

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness

HERE = pathlib.Path(__file__).resolve().parent
ROWS, CHANGES = int(os.environ.get("ROWS", 2_000_000)), int(os.environ.get("CHANGES", 5_000_000))
PEERS = os.environ.get("PEERS", "spark,python").split(",")
IN_TRANSACTION = 1_000
PREFIX = harness.PREFIX
# Share of the rows and of the changes, in percent.
TABLES = {"customers": 15, "products": 10, "orders": 30, "order_items": 45}
ARROW = {"bigint": pyarrow.int64(), "int": pyarrow.int32(), "string": pyarrow.string(),
         "decimal(12,2)": pyarrow.decimal128(12, 2), "timestamp": pyarrow.timestamp("us", "UTC")}
COLUMNS = {"id": "bigint", "customer": "int", "status": "string", "amount": "decimal(12,2)", "at": "timestamp", "note": "string"}


def rows(share):
    return ROWS * share // 100


TABLE = """
create table {name}(id bigint primary key, customer int, status text, amount numeric(12,2), at timestamptz, note text);
insert into {name} select i, i % 100000, 'paid', i % 9973 / 100.0, timestamptz '2026-01-01' + i * interval '1 second',
  md5(i::text) || ' of ' || i from generate_series(1, {rows}) i;
analyze {name};"""
# Half updates of random keys, 45 % inserts, 5 % deletes; each transaction changes all tables.
CHANGE = """
    update {name} set status = 'sent', amount = amount + round % 100, at = at + interval '1 hour' where id in (
      select distinct 1 + (hashint8extended(i, round) & 4611686018427387903) % {rows} from generate_series(1, {each} / 2) i);
    insert into {name} select 100000000 + round * 1000 + i, i, 'new', i, timestamptz '2026-06-01', md5(i::text)
      from generate_series(1, {each} * 45 / 100) i;
    delete from {name} where id between 100000000 + (round - 1) * 1000 + 1 and 100000000 + (round - 1) * 1000 + {each} * 5 / 100;"""
STREAM = "do $$ begin for round in {first} .. {last} loop {changes} commit; end loop; end $$"


def ends(brokers):
    """Where the topics end."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "bench"})
    found = {name: consumer.get_watermark_offsets(TopicPartition(topic(name), 0), timeout=30)[1] for name in TABLES}
    consumer.close()
    return found


def topic(name):
    return f"{PREFIX}.public.{name}"


def wait_sent(services):
    """Until the connector has sent what the database has: the slot is where the log ends."""
    database = services["postgres"]
    end = harness.sql(database, "select pg_current_wal_lsn()")[0][0]
    behind = f"select confirmed_flush_lsn < '{end}' from pg_replication_slots where slot_name = 'debezium_{PREFIX}'"
    while harness.sql(database, behind)[0][0]:
        time.sleep(1)


def run(lakeward, lake, *command):
    """Of this lake, which has a control database of its own."""
    os.environ["LAKEWARD__CONTROL__URL"] = lake["control"]
    return harness.run(lakeward, *command, "--json", "--lake", lake["url"])


def reconciled(lakeward, lake):
    tables = run(lakeward, lake, "reconcile")["answer"]["tables"]
    return {"tables": len(tables), "differing": sum(table["differing"] for table in tables)}


def peer(folder, silver, offsets):
    """Silver as it was before the changes, for another program, and where to go on: the job's argument."""
    tables = []
    for name, rows in silver.items():
        write_deltalake(folder / "silver" / name, rows)
        tables.append({"topic": topic(name), "offsets": {"0": offsets[name]}, "key": "id", "columns": COLUMNS,
                       "bronze": str(folder / "bronze" / name), "silver": str(folder / "silver" / name)})
    return json.dumps(tables)


def rows_of(table):
    """The table's own columns, by key."""
    rows = DeltaTable(table).to_pyarrow_table(columns=list(COLUMNS)).sort_by("id")
    return rows.cast(pyarrow.schema([(name, ARROW[kind]) for name, kind in COLUMNS.items()]))


def spark():
    """Spark's own command with what it needs to read Kafka and write Delta."""
    venv, jars = harness.ROOT / ".data/venv-spark", harness.ROOT / ".data/spark-jars"
    if not (venv / "bin/spark-submit").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "pyspark==4.0.4", "py4j==0.10.9.9",
                        "delta-spark==4.4.0"], check=True)
    subprocess.run(["mvn", "-q", "-f", HERE / "spark-pom.xml", "package", f"-Dinto={jars}"], check=True)
    os.environ["PYSPARK_PYTHON"] = str(venv / "bin/python")
    return [venv / "bin/spark-submit", "--master", "local[2]", "--driver-memory", "4g", "--driver-java-options", "-XX:+UseParallelGC",
            "--jars", ",".join(map(str, sorted(jars.glob("*.jar")))), HERE / "spark_job.py"]


binaries = harness.build()
lakeward = binaries / "lakeward"
results = {"rows": ROWS}
submit = spark() if "spark" in PEERS else None
with harness.room() as folder:
    with harness.stack(folder / "stack") as services:
        database = services["postgres"]
        for name, share in TABLES.items():
            harness.sql(database, TABLE.format(name=name, rows=rows(share)))
        subprocess.run([lakeward, "connector", "apply", "ecommerce-connector"], check=True)
        lakes = {"lakeward": {"url": folder / "lake"}, "lakeward_minio": {"url": "s3://lakehouse/lake"}}
        for name, lake in lakes.items():
            lake["control"] = harness.database(database, f"control_{name}")
            run(lakeward, lake, "ingest", "--until-idle")
        paths = {name: folder / "lake/silver" / PREFIX / "public" / name for name in TABLES}
        before = {name: rows_of(path) for name, path in paths.items()}
        wait_sent(services)
        offsets = ends(services["kafka"])

        began = time.monotonic()
        for first in range(1, CHANGES // IN_TRANSACTION + 1, 100):
            changes = "".join(CHANGE.format(name=name, rows=rows(share), each=IN_TRANSACTION * share // 100) for name, share in TABLES.items())
            harness.sql(database, STREAM.format(first=first, last=min(first + 99, CHANGES // IN_TRANSACTION), changes=changes))
            # Else the server gives the slot up: it keeps so much log and no more.
            wait_sent(services)
        results["recorded"] = {"seconds": round(time.monotonic() - began)}

        was, events = harness.bytes_of(folder / "lake"), 0
        for name, lake in lakes.items():
            measured = run(lakeward, lake, "ingest", "--until-idle")
            if name == "lakeward":
                events = sum(len(DeltaTable(folder / "lake/bronze" / PREFIX / "public" / table).to_pyarrow_table(
                    columns=["_op"], filters=[("_op", "!=", "r")])) for table in TABLES)
                written = {"bytes_written_per_change": round((harness.bytes_of(folder / "lake") - was) / events)}
            results[name] = {**harness.per_second(measured, events), **written, "reconciled": reconciled(lakeward, lake)}
            written = {}
        after = {name: rows_of(path) for name, path in paths.items()}

        jobs = {"spark": submit, "python": [sys.executable, HERE / "python_job.py"]}
        for name in filter(None, PEERS):
            argument = peer(folder / name, before, offsets)
            was = harness.bytes_of(folder / name)
            measured = harness.run(*jobs[name], services["kafka"], argument)
            written = {"bytes_written_per_change": round((harness.bytes_of(folder / name) - was) / events)}
            equal = all(rows_of(folder / name / "silver" / table).equals(rows) for table, rows in after.items())
            results[name] = {**harness.per_second(measured, events), **written, "same_silver": equal}
        harness.save("ingest", results)
