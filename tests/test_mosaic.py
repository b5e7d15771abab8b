"""Neighbours and mosaics: sections that were cut up are put together again."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from diapir.cli.app import app
from diapir.config import Recipe
from diapir.data.borders import Seams, find_seams
from diapir.data.competition import write_competition
from diapir.data.mosaic import Mosaic, Mosaics, assemble, find_mosaics, seam_agreement
from diapir.errors import DataError, OptionError
from diapir.io.images import write_mask_png
from diapir.io.tiles import Tiles
from diapir.runs.mosaic import _labelled_side_by_side, evidence_rows, read_all, write_mosaics

SIDE = 32


def draw_sections(count: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Return (count, H, W) sections of dipping layers and noise, smooth as seismic is."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, rows * SIDE, columns * SIDE))
    smooth = ndimage.gaussian_filter(noise, (0, 1.2, 3.5))
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    return np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)


def cut(sections: np.ndarray) -> np.ndarray:
    """Return the tiles of sections, section by section, row by row."""
    count, height, width = sections.shape
    parts = sections.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE)
    return parts.transpose(0, 1, 3, 2, 4).reshape(-1, SIDE, SIDE)


@pytest.fixture(scope="module")
def shuffled() -> tuple[np.ndarray, np.ndarray]:
    """Tiles of 30 sections of 2 x 3 in a random order, and the place each comes from."""
    tiles = cut(draw_sections(30, 2, 3))
    order = np.random.default_rng(1).permutation(len(tiles))
    return tiles[order], order


def test_neighbours_are_found_and_few_others(shuffled: tuple[np.ndarray, np.ndarray]) -> None:
    tiles, order = shuffled
    for direction, step, per_section in (("right", 1, 4), ("below", 3, 3)):
        seams = find_seams(tiles, direction)
        first, second = order[seams.first], order[seams.second]
        true = (second == first + step) & (first // 6 == second // 6)
        assert true.mean() > 0.95
        assert true.sum() > 0.8 * 30 * per_section
        assert (np.diff(seams.margin) <= 0).all()
        assert seams.margin.min() >= seams.limit > 1


def test_mosaics_are_the_sections(shuffled: tuple[np.ndarray, np.ndarray]) -> None:
    tiles, order = shuffled
    found = find_mosaics(tiles)
    whole = [m for m in found.mosaics if len(m) == 6]
    assert len(whole) > 20
    for mosaic in whole:
        assert mosaic.shape == (2, 3)
        start = order[mosaic.tiles].min()
        assert (order[mosaic.grid()].ravel() == np.arange(start, start + 6)).all()
        assert (cut(np.asarray(mosaic.join(tiles))[None]) == tiles[mosaic.grid().ravel()]).all()
    groups = found.groups()
    assert found.joined == (groups >= 0).sum()
    assert found.loops > 0


def test_strangers_have_no_neighbours() -> None:
    tiles = cut(draw_sections(80, 1, 1, seed=5))
    for direction in ("right", "below"):
        assert len(find_seams(tiles, direction)) == 0
        small = np.random.default_rng(0).integers(0, 256, (4, 12, 12), np.uint8)
        assert len(find_seams(small, direction)) == 0


def test_blank_and_water_tiles_match_nothing(shuffled: tuple[np.ndarray, np.ndarray]) -> None:
    tiles = shuffled[0].copy()
    tiles[:40] = 77
    tiles[40:60, : SIDE - 3] = 40  # water above a strip of sea floor
    joined = np.concatenate([m.tiles for m in find_mosaics(tiles).mosaics])
    assert (joined >= 40).all()
    right = find_seams(tiles, "right")
    assert (np.concatenate([right.first, right.second]) >= 60).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_tiles_are_no_error(count: int) -> None:
    found = find_mosaics(cut(draw_sections(2, 1, 1))[:count])
    assert (found.tiles, found.joined) == (count, 0)


def seams(direction: str, *pairs: tuple[int, int, float]) -> Seams:
    first, second, margin = np.array(pairs).T if pairs else np.zeros((3, 0))
    return Seams(direction, first.astype(int), second.astype(int), margin, 1.0, 0)


def test_surer_pairs_win_over_contradictions() -> None:
    # 0 1
    # 2 3    and a weak claim that 0 lies below 3, which would close a ring, and 4 on the place of 1
    right = seams("right", (0, 1, 9), (2, 3, 8), (0, 4, 2))
    below = seams("below", (0, 2, 7), (1, 3, 6), (3, 0, 3))
    (mosaic,), dropped = assemble(6, right, below)
    assert mosaic.grid().tolist() == [[0, 1], [2, 3]]
    assert dropped == 2


def test_parts_keep_their_places_when_they_are_joined() -> None:
    right = seams("right", (0, 1, 9), (5, 6, 8), (1, 5, 2))
    below = seams("below", (6, 7, 5))
    (mosaic,), dropped = assemble(8, right, below)
    assert mosaic.grid().tolist() == [[0, 1, 5, 6], [-1, -1, -1, 7]]
    assert dropped == 0


def test_agreement_of_masks_counts_labelled_pairs_alone() -> None:
    masks = np.zeros((4, 4, 4), np.uint8)
    masks[0, :2, -1] = 1
    masks[1, :2, 0] = 1  # goes on
    masks[2, :2, -1] = 1  # 3 has no label
    labelled = np.array([True, True, True, False])
    pairs = seams("right", (0, 1, 3), (2, 3, 2), (1, 2, 2))
    assert seam_agreement(pairs, masks, labelled) == (2, 1, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shuffled: tuple[np.ndarray, np.ndarray]) -> Path:
    images = shuffled[0]
    ids = tuple(f"{k:04d}" for k in range(len(images)))
    masks = (images > 150).astype(np.uint8)
    z_feet = np.full(len(images), 100, np.float32)
    tiles = Tiles(ids, images, masks, z_feet, "sections")
    half = len(images) // 2
    test = tiles.subset(np.arange(half, len(images)))
    folder = tmp_path_factory.mktemp("mosaic") / "data"
    write_competition(folder, tiles.subset(np.arange(half)),
                      Tiles(test.ids, test.images, None, test.z_feet, "test"))  # fmt: skip
    return folder


def test_the_verb_writes_sections_groups_and_evidence(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["mosaic", str(data), "--out", str(out), "-q", "--json"])
    assert said.exit_code == 0, said.output
    evidence = json.loads(said.stdout)
    assert evidence["mosaics"] == len(list((out / "sections").glob("*.png"))) > 20
    assert evidence["directions"]["right"]["mask_iou_across_seams"] > 0.3
    assert evidence["directions"]["right"]["pairs_with_equal_depths"] == 1
    assert {p.name for p in out.iterdir()} == {
        "groups.csv", "mosaics.csv", "sections", "mosaics.png", "mosaic.json", "mosaic.md",
    }  # fmt: skip
    with (out / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == evidence["tiles_in_mosaics"]
    with (out / "mosaics.csv").open() as file:
        places = list(csv.DictReader(file))
    assert {(r["id"], r["group"]) for r in rows} == {(r["id"], r["mosaic"]) for r in places}
    assert len({(r["mosaic"], r["row"], r["column"]) for r in places}) == len(places)


@pytest.mark.parametrize(("name", "size"), [("0000", 32), ("new", 40)])
def test_a_test_part_that_does_not_fit_is_left_out_aloud(
    data: Path, tmp_path: Path, name: str, size: int
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(data / "train", mine / "train")
    write_mask_png(mine / "test" / "images" / f"{name}.png", np.eye(size, dtype=bool))
    tiles, labelled, warning = read_all(mine)
    assert labelled.all()
    assert len(tiles) == len(list((mine / "train" / "images").iterdir()))
    assert warning is not None
    assert ("such as 0000" if name == "0000" else "40 x 40 pixels") in warning


def test_sections_of_before_go_and_a_damaged_test_part_is_told(data: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    shutil.copytree(data, mine)
    (out / "sections").mkdir(parents=True)
    (out / "sections" / "999.png").touch()
    found = write_mosaics(mine, out, progress=False)
    assert len(list((out / "sections").iterdir())) == len(found.found.mosaics)
    (damaged, *_) = (mine / "test" / "images").iterdir()
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match=damaged.name):
        write_mosaics(mine, out, progress=False)


def test_evidence_counts_pairs_of_labelled_tiles_and_every_row() -> None:
    places = np.arange(3, dtype=np.intp)
    row = Mosaic(places, np.zeros(3, np.intp), places)
    pairs = Seams("right", places[:2], places[1:], np.full(2, 9.0), 1.0, 0)
    none = Seams("below", places[:0], places[:0], np.zeros(0), np.inf, 0)
    found = Mosaics(3, (row,), (pairs, none), 0, 0, 0)
    for labelled, count in (([1, 0, 1], 0), ([1, 1, 0], 2), ([1, 1, 1], 3)):
        assert _labelled_side_by_side(found, np.array(labelled, bool)) == count
    sides = {"right": {"pairs": 0}, "below": {"pairs": 3, "pairs_with_equal_depths": 1.0}}
    _, _, rows = evidence_rows({"directions": sides})
    assert rows == [("pairs", 0, 3), ("pairs with equal depths", "", 1.0)]


def test_groups_are_what_splits_take(data: Path, tmp_path: Path) -> None:
    from diapir.config import load_recipe
    from diapir.data.splits import make_splits
    from diapir.io.tiles import read_tiles
    from diapir.runs.preflight import tile_groups

    write_mosaics(data, tmp_path / "out", progress=False)
    setting = f"split.groups={tmp_path / 'out' / 'groups.csv'}"
    recipe = load_recipe("demo", [setting, "split.folds=3"])
    tiles = read_tiles(data, "train")
    groups = tile_groups(recipe, tiles)
    assert groups is not None
    for split in make_splits(tiles, recipe.split, groups):
        parts = [{groups[i] for i in part} for part in (split.train, split.val, split.holdout)]
        assert len(set.union(*parts)) == sum(map(len, parts))


@pytest.mark.usefixtures("no_figures")
def test_random_and_grouped_folds_side_by_side(
    data: Path, tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    """The commands of docs/ensembles.md, one after the other."""
    groups = tmp_path / "mosaic" / "groups.csv"
    recipe = tmp_path / "tiny.json"
    table = tiny_recipe(train__epochs=1).model_dump(mode="json")
    recipe.write_text(json.dumps(table), encoding="utf-8")
    train = ["train", str(recipe), "--data", str(data), "--folds", "2", "-q"]
    train += ["--accelerator", "cpu", "--set", "split.holdout=0"]
    for words in (
        ["mosaic", str(data), "--out", str(groups.parent), "--false-share", "0.1", "-q"],
        [*train, "--runs", str(tmp_path / "random")],
        [
            *train,
            "--runs",
            str(tmp_path / "grouped"),
            "--set",
            f"split.groups={groups}",
            "--set",
            "name=grouped",
        ],
    ):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 0, said.output
    runs = [next((tmp_path / name).iterdir()) for name in ("random", "grouped")]
    out = tmp_path / "folds.md"
    words = ["results", *map(str, runs), "--compare", "--groups", str(groups), "--out", str(out)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    page = out.read_text(encoding="utf-8")
    line, alone = (line for line in page.splitlines() if "`split.groups = groups.csv`" in line)
    assert "Not comparable" not in page  # without a hold-out both predict every tile
    assert runs[1].name in line
    assert runs[1].name in alone
    group_of = dict(row.split(",") for row in groups.read_text().split()[1:])
    for run, together in ((runs[0], False), (runs[1], True)):
        val = json.loads((run / "fold-0" / "split.json").read_text())["val"]
        train_ids = json.loads((run / "fold-0" / "split.json").read_text())["train"]
        shared = {group_of.get(i) for i in val} & {group_of.get(i) for i in train_ids} - {None}
        assert bool(shared) != together


def test_a_share_that_cannot_be(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"false share of 1(.|\n)*below 1"):
        write_mosaics(data, tmp_path, false_share=1.0)


def test_surroundings_are_those_of_the_section(shuffled: tuple[np.ndarray, np.ndarray]) -> None:
    from diapir.inference.neighbours import predict_with_neighbours, surroundings

    sections = draw_sections(30, 2, 3)
    tiles, order = shuffled
    found = find_mosaics(tiles)
    whole = next(m for m in found.mosaics if len(m) == 6)
    upper_left = whole.grid()[0, 0]
    section = sections[order[upper_left] // 6]
    (window,) = surroundings(tiles, found, np.array([upper_left]), 10)
    assert (window[10:, 10:] == section[: SIDE + 10, : SIDE + 10]).all()
    # above and to the left nothing is known
    assert (window[:10, 10 : 10 + SIDE] == section[10:0:-1, :SIDE]).all()
    assert (window[10 : 10 + SIDE, :10] == section[:SIDE, 10:0:-1]).all()

    def identity(windows: np.ndarray) -> np.ndarray:
        return (windows / 255).astype(np.float32)

    everyone = np.arange(len(tiles))
    probs = predict_with_neighbours(tiles, found, identity, everyone, margin=10)
    assert (probs == identity(tiles)).all()
