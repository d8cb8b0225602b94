from __future__ import annotations

import hashlib
import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.secagg.shares import (
    PRIME,
    combine,
    secret_commitment,
    share_commitment,
    split,
)
from fedit_secure.secagg.transcript import Bound, join, u64


def stream(seed: int = 0):
    return random.Random(seed).randbytes


def polynomial(coefficients: list[int], x: int) -> bytes:
    value = sum(c * x**i for i, c in enumerate(coefficients)) % PRIME
    return value.to_bytes(33, "little")


def test_the_modulus_is_the_least_prime_above_32_bytes():
    def is_probable_prime(n: int) -> bool:
        d, s = n - 1, 0
        while d % 2 == 0:
            d, s = d // 2, s + 1
        for base in range(2, 40):
            x = pow(base, d, n)
            if x in (1, n - 1):
                continue
            for _ in range(s - 1):
                x = x * x % n
                if x == n - 1:
                    break
            else:
                return False
        return True

    assert is_probable_prime(PRIME)
    assert not any(is_probable_prime(n) for n in range(2**256, PRIME))


def test_a_share_is_the_polynomial_at_the_index_plus_one():
    # Coefficients drawn from a stream that we can read back: 33 bytes each, to 257 bits.
    drawn = iter([(5).to_bytes(33, "little"), (6).to_bytes(33, "little")])
    secret = (12345).to_bytes(32, "little")
    shares = split(secret, 3, [0, 2, 6], lambda size: next(drawn))
    for holder, share in shares.items():
        assert share == polynomial([12345, 6, 5], holder + 1)


def test_known_shares_open_by_lagrange_by_hand():
    # f(x) = 7 + 3x: f(1) = 10, f(3) = 16.
    shares = {0: (10).to_bytes(33, "little"), 2: (16).to_bytes(33, "little")}
    assert combine(shares, 2) == (7).to_bytes(32, "little")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_every_subset_of_threshold_size_opens_the_secret(secret):
    shares = split(secret, 3, range(6), stream())
    for subset in itertools.combinations(range(6), 3):
        assert combine({v: shares[v] for v in subset}, 3) == secret


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32), st.data())
def test_any_threshold_subset_in_any_order_opens_the_secret(secret, seed, data):
    holders = data.draw(
        st.lists(st.integers(0, 300), min_size=1, max_size=12, unique=True)
    )
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split(secret, threshold, holders, stream(seed))
    assert list(shares) == holders
    assert all(len(share) == 33 for share in shares.values())
    chosen = data.draw(st.permutations(holders))[:threshold]
    assert combine({v: shares[v] for v in chosen}, threshold) == secret


def test_fewer_shares_fit_every_secret():
    # t - 1 shares and any claimed secret lie on one polynomial: the shares say nothing.
    shares = split(b"\x01" * 32, 3, range(5), stream())
    two = [(v + 1, int.from_bytes(shares[v], "little")) for v in (0, 3)]
    for claimed in (0, 99, 2**256 - 1):
        points = [(0, claimed), *two]
        third = 0
        for i, (x, y) in enumerate(points):
            weight = 1
            for j, (other, _) in enumerate(points):
                if i != j:
                    weight = weight * (5 - other) * pow(x - other, -1, PRIME) % PRIME
            third = (third + y * weight) % PRIME
        forged = {0: shares[0], 3: shares[3], 4: third.to_bytes(33, "little")}
        assert combine(forged, 3) == claimed.to_bytes(32, "little")


def test_coefficients_are_drawn_again_until_they_are_below_the_prime():
    too_large = (PRIME).to_bytes(33, "little")
    largest = (PRIME - 1).to_bytes(33, "little")
    ignored_bits = (PRIME - 1 + 2**263).to_bytes(33, "little")
    for accepted in (largest, ignored_bits):
        draws = [accepted, b"\xff" * 33, too_large]
        shares = split(bytes(32), 2, [0, 1], lambda size, left=draws: left.pop())
        assert shares[0] == largest
        assert not draws


def test_every_coefficient_is_fresh():
    sizes = []

    def count(size):
        sizes.append(size)
        return bytes([len(sizes)]) + bytes(size - 1)

    shares = split(bytes(32), 4, range(4), count)
    assert sizes == [33, 33, 33]
    assert len(set(shares.values())) == 4


@pytest.mark.parametrize(
    ("threshold", "holders"),
    [(0, [0, 1]), (3, [0, 1]), (2, [1, 1]), (2, [0, 1, 1]), (1, [-1]), (1, [])],
)
def test_sharing_that_could_not_be_opened_or_would_show_the_secret_is_refused(
    threshold, holders
):
    with pytest.raises(ValueError, match="can't open a secret"):
        split(bytes(32), threshold, holders, stream())


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_32_byte_secrets_are_shared(size):
    with pytest.raises(ValueError, match="32 bytes"):
        split(bytes(size), 2, [0, 1], stream())


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_shares_is_refused(count):
    shares = split(bytes(32), 3, range(5), stream())
    with pytest.raises(ValueError, match=f"opens with 3 shares, not {count}"):
        combine({v: shares[v] for v in range(count)}, 3)


def test_no_shares_open_nothing():
    with pytest.raises(ValueError, match="not 0"):
        combine({}, 0)


@pytest.mark.parametrize(
    "bad", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "little"), b"\xff" * 33]
)
def test_a_malformed_share_is_refused_by_its_holder(bad):
    shares = split(bytes(32), 2, [0, 7], stream())
    with pytest.raises(ValueError, match="silo 7's share isn't 33 bytes"):
        combine({**shares, 7: bad}, 2)


@pytest.mark.parametrize("secret", [2**256, PRIME - 1])
def test_a_recovered_secret_of_more_than_32_bytes_is_refused(secret):
    shares = {x - 1: polynomial([secret, 11], x) for x in (1, 2)}
    with pytest.raises(ValueError, match="32-byte secret"):
        combine(shares, 2)


def test_a_changed_share_opens_another_secret():
    # At x = 1, 2, 3 the middle share counts -3 times.
    shares = split((10).to_bytes(32, "little"), 3, range(3), stream())
    value = (int.from_bytes(shares[1], "little") + 1) % PRIME
    changed = {**shares, 1: value.to_bytes(33, "little")}
    assert combine(changed, 3) == (7).to_bytes(32, "little")


def test_a_hundred_silos_open_a_secret_in_milliseconds():
    shares = split(bytes(range(32)), 67, range(100), stream())
    subset = {v: shares[v] for v in range(33, 100)}
    combine(subset, 67)  # the holders' coefficients are computed once
    start = time.process_time()
    for _ in range(20):
        assert combine(subset, 67) == bytes(range(32))
    assert (time.process_time() - start) / 20 < 0.005


def test_commitments_are_those_of_the_protocol():
    def sha(*fields: bytes) -> bytes:
        return hashlib.sha256(join(*fields)).digest()

    share, ctx, key_set = b"s" * 33, b"c" * 32, b"k" * 32
    assert share_commitment(Bound(b"R", ctx, key_set), 1, 2, "self", share) == sha(
        b"fedit/share/v1", ctx, key_set, u64(1), u64(2), b"self", share
    )
    assert secret_commitment(ctx, 1, b"b" * 32) == sha(
        b"fedit/commit/v1", ctx, u64(1), b"b" * 32
    )
