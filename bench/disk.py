"""How much disk a lake takes over what it holds, while a shop lives in it: 200 orders a second for half an hour.

Run by `make bench`; nothing is timed, so the machine need not be quiet. Every 30 s the size of all the lake's files is put
beside that of the files its tables have now. The rest is past states that stay readable, and what the next clean-up takes
out. `MINUTES` sets another length.
"""

import os
import pathlib
import signal
import subprocess
import time

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

import harness

MINUTES, RATE = int(os.environ.get("MINUTES", 30)), 200


def size(path):
    """Of a file that maintenance may be taking away."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sizes(lake):
    """Bytes of all files, and of those that the newest versions of the tables name."""
    live = 0
    for log in lake.rglob("_delta_log"):
        try:
            actions = DeltaTable(log.parent).get_add_actions(flatten=True)
            live += sum(size for size in actions.column("size_bytes").to_pylist())
        except TableNotFoundError:
            continue
    return sum(size(path) for path in pathlib.Path(lake).rglob("*") if path.is_file()), live


with harness.place() as (lakeward, url, folder):
    os.environ["LAKEWARD__CONTROL__URL"] = harness.database(url, "control")
    shop, lake, samples = harness.database(url, "shop"), folder / "lake", []
    harness.run(lakeward, "simulate", "seed", "--json", "--postgres-url", shop)
    connection = ("--postgres-url", shop)
    ingest = subprocess.Popen([lakeward, "ingest", "--json", *connection, "--lake", lake],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    load = subprocess.Popen(
        [lakeward, "simulate", "run", "--json", "--rate", str(RATE), "--orders", str(RATE * 60 * MINUTES), *connection],
        stdout=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while load.poll() is None:
            time.sleep(30)
            disk, live = sizes(lake)
            if live:
                samples.append({"minute": round((time.monotonic() - began) / 60, 1), "disk_mib": round(disk / 2**20, 1),
                                "live_mib": round(live / 2**20, 1), "ratio": round(disk / live, 2)})
    finally:
        load.terminate()
        ingest.send_signal(signal.SIGTERM)
        ingest.wait()
    harness.run(lakeward, "source", "drop", "--json", *connection)
    ratios = [sample["ratio"] for sample in samples]
    harness.save("disk", {"orders_a_second": RATE, "most": max(ratios), "last": ratios[-1], "samples": samples})
