from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import inner, tag_of

from fedit_secure.secagg import keystream
from fedit_secure.secagg import tag as tag_module
from fedit_secure.secagg.keys import Bad, hkdf
from fedit_secure.secagg.keystream import TAG_PRIME as PRIME
from fedit_secure.secagg.tag import TagKey
from fedit_secure.secagg.transcript import Bound, digest, join

BOUND = Bound(b"R", b"ctx", b"K", b"U2")
GIVEN = {u: bytes([u]) * 32 for u in (0, 3, 7)}


def derive(length: int, contributions=None, ring_bits: int = 32) -> TagKey:
    return TagKey.derive(BOUND, contributions or GIVEN, length, ring_bits)


class Reference:
    """The tag by its definition: one coordinate at a time, in Python's integers."""

    def __init__(self) -> None:
        fields = [GIVEN[u] for u in sorted(GIVEN)]
        self.group = digest("fedit/group/v1", b"ctx", b"K", b"U2", *fields)

    def element(self, part: bytes, index: int) -> int:
        key = hkdf(self.group, b"", join(b"fedit/tag-" + part + b"/v1"))
        ecb = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        counter = (index + 2).to_bytes(16, "big")  # of the first tile
        return int.from_bytes(ecb.update(counter), "little") % PRIME

    def inner(self, values) -> int:
        columns = [self.element(b"columns", j) for j in range(256)]
        total = 0
        for i in range(-(-len(values) // 256)):
            row = [int(v) for v in values[256 * i : 256 * (i + 1)]]
            dot = sum(b * v for b, v in zip(columns, row, strict=False))
            total += self.element(b"rows", i) * dot
        return total % PRIME


def uniform(length: int, low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, length, np.int32)


@pytest.mark.parametrize("ring_bits", [24, 32])
@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 511, 512, 513, 1000])
def test_the_inner_product_is_that_of_the_definition(length, ring_bits):
    half = 2 ** (ring_bits - 1)
    values = uniform(length, -half, half - 1, seed=length)
    key = derive(length, ring_bits=ring_bits)
    assert inner(key, values) == Reference().inner(values)


@pytest.mark.parametrize("ring_bits", [24, 32])
@pytest.mark.parametrize("value", ["least", "most", 1, 0, -1])
def test_the_inner_product_is_exact_at_the_ends_of_the_rings(value, ring_bits):
    half = 2 ** (ring_bits - 1)
    value = {"least": -half, "most": half - 1}.get(value, value)
    values = np.full(600, value, np.int32)
    key = derive(600, ring_bits=ring_bits)
    assert inner(key, values) == Reference().inner(values)


@pytest.mark.parametrize("ring_bits", [24, 32])
def test_the_largest_key_doesn_t_round(ring_bits):
    """Every limb of the key at its maximum, every value at its extreme: the sums reach
    the 2^53 that the limbs are sized for."""
    key, rows = derive(256 * 4097, ring_bits=ring_bits), 4097  # a block, and a row
    largest = 2**61 - 1

    def with_key(alpha: int, beta: int) -> TagKey:
        columns = np.full(256, beta)
        limbs = tag_module._limbs(columns, key.width)
        assert limbs.shape == key.beta.shape
        return dataclasses.replace(
            key, alpha=tag_module._limbs(np.full(rows, alpha), 13), beta=limbs
        )

    for value in (-(2 ** (ring_bits - 1)), 2 ** (ring_bits - 1) - 1):
        values = np.full(256 * rows, value, np.int32)
        for alpha in (largest, largest - 1, 2**60):
            for beta in (largest, largest - 1, 2**60 + 12345):
                expected = alpha * beta * value * 256 * rows % PRIME
                assert inner(with_key(alpha, beta), values) == expected


@pytest.mark.parametrize("cores", [1, 2])
def test_the_inner_product_runs_over_many_pieces_and_blocks(monkeypatch, cores):
    values = uniform(5000, -(2**31), 2**31 - 1)
    whole = inner(derive(5000), values)
    for name, value in (("TILE", 1024), ("PIECE", 512), ("CORES", cores)):
        monkeypatch.setattr(keystream, name, value)
    monkeypatch.setattr(tag_module, "_BLOCK", 3)
    # Elements past a tile's 256 blocks would be others: 5000 coordinates have 20 rows.
    assert inner(derive(5000), values) == whole == Reference().inner(values)


@settings(max_examples=25)
@given(st.integers(1, 700), st.integers(0, 2**32), st.data())
def test_the_inner_product_is_linear(length, seed, data):
    key = derive(length)
    a, b = (uniform(length, -(2**28), 2**28, seed + i) for i in range(2))
    factor = data.draw(st.integers(-4, 4))
    combined = a + np.int32(factor) * b
    assert inner(key, combined) == (inner(key, a) + factor * inner(key, b)) % PRIME


def test_pads_belong_to_roster_indices():
    key = derive(10)
    reference = Reference()
    assert dict(key.pads) == {u: reference.element(b"pads", u) for u in GIVEN}


def test_a_tag_is_the_inner_product_and_the_silo_s_pad():
    key, values = derive(10), uniform(10, -100, 100)
    reference = Reference()
    expected = (reference.inner(values) + reference.element(b"pads", 3)) % PRIME
    assert tag_of(key, 3, values) == expected


def release(length: int = 300) -> tuple[TagKey, dict[int, np.ndarray], np.ndarray, int]:
    key = derive(length)
    values = {u: uniform(length, -1000, 1000, seed=u) for u in (0, 7)}
    tag = sum(tag_of(key, u, v) for u, v in values.items()) % PRIME
    return key, values, values[0] + values[7], tag


def test_the_sum_of_the_tags_verifies_the_sum_of_the_updates():
    key, _, total, tag = release()
    key.check(total, tag, (0, 7))
    key.check(total, tag, (7, 0))


@pytest.mark.parametrize("at", [0, 255, 256, 299])
@pytest.mark.parametrize("change", [1, -1, 2**16])
def test_forged_sum_is_refused(at, change):
    key, _, total, tag = release()
    total[at] += change
    with pytest.raises(Bad):
        key.check(total, tag, (0, 7))


@pytest.mark.parametrize("factor", [0, -1, 2, 3])
def test_scaled_sum_and_zero_sum_are_refused(factor):
    # Without pads, (k * X, k * T) would pass for any k.
    key, _, total, tag = release()
    with pytest.raises(Bad):
        key.check(np.int32(factor) * total, factor * tag % PRIME, (0, 7))


@pytest.mark.parametrize("silos", [(0,), (7,), (0, 3), (0, 3, 7)])
def test_forged_contributors_are_refused(silos):
    key, _, total, tag = release()
    with pytest.raises(Bad):
        key.check(total, tag, silos)


@pytest.mark.parametrize("silos", [(0, 7, 7), (0, 0, 7), (0, 7, 1), (1, 2)])
def test_contributors_outside_the_group_or_named_twice_are_refused(silos):
    key, _, total, tag = release()
    with pytest.raises(Bad, match="distinct silos of U2"):
        key.check(total, tag, silos)


def test_swapped_coordinates_are_refused():
    key, _, total, tag = release()
    total[[0, 256]] = total[[256, 0]]
    total[[1, 2]] = total[[2, 1]]
    with pytest.raises(Bad):
        key.check(total, tag, (0, 7))


@pytest.mark.parametrize("change", [1, -1, PRIME, -PRIME, 2**60])
def test_lying_tag_is_refused(change):
    # PRIME too: T has one encoding.
    key, _, total, tag = release()
    with pytest.raises(Bad):
        key.check(total, tag + change, (0, 7))


def test_the_key_changes_with_whatever_it_is_bound_to():
    values = uniform(10, -100, 100)
    tags = {
        tag_of(TagKey.derive(bound, given_, 10, 24), 0, values)
        for bound, given_ in [
            (BOUND, GIVEN),
            (BOUND._replace(ctx=b"cty"), GIVEN),
            (BOUND._replace(key_set=b"L"), GIVEN),
            (BOUND, GIVEN | {3: bytes(32)}),
            (BOUND, GIVEN | {4: bytes(32)}),
            (BOUND._replace(dealers_digest=b"U3"), GIVEN),
        ]
    }
    assert len(tags) == 6


def test_every_contribution_counts_once_and_in_roster_order():
    values = uniform(10, -100, 100)
    shuffled = {u: GIVEN[u] for u in (7, 0, 3)}
    assert tag_of(derive(10, shuffled), 3, values) == tag_of(derive(10), 3, values)


def test_a_tag_key_is_neither_printed_nor_serialised():
    key = derive(10)
    assert repr(key) == f"{key}" == "<redacted>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
