"""Sample formats of SEG-Y: which codes there are, and exact conversion to float and back.

Source:
    SEG Technical Standards Committee, SEG-Y revision 2.0 (2017), table 2, bytes 3225-3226;
    IBM System/360 Principles of Operation (1964), floating-point arithmetic.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError

ByteOrder = Literal["big", "little"]
Raw = NDArray[np.uint8]

IBM_FLOAT = 1


@dataclass(frozen=True)
class SampleFormat:
    """One way of writing a sample.

    Args:
        code: Number in bytes 3225-3226.
        name: What people call it.
        kind: NumPy's type without byte order; IBM floats are read as unsigned integers.
        probability_scale: Integer that stands for a probability of 1; 1 for floats.
    """

    code: int
    name: str
    kind: str
    probability_scale: int = 1

    @property
    def width(self) -> int:
        """Bytes a sample."""
        return int(self.kind[1:])

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers can be written."""
        return self.code != IBM_FLOAT and self.kind[0] in "iu"

    def dtype(self, order: ByteOrder) -> np.dtype[Any]:
        """Return the type of the samples in a file of this byte order."""
        return np.dtype((">" if order == "big" else "<") + self.kind)


FORMATS = {
    entry.code: entry
    for entry in (
        SampleFormat(IBM_FLOAT, "4-byte IBM float", "u4"),
        SampleFormat(2, "4-byte integer", "i4", 1_000_000),
        SampleFormat(3, "2-byte integer", "i2", 10_000),
        SampleFormat(5, "4-byte IEEE float", "f4"),
        SampleFormat(6, "8-byte IEEE float", "f8"),
        SampleFormat(8, "1-byte integer", "i1", 100),
        SampleFormat(9, "8-byte integer", "i8", 1_000_000),
        SampleFormat(10, "4-byte unsigned integer", "u4", 1_000_000),
        SampleFormat(11, "2-byte unsigned integer", "u2", 10_000),
        SampleFormat(12, "8-byte unsigned integer", "u8", 1_000_000),
        SampleFormat(16, "1-byte unsigned integer", "u1", 100),
    )
}
"""The formats that can be read and written, by code."""

UNREADABLE = {
    4: "4-byte fixed point with gain (obsolete since revision 1)",
    7: "3-byte integer",
    15: "3-byte unsigned integer",
}
"""Codes that the standard knows and that are not read here."""


def sample_format(code: int, where: object = None) -> SampleFormat:
    """Return the format of a code.

    Raises:
        DataError: The standard has no such code, or it is not read here.
    """
    if code in FORMATS:
        return FORMATS[code]
    known = ", ".join(f"{entry.code} {entry.name}" for entry in FORMATS.values())
    raise DataError(
        f"sample format code {code}"
        + (f", {UNREADABLE[code]}, is not read here" if code in UNREADABLE else " does not exist"),
        where=where,
        expected=known,
        mend="Run 'diapir doctor' to see which format fits the data, and pass it with --format.",
    )


def decode(raw: Raw, code: int, order: ByteOrder) -> NDArray[np.float32]:
    """Return samples as float32.

    Values beyond float32, which IBM floats and 8-byte formats can hold, become infinite.

    Args:
        raw: (..., bytes) uint8.
        code: Sample format.
        order: Byte order of the samples.
    """
    entry = FORMATS[code]
    values = np.ascontiguousarray(raw).view(entry.dtype(order))
    if code == IBM_FLOAT:
        return ibm_to_float(values.astype(np.uint32))
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def encode(values: NDArray[Any], code: int, order: ByteOrder) -> Raw:
    """Return samples as bytes; integers are rounded and clipped to what the format holds.

    Args:
        values: (..., S) numbers; NaN becomes 0 in integer formats.
        code: Sample format.
        order: Byte order to write.

    Returns:
        (..., S times width) uint8.
    """
    entry = FORMATS[code]
    if code == IBM_FLOAT:
        typed: NDArray[Any] = float_to_ibm(values).astype(entry.dtype(order))
    elif entry.is_integer:
        limits = np.iinfo(entry.kind)
        # the largest float64 that is still in range: 2**63 - 1 itself is none
        high = float(limits.max) if entry.width < 8 else float(np.nextafter(float(limits.max), 0))
        wide = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
        typed = np.clip(np.rint(wide), float(limits.min), high).astype(entry.dtype(order))
    else:
        with np.errstate(over="ignore"):
            typed = np.asarray(values).astype(entry.dtype(order))
    return np.ascontiguousarray(typed).view(np.uint8)


def ibm_to_float(bits: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return the float32 nearest to each IBM float; exact wherever float32 holds the value.

    An IBM float is (-1)^s * 0.fraction * 16^(exponent - 64) with a 24-bit fraction, which float32
    holds to the last bit; only beyond its range (about 3.4e38) the value is infinite, and below
    1.2e-38 the last bits are lost.

    >>> ibm_to_float(np.array([0xC276A000], np.uint32))
    array([-118.625], dtype=float32)
    """
    with np.errstate(over="ignore", under="ignore"):
        return ibm_to_double(bits).astype(np.float32)


def ibm_to_double(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the exact value of each IBM float, whose range is that of 16^-65 to 16^63."""
    fraction = (bits & np.uint32(0x00FFFFFF)).astype(np.float64)
    exponent = ((bits >> np.uint32(24)) & np.uint32(0x7F)).astype(np.int32)
    signed = np.where(bits & np.uint32(0x80000000), -fraction, fraction)
    return np.asarray(np.ldexp(signed, 4 * (exponent - 64) - 24), np.float64)


def float_to_ibm(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the IBM float nearest to each value, normalised; rounds half to even.

    Infinities become the largest IBM float and NaN 0; IBM floats know neither.

    >>> hex(int(float_to_ibm(np.array([-118.625]))[0]))
    '0xc276a000'
    """
    wide = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=1e77, neginf=-1e77)
    mantissa, binary = np.frexp(np.abs(wide))
    hexadecimal = -(-binary // 4)  # the smallest power of 16 that is larger than the value
    fraction = np.rint(np.ldexp(mantissa, binary - 4 * hexadecimal + 24)).astype(np.int64)
    carried = fraction >> 24  # rounding up to 1.0 moves the point by one hexadecimal digit
    fraction = np.where(carried, fraction >> 4, fraction)
    exponent = hexadecimal + carried + 64
    fraction = np.where(exponent > 127, 0x00FFFFFF, fraction)
    # below the smallest exponent the fraction loses digits until nothing is left
    deficit = np.clip(-exponent, 0, 7)
    fraction = fraction >> (4 * deficit)
    bits = (np.clip(exponent, 0, 127) << 24) | fraction
    bits = np.where(fraction == 0, 0, bits)
    sign = np.where(np.signbit(wide) & (fraction != 0), 1 << 31, 0)
    return np.asarray(bits | sign, np.uint32)
