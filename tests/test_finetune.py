import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diapir.cli import app
from diapir.errors import DataError, TrainingError
from diapir.inference.sections import SectionSettings, Tiling
from diapir.io.images import encode_png
from diapir.io.labels import UNLABELLED, LabelledLine, read_labels
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet
from diapir.runs.finetune import finetune_model
from diapir.runs.line_split import split_lines
from diapir.training.finetune import LabelledSection, Tuning, WindowDrawer, finetune_net

SETTINGS = SectionSettings(normalise=False, tiling=Tiling(64, 16))


@pytest.fixture
def cube(tmp_path):
    """A survey whose salt is dark, and its truth: the opposite of what `easy_tiles` show."""
    rng = np.random.default_rng(0)
    salt = np.zeros((40, 44, 48), bool)
    salt[5:38, 10:34, 20:40] = True
    grey = np.where(salt, 40, 150) + rng.integers(0, 50, salt.shape)
    np.save(tmp_path / "cube.npy", grey.astype(np.float32))
    return tmp_path / "cube.npy", salt


@pytest.fixture
def model(tiny_recipe, tmp_path):
    torch.manual_seed(0)
    recipe = tiny_recipe()
    save_model(tmp_path / "model.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return tmp_path / "model.safetensors"


def line(index, direction="inline", labelled=True):
    labels = np.full((44 if direction == "inline" else 40, 48), UNLABELLED, np.uint8)
    if labelled:
        labels[:, 10:] = 0
        labels[:, 20:] = 1
    return LabelledLine(direction, index, 100 + index, labels)


def write_png(folder, name, labels):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode_png(labels.astype(np.uint8)))


def test_pictures_are_read_by_their_names(cube, tmp_path):
    from diapir.io.opening import open_volume

    file, salt = cube
    folder = tmp_path / "labels"
    part = np.where(salt[7].T, 255, 0)
    part[:, :5] = 127
    write_png(folder, "my_inline_7.png", part)
    write_png(folder, "crossline-12.png", salt[:, 12].T)
    write_png(folder, "inline_9.png", np.full((48, 44), 127))  # nothing interpreted
    found = read_labels(folder, open_volume(file))
    assert [(f.direction, f.number) for f in found] == [("crossline", 12), ("inline", 7)]
    assert np.array_equal(found[0].labels, salt[:, 12])
    assert (found[1].labels[:5] == UNLABELLED).all()
    assert np.array_equal(found[1].labels[5:], salt[7, 5:])


def test_a_volume_of_labels_gives_its_labelled_inlines(cube, tmp_path):
    from diapir.io.opening import open_volume

    file, salt = cube
    values = np.full(salt.shape, -1, np.float32)
    values[[3, 20]] = salt[[3, 20]]
    values[20, :, :4] = np.nan
    np.save(tmp_path / "labels.npy", values)
    found = read_labels(tmp_path / "labels.npy", open_volume(file))
    assert [f.index for f in found] == [3, 20]
    assert (found[1].labels[:, :4] == UNLABELLED).all()
    assert np.array_equal(found[0].labels, salt[3])


def test_of_many_labelled_lines_some_are_held_evenly(cube, tmp_path, monkeypatch):
    from diapir.io.opening import open_volume

    file, salt = cube
    monkeypatch.setattr("diapir.io.labels._MOST_LINES", 4)
    monkeypatch.setattr("diapir.io.labels._SAMPLES_AT_ONCE", 3 * salt[0].size)
    values = salt.astype(np.float32)
    values[0] = -1
    np.save(tmp_path / "labels.npy", values)
    found = read_labels(tmp_path / "labels.npy", open_volume(file))
    assert [line.number for line in found] == [1, 9, 17, 33]
    for line in found:
        assert np.array_equal(line.labels, salt[line.number])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill", "blank"),
    [("u1", 0, 1), ("u1", 255, 255), ("i1", 0, -1), ("i1", -1, -1), ("i2", -99, -99),
     ("f4", 0, -1), ("f4", np.nan, np.nan), ("f4", np.nan, -1), ("f4", -99, -99)],
)  # fmt: skip
def test_the_fill_value_of_a_store_is_a_label_where_it_can_be(
    cube, tmp_path, zarr_format, dtype, fill, blank
):
    import xarray as xr

    from diapir.io.opening import open_volume

    file, salt = cube
    values = np.full(salt.shape, blank, dtype)
    values[[3, 20]] = salt[[3, 20]]
    store = xr.Dataset({"labels": (("inline", "crossline", "sample"), values)})
    store["labels"].encoding["_FillValue"] = np.dtype(dtype).type(fill)
    consolidated = zarr_format == 2  # no part of the other standard yet
    store.to_zarr(tmp_path / "labels.zarr", zarr_format=zarr_format, consolidated=consolidated)
    found = read_labels(tmp_path / "labels.zarr", open_volume(file))
    if blank == 1:  # nothing here is unlabelled
        assert len(found) == 40
        found = [found[3], found[20]]
    assert [f.index for f in found] == [3, 20]
    assert np.array_equal(found[0].labels, salt[3])


def test_traces_that_do_not_exist_have_no_labels(make_segy, tmp_path):
    from diapir.io.opening import open_volume

    mask = np.ones((6, 7), bool)
    mask[2, 3] = mask[4, 5] = False
    survey = open_volume(make_segy(mask=mask)[0])
    write_png(tmp_path / "labels", "inline_102.png", np.full((30, 7), 255))
    write_png(tmp_path / "labels", "crossline_305.png", np.zeros((30, 6)))
    across, along = read_labels(tmp_path / "labels", survey)
    assert np.argwhere(along.labels[:, 0] == UNLABELLED).tolist() == [[3]]
    assert (along.labels[3] == UNLABELLED).all()
    assert np.argwhere(across.labels[:, 0] == UNLABELLED).tolist() == [[4]]
    np.save(tmp_path / "labels.npy", np.ones((6, 7, 30), np.uint8))
    lines = read_labels(tmp_path / "labels.npy", survey)
    assert np.array_equal(np.stack([f.labels for f in lines])[..., 0] == 1, mask)


def test_no_number_in_segy_labels_is_no_interpretation(make_segy, tmp_path):
    from diapir.io.opening import open_volume
    from diapir.io.segy_write import write_segy
    from diapir.io.volume import geometry_of

    survey = open_volume(make_segy()[0])
    salt = np.full((6, 7, 30), np.nan, np.float32)
    salt[2, :, 10:] = 1
    salt[2, :, :4] = 0
    path = tmp_path / "labels.sgy"
    write_segy(path, lambda part: salt[tuple(part.T)], geometry_of(survey), code=5)
    (found,) = read_labels(path, survey)
    assert found.number == 102
    assert (found.labels[:, 10:] == 1).all()
    assert (found.labels[:, :4] == 0).all()
    assert (found.labels[:, 4:10] == UNLABELLED).all()


def test_segy_labels_are_read_with_the_flags_of_the_survey(make_segy, tmp_path):
    from diapir.io.opening import open_volume
    from diapir.io.segy import SegyOptions
    from diapir.io.segy_write import write_segy
    from diapir.io.volume import geometry_of

    bytes_of_lines = {"inline_byte": 9, "crossline_byte": 21}
    options = SegyOptions(**bytes_of_lines)
    file, _ = make_segy(code=3, options=options, located=False)
    survey = open_volume(file, **bytes_of_lines, sample_format=3)
    salt = np.zeros((6, 7, 30), np.uint8)
    salt[2, :, 10:] = 1
    write_segy(tmp_path / "labels.sgy", lambda part: salt[tuple(part.T)], geometry_of(survey),
               code=8, options=options)  # fmt: skip
    found = read_labels(
        tmp_path / "labels.sgy", survey, options={**bytes_of_lines, "sample_format": 3}
    )
    assert len(found) == 6
    assert np.array_equal(found[2].labels, salt[2])


def test_labels_one_line_beside_the_survey_are_refused(make_segy):
    from diapir.io.opening import open_volume

    survey = open_volume(make_segy()[0])
    labels, _ = make_segy("labels.sgy", first=(100, 301))
    with pytest.raises(DataError, match=r"crossline axis .* value 1 of 7 is 301") as error:
        read_labels(labels, survey)
    assert error.value.where == str(labels)
    assert error.value.expected == "300, as in the survey"


@pytest.mark.parametrize(
    ("name", "shape", "value", "what"),
    [
        ("line_7.png", (48, 44), 0, "which line"),
        ("inline_77.png", (48, 44), 0, "no inline 77"),
        ("inline_7.png", (48, 40), 0, "40 wide"),
        ("inline_7.png", (48, 44), 9, "values of 9"),
        ("inline_7.png", (48, 44), 127, "no labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(cube, tmp_path, name, shape, value, what):
    from diapir.io.opening import open_volume

    write_png(tmp_path / "labels", name, np.full(shape, value))
    with pytest.raises(DataError, match=what):
        read_labels(tmp_path / "labels", open_volume(cube[0]))


def test_a_picture_that_is_not_there_is_named(tmp_path):
    from diapir.io.opening import open_volume

    np.save(tmp_path / "line.npy", np.ones((40, 48), np.float32))
    with pytest.raises(DataError, match=r"cannot read the labels: No such file(.|\n)*typo\.png"):
        read_labels(tmp_path / "typo.png", open_volume(tmp_path / "line.npy"))


class TestLine:
    """A 2-D line or a picture: it has but one section, of which some traces are held out."""

    @pytest.fixture
    def line(self, cube, tmp_path):
        """A picture of dark salt, and the labels that the viewer saves for it."""
        from diapir.serve.viewer.labels import Canvas, LabelFolder

        _, salt = cube
        mask = np.concatenate([salt[k].T for k in (10, 20, 30)], axis=1)
        grey = np.where(mask, 40, 150) + np.random.default_rng(1).integers(0, 50, mask.shape)
        write_png(tmp_path, "line-7.png", grey)
        labels = mask.T.astype(np.uint8)
        labels[:4] = UNLABELLED
        LabelFolder(tmp_path / "labels").save("line-7", Canvas(labels))
        return tmp_path / "line-7.png", labels

    def test_labels_are_found_under_its_name(self, line, tmp_path):
        from diapir.io.opening import open_volume

        file, labels = line
        write_png(tmp_path / "labels", "line-8.png", np.zeros((9, 9)))  # of another picture
        for path in (tmp_path / "labels", tmp_path / "labels" / "line-7.png"):
            (found,) = read_labels(path, open_volume(file))
            assert (found.direction, found.index) == ("line", 0)
            assert np.array_equal(found.labels, labels)
        (tmp_path / "labels" / "line-7.png").unlink()
        with pytest.raises(DataError, match=r"no line-7\.png"):
            read_labels(tmp_path / "labels", open_volume(file))

    def test_labels_of_numbers(self, line, tmp_path):
        from diapir.io.opening import open_volume

        file, labels = line
        np.save(tmp_path / "own.npy", np.where(labels == UNLABELLED, -1.0, labels).T)
        (found,) = read_labels(tmp_path / "own.npy", open_volume(file))
        assert np.array_equal(found.labels, labels)
        np.save(tmp_path / "other.npy", np.zeros((48, 40)))
        with pytest.raises(DataError, match="shape"):
            read_labels(tmp_path / "other.npy", open_volume(file))

    def test_traces_are_held_out_with_a_gap(self, line):
        labels = line[1]
        whole = LabelledLine("line", 0, 0, labels)
        split = split_lines([whole], holdout=0.25, gap=5)
        (train,), (held,) = split.train, split.held
        assert split.block == (100, 131)
        assert np.array_equal(train.labels[:95], labels[:95])
        assert np.array_equal(held.labels[100:], labels[100:])
        assert (train.labels[95:] == UNLABELLED).all()
        assert (held.labels[:100] == UNLABELLED).all()
        with pytest.raises(DataError, match="none to train on"):
            split_lines([whole], holdout=0.9, gap=20)

    def test_a_model_learns_from_it(self, line, model, tmp_path):
        tuning = Tuning(steps=60, batch=4, window=32, lr=0.02, encoder_lr_factor=1.0)
        result = finetune_model(
            model, line[0], tmp_path / "labels", tmp_path / "out", tuning, SETTINGS, progress=False
        )
        assert result.trained == ("traces 5 to 101",)
        assert result.held == ("traces 107 to 132",)
        assert result.after["iou"] > max(0.8, result.before["iou"] + 0.1)
        assert (tmp_path / "out" / "report.html").exists()

    def test_traces_that_trained_before_are_told(self, line, model, tmp_path):
        tuning = Tuning(steps=1, batch=2, window=32)
        for start, holdout in ((model, 0.2), (tmp_path / "0.2" / "model.safetensors", 0.5)):
            result = finetune_model(
                start, line[0], tmp_path / "labels", tmp_path / str(holdout), tuning, SETTINGS,
                holdout=holdout, progress=False,
            )  # fmt: skip
        assert result.held == ("traces 69 to 132",)
        (warning,) = result.warnings
        assert warning.startswith("traces 69 to 101 trained the model")


def test_lines_that_trained_the_model_before_are_told(tiny_recipe):
    from diapir.runs.finetune import _seen_before

    survey = Namespace(attrs={"fingerprint": "f00"})
    held = [LabelledLine("inline", 0, 7, np.ones((5, 6), np.uint8))]
    card = ModelCard(tiny_recipe(), 0.5, train_ids=("inline 7",), notes="of a survey (f00)")
    (warning,) = _seen_before(card, survey, held)
    assert warning.startswith("inline 7 trained the model")
    assert not _seen_before(replace(card, train_ids=("inline 8",)), survey, held)
    assert not _seen_before(replace(card, notes="of another survey (0ff)"), survey, held)


def test_the_held_out_lines_are_a_block_with_a_gap():
    lines = [line(k) for k in (0, 4, 8, 12, 16, 20, 24, 28, 30, 32)]
    split = split_lines([*lines, line(3, "crossline")], holdout=0.2, gap=5)
    assert [ln.index for ln in split.held] == [30, 32]
    own = [ln.index for ln in split.train if ln.direction == "inline"]
    assert own == [0, 4, 8, 12, 16, 20, 24]
    (across,) = [ln for ln in split.train if ln.direction == "crossline"]
    assert (across.labels[25:38] == UNLABELLED).all()
    assert np.array_equal(across.labels[:25], line(3, "crossline").labels[:25])


def test_two_neighbouring_lines_are_too_few():
    with pytest.raises(DataError, match="none to train on"):
        split_lines([line(3), line(6)], holdout=0.2, gap=5)


def test_every_window_holds_labels():
    labels = np.full((70, 90), UNLABELLED, np.uint8)
    labels[60:63, 80:82] = 1
    section = LabelledSection("s", np.zeros((70, 90), np.uint8), labels)
    drawer = WindowDrawer([section], Tuning(batch=5, window=48))
    for _ in range(5):
        images, drawn = drawer.draw()
        assert images.shape == drawn.shape == (5, 1, 48, 48)
        assert (drawn != UNLABELLED).flatten(1).any(dim=1).all()
        assert images.dtype == drawn.dtype == torch.float32


def test_sections_smaller_than_a_window_are_widened():
    section = LabelledSection("s", np.full((20, 90), 7, np.uint8), np.zeros((20, 90), np.uint8))
    images, drawn = WindowDrawer([section], Tuning(batch=2, window=64)).draw()
    assert images.shape == (2, 1, 64, 64)
    assert (drawn[:, :, 20:] == UNLABELLED).all()


def test_unlabelled_pixels_teach_nothing(tiny_recipe):
    recipe = tiny_recipe()
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    labels = np.full((64, 64), UNLABELLED, np.uint8)
    labels[:20] = 1
    torch.manual_seed(0)
    net = SaltNet(recipe.model)
    tuning = Tuning(steps=40, batch=4, window=64, lr=0.02)
    finetune_net(net, [LabelledSection("s", image, labels)], recipe, tuning)
    # all labels say salt: had the rest counted as none, the net would part the two
    probs = torch.sigmoid(net(torch.tensor(image)[None, None].float() / 255))
    assert (probs > 0.5).float().mean() > 0.9


def test_no_labels_no_training(tiny_recipe):
    empty = LabelledSection("s", np.zeros((9, 9), np.uint8), np.full((9, 9), UNLABELLED, np.uint8))
    with pytest.raises(TrainingError, match="no section"):
        finetune_net(SaltNet(tiny_recipe().model), [empty], tiny_recipe(), Tuning())


def test_too_little_in_a_step_is_told(tiny_recipe):
    labels = LabelledSection("s", np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8))
    recipe = tiny_recipe()
    with pytest.raises(TrainingError, match="a single pixel") as caught:
        finetune_net(SaltNet(recipe.model), [labels], recipe, Tuning(steps=1, batch=1, window=2))
    assert "--batch-size 2" in caught.value.mend
    finetune_net(SaltNet(recipe.model), [labels], recipe, Tuning(steps=1, batch=2, window=2))


def test_the_verb_tells_what_was_in_doubt_in_the_file(make_segy, model, tmp_path):
    file, values = make_segy(shape=(40, 36, 48))
    with file.open("ab") as end:
        end.write(b"12345")
    for number in (100, 110, 120):
        write_png(tmp_path / "labels", f"inline_{number}.png", values[number - 100].T > 0)
    command = ["finetune", str(model), "--volume", str(file), "--labels", str(tmp_path / "labels"),
               "--out", str(tmp_path / "out"), "--steps", "1", "--batch-size", "1", "--side", "32",
               "--window", "64", "--overlap", "16", "--quiet",
               "--coordinate-scale", "1"]  # fmt: skip
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    tuned = tmp_path / "out" / "model.safetensors"
    assert f"diapir map {file} OUT --model {tuned} --coordinate-scale 1\n" in done.stdout
    told = "5 bytes after the last whole trace belong to none: the file is cut off"
    assert f"warning: {told}" in done.stderr
    assert json.loads((tmp_path / "out" / "finetune.json").read_text())["warnings"] == [told]
    leftover = tmp_path / "out" / ".model-0123456789ab.safetensors"  # of one that was killed
    leftover.touch()
    found = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert json.loads(found.stdout)["warnings"] == [told]
    assert not leftover.exists()


def test_a_model_learns_a_survey_from_four_lines(cube, model, tmp_path):
    file, salt = cube
    for number in (8, 14, 20, 30):
        write_png(tmp_path / "labels", f"inline_{number}.png", salt[number].T)
    result = finetune_model(
        model, file, tmp_path / "labels", tmp_path / "out",
        Tuning(steps=60, batch=4, window=32, lr=0.02, encoder_lr_factor=1.0), SETTINGS,
        progress=False,
    )  # fmt: skip
    assert result.held == ("inline 30",)
    assert result.after["iou"] > 0.8
    assert result.after["iou"] > result.before["iou"] + 0.1
    card = read_card(result.model)
    assert card.metrics["held_out_iou"] == pytest.approx(result.after["iou"])
    assert "inline 14" in card.train_ids
    assert "inline 30" in card.val_ids
    assert (tmp_path / "out" / "report.html").exists()
    again = finetune_model(
        model, file, tmp_path / "labels", tmp_path / "out2",
        Tuning(steps=60, batch=4, window=32, lr=0.02, encoder_lr_factor=1.0), SETTINGS,
        progress=False,
    )  # fmt: skip
    assert again.after == result.after


def test_negative_line_numbers_stand_in_names(make_segy, tmp_path):
    from diapir.io.opening import open_volume

    survey = open_volume(make_segy()[0])
    survey = survey.assign_coords(inline=survey["inline"] - 105)  # -5 and so on
    write_png(tmp_path / "labels", "inline_-5.png", np.full((30, 7), 255))
    (found,) = read_labels(tmp_path / "labels", survey)
    assert (found.number, found.index) == (-5, 0)


def test_labels_one_line_beside_are_refused(make_segy, tmp_path):
    from diapir.io.opening import open_volume
    from diapir.io.segy_write import write_segy
    from diapir.io.volume import geometry_of

    survey = open_volume(make_segy()[0])
    far = survey.assign_coords(inline=survey["inline"] + 200_000)
    path = tmp_path / "labels.sgy"
    write_segy(path, lambda part: np.ones((len(part), 30)), geometry_of(far))
    assert len(read_labels(path, far)) == 6
    beside = far.assign_coords(inline=far["inline"] + 1)
    with pytest.raises(DataError, match="inline axis"):
        read_labels(path, beside)
