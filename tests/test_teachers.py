"""Pseudo-labels and distillation: what joins the training, and which teachers are refused."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diapir.config import Recipe
from diapir.data.splits import make_splits
from diapir.errors import DataError
from diapir.inference.predict import load_predictor
from diapir.io.tiles import Tiles, read_tiles
from diapir.models.modelcard import read_card
from diapir.models.modelfile import load_model, save_model
from diapir.runs.teachers import ask_teachers, most_certain
from diapir.runs.train import train_recipe
from diapir.training.hardware import Hardware

Make = Callable[..., Recipe]
CPU = Hardware(accelerator="cpu", progress=False)
pytestmark = pytest.mark.usefixtures("no_figures")


def write(tiles: Tiles, folder: Path, part: str, *, masks: bool) -> None:
    kinds = {"images": tiles.images, **({"masks": tiles.truth * 255} if masks else {})}
    for kind, pictures in kinds.items():
        (folder / part / kind).mkdir(parents=True)
        for name, picture in zip(tiles.ids, pictures, strict=True):
            Image.fromarray(picture).save(folder / part / kind / f"{name}.png")


@pytest.fixture(scope="module")
def data(easy_tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty labelled tiles, and twenty without labels."""
    folder = tmp_path_factory.mktemp("data")
    write(easy_tiles.subset(range(60)), folder, "train", masks=True)
    write(easy_tiles.subset(range(60, 80)), folder, "test", masks=False)
    return folder


@pytest.fixture(scope="module")
def teacher(
    data: Path,
    tiny_recipe: Make,
    without_figures: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    with without_figures():
        return train_recipe(tiny_recipe(train__epochs=6), data, runs, CPU).folder.model


def test_most_certain_takes_its_share_of_tiles_with_salt_and_without() -> None:
    certain, doubtful = 0.98, 0.7
    levels = [certain, doubtful, 1 - certain, 1 - doubtful, 1 - certain, 1 - doubtful]
    probs = np.stack([np.full((2, 2), level, np.float32) for level in levels])
    salty = probs[:, 0, 0] > 0.5
    assert most_certain(probs, salty, 0.5).tolist() == [0, 2, 4]
    assert most_certain(probs, salty, 1.0).tolist() == [0, 1, 2, 3, 4, 5]


def test_no_teachers_change_nothing(data: Path, tiny_recipe: Make) -> None:
    tiles, recipe = read_tiles(data, "train"), tiny_recipe()
    split = make_splits(tiles, recipe.split)[0]
    lessons = ask_teachers(tiles, split, recipe, data)
    assert lessons.tiles is tiles
    assert lessons.split is split
    assert lessons.taught is None


def test_pseudo_labels_only_train(data: Path, teacher: Path, tiny_recipe: Make) -> None:
    tiles = read_tiles(data, "train")
    recipe = tiny_recipe(pseudo_labels__models=[str(teacher)], pseudo_labels__share=0.5)
    split = make_splits(tiles, recipe.split)[0]
    lessons = ask_teachers(tiles, split, recipe, data)
    added = lessons.tiles.ids[len(tiles) :]
    assert 9 <= len(added) <= 11
    assert all(int(name[-4:]) >= 60 for name in added)
    assert np.array_equal(lessons.split.train[: len(split.train)], split.train)
    assert set(lessons.split.train[len(split.train) :]) == set(range(60, 60 + len(added)))
    assert np.array_equal(lessons.split.val, split.val)
    assert np.array_equal(lessons.split.holdout, split.holdout)
    predictor, _ = load_predictor([teacher])
    says = predictor.make_masks(predictor.predict_probs(lessons.tiles.images[60:]))
    assert np.array_equal(lessons.tiles.truth[60:], says)


def test_blank_tiles_get_no_pseudo_labels_where_the_split_drops_them(
    easy_tiles: Tiles, data: Path, teacher: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    unlabelled = easy_tiles.subset(range(60, 70))
    unlabelled.images[:4] = 0
    write(unlabelled, tmp_path, "test", masks=False)
    tiles = read_tiles(data, "train")
    recipe = tiny_recipe(pseudo_labels__models=[str(teacher)], pseudo_labels__share=1.0)
    split = make_splits(tiles, recipe.split)[0]
    for drop, added in ((False, unlabelled.ids), (True, unlabelled.ids[4:])):
        own = recipe.split.model_copy(update={"drop_blank": drop})
        dropping = recipe.model_copy(update={"split": own})
        assert ask_teachers(tiles, split, dropping, tmp_path).tiles.ids[60:] == added


def test_pseudo_labels_are_cleaned_up_as_the_teacher_says(
    data: Path, teacher: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.safetensors"
    net, card = load_model(teacher)
    save_model(strict, net, replace(card, rule=replace(card.rule, min_body=10**6)))
    recipe = tiny_recipe(pseudo_labels__models=[str(strict)], pseudo_labels__share=1.0)
    tiles = read_tiles(data, "train")
    lessons = ask_teachers(tiles, make_splits(tiles, recipe.split)[0], recipe, data)
    assert len(lessons.tiles) > len(tiles)
    assert not lessons.tiles.truth[len(tiles) :].any()


@pytest.mark.parametrize("copies", [1, 2])  # the same teachers for both, or others
def test_distillation_teaches_labelled_and_pseudo_labelled_tiles(
    copies: int, data: Path, teacher: Path, tiny_recipe: Make
) -> None:
    models = [str(teacher)]
    recipe = tiny_recipe(pseudo_labels__models=models, distill__models=models * copies)
    tiles = read_tiles(data, "train")
    lessons = ask_teachers(tiles, make_splits(tiles, recipe.split)[0], recipe, data)
    assert lessons.taught is not None
    assert lessons.taught.shape == lessons.tiles.images.shape
    predictor, _ = load_predictor([teacher])
    expected = predictor.predict_probs(lessons.tiles.images)
    assert np.abs(lessons.taught / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_a_training_with_pseudo_labels_and_distillation_scores(
    data: Path, teacher: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    models = [str(teacher)]
    recipe = tiny_recipe(pseudo_labels__models=models, distill__models=models)
    (result,) = train_recipe(recipe, data, tmp_path, CPU).trainings
    assert result.holdout is not None
    assert result.holdout.metrics["score"].value > 0


@pytest.mark.parametrize(
    "setting", ["train__start_from", "pseudo_labels__models", "distill__models"]
)
def test_a_model_holds_the_tiles_that_earlier_models_have_seen(
    setting: str, data: Path, teacher: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    """Else a score on them would pass for one of unseen tiles."""
    net, card = load_model(teacher)
    other = tmp_path / "other.safetensors"
    save_model(other, net, replace(card, train_ids=("elsewhere",), val_ids=("there",)))
    named = str(other) if setting == "train__start_from" else [str(other)]
    recipe = tiny_recipe(train__epochs=1, **{setting: named})
    found = read_card(train_recipe(recipe, data, tmp_path / "runs", CPU).folder.model)
    assert found.train_ids[-2:] == ("elsewhere", "there")
    assert not {"elsewhere", "there"} & {*found.val_ids, *found.dropped_ids}


def test_distillation_changes_the_training(
    data: Path, teacher: Path, tiny_recipe: Make, tmp_path: Path
) -> None:
    recipes = tiny_recipe(), tiny_recipe(distill__models=[str(teacher)])
    plain, taught = (train_recipe(recipe, data, tmp_path, CPU).trainings[0] for recipe in recipes)
    assert not np.array_equal(plain.val_probs, taught.val_probs)


@pytest.mark.parametrize("section", ["pseudo_labels", "distill"])
def test_a_teacher_that_has_seen_the_hold_out_is_refused(
    section: str, data: Path, teacher: Path, tiny_recipe: Make
) -> None:
    tiles = read_tiles(data, "train")
    recipe = tiny_recipe(**{f"{section}__models": [str(teacher)]})
    other = recipe.split.model_copy(update={"seed": 1})
    with pytest.raises(
        DataError, match=r"a teacher has seen \d+ of the \d+ tiles(.|\n)*split.seed"
    ):
        ask_teachers(tiles, make_splits(tiles, other)[0], recipe, data)


def test_the_number_of_the_fold_stands_in_the_path(
    data: Path, teacher: Path, tiny_recipe: Make
) -> None:
    tiles = read_tiles(data, "train")
    pattern = str(teacher).replace("model.safetensors", "fold-{fold}.safetensors")
    recipe = tiny_recipe(distill__models=[pattern])
    split = make_splits(tiles, recipe.split.model_copy(update={"folds": 3}))[2]
    with pytest.raises(Exception, match=r"fold-2\.safetensors"):
        ask_teachers(tiles, split, recipe, data)
