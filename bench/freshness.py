"""How soon an order is seen: by an outside HTTP client, and in silver, at 10, 100 and 500 orders a second.

Run by `make bench`, on a quiet machine, where server, shop and client share the cores: first with the shop's log read
directly into a folder, then with STACK=1 by Debezium and Kafka into MinIO. The simulator places most orders;
ten a second are this client's own, and are the ones that are measured: from COMMIT's return to the first answer that
holds the order (asked every 5 ms, at most 30 s), and to the first watermark beyond it (looked for every 100 ms).
`SECONDS` sets how long each rate lasts.
"""

import concurrent.futures
import http.client
import json
import os
import random
import subprocess
import threading
import time

import psycopg
from deltalake import DeltaTable

import harness

SECONDS, OWN, GIVE_UP = int(os.environ.get("SECONDS", 60)), 10, 30
ORDER = """
with placed as (
  insert into orders (user_id, total_amount, status, created_at) values (%(user)s, 5, 'placed', now()) returning order_id
) insert into order_items (order_id, product_id, quantity, price_per_unit)
  select order_id, %(product)s, 1, 5 from placed returning order_id"""


def place_order(connection, chance):
    """Gives the order's number, its customer, when COMMIT returned, and a position in the log beyond it."""
    while True:
        user = chance.choice(users)
        try:
            [(order,)] = connection.execute(ORDER, {"user": user, "product": chance.choice(products)}).fetchall()
        except psycopg.errors.ForeignKeyViolation:
            continue  # A customer or product that the simulator has removed.
        break
    committed = time.monotonic()
    [(position,)] = connection.execute("select (pg_current_wal_insert_lsn() - '0/0')::int8").fetchall()
    return order, user, committed, position


def until_answered(port, order, user, committed):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while time.monotonic() - committed < GIVE_UP:
        connection.request("GET", f"/api/v1/customers/{user}/orders?limit=20")
        shown = json.load(connection.getresponse())["orders"]
        if any(one["order_id"] == order for one in shown):
            return time.monotonic() - committed
        time.sleep(0.005)
    return GIVE_UP


def watch_watermarks(lake, storage, seen, ended):
    """Notes when the newest watermark was first seen, and its position."""
    table = DeltaTable(f"{lake}/ops/watermarks", storage_options=storage)
    while not ended.is_set():
        version = table.version()
        table.update_incremental()
        if table.version() != version or not seen:
            newest = table.to_pyarrow_table(columns=["lsn"])["lsn"]
            seen.append((time.monotonic(), max(value.as_py() for value in newest)))
        time.sleep(0.1)


def percentiles(waits):
    waits = sorted(waits)
    at = lambda share: round(waits[min(len(waits) - 1, int(share * len(waits)))] * 1000, 1)
    missed = sum(wait >= GIVE_UP for wait in waits)
    return {"orders": len(waits), "given_up": missed, "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}


def measure(lakeward, shop, lake, storage, port, rate):
    chance, seen, ended, placed = random.Random(rate), [], threading.Event(), []
    watching = threading.Thread(target=watch_watermarks, args=(lake, storage, seen, ended), daemon=True)
    watching.start()
    others = None
    if rate > OWN:
        count = (rate - OWN) * SECONDS
        others = subprocess.Popen(
            [lakeward, "simulate", "run", "--json", "--rate", str(rate - OWN), "--orders", str(count), "--seed", str(rate),
             "--postgres-url", shop], stdout=subprocess.PIPE, text=True)
    with concurrent.futures.ThreadPoolExecutor(64) as pool, psycopg.connect(shop, autocommit=True) as connection:
        began, waits = time.monotonic(), []
        for number in range(OWN * SECONDS):
            time.sleep(max(0, began + number / OWN - time.monotonic()))
            order, user, committed, position = place_order(connection, chance)
            placed.append((committed, position))
            waits.append(pool.submit(until_answered, port, order, user, committed))
        answered = [wait.result() for wait in waits]
    reached = OWN
    if others:
        elapsed = json.loads(others.communicate()[0].splitlines()[-1])["elapsed_seconds"]
        reached += count / elapsed
    while seen[-1][1] < placed[-1][1]:
        time.sleep(0.1)
    ended.set()
    watching.join()
    silver = [next(at for at, lsn in seen if lsn >= position) - committed for committed, position in placed]
    return {"orders_a_second": round(reached, 1), "answer": percentiles(answered), "silver": percentiles(silver)}


def measure_all(lakeward, shop, lake, storage):
    """At each rate, by the shop as it is seeded."""
    harness.run(lakeward, "ingest", "--until-idle", "--json", "--postgres-url", shop, "--lake", lake)
    port = harness.free_port()
    server = subprocess.Popen(
        [lakeward, "serve", "--ingest", "--postgres-url", shop, "--lake", lake, "--address", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        harness.wait_answering(port, "/livez")
        return {f"at_{rate}": measure(lakeward, shop, lake, storage, port, rate) for rate in (10, 100, 500)}
    finally:
        server.terminate()
        server.wait()


def seed(lakeward, shop):
    """Fills the shop; gives its customers and its products."""
    harness.run(lakeward, "simulate", "seed", "--json", "--postgres-url", shop)
    return ([one for (one,) in harness.sql(shop, f"select {key} from {table} order by 1")]
            for table, key in (("users", "user_id"), ("products", "product_id")))


if os.environ.get("STACK"):
    lakeward = harness.build() / "lakeward"
    with harness.room() as folder:
        with harness.stack(folder / "stack") as services:
            shop = services["postgres"]
            os.environ["LAKEWARD__CONTROL__URL"] = harness.database(shop, "control")
            os.environ["LAKEWARD__ONLINE__URL"] = f"redis://{services['redis']}/0"
            users, products = seed(lakeward, shop)
            subprocess.run([lakeward, "connector", "apply", "ecommerce-connector"], check=True)
            harness.save("freshness-stack", measure_all(lakeward, shop, "s3://lakehouse/lake", services["storage"]))
else:
    with harness.place() as (lakeward, url, folder):
        os.environ["LAKEWARD__CONTROL__URL"] = harness.database(url, "control")
        shop = harness.database(url, "shop")
        users, products = seed(lakeward, shop)
        results = measure_all(lakeward, shop, folder / "lake", None)
        harness.run(lakeward, "source", "drop", "--json", "--postgres-url", shop)
        harness.save("freshness", results)
