"""Which LoRA factors are tuned and released, and what becomes of their mean."""

from __future__ import annotations

import numpy as np
import pytest

from fedit_secure.errors import ProtocolError
from fedit_secure.federation.aggregation import (
    BOTH,
    Aggregation,
    factors,
    kept_factors,
    places,
    release_length,
    released_factors,
)
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import FedAvgM
from fedit_secure.federation.update import (
    Layout,
    apply_update,
    from_float32,
    to_float32,
    with_moments,
)
from fedit_secure.secagg import fixed_point

LAYOUT: Layout = (
    ("model.0.q.lora_A.weight", (2, 5)),
    ("model.0.q.lora_B.weight", (3, 2)),
    ("model.0.v.lora_A.weight", (2, 5)),
    ("model.0.v.lora_B.weight", (4, 2)),
)
LENGTHS = {"A": 20, "B": 14}
SILOS = 4


def test_the_papers_method_tunes_both() -> None:
    assert [factors(None, round) for round in (1, 2, 3)] == [BOTH] * 3
    assert places(LAYOUT, BOTH) == (slice(0, 34),)


def test_ffa_tunes_b_alone() -> None:
    assert {factors("ffa", round) for round in range(1, 9)} == {("B",)}
    assert places(LAYOUT, ("B",)) == (slice(10, 16), slice(26, 34))


def test_alternating_begins_with_b_which_has_a_gradient() -> None:
    found = [factors("alternating", round) for round in range(1, 5)]
    assert found == [("B",), ("A",), ("B",), ("A",)]
    assert places(LAYOUT, ("A",)) == (slice(0, 10), slice(16, 26))


def test_fedsa_tunes_both_and_releases_a_alone() -> None:
    assert {factors("fedsa", round) for round in range(1, 9)} == {BOTH}
    assert {released_factors("fedsa", round) for round in range(1, 9)} == {("A",)}
    assert kept_factors("fedsa") == ("B",)


@pytest.mark.parametrize("aggregation", [None, "ffa", "alternating"])
def test_of_the_others_all_that_is_tuned_is_released(
    aggregation: Aggregation | None,
) -> None:
    assert kept_factors(aggregation) == ()
    for round in (1, 2, 3):
        assert released_factors(aggregation, round) == factors(aggregation, round)


def test_releases_are_as_long_as_the_longest_of_a_run() -> None:
    assert release_length(LAYOUT, None) == 34
    assert release_length(LAYOUT, "ffa") == LENGTHS["B"]
    assert release_length(LAYOUT, "alternating") == LENGTHS["A"]
    assert release_length(LAYOUT, "fedsa") == LENGTHS["A"]


def test_a_tensor_that_is_neither_is_named() -> None:
    with pytest.raises(ValueError, match="'gate' is neither"):
        places((*LAYOUT, ("gate", (2,))), ("B",))
    assert places((("gate", (2,)),), BOTH) == (slice(0, 2),)


def matrices(vector: np.ndarray) -> list[np.ndarray]:
    starts = np.cumsum([0, *(a * b for _, (a, b) in LAYOUT)])
    return [
        vector[i:j].reshape(shape).astype(np.float64)
        for (_, shape), i, j in zip(LAYOUT, starts, starts[1:], strict=False)
    ]


def products(vector: np.ndarray) -> list[np.ndarray]:
    a0, b0, a1, b1 = matrices(vector)
    return [b0 @ a0, b1 @ a1]


def released(
    aggregation: Aggregation | None, round: int, updates: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The adapter after the sum, and each silo's own adapter, (silos, m)."""
    parts = places(LAYOUT, released_factors(aggregation, round))
    length, bound = release_length(LAYOUT, aggregation), 0.05
    params = release_sizes(SILOS, length=length, bound=bound, ring_bits=32)
    draw = np.random.default_rng(3)
    before = draw.normal(0, 0.3, 34).astype(np.float32)
    before = to_float32(from_float32(LAYOUT, before))
    total, own = np.zeros(length, np.int32), []
    for silo, update in enumerate(updates):
        sent = np.concatenate([update[part] for part in parts])
        whole = np.zeros(length, np.float32)
        whole[: len(sent)] = sent
        total += fixed_point.encode(whole, params, silo, b"k" * 32).values
        adapter = before.copy()
        for part in parts:
            adapter[part] += update[part]
        own.append(adapter)
    state = from_float32(LAYOUT, before)
    after = apply_update(state, total, params, range(SILOS), released=parts)
    return to_float32(after), np.array(own)


def drawn_updates() -> list[np.ndarray]:
    draw = np.random.default_rng(4)
    return [draw.uniform(-0.04, 0.04, 34).astype(np.float32) for _ in range(SILOS)]


@pytest.mark.parametrize(
    ("aggregation", "round"), [("ffa", 1), ("alternating", 1), ("alternating", 2)]
)
def test_the_mean_of_products_is_the_product_of_means(
    aggregation: Aggregation, round: int
) -> None:
    """Under the secure sum, to its quantisation."""
    after, own = released(aggregation, round, drawn_updates())
    means = [np.mean(each, axis=0) for each in zip(*map(products, own), strict=True)]
    for mean, found in zip(means, products(after), strict=True):
        np.testing.assert_allclose(found, mean, atol=1e-6)


def test_fedsa_means_a_exactly_and_leaves_every_b_alone() -> None:
    """Under the secure sum, to its quantisation: each silo's product has the mean A."""
    after, own = released("fedsa", 1, drawn_updates())
    of_a, of_b = (places(LAYOUT, (factor,)) for factor in BOTH)
    mean = np.mean(own, axis=0)
    for part in of_a:
        np.testing.assert_allclose(after[part], mean[part], atol=1e-7)
    # B of the global state is where it began, whatever the silos' are.
    before = to_float32(
        from_float32(
            LAYOUT, np.random.default_rng(3).normal(0, 0.3, 34).astype(np.float32)
        )
    )
    for part in of_b:
        np.testing.assert_array_equal(after[part], before[part])


def test_of_the_papers_method_it_is_not() -> None:
    after, own = released(None, 1, drawn_updates())
    means = [np.mean(each, axis=0) for each in zip(*map(products, own), strict=True)]
    off = max(np.abs(m - p).max() for m, p in zip(means, products(after), strict=True))
    assert off > 1e-4


@pytest.mark.parametrize(("round", "still"), [(1, "A"), (2, "B")])
def test_what_is_not_released_stays_and_its_moments_too(round: int, still: str) -> None:
    rule = FedAvgM()
    parts = places(LAYOUT, factors("alternating", round))
    params = release_sizes(SILOS, length=20, bound=0.05)
    state = with_moments(from_float32(LAYOUT, np.full(34, 0.1, np.float32)), rule)
    total = np.full(20, 1000, np.int32)
    after = apply_update(state, total, params, range(SILOS), rule, parts)
    moved = (after.values != state.values).reshape(2, 34)
    for row in moved:
        for part in parts:
            assert row[part].all()
        for part in places(LAYOUT, (still,)):
            assert not row[part].any()


def test_what_follows_a_shorter_release_moves_nothing() -> None:
    parts = places(LAYOUT, ("B",))
    params = release_sizes(SILOS, length=20, bound=0.05)
    state = from_float32(LAYOUT, np.zeros(34, np.float32))
    total = np.zeros(20, np.int32)
    total[14:] = 777
    after = apply_update(state, total, params, range(SILOS), released=parts)
    assert after.digest() == state.digest()


def test_a_part_longer_than_the_release_is_refused() -> None:
    params = release_sizes(SILOS, length=14, bound=0.05)
    state = from_float32(LAYOUT, np.zeros(34, np.float32))
    total, parts = np.zeros(14, np.int32), places(LAYOUT, ("A",))
    with pytest.raises(ProtocolError, match="doesn't fit 20"):
        apply_update(state, total, params, range(SILOS), released=parts)
    with pytest.raises(ProtocolError, match="doesn't fit 34"):
        apply_update(state, total, params, range(SILOS))
