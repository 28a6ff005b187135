"""Lakeward's services of docker-compose.yml, run natively, and the dashboard of what Prometheus saw of them.

What the compose file says of each is what runs here: its command and its environment, with the addresses of `make stack`
instead of the containers' names. For MINUTES=6 a client stands for the shop's pages: it sends behaviour events, a few of
which break their contract, and asks for profiles and lists. Then every panel's own queries are put to Prometheus and drawn
where the panel is, into docs/dashboard.png. Grafana itself does not run here.

Needs `prometheus` on PATH (Debian: apt-get install prometheus).
"""

import contextlib
import http.client
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import uuid

import confluent_kafka
import matplotlib.dates
import matplotlib.pyplot as plt
import yaml

import harness

MINUTES = float(os.environ.get("MINUTES", 6))
# The services that end when they have done their work.
ONCE = ("seed", "connectors")
# matplotlib counts time in days.
DAY = 86_400
COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#ff7383", "#8ab8ff", "#c0d8a0"]


def settings():
    lines = (harness.ROOT / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Roles:
    """The services of Lakeward's own image."""

    def __init__(self, services, folder, lakeward):
        self.variables, self.folder, self.lakeward = settings(), folder, lakeward
        self.ports = {name: harness.free_port() for name in ("serve:8080", "validate:9465", "events:9465")}
        minio = services["storage"]
        self.variables |= {"MINIO_ROOT_USER": minio["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": minio["AWS_SECRET_ACCESS_KEY"]}
        postgres = services["postgres"].split("/shop?")[0]
        self.instead = {
            f"postgres://postgres:{self.variables['POSTGRES_PASSWORD']}@postgres:5432": postgres,
            "kafka:29092": services["kafka"], "http://connect:8083": services["connect"],
            "http://minio:9000": services["minio"], "redis:6379": services["redis"],
            "/contracts/": f"{harness.ROOT}/contracts/",
        }
        compose = yaml.safe_load((harness.ROOT / "docker-compose.yml").read_text())["services"]
        self.services = {name: one for name, one in compose.items() if one.get("image") == "lakeward"}

    def native(self, name, text):
        text = re.sub(r"\$\{(\w+)\}", lambda found: self.variables[found[1]], text).replace("$$", "$")
        for there, here in self.instead.items():
            text = text.replace(there, here)
        return re.sub(r"0\.0\.0\.0:(\d+)", lambda found: f"127.0.0.1:{self.ports[f'{name}:{found[1]}']}", text)

    def start(self, name):
        service = self.services[name]
        given = {key: self.native(name, value) for key, value in service["environment"].items()}
        path = {"PATH": f"{self.lakeward.parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
        command = [*service.get("entrypoint", ["lakeward"]), *service["command"]]
        output = open(self.folder / f"{name}.log", "w")
        return subprocess.Popen(
            [self.native(name, part) for part in command], env={**path, **given}, cwd=self.folder,
            stdout=output, stderr=output, start_new_session=True)


@contextlib.contextmanager
def prometheus(folder, ports):
    """Reads the targets of the compose file's, where they are here; gives its own port."""
    if not shutil.which("prometheus"):
        raise SystemExit("there is no `prometheus` on PATH: apt-get install prometheus")
    source, port = harness.ROOT / "deploy/prometheus", harness.free_port()
    text = (source / "prometheus.yml").read_text()
    for there, here in ports.items():
        text = text.replace(there, f"127.0.0.1:{here}")
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(source / "alerts.yml", folder)
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        harness.wait_answering(port, "/-/ready")
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port, path, method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read() or "null")


def visit(port, producer, number):
    """What one page view of a customer does. Each fiftieth event comes from a service that knows no contract."""
    user, product = number % 500 + 1, number % 300 + 1
    event = json.dumps({
        "event_id": str(uuid.UUID(int=number)), "event_type": "view" if number % 3 else "cart", "user_id": user,
        "product_id": product, "category_id": 1, "category_code": "made.up", "price": 9.5 if number % 50 else -1,
        "event_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "user_session": str(uuid.UUID(int=user)),
    })
    if number % 50:
        ask(port, "/api/v1/events", "POST", event)
    else:
        producer.produce("tracking.raw_user_behavior", event, str(user))
        producer.poll(0)
    for path in ("", "/recommendations?k=10", "/orders?limit=5", "/features", "/churn"):
        ask(port, f"/api/v1/customers/{user}{path}")
    ask(port, f"/api/v1/products/{product}/similar")


def shop_pages(port, brokers):
    """Visitors, one after another, and somebody who looks at the revenue as it comes."""
    live = http.client.HTTPConnection("127.0.0.1", port)
    live.request("GET", "/api/v1/revenue/stream")
    producer = confluent_kafka.Producer({"bootstrap.servers": brokers})
    ended = time.monotonic() + MINUTES * 60
    for number in itertools.takewhile(lambda _: time.monotonic() < ended, itertools.count()):
        visit(port, producer, number)
        time.sleep(0.05)
    producer.flush()
    live.close()


def queried(port, query, began, ended):
    asked = urllib.parse.urlencode({"query": query, "start": began, "end": ended, "step": 5})
    status, answer = ask(port, f"/api/v1/query_range?{asked}")
    if status != 200:
        raise SystemExit(f"Prometheus refuses {query}: {answer['error']}")
    return answer["data"]["result"]


def scale(unit, most):
    """By what values are divided to be read, and what they then are."""
    if unit in ("bytes", "Bps"):
        power = min(3, int(math.log(max(most, 1), 1024)))
        return 1024**power, ["B", "KiB", "MiB", "GiB"][power] + ("/s" if unit == "Bps" else "")
    if unit == "s":
        return (1, "s") if most >= 1 else (1e-3, "ms")
    return 1, {"ops": "1/s", "reqps": "1/s"}.get(unit, "")


def draw(axes, panel, port, began, ended):
    """One panel; tells whether there was anything to show."""
    series = []
    for target in panel["targets"]:
        for found in queried(port, target["expr"], began, ended):
            name = re.sub(r"\{\{(\w+)\}\}", lambda label: found["metric"].get(label[1], ""), target["legendFormat"])
            points = [(at, float(value)) for at, value in found["values"] if math.isfinite(float(value))]
            if points:
                series.append((name, points))
    axes.set_title(panel["title"], loc="left", color="#d8d9da", fontsize=10)
    if not series:
        axes.text(0.5, 0.5, "No data", color="#8e8e8e", ha="center", transform=axes.transAxes)
    divisor, unit = scale(panel["fieldConfig"]["defaults"].get("unit"),
                          max((value for _, points in series for _, value in points), default=1))
    for (name, points), color in zip(sorted(series), COLORS * 9):
        days, values = zip(*((at / DAY, value / divisor) for at, value in points))
        axes.plot(days, values, color=color, linewidth=1.2, label=name)
    axes.set_xlim(began / DAY, ended / DAY)
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
    axes.set_ylabel(unit, color="#8e8e8e", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors="#8e8e8e", labelsize=8)
    axes.grid(color="#2c3235", linewidth=0.6)
    axes.set_facecolor("#181b1f")
    for spine in axes.spines.values():
        spine.set_color("#2c3235")
    if series:
        axes.legend(loc="upper left", fontsize=6, frameon=False, labelcolor="#c7d0d9", ncols=2)
    return bool(series)


def picture(port, began, ended):
    """All panels where the dashboard has them; gives the titles of those without anything."""
    panels = json.loads((harness.ROOT / "deploy/grafana/dashboards/lakeward.json").read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) // 8
    figure = plt.figure(figsize=(14, 2.2 * rows), facecolor="#111217")
    grid = figure.add_gridspec(rows, 24, hspace=0.55, wspace=3, left=0.06, right=0.98, top=0.97, bottom=0.03)
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        axes = figure.add_subplot(grid[place["y"] // 8, place["x"]:place["x"] + place["w"]])
        if not draw(axes, panel, port, began, ended):
            empty.append(panel["title"])
    figure.savefig(harness.ROOT / "docs/dashboard.png", dpi=80)
    return empty


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def main():
    lakeward, running = harness.build() / "lakeward", {}
    with harness.room() as folder:
        with harness.stack(folder / "stack") as services:
            harness.database(services["postgres"], "control")
            roles = Roles(services, folder, lakeward)
            with prometheus(folder, roles.ports) as port:
                try:
                    for name in ONCE:
                        if roles.start(name).wait() != 0:
                            raise SystemExit(f"{name}: {(folder / f'{name}.log').read_text()}")
                    # Others wait until it is healthy.
                    running["serve"] = roles.start("serve")
                    harness.wait_answering(roles.ports["serve:8080"], "/livez")
                    running |= {name: roles.start(name) for name in roles.services if name not in ("serve", *ONCE)}
                    began = time.time()
                    shop_pages(roles.ports["serve:8080"], services["kafka"])
                    for name, role in running.items():
                        if role.poll() is not None:
                            raise SystemExit(f"{name} has ended: {(folder / f'{name}.log').read_text()}")
                    print(f"docs/dashboard.png; without anything to show: {picture(port, began, time.time())}")
                finally:
                    for role in running.values():
                        end(role)


main()
