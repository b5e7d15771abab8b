"""The command line through its real entry point."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diapir import __version__
from diapir.cli import main
from diapir.data.competition import write_competition
from diapir.data.synthetic import generate_tiles
from diapir.models.modelfile import load_model, save_model

Run = Callable[..., tuple[int, str, str]]

QUICK = [
    "--set", "train.epochs=1", "--set", "train.max_minutes=null",
    "--set", "model.scratch_channels=[4, 8]", "--set", "model.decoder_channels=[8]",
    "--set", "split.stratify=none",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `diapir` with these words; returns exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diapir", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "100")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiles"
    write_competition(folder, generate_tiles(40, 0), generate_tiles(12, 1, labelled=False))
    return folder


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the command line trained, in its run folder."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["train", "demo", "--data", str(data), "--runs", str(runs), "--quiet", *QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "diapir", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder,) = runs.iterdir()
    return folder / "model.safetensors"


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].strip() == f"diapir {__version__}"
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("demo", "describe", "train", "evaluate", "predict", "submit", "check-submission"):
        assert verb in out


def test_no_words_show_the_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "Commands" in out + err


def test_recipes(run: Run) -> None:
    names = {recipe["name"] for recipe in json.loads(run("recipes", "--json")[1])}
    assert {"classic-scratch", "classic-vgg16", "classic-resnet34", "classic-vgg19"} <= names
    assert "cpu" in run("recipes")[1]


@pytest.mark.parametrize(
    "words",
    [["recipes"], ["recipes", "--json"], ["--help"], ["describe", "{data}", "--quiet"]],
    ids=" ".join,
)
def test_a_reader_that_leaves_ends_a_verb_quietly(data: Path, words: list[str]) -> None:
    """As `head -1` does; here it has left before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    filled = [word.format(data=data) for word in words]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "diapir", *filled],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("diapir.runs.describe.describe_data", describe)
    before = sys.stdout
    code, out, err = run("describe", data, "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith("error: a process that this one was talking to has ended\n  fix: ")
    assert sys.stdout is before


def test_synth_then_describe(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("synth", "tiles", tmp_path / "new", "--n", 20, "--zip")
    assert code == 0
    assert "16 labelled and 4 test tiles" in out
    code, out, _ = run("describe", tmp_path / "new", "--out", tmp_path / "found", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["labelled"]["tiles"] == 16
    assert found["test"]["tiles"] == 4
    assert found == json.loads((tmp_path / "found" / "describe.json").read_text())
    figures = {path.name for path in (tmp_path / "found").glob("*.png")}
    assert figures == {"samples.png", "coverage.png", "coverage-depth.png"}


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("map a.sgy out", "meshio"),
        ("ingest a.sgy a.zarr", "dask"),
        ("finetune --volume a.sgy --labels labels", "dask"),
        ("demo --survey", "meshio"),
    ],
)
def test_surveys_without_the_extra_are_told_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = importlib.util.find_spec
    found = lambda name: None if name == missing else whole(name)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    code, _, err = run(*words.split())
    assert code == 2
    assert f"not installed: {missing}" in err
    assert "pip install -c constraints.txt '.[volume]'" in err


@pytest.mark.parametrize("where", ["test", "images", ""])
def test_describe_images_without_labels(run: Run, data: Path, tmp_path: Path, where: str) -> None:
    shutil.copytree(data / "test" / "images", tmp_path / "data" / where)
    words = ("describe", tmp_path / "data", "--out", tmp_path / "found", "--quiet")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == ["test"]
    assert (found["test"]["tiles"], found["test"]["empty_masks"]) == (12, None)
    assert {path.name for path in (tmp_path / "found").glob("[!.]*")} == {"describe.json"}
    assert "describe.json is in" in run(*words)[1]


def test_describe_images_beside_their_table(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train" / "images", tmp_path / "data" / "images")
    shutil.copy(data / "train.csv", tmp_path / "data")
    code, out, err = run("describe", tmp_path / "data", "--json", "--quiet")
    assert code == 0, err
    assert list(json.loads(out)) == ["labelled"]
    (tmp_path / "nothing").mkdir()
    code, _, err = run("describe", tmp_path / "nothing", "--quiet")
    assert code == 2
    assert "no train images" in err


def test_describe_as_a_table(run: Run, data: Path) -> None:
    code, out, _ = run("describe", data, "--quiet")
    assert code == 0
    assert re.search(r"empty masks\s+\S+\s+\d+", out)


def test_train_shows_scores_and_what_next(model: Path) -> None:
    metrics = json.loads((model.parent / "metrics.json").read_text())
    assert metrics["command"].startswith("python -m diapir train demo --data")
    assert "cores" in metrics["machine"]
    commands = (model.parent / "next.txt").read_text()
    assert f"diapir evaluate {model}" in commands


def test_evaluate_leaves_out_what_the_model_has_seen(run: Run, data: Path, model: Path) -> None:
    code, out, _ = run("evaluate", model, "--data", data, "--json", "--quiet")
    assert code == 0
    found = json.loads(out)
    split = json.loads((model.parent / "split.json").read_text())
    assert set(found["tile_scores"]) == set(split["holdout"])
    assert "flatters" not in str(found["warning"])
    reported = json.loads((model.parent / "metrics.json").read_text())["holdout"]
    assert found["metrics"] == reported["metrics"]


def test_other_tiles_under_the_same_ids_are_offered_to_be_scored(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data / "train", other)
    split = json.loads((model.parent / "split.json").read_text())
    changed = other / "images" / f"{split['train'][0]}.png"
    Image.fromarray(np.zeros((101, 101), np.uint8)).save(changed)
    code, out, err = run("evaluate", model, "--data", other, "--json", "--quiet")
    assert code == 0
    seen = len(split["train"]) + len(split["val"])
    assert f"{seen} tiles are left out as seen, by their ids" in " ".join(err.split())
    assert json.loads(out)["tiles_are"].endswith("that no model has seen")
    code, _, err = run("evaluate", model, "--data", other, "--part", "all", "--json", "--quiet")
    assert code == 0
    assert "unless these are other tiles" in " ".join(err.split())
    for id_ in split["holdout"]:
        for folder in ("images", "masks"):
            (other / folder / f"{id_}.png").unlink()
    code, _, err = run("evaluate", model, "--data", other, "--quiet")
    assert code == 2
    assert "other tiles under the same ids, give --part all" in " ".join(err.split())


def test_evaluate_all_tiles_warns(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "evaluated"
    words = ("--data", data, "--part", "all", "--out", out_folder, "--quiet")
    code, out, err = run("evaluate", model, model, *words)
    assert code == 0
    assert "flatters" in err
    assert "competition score" in out
    assert (out_folder / "report.html").read_text().startswith("<!")
    assert json.loads((out_folder / "evaluation.json").read_text())["tiles"] == 40


def test_submit_then_check(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    code, out, _ = run("submit", model, "--data", data, "--out", file, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["tiles"] == 12
    made_by = json.loads(file.with_suffix(".json").read_text())
    assert made_by["problems"] == 0
    assert made_by["models"][0]["file"] == model.name
    code, out, _ = run("check-submission", file, "--data", data)
    assert code == 0
    assert "valid submission of 12 tiles" in out


def test_masks_without_any_salt_are_warned_of(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    words = ("--data", data, "--threshold", 1, "--json", "--quiet")
    code, out, err = run("submit", model, *words, "--out", tmp_path / "submission.csv")
    assert code == 0
    assert json.loads(out)["warning"] == "no salt is found: the masks of all 12 tiles are empty"
    assert err == "warning: no salt is found: the masks of all 12 tiles are empty\n"
    code, out, err = run("evaluate", model, *words)
    found = json.loads(out)
    assert "no salt is found" in found["warning"]
    assert "no salt is found" in err
    assert found["metrics"]["score"] == found["every_mask_empty"]


def test_check_submission_asks_the_data_for_ids_and_size_alone(run: Run, tmp_path: Path) -> None:
    images = tmp_path / "data" / "test"
    images.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(images / "a.png")
    (images / "b.png").write_bytes(b"damaged")
    (tmp_path / "data" / "depths.csv").write_text("id,z\n")
    (tmp_path / "data" / "sample_submission.csv").write_text("id;rle_mask\n")
    file = tmp_path / "submission.csv"
    file.write_text("id,rle_mask\na,1 5\nb,\n")
    code, out, err = run("check-submission", file, "--data", tmp_path / "data")
    assert code == 0
    assert "valid submission of 2 tiles" in out
    assert "sample_submission.csv" in err


def test_check_submission_says_what_is_wrong(run: Run, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("id,rle_mask\nnobody,1 2 3\n")
    code, out, _ = run("check-submission", file, "--data", data, "--json")
    assert code == 1
    found = json.loads(out)
    assert not found["valid"]
    assert {p["kind"] for p in found["problems"]} >= {"unknown id", "missing id", "run-lengths"}
    code, out, _ = run("check-submission", file, "--data", data)
    assert code == 1
    assert "row 2" in out


@pytest.mark.parametrize("kind", ["file", "folder", "zip"])
def test_predict_images_of_any_size(run: Run, model: Path, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (101, 101), "b": (40, 77), "c": (90, 450)}
    images = tmp_path / "images"
    images.mkdir()
    for name, shape in shapes.items():
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(images / f"{name}.png")
    source: Path = images
    if kind == "file":
        source, shapes = images / "c.png", {"c": shapes["c"]}
    if kind == "zip":
        source = tmp_path / "images.zip"
        with zipfile.ZipFile(source, "w") as packed:
            for name in shapes:
                packed.write(images / f"{name}.png", f"{name}.png")
    out = tmp_path / "out"
    code, printed, _ = run("predict", model, source, out, "--probs", "--quiet")
    assert code == 0
    found = [np.array(Image.open(out / "masks" / f"{name}.png")).any() for name in shapes]
    counted = f"{len(shapes)} images predicted into {out}, {sum(found)} with salt"
    assert counted in " ".join(printed.split())
    for name, shape in shapes.items():
        mask = np.array(Image.open(out / "masks" / f"{name}.png"))
        probs = np.array(Image.open(out / "probs" / f"{name}.png"))
        assert mask.shape == probs.shape == shape
        assert set(np.unique(mask)) <= {0, 255}


def test_a_damaged_image_is_found_before_any_is_predicted(
    run: Run, model: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, side in (("a", 40), ("b", 41), ("c", 40)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(images / f"{name}.png")
    damaged = images / "c.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    code, _, err = run("predict", model, images, out, "--quiet")
    assert code == 2
    assert "the PNG is truncated" in err
    assert str(damaged) in err
    assert not out.exists()


@pytest.mark.parametrize("wrong", ["sample", "id", "json", "folder"])
def test_what_no_submission_can_be_is_found_before_predicting(
    run: Run, tmp_path: Path, wrong: str
) -> None:
    out, name = tmp_path / "out.csv", "a b" if wrong == "id" else "a"
    data = tmp_path / "data"
    (data / "test").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(data / "test" / f"{name}.png")
    if wrong == "sample":
        (data / "sample_submission.csv").write_text("id;rle_mask\na;\n")
    if wrong == "json":
        out = out.with_suffix(".json")
    if wrong == "folder":
        out.mkdir()
    # no such model: who reads it has come too far
    code, _, err = run("submit", "none.safetensors", "--data", data, "--out", out, "--quiet")
    assert code == 2
    said = {"sample": "sample_submission.csv row 1", "id": "'a b' does not fit"}
    said |= {"json": "would take its place", "folder": "Give .*out.csv/submission.csv"}
    assert re.search(said[wrong], err)


def test_info(run: Run, model: Path, tmp_path: Path) -> None:
    assert "recipe SHA-256" in run("info", model)[1]
    noted = tmp_path / "noted.safetensors"
    net, card = load_model(model)
    save_model(noted, net, replace(card, notes="# Not for wells\x1b[2J"))
    assert "# Not for wells\N{REPLACEMENT CHARACTER}[2J" in run("info", noted)[1]
    found = json.loads(run("info", model, "--json")[1])
    assert found["recipe"] == "demo"
    assert found["recipe_settings"]["train"]["epochs"] == 1


def test_results_page(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    run("submit", model, "--data", data, "--out", file, "--quiet")
    page = tmp_path / "docs" / "page.md"
    code, _, _ = run("results", model.parent, "--submission", file.with_suffix(".json"),
                     "--out", page)  # fmt: skip
    assert code == 0
    text = page.read_text()
    metrics = json.loads((model.parent / "metrics.json").read_text())
    assert metrics["command"] in text
    assert f"{metrics['holdout']['metrics']['score']['value']:.3f}" in text
    empty = metrics["holdout"]["every_mask_empty"]["value"]
    assert f"| score if every mask were empty | {empty:.3f} |" in text
    assert "[page/](page/)" in text
    figures = re.findall(r"\]\((page/[^)#]+\.png)\)", text)
    assert figures
    assert all((page.parent / figure).is_file() for figure in figures)
    anchors = re.findall(r"\]\(#([^)]+)\)", text)
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    slugs = {re.sub(r"[^a-z0-9_-]", "", title.lower().replace(" ", "-")) for title in titles}
    assert anchors
    assert set(anchors) <= slugs
    # without the run folder the page is written again to the letter
    page.unlink()
    assert run("results", "--out", page)[0] == 0
    assert page.read_text() == text


def test_results_of_a_folder_that_is_no_run(run: Run, tmp_path: Path) -> None:
    code, _, err = run("results", tmp_path, "--out", tmp_path / "page.md")
    assert code == 2
    assert "metrics.json" in err
    assert not (tmp_path / "page.md").exists()


def test_demo_goes_the_whole_way(run: Run, data: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "demo", "--data", data, "--out", tmp_path, "--minutes", 0.05, "--json", "--quiet"
    )
    assert code == 0
    rows = json.loads(out)
    for name in ("model", "submission", "report", "what next"):
        assert Path(rows[name]).is_file()
    assert "valid" in rows["test tiles"]
    assert "score on hold-out" in rows
    assert "if every mask were empty" in rows
    assert " with salt, in " in rows["test tiles"]


@pytest.mark.usefixtures("no_figures")
def test_demo_needs_neither_depths_nor_a_test_part(run: Run, data: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(data / "train", plain)
    words = ("demo", "--data", plain, "--out", tmp_path / "demo", "--minutes", 0.05)
    code, out, err = run(*words, "--json", "--quiet")
    assert code == 0, err
    rows = json.loads(out)
    assert rows["submission"] == "none: the data has no test part"
    assert Path(rows["model"]).is_file()
    assert "test tiles" not in rows


@pytest.mark.parametrize("options", [["--data", "{data}"], ["--survey"]])
def test_an_interrupted_demo_says_so(
    run: Run, options: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diapir.runs import demo, survey_demo
    from diapir.runs.folder import RunFolder
    from diapir.runs.outcome import RunResult, Trained

    folder = RunFolder(tmp_path)
    result = RunResult(0.5, None, None, 1.0, folder, np.zeros((0, 1, 1)), interrupted=2)
    for module in (demo, survey_demo):
        monkeypatch.setattr(module, "train_recipe", lambda *_: Trained(folder, [result]))
    monkeypatch.setattr(survey_demo, "_TILES", 12)
    words = [word.format(data=data) for word in options]
    code, _, err = run("demo", *words, "--out", tmp_path / "demo", "--quiet")
    assert code == 130
    assert "SIGINT ended the training" in err
    assert "next.txt" in err


def test_without_a_model_the_packaged_one_is_served(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diapir.cli import serve
    from diapir.models.packaged import packaged_model

    found = []
    monkeypatch.setattr(serve, "_run", lambda settings, host, port: found.append(settings.models))
    assert run("serve")[0] == 0
    assert found == [(packaged_model(),)]


@pytest.mark.usefixtures("no_figures")
def test_groups_stay_together(run: Run, data: Path, tmp_path: Path) -> None:
    ids = sorted(path.stem for path in (data / "train" / "images").iterdir())
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\n" + "".join(f"{id_},{i // 4}\n" for i, id_ in enumerate(ids)))
    words = ["--data", data, "--runs", tmp_path / "runs", "--quiet", *QUICK]
    code, _, err = run("train", "demo", *words, "--set", f"split.groups={groups}")
    assert code == 0
    assert "group by itself" not in err
    (folder,) = (tmp_path / "runs").iterdir()
    split = json.loads((folder / "split.json").read_text())
    part_of = {id_: part for part in ("train", "val", "holdout") for id_ in split[part]}
    for start in range(0, len(ids), 4):
        assert len({part_of[id_] for id_ in ids[start : start + 4]}) == 1


@pytest.mark.parametrize("matching", [0, 5])
def test_groups_of_other_tiles_are_told_of(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matching: int
) -> None:
    from diapir.runs import train

    monkeypatch.setattr(train, "_train_splits", lambda *_: (_ for _ in ()).throw(SystemExit(7)))
    ids = sorted(path.stem for path in (data / "train" / "images").iterdir())
    rows = [f"{id_}{'' if i < matching else '.png'},{i // 5}\n" for i, id_ in enumerate(ids)]
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\n" + "".join(rows))
    words = ["--data", data, "--runs", tmp_path / "runs", "--quiet", *QUICK]
    code, _, err = run("train", "demo", *words, "--set", f"split.groups={groups}")
    if matching:
        assert code == 7
        assert f"warning: 35 of 40 tiles are not in {groups}; each" in " ".join(err.split())
    else:
        assert code == 2
        assert "no tile has a group" in err
        assert not (tmp_path / "runs").exists()


BAD_CALLS = {
    "no data": (("train", "demo", "--data", "nowhere"), "nowhere"),
    "unknown recipe": (("train", "nothing", "--data", "{data}"), "classic-vgg19"),
    "unknown key": (("train", "demo", "--data", "{data}", "--set", "train.epoch=1"), "epochs"),
    "bad value": (("train", "demo", "--data", "{data}", "--set", "train.epochs=0"), "epochs"),
    "no equals sign": (("train", "demo", "--data", "{data}", "--set", "epochs"), "key=value"),
    "recipe and resume": (("train", "demo", "--resume", "x"), "RECIPE"),
    "neither": (("train",), "RECIPE"),
    "resume no run": (("train", "--resume", "{data}", "--data", "{data}"), "run folder"),
    "no model": (("evaluate", "none.safetensors", "--data", "{data}"), "does not exist"),
    "no such part": (("evaluate", "{model}", "--data", "{data}", "--part", "x"), "auto or all"),
    "one path": (("predict", "{data}"), "two paths"),
    "nothing to write": (("predict", "{model}", "{data}", "x", "--no-masks"), "--probs"),
    "no images": (("predict", "{model}", "nowhere", "x"), "nowhere"),
    "no submission": (("check-submission", "none.csv", "--data", "{data}"), "none.csv"),
    "not a model": (("info", "{data}/depths.csv"), "nothing says how this file was made"),
    "synth into data": (("synth", "tiles", "{data}", "--n", "10"), "{data}"),
    "no such device": (
        (
            "finetune",
            "{model}",
            "--volume",
            "v.npy",
            "--labels",
            "l",
            "--out",
            "o",
            "--device",
            "gpu",
        ),
        "no device 'gpu'",
    ),
    "too many folds": (("train", "demo", "--data", "{data}", "--folds", "90"), "folds"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_end_in_one_clear_error(
    run: Run, name: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, told = BAD_CALLS[name]
    filled = [word.format(data=data, model=model) for word in words]
    code, _, err = run(*filled)
    assert code == 2
    assert "Traceback" not in err
    flat = re.sub(r"[\s│]+", " ", err)
    assert told.format(data=data) in flat
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_read_only_place_is_one_clear_error(run: Run, data: Path, model: Path) -> None:
    code, _, err = run("submit", model, "--data", data, "--out", "/proc/no/s.csv", "--quiet")
    assert code == 2
    assert "/proc/no" in err
    assert "Traceback" not in err
