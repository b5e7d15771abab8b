import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diapir.errors import DataError
from diapir.io.images import (
    MAX_PIXELS,
    encode_mask_png,
    encode_png,
    read_grey,
    read_mask,
    write_mask_png,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
MASK = RNG.integers(0, 2, (5, 7), dtype=np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(image, **options):
    """Encode by Pillow alone, so that our own encoder does not test our own decoder."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, bits, colour_type, pixels):
    """Encode what Pillow cannot write, such as 16-bit colour; `pixels` are unfiltered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in pixels)
    return (
        SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def palette_png(indices, colours, **options):
    image = Image.fromarray(indices, "L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return png(image, **options)


# Images


@pytest.mark.parametrize(
    "data",
    [
        png(GREY),
        png(np.stack([GREY] * 3, axis=-1)),
        png(Image.fromarray(GREY).convert("RGBA")),
        png(Image.fromarray(GREY).convert("LA")),
        png(GREY.astype(np.uint16) * 257),
        palette_png(GREY, [(v, v, v) for v in range(256)]),
        palette_png(GREY, [(v, v, v) for v in range(256)], transparency=b"\x80" * 256),
    ],
    ids=["grey", "rgb", "rgba", "grey+alpha", "16-bit", "palette", "palette+alpha"],
)
def test_every_kind_of_png_gives_the_same_grey(data):
    grey = read_grey(data, "a.png")
    np.testing.assert_array_equal(grey, GREY)
    assert grey.dtype == np.uint8
    assert grey.flags.writeable


def test_equal_channels_keep_all_256_values():
    ramp = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(read_grey(png(np.stack([ramp] * 3, axis=-1)), "a"), ramp)


def test_16_bit_images_are_scaled_to_the_nearest_grey():
    wide = np.array([[0, 128, 129, 32767, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(read_grey(png(wide), "a"), [[0, 0, 1, 127, 255]])


def test_1_bit_images_are_black_and_white():
    np.testing.assert_array_equal(read_grey(png(Image.fromarray(MASK == 1)), "a"), MASK * 255)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_encoding_loses_nothing(image):
    np.testing.assert_array_equal(read_grey(encode_png(image), "a"), image)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the file is empty"),
        (b"not an image", "not a PNG file"),
        (b"\xff\xd8\xff\xe0 JPEG", "not a PNG file"),
        (SIGNATURE, "truncated: it ends at byte 8"),
        (SIGNATURE + chunk(b"IEND", b""), "has no header"),
        (SIGNATURE + chunk(b"IHDR", b"short"), "has no header"),
        (raw_png(4, 1, 8, 0, [b"abc"]), "cannot be decoded"),
        (raw_png(4, 1, 8, 5, [b"abcd"]), "cannot be decoded"),
        (raw_png(4, 1, 7, 0, [b"abcd"]), "cannot be decoded"),
        (raw_png(0, 5, 8, 0, []), "0 x 5 pixels"),
        (png(GREY).replace(b"IDAT", b"iDAT"), "wrong checksum at byte 33"),
    ],
)
@pytest.mark.parametrize("read", [read_grey, read_mask])
def test_unreadable_bytes_are_refused(read, data, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        read(data, "images/a.png")
    assert caught.value.where == "images/a.png"
    assert caught.value.mend


@pytest.mark.parametrize("length", range(1, len(png(GREY)) - 1, 5))
def test_a_png_cut_anywhere_is_refused(length):
    with pytest.raises(DataError, match=r"truncated|not a PNG"):
        read_grey(png(GREY)[:length], "a.png")


@given(st.data())
def test_a_png_with_any_byte_changed_is_refused(data):
    content = bytearray(png(GREY))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DataError):
        read_grey(bytes(content), "a.png")


@given(st.binary(max_size=40), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0, 2, 3, 4, 6]))
def test_pixels_of_any_length_are_read_or_refused(row, bits, colour_type):
    try:
        image = read_mask(raw_png(3, 2, bits, colour_type, [row, row]), "a.png")
    except DataError:
        return
    assert image.shape == (2, 3)
    assert image.max() <= 1


def test_large_images_are_refused_before_they_are_decoded(monkeypatch):
    def forbidden(*_arguments, **_options):
        raise AssertionError("the image was opened")

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(DataError, match="60000 x 60000 pixels") as caught:
        read_grey(raw_png(60_000, 60_000, 8, 0, []), "bomb.png")
    assert f"{MAX_PIXELS:,}" in caught.value.expected
    assert MAX_PIXELS == 4096 * 4096


def test_a_second_header_does_not_get_past_the_size_check():
    small = raw_png(1, 1, 8, 0, [b"a"])
    first = small[:33]
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
    with pytest.raises(DataError, match="two headers"):
        read_grey(first + second + small[33:], "bomb.png")


# Masks


@pytest.mark.parametrize(
    "data",
    [
        png(Image.fromarray(MASK == 1)),
        png(MASK),
        png(MASK * 255),
        png(MASK.astype(np.uint16)),
        png(MASK.astype(np.uint16) * 255),
        png(MASK.astype(np.uint16) * 65535),
        png(np.stack([MASK * 255] * 3, axis=-1)),
        png(Image.fromarray(MASK * 255).convert("RGBA")),
        png(Image.fromarray(MASK * 255).convert("LA")),
        palette_png(MASK, [(0, 0, 0), (255, 255, 255)]),
        palette_png(1 - MASK, [(255, 255, 255), (0, 0, 0)]),
        palette_png(MASK, [(0, 0, 0), (255, 255, 255)], transparency=b"\x00\xff"),
        encode_mask_png(MASK),
        encode_mask_png(MASK == 1, bits=16),
    ],
)
def test_every_kind_of_mask_is_read(data):
    mask = read_mask(data, "a.png")
    np.testing.assert_array_equal(mask, MASK)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
@pytest.mark.parametrize("fill", [0, 1])
def test_constant_masks_are_read(dtype, fill):
    top = {np.bool_: 1, np.uint8: 255, np.uint16: 65535}[dtype]
    mask = np.full((3, 4), fill * top, dtype=dtype)
    np.testing.assert_array_equal(read_mask(png(Image.fromarray(mask)), "a"), np.full((3, 4), fill))


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (np.array([[0, 128, 255]], np.uint8), "0, 128, 255"),
        (np.array([[0, 1, 255]], np.uint8), "0, 1, 255"),
        (np.array([[0, 7]], np.uint8), "0, 7"),
        (np.array([[7, 7]], np.uint8), "7"),
        (np.array([[0, 1, 65535]], np.uint16), "0, 1, 65535"),
        (np.arange(9, dtype=np.uint8)[None], "0, 1, 2, 3, 4, 5, ..."),
    ],
)
def test_a_mask_that_is_not_binary_is_refused_with_its_values(mask, values):
    with pytest.raises(DataError, match="not binary") as caught:
        read_mask(png(mask), "masks/a.png")
    assert caught.value.what.endswith(f"it holds {values}")
    assert caught.value.where == "masks/a.png"
    assert "grey PNG" in caught.value.mend


@pytest.mark.parametrize(
    "data",
    [
        png(np.stack([MASK * 255, MASK, MASK], axis=-1)),
        palette_png(MASK, [(0, 0, 0), (255, 0, 0)]),
    ],
)
def test_a_coloured_mask_is_refused(data):
    with pytest.raises(DataError, match="channels differ"):
        read_mask(data, "a.png")


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_masks_are_refused_rather_than_read_as_empty(colour_type, channels):
    data = raw_png(2, 1, 16, colour_type, [b"\x00\x01" * 2 * channels])
    with pytest.raises(DataError, match="16-bit colour"):
        read_mask(data, "a.png")


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
    st.sampled_from([8, 16]),
)
def test_masks_survive_the_round_trip(mask, bits):
    np.testing.assert_array_equal(read_mask(encode_mask_png(mask, bits=bits), "a"), mask)


@pytest.mark.parametrize(("bits", "top", "ihdr"), [(8, 255, 8), (16, 65535, 16)])
def test_masks_are_written_in_full_values(tmp_path, bits, top, ihdr):
    path = tmp_path / "a.png"
    write_mask_png(path, MASK * 3, bits=bits)
    assert path.read_bytes()[24] == ihdr
    assert np.asarray(Image.open(path)).max() == top
    np.testing.assert_array_equal(read_mask(path.read_bytes(), "a"), MASK)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2)), np.zeros((2, 2), bool), np.zeros((2, 2, 4), np.uint8)]
)
def test_only_grey_and_colour_are_encoded(array):
    with pytest.raises(ValueError, match="uint8 or uint16"):
        encode_png(array)
