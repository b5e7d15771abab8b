"""Both sides of the time to score are scored alike, and scoring takes none of their time."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import time_to_score
import time_to_score_sides as sides
from performance_submission import draw_competition


def test_scoring_is_left_out_of_the_account() -> None:
    def slow() -> float:
        time.sleep(0.05)
        return 0.5

    observer = sides.Observer(slow, every=10)
    assert observer.look(9.0) == 0
    assert observer.look(10.0) >= 0.05
    assert observer.look(19.0) == 0
    assert observer.look(19.5, last=True) >= 0.05
    assert observer.look(19.5, last=True) == 0  # a moment is scored once
    assert observer.points == [(10.0, 0.5), (19.5, 0.5)]
    assert observer.spent >= 0.1


def test_a_score_that_is_never_reached_takes_for_ever() -> None:
    points = [(60.0, 0.5), (120.0, 0.7), (180.0, 0.69)]
    assert time_to_score.minutes_to(points, 0.7) == 2.0
    assert time_to_score.minutes_to(points, 0.71) == float("inf")


def test_the_fastest_training_of_each_side_counts() -> None:
    def run(side: str, budget: float, *points: tuple[float, float]) -> dict:
        return {"side": side, "budget": budget, "unit": "minutes", "points": points}

    runs = [
        run("plain", 9, (60.0, 0.6), (540.0, 0.76)),
        run("plain", 20, (600.0, 0.70), (1200.0, 0.78)),
        run("cpu", 5, (60.0, 0.71), (300.0, 0.76)),
        run("cpu", 12, (120.0, 0.71), (480.0, 0.79)),
    ]
    found = time_to_score.summarise(runs)
    # nobody reached 0.80
    assert [row.value for row in found.rows] == [9.0, 9 / 5, 20 / 8]
    assert [row.holds for row in found.rows] == [None, None, True]
    assert [cells[5] for cells in found.tables[0].cells] == ["not reached"] * 4
    # a side with a single schedule might be faster with a shorter one
    unfair = time_to_score.summarise(runs[1:])
    assert [row.holds for row in unfair.rows] == [None, None, None]
    assert "single budget" in unfair.tables[0].note


def test_scores_are_averages_with_mirrored_tiles() -> None:
    from diapir.data.synthetic import generate_tiles

    tiles = generate_tiles(4, seed=0)
    asked: list[np.ndarray] = []

    def truth_and_its_opposite(images: np.ndarray) -> np.ndarray:
        asked.append(images)
        # right about straight tiles and certain, wrong about mirrored ones and doubtful
        truth = tiles.truth.astype(np.float32)
        return truth if len(asked) == 2 else (0.6 - 0.2 * truth)[:, :, ::-1]

    assert sides.score_mirrored(truth_and_its_opposite, tiles) == 1.0
    assert np.array_equal(asked[0], asked[1][:, :, ::-1])


def test_both_sides_train_and_are_put_side_by_side(tmp_path: Path) -> None:
    data = draw_competition(tmp_path / "data", 2)
    holdout = tmp_path / "holdout.json"
    assert time_to_score.main(["split", "--data", str(data), "--share", "0.1", str(holdout)]) == 0
    assert len(json.loads(holdout.read_text(encoding="utf-8"))["holdout"]) == 4

    cpu = sides.train_cpu(
        sides.Trial(data, holdout, None, 60.0, seed=0, every=0.0, work=tmp_path),
        settings=[
            "model.encoder=scratch",
            "model.scratch_channels=[2, 4]",
            "model.decoder_channels=[2]",
            "train.epochs=1",
            "train.tiles_per_epoch=48",
            "train.batch_size=16",
        ],
    )
    assert len(cpu.points) == 3  # after every step of 16 tiles, the last one included
    assert all(0 <= score <= 1 for _, score in cpu.points)
    assert cpu.points[0][0] < cpu.points[-1][0]

    out, results = tmp_path / "runs", tmp_path / "results"
    command = ["plain", "--data", str(data), "--holdout", str(holdout), "--epochs", "1"]
    time_to_score.main([*command, "--out", str(out)])
    (path,) = out.glob("*/*.json")
    first = json.loads(path.read_text(encoding="utf-8"))
    assert len(first["points"]) == 1
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    time_to_score.main([*command, "--out", str(out)])  # is there already
    assert json.loads(path.read_text(encoding="utf-8")) == first
    time_to_score.main(["table", "--out", str(out), "--results", str(results)])
    (page,) = results.glob("*.md")
    assert "| baseline | 1 epochs |" in page.read_text(encoding="utf-8")


def test_a_holdout_of_other_tiles_is_refused(tmp_path: Path) -> None:
    data = draw_competition(tmp_path / "data", 2)
    holdout = tmp_path / "holdout.json"
    holdout.write_text('{"holdout": ["nobody"]}', encoding="utf-8")
    with pytest.raises(SystemExit, match="1 ids, of which 0"):
        sides.read_parts(data, holdout)
