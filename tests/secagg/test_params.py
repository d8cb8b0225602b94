from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import step_of

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg.params import Member, Roster, SecAggParams


def keys(n: int) -> list[bytes]:
    return [bytes([i]) * 32 for i in range(n)]


def roster(n: int = 3) -> Roster:
    made = keys(n + 1)
    return Roster(tuple(Member(f"silo-{i}", made[i]) for i in range(n)), made[n])


def create(silos: int = 4, **changes: object) -> SecAggParams:
    return release_sizes(silos, **{"length": 10, "bound": 0.5, **changes})


def test_a_roster_finds_names_and_indices():
    three = roster()
    assert len(three.members) == 3
    assert [three.name(i) for i in range(3)] == [m.name for m in three.members]


@pytest.mark.parametrize("silo", [-1, 3])
def test_a_roster_has_no_other_index(silo):
    with pytest.raises(ValueError, match="isn't in the roster of 3"):
        roster().name(silo)


@pytest.mark.parametrize(
    ("names", "used", "what"),
    [
        (("a", "a"), (0, 1, 2), "names"),
        (("a", ""), (0, 1, 2), "names"),
        (("a", "b"), (0, 0, 2), "keys"),
        (("a", "b"), (0, 1, 1), "keys"),
    ],
)
def test_a_roster_with_two_equal_parties_is_refused(names, used, what):
    made = keys(3)
    members = tuple(Member(n, made[k]) for n, k in zip(names, used, strict=False))
    with pytest.raises(ValueError, match=what):
        Roster(members, made[used[2]])


def test_a_roster_with_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Roster((Member("a", bytes(31)),), b"k" * 32)


@pytest.mark.parametrize(
    ("silos", "corrupt", "threshold"),
    [(2, 0, 2), (3, 1, 3), (4, 1, 3), (5, 1, 4), (10, 3, 7), (100, 33, 67)],
)
def test_the_defaults_are_those_of_the_design(silos, corrupt, threshold):
    params = create(silos, allow_pair=True)
    assert (params.corrupt, params.threshold) == (corrupt, threshold)
    assert params.minimum == threshold
    assert params.weights == (1,) * silos


@given(st.integers(2, 200), st.data())
def test_every_accepted_threshold_is_safe(n, data):
    c = 0 if n == 2 else data.draw(st.integers(1, n - 2))
    params = create(n, corrupt=c, allow_pair=n == 2)
    t = params.threshold
    assert 2 * t > n + c  # two quorums share an honest silo
    assert n - t + c < t  # voided by t: fewer than t can ever reveal
    assert t <= params.minimum <= n
    assert n == 2 or t >= max(3, c + 2)
    assert params.magnitude * n <= 2 ** (params.ring_bits - 1) - 1


def test_the_charter_may_ask_for_a_larger_minimum():
    assert create(10, minimum=9).minimum == 9
    assert create(10, minimum=2).minimum == 7


@pytest.mark.parametrize(
    ("silos", "changes", "inequality"),
    [
        (0, {}, "N >= 3"),
        (1, {}, "N >= 3"),
        (1, {"allow_pair": True}, "N >= 3"),
        (2, {}, "N >= 3 or allow_pair"),
        (2, {"allow_pair": True, "corrupt": 1}, "c = 0 for N = 2"),
        (3, {"corrupt": 0}, "1 <= c <= N - 2"),
        (3, {"corrupt": 2}, "1 <= c <= N - 2"),
        (4, {"minimum": 5}, "t <= m_min <= N"),
        (4, {"length": 0}, "1 <= length < 2^36"),
        (4, {"length": -1}, "1 <= length < 2^36"),
        (4, {"length": 2**36}, "1 <= length < 2^36"),
        (4, {"ring_bits": 16}, "b = 24 or b = 32"),
        (4, {"ring_bits": -1}, "b = 24 or b = 32"),
        (4, {"bound": 0.0}, "1e-30 <= S <= 1e30"),
        (4, {"bound": -1.0}, "1e-30 <= S <= 1e30"),
        (4, {"bound": math.nan}, "1e-30 <= S <= 1e30"),
        (4, {"bound": math.inf}, "1e-30 <= S <= 1e30"),
        (4, {"weights": (1, 1, 1)}, "N weights"),
        (4, {"weights": (1, 1, 1, 0)}, "0 < weight < 2^32"),
        (4, {"weights": (1, 1, 1, 2**32)}, "0 < weight < 2^32"),
        (4, {"weights": (1, 1, 1, 0.5)}, "0 < weight < 2^32"),
        (100, {"length": 40_000_000, "ring_bits": 24}, "sqrt(length/6)/M <= 0.01"),
    ],
)
def test_unsafe_sizes_are_refused_by_their_inequality(silos, changes, inequality):
    with pytest.raises(ValueError, match="secure aggregation needs") as refusal:
        create(silos, **changes)
    assert inequality in str(refusal.value)


@pytest.mark.parametrize("threshold", [2, 4])
def test_no_other_threshold_than_the_roster_s_is_accepted(threshold):
    with pytest.raises(ValueError, match="t = floor"):
        dataclasses.replace(create(4), threshold=threshold, minimum=4)


def test_a_minimum_below_the_threshold_is_refused():
    with pytest.raises(ValueError, match="t <= m_min <= N"):
        dataclasses.replace(create(4), minimum=2)


def test_the_ring_widens_where_rounding_would_cost_more_than_one_percent():
    assert create(10, length=4_000_000).ring_bits == 24
    wide = create(100, length=40_000_000)
    assert wide.ring_bits == 32
    assert math.sqrt(wide.length / 6) / wide.magnitude < 0.01


def test_sizes_on_the_wire():
    params = create(10, length=1001)
    assert params.magnitude == (2**23 - 1) // 10
    assert step_of(params) == 0.5 / params.magnitude
    assert params.payload_bytes == 3 * 1001 + 8
    assert create(10, length=1001, ring_bits=32).payload_bytes == 4 * 1001 + 8


def test_the_codec_digest_covers_every_field_that_decides_the_encoding():
    base = create(10)
    variants = [
        base,
        create(11),
        create(10, corrupt=4),
        create(10, minimum=8),
        create(10, length=11),
        create(10, ring_bits=32),
        create(10, bound=0.25),
        create(10, weights=(2, *(1,) * 9)),
        create(10, weights=(*(1,) * 9, 2)),
    ]
    assert len({v.codec_digest() for v in variants}) == len(variants)
    assert create(10).codec_digest() == base.codec_digest()
