"""The service under load: a real server process, real clients; writes JSON and a table.

    python benchmarks/serve.py [MODEL.safetensors] --json docs/figures/serve.json \
        --page docs/serving.md

Without a model a small untrained network serves: what is measured is the service, and a model adds
its own time. Every answer is compared with the one that the same section got alone, so a batch
that mixes up its sections is an error too. `--draw` only writes the table of a JSON file again.
"""

import argparse
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from pages import fill

from diapir.io.atomic import write_text_atomic
from diapir.io.images import encode_png
from diapir.runs.machine import describe_machine

DIFFERENT = 24  # sections, in three sizes
SIZES = ((101, 101), (128, 128), (101, 202))
HEADERS = {"Content-Type": "image/png"}
PATH = "/predict?output=probabilities"
START_S, STOP_S = 900, 300


def small_model(folder):
    """Write a small untrained network as a model file."""
    from diapir.config import parse_recipe
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    table = {"encoder": "scratch", "scratch_channels": [8, 16, 32], "decoder_channels": [16, 8]}
    recipe = parse_recipe({"name": "small", "model": table}, where="benchmark")
    save_model(folder / "small.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return folder / "small.safetensors"


class Server:
    """`diapir serve` in a process of its own, on any free port of this machine."""

    def __init__(self, model, log, *options, headers=()):
        self.headers = {**HEADERS, **dict(headers)}
        command = [sys.executable, "-m", "diapir", "serve", model, "--port", "0"]
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(  # noqa: S603
                list(map(str, [*command, *options])), stdout=stream, stderr=stream
            )
        self.port = self._wait()

    def _wait(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_text()):
                return int(found[1])
            time.sleep(0.1)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")

    def connect(self):
        """Return a connection to it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def stop(self):
        """End it as an operator does; return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


def sections():
    """Return PNG files of random sections."""
    rng = np.random.default_rng(0)
    return [
        encode_png(rng.integers(0, 256, SIZES[k % len(SIZES)], np.uint8)) for k in range(DIFFERENT)
    ]


def ask(server, connection, body):
    """Send a section; return status, bytes and headers of the answer."""
    connection.request("POST", PATH, body, server.headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


class Load:
    """Clients that share out requests; each has one request under way at a time."""

    def __init__(self, server, bodies, expected, count):
        self.server, self.bodies, self.expected = server, bodies, expected
        self.left = iter(range(count))
        self.lock = threading.Lock()
        self.seconds, self.errors, self.refused = [], [], 0

    def client(self):
        """Send requests until none is left."""
        connection = self.server.connect()
        while True:
            with self.lock:
                number = next(self.left, None)
            if number is None:
                connection.close()
                return
            which = number % len(self.bodies)
            started = time.perf_counter()
            try:
                error = self._once(connection, which)
            except (OSError, http.client.HTTPException, ValueError) as failed:
                error = repr(failed)
                connection.close()
            taken = time.perf_counter() - started
            with self.lock:
                self.seconds.append(taken)
                if error:
                    self.errors.append(error)

    def _once(self, connection, which):
        status, content, headers = ask(self.server, connection, self.bodies[which])
        while status == 503:
            with self.lock:
                self.refused += 1
            time.sleep(int(headers["Retry-After"]))
            status, content, headers = ask(self.server, connection, self.bodies[which])
        if status != 200:
            return f"{status}: {content[:200]!r}"
        probs = np.load(BytesIO(content), allow_pickle=False)
        if not np.allclose(probs, self.expected[which], atol=1e-4):
            return "another answer than alone"
        return None


def measure(server, clients, count):
    """Return what clients saw of a server."""
    bodies, connection, expected, alone = sections(), server.connect(), [], []
    for body in bodies:
        started = time.perf_counter()
        status, content, _ = ask(server, connection, body)
        alone.append(time.perf_counter() - started)
        assert status == 200, content
        expected.append(np.load(BytesIO(content), allow_pickle=False))
    connection.close()
    before = metrics(server)
    load = Load(server, bodies, expected, count)
    threads = [threading.Thread(target=load.client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    after = metrics(server)
    grown = {name: after[name] - before[name] for name in after}
    p50, p95, p99 = (float(p) for p in np.percentile(load.seconds, [50, 95, 99]))
    return {
        "clients": clients,
        "requests": len(load.seconds),
        "errors": len(load.errors),
        "first_errors": load.errors[:3],
        "refused_and_sent_again": load.refused,
        "seconds": seconds,
        "requests_a_second": len(load.seconds) / seconds,
        "alone_ms": 1000 * float(np.median(alone)),
        "p50_ms": 1000 * p50,
        "p95_ms": 1000 * p95,
        "p99_ms": 1000 * p99,
        "max_ms": 1000 * max(load.seconds),
        "sections_a_batch": len(load.seconds) / grown["diapir_batch_sections_count"],
        "model_share": grown["diapir_model_seconds_total"] / seconds,
    }


def metrics(server):
    """Return the metrics without labels."""
    connection = server.connect()
    connection.request("GET", "/metrics", headers=server.headers)
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(number) for name, number in re.findall(r"^(diapir_\w+) (\S+)$", text, re.M)}


def measure_alone(model, folder, clients, count, options):
    """Return what clients saw of a server that is started for them and ends well."""
    server = Server(model, folder / "server.log", *options)
    try:
        found = measure(server, clients, count)
    finally:
        ended = server.stop()
    assert ended == -signal.SIGTERM, (ended, server.log.read_text())
    return {"options": " ".join(options), **found}


def table(found):
    """Return the lines that go onto the page."""
    yield (
        f"`{found['command']}`: {found['model']}; clients and server on one machine, "
        f"{found['machine']}, with a load average of {found['load_before']:.1f} from other work "
        "before it began. *Alone* is the median of a request that is the only one."
    )
    yield ""
    yield (
        "| options | clients | requests | errors | 503, sent again | requests/s | alone, ms "
        "| p50, ms | p95, ms | p99, ms | longest, ms | sections a batch |"
    )
    yield "|---|" + "---:|" * 11
    for run in found["runs"]:
        cells = [f"`{run['options']}`" if run["options"] else "default"]
        cells += [f"{run[key]:,}" for key in ("clients", "requests", "errors")]
        cells += [f"{run['refused_and_sent_again']:,}", f"{run['requests_a_second']:.0f}"]
        cells += [f"{run[f'{key}_ms']:.0f}" for key in ("alone", "p50", "p95", "p99", "max")]
        yield f"| {' | '.join(cells)} | {run['sections_a_batch']:.1f} |"


def draw(found, page):
    """Put the table between the two marks on a page."""
    text = "\n".join(table(found))
    write_text_atomic(page, fill(page.read_text(encoding="utf-8"), "load", text))


def main():
    """Measure, write, and fail where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--compare", action="store_true", help="also without batches")
    parser.add_argument("--json", type=Path, help="written")
    parser.add_argument("--page", type=Path, help="its table is replaced")
    parser.add_argument("--draw", type=Path, help="JSON of an earlier run: only draw its table")
    chosen = parser.parse_args()
    if chosen.draw:
        draw(json.loads(chosen.draw.read_text()), chosen.page)
        return
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="diapir-serve-") as name:
        folder = Path(name)
        model = chosen.model or small_model(folder)
        runs = [
            measure_alone(model, folder, chosen.clients, chosen.requests, options)
            for options in ([], ["--batch-size", "1"])[: 1 + chosen.compare]
        ]
    found = {
        "command": shlex.join(["python", "benchmarks/serve.py", *sys.argv[1:]]),
        "model": chosen.model.name if chosen.model else "a small untrained network",
        "machine": describe_machine(),
        "load_before": load_before,
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if chosen.json:
        write_text_atomic(chosen.json, json.dumps(found, indent=2) + "\n")
    if chosen.page:
        draw(found, chosen.page)
    sys.exit(any(run["errors"] for run in runs))


if __name__ == "__main__":
    main()
