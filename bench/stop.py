"""How soon an ingester has ended that is told to, and how soon another goes on after `kill -9`.

Run by `make bench`, on a quiet machine. Changes come by Debezium and Kafka at RATE=100 orders a second, the lake is on
MinIO. In each of ROUNDS=10 rounds an ingester runs for ten seconds; first it gets SIGTERM, and the time to its end is measured.
Then one is killed and another started at once: measured is the time to the first watermark in which a row is that was
committed after the kill.
"""

import os
import signal
import subprocess
import time

from deltalake import DeltaTable

import harness

RATE, ROUNDS, RUNS = os.environ.get("RATE", "100"), int(os.environ.get("ROUNDS", 10)), 10
binaries = harness.build()
lakeward, lake = binaries / "lakeward", "s3://lakehouse/lake"


def ingester():
    return subprocess.Popen([lakeward, "ingest", "--lake", lake], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def newest_cut(storage):
    rows = DeltaTable(f"{lake}/ops/watermarks", storage_options=storage).to_pyarrow_table(columns=["lsn"])
    return max(value.as_py() for value in rows["lsn"])


def summary(seconds):
    seconds = sorted(round(second, 2) for second in seconds)
    return {"p50": seconds[len(seconds) // 2], "max": seconds[-1], "all": seconds}


with harness.room() as folder:
    with harness.stack(folder / "stack") as services:
        shop = services["postgres"]
        os.environ["LAKEWARD__CONTROL__URL"] = harness.database(shop, "control")
        harness.run(lakeward, "simulate", "seed", "--small", "--json", "--postgres-url", shop)
        subprocess.run([lakeward, "connector", "apply", "ecommerce-connector"], check=True)
        harness.run(lakeward, "ingest", "--until-idle", "--json", "--lake", lake)
        load = subprocess.Popen(
            [lakeward, "simulate", "run", "--rate", RATE, "--postgres-url", shop],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended, recovered = [], []
        try:
            for _ in range(ROUNDS):
                running = ingester()
                time.sleep(RUNS)
                told = time.monotonic()
                running.send_signal(signal.SIGTERM)
                assert running.wait() == 0
                ended.append(time.monotonic() - told)

                running = ingester()
                time.sleep(RUNS)
                killed = time.monotonic()
                running.kill()
                running.wait()
                [(after,)] = harness.sql(shop, "select (pg_current_wal_insert_lsn() - '0/0')::int8")
                running = ingester()
                while newest_cut(services["storage"]) <= after:
                    assert time.monotonic() - killed < 120, "nothing new comes"
                    time.sleep(0.1)
                recovered.append(time.monotonic() - killed)
                running.send_signal(signal.SIGTERM)
                running.wait()
        finally:
            load.terminate()
            load.wait()
        harness.save("stop", {"orders_a_second": float(RATE), "seconds_to_end": summary(ended), "seconds_to_go_on": summary(recovered)})
