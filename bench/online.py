"""Feature tables into Redis: entities a second, what they take there, and how fast they are read.

Run by `make bench`, on a quiet machine. Made-up tables of CUSTOMERS=1000000 customers with 20 products each, and a tenth as
many products; Redis runs on the same machine, started by the measurement itself.
"""

import json
import os
import subprocess

import harness

environment = {**os.environ, "LAKEWARD_CUSTOMERS": os.environ.get("CUSTOMERS", "1000000")}
command = ["cargo", "test", "--quiet", "--workspace", "--profile", harness.PROFILE, "--test", "online"]
told = subprocess.run(
    [*command, "--", "--ignored", "--exact", "scale::scale", "--nocapture"],
    cwd=harness.ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True,
).stdout
harness.save("online", json.loads(next(line for line in told.splitlines() if line.startswith("{"))))
