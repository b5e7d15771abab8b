"""Sections as strangers send them: PNG, TIFF and .npy, sound, odd and hostile."""

import pickle
import struct
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diapir.errors import DataError
from diapir.io.images import MAX_PIXELS, encode_png
from diapir.io.opening import open_volume
from diapir.io.sections import read_section

GREY = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5) * 7


def tiff(array, **how):
    stream = BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, "TIFF", **how)
    return stream.getvalue()


def npy(array, **how):
    stream = BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


def npy_header(text, version=1, rest=b""):
    """A .npy file with a header of one's own."""
    text = text.encode().ljust(117) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + rest


def test_png_is_a_picture():
    section = read_section(encode_png(GREY), "x")
    assert section.is_picture
    assert np.array_equal(section.values, GREY)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_grey_tiff_is_a_picture(compression):
    section = read_section(tiff(GREY, compression=compression), "x")
    assert section.is_picture
    assert section.values.dtype == np.uint8
    assert np.array_equal(section.values, GREY)


def test_wide_tiff_is_scaled_by_its_full_range():
    wide = GREY.astype(np.uint16) * 257
    assert np.array_equal(read_section(tiff(wide), "x").values, GREY)
    assert np.array_equal(
        read_section(tiff(wide), "x").values, read_section(encode_png(wide), "x").values
    )


def test_black_and_white_and_coloured_tiff():
    two = GREY > 100
    assert np.array_equal(read_section(tiff(Image.fromarray(two)), "x").values, two * 255)
    colour = Image.fromarray(np.stack([GREY] * 3, axis=-1))
    assert np.array_equal(read_section(tiff(colour), "x").values, GREY)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_of_amplitudes(dtype):
    values = (GREY.astype(dtype) - 100) * 3
    section = read_section(tiff(values), "x")
    assert not section.is_picture
    assert section.values.dtype == np.float32
    assert np.array_equal(section.values, values)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<i2", ">i4", "u1", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_number(dtype, order):
    values = np.asarray(GREY.astype(dtype), order=order)
    section = read_section(npy(values), "x")
    assert not section.is_picture
    assert section.values.dtype == np.float32
    assert np.array_equal(section.values, GREY)


def test_numbers_beyond_float32_do_not_warn():
    found = read_section(npy(np.array([[1e300, 1.0]])), "x").values
    assert np.isinf(found[0, 0])


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
BAD_ARRAYS = {
    "pickle": npy(np.array([[Evil()]], object), allow_pickle=True),
    "bare pickle": pickle.dumps(Evil()),
    "complex": npy(GREY.astype(complex)),
    "text": npy(np.array([["a"]])),
    "one axis": npy(GREY[0]),
    "three axes": npy(GREY[None]),
    "no pixels": npy(GREY[:0]),
    "records": npy(np.zeros((2, 2), [("a", "f4")])),
    "cut off": npy(GREY)[:-1],
    "too long": npy(GREY) + b"x",
    "huge": npy_header(HUGE % "100000, 100000"),
    "overflowing": npy_header(HUGE % f"{2**63}, {2**63}"),
    "negative": npy_header(HUGE % "-3, -3", rest=b"x" * 36),
    "code": npy_header("__import__('os').abort()"),
    "no dictionary": npy_header("[]"),
    "nested": npy_header("(" * 100),
    "long header": b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 30) + b" " * 100,
    "version 9": b"\x93NUMPY\x09\0" + b" " * 100,
    "magic alone": b"\x93NUMPY",
    "zip of arrays": b"PK\x03\x04" + b" " * 100,
    "nothing": b"",
    "script": b"#!/bin/sh",
    "picture of another kind": b"GIF89a" + b" " * 100,
}


@pytest.mark.parametrize("data", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_files_are_refused_and_cost_nothing(data):
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_section(data, "the request")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert caught.value.where == "the request"
    assert caught.value.mend


@pytest.mark.parametrize("name", sorted(BAD_ARRAYS.keys() - {"three axes", "too long"}))
def test_bad_arrays_are_no_surveys_either(name, tmp_path):
    (tmp_path / "survey.npy").write_bytes(BAD_ARRAYS[name])
    with pytest.raises(DataError) as caught:
        open_volume(tmp_path / "survey.npy")
    assert caught.value.where == str(tmp_path / "survey.npy")


def changed(data, tag, value):
    """A little-endian TIFF with the value of one tag replaced."""
    data = bytearray(data)
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    for place in range(offset + 2, offset + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<HII", data, place + 2, 4, 1, value)
            return bytes(data)
    raise AssertionError(f"no tag {tag}")


def handmade(*extra):
    """A TIFF of 4 x 4 grey values with more tags."""
    tags = [(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (277, 1), *extra]
    after = 10 + 12 * len(tags) + 4
    tags = sorted([*tags, (324, after), (325, 16)])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4 + 64)


MANY = BytesIO()
Image.fromarray(GREY).save(MANY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)])
BAD_TIFFS = {
    "many": (MANY.getvalue(), "several pictures"),
    "jpeg": (tiff(GREY, compression="jpeg"), "compression has the code 7"),
    "white is zero": (changed(tiff(GREY.astype(np.float32)), 262, 0), "black is not 0"),
    "huge": (changed(tiff(GREY), 256, 100_000_000), "pixels"),
    "no width": (changed(tiff(GREY), 256, 0), "make no picture"),
    "cut off": (tiff(GREY)[:-20], "cannot be decoded"),
    "head alone": (b"II*\0", "make no picture"),
    "loop": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "make no picture"),
    "whole numbers": (changed(tiff(GREY.astype(np.int32)), 339, 1), "whole numbers of 32 bits"),
    "signed": (handmade((322, 16), (323, 16), (339, 2)), "signed numbers of 8 bits"),
    "tiles": (handmade((322, 60_000), (323, 60_000)), "tiles have 3,600,000,000 pixels"),
}


@pytest.mark.parametrize(("data", "complaint"), BAD_TIFFS.values(), ids=BAD_TIFFS)
def test_bad_tiffs_are_refused(data, complaint):
    with pytest.raises(DataError) as caught:
        read_section(data, "x")
    assert complaint in str(caught.value)


def test_the_largest_is_taken_and_one_more_is_not():
    side = 4096
    assert side * side == MAX_PIXELS
    assert read_section(npy(np.zeros((side, side), np.int8)), "x").values.shape == (side, side)
    with pytest.raises(DataError, match="4096 x 4097"):
        read_section(npy(np.zeros((side + 1, side), np.int8)), "x")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from([b"\x89PNG", b"II*\0", b"MM\0*", b"\x93NUMPY\x01\0"]), st.binary())
def test_noise_ends_in_the_one_error(magic, noise):
    with pytest.raises(DataError):
        read_section(magic + noise, "x")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([tiff(GREY), npy(GREY)]))
def test_a_changed_byte_is_read_or_refused(place, value, data):
    data = bytearray(data)
    data[place % len(data)] = value
    try:
        section = read_section(bytes(data), "x")
    except DataError:
        return
    assert section.values.dtype in (np.uint8, np.float32)
    assert section.values.ndim == 2
