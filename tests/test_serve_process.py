"""The service as its users meet it: a real process, real sockets, load, and requests from its
own OpenAPI that nobody thought of."""

import contextlib
import importlib.util
import signal
import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from diapir.errors import RunError
from diapir.io.images import encode_png
from diapir.io.sections import encode_npy
from diapir.serve.address import listen

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "serve.py"
TOKEN = "a-token-of-twenty-two"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_serve", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(benchmark, model, tmp_path_factory):
    """One server for all tests that leave it running; it must end as it should."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "token").write_text(TOKEN)
    (folder / "surveys").mkdir()
    np.save(folder / "surveys" / "section.npy", np.random.default_rng(0).normal(size=(40, 40)))
    server = benchmark.Server(
        model, folder / "log.txt", "--surveys", folder / "surveys", "--jobs", folder / "jobs",
        "--token-file", folder / "token", "--max-mib", 1, headers=BEARER,
    )  # fmt: skip
    yield server
    assert server.stop() == -signal.SIGTERM, server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_load(server, benchmark):
    """A small run of the benchmark, which compares every answer with that of the section alone."""
    found = benchmark.measure(server, clients=8, count=120)
    assert (found["requests"], found["errors"], found["clients"]) == (120, 0, 8), found
    assert found["sections_a_batch"] > 1.2
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_the_table_replaces_the_one_before(benchmark, tmp_path):
    keys = ("clients", "requests", "errors", "refused_and_sent_again", "requests_a_second",
            "alone_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "sections_a_batch")  # fmt: skip
    run = {key: number for number, key in enumerate(keys)}
    found = {"command": "c", "model": "m", "machine": "x", "load_before": 1.0,
             "runs": [{"options": "", **run}]}  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text("a <!-- load:begin -->\nold\n<!-- load:end --> b")
    benchmark.draw(found, page)
    text = page.read_text()
    assert "| default | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10.0 |" in text
    assert "old" not in text
    assert (text[:2], text[-2:]) == ("a ", " b")


def exchange(server, head, *parts):
    """Send bytes as they are; return what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as stream:
        stream.sendall(head.replace(b"\n", b"\r\n"))
        for part in parts:
            try:
                stream.sendall(part)
            except OSError:  # it has closed its end
                break
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while data := stream.recv(65536):
                found += data
    return found


HEAD = f"""POST /predict HTTP/1.1
Host: localhost
Authorization: Bearer {TOKEN}
Content-Type: image/png
""".encode()


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    found = exchange(server, HEAD + b"Content-Length: 2000000000\n\n")
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b'"expected":"at most 1,048,576 bytes"' in found


def test_a_chunked_body_is_refused_where_it_grows_too_large(server):
    head = HEAD + b"Transfer-Encoding: chunked\nConnection: close\n\n"
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    found = exchange(server, head, *[chunk] * 17)
    assert found.startswith(b"HTTP/1.1 413 ")


def test_who_reads_nothing_keeps_the_seat_until_it_goes(server, benchmark):
    body = encode_png(np.zeros((1500, 1500), np.uint8))  # 9 MB come back, beyond what sockets hold
    head = HEAD.replace(b"/predict", b"/predict?output=probabilities")
    head += f"Content-Length: {len(body)}\n\n".encode()

    def seats():
        return benchmark.metrics(server)["diapir_queue_sections"]

    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.sendall(head.replace(b"\n", b"\r\n") + body)
        assert stream.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)
        assert seats() == 1
    deadline = time.monotonic() + 30
    while seats():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("path", [b"/../../etc/passwd", b"//etc/passwd", b"/%00", b"/\xff", b"*"])
def test_odd_paths(server, path):
    head = b"GET " + path + b" HTTP/1.1\nHost: localhost\nConnection: close\n"
    found = exchange(server, head + f"Authorization: Bearer {TOKEN}\n\n".encode())
    assert found.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))
    assert b"root:" not in found


def test_ctrl_c_ends_it_after_the_request_under_way(benchmark, model, tmp_path):
    server = benchmark.Server(model, tmp_path / "log.txt")
    body = encode_png(np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8))
    answers = []

    def ask():
        connection = server.connect()
        answers.append(benchmark.ask(server, connection, body)[:2])
        connection.close()

    client, held = threading.Thread(target=ask), 0
    client.start()
    while not held and not answers:
        held = benchmark.metrics(server)["diapir_queue_sections"]
    assert held == 1
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(300) == 130
    client.join()
    assert answers[0][0] == 200
    assert np.load(BytesIO(answers[0][1])).shape == (1000, 1000)
    assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_told():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port}"):
            listen("127.0.0.1", port)
    with pytest.raises(RunError, match="cannot listen"):
        listen("no.such.host.invalid", 0)


def as_file(kind):
    """Sections as files of one kind."""
    arrays = st.integers(0, 1 << 30).map(
        lambda seed: np.random.default_rng(seed).integers(1, 256, (9, 7), np.uint8)
    )

    def encode(array):
        if kind == "npy":
            return encode_npy(array.astype(np.float32))
        if kind == "png":
            return encode_png(array)
        stream = BytesIO()
        Image.fromarray(array).save(stream, "TIFF")
        return stream.getvalue()

    return arrays.map(encode)


schemathesis.openapi.media_type("image/png", as_file("png"))
schemathesis.openapi.media_type("image/tiff", as_file("tiff"))
schemathesis.openapi.media_type("application/x-npy", as_file("npy"))
schemathesis.openapi.media_type("application/octet-stream", as_file("npy"))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_requests_from_the_openapi(server, mode):
    """No server error, and no status, type or body that the OpenAPI does not tell of."""
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=BEARER)
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        strategy = _strategy(operation, mode)
        if strategy is None:
            continue

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=strategy)
        def check(case):
            tried.add(case.operation.label)
            case.call_and_validate(
                base_url=url,
                headers=BEARER,
                # a model by an invented name is rightly 404; and what is wrong may be nothing any
                # more once it is sent, such as an empty list in a query, or the token left out
                excluded_checks=[positive_data_acceptance, negative_data_rejection],
            )

        check()
    assert {"POST /predict", "POST /jobs", "GET /jobs/{id}"} <= tried


def _strategy(operation, mode):
    """Requests of an operation; None where it takes nothing that could be wrong."""
    positive = mode is schemathesis.GenerationMode.POSITIVE
    if not positive and operation.path in ("/health", "/metrics", "/models"):
        return None
    if not positive and operation.label == "GET /jobs":
        return None
    return operation.as_strategy(generation_mode=mode)
