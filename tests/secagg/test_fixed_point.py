from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import mean_of, packed, ring_of, step_of

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import keystream
from fedit_secure.secagg.fixed_point import (
    add_packed,
    check_sum,
    encode,
    lift_signed,
    pack,
    unpack,
)
from fedit_secure.secagg.params import SecAggParams

KEY = bytes(range(32))
rings = pytest.mark.parametrize("ring_bits", [24, 32])


def sizes(silos: int = 4, **changes: object) -> SecAggParams:
    defaults = {"length": 6, "bound": 0.5, "allow_pair": silos == 2}
    return release_sizes(silos, **{**defaults, **changes})


def ring_sum(parts: list[np.ndarray], ring_bits: int) -> np.ndarray:
    """The sum as the aggregator forms it: packed, unpacked, added mod 2^32, truncated."""
    total = np.zeros(parts[0].size, np.uint32)
    for part in parts:
        add_packed(total, packed(part.view(np.uint32), ring_bits), ring_bits)
    return lift_signed(total, ring_bits)


@rings
@pytest.mark.parametrize("silos", range(2, 65))
def test_no_sum_of_a_roster_wraps_at_the_bound(silos, ring_bits):
    params = sizes(silos, ring_bits=ring_bits)
    update = np.array([0.5, -0.5, 0.5, -0.5, 0.0, 0.5])
    parts = [encode(update, params, u, KEY).values for u in range(silos)]
    exact = sum(part.astype(object) for part in parts)
    total = ring_sum(parts, ring_bits)
    assert total.tolist() == exact.tolist()
    assert np.abs(total).max() == silos * params.magnitude
    assert np.allclose(mean_of(total, params, range(silos)), update, atol=1e-15)


finite = st.floats(-10, 10, allow_nan=False)


@given(st.integers(2, 12), st.sampled_from([24, 32]), st.floats(1e-6, 1e6), st.data())
def test_a_decoded_sum_is_within_its_error_bound(silos, ring_bits, bound, data):
    weights = data.draw(st.lists(st.integers(1, 1000), min_size=silos, max_size=silos))
    params = sizes(silos, ring_bits=ring_bits, bound=bound, weights=weights)
    count = data.draw(st.integers(1, silos))
    contributors = data.draw(st.permutations(range(silos)))[:count]
    parts, true_sum = [], np.zeros(6)
    for u in contributors:
        update = np.array(data.draw(st.lists(finite, min_size=6, max_size=6)))
        update *= bound
        encoded = encode(
            update, params, u, data.draw(st.binary(min_size=32, max_size=32))
        )
        peak = np.abs(update).max()
        assert encoded.scale == pytest.approx(min(1.0, bound / max(peak, 1e-300)))
        true_sum += weights[u] / max(weights) * encoded.scale * update
        parts.append(encoded.values)
    total = ring_sum(parts, ring_bits)
    allowed = count * step_of(params) * (1 + 2**-20)
    assert np.all(np.abs(total * step_of(params) - true_sum) <= allowed)
    share = sum(weights[u] for u in contributors) / max(weights)
    mean = mean_of(total, params, contributors)
    assert np.all(np.abs(mean - true_sum / share) <= allowed / share * (1 + 1e-12))


def test_rounding_is_unbiased():
    params = sizes(length=200_000)
    fractions = np.linspace(0, 1, 200_000, endpoint=False)
    signs = np.where(np.arange(200_000) % 2, 1.0, -1.0)
    scaled = signs * (1000 + fractions)
    values = encode(scaled * step_of(params), params, 0, KEY).values
    errors = values - scaled
    assert np.all(np.abs(errors) < 1)
    # Each error has variance f(1 - f), 1/6 on average.
    assert abs(errors.mean()) < 4 * math.sqrt(1 / 6 / 200_000)
    for part in np.array_split(signs * errors, 10):
        assert abs(part.mean()) < 4.5 * math.sqrt(1 / 4 / 20_000)
    assert np.var(errors) == pytest.approx(1 / 6, rel=0.02)


def test_one_coordinate_rounds_up_as_often_as_its_fraction_says():
    params = sizes(length=100_000)
    for fraction in (0.01, 0.25, 0.75, 0.99):
        update = np.full(100_000, (5 + fraction) * step_of(params))
        values = encode(update, params, 0, KEY).values
        assert set(values.tolist()) == {5, 6}
        spread = math.sqrt(fraction * (1 - fraction) / 100_000)
        assert abs((values == 6).mean() - fraction) < 4 * spread


def test_integers_of_the_grid_are_kept_exactly():
    params = sizes(bound=float(release_sizes(4, length=6, bound=1).magnitude))
    update = np.array([0.0, 1.0, -1.0, 77.0, -params.magnitude, params.magnitude])
    for key in (KEY, bytes(32), b"\xff" * 32):
        assert encode(update, params, 0, key).values.tolist() == update.tolist()


class Same:
    """A keystream that repeats one 16-bit coin."""

    def __init__(self, coin: int) -> None:
        self.coin = coin.to_bytes(2, "little", signed=True)

    def update_into(self, data, buffer):
        buffer[: len(data)] = self.coin * (len(data) // 2)


COINS = (0, 1, -1, 2**15 - 1, -(2**15))


@pytest.mark.parametrize("ring_bits", [24, 32])
@pytest.mark.parametrize("coin", COINS)
def test_no_coin_moves_an_integer_or_passes_the_magnitude(monkeypatch, coin, ring_bits):
    monkeypatch.setattr(keystream, "keystream", lambda key, tile: Same(coin))
    for silos in (2, 3, 64):
        top = sizes(silos, ring_bits=ring_bits).magnitude
        params = sizes(silos, bound=float(top), ring_bits=ring_bits)
        update = np.array([0.0, 1.0, -1.0, 0.5, -top, top])
        values = encode(update, params, 0, KEY).values
        assert values.tolist() == [0, 1, -1, int(coin >= 0), -top, top]
        beyond = encode(update * 3e7, params, 0, KEY).values
        assert np.abs(beyond).max() == top


@pytest.mark.parametrize("ring_bits", [24, 32])
@pytest.mark.parametrize("coin", COINS)
def test_a_product_that_rounds_past_the_magnitude_still_rounds_to_it(
    monkeypatch, coin, ring_bits
):
    monkeypatch.setattr(keystream, "keystream", lambda key, tile: Same(coin))
    rng, over = np.random.default_rng(0), 0
    for silos in (2, 3, 5, 64):
        weights = [int(w) for w in rng.integers(1, 2**32, silos)]
        params = sizes(silos, ring_bits=ring_bits, weights=weights)
        top, silo = params.magnitude, int(np.argmax(weights))
        for peak in rng.uniform(1, 2, 200):
            over += peak * (top / peak) > top
            update = np.array([peak, -peak, peak, -peak, peak, -peak])
            values = encode(update, params, silo, KEY).values
            assert values.tolist() == [top, -top] * 3
    assert over > 20  # floats do overshoot


def test_coins_depend_on_the_key_alone_and_not_on_the_pieces_or_cores(monkeypatch):
    params = sizes(length=1000)
    update = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
    whole = encode(update, params, 0, KEY).values
    assert not np.array_equal(whole, encode(update, params, 0, bytes(32)).values)
    monkeypatch.setattr(keystream, "PIECE", 64)
    assert np.array_equal(whole, encode(update, params, 0, KEY).values)
    monkeypatch.setattr(keystream, "TILE", 256)
    tiles = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(keystream, "CORES", cores)
        tiles.append(encode(update, params, 0, KEY).values)
    assert np.array_equal(tiles[0], tiles[1])
    assert np.array_equal(tiles[0], tiles[2])
    assert np.array_equal(tiles[0][:256], whole[:256])


def test_coins_are_the_keystream():
    params = sizes(length=1000)
    update = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
    coins = np.frombuffer(keystream.keystream(KEY, 0).update(bytes(2000)), "<i2") | 1
    expected = np.rint(update * (params.magnitude / 0.5) + coins / 2**16)
    assert np.array_equal(encode(update, params, 0, KEY).values, expected)


def test_an_update_beyond_the_bound_is_scaled_as_a_whole_and_said_so():
    params = sizes()
    update = np.array([2.0, -1.0, 0.5, 0.0, 1.0, 2.0])
    encoded = encode(update, params, 0, KEY)
    assert encoded.scale == 0.25
    assert encoded.values.max() == params.magnitude
    assert np.allclose(
        encoded.values * step_of(params), update * 0.25, atol=step_of(params)
    )


@given(st.floats(0.5, 1e300), st.integers(2, 64), st.sampled_from([24, 32]))
def test_no_float_overshoots_the_magnitude(peak, silos, ring_bits):
    params = sizes(silos, ring_bits=ring_bits, weights=range(1, silos + 1))
    update = np.array([peak, -peak, np.nextafter(peak, 0), 0, 1e-300, -peak / 3])
    for silo in (0, silos - 1):
        values = encode(update, params, silo, KEY).values
        assert np.abs(values).max() <= params.magnitude


def test_weights_are_public_factors():
    params = sizes(3, weights=(1, 2, 4))
    update = np.full(6, 0.25)
    parts = [encode(update * (u + 1), params, u, KEY).values for u in range(3)]
    assert np.allclose(parts[0] * step_of(params), 0.25 / 4, atol=step_of(params))
    assert np.allclose(
        parts[2] * step_of(params), 0.5, atol=step_of(params)
    )  # 0.75, scaled
    total = ring_sum(parts[:2], 24)
    expected = (1 * 0.25 + 2 * 0.5) / 3
    assert np.allclose(
        mean_of(total, params, (0, 1)), expected, atol=3 * step_of(params)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_is_encoded_in_double_precision(dtype):
    params = sizes(ring_bits=32)
    update = np.array([0.3, -0.1, 0.5, -0.5, 0, 1e-3], dtype)
    expected = update.astype(np.float64) / step_of(params)
    assert np.all(np.abs(encode(update, params, 0, KEY).values - expected) < 1.001)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_update_is_refused(bad):
    for at in (0, 3, 5):
        update = np.zeros(6)
        update[at] = bad
        with pytest.raises(ValueError, match="finite"):
            encode(update, sizes(), 0, KEY)


@pytest.mark.parametrize(
    "update", [np.zeros(5), np.zeros((2, 3)), np.zeros(6, int), np.zeros(6, complex)]
)
def test_an_update_of_another_shape_or_type_is_refused(update):
    with pytest.raises(ValueError, match="an update has 6 floats"):
        encode(update, sizes(), 0, KEY)


def test_the_values_and_texts_show_no_coordinate():
    encoded = encode(np.full(6, 0.123456), sizes(), 0, KEY)
    assert str(encoded.values[0]) not in repr(encoded)


@pytest.mark.parametrize("value", [1, -1, 2**24, -(2**31)])
def test_a_coordinate_beyond_the_limit_is_refused_without_being_shown(value):
    params = sizes()
    reach = 3 * params.magnitude
    check_sum(np.array([reach, -reach], np.int32), params, 3)
    beyond = value + (reach if value > 0 else -reach if value > -2 else 0)
    with pytest.raises(ValueError, match=f"beyond the {reach} ") as refusal:
        check_sum(np.array([0, beyond, 3], np.int32), params, 3)
    assert str(abs(beyond)) not in str(refusal.value)


@rings
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_packing_keeps_the_low_bits_little_endian(ring_bits, coordinates):
    ring = np.array(coordinates, np.uint32)
    size = ring_bits // 8
    payload = packed(ring, ring_bits)
    assert payload == bytes(8).join(
        [
            b"".join((c % 2**ring_bits).to_bytes(size, "little") for c in coordinates),
            b"",
        ]
    )
    found = ring_of(payload, len(coordinates), ring_bits)
    assert found.dtype == np.uint32
    assert found.tolist() == [c % 2**ring_bits for c in coordinates]


@rings
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.randoms())
def test_pieces_are_packed_in_any_order_and_touch_no_other_byte(
    ring_bits, cuts, random
):
    """What a thread writes never reaches what another has written."""
    length, size = sum(cuts), ring_bits // 8
    ring = np.arange(1, length + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)
    ends = np.cumsum(cuts).tolist()
    pieces = [slice(end - cut, end) for end, cut in zip(ends, cuts, strict=True)]
    random.shuffle(pieces)
    payload = np.full(length * size + 8, 0xEE, np.uint8)
    for here in pieces:
        before = payload.copy()
        pack(payload, ring_bits, here, ring[here])
        changed = np.flatnonzero(payload != before)
        assert all(size * here.start <= at < size * here.stop for at in changed)
    assert payload[-8:].tolist() == [0xEE] * 8
    assert payload[:-8].tobytes() == packed(ring, ring_bits)[:-8]


def test_a_whole_piece_is_packed_as_a_short_one():
    """At a length at which numpy copies in its widest strides."""
    ring = np.random.default_rng(0).integers(0, 2**32, keystream.PIECE, np.uint32)
    rows = ring.astype("<u4").view(np.uint8).reshape(-1, 4)
    assert packed(ring, 24)[:-8] == rows[:, :3].tobytes()
    assert np.array_equal(ring_of(packed(ring, 24), ring.size, 24), ring & 0xFFFFFF)


@rings
def test_a_payload_is_added_in_place_mod_the_ring(ring_bits):
    ring = np.arange(300, dtype=np.uint32) * np.uint32(0x9E3779B1)
    total = np.arange(300, dtype=np.uint32)[::-1].copy()
    expected = ring + total
    add_packed(total, packed(ring, ring_bits), ring_bits)
    width = np.uint32((1 << ring_bits) - 1)
    assert np.array_equal(total & width, expected & width)


@rings
@pytest.mark.parametrize("change", [-8, -1, 1, 4])
def test_a_payload_of_another_size_is_refused(ring_bits, change):
    payload = bytes(5 * ring_bits // 8 + 8 + change)
    with pytest.raises(ValueError, match="5 coordinates and a tag don't take"):
        unpack(payload, 5, ring_bits)


@rings
@given(st.data())
def test_signed_values_survive_the_ring(ring_bits, data):
    half = 2 ** (ring_bits - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=20))
    ring = np.array(values, np.int64).astype(np.uint32)
    found = lift_signed(ring, ring_bits)
    assert found.dtype == np.int32
    assert found.tolist() == values
    found = ring_of(packed(ring, ring_bits), ring.size, ring_bits)
    assert lift_signed(found, ring_bits).tolist() == values
