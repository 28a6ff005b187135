"""How long a recommendation takes at the border of HTTP: one client after the other, then four at once.

Run by `make bench`, on a quiet machine; the clients run on the same one. Complete Journey, its own recommender.
"""

import http.client
import random
import subprocess
import threading
import time

import harness

REQUESTS = 2_000


def percentile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(share * len(values)))] * 1000, 2)


def ask(port, path, count, seed, waits):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    chance = random.Random(seed)
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", path.format(customer=chance.choice(customers)))
        answer = connection.getresponse()
        answer.read()
        waits.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status


def measure(port, path, clients):
    waits = []
    began = time.monotonic()
    threads = [threading.Thread(target=ask, args=(port, path, REQUESTS // clients, seed, waits)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"requests": len(waits), "clients": clients, "per_second": round(len(waits) / (time.monotonic() - began)),
            "p50_ms": percentile(waits, 0.5), "p99_ms": percentile(waits, 0.99)}


with harness.place() as (lakeward, url, folder):
    real = harness.database(url, "real")
    lake = folder / "lake"
    harness.run(lakeward, "simulate", "import", "complete-journey", harness.WHEEL, "--json", "--postgres-url", real)
    customers = [user_id for (user_id,) in harness.sql(real, "SELECT user_id FROM users ORDER BY user_id")]
    harness.run(lakeward, "ingest", "--until-idle", "--json", "--postgres-url", real, "--lake", lake)
    trained = harness.run(lakeward, "train", "recommender", "--json", "--lake", lake)
    harness.run(lakeward, "train", "churn", "--json", "--lake", lake)

    port = harness.free_port()
    server = subprocess.Popen(
        [lakeward, "serve", "--stream-time", "--lake", lake, "--address", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL
    )
    try:
        harness.wait_answering(port, "/readyz")
        recommendations = "/api/v1/customers/{customer}/recommendations?k=10"
        results = {"train_recommender": {key: trained[key] for key in ("seconds", "cpu_seconds", "peak_mib")}}
        for name, path in [
            ("recommendations", recommendations),
            ("recommendations_explained", recommendations + "&explain=true"),
            ("profile", "/api/v1/customers/{customer}"),
            ("churn", "/api/v1/customers/{customer}/churn"),
        ]:
            measure(port, path, 1)
            results[name] = [measure(port, path, clients) for clients in (1, 4)]
    finally:
        server.terminate()
        server.wait()
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", real)
    harness.save("serve", results)
