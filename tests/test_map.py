import json
import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from typer.testing import CliRunner

from diapir.cli import app
from diapir.data.survey import SurveyPlan, generate_survey, write_survey
from diapir.errors import DataError, ModelFileError, OptionError, RunError
from diapir.export.segy_mask import traces_of
from diapir.inference.journal import settings_key
from diapir.inference.schedule import Workers
from diapir.inference.sections import IdentityModel, SectionSettings, Tiling
from diapir.io.ingest import ingest
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet
from diapir.runs.map import map_survey
from diapir.runs.map_result import MapSettings
from diapir.runs.survey_demo import run_survey_demo, score_map
from diapir.training.finetune import Tuning

PLAN = SurveyPlan((36, 40, 48), seed=3, start=100.0, azimuth=30.0, gaps=0.05, dead=0.03)
SECTIONS = SectionSettings(tiling=Tiling(64, 16))
SETTINGS = MapSettings(SECTIONS, min_samples=20, threshold=0.5, lines=12)
ONE = Workers(1)


@pytest.fixture(scope="module")
def made():
    return generate_survey(PLAN)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    write_survey(made, folder / "survey.sgy", folder / "truth.sgy")
    return folder


@pytest.fixture
def survey(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path / "survey.sgy"


@pytest.fixture
def model(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    torch.manual_seed(0)  # untrained: what it calls salt hangs on its weights alone
    save_model(tmp_path / "model.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return tmp_path / "model.safetensors"


def test_every_product_is_there_and_opens(survey, model, tmp_path):
    out, told = tmp_path / "out", []
    tell = lambda done, total: told.append((done, total))  # noqa: E731
    result = map_survey(survey, out, [model], SETTINGS, workers=ONE, progress=False, tell=tell)
    assert told == [(done, 7) for done in range(8)]  # three blocks of inlines, four of crosslines
    store = xr.open_zarr(result.store, chunks=None)
    assert {"probability", "mask", "disagreement"} <= set(store.data_vars)
    assert store["sample"].attrs["units"] == "ms"
    assert float(store["sample"][0]) == 100
    assert {"cdp_x", "cdp_y", "trace_mask"} <= set(store.coords)
    names = {str(path.relative_to(out)) for path in result.files}
    assert {"probability.sgy", "mask.sgy", "bodies.csv", "report.html", "map.json"} <= names
    assert {
        f"horizons/{n}.{s}"
        for n in ("top_salt", "base_salt")
        for s in ("xyz", "dat", "zmap", "csv", "parquet")
    } <= names
    assert all(path.exists() for path in result.files)
    assert not [path for path in out.iterdir() if path.name.startswith(".unfinished")]
    table = json.loads((out / "map.json").read_text())
    assert table["settings"]["fingerprint"] == store_attrs(survey)
    assert table["input"] == {"path": str(survey.resolve()), "options": {}}
    page = (out / "report.html").read_text()
    assert "Salt bodies" in page
    assert result.products.bodies.bodies
    assert "Top salt of the kept bodies" in page
    shown = {path.stem for path in (out / "figures").iterdir()}
    sections = shown - {"top_salt", "base_salt", "amplitudes"}
    assert sections
    assert shown - sections == {"top_salt", "base_salt", "amplitudes"}
    for name in sections:  # by the line's number, as in its title
        direction, number = name.split("-")
        assert int(number) in store[direction]
        assert f"{direction.capitalize()} {number}, salt in orange" in page


def store_attrs(survey):
    from diapir.io.opening import open_volume

    return open_volume(survey).attrs["fingerprint"]


@pytest.mark.parametrize("code", [1, 2, 3, 5, 8])
def test_segy_differs_in_its_samples_alone(made, tmp_path, code):
    file = tmp_path / "survey.sgy"
    order = "little" if code == 3 else "big"
    write_survey(made, file, code=code, byte_order=order)
    settings = replace(SETTINGS, lines=40)
    result = map_survey(
        file, tmp_path / "out", [], settings, workers=ONE, progress=False, load_model=IdentityModel
    )
    width = {8: 1, 3: 2}.get(code, 4)
    before = np.frombuffer(file.read_bytes()[3600:], np.uint8).reshape(-1, 240 + 48 * width)
    probs = xr.open_zarr(result.store, chunks=None)["probability"].to_numpy()
    from diapir.io.opening import open_volume

    for name, scale in (
        ("probability", {8: 100, 3: 10_000, 2: 1_000_000}.get(code, 1)),
        ("mask", 1),
    ):
        copy = (tmp_path / "out" / f"{name}.sgy").read_bytes()
        after = np.frombuffer(copy[3600:], np.uint8).reshape(before.shape)
        assert copy[:3600] == file.read_bytes()[:3600]
        assert np.array_equal(after[:, :240], before[:, :240])
        dead = ~before[:, 240:].any(axis=1)
        assert dead.any()
        assert not after[dead, 240:].any()
        found = open_volume(tmp_path / "out" / f"{name}.sgy")["amplitude"].to_numpy() / scale
        expected = probs if name == "probability" else probs > 0.5
        live = made.geometry.trace_mask & ~made.dead
        assert np.abs(found - expected)[live].max() <= 0.5 / scale + 1e-6


def test_a_perfect_mask_gives_the_true_top_and_volume(made, tmp_path):
    truth = np.where(made.geometry.trace_mask[..., None], made.salt, False)
    np.save(tmp_path / "perfect.npy", truth.astype(np.uint8) * 255)
    settings = replace(SETTINGS, sections=replace(SECTIONS, normalise=False), min_samples=1)
    result = map_survey(
        tmp_path / "perfect.npy",
        tmp_path / "out",
        [],
        settings,
        workers=ONE,
        progress=False,
        load_model=IdentityModel,
    )
    top = np.where(truth.any(axis=-1), truth.argmax(axis=-1), np.nan)
    assert np.nanmax(np.abs(result.products.top.z - top)) <= 1
    assert np.array_equal(np.isnan(result.products.top.z), np.isnan(top))
    assert sum(body.samples for body in result.products.bodies.bodies) == truth.sum()
    np.save(tmp_path / "truth.npy", truth.astype(np.uint8))
    score = score_map(result, tmp_path / "truth.npy")
    assert (score.iou, score.dice, score.top_error, score.top_found) == (1, 1, 0, 1)


def test_a_finished_map_only_makes_its_products_again(survey, model, tmp_path):
    out = tmp_path / "out"
    first = map_survey(survey, out, [model], SETTINGS, workers=ONE, progress=False)
    leftover = out / ".probability-0123456789ab.sgy"  # of one that was killed
    leftover.touch()
    again = map_survey(survey, out, [model], SETTINGS, workers=ONE, progress=False)
    assert first.prediction is not None
    assert again.prediction is None
    assert any("finished already" in text for text in again.news)
    assert not leftover.exists()
    other = replace(SETTINGS, sections=replace(SECTIONS, polarity="reverse"))
    third = map_survey(survey, out, [model], other, workers=ONE, progress=False)
    assert third.prediction is not None
    assert any("replaced" in text for text in third.news)


def test_a_changed_option_is_told_before_hours_of_work_and_loses_none(survey, model, tmp_path):
    out, said, before = tmp_path / "out", [], []
    mapped = partial(map_survey, survey, out, [model], workers=ONE, progress=False)

    def stop(done, _):
        before.append(list(said))
        if done == 5:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError):
        mapped(SETTINGS, tell=stop)
    before.clear()
    with pytest.raises(RuntimeError):
        mapped(replace(SETTINGS, threshold=0.4), tell=stop, say=said.append)
    assert any("afresh: 5 blocks" in text for text in before[0])
    result = mapped(SETTINGS)
    assert result.prediction.resumed == 5
    assert "going on: 5 blocks are done already" in result.news
    assert not list(out.glob(".unfinished-*"))
    said.clear()
    with pytest.raises(RuntimeError):
        mapped(replace(SETTINGS, threshold=0.4), tell=stop, say=said.append)
    assert any("is replaced when" in text for text in said)
    assert mapped(SETTINGS).prediction is None  # the map that was finished is still there


def test_settings_are_stated_as_ever(tmp_path):
    """Maps that an earlier version left unfinished go on only where this table is the same."""
    line = np.random.default_rng(0).normal(size=(40, 48)).astype(np.float32)
    np.save(tmp_path / "line.npy", line)
    result = map_survey(
        tmp_path / "line.npy", tmp_path / "out", [], MapSettings(threshold=0.5), workers=ONE,
        device="cpu", progress=False, load_model=IdentityModel,
    )  # fmt: skip
    attributes = xr.open_zarr(result.store).attrs
    found = json.loads(attributes["diapir_settings"])
    expected = {
        "algorithm": 3, "clip": [1.0, 99.0], "device": "cpu", "directions": "both",
        "directions_used": ["line"], "engine": "eager", "fingerprint": found["fingerprint"],
        "flip": None, "lines": None, "lines_a_block": 48, "look": found["look"], "models": [],
        "normalise": True, "polarity": "normal", "sample": [0.0, 39.0, "1"], "shape": [48, 40],
        "stand_in": "diapir.inference.sections.IdentityModel", "threshold": 0.5,
        "tiling": {
            "batch": 4, "overlap": 101, "sample_scale": 1.0, "trace_scale": 1.0, "window": 404
        },
    }  # fmt: skip
    assert found == expected
    assert set(found["look"]) == {"low", "high", "gain", "offset"}
    assert attributes["diapir_key"] == settings_key(expected)  # where 1 and 1.0 are not the same
    assert json.loads((result.out / "map.json").read_text())["settings"] == expected


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_a_section_of_any_size_gets_what_a_line_can_have(model, tmp_path, suffix):
    from diapir.io.images import encode_png

    grey = np.random.default_rng(0).integers(0, 256, (75, 133)).astype(np.uint8)
    file = tmp_path / f"section.{suffix}"
    if suffix == "png":
        file.write_bytes(encode_png(grey))
    else:
        np.save(file, grey)
    result = map_survey(file, tmp_path / "out", [model], SETTINGS, workers=ONE, progress=False)
    store = xr.open_zarr(result.store, chunks=None)
    assert store["probability"].dims == ("trace", "sample")
    assert store["probability"].shape == (133, 75)
    assert (result.out / "horizons" / "top_salt.csv").exists()
    assert not (result.out / "horizons" / "top_salt.zmap").exists()
    assert result.products.meshes == ()


def test_another_engine_gives_the_same_map(model, tmp_path):
    pytest.importorskip("openvino")
    np.save(tmp_path / "line.npy", np.random.default_rng(0).integers(0, 256, (75, 133), np.uint8))
    found = []
    for engine in ("eager", "openvino"):
        settings = replace(SETTINGS, engine=engine)
        out = tmp_path / engine
        result = map_survey(
            tmp_path / "line.npy", out, [model], settings, workers=ONE, progress=False
        )
        found.append(xr.open_zarr(result.store, chunks=None)["probability"].values)
    assert 0 < np.abs(found[0] - found[1]).max() < 0.02  # it was another engine


@pytest.mark.parametrize(
    ("shape", "gone"), [((1, 40, 48), {"zmap"}), ((40, 1, 48), {"zmap"}), ((1, 1, 48), {"zmap"})]
)
def test_a_single_line_gets_what_it_can_have(make_segy, model, tmp_path, shape, gone):
    file, _ = make_segy(shape=shape, start=100.0)
    settings = replace(SETTINGS, threshold=0.01, min_samples=1)
    result = map_survey(file, tmp_path / "out", [model], settings, workers=ONE, progress=False)
    names = {path.suffix[1:] for path in (tmp_path / "out" / "horizons").iterdir()}
    assert names == {"xyz", "dat", "zmap", "csv", "parquet"} - gone
    assert result.products.meshes == ()
    assert (tmp_path / "out" / "mask.sgy").exists()
    assert np.nanmin(result.products.top.z) == 100


def test_a_stray_line_number_leaves_out_the_grid_and_says_so(make_segy, tmp_path):
    file, _ = make_segy(shape=(6, 40, 48))
    data = bytearray(file.read_bytes())
    for trace in range(200, 240):
        at = 3600 + trace * (240 + 48 * 4) + 188
        data[at : at + 4] = (2_000_000_000).to_bytes(4, "big")
    file.write_bytes(data)
    settings = replace(SETTINGS, threshold=0.01, min_samples=1, directions="inline")
    result = map_survey(file, tmp_path / "out", [], settings, workers=ONE, progress=False,
                        load_model=IdentityModel)  # fmt: skip
    names = {path.suffix[1:] for path in (tmp_path / "out" / "horizons").iterdir()}
    assert names == {"xyz", "dat", "csv", "parquet"}
    assert any("no ZMAP+ grid is written" in text for text in result.news)
    assert any("40 of 240 traces lie further than a bin" in text for text in result.news)
    assert np.isclose(result.products.frame.bin_area, 25 * 12.5)
    assert "no ZMAP+ grid is written"[1:] in (tmp_path / "out" / "report.html").read_text()


def test_a_map_made_again_keeps_nothing_of_the_former(survey, model, tmp_path):
    out = tmp_path / "out"

    def again(segy: bool, **changes: float) -> set[str]:
        settings = replace(SETTINGS, **{"threshold": 0.01, "min_samples": 1, **changes})
        map_survey(survey, out, [model], settings, workers=ONE, progress=False, segy=segy)
        return {path.name for path in out.iterdir()}

    meshes, copies = {"bodies.ts", "bodies.obj", "bodies.vtk"}, {"probability.sgy", "mask.sgy"}
    assert meshes | copies <= again(segy=True)
    left = again(segy=False, min_samples=10**6)  # the same map, no body of this size
    assert copies <= left
    assert not meshes & left
    assert not copies & again(segy=False, threshold=0.02)


def test_another_first_sample_is_another_map(survey, model, tmp_path):
    found = []
    ingest(survey, tmp_path / "survey.zarr")
    survey = tmp_path / "survey.zarr"
    for start in (100.0, 100.0, 1000.0):
        result = map_survey(survey, tmp_path / "out", [model], SETTINGS, workers=ONE,
                            options={"start": start}, progress=False)  # fmt: skip
        found.append((float(xr.open_zarr(result.store)["sample"][0]), result.news))
    assert [first for first, _ in found] == [100, 100, 1000]
    assert any("finished already" in text for text in found[1][1])
    assert any("is replaced" in text for text in found[2][1])


def test_a_store_of_others_that_is_written_anew_is_another_survey(tmp_path):
    """What `diapir ingest` did not write says nothing of its content, such as MDIO."""
    values = np.random.default_rng(0).normal(size=(34, 36, 48)).astype(np.float32)
    path = tmp_path / "cube.mdio"
    dims = ("inline", "crossline", "time")
    xr.Dataset({"amplitude": (dims, values)}).to_zarr(path, zarr_format=3, consolidated=False)
    for file in path.rglob("*"):
        os.utime(file, (10**9, 10**9))
    again = partial(map_survey, path, tmp_path / "out", [], SETTINGS, workers=ONE, progress=False,
                    load_model=IdentityModel)  # fmt: skip
    first = again()
    assert again().prediction is None
    zarr.open_group(path, mode="r+")["amplitude"][1] = values[1, ::-1]  # no statistics show it
    result = again()
    assert result.prediction is not None
    assert result.look == first.look
    assert any("is replaced" in text for text in result.news)


def test_two_maps_do_not_write_into_one_folder(survey, model, tmp_path):
    from diapir.runs.folder import RunFolder

    (tmp_path / "out").mkdir()
    with RunFolder(tmp_path / "out").locked(), pytest.raises(RunError, match="another process"):
        map_survey(survey, tmp_path / "out", [model], SETTINGS, workers=ONE, progress=False)


def test_a_map_without_a_model_is_refused(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("diapir.models.packaged.resources.files", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match="no model is named"):
        map_survey(survey, tmp_path / "out", [], MapSettings(), workers=ONE, progress=False)


def test_a_device_that_is_not_there_is_told_before_anything_else(model, tmp_path, monkeypatch):
    monkeypatch.setattr("diapir.inference.predict._has_card", lambda: False)
    np.save(tmp_path / "line.npy", np.random.default_rng(0).normal(size=(40, 48)))
    with pytest.raises(OptionError, match="no device"):
        map_survey(tmp_path / "line.npy", tmp_path / "out", [model], SETTINGS, device="cuda")
    assert not (tmp_path / "out").exists()


def test_a_changed_segy_is_not_copied(survey, model, tmp_path, made):
    from diapir.export.segy_mask import write_salt_segy
    from diapir.io.opening import open_volume

    volume = open_volume(survey)
    facts, mark = volume.attrs["segy"], volume.attrs["fingerprint"]
    write_survey(made, survey, code=8)
    with pytest.raises(DataError, match="changed"):
        write_salt_segy(facts, mark, {}, tmp_path)
    survey.unlink()
    with pytest.raises(DataError, match="not there"):
        write_salt_segy(facts, mark, {}, tmp_path)
    for odd in ("{}", "[]", '{"path": "a.sgy", "options": {"of_another_version": 1}}', "half{"):
        with pytest.raises(DataError, match="cannot be used"):
            write_salt_segy(odd, mark, {}, tmp_path)


@pytest.mark.parametrize("ingested", [False, True])
def test_what_was_in_doubt_in_the_file_is_told(make_segy, model, tmp_path, ingested):
    file, _ = make_segy(shape=(40, 36, 48))
    with file.open("ab") as end:
        end.write(b"12345")
    if ingested:
        ingest(file, tmp_path / "survey.zarr")
        file = tmp_path / "survey.zarr"
    result = map_survey(file, tmp_path / "out", [model], SETTINGS, workers=ONE, progress=False)
    told = "5 bytes after the last whole trace belong to none: the file is cut off"
    assert told in result.news
    assert told in json.loads((result.out / "map.json").read_text())["warnings"]
    assert told in (result.out / "report.html").read_text()


@pytest.mark.parametrize("how", ["gone", "changed", "elsewhere"])
def test_a_store_whose_segy_cannot_be_copied_is_mapped_without(
    survey, model, tmp_path, made, monkeypatch, how
):
    store, out = tmp_path / "survey.zarr", tmp_path / "out"
    ingest(survey, store)
    wanted = {"gone": "is not there", "changed": "has changed", "elsewhere": "is not there"}[how]
    if how == "gone":
        survey.unlink()
    elif how == "changed":
        write_survey(made, survey, code=8)
    (tmp_path / "allowed").mkdir()
    more = {"segy_folders": [tmp_path / "allowed"]} if how == "elsewhere" else {}
    mapped = partial(map_survey, store, out, [model], SETTINGS, workers=ONE, progress=False, **more)
    result = mapped()
    (text,) = [text for text in result.news if "not written as SEG-Y" in text]
    assert wanted in text
    assert str(tmp_path) not in text  # which clients of a service read
    assert (out / "map.json").exists()
    assert not [path for path in result.files if path.suffix == ".sgy"]
    monkeypatch.setattr("diapir.runs.map._predict", pytest.fail)  # it is told before
    with pytest.raises(DataError, match=wanted):
        mapped(segy=True)


def test_segy_that_is_asked_for_without_a_segy_is_told(model, tmp_path):
    np.save(tmp_path / "line.npy", np.ones((40, 48), np.float32))
    with pytest.raises(DataError, match="not read from a SEG-Y"):
        map_survey(tmp_path / "line.npy", tmp_path / "out", [model], SETTINGS, segy=True)


@pytest.mark.parametrize("box", [1, 50, 10_000])
def test_traces_come_in_the_order_of_the_file(box):
    rng = np.random.default_rng(0)
    array = rng.random((6, 7, 5))
    cells = np.argwhere(np.ones((6, 7), bool))[rng.permutation(42)].astype(np.int32)
    gather = traces_of(array, cells, box)
    assert np.array_equal(gather(5, 31), array[tuple(cells[5:31].T)])


def test_the_verb_maps_and_prints(survey, model, tmp_path):
    line = ["map", str(survey), str(tmp_path / "out"), "--model", str(model), "--workers", "1"]
    line += ["--window", "64", "--overlap", "16", "--quiet", "--velocity", "2500", "--no-segy"]
    line += ["--threshold", "0.0001"]  # all of it is one body
    done = CliRunner().invoke(app, line, catch_exceptions=False, env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "two-way time (ms)" in done.output
    assert "two-way time (ms)" in (tmp_path / "out" / "report.html").read_text()
    assert "report.html" in done.output
    assert not (tmp_path / "out" / "mask.sgy").exists()
    line += ["--display", "seismic", "--json"]  # colours of the report alone
    again = CliRunner().invoke(app, line, catch_exceptions=False)
    table = json.loads(again.stdout)
    assert any("finished already" in text for text in table["news"])


def test_the_verb_tells_a_note_once(model, tmp_path):
    file, out = tmp_path / "line.npy", tmp_path / "out"
    np.save(file, np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    line = ["map", str(file), str(out), "--model", str(model), "--workers", "1", "--quiet"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*line, "--window", "64", "--overlap", "16"])
        assert done.exit_code == 0
    assert done.stderr.count("note: the prediction is finished already") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--threshold", "0.999999"], "no salt was found"),
        (["--threshold", "0.0001", "--min-body", "1000000"], "no salt body is left: all 1 were"),
    ],
)
def test_a_map_without_bodies_says_so_and_why(model, tmp_path, settings, said):
    file, out = tmp_path / "line.npy", tmp_path / "out"
    np.save(file, np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "top_salt.png").touch()  # of an earlier map, which found some
    line = ["map", str(file), str(out), "--model", str(model), "--workers", "1", *settings]
    done = CliRunner().invoke(app, [*line, "--window", "64", "--overlap", "16", "--quiet"])
    assert done.exit_code == 0
    assert said in done.stderr
    assert "Salt bodies" not in done.output
    report = (out / "report.html").read_text()
    assert said[1:] in report
    assert "There is no top and no base of salt" in report
    assert "Top salt of the kept bodies" not in report
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {"the-line.png", "amplitudes.png"}


def test_the_demo_goes_the_whole_way(model, tmp_path):
    plan = SurveyPlan((40, 36, 48), seed=3)
    rows = dict(
        run_survey_demo(
            tmp_path,
            model,
            plan=plan,
            tuning=Tuning(steps=3, batch=2, window=32),
            workers=ONE,
            progress=False,
        )
    )
    (folder,) = tmp_path.glob("*-survey")
    scores = json.loads((folder / "scores.json").read_text())
    assert 0 <= scores["after"]["iou"] <= 1
    assert "mask, IoU" in rows
    assert len(list((folder / "labels").iterdir())) == 6
    shutil.rmtree(folder)
