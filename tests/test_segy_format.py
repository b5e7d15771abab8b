"""Sample formats: exact values, both byte orders, and what cannot be written."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diapir.errors import DataError
from diapir.io.segy_format import (
    FORMATS,
    decode,
    encode,
    float_to_ibm,
    ibm_to_double,
    ibm_to_float,
    sample_format,
)

LARGEST = Fraction((1 << 24) - 1, 1 << 24) * Fraction(16) ** 63


def ibm_value(bits: int) -> Fraction:
    """The definition: sign, power of 16, and 24 bits behind the point."""
    value = Fraction(bits & 0xFFFFFF, 1 << 24) * Fraction(16) ** (((bits >> 24) & 0x7F) - 64)
    return -value if bits >> 31 else value


@pytest.mark.parametrize(
    ("bits", "value"),
    [
        (0x00000000, 0.0),
        (0x41100000, 1.0),
        (0xC1100000, -1.0),
        (0x42640000, 100.0),
        (0xC276A000, -118.625),
        (0x40800000, 0.5),
        (0x7FFFFFFF, float("inf")),
        (0x41000001, 2.0**-20),  # not normalised
    ],
)
def test_known_ibm_floats(bits: int, value: float) -> None:
    assert ibm_to_float(np.array([bits], np.uint32))[0] == np.float32(value)


@settings(deadline=None)
@given(arrays(np.uint32, 20, elements=st.integers(0, 2**32 - 1)))
def test_every_ibm_float_becomes_its_exact_value(bits: np.ndarray) -> None:
    found = ibm_to_double(bits)
    assert [Fraction(float(value)) for value in found] == [ibm_value(int(b)) for b in bits]


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_the_nearest_ibm_float_is_written(value: float) -> None:
    bits = int(float_to_ibm(np.array([value]))[0])
    found = ibm_value(bits)
    if abs(Fraction(value)) > LARGEST:
        assert abs(found) == LARGEST
        return
    fraction, exponent = bits & 0xFFFFFF, (bits >> 24) & 0x7F
    assert not fraction or fraction >> 20 or exponent == 0  # normalised
    if exponent > 0:
        unit = Fraction(16) ** (exponent - 64) / (1 << 24)
        assert abs(found - Fraction(value)) <= unit / 2
    else:
        assert abs(found - Fraction(value)) <= Fraction(16) ** -64 / (1 << 20)


@settings(deadline=None)
@given(arrays(np.uint32, 10, elements=st.integers(0x00100000, 0x7FFFFFFF)))
def test_normalised_ibm_floats_survive_the_way_there_and_back(bits: np.ndarray) -> None:
    bits = bits | np.uint32(0x00100000)
    np.testing.assert_array_equal(float_to_ibm(ibm_to_double(bits)), bits)


def test_ibm_knows_neither_nan_nor_infinity() -> None:
    bits = float_to_ibm(np.array([np.nan, np.inf, -np.inf]))
    assert [hex(int(b)) for b in bits] == ["0x0", "0x7fffffff", "0xffffffff"]


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("code", FORMATS)
def test_whole_numbers_survive_every_format(code: int, order: str) -> None:
    values = np.array([[0, 1, 2, 100, 127]], np.float32)
    if FORMATS[code].kind[0] != "u" or code == 1:
        values = np.concatenate([values, -values])
    raw = encode(values, code, order)  # type: ignore[arg-type]
    assert raw.shape == (len(values), 5 * FORMATS[code].width)
    np.testing.assert_array_equal(decode(raw, code, order), values)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [c for c, entry in FORMATS.items() if entry.is_integer])
def test_integers_are_rounded_and_clipped(code: int) -> None:
    limits = np.iinfo(FORMATS[code].kind)
    raw = encode(np.array([[1e30, -1e30, np.nan, 1.6, np.inf]]), code, "big")
    found = raw.view(FORMATS[code].dtype("big"))[0]
    assert found[0] == pytest.approx(limits.max, rel=1e-15)
    assert found[1] == limits.min
    assert found[2:4].tolist() == [0, 2]
    assert found[4] == found[0]


def test_byte_order_matters() -> None:
    raw = encode(np.array([[1.0]]), 5, "big")
    assert raw.tobytes() == b"\x3f\x80\x00\x00"
    assert encode(np.array([[1.0]]), 5, "little").tobytes() == b"\x00\x00\x80\x3f"


@pytest.mark.parametrize("code", [0, 4, 7, 13, 99, -1])
def test_other_codes_are_refused_with_the_list(code: int) -> None:
    with pytest.raises(DataError) as caught:
        sample_format(code, "x.sgy")
    assert str(code) in caught.value.what
    assert "IBM" in str(caught.value.expected)
