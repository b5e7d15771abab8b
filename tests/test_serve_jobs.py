"""Surveys and jobs of the service: found by name, mapped in a process, stopped and resumed."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from diapir.errors import DataError, RunError
from diapir.inference.sections import SectionSettings, Tiling
from diapir.io.atomic import cannot_write
from diapir.io.ingest import ingest
from diapir.runs.map import map_survey
from diapir.runs.map_result import MapSettings
from diapir.serve import job_process
from diapir.serve import jobs as jobs_module
from diapir.serve.app import create_app
from diapir.serve.job_record import JobRequest
from diapir.serve.metrics import Metrics
from diapir.serve.models import Models
from diapir.serve.settings import ServeSettings
from diapir.serve.surveys import SurveyFolders, SurveyQuery

SECTION = "lines/deep/section.npy"


@pytest.fixture
def lines(tmp_path):
    """A folder of surveys, with what must not be reached lying around it."""
    folder = tmp_path / "lines"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "deep" / "section.npy", rng.normal(size=(48, 40)).astype(np.float32))
    np.save(folder / "cube.npy", rng.normal(size=(40, 36, 48)).astype(np.float32))
    (folder / "dead.sgy").write_bytes(bytes(4000))
    (folder / "readme.txt").touch()
    (folder / ".hidden.npy").touch()
    (folder / "store.zarr").mkdir()
    (folder / "store.zarr" / "zarr.json").write_text("{}")
    (folder / "store.zarr" / "inner.npy").touch()
    np.save(tmp_path / "secret.npy", np.ones((40, 40)))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "more.npy").touch()
    (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
    (folder / "linked").symlink_to(tmp_path / "outside")
    return folder


@contextlib.contextmanager
def serving(model, lines, **settings):
    jobs = settings.pop("jobs", lines.parent / "jobs")
    plan = ServeSettings((model,), (lines,), jobs, hosts=(), **settings)
    with TestClient(create_app(plan), raise_server_exceptions=False) as client:
        yield client


def wait(client, id_, *states, seconds=300):
    """The job once it is in one of these states."""
    deadline = time.monotonic() + seconds
    while (job := client.get(f"/jobs/{id_}").json())["state"] not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


@pytest.fixture
def still(monkeypatch):
    """Processes of jobs that tell two of three blocks and then wait to be killed."""
    script = (
        "import json, sys, time; json.load(sys.stdin); "
        "print(json.dumps({'done': 2, 'total': 3}), flush=True); time.sleep(60)"
    )
    _replace_process(monkeypatch, script)


def _replace_process(monkeypatch, script):
    whole = asyncio.create_subprocess_exec

    async def other(*command, **more):
        assert command[1:] == ("-m", "diapir.serve.job_process", str(os.getpid()))
        return await whole(sys.executable, "-c", script, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", other)


def test_surveys_are_found_and_nothing_else(lines, tmp_path):
    found = SurveyFolders([lines]).find()
    assert {name: info.kind for name, (_, info) in found.items()} == {
        "lines/cube.npy": "array",
        "lines/dead.sgy": "segy",
        "lines/store.zarr": "store",
        SECTION: "array",
    }
    assert found[SECTION][0] == lines / "deep" / "section.npy"
    twice = SurveyFolders([lines, lines / "deep", lines / "deep"]).find()
    assert {"deep/section.npy", "deep-2/section.npy"} <= set(twice)
    with pytest.raises(DataError):
        SurveyFolders([tmp_path / "secret.npy"])


def test_the_list_begins_with_surveys_tells_sizes_and_what_it_leaves_out(lines, monkeypatch):
    for number in range(3):
        (lines / f"a{number}.png").write_bytes(b"123")
    (lines / "store.zarr" / "c").mkdir()
    (lines / "store.zarr" / "c" / "0").write_bytes(bytes(5))
    folders = SurveyFolders([lines])
    first = folders.page(SurveyQuery(limit=3))
    assert [(one.name, one.kind, one.size) for one in first.surveys] == [
        ("lines/dead.sgy", "segy", 4000),
        ("lines/store.zarr", "store", 7),
        ("lines/cube.npy", "array", (lines / "cube.npy").stat().st_size),
    ]
    assert (first.total, first.left_out, first.complete) == (7, 4, True)
    rest = folders.page(SurveyQuery(limit=3, offset=6))
    assert [one.name for one in rest.surveys] == ["lines/a2.png"]
    assert (rest.total, rest.left_out) == (7, 6)
    pictures = folders.page(SurveyQuery(kind="picture"))
    assert (pictures.total, pictures.left_out, pictures.surveys[0].size) == (3, 0, 3)
    monkeypatch.setattr("diapir.serve.surveys._MOST_STORE_FILES", 2)
    assert folders.page(SurveyQuery(kind="store")).surveys[0].size is None
    monkeypatch.setattr("diapir.serve.surveys._MOST_ENTRIES", 2)
    assert not folders.page(SurveyQuery()).complete


def test_what_diapir_wrote_is_no_survey_and_what_lies_beside_it_is(lines):
    before = set(SurveyFolders([lines]).find())
    shutil.copy(lines / "deep" / "section.npy", lines / "line.npy")
    names = (
        "map.json",
        "mask.sgy",
        "probability.sgy",
        "figures/top_salt.png",
        "salt.zarr/zarr.json",
    )
    for folder in (lines, lines / "map"):  # a map may be written beside its survey
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
    for name in ("recipe.json", "figures/training.png", "own.png"):
        (lines / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (lines / "run" / name).write_text("{}")
    (lines / "figures.sgy").touch()
    (lines / "deep" / "mask.sgy").touch()  # no map.json beside it: somebody's own
    added = set(SurveyFolders([lines]).find()) - before
    assert added == {
        "lines/" + n for n in ("line.npy", "run/own.png", "figures.sgy", "deep/mask.sgy")
    }


def test_the_marks_of_own_outputs_are_what_a_map_writes(model, lines):
    out = lines / "map"
    map_survey(lines / "deep" / "section.npy", out, [model], progress=False)
    assert {"map.json", "salt.zarr", "figures"} <= {path.name for path in out.iterdir()}
    assert not [name for name in SurveyFolders([lines]).find() if "/map/" in name]


def test_a_list_in_parts_over_http(model, lines):
    with serving(model, lines) as client:
        found = client.get("/surveys?limit=1").json()
        assert [one["name"] for one in found["surveys"]] == ["lines/dead.sgy"]
        assert (found["total"], found["left_out"]) == (4, 3)
        for query in ("limit=0", "limit=1001", "offset=-1", "kind=x", "folder=/etc"):
            assert client.get(f"/surveys?{query}").status_code == 422, query


def test_walks_end(lines, monkeypatch):
    folder = lines
    for _ in range(12):
        folder = folder / "d"
        folder.mkdir()
    (folder / "far.npy").touch()
    assert not [name for name in SurveyFolders([lines]).find() if "far" in name]
    monkeypatch.setattr("diapir.serve.surveys._MOST_ENTRIES", 2)
    assert len(SurveyFolders([lines]).find()) <= 2
    closed = SurveyFolders([lines])
    closed._roots["gone"] = lines / "gone"
    closed.find()


HOSTILE = [
    "../secret.npy", "lines/../secret.npy", "lines/../../secret.npy", "/etc/passwd", "lines",
    "lines/", "", "lines/link.npy", "lines/linked/more.npy", "lines/.hidden.npy", "lines//cube.npy",
    "lines/./cube.npy", "lines/cube.npy\0", "lines/cube.npy/", "LINES/cube.npy", "file:///etc/passwd",
    "http://127.0.0.1/x.npy", "lines\\cube.npy", "lines/%2e%2e/secret.npy", "~/x", "s3://b/x.zarr",
    "lines/store.zarr/inner.npy", "lines/readme.txt", "x" * 999,
]  # fmt: skip


def test_no_other_name_becomes_a_survey(model, lines, tmp_path):
    with serving(model, lines) as client:
        for name in [*HOSTILE, str(tmp_path / "secret.npy"), str(lines / "cube.npy")]:
            answer = client.post("/jobs", json={"survey": name})
            assert answer.status_code == 404, name
            assert set(answer.json()) == {"what", "where", "expected", "mend"}
        assert client.get("/jobs").json() == []
        assert not [p for p in (tmp_path / "jobs").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"survey": 1}', b'{"survey": "lines/cube.npy", "out": "/tmp"}',
        b'{"survey": "lines/cube.npy", "clip": [1]}', b'{"survey": "lines/cube.npy", "clip": NaN}',
        b'{"survey": "lines/cube.npy", "threshold": 1e999}', b'{"survey": "' + b"x" * 2000 + b'"}',
        b'{"survey": "lines/cube.npy", "segy": {"path": "/etc/passwd"}}', b"[" * 20_000,
        b'{"survey": "lines/cube.npy", "segy": {"unit": "furlong"}}', b"\xff\xfe",
        b'{"survey": "\\ud800"}',
    ],
)  # fmt: skip
def test_requests_that_cannot_be_read(model, lines, body):
    with serving(model, lines) as client:
        answer = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 404, 422), answer.text
        assert set(answer.json()) == {"what", "where", "expected", "mend"}
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"clip": [99, 1]}, "body.clip"),
        ({"clip": [5, 5]}, "body.clip"),
        ({"overlap": 404}, "body.overlap"),
        ({"window": 64}, "body.overlap"),  # whose default is larger
        ({"window": 31}, "body.window"),
        ({"window": 5000}, "body.window"),
        ({"display": "red"}, "body.display"),
    ],
)
def test_options_that_a_map_would_refuse_are_refused_at_once(model, lines, more, where):
    with serving(model, lines) as client:
        answer = client.post("/jobs", json={"survey": SECTION, **more})
        assert answer.status_code == 422
        assert answer.json()["where"] == where
        assert client.get("/jobs").json() == []


def test_a_request_says_how_it_is_mapped():
    told = {"window": 64, "overlap": 16, "trace_scale": 2, "flip": True, "display": "seismic"}
    asked = job_process.settings_of(JobRequest(survey="x", **told).model_dump(), flip=False)
    assert asked.sections.tiling == Tiling(64, 16, trace_scale=2)
    assert (asked.sections.flip, asked.display) == (True, "seismic")
    silent = job_process.settings_of(JobRequest(survey="x").model_dump(), flip=False)
    assert silent == MapSettings(SectionSettings(flip=False))


def test_a_survey_is_mapped_and_its_results_come_back(model, lines):
    with serving(model, lines) as client:
        assert SECTION in [info["name"] for info in client.get("/surveys").json()["surveys"]]
        request = {"survey": SECTION, "threshold": 0.4, "polarity": "reverse"}
        answer = client.post("/jobs", json=request)
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        job = wait(client, job["id"], "done", "failed", seconds=900)
        assert job["problem"] is None
        assert (job["done"], job["total"]) == (1, 1)
        assert {"report.html", "map.json", "bodies.csv"} <= set(job["files"])
        home = f"/jobs/{job['id']}"
        report = client.get(f"{home}/files/report.html")
        assert report.headers["content-type"] == "application/octet-stream"
        assert "attachment" in report.headers["content-disposition"]
        table = json.loads(client.get(f"{home}/files/map.json").content)
        settings = table["settings"]
        assert (settings["polarity"], settings["threshold"]) == ("reverse", 0.4)
        assert (table["source"], table["command"]) == (SECTION, None)
        assert SECTION in report.text
        for name in job["files"]:
            found = client.get(f"{home}/files/{name}").content
            assert str(lines.parent).encode() not in found, name
        whole = client.get(f"{home}/files/map.json").content
        for asked, status, part in (
            ("bytes=5-", 206, whole[5:]), ("bytes=0-3", 206, whole[:4]),
            ("bytes=999999999-", 200, whole), ("lines=1", 200, whole), ("bytes=9-2", 200, whole),
        ):  # fmt: skip
            answer = client.get(f"{home}/files/map.json", headers={"Range": asked})
            assert (answer.status_code, answer.content) == (status, part)
        for name in ("../job.json", "..%2fjob.json", "nothing", "salt.zarr", "%00", "/etc/passwd"):
            assert client.get(f"{home}/files/{name}").status_code == 404
        assert client.delete(home).status_code == 409
        assert client.post(f"{home}/resume").status_code == 409
        assert 'diapir_jobs{state="done"} 1.0' in client.get("/metrics").text
        assert client.delete(f"{home}?remove=true").status_code == 200
        assert client.get(home).status_code == 404
        assert not (lines.parent / "jobs" / job["id"]).exists()


def test_jobs_wait_are_cancelled_and_resumed(model, lines, still):
    with serving(model, lines, job_queue=2, job_keep=4) as client:
        add = lambda: client.post("/jobs", json={"survey": "lines/cube.npy"})  # noqa: E731
        first = add().json()["id"]
        wait(client, first, "running")
        deadline = time.monotonic() + 30
        while client.get(f"/jobs/{first}").json()["total"] != 3:
            assert time.monotonic() < deadline
        second, third = add().json()["id"], add().json()["id"]
        assert client.get(f"/jobs/{second}").json()["state"] == "waiting"
        full = add()
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) > 0
        assert client.delete(f"/jobs/{first}?remove=true").status_code == 409
        assert client.delete(f"/jobs/{third}").json()["state"] == "cancelled"
        assert client.delete(f"/jobs/{third}").status_code == 409
        assert client.delete(f"/jobs/{first}").json()["state"] == "cancelled"
        wait(client, second, "running")
        assert client.get(f"/jobs/{first}").json()["state"] == "cancelled"
        assert client.post(f"/jobs/{first}/resume").json()["state"] == "waiting"
        assert add().status_code == 202
        kept = add()
        assert kept.status_code == 503
        client.delete(f"/jobs/{first}")
        kept = add()
        assert kept.status_code == 409
        assert "remove" in kept.json()["mend"]
        assert [job["id"] for job in client.get("/jobs").json()][::-1][:3] == [first, second, third]


def test_jobs_go_on_after_a_restart(model, lines, still):
    with serving(model, lines) as client:
        running = client.post("/jobs", json={"survey": "lines/cube.npy"}).json()["id"]
        waiting = client.post("/jobs", json={"survey": SECTION}).json()["id"]
        wait(client, running, "running")
        with pytest.raises(RunError, match="another process"), serving(model, lines):
            pass
    (lines.parent / "jobs" / "strange").mkdir()
    (lines.parent / "jobs" / "strange" / "job.json").write_text("{}")
    with serving(model, lines) as client:
        wait(client, running, "running")
        assert client.get(f"/jobs/{waiting}").json()["state"] == "waiting"


def test_a_job_that_cannot_be_read_is_left_out_and_the_others_go_on(model, lines, still, caplog):
    with serving(model, lines) as client:
        ids = [client.post("/jobs", json={"survey": SECTION}).json()["id"] for _ in range(3)]
    empty, other, sound = (lines.parent / "jobs" / id_ / "job.json" for id_ in ids)
    empty.write_text("")  # as a power cut may leave it
    table = json.loads(other.read_text())
    table["request"]["of_another_version"] = 1
    other.write_text(json.dumps(table))
    with serving(model, lines) as client:
        assert [job["id"] for job in client.get("/jobs").json()] == [sound.parent.name]
        wait(client, sound.parent.name, "running")
    told = [text for text in caplog.messages if "left out a job" in text]
    assert len(told) == 2
    assert all(any(str(path) in text for text in told) for path in (empty, other))
    assert json.loads(other.read_text()) == table


def test_states_of_jobs_survive_a_power_cut(model, lines, still, monkeypatch):
    synced = []
    monkeypatch.setattr("diapir.io.atomic._sync", synced.append)
    with serving(model, lines) as client:
        id_ = client.post("/jobs", json={"survey": SECTION}).json()["id"]
    assert id_ in {path.name for path in synced}


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: a set that refuses to take files of jobs while there is anything in it."""
    whole, full = jobs_module.write_text_atomic, set()

    def write(path, text, **how):
        error = OSError(errno.ENOSPC, "No space left on device")
        if full:
            raise cannot_write(path, error) from error
        whole(path, text, **how)

    monkeypatch.setattr(jobs_module, "write_text_atomic", write)
    return full


def test_jobs_run_again_after_a_restart_with_a_full_disk(model, lines, still, full_disk):
    with serving(model, lines) as client:
        first = client.post("/jobs", json={"survey": "lines/cube.npy"}).json()["id"]
        wait(client, first, "running")
    full_disk.add("full")
    with serving(model, lines) as client:
        wait(client, first, "failed")
        full_disk.clear()
        assert client.post(f"/jobs/{first}/resume").status_code == 202
        wait(client, first, "running")
        assert client.get("/health").status_code == 200


def test_a_full_disk_leaves_jobs_as_they_were(model, lines, still, full_disk):
    def refused(answer):
        assert answer.status_code == 507
        assert str(lines.parent) not in answer.text
        return True

    with serving(model, lines) as client:
        first = client.post("/jobs", json={"survey": "lines/cube.npy"}).json()["id"]
        wait(client, first, "running")
        second = client.post("/jobs", json={"survey": SECTION}).json()["id"]
        client.delete(f"/jobs/{second}")
        full_disk.add("full")
        assert refused(client.post("/jobs", json={"survey": SECTION}))
        assert {job["id"] for job in client.get("/jobs").json()} == {first, second}
        kept = {path.name for path in (lines.parent / "jobs").iterdir() if path.is_dir()}
        assert kept == {first, second}
        assert refused(client.post(f"/jobs/{second}/resume"))
        assert client.get(f"/jobs/{second}").json()["state"] == "cancelled"
        assert refused(client.delete(f"/jobs/{first}"))
        assert wait(client, first, "failed")["ended"]  # its process was stopped all the same
        assert client.delete(f"/jobs/{first}?remove=true").status_code == 200


def test_places_that_cannot_be_written_are_no_fault_of_the_request(model, lines, monkeypatch):
    def closed(path, text, **how):
        raise cannot_write(path, OSError(errno.EACCES, "no"))

    monkeypatch.setattr(jobs_module, "write_text_atomic", closed)
    with serving(model, lines) as client:
        answer = client.post("/jobs", json={"survey": SECTION})
    assert answer.status_code == 500
    assert str(lines.parent) not in answer.text


def test_health_tells_that_no_job_will_run(model, lines, monkeypatch, caplog):
    async def broken(_):
        raise RuntimeError("bad luck")

    monkeypatch.setattr(jobs_module.Jobs, "run", broken)
    with serving(model, lines) as client:
        answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["what"] == "the service does no jobs any more"
    assert "bad luck" in caplog.text


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("import os; os._exit(3)", "ended before the job did"),
        ("import sys; sys.stdin.read(); print('no json')", "the service failed"),
    ],
)
def test_a_process_that_dies_is_told(model, lines, monkeypatch, script, what):
    _replace_process(monkeypatch, script)
    with serving(model, lines) as client:
        job = client.post("/jobs", json={"survey": SECTION}).json()
        job = wait(client, job["id"], "failed")
        assert what in job["problem"]["what"]
        second = client.post("/jobs", json={"survey": SECTION}).json()
        wait(client, second["id"], "failed")


def test_a_survey_that_is_gone_fails_the_job(model, lines, still):
    with serving(model, lines) as client:
        first = client.post("/jobs", json={"survey": "lines/cube.npy"}).json()["id"]
        wait(client, first, "running")
        second = client.post("/jobs", json={"survey": SECTION}).json()["id"]
        (lines / "deep" / "section.npy").unlink()
        client.delete(f"/jobs/{first}")
        assert "no survey" in wait(client, second, "failed")["problem"]["what"]


def test_slow_disks_hold_up_nobody_else(model, lines, still, monkeypatch):
    where = set()
    whole, removed = SurveyFolders.find, shutil.rmtree

    def find(self):
        where.add(("find", threading.current_thread() is loop[0]))
        return whole(self)

    def remove(path, **how):
        where.add(("remove", threading.current_thread() is loop[0]))
        removed(path, **how)

    loop = []

    async def note(_):
        loop.append(threading.current_thread())

    monkeypatch.setattr(SurveyFolders, "find", find)
    monkeypatch.setattr(jobs_module.shutil, "rmtree", remove)
    with serving(model, lines) as client:
        client.portal.call(note, None)
        first = client.post("/jobs", json={"survey": "lines/cube.npy"}).json()["id"]
        wait(client, first, "running")
        second = client.post("/jobs", json={"survey": SECTION}).json()["id"]
        client.delete(f"/jobs/{second}")
        assert client.delete(f"/jobs/{second}?remove=true").status_code == 200
        monkeypatch.setattr(jobs_module.shutil, "rmtree", removed)
    assert where == {("find", False), ("remove", False)}


def test_the_end_of_the_service_is_not_missed_while_a_process_ends(
    model, lines, tmp_path, monkeypatch
):
    async def ends_meanwhile(self, job):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        job.state = "done"

    async def run():
        settings = ServeSettings((model,), (lines,), tmp_path / "jobs")
        models = Models(settings.models, settings.options)
        jobs = jobs_module.Jobs(
            tmp_path / "jobs", SurveyFolders([lines]), models, settings, Metrics()
        )
        await jobs.add(JobRequest(survey=SECTION))
        task = asyncio.create_task(jobs.run())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        jobs.close()
        return task.done() and task.cancelled()

    monkeypatch.setattr(jobs_module.Jobs, "_map", ends_meanwhile)
    assert asyncio.run(run())


def test_a_job_keeps_the_model_that_came_first_when_it_was_made(model, lines, still, tmp_path):
    other = shutil.copy(model, tmp_path / "other.safetensors")
    with serving(model, lines) as client:
        (first,) = [info["name"] for info in client.get("/models").json()]
        id_ = client.post("/jobs", json={"survey": SECTION}).json()["id"]
    plan = ServeSettings((other, model), (lines,), lines.parent / "jobs", hosts=())
    with TestClient(create_app(plan)) as client:
        assert client.get(f"/jobs/{id_}").json()["request"]["model"] == first


def test_models_and_ids_that_are_not_there(model, lines):
    with serving(model, lines) as client:
        answer = client.post("/jobs", json={"survey": SECTION, "model": "other"})
        assert answer.status_code == 404
        assert client.get("/jobs/0123456789abcdef").status_code == 404
        for id_ in ("x", "..", "0123456789abcdeg", "0123456789ABCDEF", "0" * 17):
            assert client.get(f"/jobs/{id_}").status_code in (404, 422)
            assert client.delete(f"/jobs/{id_}").status_code in (404, 405, 422)


def run_process(monkeypatch, capfd, spec):
    """Run the process of a job in this one; return the lines that it tells."""
    monkeypatch.setattr("sys.stdin", StringIO(json.dumps(spec)))
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.setattr(job_process, "_own_output", lambda: sys.stdout)
    job_process.main()
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_the_process_tells_what_it_does(model, lines, tmp_path, monkeypatch, capfd):
    request = JobRequest(survey="x", segy=None, min_body=5, velocity=2000).model_dump()
    spec = {
        "source": str(lines / "deep" / "section.npy"), "out": str(tmp_path / "map"),
        "model": str(model), "request": request, "workers": 1, "device": "cpu", "flip": False,
        "folders": [str(lines)],
    }  # fmt: skip
    *progress, found = run_process(monkeypatch, capfd, spec)
    assert progress == [{"done": 0, "total": 1}, {"done": 1, "total": 1}]
    assert "report.html" in found["files"]
    assert all((tmp_path / "map" / name).is_file() for name in found["files"])
    settings = job_process.settings_of(request, None)
    assert (settings.min_samples, settings.velocity_m_s) == (5, 2000)
    assert settings.sections.clip == (1, 99)
    spec["source"] = str(lines / "dead.sgy")
    (last,) = run_process(monkeypatch, capfd, spec)
    assert set(last["problem"]) == {"what", "where", "expected", "mend"}


def test_a_job_copies_no_segy_from_outside_the_folders(model, lines, tmp_path, make_segy):
    file, _ = make_segy()
    file = shutil.move(file, tmp_path / "outside" / "secret.sgy")
    ingest(file, lines / "survey.zarr")
    with serving(model, lines) as client:
        job = client.post("/jobs", json={"survey": "lines/survey.zarr"}).json()
        job = wait(client, job["id"], "done", "failed", seconds=900)
    assert "report.html" in job["files"]
    assert not [name for name in job["files"] if name.endswith(".sgy")]
    assert any("secret.sgy" in text and "is not there" in text for text in job["news"])
    assert str(tmp_path) not in json.dumps(job)


def test_the_process_ends_with_the_service():
    """One that goes on would keep the map locked for the service that is started again."""
    service = (
        "import os, subprocess, sys\n"
        "job = subprocess.Popen([sys.executable, '-m', 'diapir.serve.job_process',\n"
        "                        str(os.getpid())],\n"
        "                       stdout=subprocess.DEVNULL, start_new_session=True)\n"
        "print(job.pid, flush=True)\n"
        "sys.stdin.readline()\n"  # its end kills neither
    )
    waits, never_said = os.pipe()
    killed = subprocess.Popen([sys.executable, "-c", service], stdin=waits, stdout=subprocess.PIPE)
    assert killed.stdout is not None
    job = int(killed.stdout.readline())
    killed.kill()
    killed.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{job}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = Path(f"/proc/{job}").exists()
    os.close(never_said)
    os.close(waits)
    assert not left


def test_problems_name_no_paths_of_the_server(model, lines, monkeypatch):
    text = f"bad file {lines}/dead.sgy"
    told = {"problem": {"what": text, "where": text, "expected": None, "mend": None}}
    script = f"import sys; sys.stdin.read(); print({json.dumps(json.dumps(told))})"
    _replace_process(monkeypatch, script)
    with serving(model, lines) as client:
        job = client.post("/jobs", json={"survey": "lines/dead.sgy"}).json()
        job = wait(client, job["id"], "failed")
        assert job["problem"]["what"] == "bad file lines/dead.sgy"
        assert str(lines) not in json.dumps(job)


def test_segy_fields_are_those_of_the_reader(model, lines):
    from diapir.io.segy import SegyOptions

    found = JobRequest(survey="x", segy={"inline_byte": 9, "byte_order": "little"})
    assert SegyOptions(**found.model_dump()["segy"]) == SegyOptions(
        inline_byte=9, byte_order="little"
    )
