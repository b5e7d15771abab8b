"""The REST service in this process: what it answers, and what it refuses."""

import asyncio
import base64
import contextlib
import json
import threading
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from diapir.cli import app as command_line
from diapir.errors import DataError, DiapirError, ModelFileError, RunError
from diapir.inference.blend import blend_section, blend_sections
from diapir.inference.predict import PredictOptions, Predictor, load_predictor
from diapir.io.images import encode_png, read_mask
from diapir.io.rle import decode_rle
from diapir.io.sections import encode_npy
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet
from diapir.runs.predict import predict_images
from diapir.serve.app import create_app
from diapir.serve.batcher import Batcher
from diapir.serve.metrics import Metrics
from diapir.serve.predict_routes import body_size
from diapir.serve.problems import Refused
from diapir.serve.settings import ServeSettings, check_token, read_token
from diapir.serve.viewer.library import open_library
from diapir.serve.viewer.server import viewer_app

PNG = {"Content-Type": "image/png"}
NPY = {"Content-Type": "application/x-npy"}
TOKEN = "a-token-of-twenty-two"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(tiny_recipe, tmp_path_factory):
    recipe = tiny_recipe()
    path = tmp_path_factory.mktemp("model") / "salt.safetensors"
    save_model(path, SaltNet(recipe.model), ModelCard(recipe, 0.5, metrics={"nan": float("nan")}))
    return path


@contextlib.contextmanager
def serving(model, **settings):
    """A client of a service; its clients call it by the name 'testserver'."""
    settings = {"hosts": ("testserver",), "linger_s": 0.0, **settings}
    app = create_app(ServeSettings(models=(model,), **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(model):
    with serving(model) as client:
        yield client


def problem(answer, status):
    """The problem of an answer, which must be whole and without a trace of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"what", "where", "expected", "mend"}
    assert answer.json()["what"]
    for word in ("Traceback", 'File "', "site-packages", "0x7f"):
        assert word not in answer.text
    return answer.json()


def test_health_models_and_openapi(client):
    assert client.get("/health").json()["status"] == "ok"
    (info,) = client.get("/models").json()
    assert (info["name"], info["threshold"], info["metrics"]) == ("salt", 0.5, {"nan": None})
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/models", "/health", "/metrics"} == set(schema["paths"])
    body = schema["paths"]["/predict"]["post"]["requestBody"]
    assert "16,777,216 pixels" in body["description"]
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_answers_are_those_of_the_predictor(client, model):
    image = RNG.integers(0, 256, (61, 47), np.uint8)
    predictor, _ = load_predictor([model])
    expected = predictor.predict_probs(image[None])[0]
    threshold = float(np.median(expected))

    def send(output):
        answer = client.post(
            "/predict",
            params={"output": output, "threshold": threshold},
            content=encode_png(image),
            headers=PNG,
        )
        assert answer.status_code == 200, answer.text
        return answer

    probs = send("probabilities")
    assert probs.headers["content-type"] == "application/x-npy"
    found = np.load(BytesIO(probs.content), allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    mask = found > threshold
    assert 0 < mask.mean() < 1
    answer = send("mask")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(read_mask(answer.content, "x"), mask)
    lengths = send("rle").json()
    assert np.array_equal(decode_rle(lengths["rle"], (61, 47), "x"), mask)
    assert lengths["salt_share"] == pytest.approx(mask.mean())
    assert (lengths["model"], lengths["threshold"]) == ("salt", threshold)


def test_sections_larger_than_the_window_are_blended(client, model):
    image = RNG.integers(0, 256, (40, 500), np.uint8)
    predictor, _ = load_predictor([model])
    answer = client.post("/predict?output=probabilities", content=encode_png(image), headers=PNG)
    expected = blend_section(image, predictor.predict_probs)
    np.testing.assert_allclose(np.load(BytesIO(answer.content)), expected, atol=1e-5)


def test_a_served_mask_is_that_of_predict_with_its_clean_up(tiny_recipe, tmp_path):
    """A rule that drops most bodies: a threshold alone would give another mask."""
    recipe = tiny_recipe()
    torch.manual_seed(3)
    net = SaltNet(recipe.model)
    image = RNG.integers(0, 256, (60, 44), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    probs = blend_sections(image[None], Predictor([net]).predict_probs)[0]
    middle = float(np.median(probs))
    plain = probs > middle
    for place, rule in enumerate((MaskRule(1.0, 30, 0.0), MaskRule(1.0, 0, 1e6))):
        file = tmp_path / f"{place}.safetensors"
        save_model(file, net, ModelCard(recipe, middle, rule=rule))
        predict_images([file], tmp_path / "a.png", tmp_path / str(place), progress=False)
        expected = (tmp_path / str(place) / "masks" / "a.png").read_bytes()
        with serving(file) as client:
            answer = client.post("/predict", content=(tmp_path / "a.png").read_bytes(), headers=PNG)
        served = np.asarray(Image.open(BytesIO(answer.content)))
        np.testing.assert_array_equal(served, np.asarray(Image.open(BytesIO(expected))))
        assert (served > 0).sum() < plain.sum()


def test_amplitudes_are_brought_to_grey_values_as_map_does(client, model):
    from diapir.inference.sections import SectionSettings, choose_look
    from diapir.io.opening import open_volume

    values = RNG.normal(0, 3000, (64, 48)).astype(np.float32)
    path = model.with_name("section.npy")
    np.save(path, values)
    settings = SectionSettings(clip=(2.0, 95.0), polarity="reverse")
    _, look = choose_look(open_volume(path), settings, [], is_picture=False)
    predictor, _ = load_predictor([model])
    expected = predictor.predict_probs(look.grey(values)[None])[0]
    query = {"clip_low": 2, "clip_high": 95, "polarity": "reverse", "output": "probabilities"}
    answer = client.post("/predict", params=query, content=encode_npy(values), headers=NPY)
    np.testing.assert_allclose(np.load(BytesIO(answer.content)), expected, atol=1e-5)
    tiff = BytesIO()
    Image.fromarray(values).save(tiff, "TIFF")
    kind = {"Content-Type": "image/tiff"}
    again = client.post("/predict", params=query, content=tiff.getvalue(), headers=kind)
    assert again.content == answer.content
    other = client.post("/predict?output=probabilities", content=encode_npy(values), headers=NPY)
    assert other.content != answer.content


def test_a_dead_trace_holds_no_salt_as_in_a_map(client, model):
    from diapir.inference.look import AS_IS
    from diapir.inference.sections import Tiling, predict_section

    values = RNG.uniform(1, 255, (64, 48)).astype(np.float32)
    values[:, 5], values[:, 9] = 0, np.nan
    predictor, _ = load_predictor([model])
    expected = predict_section(values.T, predictor, AS_IS, Tiling()).T
    query = {"normalise": False, "output": "probabilities"}
    answer = client.post("/predict", params=query, content=encode_npy(values), headers=NPY)
    served = np.load(BytesIO(answer.content))
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert np.flatnonzero(~served.any(axis=0)).tolist() == [5, 9]
    query = {"normalise": False, "threshold": 0}
    answer = client.post("/predict", params=query, content=encode_npy(values), headers=NPY)
    mask = np.asarray(Image.open(BytesIO(answer.content)))
    assert np.flatnonzero(~mask.any(axis=0)).tolist() == [5, 9]


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (101, 101)])
def test_any_size_is_answered_in_its_own(client, shape):
    image = np.full(shape, 7, np.uint8)
    answer = client.post("/predict?output=rle", content=encode_png(image), headers=PNG)
    assert (answer.json()["height"], answer.json()["width"]) == shape


BAD_BODIES = {
    "nothing": b"",
    "text": b"hello",
    "url": b"http://169.254.169.254/latest/meta-data",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "cut png": encode_png(np.zeros((9, 9), np.uint8))[:-9],
    "dead section": encode_npy(np.zeros((9, 9), np.float32)),
    "not a number": encode_npy(np.full((9, 9), np.nan)),
    "cut npy": encode_npy(np.zeros((9, 9)))[:-1],
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_files_that_cannot_be_used(client, body):
    kind = {"Content-Type": "application/octet-stream"}
    found = problem(client.post("/predict", content=body, headers=kind), 422)
    assert found["where"] == "the file in the request"


@pytest.mark.parametrize(
    "query",
    [
        "output=tiff",
        "threshold=2",
        "threshold=nan",
        "polarity=up",
        "clip_low=-1",
        "clip_high=1e999",
        "unknown=1",
        "clip_low=90&clip_high=10",
        "normalise=maybe",
    ],
)
def test_queries_that_cannot_be_used(client, query):
    body = encode_npy(RNG.normal(size=(9, 9)))
    problem(client.post(f"/predict?{query}", content=body, headers=NPY), 422)


@pytest.mark.parametrize(
    ("query", "what", "expected"),
    [
        ("output=tiff", "'tiff' cannot be used", "'mask', 'rle' or 'probabilities'"),
        ("threshold=2", "'2' cannot be used", "less than or equal to 1"),
        ("normalise=" + "x" * 900, f"'{'x' * 37}...{'x' * 38}' cannot be used", "a valid boolean"),
        ("unknown=1", "Extra inputs are not permitted", None),
        ("output=x&polarity=up", "'x' cannot be used (and 1 more)", "'mask'"),
        ("clip_high=10&clip_low=90", "'10' cannot be used", "more than clip_low, which is 90"),
    ],
)
def test_wrong_values_are_told_in_their_fields(client, query, what, expected):
    body = encode_npy(RNG.normal(size=(9, 9)))
    found = problem(client.post(f"/predict?{query}", content=body, headers=NPY), 422)
    assert found["where"] == f"query.{query.partition('=')[0]}"
    assert found["what"] == what
    assert (found["expected"] is None) == (expected is None)
    assert expected is None or expected in found["expected"]


def test_percentiles_that_do_not_rise_with_the_default_are_told(client):
    body = encode_npy(RNG.normal(size=(9, 9)))
    found = problem(client.post("/predict?clip_low=99.5", content=body, headers=NPY), 422)
    assert (found["where"], found["what"]) == ("query.clip_high", "99.0 cannot be used")


def test_types_names_methods_and_paths_that_are_not_there(client):
    png = encode_png(np.zeros((9, 9), np.uint8))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (
        "image/png" in problem(client.post("/predict", content=png, headers=form), 415)["expected"]
    )
    problem(client.post("/predict", files={"file": png}), 415)
    problem(client.post("/predict", content=png), 415)
    assert "salt" in problem(
        client.post("/predict?model=../x", content=png, headers=PNG), 404
    )["expected"]  # fmt: skip
    for path in ("/", "/x", "/jobs", "/surveys", "/predict/../../etc/passwd", "/static/x"):
        problem(client.get(path), 404)
    answer = client.get("/predict")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_every_answer_has_its_security_headers(client):
    for answer in (client.get("/health"), client.get("/x"), client.post("/predict")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_bodies_that_are_too_large_are_not_read(model):
    with serving(model, max_bytes=1000) as client:
        answer = client.post("/predict", content=b"x" * 1001, headers=PNG)
        assert "1,000 bytes" in problem(answer, 413)["expected"]
        read = []

        def chunks():
            for number in range(1000):
                read.append(number)
                yield b"x" * 100

        problem(client.post("/predict", content=chunks(), headers=PNG), 413)
        problem(client.post("/predict", content=b"x" * 1000, headers=PNG), 422)
        problem(client.post("/models", content=b"x" * 70_000), 413)


def test_chunked_bodies_are_not_read_to_their_end(model):
    """Straight through ASGI: the test client hands over a body at once."""
    app = create_app(ServeSettings(models=(model,), max_bytes=1000, hosts=()))
    asked, sent = [], []

    async def receive():
        asked.append(1)
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"image/png"), (b"transfer-encoding", b"chunked")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/predict", "raw_path": b"/predict", "query_string": b"", "headers": headers,
        "scheme": "http", "server": ("x", 80), "client": ("y", 1), "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert len(asked) == 3
    asked.clear()
    sent.clear()
    declared = {**scope, "headers": [(b"content-type", b"image/png"), (b"content-length", b"9999")]}
    asyncio.run(app(declared, receive, send))
    assert sent[0]["status"] == 413
    assert not asked


def test_chunks_count_as_the_most_that_may_come_whatever_the_length_says(model):
    settings = ServeSettings(models=(model,))
    lengths = [(b"content-length", b"1")]
    for headers, size in ((lengths, 1), ([*lengths, (b"transfer-encoding", b"chunked")], None)):
        request = Request({"type": "http", "headers": headers})
        assert body_size(request, settings) == (size or settings.max_bytes)


def send_by_hand(app, receive, path="/predict", kind=b"image/png"):
    """The status of the answer to a body that comes as `receive` says."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
        "headers": [(b"content-type", kind)], "server": None, "client": None, "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("path", "kind"), [("/predict", b"image/png"), ("/jobs", b"application/json")]
)
def test_slow_bodies_end(model, tmp_path, path, kind):
    more = {"surveys": (tmp_path,), "jobs": tmp_path / "jobs"}
    app = create_app(ServeSettings(models=(model,), hosts=(), body_timeout_s=0.05, **more))
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if not parts:
            await asyncio.sleep(10)
        return parts.pop(0)

    assert send_by_hand(app, receive, path, kind) == 408
    assert "408" in app.openapi()["paths"][path]["post"]["responses"]


def test_who_hangs_up_during_the_upload_is_forgotten(model, caplog):
    app = create_app(ServeSettings(models=(model,), hosts=()))
    parts = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return parts.pop(0)

    assert send_by_hand(app, receive) == 400
    assert not caplog.records


def test_the_token_guards_everything_but_health(model):
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with serving(model, token=TOKEN) as client:
        assert client.get("/health").status_code == 200
        wrong = ["", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic !!",
                 f"Bearer {TOKEN[:-1]}", "Basic " + base64.b64encode(b"me:x").decode()]  # fmt: skip
        for path in ("/models", "/openapi.json", "/metrics", "/nothing"):
            for value in wrong:
                answer = client.get(path, headers={"Authorization": value})
                problem(answer, 401)
                assert "Bearer" in answer.headers["www-authenticate"]
        for value in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
            assert client.get("/models", headers={"Authorization": value}).status_code == 200
        problem(client.get("/models", headers={"Authorization": b"Bearer \xff"}), 401)
        schema = client.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        assert schema["components"]["securitySchemes"]
    assert TOKEN not in repr(ServeSettings(models=(), token=TOKEN))


def test_other_hosts_are_refused(model):
    with serving(model, hosts=("localhost", "::1")) as client:
        for host in ("evil.example", "localhost.evil.example", "", "[::2]:8000"):
            problem(client.get("/health", headers={"Host": host}), 400)
        for host in ("localhost", "LOCALHOST:8000", "[::1]:8000"):
            assert client.get("/health", headers={"Host": host}).status_code == 200


def test_faults_of_ours_end_in_a_problem(model, monkeypatch):
    with serving(model) as client:

        def broken(*_):
            raise RuntimeError("/secret/path")

        monkeypatch.setattr("diapir.serve.predict_routes.read_section", broken)
        answer = client.post("/predict", content=b"x", headers=PNG)
        assert "secret" not in answer.text
        problem(answer, 500)


def test_metrics_count_answers_and_batches(model):
    with serving(model) as client:
        png = encode_png(np.zeros((9, 9), np.uint8))
        for _ in range(3):
            assert client.post("/predict", content=png, headers=PNG).status_code == 200
        client.get("/made/up")
        text = client.get("/metrics").text
        assert 'diapir_requests_total{method="POST",route="/predict",status="200"} 3.0' in text
        assert 'diapir_requests_total{method="any",route="none",status="404"} 1.0' in text
        assert "diapir_batch_sections_count 3.0" in text
        assert "diapir_model_seconds_total" in text
        assert "diapir_queue_sections 0.0" in text


class Slow:
    """Stands in for a model: ends when it is told to, and notes what it was given."""

    def __init__(self):
        self.seen, self.gate = [], threading.Event()

    def __call__(self, name, images):
        self.seen.append((name, images.shape))
        self.gate.wait(10)
        if images.shape[1] == 13:
            raise DiapirError("bad luck")
        return images.astype(np.float32) + np.float32(0.5)


def batching(work, **settings):
    """Run a coroutine with a batcher over a slow model."""
    slow = Slow()
    settings = ServeSettings(models=(), linger_s=0.0, **settings)
    batcher = Batcher(slow, settings, Metrics())

    async def main():
        running = asyncio.create_task(batcher.run())
        try:
            await work(batcher, slow)
        finally:
            slow.gate.set()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(main())


async def until(condition):
    """Wait until a condition holds, ten seconds at most."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def test_sections_that_gather_are_predicted_together():
    async def work(batcher, slow):
        first = asyncio.create_task(batcher.predict("a", np.zeros((5, 5), np.uint8)))
        await until(lambda: slow.seen)
        sizes = [(5, 5), (7, 7), (5, 5), (7, 7), (5, 5)]
        images = [np.full(size, k, np.uint8) for k, size in enumerate(sizes)]
        others = [asyncio.create_task(batcher.predict("a", image)) for image in images]
        others.append(asyncio.create_task(batcher.predict("b", images[0])))
        await asyncio.sleep(0.05)
        slow.gate.set()
        found = await asyncio.gather(first, *others)
        for image, answer in zip(images, found[1:], strict=False):
            assert np.array_equal(answer, image + np.float32(0.5))
        assert slow.seen == [
            ("a", (1, 5, 5)), ("a", (3, 5, 5)), ("a", (2, 7, 7)), ("b", (1, 5, 5)),
        ]  # fmt: skip

    batching(work)


def test_batches_are_limited_in_number_and_in_pixels():
    async def work(batcher, slow):
        first = asyncio.create_task(batcher.predict("a", np.zeros((2, 2), np.uint8)))
        await until(lambda: slow.seen)
        small = [batcher.predict("a", np.zeros((3, 3), np.uint8)) for _ in range(5)]
        large = [batcher.predict("a", np.zeros((404, 404), np.uint8)) for _ in range(5)]
        tasks = [asyncio.create_task(one) for one in (*small, *large)]
        await asyncio.sleep(0.05)
        slow.gate.set()
        await asyncio.gather(first, *tasks)
        assert [shape[0] for _, shape in slow.seen] == [1, 3, 2, 3, 2]

    batching(work, options=PredictOptions(batch_size=3))


def test_an_error_reaches_those_it_concerns_and_nobody_else():
    async def work(batcher, slow):
        slow.gate.set()
        bad = batcher.predict("a", np.zeros((13, 5), np.uint8))
        good = batcher.predict("a", np.zeros((5, 5), np.uint8))
        found = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(found[0], DiapirError)
        assert found[1].shape == (5, 5)

    batching(work)


def test_who_goes_away_is_not_predicted():
    async def work(batcher, slow):
        first = asyncio.create_task(batcher.predict("a", np.zeros((5, 5), np.uint8)))
        await until(lambda: slow.seen)
        gone = asyncio.create_task(batcher.predict("a", np.zeros((6, 6), np.uint8)))
        last = asyncio.create_task(batcher.predict("a", np.zeros((7, 7), np.uint8)))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        slow.gate.set()
        await asyncio.gather(first, last)
        assert [shape[1] for _, shape in slow.seen] == [5, 7]

    batching(work)


def test_a_full_queue_says_when_to_come_back():
    async def work(batcher, slow):
        with batcher.seat(10), batcher.seat(10):
            with pytest.raises(Refused) as caught, batcher.seat(10):
                pass
            assert caught.value.status_code == 503
            assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
        with batcher.seat(1 << 20), pytest.raises(Refused), batcher.seat(1):
            pass
        with batcher.seat(1 << 20):
            pass
        first = asyncio.create_task(batcher.predict("a", np.zeros((5, 5), np.uint8)))
        await until(lambda: slow.seen)
        second = asyncio.create_task(batcher.predict("a", np.zeros((9, 9), np.uint8)))
        await asyncio.sleep(0.02)
        with pytest.raises(Refused):
            await batcher.predict("a", np.zeros((9, 9), np.uint8))
        slow.gate.set()
        await asyncio.gather(first, second)

    batching(work, queue=2, held_bytes=1 << 20, max_bytes=1 << 20, held_pixels=100)


def test_clients_of_a_full_service_get_503(model, monkeypatch):
    gate = threading.Event()
    whole = Batcher._timed

    def slow(self, batch):
        gate.wait(10)
        return whole(self, batch)

    monkeypatch.setattr(Batcher, "_timed", slow)
    png = encode_png(np.zeros((9, 9), np.uint8))
    with serving(model, queue=2) as client:
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(client.post("/predict", content=png, headers=PNG))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while "diapir_queue_sections 2.0" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        refused = client.post("/predict", content=png, headers=PNG)
        problem(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert "diapir_refused_total 1.0" in client.get("/metrics").text


class Slowly:
    """A client of `/predict` by ASGI that takes nothing of its answer before `gate` is set."""

    def __init__(self, app, png, output="probabilities", *, waits=False):
        self.app, self.sent, self.gate = app, [], asyncio.Event()
        if not waits:
            self.gate.set()
        self._body = [{"type": "http.request", "body": png, "more_body": False}]
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": "/predict", "raw_path": b"/predict", "scheme": "http", "root_path": "",
            "query_string": f"output={output}".encode(), "server": None, "client": None,
            "headers": [(b"content-type", b"image/png"), (b"content-length", b"%d" % len(png))],
        }  # fmt: skip

    async def serve(self):
        """Serve the request to its end."""
        await self.app(self._scope, self._receive, self._send)
        return self.sent[0]["status"]

    async def _receive(self):
        if not self._body:
            await asyncio.sleep(60)
        return self._body.pop()

    async def _send(self, message):
        self.sent.append(message)
        if message.get("body"):  # as uvicorn does once more is written than it buffers
            await self.gate.wait()


def with_clients(model, work, **settings):
    """Run a coroutine with a service and a way to make clients of it."""
    app = create_app(ServeSettings((model,), hosts=(), linger_s=0.0, **settings))

    async def main():
        async with app.router.lifespan_context(app):
            await work(lambda side, **more: Slowly(app, encode_png(black(side)), **more))

    asyncio.run(main())


def black(side):
    return np.zeros((side, side), np.uint8)


def test_a_seat_is_held_until_the_answer_is_sent(model):
    async def work(client):
        first = client(300, waits=True)
        serving = asyncio.create_task(first.serve())
        await until(lambda: len(first.sent) > 1)
        await asyncio.sleep(0.05)
        assert len(first.sent) == 2  # the head and one part; the rest waits for it to be taken
        assert await client(9, output="rle").serve() == 503
        first.gate.set()
        assert await serving == 200
        parts = b"".join(message.get("body", b"") for message in first.sent)
        assert np.load(BytesIO(parts)).shape == (300, 300)
        assert await client(9, output="rle").serve() == 200

    with_clients(model, work, queue=1)


def test_bytes_of_answers_count_until_they_are_sent(model):
    async def work(client):
        first = client(600, waits=True)  # 1.4 MB: alone it may be more than all together
        serving = asyncio.create_task(first.serve())
        await until(lambda: len(first.sent) > 1)
        assert await client(9, output="rle").serve() == 503
        first.gate.set()
        assert await serving == 200
        second = client(300, waits=True)
        serving = asyncio.create_task(second.serve())
        await until(lambda: len(second.sent) > 1)
        assert await client(500).serve() == 503
        assert await client(500, output="mask").serve() == 200
        second.gate.set()
        assert await serving == 200

    with_clients(model, work, max_bytes=1 << 20, held_bytes=1 << 20)


def test_who_does_not_take_an_answer_loses_it(model, monkeypatch, caplog):
    monkeypatch.setattr("diapir.serve.answers._SLOWEST", 1 << 40)

    async def work(client):
        first = client(300, waits=True)
        assert await asyncio.wait_for(first.serve(), 10) == 200
        assert first.sent[-1]["more_body"]  # by which the server knows to close the connection
        assert "did not take its answer" in caplog.text
        assert await client(9, output="rle").serve() == 200

    with_clients(model, work, queue=1, answer_timeout_s=0.1)


def test_names_of_models(model, tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    run = tmp_path / "20250101-demo" / "model.safetensors"
    save_model(run, SaltNet(recipe.model), ModelCard(recipe, 0.25))
    settings = ServeSettings(models=(model, run, model), hosts=())
    with TestClient(create_app(settings)) as client:
        names = [info["name"] for info in client.get("/models").json()]
        assert names == ["salt", "20250101-demo", "salt-2"]
        png = encode_png(np.zeros((9, 9), np.uint8))
        answer = client.post("/predict?output=rle&model=20250101-demo", content=png, headers=PNG)
        assert answer.json()["threshold"] == 0.25


def test_what_cannot_be_served_is_told_before(model, tiny_recipe, tmp_path):
    with pytest.raises(DataError, match="no model"):
        create_app(ServeSettings(models=()))
    with pytest.raises(ModelFileError):
        create_app(ServeSettings(models=(tmp_path / "none.safetensors",)))
    deep = tiny_recipe(model__depth_channel=True)
    save_model(tmp_path / "deep.safetensors", SaltNet(deep.model), ModelCard(deep, 0.5))
    with pytest.raises(DataError, match="depth"):
        create_app(ServeSettings(models=(tmp_path / "deep.safetensors",)))
    with pytest.raises(DataError, match="no such folder"):
        create_app(ServeSettings((model,), (tmp_path / "none",), tmp_path / "jobs"))
    (tmp_path / "file").touch()
    with pytest.raises(RunError):
        create_app(ServeSettings((model,), (), tmp_path / "file"))
    with pytest.raises(DataError):
        ServeSettings((model,), max_bytes=10, held_bytes=5)


def test_tokens(tmp_path):
    (tmp_path / "good").write_text(TOKEN + "\n")
    assert read_token(tmp_path / "good") == TOKEN
    for text in ("", "short", "with a blank inside of it", "x" * 2000):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(DataError):
            read_token(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"\xff" * 20)
    with pytest.raises(DataError):
        read_token(tmp_path / "bad")
    with pytest.raises(DataError):
        read_token(tmp_path / "none")
    with pytest.raises(DataError):
        check_token("é" * 20, "x")


def test_the_command_hands_its_options_over(model, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from diapir.cli import serve as verb

    seen = []
    monkeypatch.setattr(verb, "_run", lambda *all_: seen.append(all_))
    monkeypatch.delenv("DIAPIR_TOKEN", raising=False)
    run = CliRunner().invoke
    assert run(command_line, ["serve", str(model)]).exit_code == 0
    settings, host, port = seen.pop()
    assert (host, port, settings.jobs, settings.token) == ("127.0.0.1", 8000, None, None)
    assert settings.hosts == ("127.0.0.1", "localhost", "::1")
    (tmp_path / "token").write_text(TOKEN)
    options = [
        "--host",
        EVERYWHERE,
        "--port",
        "0",
        "--surveys",
        str(tmp_path),
        "--max-mib",
        "1",
        "--token-file",
        str(tmp_path / "token"),
        "--allow-host",
        "Salt.Example",
    ]
    assert run(command_line, ["serve", str(model), *options]).exit_code == 0
    settings, host, port = seen.pop()
    assert (host, port, settings.token, settings.max_bytes) == (EVERYWHERE, 0, TOKEN, 1 << 20)
    assert settings.surveys == (tmp_path,)
    assert "salt.example" in settings.hosts
    result = run(command_line, ["serve", str(model), "--host", EVERYWHERE])
    assert "anybody" in result.output
    assert seen.pop()[0].hosts == ()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = run(command_line, ["serve", str(model)])
    assert isinstance(result.exception, RunError)
    assert "'.[serve,volume]'" in str(result.exception)


def test_answers_are_json_numbers(client):
    """No NaN or Infinity, which JSON does not know."""
    json.loads(client.get("/models").text, parse_constant=pytest.fail)


def test_sockets_are_guarded_too(model):
    from starlette.websockets import WebSocket, WebSocketDisconnect

    app = create_app(ServeSettings((model,), token=TOKEN, hosts=("testserver",)))

    @app.websocket("/view/ws")
    async def greet(socket: WebSocket):
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    known = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(app) as client:
        with client.websocket_connect("/view/ws", headers=known) as socket:
            assert socket.receive_text() == "hello"
        same = {**known, "Origin": "http://testserver"}
        with client.websocket_connect("/view/ws", headers=same) as socket:
            assert socket.receive_text() == "hello"
        for refused in (
            {},
            {"Authorization": "Bearer wrong"},
            {**known, "Host": "evil.example"},
            {**known, "Origin": "http://evil.example"},
            {**known, "Origin": "null"},
            {**known, "Origin": "http://testserver:81"},
        ):
            with (
                pytest.raises(WebSocketDisconnect),
                client.websocket_connect("/view/ws", headers=refused),
            ):
                pass


class Stranger:
    """Answers every request itself, as the middleware of Panel 1.10 does those of its pages."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse("come in")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def test_nothing_that_panel_adds_stands_before_the_guards(model, tmp_path, monkeypatch):
    def add_applications(*_, app, **__):
        app.add_middleware(Stranger)

    monkeypatch.setattr("panel.io.fastapi.add_applications", add_applications)
    section = tmp_path / "section.npy"
    np.save(section, RNG.normal(size=(40, 48)).astype(np.float32))
    with serving(model, views=(section,), labels=tmp_path / "labels", token=TOKEN) as client:
        problem(client.get("/view"), 401)
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/view", headers=known).text == "come in"
    library = open_library([section], labels=tmp_path / "labels")
    with TestClient(viewer_app(library), base_url="http://localhost") as client:
        assert client.get("/").text == "come in"
        assert client.get("/", headers={"Host": "strangers.example"}).status_code == 400
    library.close()


def test_the_page_is_mounted_where_there_is_something_to_see(model, tmp_path):
    section = tmp_path / "section.npy"
    np.save(section, RNG.normal(size=(40, 48)).astype(np.float32))
    known = {"Authorization": f"Bearer {TOKEN}"}
    with serving(model, views=(section,), labels=tmp_path / "labels", token=TOKEN) as client:
        problem(client.get("/view"), 401)
        page = client.get("/view", headers=known)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert client.get("/models", headers=known).status_code == 200
        assert "/view" not in client.get("/openapi.json", headers=known).json()["paths"]
    with serving(model) as client:
        problem(client.get("/view"), 404)
