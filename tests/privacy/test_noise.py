"""The noise is Gaussian to the tail, the coins are fair, and no bit is used twice."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from scipy import stats

from fedit_secure.privacy import noise as noise_module
from fedit_secure.privacy.noise import GRID, PAIRS, TILE, CryptoNoise

KEY = bytes(range(32))


SIZE = 1_000_000


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return CryptoNoise(KEY).normals(0, 0, SIZE)


def blocks(label: bytes, step: int, tile: int, first: int, count: int) -> bytes:
    """Blocks of the keystream straight from AES: step, tile, and 2 on."""
    key = HKDF(SHA256(), 32, salt=None, info=label).derive(KEY)
    counters = b"".join(
        step.to_bytes(4, "big") + tile.to_bytes(8, "big") + i.to_bytes(4, "big")
        for i in range(2 + first, 2 + first + count)
    )
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters)


def test_normals_are_standard_normal(draws: np.ndarray) -> None:
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.mean()) < 5 / np.sqrt(SIZE)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / SIZE)
    assert abs(stats.skew(draws)) < 5 * np.sqrt(6 / SIZE)
    assert abs(stats.kurtosis(draws)) < 5 * np.sqrt(24 / SIZE)
    beyond = np.mean(np.abs(draws) > 3.5)
    assert beyond == pytest.approx(2 * stats.norm.sf(3.5), rel=0.2)


def test_a_thousand_cells_hold_what_they_should(draws: np.ndarray) -> None:
    cells = np.bincount((stats.norm.cdf(draws) * 1000).astype(int), minlength=1000)
    assert stats.chisquare(cells).pvalue > 1e-3


def test_the_two_normals_of_a_pair_are_uncorrelated(draws: np.ndarray) -> None:
    whole = draws[: SIZE // TILE * TILE].reshape(-1, 2, PAIRS)
    cosines, sines = whole[:, 0].ravel(), whole[:, 1].ravel()
    for left, right in ((cosines, sines), (cosines**2, sines**2)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)


@pytest.mark.parametrize("lag", [1, 2, 7, 8, 1024, PAIRS, TILE])
def test_neighbouring_coordinates_are_uncorrelated(draws: np.ndarray, lag: int) -> None:
    left, right = draws[:-lag], draws[lag:]
    for f in (np.asarray, np.square):
        assert abs(np.corrcoef(f(left), f(right))[0, 1]) < 5 / np.sqrt(left.size)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("step", "tile"), [(0, 0), (7, 3), (2**32 - 1, 2**42 - 1)])
def test_every_step_and_tile_has_its_own_counter_blocks(
    monkeypatch: pytest.MonkeyPatch, wide: bool, step: int, tile: int
) -> None:
    # GCM, where it's faster, and CTR: the same bytes, and those that are documented.
    monkeypatch.setattr(noise_module, "_WIDE_AES", wide)
    stream = CryptoNoise(KEY).keystream(step, tile).tobytes()
    last = len(stream) // 16 - 1
    label = b"fedit/noise/normals/v1"
    assert stream[:64] == blocks(label, step, tile, 0, 4)
    assert stream[-16:] == blocks(label, step, tile, last, 1)
    # So no tile reaches the next one's blocks: their counter has 32 bits of its own.
    assert 2 + last < 2**32


@pytest.mark.parametrize("wide", [False, True])
def test_every_step_has_its_own_coins(
    monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    monkeypatch.setattr(noise_module, "_WIDE_AES", wide)
    raw = blocks(b"fedit/noise/coins/v1", 5, 0, 0, 100)
    expected = np.frombuffer(raw, "<u8") < np.uint64(2**62)
    assert np.array_equal(CryptoNoise(KEY).coins(5, 200, 0.25), expected)


def test_no_block_occurs_twice_in_steps_tiles_and_coins() -> None:
    noise = CryptoNoise(KEY)
    streams = [noise.keystream(step, tile) for step in (0, 1, 2) for tile in (0, 1)]
    coins = b"".join(blocks(b"fedit/noise/coins/v1", s, 0, 0, 1000) for s in (0, 1))
    words = np.concatenate([*(s.ravel() for s in streams), np.frombuffer(coins, "<i8")])
    assert np.unique(words).size == words.size


def test_a_keystream_goes_where_it_is_told_and_nowhere_else() -> None:
    noise, room = CryptoNoise(KEY), np.empty((3, PAIRS), np.int64)
    assert noise.keystream(1, 2, room) is room
    assert np.array_equal(room, noise.keystream(1, 2))


@pytest.mark.parametrize(
    ("start", "count"),
    [(0, 1), (1, 1), (5, 17), (TILE - 1, 2), (TILE, TILE), (3 * TILE - 7, 2 * TILE)],
)
def test_any_slice_has_the_same_bits(start: int, count: int) -> None:
    noise = CryptoNoise(KEY)
    whole = noise.normals(3, 0, 5 * TILE)
    assert np.array_equal(noise.normals(3, start, count), whole[start : start + count])


def test_threads_do_not_change_a_bit() -> None:
    one, three = CryptoNoise(KEY, 1), CryptoNoise(KEY, 3)
    size = 2 * TILE + 123
    assert np.array_equal(one.normals(1, 9, size), three.normals(1, 9, size))
    total = np.linspace(-1, 1, size)
    assert np.array_equal(
        one.add_grid_noise(total, 1, 1.1, 0.5), three.add_grid_noise(total, 1, 1.1, 0.5)
    )


def test_the_order_of_asking_does_not_change_a_bit() -> None:
    noise = CryptoNoise(KEY)
    late, early = noise.normals(9, TILE, 100), noise.normals(2, 0, 100)
    noise.coins(9, 100, 0.5)
    assert np.array_equal(noise.normals(2, 0, 100), early)
    assert np.array_equal(noise.normals(9, TILE, 100), late)


def test_a_sum_may_be_overwritten_with_its_release() -> None:
    noise, total = CryptoNoise(KEY), np.linspace(-1, 1, TILE + 5)
    expected = noise.add_grid_noise(total, 4, 1.1, 0.5)
    assert noise.add_grid_noise(total, 4, 1.1, 0.5, out=total) is total
    assert np.array_equal(total, expected)


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


@pytest.mark.parametrize(("sigma", "clip"), [(0.5, 1.0), (1.3, 0.37), (40.0, 3e-4)])
def test_the_noise_is_the_normals_by_their_deviation(sigma: float, clip: float) -> None:
    noise, size = CryptoNoise(KEY), 50_000
    total, grid = np.linspace(-clip, clip, size), GRID * clip
    deviation = sigma * (clip + grid * np.sqrt(size))
    expected = np.rint(total / grid) + deviation / grid * noise.normals(1, 0, size)
    released = noise.add_grid_noise(total, 1, sigma, clip) / grid
    assert np.abs(released - expected).max() < 0.5 + 1e-6


def test_attack_noise_used_twice_gives_the_difference_away() -> None:
    # Why a retry draws a new key: under one key and step, neighbouring sums differ by
    # the record itself, exactly, and whatever sigma is. Under another key, or in
    # another step, the same difference finds nothing.
    grid, sigma = GRID * 0.5, 50.0
    without = np.linspace(-1, 1, 4000)
    record = np.zeros(4000)
    record[17] = 0.25
    first = CryptoNoise(KEY).add_grid_noise(without, 2, sigma, 0.5)

    def gap(key: bytes, step: int) -> np.ndarray:
        return CryptoNoise(key).add_grid_noise(without + record, step, sigma, 0.5)

    reused = gap(KEY, 2) - first
    assert np.abs(reused - record).max() <= grid
    assert np.flatnonzero(reused).tolist() == [17]
    for fresh in (gap(KEY, 3) - first, gap(bytes(32), 2) - first):
        assert fresh.std() == pytest.approx(np.sqrt(2) * sigma * 0.5, rel=0.1)
        assert abs(stats.zscore(fresh)[17]) < 5


@pytest.mark.parametrize(
    "take", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_noise_key_is_neither_stored_nor_copied(take: object) -> None:
    with pytest.raises(TypeError, match="neither stored nor copied"):
        take(CryptoNoise(KEY))  # type: ignore[operator]


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
        (lambda: CryptoNoise(KEY).normals(0, 1 << 60, 1), "out of range"),
        (lambda: CryptoNoise(KEY).keystream(1 << 32, 0), "step"),
        (lambda: CryptoNoise(KEY).keystream(0, 1 << 42), "out of range"),
        (lambda: CryptoNoise(KEY).keystream(0, 0, np.zeros((3, 5), int)), "int64"),
        (lambda: CryptoNoise(KEY).coins(0, 5, 1.1), "sampling rate"),
        (lambda: CryptoNoise(KEY).coins(0, (1 << 32) + 1, 0.1), "slots"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3), 0, 0.0, 1), "sigma"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3), 0, 1, np.inf), "clip"),
        (lambda: CryptoNoise(KEY).add_grid_noise(np.full(3, np.nan), 0, 1, 1), "fin"),
        (
            lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3, np.float32), 0, 1, 1),
            "float64",
        ),
        (
            lambda: CryptoNoise(KEY).add_grid_noise(np.zeros(3), 0, 1, 1, np.zeros(4)),
            "as the sum",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]
