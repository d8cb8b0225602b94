from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.secagg import tag as tag_module
from fedit_secure.secagg.keys import Bad, hkdf
from fedit_secure.secagg.masks import TAG_PRIME as PRIME
from fedit_secure.secagg.tag import TagKey
from fedit_secure.secagg.transcript import Bound, digest, join

BOUND = Bound(b"R", b"ctx", b"K", b"U2")
GIVEN = {u: bytes([u]) * 32 for u in (0, 3, 7)}


def derive(length: int, contributions=None) -> TagKey:
    return TagKey.derive(BOUND, contributions or GIVEN, length)


class Reference:
    """The tag by its definition: one coordinate at a time, in Python's integers."""

    def __init__(self) -> None:
        fields = [GIVEN[u] for u in sorted(GIVEN)]
        self.group = digest("fedit/group/v1", b"ctx", b"K", b"U2", *fields)

    def element(self, part: bytes, index: int) -> int:
        key = hkdf(self.group, b"", join(b"fedit/tag-" + part + b"/v1"))
        ecb = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        return int.from_bytes(ecb.update(index.to_bytes(16, "big")), "little") % PRIME

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


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 511, 512, 513, 1000])
def test_the_inner_product_is_that_of_the_definition(length):
    values = uniform(length, -(2**31), 2**31 - 1, seed=length)
    assert derive(length).inner(values) == Reference().inner(values)


@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1, -(2**23), 2**23 - 1, 1, 0, -1])
def test_the_inner_product_is_exact_at_the_ends_of_the_rings(value):
    values = np.full(600, value, np.int32)
    assert derive(600).inner(values) == Reference().inner(values)


def test_the_largest_key_doesn_t_round():
    # Every limb of the key at its maximum, every value at its extreme: the sums reach
    # the 2^53 that the limbs are sized for.
    key = derive(512)
    largest = np.int64(2**61 - 1)
    full = dataclasses.replace(
        key,
        alpha=np.full_like(key.alpha, largest),
        beta=np.full_like(key.beta, largest),
    )
    for value in (-(2**31), 2**31 - 1):
        values = np.full(512, value, np.int32)
        assert full.inner(values) == (2**61 - 1) ** 2 * value * 512 % PRIME == 0
        odd = dataclasses.replace(full, beta=full.beta - 1)
        assert odd.inner(values) == largest.item() * (2**61 - 2) * value * 512 % PRIME
        less = dataclasses.replace(odd, alpha=odd.alpha - 1)
        assert less.inner(values) == (2**61 - 2) ** 2 * value * 512 % PRIME != 0


def test_the_inner_product_runs_over_many_tiles(monkeypatch):
    values = uniform(1700, -(2**31), 2**31 - 1)
    whole = derive(1700).inner(values)
    monkeypatch.setattr(tag_module, "_ROWS", 2)
    assert derive(1700).inner(values) == whole == Reference().inner(values)


@settings(max_examples=25)
@given(st.integers(1, 700), st.integers(0, 2**32), st.data())
def test_the_inner_product_is_linear(length, seed, data):
    key = derive(length)
    a, b = (uniform(length, -(2**28), 2**28, seed + i) for i in range(2))
    factor = data.draw(st.integers(-4, 4))
    combined = a + np.int32(factor) * b
    assert key.inner(combined) == (key.inner(a) + factor * key.inner(b)) % PRIME


def test_pads_belong_to_roster_indices():
    key = derive(10)
    reference = Reference()
    assert dict(key.pads) == {u: reference.element(b"pads", u) for u in GIVEN}


def test_a_tag_is_the_inner_product_and_the_silo_s_pad():
    key, values = derive(10), uniform(10, -100, 100)
    reference = Reference()
    expected = (reference.inner(values) + reference.element(b"pads", 3)) % PRIME
    assert key.tag(3, values) == expected


def release(length: int = 300) -> tuple[TagKey, dict[int, np.ndarray], np.ndarray, int]:
    key = derive(length)
    values = {u: uniform(length, -1000, 1000, seed=u) for u in (0, 7)}
    tag = sum(key.tag(u, v) for u, v in values.items()) % PRIME
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


@pytest.mark.parametrize("length", [1, 299, 301, 512])
def test_a_vector_of_another_length_is_refused(length):
    key, _, _, tag = release()
    with pytest.raises(ValueError, match="a tag is of 300 integers"):
        key.check(np.zeros(length, np.int32), tag, (0, 7))


def test_the_key_changes_with_whatever_it_is_bound_to():
    values = uniform(10, -100, 100)
    tags = {
        TagKey.derive(bound, given_, 10).tag(0, values)
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
    assert derive(10, shuffled).tag(3, values) == derive(10).tag(3, values)


def test_a_tag_key_is_neither_printed_nor_serialised():
    key = derive(10)
    assert repr(key) == f"{key}" == "<redacted>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
