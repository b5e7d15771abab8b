"""What the viewer shows, without a browser: blocks, colours, layers, labels, order, links."""

import importlib.util
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st

from diapir.data.census import census, find_quirks
from diapir.errors import DataError, ModelFileError, OptionError, RunError
from diapir.inference.postprocess import make_masks
from diapir.inference.predict import load_predictor
from diapir.io.images import encode_png
from diapir.io.ingest import ingest
from diapir.io.labels import UNLABELLED, read_labels
from diapir.io.opening import open_volume
from diapir.io.segy import SegyOptions
from diapir.io.tiles import Tiles
from diapir.io.volume import Geometry, make_volume, segy_facts
from diapir.models.maskrule import MaskRule
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.unet import SaltNet
from diapir.serve.viewer import colors, window
from diapir.serve.viewer.blocks import BlockReader, KeptBlocks
from diapir.serve.viewer.download import section_segy, survey_segy
from diapir.serve.viewer.figure import SectionFigure, SectionImage
from diapir.serve.viewer.gallery import thumbnail
from diapir.serve.viewer.labels import Canvas, LabelFolder, brush_mask, polygon_mask
from diapir.serve.viewer.library import Library, open_library
from diapir.serve.viewer.models import ALL, ModelShelf, Progress, StoppedError
from diapir.serve.viewer.page import Page
from diapir.serve.viewer.reads import Reads
from diapir.serve.viewer.salt import average, corrected, describe_facts, outline, section_facts
from diapir.serve.viewer.section import MAP, SectionView
from diapir.serve.viewer.sources import Axis, SurveyPaths, SurveySource, open_survey
from diapir.serve.viewer.state import SORTS, ViewState, parse_query
from diapir.serve.viewer.tiles import (
    TileSource,
    arrange,
    mean_uncertainty,
    measure,
    needs_masks,
    open_tiles,
    unsortable,
)
from diapir.serve.viewer.window import Window, fit_window

SHAPE = (9, 11, 13)


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def store(tmp_path, cube):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("a", data=cube, chunks=(4, 5, 6))
    return group["a"]


@pytest.fixture
def model_file(tmp_path, tiny_recipe):
    recipe = tiny_recipe()
    path = tmp_path / "tiny.safetensors"
    save_model(path, SaltNet(recipe.model), ModelCard(recipe, 0.4))
    return path


class CountedArray:
    """An array that notes what is read of it."""

    def __init__(self, array, chunks):
        self.array, self.chunks, self.shape, self.dtype = array, chunks, array.shape, array.dtype
        self.reads = []

    def __getitem__(self, box):
        self.reads.append(box)
        return self.array[box]


class TestBlocks:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_planes_are_those_of_the_array(self, store, cube, axis):
        reader = BlockReader(store)
        for index in range(SHAPE[axis]):
            np.testing.assert_array_equal(reader.plane(axis, index), cube.take(index, axis))

    @given(
        st.tuples(*(st.integers(0, size - 1) for size in SHAPE)),
        st.tuples(*(st.integers(1, size) for size in SHAPE)),
    )
    def test_any_box(self, first, sizes):
        array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
        box = tuple(
            slice(a, min(a + n, size)) for a, n, size in zip(first, sizes, SHAPE, strict=True)
        )
        counted = CountedArray(array, (4, 4, 4))
        np.testing.assert_array_equal(BlockReader(counted).box(box), array[box])

    def test_a_step_inside_a_block_reads_nothing(self, cube):
        array = CountedArray(cube, (4, 5, 6))
        reader = BlockReader(array)
        reader.plane(0, 0)
        before = len(array.reads)
        reader.plane(0, 3)
        assert len(array.reads) == before
        reader.plane(0, 4)
        assert len(array.reads) == 2 * before

    def test_only_what_is_shown_is_read(self, cube):
        array = CountedArray(cube, (4, 5, 6))
        BlockReader(array).plane(0, 5)
        assert {(box[0].start, box[0].stop) for box in array.reads} == {(4, 8)}

    def test_memory_is_bounded(self, cube):
        kept = KeptBlocks(4 * 5 * 6 * 4)
        reader = BlockReader(CountedArray(cube, (4, 5, 6)), kept)
        for index in range(SHAPE[0]):
            np.testing.assert_array_equal(reader.plane(0, index), cube[index])
        assert 0 < kept.held <= 4 * 5 * 6 * 4

    def test_memory_is_one_of_all_surveys(self, cube, tmp_path):
        kept = KeptBlocks(6 * 4 * 5 * 6 * 4)
        one, other = (BlockReader(CountedArray(cube * k, (4, 5, 6)), kept) for k in (1, 2))
        for index in range(SHAPE[0]):
            np.testing.assert_array_equal(one.plane(0, index), cube[index])
            np.testing.assert_array_equal(other.plane(0, index), 2 * cube[index])
            assert kept.held <= kept.most_bytes
        other.close()
        one.plane(0, 0)
        one.close()
        assert kept.held == 0
        for name in "ab":
            np.save(tmp_path / f"{name}.npy", cube)
        library = open_library([tmp_path / "a.npy", tmp_path / "b.npy"])
        readers = [one._readers["amplitude"] for one in library.sources.values()]
        assert readers[0]._kept is readers[1]._kept

    def test_the_next_block_is_read_ahead(self, cube):
        array = CountedArray(cube, (4, 11, 13))
        reader = BlockReader(array)
        reader.plane(0, 3)
        reader.prefetch(0, 3, 1)
        while reader._loading:
            time.sleep(0.01)
        assert array.reads[-1][0] == slice(8, 9)

    def test_a_block_that_cannot_be_read_is_told(self):
        class Broken(CountedArray):
            def __getitem__(self, box):
                raise OSError("gone")

        with pytest.raises(DataError, match="gone"):
            BlockReader(Broken(np.zeros(SHAPE), SHAPE)).plane(0, 0)

    def test_dask_arrays_go_by_their_own_chunks(self, cube):
        import dask.array as da

        lazy = da.from_array(cube, chunks=((2, 7), (11,), (6, 7)))
        np.testing.assert_array_equal(BlockReader(lazy).plane(2, 6), cube[:, :, 6])


class TestSurvey:
    def test_sections_of_segy_and_their_axes(self, make_segy):
        path, values = make_segy(first=(100, 300), step=(2, 1), start=200.0)
        source = open_survey(SurveyPaths(path))
        np.testing.assert_allclose(source.section("inline", 2), values[2])
        np.testing.assert_allclose(source.section("crossline", 3), values[:, 3])
        np.testing.assert_allclose(source.section("slice", 4), values[:, :, 4].T)
        across, down = source.axes("crossline")
        assert (across.label, down.label) == ("Inline", "Two-way time (ms)")
        assert (across.start, across.end, down.values[0]) == (99, 111, 200.0)
        assert source.title("inline", 2) == "Inline 104"
        assert source.title("slice", 2) == "Time slice 208 ms"
        assert source.nearest("inline", 105.2) == 3
        assert source.key("crossline", 1) == "crossline_301"
        assert source.key("slice", 1) is None

    def test_a_line_of_segy_reads_only_its_traces(self, make_segy, monkeypatch):
        from diapir.io.segy import SegyFile

        path, _ = make_segy(shape=(6, 7, 30))
        source = open_survey(SurveyPaths(path))
        read = []
        original = SegyFile.read_traces
        monkeypatch.setattr(
            SegyFile, "read_traces", lambda self, n: read.append(len(n)) or original(self, n)
        )
        source.section("inline", 3)
        assert sum(read) == 7

    def test_slices_of_a_large_segy_file_ask_for_an_ingest(self, make_segy, monkeypatch):
        path, _ = make_segy()
        source = open_survey(SurveyPaths(path))
        monkeypatch.setattr("diapir.serve.viewer.sources._MOST_SLICED", 100)
        with pytest.raises(DataError, match="whole file") as error:
            source.section("slice", 0)
        assert "diapir ingest" in error.value.mend

    def test_missing_traces(self, make_segy):
        mask = np.ones((6, 7), bool)
        mask[2, 3] = False
        source = open_survey(SurveyPaths(make_segy(mask=mask)[0]))
        assert source.dead("inline", 1) is None
        assert np.flatnonzero(source.dead("inline", 2)).tolist() == [3]
        assert source.dead("slice", 0).shape == (7, 6)

    def test_the_default_stretch_is_1_to_99_percent_of_the_survey(self, make_segy):
        path, _ = make_segy(shape=(20, 30, 100))
        source = open_survey(SurveyPaths(path))
        low, high = source.clip_range(99)
        attributes = source.volume.attrs
        assert (low, high) == pytest.approx((attributes["p01"], attributes["p99"]))
        wider = source.clip_range(100)
        assert wider[0] < low < high < wider[1]

    def test_a_survey_of_zeros_can_be_shown(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.float32))
        low, high = open_survey(SurveyPaths(tmp_path / "a.npy")).clip_range(99)
        assert low < high

    def test_pictures_and_lines(self, tmp_path, make_segy):
        picture = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
        (tmp_path / "section.png").write_bytes(encode_png(picture))
        source = open_survey(SurveyPaths(tmp_path / "section.png"))
        np.testing.assert_array_equal(source.section("line", 0), picture.T)
        assert source.axes("line")[1].label == "Sample"
        assert (source.title("line", 0), source.key("line", 0)) == ("section", "section")
        path, values = make_segy("line.sgy", shape=(8, 30))
        np.testing.assert_allclose(open_survey(SurveyPaths(path)).section("line", 0), values)

    def test_salt_and_truth_must_fit(self, tmp_path, make_segy):
        path, values = make_segy()
        group = zarr.open_group(tmp_path / "map" / "salt.zarr", mode="w")
        group.create_array("probability", data=np.full(values.shape, 0.25, np.float32))
        truth, _ = make_segy("truth.sgy")
        source = open_survey(SurveyPaths(path, tmp_path / "map", truth))
        assert source.known == {"probability", "truth"}
        assert (source.section("slice", 3, "probability") == 0.25).all()
        other, _ = make_segy("other.sgy", shape=(5, 7, 30))
        with pytest.raises(DataError, match="shape"):
            open_survey(SurveyPaths(other, tmp_path / "map"))
        with pytest.raises(DataError, match="shape"):
            open_survey(SurveyPaths(path, None, other))
        with pytest.raises(DataError, match="no probability"):
            open_survey(SurveyPaths(path, tmp_path))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"first": (101, 300)}, "inline axis .* value 1 of 6 is 101\n.*\n.*: 100, as"),
            ({"step": (1, 2)}, "crossline axis .* value 2 of 7 is 302\n.*\n.*: 301, as"),
            ({"start": 4.0}, "sample axis .* value 1 of 30 is 4\n.*\n.*: 0, as"),
            ({"interval": 4.1}, "sample axis .* value 2 of 30 is 4\\.1\n.*\n.*: 4, as"),
        ],
    )
    def test_salt_and_truth_must_have_the_axes_of_the_survey(
        self, tmp_path, make_segy, change, told
    ):
        path, values = make_segy()
        other, _ = make_segy("other.sgy", **change)
        with pytest.raises(DataError, match=told) as error:
            open_survey(SurveyPaths(path, None, other))
        assert error.value.where == str(other)
        assert "diapir doctor" in error.value.mend
        group = zarr.open_group(tmp_path / "map" / "salt.zarr", mode="w")
        group.create_array("probability", data=np.zeros(values.shape, np.float32))
        for name in ("inline", "crossline", "sample"):
            group.create_array(name, data=open_volume(other)[name].to_numpy())
        with pytest.raises(DataError, match=told) as error:
            open_survey(SurveyPaths(path, tmp_path / "map"))
        assert error.value.where.endswith("salt.zarr")
        open_survey(SurveyPaths(other, tmp_path / "map"))
        group["sample"][:] = open_volume(path)["sample"].to_numpy() + 0.03  # of 4 ms: rounding
        for name in ("inline", "crossline"):
            group[name][:] = open_volume(path)[name].to_numpy()
        assert open_survey(SurveyPaths(path, tmp_path / "map")).known == {"probability"}

    def test_arrays_without_headers_fit_by_their_shape(self, tmp_path, make_segy):
        path, values = make_segy()
        np.save(tmp_path / "array.npy", (values > 0).astype(np.float32))
        for survey, truth in ((path, tmp_path / "array.npy"), (tmp_path / "array.npy", path)):
            assert open_survey(SurveyPaths(survey, None, truth)).known == {"truth"}

    def test_axes_of_salt_that_cannot_be_read_are_an_error(self, tmp_path, make_segy):
        path, values = make_segy()
        group = zarr.open_group(tmp_path / "map" / "salt.zarr", mode="w")
        group.create_array("probability", data=np.zeros(values.shape, np.float32))
        group.create_array("inline", data=np.arange(9))
        with pytest.raises(DataError, match="inline axis has the shape"):
            open_survey(SurveyPaths(path, tmp_path / "map"))
        group.create_array("inline", data=np.arange(100, 106), overwrite=True)
        (chunk,) = (tmp_path / "map" / "salt.zarr" / "inline" / "c").iterdir()
        chunk.write_bytes(b"damaged")
        with pytest.raises(DataError, match="inline axis cannot be read"):
            open_survey(SurveyPaths(path, tmp_path / "map"))


class TestColors:
    def test_ends_and_middle_of_each_display(self):
        assert colors.ramp("gray")[0] == "#000000"
        assert colors.ramp("gray_r") == colors.ramp("gray")[::-1]
        assert colors.ramp("seismic", 5)[2] == "#ffffff"
        assert colors.ramp("petrel", 7)[3] == "#cccccc"

    def test_polarity_turns_the_palette(self):
        plain = colors.amplitude_palette("petrel", reverse=False)
        assert colors.amplitude_palette("petrel", reverse=True) == plain[::-1]

    def test_symmetric_displays_have_zero_in_the_middle(self):
        assert colors.amplitude_span((-1.0, 3.0), "petrel") == (-3.0, 3.0)
        assert colors.amplitude_span((-1.0, 3.0), "gray") == (-1.0, 3.0)
        assert colors.amplitude_span((10.0, 200.0), "seismic") == (10.0, 200.0)

    def test_amplitudes_survive_sixteen_bits(self, cube):
        pixels, unit = colors.as_int16(cube[0])
        assert np.abs(pixels * unit - cube[0]).max() <= unit
        assert colors.as_int16(np.array([[np.nan, np.inf]]))[0].tolist() == [[0, 0]]

    @given(st.floats(0, 1), st.floats(0, 1))
    def test_fill_begins_above_the_threshold(self, prob, threshold):
        pixel = colors.prob_pixels(np.array([prob]))[0]
        shown = colors.fill_palette(threshold)[pixel] != colors.CLEAR
        if abs(prob - threshold) > 1 / 255:
            assert shown == (prob > threshold)

    def test_truth_has_three_colours_and_none(self):
        probs, truth = np.array([0.9, 0.1, 0.9, 0.1]), np.array([True, True, False, False])
        pixels = colors.truth_pixels(probs, truth)
        found = [colors.truth_palette(0.5)[pixel] for pixel in pixels]
        assert found == [colors.AGREED, colors.MISSED, colors.FALSE, colors.CLEAR]
        assert len(set(found)) == 4

    def test_a_palette_covers_every_pixel(self):
        palettes = (colors.truth_palette(0.5), colors.ramp_palette("heat"), colors.LABEL_PALETTE)
        assert {len(palette) for palette in palettes} == {256}
        assert len(colors.fill_palette(0.5)) == colors.DROPPED + 256

    def test_what_a_rule_drops_is_not_filled(self):
        pixels = colors.prob_pixels(np.array([0.9, 0.9]), np.array([True, False]))
        assert [colors.fill_palette(0.5)[pixel] for pixel in pixels] == [colors.CLEAR, colors.SALT]


class TestSalt:
    ACROSS = np.arange(100.0, 104.0)
    DOWN = np.arange(500.0, 540.0, 4.0)

    def section(self):
        probs = np.full((4, 10), 0.1, np.float32)
        probs[1:3, 4:] = 0.9
        return probs

    def test_share_top_confidence_and_scores(self):
        truth = np.zeros((4, 10), bool)
        truth[1, 4:] = True
        facts = section_facts(self.section(), 0.5, self.ACROSS, self.DOWN, truth=truth)
        assert facts.share == pytest.approx(12 / 40)
        assert facts.top == pytest.approx((514.0, 514.0))
        assert facts.shallowest_at == 101
        assert facts.confidence == pytest.approx(0.9)
        assert (facts.iou, facts.dice) == (pytest.approx(0.5), pytest.approx(2 / 3))
        rows = dict(describe_facts(facts, "ms"))
        assert rows["Shallowest"] == "514 ms at 101"
        assert rows["IoU"] == "0.500"

    def test_traces_that_are_missing_do_not_count(self):
        live = np.zeros((4, 10), bool)
        live[0] = True
        assert section_facts(self.section(), 0.5, self.ACROSS, self.DOWN, live=live).share == 0

    def test_no_salt_and_slices_have_no_top(self):
        assert section_facts(self.section(), 0.95, self.ACROSS, self.DOWN).top is None
        assert section_facts(self.section(), 0.5, self.ACROSS, None).top is None

    def test_the_outline_lies_on_the_threshold(self):
        xs, ys = outline(self.section(), 0.5, (100.0, 1.0), (500.0, 4.0))
        assert np.concatenate(xs).min() == pytest.approx(100.5)
        assert np.concatenate(ys).min() == pytest.approx(514.0)
        assert outline(self.section(), 0.95, (0, 1), (0, 1)) == ([], [])

    def test_a_person_has_the_last_word(self):
        labels = np.full((4, 10), UNLABELLED, np.uint8)
        labels[0, 0], labels[1, 5] = 1, 0
        found = corrected(self.section(), labels)
        assert (found[0, 0], found[1, 5], found[2, 5]) == (1.0, 0.0, pytest.approx(0.9))
        assert corrected(None, None) is None
        assert corrected(None, labels).sum() == 1

    def test_several_models_are_averaged_and_compared(self):
        low, high = np.full((2, 2), 0.2, np.float32), np.full((2, 2), 0.6, np.float32)
        found = average([low, high])
        assert found["probability"] == pytest.approx(np.full((2, 2), 0.4))
        assert found["disagreement"] == pytest.approx(np.full((2, 2), 0.4))
        assert "disagreement" not in average([low])


class TestLabels:
    def test_a_polygon_takes_the_samples_whose_middle_is_inside(self):
        mask = polygon_mask([(1, 1), (4, 1), (4, 3), (1, 3)], (6, 5))
        assert mask.sum() == 6
        assert mask[1:4, 1:3].all()
        assert not polygon_mask([(0, 0), (5, 5)], (6, 5)).any()

    @given(st.lists(st.tuples(st.floats(-9, 20), st.floats(-9, 20)), max_size=8))
    @example([(0, 0), (0, 1), (2, 0), (0, 0), (1, 1)])  # an edge through the middle of a sample
    def test_a_polygon_is_that_of_matplotlib(self, points):
        from matplotlib.path import Path as Outline

        mask = polygon_mask(points, (7, 6))
        assert mask.shape == (7, 6)
        if len(points) > 2:
            middles = np.stack(np.meshgrid(np.arange(7) + 0.5, np.arange(6) + 0.5), -1)
            # nonzero winding and even-odd differ where a polygon crosses itself
            inside = Outline([*points, points[0]]).contains_points(middles.reshape(-1, 2))
            assert not (mask.T.ravel() & ~inside).any() or _near_an_edge(
                points, middles, mask, inside
            )

    def test_a_stroke_is_as_wide_as_the_brush(self):
        mask = brush_mask([(2.5, 2.5), (8.5, 2.5)], (1.2, 1.2), (12, 6))
        assert mask[2:9, 1:4].all()
        assert not mask[:, 4:].any()
        assert brush_mask([(3.5, 3.5)], (0.1, 0.1), (6, 6)).sum() == 1
        flat = brush_mask([(5.5, 5.5)], (4.0, 0.6), (12, 12))
        assert (flat.any(axis=1).sum(), flat.any(axis=0).sum()) == (9, 1)

    @pytest.mark.parametrize("points", [[(-50, -50), (-40, -40)], [(1e9, 1e9)], []])
    def test_strokes_outside_label_nothing(self, points):
        assert not brush_mask(points, (3, 3), (6, 6)).any()

    @pytest.mark.parametrize("points", ["text", [(1, "x")], [(1, 2, 3)], [(0, 0)] * 20_001])
    def test_what_is_no_shape_is_refused(self, points):
        with pytest.raises(DataError):
            polygon_mask(points, (6, 5))

    def test_undo_takes_back_step_by_step(self):
        canvas = Canvas.empty((4, 4))
        where = np.zeros((4, 4), bool)
        where[0] = True
        assert canvas.paint(where, 1)
        assert not canvas.paint(where, 1)
        assert canvas.fill_rest(~where)
        assert (canvas.labels == 1).all()
        canvas.undo()
        assert (canvas.labels == 1).sum() == 4
        canvas.undo()
        assert canvas.is_empty
        assert not canvas.undo()

    def test_undo_keeps_what_was_changed_and_no_more_than_it_may(self, monkeypatch):
        canvas = Canvas.empty((300, 400))
        for k in range(50):
            where = np.zeros((300, 400), bool)
            where[k : k + 2, 3 * k : 3 * k + 5] = True
            assert canvas.paint(where, k % 2)
        assert canvas._held == 50 * 10
        while canvas.undo():
            pass
        assert canvas.is_empty
        assert canvas._held == 0
        monkeypatch.setattr("diapir.serve.viewer.labels._UNDO_BYTES", 25)
        for k in range(5):
            where = np.zeros((300, 400), bool)
            where[k, :10] = True
            canvas.paint(where, 1)
        canvas.fill_rest(np.zeros((300, 400), bool))  # larger than all that is kept
        assert canvas.undo()
        assert (canvas.labels == 1).sum() == 50
        assert not canvas.can_undo

    def test_saved_labels_are_what_finetune_reads(self, tmp_path, make_segy):
        survey = open_volume(make_segy()[0])
        folder = LabelFolder(tmp_path / "labels")
        canvas = Canvas.empty((7, 30))
        where = np.zeros((7, 30), bool)
        where[2:4, 5:9] = True
        canvas.paint(where, 1)
        canvas.paint(np.roll(where, 10, axis=1), 0)
        folder.save("inline_102", canvas)
        (line,) = read_labels(tmp_path / "labels", survey)
        assert (line.direction, line.number) == ("inline", 102)
        np.testing.assert_array_equal(line.labels, canvas.labels)

    def test_drafts_outlive_the_page_and_stay_out_of_the_labels(self, tmp_path, make_segy):
        folder = LabelFolder(tmp_path)
        canvas = Canvas.empty((7, 30))
        canvas.paint(np.ones((7, 30), bool), 1)
        folder.keep_draft("inline_102", canvas)
        assert not list(tmp_path.glob("*.png"))
        again = LabelFolder(tmp_path)
        assert (again.load("inline_102", (7, 30)).labels == 1).all()
        (entry,) = again.entries()
        assert (entry.key, entry.saved, entry.draft) == ("inline_102", False, True)
        assert (entry.labelled, entry.salt) == (1.0, 1.0)
        again.save("inline_102", canvas)
        (entry,) = again.entries()
        assert (entry.saved, entry.draft) == (True, False)

    def test_erasing_everything_removes_the_file(self, tmp_path):
        folder = LabelFolder(tmp_path)
        folder.save("inline_1", Canvas(np.ones((2, 2), np.uint8)))
        empty = Canvas.empty((2, 2))
        folder.keep_draft("inline_1", empty)  # a draft that says: nothing
        assert folder.load("inline_1", (2, 2)).is_empty
        folder.save("inline_1", empty)
        assert folder.entries() == []

    def test_masks_of_0_and_1_are_labels_as_finetune_reads_them(self, tmp_path):
        image = np.full((30, 7), 127, np.uint8)
        image[:10], image[10:20] = 1, 0
        (tmp_path / "inline_1.png").write_bytes(encode_png(image))
        folder = LabelFolder(tmp_path)
        labels = folder.load("inline_1", (7, 30)).labels
        assert (labels[:, :10] == 1).all()
        assert (labels[:, 10:20] == 0).all()
        assert (labels[:, 20:] == UNLABELLED).all()
        (entry,) = folder.entries()
        assert (entry.labelled, entry.salt) == pytest.approx((2 / 3, 1 / 2))
        (tmp_path / "inline_1.png").write_bytes(encode_png(image + np.uint8(2)))
        with pytest.raises(DataError, match="values of"):
            folder.load("inline_1", (7, 30))

    def test_labels_of_sections_larger_than_any_picture_are_read_back(self, tmp_path):
        shape = (4097, 4097)
        labels = np.zeros(shape, np.uint8)
        labels[:7, 5:] = 1
        LabelFolder(tmp_path).save("line", Canvas(labels))
        folder = LabelFolder(tmp_path, most=shape[0] * shape[1])
        np.testing.assert_array_equal(folder.load("line", shape).labels, labels)
        (entry,) = folder.entries()
        assert entry.labelled == 1.0
        geometry = Geometry(
            {"trace": np.arange(4097)}, np.arange(4097.0), "ms", np.ones(4097, bool)
        )
        zeros = dict.fromkeys(("p01", "p50", "p99", "mean", "std"), 0.0)
        survey = make_volume(
            np.broadcast_to(np.float32(0), shape), geometry, source="line.sgy", fingerprint="",
            statistics=zeros,
        )  # fmt: skip
        (line,) = read_labels(tmp_path, survey)
        np.testing.assert_array_equal(line.labels, labels)
        with pytest.raises(DataError, match="4097 x 4097"):
            LabelFolder(tmp_path).load("line", (9, 9))

    def test_what_an_interrupted_save_left_is_no_label(self, tmp_path, make_segy):
        folder = LabelFolder(tmp_path)
        folder.save("inline_102", Canvas(np.ones((7, 30), np.uint8)))
        folder.keep_draft("inline_103", Canvas(np.ones((7, 30), np.uint8)))
        for place in (tmp_path, tmp_path / ".drafts"):
            (place / ".inline_104-0123456789ab.png").write_bytes(b"half")
        assert [entry.key for entry in folder.entries()] == ["inline_102", "inline_103"]
        (line,) = read_labels(tmp_path, open_volume(make_segy()[0]))
        assert line.number == 102

    def test_of_two_pages_the_second_does_not_undo_the_first(self, tmp_path):
        folder = LabelFolder(tmp_path)
        one, other = (folder.load("inline_1", (7, 30)) for _ in range(2))
        one.paint(np.ones((7, 30), bool), 1)
        folder.keep_draft("inline_1", one)
        other.paint(np.ones((7, 30), bool), 0)
        for write in (folder.keep_draft, folder.save):
            with pytest.raises(DataError, match=r"somebody else(.|\n)*, or reload the page"):
                write("inline_1", other)
        folder.save("inline_1", one)  # who drew first goes on
        one.undo()
        folder.keep_draft("inline_1", one)
        again = folder.load("inline_1", (7, 30))
        assert again.is_empty
        again.paint(np.ones((7, 30), bool), 0)
        folder.save("inline_1", again)
        assert (folder.load("inline_1", (7, 30)).labels == 0).all()

    def test_labels_of_another_survey_are_refused(self, tmp_path):
        folder = LabelFolder(tmp_path)
        folder.save("inline_1", Canvas(np.ones((2, 3), np.uint8)))
        with pytest.raises(DataError, match="2 wide and 3 high"):
            folder.load("inline_1", (4, 4))


def _near_an_edge(points, middles, mask, inside):
    """Return whether the samples on which two rules differ lie on an edge, within rounding."""
    begins = np.asarray(points, float)
    edges = np.roll(begins, -1, axis=0) - begins
    lengths = np.maximum((edges**2).sum(axis=1), 1e-12)
    for middle in middles.reshape(-1, 2)[mask.T.ravel() & ~inside]:
        share = (((middle - begins) * edges).sum(axis=1) / lengths).clip(0, 1)
        nearest = begins + share[:, None] * edges
        if np.hypot(*(middle - nearest).T).min() > 1e-6:
            return False
    return True


class TestFigure:
    AXES = (Axis("Crossline", np.arange(100.0, 110.0)), Axis("ms", np.arange(0.0, 80.0, 4.0)))

    def image(self, **more):
        return SectionImage(
            self.AXES, ("crossline", "ms"), True, np.ones((10, 20), np.float32), None, **more
        )

    def test_a_section_lies_where_its_axes_say(self):
        figure = SectionFigure(dark=False)
        figure.show(self.image(), keep_zoom=False)
        data = figure.amplitude.data
        assert (data["x"], data["dw"]) == ([99.5], [10.0])
        assert (data["y"], data["dh"]) == ([-2.0], [80.0])
        assert data["image"][0].shape == (20, 10)
        assert data["image"][0].dtype == np.int16
        assert figure.plot.y_range.start > figure.plot.y_range.end

    def test_zoom_stays_from_line_to_line(self):
        figure = SectionFigure(dark=True)
        figure.show(self.image(), keep_zoom=False)
        figure.move(zoom=2.0)
        before = figure.ranges()
        figure.show(self.image(), keep_zoom=True)
        assert figure.ranges() == before
        figure.fit()
        assert figure.ranges() == ((99.5, 109.5), (78.0, -2.0))

    def test_threshold_and_opacity_send_no_pixels(self):
        figure = SectionFigure(dark=False)
        pixels = np.full((10, 20), 128, np.uint8)
        figure.show(self.image(layers={"fill": pixels}), keep_zoom=False)
        before = figure.sources["fill"].data
        figure.color_salt(0.7, 0.5, {"fill"})
        assert figure.sources["fill"].data is before
        assert figure.mappers["fill"].palette[128] == colors.CLEAR
        figure.color_salt(0.3, 0.5, {"fill"})
        assert figure.mappers["fill"].palette[128] == colors.SALT
        assert figure.renderers["fill"].visible
        assert not figure.renderers["heat"].visible

    def test_layers_and_gaps_go_when_there_are_none(self):
        figure = SectionFigure(dark=False)
        dead = np.zeros(10, bool)
        dead[3] = True
        image = self.image(layers={"truth": np.zeros((10, 20), np.uint8)})
        figure.show(SectionImage(**{**vars(image), "dead": dead}), keep_zoom=False)
        assert figure.gaps.data["image"][0][:, 3].all()
        figure.show(self.image(), keep_zoom=True)
        assert not figure.gaps.data["image"]
        assert not figure.sources["truth"].data["image"]

    def test_a_large_section_is_thinned_and_zooming_in_brings_it_back(self):
        axes = (Axis("a", np.arange(4000.0)), Axis("b", np.arange(3000.0)))
        assert fit_window(axes, None, 1_000_000) == Window((0, 4000, 4), (0, 3000, 4))
        near = fit_window(axes, ((1000, 1300), (700, 500)), 1_000_000)
        assert near == Window((850, 1451, 1), (400, 801, 1))
        assert fit_window(self.AXES, ((102, 103), (4, 8))) == Window((0, 10, 1), (0, 20, 1))

    def test_a_window_serves_until_one_looks_closer_or_beside_it(self):
        axes = (Axis("a", np.arange(4000.0)), Axis("b", np.arange(3000.0)))
        all_of_it, near = ((-0.5, 3999.5), (2999.5, -0.5)), ((1000.0, 1300.0), (700.0, 500.0))
        whole = fit_window(axes, None, 1_000_000)
        assert whole.serves(axes, all_of_it, 1_000_000)
        assert not whole.serves(axes, near, 1_000_000)  # it could be finer
        fine = fit_window(axes, near, 1_000_000)
        assert fine.serves(axes, ((900.0, 1200.0), (750.0, 550.0)), 1_000_000)  # panned a little
        assert not fine.serves(axes, ((700.0, 1000.0), (700.0, 500.0)), 1_000_000)
        assert not fine.serves(axes, all_of_it, 1_000_000)

    def test_zooming_into_a_large_section_sends_finer_pixels(self, monkeypatch):
        monkeypatch.setattr(window, "MOST_PIXELS", 50)
        values = np.arange(200.0, dtype=np.float32).reshape(10, 20)
        figure = SectionFigure(dark=False)
        layers = {"fill": np.arange(200, dtype=np.uint8).reshape(10, 20)}
        image = SectionImage(self.AXES, ("crossline", "ms"), True, values, None, layers)
        figure.show(image, keep_zoom=False)
        assert figure.amplitude.data["image"][0].shape == (10, 5)
        assert not figure.is_coarse
        figure.plot.x_range.update(start=101.5, end=103.5)
        figure.plot.y_range.update(start=30.0, end=14.0)
        assert figure.is_coarse
        figure.refine()
        assert not figure.is_coarse
        data = figure.amplitude.data
        (part,) = data["image"]
        first = round(data["x"][0] - 99.5), round((data["y"][0] + 2) / 4)
        expected = values[first[0] :, first[1] :].T[: part.shape[0], : part.shape[1]]
        np.testing.assert_allclose(part * data["unit"][0], expected, atol=data["unit"][0])
        assert figure.sources["fill"].data["image"][0].shape == part.shape
        assert figure.plot.x_range.start == 101.5  # the zoom stays


class TestReads:
    class Asked:
        """Reads that wait until they are let go, and pages that are told in the reading thread."""

        def __init__(self):
            self.let_go, self.read, self.drawn = threading.Event(), [], []
            self.reads = Reads(lambda action: action(), self.finish)

        def ask(self, number):
            def read():
                self.read.append(number)
                assert self.let_go.wait(30)
                if number < 0:
                    raise DataError("gone")
                return number

            self.reads.ask(read)

        def finish(self, future):
            self.drawn.append(future.exception() or future.result())

        def wait(self):
            end = time.monotonic() + 30
            while self.reads.busy and time.monotonic() < end:
                time.sleep(0.005)
            assert not self.reads.busy

    def test_the_page_does_not_wait_and_only_the_newest_of_many_is_read(self):
        asked = self.Asked()
        for number in range(1, 6):
            asked.ask(number)
        assert asked.drawn == []
        asked.let_go.set()
        asked.wait()
        assert asked.read == asked.drawn == [1, 5]

    def test_what_cannot_be_read_holds_nothing_up(self):
        asked = self.Asked()
        asked.ask(-1)
        asked.ask(2)
        asked.let_go.set()
        asked.wait()
        assert isinstance(asked.drawn[0], DataError)
        assert asked.drawn[1] == 2


class TestSection:
    def view(self, source, models=(), labels=Path("labels"), **state):
        library = Library({source.name: source}, ModelShelf(models), labels)
        settings = ViewState()
        settings.param.update(data=source.name, direction=source.directions[0], **state)
        return SectionView(library, settings, dark=False)

    def test_salt_and_corrections_belong_to_what_is_drawn(self, make_segy, tmp_path):
        path, values = make_segy(first=(100, 300))
        view = self.view(open_survey(SurveyPaths(path)), labels=tmp_path / "labels", number=102.0)
        view.show()
        view.state.number = 104.0  # being read: not drawn yet
        assert (view.shown.key, view.wanted.key) == ("inline_102", "inline_104")
        assert not view.is_current
        view.canvas.paint(np.ones(values.shape[1:], bool), 1)
        view.labels_changed()
        drafts = tmp_path / "labels" / ".drafts"
        assert [one.name for one in drafts.iterdir()] == ["inline_102.png"]
        view.show()
        assert view.is_current
        assert view.canvas.is_empty
        np.testing.assert_allclose(view.figure.amplitude.data["image"][0].shape, (30, 7))

    def test_only_what_is_asked_for_is_read(self, make_segy, tmp_path):
        path, values = make_segy()
        probs = np.random.default_rng(1).random(values.shape).astype(np.float32)
        source = SurveySource(
            "a", open_volume(path), SurveyPaths(path), {"probability": probs}, map_threshold=0.3
        )
        view = self.view(source, number=100.0)
        view.show()
        assert view.salt() is None
        view.state.salt = MAP
        assert not view.is_current  # the salt of the map is still to be read
        view.show()
        np.testing.assert_array_equal(view.salt(), probs[0])

    def test_masks_of_tiles_are_those_of_predict(self, tiny_recipe, tmp_path, easy_tiles):
        rule = MaskRule(1.0, 12, 0.0)
        recipe = tiny_recipe()
        file = tmp_path / "ruled.safetensors"
        save_model(file, SaltNet(recipe.model), ModelCard(recipe, 0.4, rule=rule))
        tiles = easy_tiles.subset([0, 1])
        probs = np.random.default_rng(0).random(tiles.images.shape).astype(np.float32)
        probs[0, 5:15, 5:15] = 0.9
        source = TileSource("tiles", tiles, Path("tiles"))
        source.probs["ruled"] = {"probability": probs}
        view = self.view(source, [file], salt="ruled", threshold=0.8)
        view.show()
        expected = make_masks(probs, 0.8, rule)[0]
        assert 0 < expected.sum() < (probs[0] > 0.8).sum()
        np.testing.assert_array_equal(view.mask(), expected.T)
        np.testing.assert_array_equal(view.salt() > 0.8, expected.T)
        assert f"{100 * expected.mean():.1f} %" in view.facts.object
        palette = np.array(view.figure.mappers["fill"].palette)
        pixels = view.figure.sources["fill"].data["image"][0]
        np.testing.assert_array_equal(palette[pixels] == colors.SALT, expected)
        heat = np.array(view.figure.mappers["heat"].palette)
        assert (heat[pixels] == heat[pixels % 256]).all()  # as probable as before
        view.state.threshold = 0.2
        view.threshold_changed()
        pixels = view.figure.sources["fill"].data["image"][0]
        again = np.array(view.figure.mappers["fill"].palette)[pixels] == colors.SALT
        np.testing.assert_array_equal(again, make_masks(probs, 0.2, rule)[0])


class TestPage:
    """The page without a browser: its parts, and what its keys do."""

    @pytest.fixture
    def page(self, make_segy, model_file, tmp_path):
        path, values = make_segy(first=(100, 300))
        np.save(tmp_path / "truth.npy", (values > 0).astype(np.float32).transpose(0, 1, 2))
        library = open_library([path], models=[model_file], labels=tmp_path / "labels")
        return self.opened(library)

    def opened(self, library, **wanted):
        page = Page(library, dark=False, wanted=wanted)
        self.settle(page)
        return page

    def settle(self, page):
        end = time.monotonic() + 60
        while page._reads.busy and time.monotonic() < end:
            time.sleep(0.005)
        assert not page._reads.busy

    def press(self, page, key):
        page.keys._handle_msg({"key": key})
        self.settle(page)

    def test_steps_and_keys(self, page):
        assert page.template() is not None
        assert page.view.shown.key == "inline_103"
        served = page.keys.served
        page.keys._handle_msg({"steps": 2})
        self.settle(page)
        assert page.view.shown.key == "inline_105"
        assert "Inline 105" in page.view.title.object
        assert page.keys.served > served
        served = page.keys.served
        page.keys._handle_msg({"steps": 2})  # the survey ends here; the keys must go on
        assert page.keys.served > served
        self.press(page, "2")
        assert page.view.shown.direction == "crossline"
        before = page.view.figure.ranges()
        self.press(page, "+")
        assert page.view.figure.ranges() != before
        self.press(page, "o")
        assert "outline" not in page.state.layers
        self.press(page, "]")
        assert page.state.threshold == 0.42

    def test_it_begins_with_the_threshold_of_the_model(self, page, tmp_path):
        assert page.state.threshold == 0.4
        assert "threshold=0.4" in page.state.query(dark=False)
        asked = self.opened(page.library, threshold=0.7)
        assert asked.state.threshold == 0.7

    def test_drawing_by_keyboard(self, page, tmp_path):
        self.press(page, "k")
        assert page.keys.cursor
        for key in ("Enter", "alt+ArrowDown", "Enter", "ArrowLeft", "ArrowLeft", "Enter"):
            self.press(page, key)
        self.press(page, "shift+Enter")
        self.press(page, "s")
        self.press(page, "Escape")
        assert not page.keys.cursor
        assert (tmp_path / "labels" / "inline_103.png").exists()

    def shape(self, page, section):
        """Return three quarters of the section as the browser sends a polygon."""
        across, down = page.view.shown.axes
        xs = [across.values[k] for k in (0, 4, 4, 0)]
        ys = [down.values[k] for k in (0, 0, 20, 20)]
        return {"x": xs, "y": ys, "section": [section] * 4}

    def test_a_shape_labels_only_the_section_it_was_drawn_on(self, page, monkeypatch):
        figure, section = page.view.figure, page.view.section
        monkeypatch.setattr(figure, "inner_size", lambda: (900, 580))  # which a browser tells
        figure.closed.data = self.shape(page, section)
        assert page.view.canvas.labels.min() == 1
        assert not figure.closed.data["x"]  # ready for the same shape again
        page.state.number = 104.0
        self.settle(page)
        figure.closed.data = self.shape(page, section)
        assert page.view.canvas.is_empty
        assert "no longer shown" in page.message.object
        stroke = self.shape(page, section)
        figure.stroke.data = {"xs": [stroke["x"]], "ys": [stroke["y"]], "section": [section]}
        assert page.view.canvas.is_empty
        stroke = {"xs": [stroke["x"]], "ys": [stroke["y"]], "section": [page.view.section]}
        figure.stroke.data = stroke
        assert not page.view.canvas.is_empty
        assert figure.stroke.data == stroke  # the browser may be adding to it

    def test_the_cursor_stays_on_the_section_that_is_shown(self, page):
        self.press(page, "k")
        for key in ("alt+ArrowRight", "Enter", "alt+ArrowDown", "Enter", "ArrowLeft", "Enter"):
            self.press(page, key)
        assert len(page.view.figure.corners.data["x"]) == 3
        page.correct.cursor.move(1, 0)
        self.press(page, "2")  # of fewer traces
        assert page.view.shown.direction == "crossline"
        assert page.view.figure.corners.data["x"] == []
        assert page.view.figure.cursor.data["x"] == [105]
        self.press(page, "shift+Enter")
        assert page.view.canvas.is_empty
        self.press(page, "Enter")
        assert not page.message.visible
        assert page.view.figure.corners.data["x"] == [105]

    def test_a_section_whose_labels_cannot_be_read_is_drawn(self, page, tmp_path):
        file = tmp_path / "labels" / "inline_104.png"
        file.parent.mkdir()
        file.write_bytes(b"no picture")
        page.state.number = 104.0
        self.settle(page)
        assert page.view.shown.key == "inline_104"
        assert "not a PNG" in page.message.object
        assert page.message.visible
        assert "cannot be read" in page.correct.status.object
        page.tell(None)
        page.view.figure.closed.data = self.shape(page, page.view.section)
        assert page.message.visible
        page.correct.save.clicks += 1
        page.correct.clear.clicks += 1
        assert file.read_bytes() == b"no picture"
        assert not (file.parent / ".drafts").exists()
        page.state.number = 105.0
        self.settle(page)
        assert not page.message.visible
        assert page.view.labels_problem is None

    def test_the_address_holds_what_is_shown(self, page):
        assert page.keys.query == page.state.query(dark=False)
        page.state.number = 105.0
        assert "number=105" in page.keys.query

    def test_what_cannot_be_read_is_told_and_forgotten(self, page, monkeypatch):
        source = page.library.sources["cube"]
        whole = source.section

        def broken(direction, index, *more, **named):
            if index == 0:
                raise DataError("a bad block")
            return whole(direction, index, *more, **named)

        monkeypatch.setattr(source, "section", broken)
        page.state.number = 100.0
        self.settle(page)
        assert "a bad block" in page.message.object
        assert page.message.visible
        assert page.view.shown.key == "inline_103"
        page.state.number = 101.0
        self.settle(page)
        assert not page.message.visible

    def test_values_of_a_link_that_do_not_fit_are_told(self, page):
        odd = self.opened(page.library, threshold=9, direction="sideways")
        assert "threshold" in odd.message.object
        assert odd.message.visible

    def test_a_map_brings_its_threshold(self, make_segy, tmp_path):
        path, values = make_segy()
        group = zarr.open_group(tmp_path / "map" / "salt.zarr", mode="w")
        group.create_array("probability", data=np.full(values.shape, 0.5, np.float32))
        (tmp_path / "map" / "map.json").write_text(
            json.dumps({"source": str(path), "threshold": 0.62})
        )
        page = self.opened(open_library([tmp_path / "map"], labels=tmp_path / "labels"))
        assert (page.state.salt, page.state.threshold) == (MAP, 0.62)
        assert page.view.salt().max() == np.float32(0.5)

    def test_a_prediction_takes_the_place_of_the_map_with_its_threshold(
        self, make_segy, model_file, tmp_path
    ):
        path, values = make_segy(shape=(40, 45, 50))
        for name, threshold in (("map", 0.62), ("other", 0.71)):
            group = zarr.open_group(tmp_path / name / "salt.zarr", mode="w")
            group.create_array("probability", data=np.full(values.shape, 0.5, np.float32))
            (tmp_path / name / "map.json").write_text(
                json.dumps({"source": str(path), "threshold": threshold})
            )
        maps = [tmp_path / "map", tmp_path / "other"]
        library = open_library(maps, models=[model_file], labels=tmp_path / "labels")
        page = self.opened(library)
        assert page.state.threshold == 0.62
        page.state.data = list(library.sources)[1]
        assert (page.state.salt, page.state.threshold) == (MAP, 0.71)
        page._predicted("tiny", (page.view.source, page.state.salt))
        assert (page.state.salt, page.salt.salt.value) == ("tiny", "tiny")
        assert page.state.threshold == pytest.approx(0.4)

    def test_a_prediction_leaves_what_was_chosen_meanwhile(
        self, page, model_file, make_segy, tmp_path
    ):
        other, _ = make_segy("other.sgy", seed=1)
        paths = [tmp_path / "cube.sgy", other]
        library = open_library(paths, models=[model_file] * 2, labels=tmp_path / "labels")
        page = self.opened(library)
        asked = page.view.source, page.state.salt
        page.salt.take("tiny-2")
        page.state.threshold = 0.7
        page._predicted("tiny", asked)
        assert (page.state.salt, page.state.threshold) == ("tiny-2", 0.7)
        page.salt.take("tiny")
        page.state.data = "other"
        self.settle(page)
        page.state.threshold = 0.7
        page._predicted("all", asked)
        assert (page.state.salt, page.state.threshold) == ("tiny", 0.7)

    def test_section_0_is_in_the_link(self, tmp_path):
        np.save(tmp_path / "cube.npy", np.zeros((6, 7, 30), np.float32))
        page = self.opened(open_library([tmp_path / "cube.npy"], labels=tmp_path / "labels"))
        page.state.number = 0.0
        assert "number=0&" in page.state.query(dark=False)

    def test_a_gallery_follows_the_threshold(self, easy_tiles, model_file, tmp_path):
        source = TileSource("tiles", easy_tiles, Path("tiles"))
        library = Library({"tiles": source}, ModelShelf([model_file]), tmp_path / "labels")
        page = self.opened(library)
        assert page.gallery.body.visible
        source.probs["tiny"] = {"probability": easy_tiles.masks * np.float32(0.6)}
        page._predicted("tiny", (source, page.state.salt))
        page.state.sort = "score"
        assert set(page.gallery._measured) == {1.0}
        page.state.threshold = 0.7
        assert page.gallery._measured.min() == 0
        assert "surveys, lines and pictures only" in page.correct.status.object

    def test_a_gallery_computes_what_is_shown(self, easy_tiles, model_file, tmp_path, monkeypatch):
        source = TileSource("tiles", easy_tiles, Path("tiles"))
        library = Library({"tiles": source}, ModelShelf([model_file]), tmp_path / "labels")
        source.probs["tiny"] = {"probability": easy_tiles.masks * np.float32(0.6)}
        masked, computed = [], []
        monkeypatch.setattr(
            "diapir.serve.viewer.gallery.make_masks",
            lambda probs, *how: masked.append(len(probs)) or make_masks(probs, *how),
        )
        monkeypatch.setattr(
            "diapir.serve.viewer.tiles.mean_uncertainty",
            lambda probs: computed.append(len(probs)) or mean_uncertainty(probs),
        )
        page = self.opened(library, salt="tiny", sort="uncertainty")
        page.state.threshold = 0.7
        page.state.threshold = 0.3
        assert len(easy_tiles) > 40
        assert set(masked) == {40}
        assert computed == [len(easy_tiles)]
        page.state.sort = "score"
        assert masked[-1] == len(easy_tiles)

    def test_keys_step_through_sections_and_not_through_a_gallery(self, easy_tiles, tmp_path):
        source = TileSource("tiles", easy_tiles, Path("tiles"))
        page = self.opened(Library({"tiles": source}, ModelShelf(), tmp_path))
        assert not page.keys.stepping
        page.state.view = "section"
        assert page.keys.stepping


class TestModels:
    def test_a_section_is_predicted_once(self, model_file, make_segy):
        source = open_survey(SurveyPaths(make_segy(shape=(40, 45, 50))[0]))
        shelf = ModelShelf([model_file])
        assert shelf.names == ["tiny"]
        assert shelf.threshold("tiny") == pytest.approx(0.4)
        assert shelf.known("tiny", (source.name, "inline", 3)) is None
        progress = Progress()
        found = shelf.predict("tiny", source, "inline", 3, progress)
        assert found["probability"].shape == (45, 50)
        assert progress.done == progress.total == 1
        assert shelf.known("tiny", (source.name, "inline", 3)) is found

    def test_predictions_are_remembered_as_far_as_memory_goes(self, model_file, monkeypatch):
        monkeypatch.setattr("diapir.serve.viewer.models.KEPT_BYTES", 1000)
        shelf = ModelShelf([model_file])
        for number in range(3):
            found = {"probability": np.zeros(100, np.float32)}
            shelf.remember(("tiny", "a", "inline", number), found)
            assert shelf.known("tiny", ("a", "inline", 0)) is not None  # looked at again and again
        assert shelf.known("tiny", ("a", "inline", 1)) is None
        assert shelf.known("tiny", ("a", "inline", 2)) is not None
        shelf.remember(("tiny", "a", "inline", 3), {"probability": np.zeros(999, np.float32)})
        assert shelf.known("tiny", ("a", "inline", 3)) is not None
        assert shelf.known("tiny", ("a", "inline", 2)) is None

    def test_several_models_have_a_mean(self, model_file, make_segy):
        source = open_survey(SurveyPaths(make_segy(shape=(40, 45, 50))[0]))
        shelf = ModelShelf([model_file, model_file])
        assert shelf.names == ["tiny", "tiny-2", ALL]
        found = shelf.predict(ALL, source, "crossline", 0, Progress())
        assert found["disagreement"].max() == 0

    def test_what_cannot_be_predicted_is_told(self, model_file, make_segy, tmp_path):
        source = open_survey(SurveyPaths(make_segy()[0]))
        shelf = ModelShelf([model_file])
        with pytest.raises(DataError, match="slices"):
            shelf.predict("tiny", source, "slice", 0, Progress())
        with pytest.raises(DataError, match="no model 'other'"):
            shelf.predict("other", source, "inline", 0, Progress())
        with pytest.raises(StoppedError):
            shelf.predict("tiny", source, "inline", 0, Progress(stopped=True))
        (tmp_path / "bad.safetensors").write_bytes(b"no")
        with pytest.raises(ModelFileError):
            ModelShelf([tmp_path / "bad.safetensors"])

    def test_engine_and_precision_are_those_asked_for(self, model_file, easy_tiles, monkeypatch):
        asked = []

        def load(paths, options):
            asked.append(options)
            return load_predictor(paths, options)

        monkeypatch.setattr("diapir.inference.predict.load_predictor", load)
        shelf = ModelShelf([model_file], engine="eager", precision="float32")
        shelf.predict_tiles("tiny", easy_tiles, Progress())
        assert (asked[0].engine, asked[0].precision) == ("eager", "float32")
        with pytest.raises(OptionError, match="there is no engine 'steam'"):
            ModelShelf([model_file], engine="steam")

    def test_tiles(self, model_file, easy_tiles):
        found = ModelShelf([model_file]).predict_tiles("tiny", easy_tiles, Progress())
        assert found["probability"].shape == easy_tiles.images.shape


class TestTiles:
    def test_order_and_filter(self):
        values = np.array([0.3, 0.1, 0.3, 0.2])
        ids = ["d", "c", "b", "a"]
        assert arrange(ids, None, None, falling=False).tolist() == [3, 2, 1, 0]
        assert arrange(ids, values, None, falling=False).tolist() == [1, 3, 2, 0]
        chosen = np.array([True, False, True, False])
        assert arrange(ids, values, chosen, falling=True).tolist() == [2, 0]

    def test_measures(self, easy_tiles):
        source = TileSource("tiles", easy_tiles, Path("tiles"))
        truth = easy_tiles.masks.astype(np.float32)
        source.probs["it"] = {"probability": truth}
        assert (measure("score", source, "it", truth > 0.5) == 1).all()
        assert (measure("uncertainty", source, "it", None) == 0).all()
        coverage = truth.mean(axis=(1, 2))
        np.testing.assert_allclose(measure("coverage", source, "", None), coverage, rtol=1e-6)
        source.probs["it"] = {"probability": np.full_like(truth, 0.5)}  # predicted again
        assert measure("uncertainty", source, "it", None).min() == 1
        known = {sort for sort in SORTS if measure(sort, source, "", None) is not None}
        assert known == {"coverage", "depth"}
        bare = TileSource("bare", Tiles(easy_tiles.ids, easy_tiles.images, None, None, ""), Path())
        np.testing.assert_allclose(measure("coverage", bare, "", truth > 0.5), coverage, rtol=1e-6)
        assert needs_masks("coverage", bare.tiles)
        assert not needs_masks("score", bare.tiles)  # they would not help
        assert unsortable("score", None).expected == "masks and a prediction"
        assert unsortable("name", None) is None

    def test_uncertainty_is_computed_in_pieces(self, monkeypatch):
        probs = np.random.default_rng(0).random((7, 4, 5), np.float32)
        monkeypatch.setattr("diapir.serve.viewer.tiles._AT_ONCE", 3)
        expected = (4 * probs * (1 - probs)).mean(axis=(1, 2), dtype=np.float64)
        np.testing.assert_array_equal(mean_uncertainty(probs), expected)

    def test_quirks_are_those_that_the_census_counts(self):
        from diapir.data.synthetic import generate_tiles

        tiles = generate_tiles(60, 1)
        counts, quirks = census(tiles), find_quirks(tiles)
        assert quirks["blank image"].sum() == counts.blank_images
        assert quirks["image twice"].sum() == counts.duplicate_image_tiles
        assert quirks["no salt"].sum() == counts.empty_masks
        assert quirks["all salt"].sum() == counts.full_masks
        assert quirks["vertical mask"].sum() == counts.vertical_masks
        assert quirks["vertical in the lower half"].sum() == counts.vertical_below
        assert quirks["1-10 salt pixels"].sum() == counts.masks_1_to_10
        assert quirks["under 100 salt pixels"].sum() == counts.masks_under_100
        assert quirks["mask twice"].sum() == counts.duplicate_mask_tiles
        bare = Tiles(tiles.ids, tiles.images, None, None, "bare")
        assert set(find_quirks(bare)) == {"blank image", "image twice"}

    def test_a_tile_is_a_section(self, easy_tiles):
        source = TileSource("tiles", easy_tiles, Path("tiles"))
        np.testing.assert_array_equal(source.section("tile", 5), easy_tiles.images[5].T)
        np.testing.assert_array_equal(source.section("tile", 5, "truth"), easy_tiles.masks[5].T)
        assert source.title("tile", 5).startswith("Tile tile0005, ")
        assert (source.find("tile0005"), source.find("nothing")) == (5, None)
        assert source.nearest("tile", 1e6) == 79
        low, high = source.clip_range(99)
        assert 0 <= low < high <= 255

    def test_thumbnails_show_the_salt(self):
        image = np.zeros((8, 8), np.uint8)
        salt = np.zeros((8, 8), bool)
        assert thumbnail(image, None) == thumbnail(image, salt)
        salt[2:6, 2:6] = True
        assert thumbnail(image, salt) != thumbnail(image, None)


class TestState:
    def test_a_link_holds_what_differs_from_the_defaults(self):
        state = ViewState()
        assert state.query(dark=False) == "?theme=default"
        state.param.update(data="12", number=1014.0, threshold=0.6, layers=["fill"], reverse=True)
        asked = parse_query(state.query(dark=True))
        assert asked.pop("theme") == "dark"
        again = ViewState()
        assert again.take(asked) == []
        assert again.query(dark=True) == state.query(dark=True)
        assert again.data == "12"

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_what_is_no_number_is_no_threshold(self, number):
        state = ViewState()
        assert state.take(parse_query(f"?threshold={number}")) == ["threshold"]
        assert state.threshold == 0.5

    def test_values_that_do_not_fit_are_named(self):
        state = ViewState()
        refused = state.take({"threshold": 7, "display": "pink", "number": "x", "clip": 95.0})
        assert refused == ["threshold", "display", "number"]
        assert (state.threshold, state.clip) == (0.5, 95.0)


class TestLibrary:
    def test_kinds_of_paths(self, tmp_path, make_segy):
        from diapir.data.competition import write_competition
        from diapir.data.synthetic import generate_tiles

        segy, values = make_segy()
        write_competition(tmp_path / "tiles", generate_tiles(12, 2), generate_tiles(4, 3))
        folder = tmp_path / "map"
        group = zarr.open_group(folder / "salt.zarr", mode="w")
        group.create_array("probability", data=np.zeros(values.shape, np.float32))
        (folder / "map.json").write_text(json.dumps({"source": str(segy)}))
        library = open_library([segy, folder, tmp_path / "tiles"], labels=tmp_path / "labels")
        assert list(library.sources) == ["cube", "cube-2", "tiles"]
        assert isinstance(library.sources["tiles"], TileSource)
        assert library.sources["cube-2"].known == {"probability"}
        named = library.label_folder(library.sources["cube"])
        assert named.path == tmp_path / "labels" / "cube"
        library.close()

    def test_surveys_of_one_name_find_their_labels_in_any_order(self, tmp_path, make_segy):
        near, far, new = (tmp_path / name / "cube.sgy" for name in ("near", "far", "new"))
        for seed, path in enumerate((near, far, new)):
            path.parent.mkdir()
            make_segy(f"{path.parent.name}/cube.sgy", seed=seed)

        def folders(*paths):
            library = open_library(paths, labels=tmp_path / "labels")
            sources = library.sources.values()
            found = {one.paths.source.parent.name: library.label_folder(one) for one in sources}
            library.close()
            return found

        first = folders(near, far)
        assert [one.path.name for one in first.values()] == ["cube", "cube-2"]
        for value, folder in enumerate(first.values()):
            folder.save("inline_100", Canvas(np.full((7, 30), value, np.uint8)))
        for paths in ((far, near), (new, far, near), (far, new)):
            again = folders(*paths)
            assert len({one.path for one in again.values()}) == len(paths)
            for value, name in enumerate(first):
                if name in again:
                    assert (again[name].load("inline_100", (7, 30)).labels == value).all()
        assert folders(new, near)["new"].entries() == []
        near.parent.rename(tmp_path / "moved")
        moved = folders(far, tmp_path / "moved" / "cube.sgy")["moved"]
        assert moved.path.name == "cube"
        for folder in first.values():  # of releases before these records
            (folder.path / "source.json").unlink()
        assert folders(far, new)["far"].path.name == "cube"

    def test_a_map_is_shown_with_what_it_was_made_of(self, tmp_path, make_segy):
        """Not with the file that a store was read from, which may be gone."""
        odd = {"inline_byte": 9, "crossline_byte": 21}
        segy, values = make_segy(options=SegyOptions(**odd))
        folder = tmp_path / "map"
        group = zarr.open_group(folder / "salt.zarr", mode="w")
        group.create_array("probability", data=np.zeros(values.shape, np.float32))
        table = {"source": "gone.sgy", "input": {"path": str(segy), "options": odd}}
        (folder / "map.json").write_text(json.dumps(table))
        (source,) = open_library([folder], labels=tmp_path / "labels").sources.values()
        assert source.geometry.shape == values.shape
        assert source.known == {"probability"}

    def test_what_is_given_as_truth_is_read_as_the_survey_is(self, make_segy):
        odd = {"inline_byte": 9, "crossline_byte": 21}
        segy, values = make_segy(options=SegyOptions(**odd))
        truth, _ = make_segy("truth.sgy", options=SegyOptions(**odd), code=8)
        source = open_survey(SurveyPaths(segy, None, truth), {**odd, "sample_format": 5})
        assert source.known == {"truth"}
        assert source.geometry.shape == values.shape

    def test_labels_of_an_ingested_line_lie_where_finetune_looks(self, tmp_path, make_segy):
        line, values = make_segy("line-7.sgy", shape=(12, 30))
        ingest(line, tmp_path / "l7.zarr", progress=False)
        source = open_survey(SurveyPaths(tmp_path / "l7.zarr"))
        labels = np.zeros(values.shape, np.uint8)
        LabelFolder(tmp_path / "labels").save(source.key("line", 0), Canvas(labels))
        (found,) = read_labels(tmp_path / "labels", open_volume(tmp_path / "l7.zarr"))
        np.testing.assert_array_equal(found.labels, labels)

    def test_tiles_in_one_more_folder_are_those_with_masks(self, tmp_path, easy_tiles):
        from diapir.data.competition import write_competition

        train, test = easy_tiles.subset(range(8)), easy_tiles.subset(range(8, 12))
        write_competition(tmp_path / "outer" / "tgs", train, test)
        (source,) = open_library([tmp_path / "outer"]).sources.values()
        assert source.known == {"truth"}

    def test_salt_and_truth_are_never_passed_over(self, tmp_path, make_segy, easy_tiles):
        from diapir.data.competition import write_competition

        segy, _ = make_segy()
        write_competition(tmp_path / "tgs", easy_tiles.subset(range(4)), easy_tiles.subset([4]))
        for extra in ({"salt": tmp_path}, {"truth": segy}):
            with pytest.raises(DataError, match="neither --salt nor --truth"):
                open_library([tmp_path / "tgs"], **extra)
        (tmp_path / "map" / "salt.zarr").mkdir(parents=True)
        (tmp_path / "map" / "map.json").write_text(json.dumps({"source": str(segy)}))
        with pytest.raises(DataError, match="has its own"):
            open_library([tmp_path / "map"], salt=tmp_path / "other")

    def test_what_cannot_be_viewed_is_told(self, tmp_path, make_segy):
        segy, _ = make_segy()
        with pytest.raises(DataError, match="nothing to view"):
            open_library([])
        with pytest.raises(DataError, match="no such file"):
            open_library([tmp_path / "nothing"])
        with pytest.raises(DataError, match="--salt or --truth"):
            open_library([segy, segy], truth=segy)
        folder = tmp_path / "map"
        (folder / "salt.zarr").mkdir(parents=True)
        (folder / "map.json").write_text('{"source": "/nowhere/survey.sgy"}')
        with pytest.raises(DataError, match="not at /nowhere"):
            open_library([folder])
        (folder / "map.json").write_text("[]")
        with pytest.raises(DataError, match="which survey"):
            open_library([folder])

    def test_test_tiles_have_no_truth(self, tmp_path):
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a.png").write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
        assert open_tiles(tmp_path).known == set()


class TestDownloads:
    @pytest.mark.parametrize(("direction", "index"), [("inline", 2), ("crossline", 4)])
    def test_the_mask_of_a_section_as_segy(self, tmp_path, make_segy, direction, index):
        source = open_survey(SurveyPaths(make_segy()[0]))
        mask = source.section(direction, index) > 0
        (tmp_path / "mask.sgy").write_bytes(section_segy(mask, source, direction, index))
        found = open_volume(tmp_path / "mask.sgy", line=False)
        np.testing.assert_array_equal(found["amplitude"].to_numpy().reshape(mask.shape) > 0.5, mask)

    def test_the_mask_of_a_survey_keeps_its_file(self, tmp_path, make_segy):
        path, values = make_segy()
        source = open_survey(SurveyPaths(path))
        probs = np.linspace(0, 1, values.size, dtype=np.float32).reshape(values.shape)
        (tmp_path / "mask.sgy").write_bytes(survey_segy(source, probs, 0.5))
        found = open_volume(tmp_path / "mask.sgy")["amplitude"].to_numpy()
        np.testing.assert_array_equal(found > 0.5, probs > 0.5)

    def test_a_survey_too_large_for_a_browser_is_told(self, make_segy, monkeypatch):
        source = open_survey(SurveyPaths(make_segy()[0]))
        monkeypatch.setattr("diapir.serve.viewer.download._MOST_BYTES", 1000)
        with pytest.raises(DataError, match=r"MB(.|\n)*mask\.sgy"):
            survey_segy(source, np.zeros((6, 7, 30), np.float32), 0.5)

    @pytest.mark.parametrize("stated", ["by the survey", "by headers"])
    def test_coordinates_in_feet_stay_so(self, tmp_path, make_segy, stated):
        volume = open_volume(make_segy()[0])
        if stated == "by the survey":
            volume["cdp_x"].attrs["units"] = "ft"
        else:
            facts = json.loads(volume.attrs["segy"]) | {"measurement": "ft"}
            volume.attrs["segy"] = json.dumps(facts)
        source = SurveySource("a", volume, SurveyPaths(tmp_path / "a.sgy"))
        (tmp_path / "mask.sgy").write_bytes(
            section_segy(np.ones((7, 30), bool), source, "inline", 2)
        )
        assert segy_facts(open_volume(tmp_path / "mask.sgy"))["measurement"] == "ft"

    def test_what_has_no_traces_is_told(self, tmp_path, make_segy):
        source = open_survey(SurveyPaths(make_segy()[0]))
        with pytest.raises(DataError, match="slice"):
            section_segy(np.zeros((7, 6), bool), source, "slice", 0)
        np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.float32))
        array = open_survey(SurveyPaths(tmp_path / "a.npy"))
        with pytest.raises(DataError, match="SEG-Y"):
            survey_segy(array, np.zeros((4, 5, 6)), 0.5)


def test_a_port_that_is_taken_is_told(tmp_path):
    import socket

    from diapir.serve.viewer.server import run_viewer

    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    library = open_library([tmp_path / "a.png"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError):
            run_viewer(library, port=taken.getsockname()[1], ready=print)


def test_the_benchmark_steps_through_a_survey(tmp_path):
    path = Path(__file__).parents[1] / "benchmarks" / "viewer.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_viewer", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    store, salt = benchmark.draw(tmp_path, 24)
    for direction in ("inline", "slice"):
        row = benchmark.measure(store, salt, direction, ["fill", "outline"], 2)
        assert row["steps_a_second"] > 0
        assert row["layers"] == "amplitudes, salt, outline"
