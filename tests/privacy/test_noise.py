"""The noise is Gaussian to the tail, the coins are fair, and no bit is used twice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedit_secure.privacy.noise import GRID, TILE, CryptoNoise, box_muller

KEY = bytes(range(32))


def crafted(radius: int, angle: int = 0) -> np.ndarray:
    """A keystream for one pair of normals, from its 128-bit and 53-bit integers."""
    high, low = divmod(radius, 1 << 64)
    return np.array([high, low, angle << 11, 0], "<u8").view(np.uint8)


def test_normals_are_standard_normal() -> None:
    draws = CryptoNoise(KEY).normals(0, 0, 400_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.mean()) < 5 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / draws.size)
    assert abs(stats.kurtosis(draws)) < 5 * np.sqrt(24 / draws.size)
    beyond = np.mean(np.abs(draws) > 3.5)
    assert beyond == pytest.approx(2 * stats.norm.sf(3.5), rel=0.3)


def test_the_two_normals_of_a_pair_are_uncorrelated() -> None:
    draws = CryptoNoise(KEY).normals(0, 0, 400_000)
    cosines, sines = draws[0::2], draws[1::2]
    for left, right in ((cosines, sines), (cosines**2, sines**2)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(len(left))


@pytest.mark.parametrize("zeros", [0, 1, 20, 53, 63, 64, 65, 100, 120, 127])
def test_the_radius_has_full_relative_precision_at_every_exponent(zeros: int) -> None:
    # The exact radius of a uniform u, for the crafted leading zeros and a mantissa
    # whose lowest of 53 bits matters: a fixed-point uniform would drop it.
    available = 128 - zeros
    mantissa = 1 << (available - 1)
    if available > 53:
        mantissa |= 1 << (available - 53)
    uniform = np.float64(mantissa) * 2.0**-128
    expected = np.sqrt(-2 * np.log(uniform))
    assert box_muller(crafted(mantissa))[0] == expected


def test_the_tail_goes_on_to_thirteen_sigma_without_infinity() -> None:
    assert box_muller(crafted(0))[0] == pytest.approx(np.sqrt(2 * 129 * np.log(2)))
    assert box_muller(crafted(1))[0] == pytest.approx(np.sqrt(2 * 128 * np.log(2)))
    # A 53-bit uniform stops here; ours has 2^20 values beyond it in this octave alone.
    stop_of_53_bits = np.sqrt(2 * 53 * np.log(2))
    radii = [box_muller(crafted((1 << 74) + k))[0] for k in (0, 1 << 60, 1 << 70)]
    assert all(r > stop_of_53_bits for r in radii)
    assert len(set(radii)) == 3


def test_a_uniform_of_one_is_a_zero_not_a_nan() -> None:
    assert box_muller(crafted((1 << 128) - 1)).tolist() == [0.0, 0.0]


def test_the_angle_reaches_every_quadrant() -> None:
    radius = 1 << 126
    quadrants = [box_muller(crafted(radius, k << 50)) for k in range(1, 8, 2)]
    signs = [tuple(np.sign(pair).astype(int)) for pair in quadrants]
    assert signs == [(1, 1), (-1, 1), (-1, -1), (1, -1)]


@pytest.mark.parametrize(
    ("start", "count"),
    [(0, 1), (1, 1), (5, 17), (TILE - 1, 2), (TILE, TILE), (3 * TILE - 7, 2 * TILE)],
)
def test_any_slice_has_the_same_bits(start: int, count: int) -> None:
    noise = CryptoNoise(KEY)
    whole = noise.normals(3, 0, 5 * TILE + 11)
    assert np.array_equal(noise.normals(3, start, count), whole[start : start + count])


def test_threads_do_not_change_a_bit() -> None:
    one, three = CryptoNoise(KEY, 1), CryptoNoise(KEY, 3)
    size = 6 * TILE + 123
    assert np.array_equal(one.normals(1, 9, size), three.normals(1, 9, size))
    total = np.linspace(-1, 1, size)
    assert np.array_equal(
        one.add_grid_noise(total, 1, 1.1, 0.5), three.add_grid_noise(total, 1, 1.1, 0.5)
    )


def test_no_two_coordinates_share_bits() -> None:
    draws = CryptoNoise(KEY).normals(0, 0, 8 * TILE)
    assert len(np.unique(draws)) == draws.size


def test_steps_are_uncorrelated_and_distinct() -> None:
    noise = CryptoNoise(KEY)
    steps = np.stack([noise.normals(step, 0, 100_000) for step in range(6)])
    correlation = np.corrcoef(steps) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(steps.shape[1])
    # A counter that ran over into the next step would repeat a shifted stream.
    assert len(np.unique(steps)) == steps.size


def test_another_key_is_another_stream() -> None:
    mine = CryptoNoise(KEY).normals(0, 0, 100_000)
    theirs = CryptoNoise(bytes(32)).normals(0, 0, 100_000)
    assert abs(np.corrcoef(mine, theirs)[0, 1]) < 5 / np.sqrt(mine.size)


@pytest.mark.parametrize("rate", [0.003, 0.25, 0.9])
def test_coins_come_at_their_rate(rate: float) -> None:
    coins = CryptoNoise(KEY).coins(0, 300_000, rate)
    deviation = np.sqrt(rate * (1 - rate) / coins.size)
    assert abs(coins.mean() - rate) < 4 * deviation


def test_coins_are_independent_across_slots_and_steps() -> None:
    noise = CryptoNoise(KEY)
    first, second = (noise.coins(s, 300_000, 0.3).astype(float) for s in (0, 1))
    bound = 5 / np.sqrt(first.size)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < bound


def test_batch_sizes_spread_as_binomial_ones() -> None:
    noise = CryptoNoise(KEY)
    sizes = [noise.coins(step, 1000, 0.1).sum() for step in range(400)]
    assert np.mean(sizes) == pytest.approx(100, abs=4 * np.sqrt(90 / 400))
    assert np.var(sizes) == pytest.approx(90, rel=0.35)


def test_a_coin_does_not_depend_on_the_number_of_slots() -> None:
    noise = CryptoNoise(KEY)
    many = noise.coins(7, 1001, 0.4)
    for slots in (0, 1, 2, 500, 1000):
        assert np.array_equal(noise.coins(7, slots, 0.4), many[:slots])


def test_coins_at_the_ends_of_the_range() -> None:
    noise = CryptoNoise(KEY)
    assert not noise.coins(0, 1000, 0.0).any()
    assert noise.coins(0, 1000, 1.0).all()


def test_coins_and_normals_use_different_streams() -> None:
    noise = CryptoNoise(KEY)
    normals = noise.normals(0, 0, 100_000)
    coins = noise.coins(0, 100_000, 0.5).astype(float)
    assert abs(np.corrcoef(np.abs(normals), coins)[0, 1]) < 5 / np.sqrt(coins.size)


def test_noised_sums_lie_on_the_grid() -> None:
    clip = 0.37
    noised = CryptoNoise(KEY).add_grid_noise(np.linspace(-3, 3, 5000), 0, 0.8, clip)
    steps = noised / (GRID * clip)
    assert np.array_equal(np.rint(steps) * (GRID * clip), noised)


def test_the_noise_has_the_deviation_that_was_paid_for() -> None:
    sigma, clip, size = 1.3, 0.5, 300_000
    noised = CryptoNoise(KEY).add_grid_noise(np.zeros(size), 0, sigma, clip)
    expected = sigma * (clip + GRID * clip * np.sqrt(size))
    assert noised.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * size))
    assert stats.kstest(noised / expected, "norm").pvalue > 1e-3


def test_the_same_step_adds_the_same_noise_to_neighbouring_sums() -> None:
    noise, grid = CryptoNoise(KEY), GRID * 0.5
    left = np.linspace(-1, 1, 4000)
    right = left.copy()
    right[17] += 0.25
    gap = noise.add_grid_noise(right, 2, 1.0, 0.5)
    gap -= noise.add_grid_noise(left, 2, 1.0, 0.5)
    expected = np.zeros(4000)
    expected[17] = (np.rint(right[17] / grid) - np.rint(left[17] / grid)) * grid
    assert np.allclose(gap, expected, rtol=0, atol=grid * 1e-6)


def test_the_key_is_never_printed() -> None:
    assert "<redacted>" in repr(CryptoNoise(KEY))
    assert KEY.hex() not in repr(CryptoNoise(KEY))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: CryptoNoise(KEY[:31]), "31 bytes"),
        (lambda: CryptoNoise(KEY, 0), "threads"),
        (lambda: CryptoNoise(KEY).normals(-1, 0, 1), "step"),
        (lambda: CryptoNoise(KEY).normals(1 << 32, 0, 1), "step"),
        (lambda: CryptoNoise(KEY).normals(0, -1, 1), "out of range"),
        (lambda: CryptoNoise(KEY).coins(0, 5, 1.1), "sampling rate"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3), 0, 0.0, 1), "sigma"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3), 0, 1, np.inf), "clip"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.full(3, np.nan), 0, 1, 1), "fin"),
        (
            lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3, np.float32), 0, 1, 1),
            "float64",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]
