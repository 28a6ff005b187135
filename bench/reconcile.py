"""How long the proof takes on a table of ten million rows, and how much memory, while an ingester runs and rows change.

Run by `make bench`, on a quiet machine; `ROWS` sets another size. The second run finds and repairs 1,000 rows that
changed while their table was out of the publication.
"""

import contextlib
import os
import subprocess
import threading
import time

import psycopg

import harness

ROWS, WRITES_A_SECOND, DIFFERENCES = int(os.environ.get("ROWS", 10_000_000)), 300, 1_000


@contextlib.contextmanager
def ingesting(lakeward, url, lake):
    """An ingester that keeps up with single-row changes; yields a list that will hold how many there were."""
    ingester = subprocess.Popen([lakeward, "ingest", "--postgres-url", url, "--lake", lake], stderr=subprocess.DEVNULL)
    while not harness.sql(url, "select 1 from pg_replication_slots where active"):
        time.sleep(0.1)
    ended, written = threading.Event(), []

    def write():
        with psycopg.connect(url, autocommit=True) as connection:
            began, count = time.monotonic(), 0
            while not ended.is_set():
                connection.execute("update readings set amount = amount + 1 where id = %s", [count * 7919 % ROWS + 1])
                count += 1
                time.sleep(max(0, began + count / WRITES_A_SECOND - time.monotonic()))
            written.append((count, count / (time.monotonic() - began)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield written
    finally:
        ended.set()
        writer.join()
        ingester.terminate()
        ingester.wait()


def measured(run):
    table = run["answer"]["tables"][0]
    return {**{key: run[key] for key in ("seconds", "cpu_seconds", "peak_mib")}, "rows": table["lake_rows"],
            "rows_per_second": round(table["lake_rows"] / run["seconds"]), "differing": table["differing"],
            **({"repair": table["repair"]} if "repair" in table else {})}


with harness.place() as (lakeward, url, folder):
    shop, lake, results = harness.database(url, "shop"), folder / "lake", {}
    harness.sql(shop, f"""
        create table readings(id bigint primary key, customer int, amount numeric(12,2), at timestamptz);
        insert into readings select i, i % 100000, i % 9973 / 100.0, timestamptz '2026-01-01' + i * interval '1 second'
          from generate_series(1, {ROWS}) i;
        analyze readings""")
    ingest = harness.run(lakeward, "ingest", "--until-idle", "--json", "--postgres-url", shop, "--lake", lake)
    results["copy"] = {key: ingest[key] for key in ("seconds", "cpu_seconds", "peak_mib")}

    reconcile = (lakeward, "reconcile", "--json", "--postgres-url", shop, "--lake", lake)
    with ingesting(lakeward, shop, lake) as written:
        results["equal_while_rows_change"] = measured(harness.run(*reconcile))
    results["changes"] = {"rows": written[0][0], "rows_per_second": round(written[0][1])}

    harness.sql(shop, "alter publication lakeward_shop drop table readings")
    harness.sql(shop, f"update readings set amount = amount - 1 where id % {ROWS // DIFFERENCES} = 7")
    harness.sql(shop, "alter publication lakeward_shop add table readings")
    results["repair"] = measured(harness.run(*reconcile, "--repair"))
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", shop)
    harness.save("reconcile", results)
