"""Sections from the bytes of a PNG, TIFF or NumPy file, as strangers send them."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diapir.errors import DataError
from diapir.io.images import DECODER_ERRORS, MAX_PIXELS, check_size, read_grey, to_eight_bits

_PNG, _TIFF, _NPY = b"\x89PNG", (b"II*\0", b"MM\0*"), b"\x93NUMPY"
_HEADER_BYTES = 4096  # of a .npy file with two axes; NumPy itself writes 128
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 259, 262, 339
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# The plain ones. The others bring decoders of their own, or their loss shows as texture.
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_BLACK_IS_ZERO = 1
# What reading a Python literal lets through; TokenError: NumPy tries again as Python 2.
_LITERAL_ERRORS = (
    ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, TokenError,
)  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Section:
    """A section as it came.

    Args:
        values: (H, W), samples by traces: uint8 grey values, or float32 amplitudes.
        is_picture: Grey values of a picture, not amplitudes.
    """

    values: NDArray[Any]
    is_picture: bool


def read_section(data: bytes, where: str) -> Section:
    """Return the section that a PNG, TIFF or ``.npy`` file holds; its first bytes say which.

    Pictures of up to 8 bits a channel and of 16 bits in grey become grey values as `read_grey`
    does; TIFF of floating or signed numbers, and every ``.npy``, are amplitudes.

    Args:
        data: The bytes of the file.
        where: Its name, for the error.

    Raises:
        DataError: Another kind of file, damaged, not one section of real numbers, or more than
            `images.MAX_PIXELS` pixels; told before any pixel is decoded where the header says it.
    """
    if data.startswith(_PNG):
        return Section(read_grey(data, where), is_picture=True)
    if data.startswith(_TIFF):
        return _read_tiff(data, where)
    if data.startswith(_NPY):
        return Section(_read_npy(data, where), is_picture=False)
    raise DataError(
        "not a PNG, TIFF or .npy file" if data else "there are no bytes",
        where=where,
        expected="a PNG, a TIFF, or a .npy file as numpy.save writes it",
        mend="Convert the section, such as a SEG-Y line with 'diapir ingest', and send that.",
    )


def encode_npy(array: NDArray[Any]) -> bytes:
    """Return the bytes of a ``.npy`` file."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _read_npy(data: bytes, where: str) -> NDArray[np.float32]:
    """Return a two-dimensional array, looking at its header before any number is read.

    Source: NumPy's ``numpy.lib.format``, versions 1.0 and 2.0; a header is a Python literal.
    """
    stream = BytesIO(data)
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        shape, by_columns, dtype = readers[version](stream, max_header_size=_HEADER_BYTES)
    except _LITERAL_ERRORS as error:
        raise _bad_array(f"its header cannot be read ({type(error).__name__})", where) from error
    if dtype.kind not in "fiu" or len(shape) != 2:
        raise _bad_array(f"it has shape {shape} and type {str(dtype)[:40]}", where)
    check_size(shape[1], shape[0], where)
    wanted, found = shape[0] * shape[1] * dtype.itemsize, len(data) - stream.tell()
    if wanted != found:
        raise _bad_array(
            f"its header promises {wanted:,} bytes of numbers, it has {found:,}", where
        )
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32: infinite, thus 0
        values = flat.astype(np.float32)
    return np.ascontiguousarray(values.reshape(shape, order="F" if by_columns else "C"))


def _bad_array(what: str, where: str) -> DataError:
    return DataError(
        f"the .npy file cannot be used: {what}",
        where=where,
        expected="whole or floating numbers of shape (samples, traces), without pickled objects",
        mend="Save the section with numpy.save(file, section.astype('float32')).",
    )


def _read_tiff(data: bytes, where: str) -> Section:
    """Return the only picture of a TIFF.

    Source: TIFF 6.0, section 8 (baseline tags), 15 (tiles), 19 (sample format).
    """
    try:
        image = Image.open(BytesIO(data), formats=("TIFF",))
        check_size(*image.size, where)
        _check_tags(image, where)
        image.load()
        values = np.asarray(image if _is_plain(image) else image.convert("RGB").convert("L"))
    except UnidentifiedImageError as error:  # its text is an address in memory
        raise _bad_tiff("its tags make no picture", where) from error
    except DECODER_ERRORS as error:
        raise _bad_tiff(f"it cannot be decoded: {error}", where) from error
    bits, kind = _first(image, _BITS, 1), _first(image, _SAMPLE_FORMAT, _UNSIGNED)
    if kind in (_SIGNED, _FLOAT):
        return Section(np.ascontiguousarray(values, np.float32), is_picture=False)
    if image.mode.startswith("I"):
        return Section(to_eight_bits(values), is_picture=True)
    scale = 255 if bits == 1 and image.mode == "1" else 1
    return Section(values.astype(np.uint8) * np.uint8(scale), is_picture=True)


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")


def _check_tags(image: Image.Image, where: str) -> None:
    """Refuse what Pillow would read wrongly, or what costs more than its pixels."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, kind = _first(image, _BITS, 1), _first(image, _SAMPLE_FORMAT, _UNSIGNED)
    compression = tags.get(_COMPRESSION, 1)
    tile = int(tags.get(_TILE_WIDTH, 1)) * int(tags.get(_TILE_LENGTH, 1))
    wide = image.mode.startswith(("I", "F"))
    complaints = (
        (compression not in _COMPRESSIONS, f"its compression has the code {compression}"),
        (bool(tags.next), "it holds several pictures"),
        (tile > MAX_PIXELS, f"its tiles have {tile:,} pixels"),
        # Pillow takes no notice of these two
        (wide and tags.get(_PHOTOMETRIC) != _BLACK_IS_ZERO, "its black is not 0"),
        (kind == _SIGNED and not wide, "it holds signed numbers of 8 bits"),
        (kind == _UNSIGNED and wide and bits != 16, f"it holds whole numbers of {bits} bits"),
    )
    for wrong, complaint in complaints:
        if wrong:
            raise _bad_tiff(complaint, where)


def _first(image: Image.Image, tag: int, default: int) -> int:
    values = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
    return int(values[0] if isinstance(values, tuple) else values)


def _bad_tiff(what: str, where: str) -> DataError:
    return DataError(
        f"the TIFF cannot be used: {what}",
        where=where,
        expected="one picture of 8 or 16 bits, or of 32-bit floating numbers, without compression "
        f"or with {', '.join(sorted(set(_COMPRESSIONS.values()) - {'none'}))}",
        mend="Save it as such a TIFF, as a PNG or with numpy.save.",
    )
