"""The table of what was tried: paired gains, verdicts, seeds, and what cannot be compared."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from diapir.cli.app import app
from diapir.config import load_recipe
from diapir.errors import DataError, OptionError, RunError
from diapir.metrics.bootstrap import bootstrap_interval
from diapir.runs.comparison import differences, read_tried, write_comparison

IDS = [f"t{k:03d}" for k in range(100)]


def tiles(scores: np.ndarray, ids: list[str] = IDS) -> dict[str, Any]:
    found = zip(ids, scores.tolist(), strict=True)
    return {"tile_scores": {id_: {"score": score, "iou": 0.0} for id_, score in found}}


def draw(seed: int, gain: float = 0.0) -> np.ndarray:
    """Scores of a hundred tiles in tenths; a gain lifts some tiles from 0 to 1."""
    scores = np.round(np.random.default_rng(0).random(100), 1)
    rng = np.random.default_rng(seed)
    scores[rng.permutation(100)[: round(abs(100 * gain))]] = 1.0 if gain > 0 else 0.0
    return scores


def write_run(folder: Path, *settings: str, val: Any, holdout: Any = None, **more: Any) -> Path:
    folder.mkdir(parents=True)
    recipe = load_recipe("demo", settings)
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    table = {
        "training_seconds": 120.0,
        "interrupted": None,
        "data_fingerprint": "abc",
        "command": f"diapir train demo {' '.join(settings)}",
        "val": val,
        "holdout": holdout,
        **more,
    }
    (folder / "metrics.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A baseline in two seeds, a better recipe, a worse one, one that hardly differs, and more."""
    place = tmp_path / "runs"
    other_ids = [f"x{k}" for k in range(100)]
    return [
        write_run(place / "base", val=tiles(draw(1))),
        write_run(place / "base-seed", "train.seed=1", val=tiles(draw(2, 0.02))),
        write_run(place / "scse", "model.scse=true", val=tiles(draw(3, 0.6))),
        write_run(place / "ema", "optim.ema=null", val=tiles(draw(4, -0.6))),
        write_run(place / "zoom", "augment.zoom=0.2", val=tiles(draw(5, 0.02))),
        write_run(place / "val", "split.val=0.2", val=tiles(draw(1), other_ids)),
        write_run(place / "killed", val=tiles(draw(1)), interrupted=15),
        write_run(place / "data", val=tiles(draw(1)), data_fingerprint="other"),
        write_run(place / "none", "split.val=0", val=None),
    ]


def test_a_training_that_failed_is_not_compared(runs: list[Path], tmp_path: Path) -> None:
    broke = write_run(tmp_path / "broke", "model.scse=true", val=tiles(draw(3, 0.9)),
                      failure="the loss is no longer a number")  # fmt: skip
    write_comparison([*runs, broke], tmp_path / "tried.md")
    compared, aside = (tmp_path / "tried.md").read_text().split("## Not comparable")
    assert "broke" not in compared
    assert "it ended early: the loss is no longer a number" in aside


def test_a_page_keeps_its_title(runs: list[Path], tmp_path: Path) -> None:
    write_comparison(runs[:2], tmp_path / "tried.md", title="Two seeds")
    write_comparison(runs[2:3], tmp_path / "tried.md")
    assert (tmp_path / "tried.md").read_text().startswith("# Two seeds\n")


def test_runs_of_several_processes_have_a_row_of_their_own(
    runs: list[Path], tmp_path: Path
) -> None:
    command = "diapir train demo --devices"
    two = write_run(tmp_path / "two", val=tiles(draw(3, 0.3)), command=f"{command} 2")
    alone = write_run(tmp_path / "alone", val=tiles(draw(3, 0.3)), command=f"{command}=1")
    write_comparison([*runs, two, alone], tmp_path / "tried.md")
    rows = [line for line in (tmp_path / "tried.md").read_text().splitlines() if "|" in line]
    (row,) = (line for line in rows if line.endswith("| two |"))
    assert row.startswith("| demo: `--devices 2` |")
    (base,) = (line for line in rows if line.startswith("| baseline"))
    assert base.endswith("| alone, base, base-seed |")


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        (0, "Epoch and threshold were chosen on these tiles, which flatters all runs alike"),
        (1, "Epoch and threshold were chosen on these tiles in some of the runs"),
        (2, "Neither epoch nor threshold was chosen on these tiles"),
    ],
)
def test_the_page_says_what_was_chosen_on_its_tiles(tmp_path: Path, fixed: int, said: str) -> None:
    given = ("predict.threshold=0.5", "train.select=last")
    chosen = ("predict.threshold=null", "train.select=best")
    runs = [
        write_run(tmp_path / str(k), *(given if k < fixed else chosen), val=tiles(draw(k)))
        for k in range(2)
    ]
    write_comparison(runs, tmp_path / "tried.md")
    assert said in " ".join((tmp_path / "tried.md").read_text().split())


def row(page: str, name: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.endswith(f"{name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_each_row_is_a_paired_gain_over_the_baseline(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "docs" / "tried.md"
    assert write_comparison(runs, out) == 9
    page = out.read_text(encoding="utf-8")
    base = np.mean([draw(1), draw(2, 0.02)], axis=0)
    for name, gain, line, verdict in (
        ("scse", draw(3, 0.6) - base, "model.scse = true", "better"),
        ("ema", draw(4, -0.6) - base, "optim.ema = null", "worse"),
        ("zoom", draw(5, 0.02) - base, "augment.zoom = 0.2", "smaller than its interval"),
    ):
        low, high = bootstrap_interval(gain)
        cells = row(page, name)
        assert cells[0] == f"demo: `{line}`"
        assert cells[2:4] == [f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})", verdict]
        assert cells[4:6] == ["1", "2.0"]
    # runs that differ in the seed alone share a row
    cells = row(page, "base, base-seed")
    assert cells[0] == "baseline: demo"
    low, high = bootstrap_interval(base)
    assert cells[1] == f"{base.mean():.3f} ({low:.3f} to {high:.3f})"
    low, high = sorted((draw(1).mean(), draw(2, 0.02).mean()))
    assert cells[4] == f"2 ({low:.3f} to {high:.3f})"
    # the best stands first, the one that did not help stays in
    assert page.index("model.scse") < page.index("augment.zoom") < page.index("optim.ema = null")
    assert "used the hold-out up" not in page


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("val", "its validation tiles are others: 100, of which 0 are among the 100"),
        ("killed", "a signal ended it early"),
        ("data", "trained on other data"),
        ("none", "no scores of validation tiles"),
    ],
)
def test_what_cannot_be_compared_is_marked(
    runs: list[Path], tmp_path: Path, name: str, why: str
) -> None:
    write_comparison(runs, tmp_path / "tried.md")
    table = (tmp_path / "tried.md").read_text(encoding="utf-8").split("## Not comparable")[1]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    assert why in line


def test_later_runs_join_and_the_page_is_written_again(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tried.md"
    write_comparison(runs, out)
    whole = out.read_text(encoding="utf-8")
    other = tmp_path / "other.md"
    write_comparison(runs[:2], other)
    for path in (*runs[2:], runs[0]):  # one by one, one of them again
        write_comparison([path], other)
    assert other.read_text(encoding="utf-8") == whole.replace("tried/", "other/")
    out.unlink()
    assert write_comparison([], out) == 9
    assert out.read_text(encoding="utf-8") == whole
    # another baseline, which is remembered
    write_comparison([], out, baseline=Path("scse"))
    write_comparison([], out)
    assert row(out.read_text(encoding="utf-8"), "scse")[0].startswith("baseline")
    assert row(out.read_text(encoding="utf-8"), "base, base-seed")[3] == "worse"


def test_tiles_with_neighbours_are_compared_by_themselves(runs: list[Path], tmp_path: Path) -> None:
    """Of a group only those count whose neighbour is among the tiles of the runs, too."""
    groups = tmp_path / "groups.csv"
    rows = [*((id_, k // 2) for k, id_ in enumerate(IDS[:20])), (IDS[30], 77), ("no-tile", 77)]
    groups.write_text("".join(f"{id_},{group}\n" for id_, group in [("id", "group"), *rows]))
    out = tmp_path / "tried.md"
    write_comparison(runs, out, groups=groups)
    page = out.read_text(encoding="utf-8")
    below = page.split("## Tiles with neighbours")[1]
    assert below.lstrip().startswith("20 of these tiles share a group")
    base = np.mean([draw(1), draw(2, 0.02)], axis=0)[:20]
    gain = draw(3, 0.6)[:20] - base
    low, high = bootstrap_interval(gain)
    assert row(below, "scse")[2] == f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
    low, high = bootstrap_interval(base)
    assert row(below, "base, base-seed")[1] == f"{base.mean():.3f} ({low:.3f} to {high:.3f})"
    write_comparison([], out)  # the page knows its groups
    assert out.read_text(encoding="utf-8") == page


def test_groups_without_neighbours_are_refused(runs: list[Path], tmp_path: Path) -> None:
    groups, out = tmp_path / "groups.csv", tmp_path / "tried.md"
    groups.write_text(f"id,group\n{IDS[0]},1\n{IDS[1]},2\n")
    with pytest.raises(DataError, match="no two of the validation tiles share a group"):
        write_comparison(runs, out, groups=groups)
    assert not out.exists()
    said = CliRunner().invoke(app, ["results", *map(str, runs), "--groups", str(groups)])
    assert said.exit_code == 2
    assert "go with --compare" in said.output


def test_hold_out_is_compared_only_where_asked_for(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.5)):
        settings = ["model.scse=true"] if gain else []
        held = tiles(draw(7, gain))
        write_run(tmp_path / name, *settings, val=tiles(draw(1)), holdout=held)
    out = tmp_path / "tried.md"
    words = ["results", str(tmp_path / "a"), str(tmp_path / "b"), "--compare", "--out", str(out)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert row(out.read_text(encoding="utf-8"), "b")[3] == "smaller than its interval"
    said = CliRunner().invoke(app, [*words, "--on", "hold-out"])
    assert said.exit_code == 0, said.output
    assert row(out.read_text(encoding="utf-8"), "b")[3] == "better"
    assert "used the hold-out up" in out.read_text(encoding="utf-8").replace("\n", " ")


def test_a_run_with_folds_is_compared_out_of_fold(tmp_path: Path) -> None:
    run = tmp_path / "folds"
    for fold in range(2):
        write_run(run / f"fold-{fold}", "split.folds=2", val=tiles(draw(1)))
    joined = {"training_seconds": 240.0, "folds": 2, "val": tiles(draw(8)), "holdout": None}
    (run / "metrics.json").write_text(json.dumps(joined))
    tried = read_tried(run)
    assert tried.minutes == 4
    assert list(tried.scores) == ["validation"]
    assert tried.scores["validation"]["t003"] == draw(8)[3]
    assert tried.recipe["split"]["folds"] == 2


def test_errors_say_what_to_give(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "tried.md"
    with pytest.raises(RunError, match="no run to compare with"):
        write_comparison([], out)
    with pytest.raises(RunError, match=r"metrics\.json"):
        write_comparison([tmp_path], out)
    with pytest.raises(RunError, match="no run gone is kept"):
        write_comparison(runs[:1], out, baseline=Path("gone"))
    with pytest.raises(RunError, match=r"baseline(.|\n)*no scores(.|\n)*another --baseline"):
        write_comparison([runs[-1]], out)
    with pytest.raises(OptionError, match="validation or hold-out"):
        write_comparison(runs[:1], out, part="test")
    with pytest.raises(RunError, match="two of the runs are called base"):
        write_comparison([runs[0], runs[0]], out)
    assert not out.exists()
    assert not (tmp_path / "tried").exists()
    write_comparison(runs[:1], out)
    (tmp_path / "tried" / "odd.json").write_text("{}")
    with pytest.raises(RunError, match="Delete the file"):
        write_comparison([], out)
    for words in (["--on", "hold-out"], ["--compare", "--submission", "x.json"]):
        assert CliRunner().invoke(app, ["results", *words]).exit_code == 2


def test_differences_are_lines_of_a_recipe_without_paths() -> None:
    base = load_recipe("demo").model_dump(mode="json")
    lines = differences(
        load_recipe(
            "demo",
            [
                "model.weights=/some/where/net.safetensors",
                "loss.stages=[{bce=1.0}]",
                "train.small_first={until_progress=0.5, resize_to=64}",
                "train.seed=9",
                "distill.models=['/a/b.safetensors']",
            ],
        ).model_dump(mode="json"),
        base,
    )
    text = "\n".join(lines)
    assert "model.weights = net.safetensors" in text
    assert "loss.stages = [{bce = 1}]" in text
    assert "train.small_first.resize_to = 64" in text
    assert "distill.models = [b.safetensors]" in text
    assert "seed" not in text
    assert not re.search(r"/some|/a/", text)
