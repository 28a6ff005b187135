"""Copy and stream into bronze and silver, beside a plain Python job that writes the same changes.

Run by `make bench`, on a quiet machine; README.md beside this file says what is measured, and how. `COPIED`, `ROWS` and
`CHANGES` set other sizes.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pyarrow
import pyarrow.compute
from deltalake import DeltaTable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness

COPIED = int(os.environ.get("COPIED", 10_000_000))
ROWS, CHANGES = int(os.environ.get("ROWS", 2_000_000)), int(os.environ.get("CHANGES", 2_000_000))
IN_TRANSACTION, IN_COMMIT = 1_000, 100_000

NARROW = f"""
create table readings(id bigint primary key, customer int, amount numeric(12,2), at timestamptz);
insert into readings select i, i % 100000, i % 9973 / 100.0, timestamptz '2026-01-01' + i * interval '1 second'
  from generate_series(1, {COPIED}) i;
analyze readings"""
# Rows of about 100 bytes.
LINES = f"""
create table lines(id bigint primary key, customer int, status text, amount numeric(12,2), at timestamptz, note text);
insert into lines select i, i % 100000, 'paid', i % 9973 / 100.0, timestamptz '2026-01-01' + i * interval '1 second',
  md5(i::text) || ' of ' || i from generate_series(1, {ROWS}) i;
analyze lines"""
# Half updates of random keys, 45 % inserts, 5 % deletes.
STREAM = f"""
do $$ begin
  for round in 1 .. {CHANGES // IN_TRANSACTION} loop
    update lines set status = 'sent', amount = amount + round, at = at + interval '1 hour' where id in (
      select distinct 1 + (hashint8extended(i, round) & 4611686018427387903) % {ROWS}
      from generate_series(1, {IN_TRANSACTION // 2}) i);
    insert into lines select 100000000 + round * 1000 + i, i, 'new', i, timestamptz '2026-06-01', md5(i::text)
      from generate_series(1, {IN_TRANSACTION * 45 // 100}) i;
    delete from lines where id between
      100000000 + (round - 1) * 1000 + 1 and 100000000 + (round - 1) * 1000 + {IN_TRANSACTION * 5 // 100};
    commit;
  end loop;
end $$"""


def copied(lakeward, url, folder, rows):
    return harness.per_second(harness.run(*ingest(lakeward, url, folder)), rows)


def ingest(lakeward, url, lake):
    return (lakeward, "ingest", "--until-idle", "--json", "--postgres-url", url, "--lake", lake)


def changes_as_files(lake, folder):
    """Bronze's changes in their order, some in a file, as the Python job is given them; and how many there are."""
    folder.mkdir()
    bronze = DeltaTable(lake / "bronze/lines/public/lines").to_pyarrow_table()
    bronze = bronze.filter(pyarrow.compute.field("_op") != "r").sort_by([("_commit", "ascending"), ("_order", "ascending")])
    columns = ["id", "customer", "status", "amount", "at", "note", "_op", "_commit", "_order"]
    for first in range(0, len(bronze), IN_COMMIT):
        part = bronze.select(columns).slice(first, IN_COMMIT).combine_chunks()
        with pyarrow.ipc.new_file(folder / f"{first:010}.arrow", part.schema) as file:
            file.write_table(part)
    return len(bronze)


def rows_of(table):
    """The table's own columns, by key."""
    return DeltaTable(table).to_pyarrow_table(columns=["id", "customer", "status", "amount", "at", "note"]).sort_by("id")


def decoding(test):
    """Of a test that prints its figures as JSON."""
    command = ["cargo", "test", "--quiet", "--workspace", "--lib", "--profile", harness.PROFILE, "--",
               "--ignored", "--exact", "--nocapture", test]
    run = subprocess.run(command, cwd=harness.ROOT, check=True, capture_output=True, text=True)
    return json.loads(re.search(r"^\{.*\}$", run.stdout, re.MULTILINE)[0])


with harness.place() as (lakeward, url, folder):
    # Else the program starts a server of its own for it, whose work would count as the program's.
    os.environ["LAKEWARD__CONTROL__URL"] = harness.database(url, "control")
    results = {"decoding": decoding("assembler::speed::decoding"),
               "decoding_debezium": decoding("debezium::speed::decoding"),
               "decoding_avro": decoding("debezium::speed::decoding_avro")}

    narrow = harness.database(url, "narrow")
    harness.sql(narrow, NARROW)
    results["copy_narrow"] = copied(lakeward, narrow, folder / "narrow", COPIED)
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", narrow)
    harness.sql(url, "drop database narrow")

    lines, lake = harness.database(url, "lines"), folder / "lake"
    harness.sql(lines, LINES)
    results["copy_lines"] = copied(lakeward, lines, lake, ROWS)
    # The Python job begins with the same silver table.
    python = folder / "python"
    subprocess.run(["cp", "-r", lake / "silver/lines/public/lines", python], check=True)

    harness.sql(lines, STREAM)
    before = harness.bytes_of(lake)
    streamed = harness.run(*ingest(lakeward, lines, lake))
    written = harness.bytes_of(lake) - before
    changes = changes_as_files(lake, folder / "changes")
    results["stream"] = {**harness.per_second(streamed, changes), "bytes_written_per_change": round(written / changes)}

    before = harness.bytes_of(python)
    job = harness.run(sys.executable, harness.ROOT / "bench/capture/python_job.py", folder / "changes", python, folder / "bronze")
    written = harness.bytes_of(python) - before + harness.bytes_of(folder / "bronze")
    results["python_job"] = {**harness.per_second(job, changes), "bytes_written_per_change": round(written / changes)}
    results["same_silver"] = rows_of(lake / "silver/lines/public/lines").equals(rows_of(python))
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", lines)
    harness.save("capture", results)
