import hashlib
import shutil
import subprocess
import sys
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diapir.errors import DataError
from diapir.io import stack as stack_module
from diapir.io.images import encode_png
from diapir.io.layout import find_images, has_part, present_parts
from diapir.io.rle import encode_rle
from diapir.io.tiles import Tiles, read_outline, read_tiles

RNG = np.random.default_rng(0)
IDS = ("0f", "a-1", "a1", "zz")
IMAGES = RNG.integers(0, 256, (4, 6, 9), dtype=np.uint8)
IMAGES[2] = 255
MASKS = (RNG.random((4, 6, 9)) < 0.4).astype(np.uint8)
MASKS[2] = 0
DEPTHS = np.array([300, 51.5, 959, 300], dtype=np.float32)


def png(array):
    stream = BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def image_files(folder="", encode=png):
    # The last comes first, so that sorting has something to do.
    return {f"{folder}{id_}.png": encode(image) for id_, image in zip(IDS, IMAGES, strict=True)}


def mask_files(folder="", encode=lambda mask: png(mask.astype(np.uint16) * 65535)):
    return {f"{folder}{id_}.png": encode(mask) for id_, mask in zip(IDS, MASKS, strict=True)}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as packed:
        warnings.simplefilter("ignore")  # names given twice on purpose
        for name, content in files.items() if isinstance(files, dict) else files:
            packed.writestr(name, content)
    return path.parent


def rle_table(ids=IDS, masks=MASKS):
    rows = [f"{id_},{encode_rle(mask)}" for id_, mask in zip(ids, masks, strict=True)]
    return "\n".join(["id,rle_mask", *reversed(rows), ""])


def depth_table():
    rows = [f"{id_},{z}" for id_, z in zip(IDS, DEPTHS, strict=True)]
    return "\n".join(["id,z", "elsewhere,1", *rows, ""])


def labelled(folder=""):
    return image_files(f"{folder}images/") | mask_files(f"{folder}masks/")


def check(tiles, *, masks=True, depths=False):
    assert tiles.ids == IDS
    np.testing.assert_array_equal(tiles.images, IMAGES)
    assert tiles.images.dtype == np.uint8
    if masks:
        np.testing.assert_array_equal(tiles.masks, MASKS)
        assert tiles.masks.dtype == np.uint8
    else:
        assert tiles.masks is None
    if depths:
        np.testing.assert_array_equal(tiles.z_feet, DEPTHS)
        assert tiles.z_feet.dtype == np.float32
    else:
        assert tiles.z_feet is None


# Layouts


def zipped_competition(root):
    pack(root / "train.zip", labelled())
    pack(root / "test.zip", image_files("images/"))
    return root


def unzipped_competition(root):
    return write(root, labelled("train/") | image_files("test/images/"))


LABELLED = {
    "zips": zipped_competition,
    "unzipped": unzipped_competition,
    "zip with a leading train/": lambda root: pack(root / "train.zip", labelled("train/")),
    "plain folders": lambda root: write(root, labelled()),
    "folders before zips": lambda root: write(
        pack(root / "train.zip", {"images/other.png": b"wrong"}), labelled("train/")
    ),
    "a zip beside a folder without images": lambda root: write(
        pack(root / "train.zip", labelled()), {"train/images/.keep": b""}
    ),
    "a zip of any name": lambda root: pack(root / "my.zip", labelled()) / "my.zip",
    "upper-case suffix": lambda root: write(
        root, {name.replace(".png", ".PNG"): data for name, data in labelled().items()}
    ),
    "RLE beside a zip": lambda root: write(
        pack(root / "train.zip", image_files("images/")), {"train.csv": rle_table()}
    ),
    "RLE beside unzipped": lambda root: write(
        root, image_files("train/images/") | {"train.csv": rle_table()}
    ),
    "RLE beside images/": lambda root: write(
        root, image_files("images/") | {"train.csv": rle_table()}
    ),
    "RLE and an empty masks/": lambda root: write(
        root,
        image_files("images/") | {"masks/readme.txt": "none yet", "train.csv": rle_table()},
    ),
    "RLE for more tiles than there are": lambda root: write(
        root,
        image_files("images/") | {"train.csv": rle_table() + "elsewhere,not read\n"},
    ),
    "zips in one more folder": lambda root: zipped_competition(root / "tgs").parent,
    "masks before RLE": lambda root: write(root, labelled() | {"train.csv": "wrong"}),
}
UNLABELLED = {
    "zips": zipped_competition,
    "unzipped": unzipped_competition,
    "zip with a leading test/images/": lambda root: pack(
        root / "test.zip", image_files("test/images/")
    ),
    "zip with a leading test/": lambda root: pack(root / "test.zip", image_files("test/")),
    "images in test/": lambda root: write(root, image_files("test/")),
    "images/ beside the table of train.zip": lambda root: write(
        pack(root / "train.zip", labelled()),
        image_files("images/") | {"train.csv": rle_table()},
    ),
    "images/ without masks/": lambda root: write(root, image_files("images/")),
    "a folder of images": lambda root: write(root, image_files() | {"notes.txt": "mine"}),
    "a zip of images": lambda root: pack(root / "my.zip", image_files()) / "my.zip",
    "a zip of images/": lambda root: pack(root / "my.zip", image_files("images/")) / "my.zip",
    "a zip of images/ and a table": lambda root: (
        pack(root / "my.zip", image_files("images/") | {"train.csv": rle_table()}) / "my.zip"
    ),
    "zips in one more folder": lambda root: zipped_competition(root / "tgs").parent,
}


@pytest.mark.parametrize("layout", LABELLED)
def test_labelled_layouts(tmp_path, layout):
    check(read_tiles(LABELLED[layout](tmp_path), "train"))


@pytest.mark.parametrize("layout", UNLABELLED)
def test_unlabelled_layouts(tmp_path, layout):
    check(read_tiles(UNLABELLED[layout](tmp_path), "test"), masks=False)


@pytest.mark.parametrize("write_layout", [zipped_competition, unzipped_competition])
@pytest.mark.parametrize("part", ["train", "test"])
def test_depths_beside_the_data(tmp_path, write_layout, part):
    write(write_layout(tmp_path), {"depths.csv": depth_table()})
    check(read_tiles(tmp_path, part), masks=part == "train", depths=True)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_all_in_one_more_folder(tmp_path, packed, part):
    inside = labelled("mine/") if part == "train" else image_files("mine/")
    files = inside | {"mine/depths.csv": depth_table(), "__MACOSX/mine/._a.png": b"", "a.txt": ""}
    root = pack(tmp_path / "mine.zip", files) / "mine.zip" if packed else write(tmp_path, files)
    check(read_tiles(root, part), masks=part == "train", depths=not packed)


def test_the_folder_of_the_other_part_is_no_folder_around_all(tmp_path):
    write(tmp_path, image_files("train/images/") | {"train.csv": rle_table()})
    assert not has_part(tmp_path, "test")


def test_the_test_part_beside_a_table_of_other_tiles_has_no_labels(tmp_path):
    write(zipped_competition(tmp_path), {"train.csv": "id,rle_mask\nelsewhere,1 1\n"})
    assert present_parts(tmp_path / "test.zip") == ["test"]
    write(tmp_path, {"train.csv": rle_table()})
    assert present_parts(tmp_path / "test.zip") == ["train"]


def test_a_folder_of_figures_beside_the_data_is_no_test_part(tmp_path):
    write(zipped_competition(tmp_path), {"described/samples.png": png(IMAGES[0])})
    assert has_part(tmp_path, "test")
    (tmp_path / "test.zip").unlink()
    assert present_parts(tmp_path) == ["train"]


def test_images_to_predict_are_those_of_the_test_part(tmp_path):
    with (found := find_images(zipped_competition(tmp_path))).source:
        assert tuple(found.images) == IDS
        assert found.source.path == tmp_path / "test.zip"


@pytest.mark.parametrize("top", ["", "mine/"])
def test_images_to_predict_may_have_masks(tmp_path, top):
    with find_images(write(tmp_path, labelled(top))).source as source:
        assert source.names(f"{top}images") == [f"{top}images/{id_}.png" for id_ in IDS]
    with pytest.raises(DataError, match="no images") as caught:
        find_images(write(tmp_path / "none", {"readme.txt": ""}))
    assert caught.value.expected.startswith("a PNG file, or a folder or zip of them")


def test_one_image(tmp_path):
    write(tmp_path, image_files())
    tiles = read_tiles(tmp_path / "zz.png", "test")
    assert tiles.ids == ("zz",)
    np.testing.assert_array_equal(tiles.images, IMAGES[3:])


@pytest.mark.parametrize(
    "encode",
    [
        lambda image: png(np.stack([image] * 3, axis=-1)),
        lambda image: png(image.astype(np.uint16) * 257),
    ],
    ids=["rgb", "16-bit"],
)
def test_images_of_other_kinds(tmp_path, encode):
    write(tmp_path, image_files("images/", encode) | mask_files("masks/"))
    check(read_tiles(tmp_path, "train"))


@pytest.mark.parametrize(
    "encode",
    [
        lambda mask: png(mask == 1),
        png,
        lambda mask: png(mask * 255),
        lambda mask: png(np.stack([mask * 255] * 3, axis=-1)),
    ],
    ids=["1-bit", "8-bit 0/1", "8-bit 0/255", "rgb"],
)
def test_masks_of_other_kinds(tmp_path, encode):
    write(tmp_path, image_files("images/") | mask_files("masks/", encode))
    check(read_tiles(tmp_path, "train"))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (256, 64)])
def test_tiles_of_any_one_size(tmp_path, size):
    image = RNG.integers(0, 256, size, dtype=np.uint8)
    write(tmp_path, {"images/a.png": png(image), "masks/a.png": png(image // 128)})
    tiles = read_tiles(tmp_path, "train")
    np.testing.assert_array_equal(tiles.images[0], image)
    np.testing.assert_array_equal(tiles.masks[0], image // 128)


def test_tiles_are_sorted_by_id_whatever_the_files_are_called(tmp_path):
    # By file name "a-1.png" would come before "a.png".
    files = {"a": 1, "a-1": 2, "b": 3}
    write(
        tmp_path,
        {f"images/{id_}.png": png(np.full((2, 2), v, np.uint8)) for id_, v in files.items()},
    )
    (tmp_path / "images" / "b.png").rename(tmp_path / "images" / "b.PNG")
    write(
        tmp_path,
        {f"masks/{id_}.png": png(np.full((2, 2), v % 2, np.uint8)) for id_, v in files.items()},
    )
    tiles = read_tiles(tmp_path, "train")
    assert tiles.ids == ("a", "a-1", "b")
    assert tiles.images[:, 0, 0].tolist() == [1, 2, 3]
    assert tiles.masks[:, 0, 0].tolist() == [1, 0, 1]


def test_more_tiles_than_one_task_takes(tmp_path):
    n = 3 * stack_module._FILES_PER_TASK + 5
    values = {f"{i:04}": np.full((2, 2), i % 251, dtype=np.uint8) for i in range(n)}
    pack(tmp_path / "test.zip", {f"images/{id_}.png": png(v) for id_, v in values.items()})
    tiles = read_tiles(tmp_path, "test")
    assert tiles.ids == tuple(values)
    np.testing.assert_array_equal(tiles.images, np.stack(list(values.values())))


def test_reading_writes_nothing(tmp_path):
    zipped_competition(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    read_tiles(tmp_path, "train")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_progress_bar_goes_to_standard_error(tmp_path, capsys):
    write(tmp_path, labelled())
    read_tiles(tmp_path, "train", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading train" in captured.err
    assert "8/8" in captured.err
    read_tiles(tmp_path, "train")
    assert capsys.readouterr().err == ""


def test_no_torch_comes_in():
    code = "import sys, diapir.io.tiles; print('torch' in sys.modules, 'rich' in sys.modules)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"


# Bad input: one error each, which names the place and the mend


def break_mask_missing(root):
    (root / "masks" / "a1.png").unlink()


def break_masks_all_missing(root):
    shutil.rmtree(root / "masks")


def break_mask_without_image(root):
    write(root, {"masks/extra.png": png(MASKS[0])})


def break_image_size(root):
    write(root, {"images/a1.png": png(IMAGES[0, :5])})


def break_mask_size(root):
    write(root, {"masks/a1.png": png(MASKS[0, :, :8])})


def break_all_mask_sizes(root):
    write(root, mask_files("masks/", lambda mask: png(np.ascontiguousarray(mask.T))))


def break_image_truncated(root):
    content = (root / "images" / "a1.png").read_bytes()
    write(root, {"images/a1.png": content[: len(content) // 2]})


def break_image_is_text(root):
    write(root, {"images/a1.png": "not an image"})


def break_image_is_empty(root):
    write(root, {"images/0f.png": b""})


def break_mask_truncated(root):
    write(root, {"masks/a1.png": (root / "masks" / "a1.png").read_bytes()[:-20]})


def break_mask_not_binary(root):
    write(root, {"masks/a1.png": png(IMAGES[0])})


def break_duplicate_image(root):
    write(root, {"images/a1.PNG": png(IMAGES[0])})


def break_depth_missing(root):
    write(root, {"depths.csv": depth_table().replace("a1,", "a2,")})


def break_depth_duplicate(root):
    write(root, {"depths.csv": depth_table() + "a1,3\n"})


def break_depth_not_a_number(root):
    write(root, {"depths.csv": depth_table().replace("a1,959.0", "a1,deep")})


def break_empty_folder(root):
    shutil.rmtree(root / "images")
    (root / "images").mkdir()


def break_other_formats(root):
    for path in (root / "images").iterdir():
        path.rename(path.with_suffix(".jpg"))


@pytest.mark.parametrize(
    ("breaks", "what", "where", "mend"),
    [
        (break_mask_missing, "missing masks: 1 image without mask: a1", "masks", "Add the masks"),
        (break_masks_all_missing, "neither mask files nor train.csv", "", "Add the masks"),
        (break_mask_without_image, "1 mask without image: extra", "masks", "Add the images"),
        (break_image_size, "sizes differ: this file is 9 x 5", "images/a1.png", "one size"),
        (break_mask_size, "sizes differ: this file is 8 x 6", "masks/a1.png", "one size"),
        (break_all_mask_sizes, "sizes differ: this file is 6 x 9", "masks/0f.png", "one size"),
        (break_image_truncated, "truncated", "images/a1.png", "again"),
        (break_image_is_text, "not a PNG file", "images/a1.png", "again"),
        (break_image_is_empty, "the file is empty", "images/0f.png", "again"),
        (break_mask_truncated, "truncated", "masks/a1.png", "again"),
        (break_mask_not_binary, "not binary", "masks/a1.png", "Save the mask"),
        (break_duplicate_image, "duplicate id 'a1'", "images/a1.PNG and a1.png", "Remove one"),
        (break_depth_missing, "1 id without depth: a1", "depths.csv", "Add the rows"),
        (break_depth_duplicate, "duplicate id 'a1'", "depths.csv rows 5 and 7", "Remove one"),
        (break_depth_not_a_number, "is 'deep'", "depths.csv row 5", "Correct the row"),
        (break_empty_folder, "no train images", "", "Check the path"),
        (break_other_formats, "such as images/0f.jpg", "", "must be PNG"),
    ],
)
def test_bad_files(tmp_path, breaks, what, where, mend):
    write(tmp_path, labelled() | {"depths.csv": depth_table()})
    check(read_tiles(tmp_path, "train"), depths=True)
    breaks(tmp_path)
    with pytest.raises(DataError) as caught:
        read_tiles(tmp_path, "train")
    assert what in caught.value.what
    assert caught.value.where == str(tmp_path / where)
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a1,1 2 3", "odd count"),
        ("a1,1 5 3 2", "overlaps"),
        ("a1,54 2", "out of range 1..54 of a 9 x 6 image"),
        ("a1,9 1 3 1", "not sorted"),
        ("a1,1 2.5", "not a whole number"),
        ("a1,7 0", "length 0"),
    ],
)
def test_bad_run_lengths(tmp_path, row, complaint):
    lines = [row if line.startswith("a1,") else line for line in rle_table().splitlines()]
    write(tmp_path, image_files("images/") | {"train.csv": "\n".join(lines)})
    with pytest.raises(DataError) as caught:
        read_tiles(tmp_path, "train")
    assert complaint in caught.value.what
    assert caught.value.where == f"{tmp_path / 'train.csv'} row 3 (id a1)"


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (lambda table: table.replace("a1,", "a2,"), "missing masks: 1 image without", ""),
        (lambda table: table + "a1,\n", "duplicate id 'a1'", " rows 3 and 6"),
        (lambda table: table.replace("rle_mask", "mask"), "the header is 'id,mask'", " row 1"),
        (lambda table: "", "no header", " row 1"),
    ],
)
def test_bad_mask_tables(tmp_path, change, what, where):
    write(tmp_path, image_files("images/") | {"train.csv": change(rle_table())})
    with pytest.raises(DataError) as caught:
        read_tiles(tmp_path, "train")
    assert what in caught.value.what
    assert caught.value.where == str(tmp_path / "train.csv") + where


@pytest.mark.skipif(sys.platform != "linux", reason="others take no such names")
def test_a_name_that_is_no_text(tmp_path):
    write(tmp_path, {"images/\udcff.png": b"", "images/sé.png": b""})
    with pytest.raises(DataError, match=r"'\\udcff.png' is not in UTF-8"):
        read_tiles(tmp_path, "test")


def test_an_id_twice_in_a_zip(tmp_path):
    pack(tmp_path / "train.zip", [*labelled().items(), ("images/a1.png", png(IMAGES[0]))])
    with pytest.raises(DataError, match="duplicate id 'a1'") as caught:
        read_tiles(tmp_path, "train")
    assert caught.value.where == f"{tmp_path}/train.zip/images/a1.png and a1.png"


@pytest.mark.parametrize(
    ("content", "what"), [(b"not a zip", "cannot open the zip"), (b"", "cannot open the zip")]
)
def test_a_broken_zip(tmp_path, content, what):
    write(tmp_path, {"train.zip": content})
    with pytest.raises(DataError, match=what):
        read_tiles(tmp_path, "train")


def test_a_zip_cut_short(tmp_path):
    zipped_competition(tmp_path)
    content = (tmp_path / "train.zip").read_bytes()
    write(tmp_path, {"train.zip": content[: len(content) * 2 // 3]})
    with pytest.raises(DataError, match="cannot open the zip"):
        read_tiles(tmp_path, "train")


@pytest.mark.parametrize("part", ["train", "test"])
def test_nothing_there(tmp_path, part):
    with pytest.raises(DataError, match="no such folder or file"):
        read_tiles(tmp_path / "nothing", part)
    with pytest.raises(DataError, match=f"no {part} images") as caught:
        read_tiles(tmp_path, part)
    assert f"{part}.zip" in caught.value.expected


@pytest.mark.parametrize(
    "files", [labelled(), image_files("images/") | {"train.csv": rle_table()}], ids=["masks", "RLE"]
)
def test_labelled_images_are_not_taken_for_the_test_part(tmp_path, files):
    write(tmp_path, files)
    with pytest.raises(DataError, match="no test images"):
        read_tiles(tmp_path, "test")
    assert has_part(tmp_path, "train")
    assert not has_part(tmp_path, "test")


@pytest.mark.parametrize("spoil", ["cut short", "an id twice"])
def test_a_part_that_cannot_be_read_is_not_taken_for_none(tmp_path, spoil):
    zipped_competition(tmp_path)
    if spoil == "cut short":
        packed = tmp_path / "test.zip"
        packed.write_bytes(packed.read_bytes()[:-40])
    else:
        write(tmp_path, {"test/a.png": b"", "test/a.PNG": b""})
    with pytest.raises(DataError, match=r"cannot open the zip|duplicate id"):
        has_part(tmp_path, "test")


def test_a_place_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match="cannot read: Permission denied"):
        read_tiles(tmp_path, "train")


def test_too_many_pixels_for_the_memory(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise MemoryError

    write(tmp_path, labelled())
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(DataError, match=r"4 images of 9 x 6 pixels need 0\.0 GB"):
        read_tiles(tmp_path, "train")


def test_of_several_bad_files_the_first_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stack_module, "_FILES_PER_TASK", 1)
    write(tmp_path, image_files() | {f"{id_}.png": "bad" for id_ in IDS[1:]})
    for _ in range(5):
        with pytest.raises(DataError) as caught:
            read_tiles(tmp_path, "test")
        assert caught.value.where == str(tmp_path / "a-1.png")


def test_tables_are_checked_before_any_image_is_decoded(tmp_path):
    write(tmp_path, labelled() | {"images/0f.png": b"bad", "depths.csv": "id,z\n"})
    with pytest.raises(DataError, match="4 ids without depth: 0f, a-1, a1 and 1 more"):
        read_tiles(tmp_path, "train")


# Tiles


@pytest.fixture
def tiles():
    return Tiles(IDS, IMAGES.copy(), MASKS.copy(), DEPTHS.copy(), source="here")


def test_the_outline_needs_but_one_header(tmp_path):
    (tmp_path / "images").mkdir()
    whole = encode_png(np.zeros((20, 30), np.uint8))
    for name, data in {"a": b"", "b": whole[:40], "c": b"no picture"}.items():
        (tmp_path / "images" / f"{name}.png").write_bytes(data)
    (tmp_path / "depths.csv").write_text("no table")
    assert read_outline(tmp_path, "test")[:2] == (("a", "b", "c"), (20, 30))
    (tmp_path / "images" / "b.png").write_bytes(whole[:20])
    with pytest.raises(DataError, match=r"not a PNG(.|\n)*a\.png"):
        read_outline(tmp_path, "test")


def test_length_coverage_and_blank(tiles):
    assert len(tiles) == 4
    expected = [mask.mean() for mask in MASKS]
    np.testing.assert_allclose(tiles.coverage, expected, rtol=1e-6)
    assert tiles.coverage.dtype == np.float32
    np.testing.assert_array_equal(tiles.blank, [False, False, True, False])


def test_a_nearly_constant_image_is_not_blank(tiles):
    tiles.images[2, -1, -1] = 254
    assert not tiles.blank.any()


def test_coverage_needs_masks(tiles):
    unlabelled = Tiles(IDS, tiles.images, None, None, "here")
    with pytest.raises(DataError, match="no masks"):
        _ = unlabelled.coverage


def test_subset_keeps_the_order_given_and_copies(tiles):
    part = tiles.subset([3, 1])
    assert part.ids == ("zz", "a-1")
    np.testing.assert_array_equal(part.images, IMAGES[[3, 1]])
    np.testing.assert_array_equal(part.masks, MASKS[[3, 1]])
    np.testing.assert_array_equal(part.z_feet, DEPTHS[[3, 1]])
    assert part.source == "here"
    part.images[:] = 0
    np.testing.assert_array_equal(tiles.images, IMAGES)


def test_subset_by_bool(tiles):
    assert tiles.subset(tiles.blank).ids == ("a1",)
    assert tiles.subset([False, True, True, False]).ids == ("a-1", "a1")
    with pytest.raises(IndexError):
        tiles.subset([4])


def test_subset_of_nothing(tiles):
    none = tiles.subset([])
    assert len(none) == 0
    assert none.images.shape == (0, 6, 9)
    assert none.coverage.shape == none.blank.shape == (0,)
    assert none.fingerprint()


def test_subset_without_masks_and_depths(tiles):
    part = Tiles(IDS, tiles.images, None, None, "here").subset(np.array([2]))
    assert part.masks is None
    assert part.z_feet is None


def test_select_by_id(tiles):
    assert tiles.select(iter(["zz", "0f"])).ids == ("zz", "0f")
    with pytest.raises(DataError, match="2 tiles not in the data: x, y") as caught:
        tiles.select(["x", "zz", "y"])
    assert caught.value.where == "here"


def test_the_fingerprint_is_a_sha256_that_depends_on_everything(tiles):
    base = tiles.fingerprint()
    assert len(base) == len(hashlib.sha256().hexdigest())
    images, masks = IMAGES.copy(), MASKS.copy()
    images[3, 5, 8] ^= 1
    masks[3, 5, 8] ^= 1
    others = [
        Tiles(IDS, images, MASKS, DEPTHS, "here"),
        Tiles(IDS, IMAGES, masks, DEPTHS, "here"),
        Tiles(IDS, IMAGES, None, DEPTHS, "here"),
        Tiles(("0f", "a-1", "a1", "z"), IMAGES, MASKS, DEPTHS, "here"),
        Tiles(IDS, IMAGES.reshape(4, 9, 6), MASKS.reshape(4, 9, 6), DEPTHS, "here"),
        tiles.subset([1, 0, 2, 3]),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 7
    assert Tiles(IDS, IMAGES, MASKS, None, "there").fingerprint() == base
    strided = Tiles(IDS, np.asfortranarray(IMAGES), np.asfortranarray(MASKS), None, "here")
    assert strided.fingerprint() == base


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ids": ("a", "b", "c", "a")}, "ids repeat"),
        ({"ids": ("a", "b")}, r"images must be \(2, H, W\) uint8, found \(4, 6, 9\) uint8"),
        ({"images": IMAGES / 255}, "images must be"),
        ({"images": IMAGES[..., None]}, "images must be"),
        ({"masks": MASKS[:, :5]}, "masks must be as the images"),
        ({"masks": MASKS == 1}, "masks must be as the images"),
        ({"z_feet": DEPTHS[:2]}, r"z_feet must be \(4,\) float32"),
        ({"z_feet": DEPTHS.astype(np.float64)}, "z_feet must be"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, complaint):
    parts = {"ids": IDS, "images": IMAGES, "masks": MASKS, "z_feet": DEPTHS, "source": "here"}
    with pytest.raises(ValueError, match=complaint):
        Tiles(**(parts | change))
