"""Grey images and binary masks from PNG bytes, and back."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from diapir.errors import DataError
from diapir.io.atomic import write_bytes_atomic

MAX_PIXELS = 1 << 24
"""Images with more pixels are refused before they are decoded."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = 0  # PNG colour type
_SALT_VALUES = (1, 255, 65535)
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow lets through on damaged files."""


class _Header(NamedTuple):
    width: int
    height: int
    bits: int
    colour_type: int


def read_grey(data: bytes, where: str, most: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return a PNG as grey values.

    Colour becomes luma, which leaves three equal channels as they are; transparency is ignored;
    16 bits are scaled by their full range.

    Args:
        data: The bytes of a PNG file.
        where: Its name, for the error.
        most: Pixels; where its size is known from elsewhere, that may be more.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: Not a PNG, truncated, damaged, or more than `most` pixels.
    """
    image, header = _open(data, where, most)
    if header.bits == 16 and header.colour_type == _GREY:
        return to_eight_bits(np.asarray(image))
    if image.mode in ("P", "PA"):
        # A palette goes by its colours; with transparency Pillow asks for RGBA on the way.
        image = image.convert("RGBA")
    return np.array(image.convert("L"), dtype=np.uint8)


def to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey values of 0 to 65535 as the nearest of 0 to 255.

    >>> to_eight_bits(np.array([0, 128, 129, 65535], np.uint16)).tolist()
    [0, 0, 1, 255]
    """
    return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)


def read_mask(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return a PNG as a binary mask.

    Takes 1, 8 and 16 bits, grey, palette or colour with equal channels. Salt is 1, 255 or 65535,
    and the same throughout a file.

    Args:
        data: The bytes of a PNG file.
        where: Its name, for the error.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        DataError: As in `read_grey`; also values that are not binary, or unequal channels.
    """
    image, header = _open(data, where)
    if header.bits == 16 and header.colour_type != _GREY:
        # Pillow drops the low byte of these: a mask of 0 and 1 would come out empty.
        raise _bad_mask("the mask is 16-bit colour or has transparency", where)
    values = np.asarray(image) if _is_grey(image) else _equal_channels(image, where)
    if values.dtype == bool:
        return values.astype(np.uint8)
    top = int(values.max())
    mask: NDArray[np.bool_] = np.asarray(values != 0)
    if (top != 0 and top not in _SALT_VALUES) or (values[mask] != top).any():
        found = np.unique(values)
        listed = ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
        raise _bad_mask(f"the mask is not binary: it holds {listed}", where)
    return mask.view(np.uint8)


def read_size(data: bytes, where: str) -> tuple[int, int]:
    """Return height and width of a PNG as its header says; the rest of it may be damaged.

    Args:
        data: The bytes of a PNG file.
        where: Its name, for the error.

    Raises:
        DataError: Not a PNG, no header, or more than `MAX_PIXELS` pixels.
    """
    if not data.startswith(_SIGNATURE):
        raise _unreadable("not a PNG file", where)
    header = _parse_header(data[12:16], data[16:29], where)  # it is the first chunk
    return header.height, header.width


def encode_png(array: NDArray[Any]) -> bytes:
    """Return the bytes of a PNG with the array's depth, grey or in colour.

    Args:
        array: (H, W) uint8 or uint16, or (H, W, 3) uint8 in colour.

    Raises:
        ValueError: Another shape or dtype.
    """
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not grey and not (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8):
        raise ValueError(f"need (H, W) uint8 or uint16, found {array.shape} {array.dtype}")
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(stream, "PNG")
    return stream.getvalue()


def encode_mask_png(mask: NDArray[Any], *, bits: Literal[8, 16] = 8) -> bytes:
    """Return the bytes of a grey PNG that is 0 and the full value of its depth.

    Args:
        mask: (H, W) bool or integer; anything but 0 is salt.
        bits: 8 writes 0 and 255, 16 writes 0 and 65535 as the competition's own masks.
    """
    dtype = np.uint8 if bits == 8 else np.uint16
    return encode_png((np.asarray(mask) != 0).astype(dtype) * dtype((1 << bits) - 1))


def write_mask_png(path: Path, mask: NDArray[Any], *, bits: Literal[8, 16] = 8) -> None:
    """Write a mask as `encode_mask_png` does, whole or not at all.

    Raises:
        RunError: The file cannot be written.
    """
    # Thousands are written in a row, and a second run makes them again: no waiting for the disk.
    write_bytes_atomic(path, encode_mask_png(mask, bits=bits), sync=False)


def check_size(width: int, height: int, where: str, most: int = MAX_PIXELS) -> None:
    """Refuse an image by the size that its header says, before it is decoded.

    Raises:
        DataError: It has no pixels, or more than `most`.
    """
    if min(width, height) < 1 or width * height > most:
        raise DataError(
            f"the image is {width} x {height} pixels",
            where=where,
            expected=f"at least 1 and at most {most:,} pixels",
            mend="Cut it into tiles.",
        )


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "I") or image.mode.startswith("I;16")


def _equal_channels(image: Image.Image, where: str) -> NDArray[np.uint8]:
    # By way of RGBA, because a palette with transparency makes Pillow warn otherwise.
    channels = np.asarray(image.convert("RGBA"))[..., :3]
    if (channels != channels[..., :1]).any():
        raise _bad_mask("the mask is coloured: its channels differ", where)
    return channels[..., 0]


def _bad_mask(what: str, where: str) -> DataError:
    return DataError(
        what,
        where=where,
        expected="0 for no salt and one of 1, 255, 65535 for salt, in grey",
        mend="Save the mask as a grey PNG of two values, without smoothing or JPEG in between.",
    )


def _open(data: bytes, where: str, most: int = MAX_PIXELS) -> tuple[Image.Image, _Header]:
    header = check_png(data, where, most)
    try:
        # by way of Image.open Pillow has a limit of its own, whatever is asked for here
        image = PngImageFile(BytesIO(data))
        if image.size != (header.width, header.height):  # a second header, past the size check
            raise ValueError("it has two headers")
        image.load()
    except DECODER_ERRORS as error:
        raise _unreadable(f"the PNG cannot be decoded: {error}", where) from error
    return image, header


def check_png(data: bytes, where: str, most: int = MAX_PIXELS) -> _Header:
    """Return the header of a PNG that is whole by its checksums, without decoding it.

    Walks over all chunks, as Pillow skips the checksums of the pixels.

    Args:
        data: The bytes of a PNG file.
        where: Its name, for the error.
        most: Pixels.

    Raises:
        DataError: Not a PNG, truncated, damaged, or more than `most` pixels.

    Source: PNG Specification, third edition, 5.2 to 5.5 (signature, chunks, CRC) and 11.2.1.
    """
    if not data:
        raise _unreadable("the file is empty", where)
    if not data.startswith(_SIGNATURE):
        raise _unreadable("not a PNG file", where)
    header: _Header | None = None
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            raise _unreadable(f"the PNG is damaged: wrong checksum at byte {position}", where)
        if header is None:
            header = _parse_header(kind, data[position + 8 : end - 4], where, most)
        if kind == b"IEND":
            return header
        position = end
    raise _unreadable(f"the PNG is truncated: it ends at byte {len(data)}", where)


def _parse_header(kind: bytes, body: bytes, where: str, most: int = MAX_PIXELS) -> _Header:
    if kind != b"IHDR" or len(body) != 13:
        raise _unreadable("the PNG has no header", where)
    header = _Header(*struct.unpack(">IIBB", body[:10]))
    check_size(header.width, header.height, where, most)
    return header


def _unreadable(what: str, where: str) -> DataError:
    return DataError(what, where=where, mend="Copy or download the file again, or remove it.")
