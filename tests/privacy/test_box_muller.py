"""From keystream to normals: precision at every radius and angle, by crafted bits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedit_secure.privacy.box_muller import box_muller

LOWEST_CELL = math.sqrt(2 * 128 * math.log(2))  # 13.32


def normals(v: int, angle: int = 0, deviation: float = 1.0) -> tuple[float, float]:
    """The pair of a signed 128-bit radius v = high * 2^64 + low, and an angle."""
    low = (v + (1 << 63)) % (1 << 64) - (1 << 63)
    high = (v - low) >> 64
    rows = np.empty((3, 1))
    box_muller(np.array([[low], [high], [angle]], np.int64), deviation, rows)
    return float(rows[1, 0]), float(rows[2, 0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("zeros", [0, 1, 2, 20, 53, 62, 63, 64, 65, 100, 120, 126])
def test_the_radius_has_full_relative_precision_at_every_exponent(
    zeros: int, sign: int
) -> None:
    # The leading zeros, and then bits that all matter: a uniform with fewer of them, as
    # one of 53 bits after the point has here, is another one, and so is its radius.
    available = 127 - zeros
    v = 0xB7E151628AED2A6ABF7158809CF4F3C7 >> (128 - available)
    # ln u with the zeros taken out, so that no bit is lost on the way to it.
    mantissa = (2 * v + 1) / (1 << (available + 1))
    radius = math.sqrt(2 * (zeros * math.log(2) - math.log(mantissa)))
    found = normals(v if sign > 0 else -v - 1)[0]  # the same |v + 1/2|
    assert found == pytest.approx(radius, rel=1e-15, abs=0)


def test_close_to_zero_every_float_below_one_is_a_radius_of_its_own() -> None:
    radii = [normals((1 << 127) - (k << 74))[0] for k in range(1, 50)]
    expected = [math.sqrt(2 * k) * 2.0**-26.5 for k in range(1, 50)]
    assert radii == pytest.approx(expected, rel=1e-14, abs=0)


def test_the_tail_goes_on_to_thirteen_sigma_without_infinity() -> None:
    for v in (0, -1):
        assert normals(v)[0] == pytest.approx(LOWEST_CELL, rel=1e-15, abs=0)
    # Then 3, 5, ... cells of 2^-128: each a radius of its own.
    radii = [normals(v)[0] for v in range(50)]
    expected = [math.sqrt(2 * math.log(2.0**128 / (2 * v + 1))) for v in range(50)]
    assert radii == pytest.approx(expected, rel=1e-15, abs=0)
    assert len(set(radii)) == 50
    # A 53-bit uniform stops at 8.6; here are 2^20 values beyond it in an octave alone.
    assert normals(1 << 73)[0] > math.sqrt(2 * 53 * math.log(2)) + 1e-3
    assert len({normals((1 << 73) + (k << 60))[0] for k in range(100)}) == 100


@pytest.mark.parametrize("low", [-(1 << 63), -1, 0, 1, (1 << 63) - 1])
@pytest.mark.parametrize("high", [-(1 << 63), (1 << 63) - 1])
def test_a_uniform_of_one_is_a_zero_not_a_nan(high: int, low: int) -> None:
    # The words reach past the ends of the range by 2^-64 of it, which rounds to 1.
    assert normals(high * 2**64 + low) == (0.0, 0.0)


@pytest.mark.parametrize("high", [1, -1, 2, -2, 1 << 40, (1 << 52) + 1])
@pytest.mark.parametrize("low", [-(1 << 63), -12345, 0, (1 << 63) - 1])
def test_the_low_word_counts_with_its_sign(high: int, low: int) -> None:
    v = high * 2**64 + low
    u = abs(2 * v + 1) / 2**128  # of integers: correctly rounded
    assert normals(v)[0] == pytest.approx(math.sqrt(-2 * math.log(u)), rel=1e-15, abs=0)


def test_angles_of_all_64_bits_point_where_they_should() -> None:
    angles = [
        *(k << 61 for k in range(-4, 4)),
        *(k * 0x1234567890ABCDE for k in range(-97, 98)),
        -(1 << 63),
        (1 << 63) - 1,
        -1,
        1,
    ]
    radius = normals(1 << 126)[0]
    for angle in angles:
        theta = 2 * math.pi * (angle / 2**64)
        cosine, sine = normals(1 << 126, angle)
        assert cosine == pytest.approx(radius * math.cos(theta), abs=1e-15 * radius)
        assert sine == pytest.approx(radius * math.sin(theta), abs=1e-15 * radius)


def test_both_halves_of_the_circle_are_reached_with_the_right_sign() -> None:
    turns = [normals(1 << 126, (2 * k + 1) << 61) for k in (-2, -1, 0, 1)]
    signs = [(int(np.sign(c)), int(np.sign(s))) for c, s in turns]
    assert signs == [(-1, -1), (1, -1), (1, 1), (-1, 1)]


@pytest.mark.parametrize("deviation", [1e-3, 1.0, 3.7, 2.0**20, 1e9])
def test_the_deviation_is_a_factor(deviation: float) -> None:
    for v, angle in ((1 << 126, 1 << 60), (5, -(1 << 62) - 9), (-(1 << 90), 3 << 61)):
        plain = np.array(normals(v, angle)) * deviation
        scaled = normals(v, angle, deviation)
        assert scaled == pytest.approx(plain, rel=0, abs=1e-14 * deviation)


def test_rows_may_be_the_memory_of_the_next_word() -> None:
    generator = np.random.default_rng(3)
    words = generator.integers(-(2**63), 2**63, (3, 4096), np.int64)
    apart = np.empty((3, 4096))
    box_muller(words, 2.5, apart)
    room = np.empty((4, 4096))
    room[:3].view(np.int64)[:] = words
    box_muller(room[:3].view(np.int64), 2.5, room[1:])
    assert np.array_equal(room[2:], apart[1:])
