import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from diapir.errors import DataError, RunError
from diapir.inference.journal import Journal, settings_key
from diapir.inference.look import AS_IS
from diapir.inference.schedule import Pool, Workers, open_pool
from diapir.inference.sections import IdentityModel, Tiling
from diapir.inference.volume import STORE, Job, Plan, predict_volume
from diapir.io.opening import open_volume

ROOT = Path(__file__).parents[1]
ALONE = Workers(1)
TILING = Tiling(window=32, overlap=12)


@pytest.fixture
def cube(tmp_path):
    """A survey of grey values, (38, 36, 48), as a file."""
    values = np.random.default_rng(0).integers(0, 256, (38, 36, 48)).astype(np.float32)
    np.save(tmp_path / "cube.npy", values)
    return tmp_path / "cube.npy"


def make_job(source, out, *, load_model=IdentityModel, lines=5, directions="both", settings=None):
    survey = open_volume(source)
    plan = Plan.of(survey["amplitude"].shape, directions, lines)
    stated = {"source": str(source), "lines": lines, "directions": directions, **(settings or {})}
    journal, news = Journal.open(out, stated)
    job = Job(
        key=settings_key(stated) + str(out),
        open_source=partial(open_volume, source),
        load_model=load_model,
        look=AS_IS,
        tiling=TILING,
        threshold=0.5,
        journal=journal,
        last=plan.directions[-1],
        scratch=len(plan.directions) > 1,
    )
    return job, plan, survey, news


def predict(source, out, workers=ALONE, **changes):
    job, plan, survey, _ = make_job(source, out, **changes)
    took = predict_volume(job, plan, survey, workers)
    return took, xr.open_zarr(took.store, chunks=None)


class Uneven:
    """Not symmetric: sees which way a section lies."""

    model_seconds = 0.0

    def predict_probs(self, images):
        ramp = np.linspace(0, 1, images.shape[2], dtype=np.float32)
        return (images.astype(np.float32) / 255 * 0.5 + ramp * 0.5).astype(np.float32)


def test_the_identity_reproduces_the_survey(cube, tmp_path):
    took, found = predict(cube, tmp_path / "out")
    expected = np.load(cube) / 255
    assert np.abs(found["probability"].to_numpy() - expected).max() <= 1e-6
    assert np.array_equal(found["mask"], found["probability"].to_numpy() > 0.5)
    assert np.abs(found["disagreement"].to_numpy()).max() <= 1e-6
    assert found["probability"].dims == ("inline", "crossline", "sample")
    assert found["sample"].attrs["units"] == "1"
    assert took.blocks == 8 + 8


def test_both_directions_are_averaged_and_their_disagreement_kept(cube, tmp_path):
    parts = {
        name: predict(cube, tmp_path / name, load_model=Uneven, directions=name)[1]
        for name in ("inline", "crossline", "both")
    }
    one, other = (parts[n]["probability"].to_numpy() for n in ("inline", "crossline"))
    assert np.abs(one - other).max() > 0.2
    assert np.allclose(parts["both"]["probability"], (one + other) / 2, atol=1e-6)
    assert np.allclose(parts["both"]["disagreement"], np.abs(one - other), atol=1e-6)
    assert "disagreement" not in parts["inline"]


def stored_bytes(store):
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.mark.parametrize("workers", [Workers(4), Workers(4, processes=False)], ids=str)
def test_same_bytes_with_one_worker_and_with_four(cube, tmp_path, workers):
    alone, _ = predict(cube, tmp_path / "one", lines=9)
    shared, _ = predict(cube, tmp_path / "four", workers, lines=9)
    assert stored_bytes(alone.store) == stored_bytes(shared.store)


ORPHANED = """
import multiprocessing, os, time
from diapir.inference.volume import _stop_if_orphaned

def work(log):
    while True:
        _stop_if_orphaned()
        with open(log, "a") as file:
            file.write(".")
        time.sleep(0.02)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=work, args=({log!r},)).start()
    while not os.path.exists({log!r}):
        time.sleep(0.01)
    os._exit(9)
"""


def test_a_worker_whose_owner_was_killed_ends(tmp_path):
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", ORPHANED.format(log=str(log))], check=False)
    time.sleep(0.5)
    size = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size == size


def test_no_more_workers_are_started_than_there_are_blocks():
    assert Workers(4).at_most(1) == Workers(1)
    assert Workers(4, processes=False).at_most(9) == Workers(4, processes=False)
    assert Workers(4).at_most(0) == Workers(1)
    away = Workers(scheduler="tcp://127.0.0.1:8786")
    assert away.at_most(1) == away


def test_a_tiny_network_gives_the_same_bytes_in_threads(cube, tmp_path, tiny_recipe):
    from diapir.inference.sections import load_section_model
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    recipe = tiny_recipe()
    model = tmp_path / "model.safetensors"
    save_model(model, SaltNet(recipe.model), ModelCard(recipe, 0.5))
    load = partial(load_section_model, [model])
    alone, found = predict(cube, tmp_path / "one", load_model=load, lines=9)
    shared, _ = predict(
        cube, tmp_path / "two", Workers(3, processes=False), load_model=load, lines=9
    )
    assert stored_bytes(alone.store) == stored_bytes(shared.store)
    assert 0 < float(found["probability"].min()) < float(found["probability"].max()) < 1
    assert 0 < alone.model_seconds <= alone.block_seconds


def test_a_gap_in_the_survey_holds_no_salt(tmp_path):
    values = np.full((34, 36, 40), 255, np.float32)
    source = xr.Dataset(
        {"amplitude": (("inline", "crossline", "sample"), values)},
        {
            "inline": np.arange(34),
            "crossline": np.arange(36),
            "sample": ("sample", np.arange(40.0), {"units": "ms"}),
            "trace_mask": (("inline", "crossline"), np.ones((34, 36), bool)),
        },
    )
    source["trace_mask"][3, 4] = False
    job, plan, _, _ = make_job_of(source, tmp_path / "out")
    took = predict_volume(job, plan, source, Workers(1))
    found = xr.open_zarr(took.store, chunks=None)
    assert (values == 255).all()  # a survey in memory is not written over
    assert float(found["probability"].max()) == 1
    assert not found["mask"][3, 4].any()
    assert found["mask"].sum() == (34 * 36 - 1) * 40
    assert not found["trace_mask"][3, 4]
    assert found["sample"].attrs["units"] == "ms"


@pytest.mark.parametrize("directions", ["inline", "crossline", "both"])
def test_a_dead_trace_holds_no_salt(tmp_path, directions):
    values = np.full((34, 36, 40), 255, np.float32)
    values[3, 4], values[5, 6], values[7, 8, 1:] = 0, np.nan, 0
    np.save(tmp_path / "cube.npy", values)
    _, found = predict(
        tmp_path / "cube.npy", tmp_path / "out", load_model=Uneven, directions=directions
    )
    salty = found["probability"].to_numpy().any(axis=-1)
    assert np.argwhere(~salty).tolist() == [[3, 4], [5, 6]]
    assert not found["mask"].to_numpy()[~salty].any()


def make_job_of(survey, out):
    plan = Plan.of(survey["amplitude"].shape, "both", 8)
    journal, news = Journal.open(out, {"a": 1})
    job = Job(
        key=str(out),
        open_source=lambda: survey,
        load_model=IdentityModel,
        look=AS_IS,
        tiling=TILING,
        threshold=0.5,
        journal=journal,
        last=plan.directions[-1],
        scratch=len(plan.directions) > 1,
    )
    return job, plan, survey, news


def test_a_line_is_one_block(tmp_path):
    section = np.random.default_rng(0).integers(0, 256, (70, 90)).astype(np.float32)
    np.save(tmp_path / "line.npy", section)  # (sample, trace)
    took, found = predict(tmp_path / "line.npy", tmp_path / "out")
    assert took.blocks == 1
    assert found["probability"].dims == ("trace", "sample")
    assert np.abs(found["probability"].to_numpy() - section.T / 255).max() <= 1e-6
    assert "disagreement" not in found


def test_a_narrow_direction_is_left_out():
    assert Plan.of((40, 40, 50)).directions == ("inline", "crossline")
    assert Plan.of((20, 400, 50)).directions == ("inline",)
    assert Plan.of((400, 20, 50)).directions == ("crossline",)
    assert Plan.of((5, 9, 50)).directions == ("inline",)
    assert Plan.of((400, 20, 50), "inline").directions == ("inline",)


def test_a_block_takes_the_same_memory_whatever_the_size():
    def samples(shape):
        return Plan.of(shape).lines * max(shape[:2]) * shape[2]

    assert samples((1000, 1000, 1500)) <= 1.2 * samples((500, 500, 750))


def test_the_blocks_of_a_plan_cover_every_line_once():
    plan = Plan.of((38, 36, 48), lines=5)
    for direction, count in (("inline", 38), ("crossline", 36)):
        lines = [k for b in plan.blocks(direction) for k in range(b.start, b.stop)]
        assert lines == list(range(count))


class Stubborn(IdentityModel):
    """Fails after some sections, once."""

    left = 0

    def predict_probs(self, images):
        type(self).left -= 1
        if type(self).left == 0:
            raise DataError("pulled the plug")
        return super().predict_probs(images)


def test_a_broken_prediction_goes_on_where_it_was(cube, tmp_path):
    whole, _ = predict(cube, tmp_path / "whole")
    Stubborn.left = 33
    with pytest.raises(DataError, match="pulled the plug"):
        predict(cube, tmp_path / "out", load_model=Stubborn)
    job, plan, survey, news = make_job(cube, tmp_path / "out", load_model=Stubborn)
    done = len(job.journal.done())
    assert done > 1
    assert any(f"{done} blocks" in text for text in news)
    took = predict_volume(job, plan, survey, Workers(1))
    assert (took.resumed, took.blocks) == (done, 16)
    assert stored_bytes(whole.store) == stored_bytes(took.store)


def test_other_settings_start_afresh_say_so_and_lose_nothing(cube, tmp_path):
    predict(cube, tmp_path / "out")
    job, _, _, news = make_job(cube, tmp_path / "out", settings={"clip": 2})
    assert job.journal.done() == {}
    assert any("afresh: 16 blocks" in text for text in news)
    first, _, _, news = make_job(cube, tmp_path / "out")
    assert len(first.journal.done()) == 16
    assert news == ("going on: 16 blocks are done already",)
    assert not job.journal.folder.exists()  # there was nothing in it
    job, *_ = make_job(cube, tmp_path / "out", settings={"clip": 2})
    job.journal.remove_others()
    assert list((tmp_path / "out").glob(".unfinished-*")) == [job.journal.folder]


def test_a_record_cut_short_does_not_count(tmp_path):
    journal, _ = Journal.open(tmp_path, {})
    journal.record("inline-000000", {"seconds": 1.0})
    (journal.folder / "journal" / ".inline-000005-ab12.json").write_text('{"sec')
    assert list(journal.done()) == ["inline-000000"]


@pytest.mark.parametrize("text", ["", '{"seconds": 1', "[]", "\\x00" * 9])
def test_a_damaged_record_does_not_count(tmp_path, text):
    """A power cut may leave the name of a small file without its bytes."""
    journal, _ = Journal.open(tmp_path, {})
    (journal.folder / "journal" / "inline-000000.json").write_text(text)
    assert journal.done() == {}
    assert journal.find("inline-000000") is None
    journal.record("inline-000000", {"seconds": 1.0})
    assert journal.find("inline-000000") == {"seconds": 1.0}


def test_a_block_that_is_written_down_is_not_done_again(cube, tmp_path, fatal):
    log = tmp_path / "log"
    job, plan, survey, _ = make_job(cube, tmp_path / "out", load_model=fatal(10**9))
    predict_volume(job, plan, survey, ALONE)
    size, (block, *_) = log.stat().st_size, plan.blocks("inline")
    assert job(block) == job.journal.done()[block.name]
    assert log.stat().st_size == size


def test_records_without_their_stores_do_not_count(cube, tmp_path):
    """A worker of a cluster may end its block after the journal of its map was removed."""
    job, plan, survey, _ = make_job(cube, tmp_path / "out")
    job.journal.record("inline-000000", {"seconds": 1.0, "model_seconds": 1.0})
    took = predict_volume(job, plan, survey, ALONE)
    assert (took.resumed, took.blocks) == (0, 16)


def test_a_scheduler_that_is_not_there_is_told(cube, tmp_path, monkeypatch):
    import distributed

    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda *a, **k: real(*a, **{**k, "timeout": "0.5s"}))
    with pytest.raises(RunError, match="scheduler"):
        predict(cube, tmp_path / "out", Workers(scheduler="tcp://127.0.0.1:9"))


def test_a_lost_scheduler_is_told_and_gives_no_results():
    results = []
    with open_pool(Workers(2, processes=False)) as pool:
        client = pool._client

        def lose(result):
            # what distributed's Client._reconnect does when the scheduler is gone
            results.append(result)
            for state in list(client.futures.values()):
                client.loop.add_callback(state.cancel, reason="scheduler-connection-lost")

        with pytest.raises(RunError, match="scheduler was lost"):
            pool.run(lambda seconds: time.sleep(seconds) or seconds, [0, 0.5, 0.6], lose)
    assert results == [0]


def test_the_second_direction_waits_for_every_block_of_the_first(cube, tmp_path, monkeypatch):
    def forgetful(self, task, blocks, done):
        for block in blocks[:-1]:
            done(task(block))

    monkeypatch.setattr(Pool, "run", forgetful)
    with pytest.raises(RunError, match="1 of 8 blocks were not written, first inline-000035"):
        predict(cube, tmp_path / "out")
    monkeypatch.undo()
    _, found = predict(cube, tmp_path / "out")
    assert np.abs(found["probability"].to_numpy() - np.load(cube) / 255).max() <= 1e-6


@contextmanager
def dask_cluster(tmp_path, workers, env=None):
    """Yield the address of a Dask scheduler with workers, each a process that others started."""
    address = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    null = subprocess.DEVNULL
    quiet = {"stdout": null, "stderr": null, "cwd": tmp_path, "env": env}
    started = [
        subprocess.Popen(
            [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", address],
            **quiet,
        )
    ]
    try:
        while not address.exists():
            assert started[0].poll() is None
            time.sleep(0.02)
        started += [
            subprocess.Popen(
                [*dask, "worker", "--scheduler-file", address, "--nthreads", "1", "--no-nanny",
                 "--no-dashboard", "--name", str(number)],
                **quiet,
            )
            for number in range(workers)
        ]  # fmt: skip
        yield json.loads(address.read_text())["address"]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def scheduler(tmp_path):
    """Address of a Dask scheduler with two workers."""
    with dask_cluster(tmp_path, 2) as address:
        yield address


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("raise ImportError('not here')", "ImportError: not here"),
        ("__version__ = '0.0.1'", "it has 0.0.1"),
    ],
)
def test_a_cluster_without_this_diapir_is_told(cube, tmp_path, content, told):
    (tmp_path / "diapir.py").write_text(content)
    away = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with dask_cluster(tmp_path, 1, away) as address, pytest.raises(RunError) as caught:
        predict(cube, tmp_path / "out", Workers(scheduler=address))
    assert "2 of 2 processes of the Dask cluster" in str(caught.value)
    assert told in str(caught.value)
    assert address in str(caught.value)


def test_a_cluster_without_workers_is_told(cube, tmp_path, monkeypatch):
    monkeypatch.setattr("diapir.inference.schedule.WORKERS_WITHIN_SECONDS", 0.2)
    with dask_cluster(tmp_path, 0) as address, pytest.raises(RunError) as caught:
        predict(cube, tmp_path / "out", Workers(scheduler=address))
    assert "no worker" in str(caught.value)
    assert f"dask worker {address}" in str(caught.value)


FATAL = """
import os, signal
from pathlib import Path
from diapir.inference.sections import IdentityModel

class Fatal(IdentityModel):
    '''Logs every section, and kills its process at one of them, once.'''

    def __init__(self, log, at):
        super().__init__()
        self.log, self.at = Path(log), at

    def predict_probs(self, images):
        with self.log.open("a") as file:
            file.write(".")
        if self.log.stat().st_size >= self.at and self.first_to_strike():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict_probs(images)

    def first_to_strike(self):
        try:
            self.log.with_suffix(".struck").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
"""


@pytest.fixture
def fatal(tmp_path, monkeypatch):
    """Returns a model that logs and dies, from a module that workers can import."""
    (tmp_path / "fatal.py").write_text(FATAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fatal", raising=False)
    return lambda at: partial(importlib.import_module("fatal").Fatal, str(tmp_path / "log"), at)


@pytest.mark.parametrize("kind", ["processes", "scheduler"])
def test_a_worker_that_dies_loses_one_block_and_not_those_it_had_finished(
    cube, tmp_path, kind, request, fatal
):
    workers = Workers(2)
    if kind == "scheduler":
        workers = Workers(scheduler=request.getfixturevalue("scheduler"))
    log = tmp_path / "log"
    shared, _ = predict(cube, tmp_path / "two", workers, load_model=fatal(30), lines=3)
    assert log.with_suffix(".struck").exists()
    assert 38 + 36 < log.stat().st_size <= 38 + 36 + 3
    alone, _ = predict(cube, tmp_path / "one", lines=3)
    assert stored_bytes(alone.store) == stored_bytes(shared.store)


def test_a_running_scheduler_gives_the_same_bytes(cube, tmp_path, scheduler):
    alone, _ = predict(cube, tmp_path / "one", lines=9)
    shared, _ = predict(cube, tmp_path / "cluster", Workers(scheduler=scheduler), lines=9)
    assert stored_bytes(alone.store) == stored_bytes(shared.store)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {src!r})
from diapir.inference.sections import IdentityModel, SectionSettings, Tiling
from diapir.inference.schedule import Pool, Workers, open_pool
from diapir.runs.map import map_survey
from diapir.runs.map_result import MapSettings

class Slow(IdentityModel):
    def predict_probs(self, images):
        with open({log!r}, "a") as file:
            file.write("section\\n")
        time.sleep(0.004)
        return super().predict_probs(images)

sections = SectionSettings(normalise=False, tiling=Tiling(64, 16))
settings = MapSettings(sections, threshold=0.99, lines=6)
map_survey(Path({cube!r}), Path({out!r}), [], settings, workers=Workers(1), progress=False,
           load_model=Slow)
"""


def test_killed_at_random_moments_it_redoes_one_block_at_most(cube, tmp_path):
    """Here two kills and one worker; benchmarks/volume.py does twenty with two."""
    log, out = tmp_path / "log", tmp_path / "out"
    script = KILLED.format(src=str(ROOT / "src"), log=str(log), cube=str(cube), out=str(out))
    kills = 0
    for wanted in (20, 55):
        child = subprocess.Popen([sys.executable, "-c", script])
        while child.poll() is None and (not log.exists() or len(log.read_bytes()) < 8 * wanted):
            time.sleep(0.002)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
    assert not (out / STORE).exists()
    subprocess.run([sys.executable, "-c", script], check=True)
    assert kills == 2
    sections = log.read_text().count("section")
    assert 38 + 36 <= sections <= 38 + 36 + kills * 6
    found = xr.open_zarr(out / STORE, chunks=None)["probability"].to_numpy()
    assert np.abs(found - np.load(cube) / 255).max() <= 1e-6
    assert not list(out.glob(".unfinished-*"))
