"""A small fixed budget for every parser; `make fuzz` has a large one."""

from __future__ import annotations

from random import Random

import pytest
from fuzz.damage import damaged
from fuzz.targets import TARGETS, Target, tried
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
EACH = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


def fixed(examples: int) -> settings:
    """A budget that draws the same inputs every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@EACH
def test_every_sample_is_taken_as_it_is(target: Target) -> None:
    assert target.samples
    # The first time, what is imported or cached once isn't the input's memory.
    taken = [tried(target, data) for data in target.samples]
    assert taken == [tried(target, data, measured=True) for data in target.samples]
    wrong = 1 if target.name == "head receipt" else 0
    assert taken.count(False) == wrong


@EACH
def test_damage_is_refused_by_name_or_harmless(target: Target) -> None:
    taken = [tried(target, data) for data in (*target.samples, b"", b"{}")]

    @fixed(50)
    @given(rng=st.randoms(use_true_random=False))
    def over(rng: Random) -> None:
        data = damaged(rng, target.samples, target.mutators)
        taken.append(tried(target, data, measured=True))

    over()
    assert taken.count(False) >= 20  # the damage does damage


@EACH
def test_noise_is_refused_by_name(target: Target) -> None:
    taken = [tried(target, data) for data in (*target.samples, b"", b"{}")]

    @fixed(30)
    @given(data=st.binary(max_size=300), start=st.integers(0, 40))
    def over(data: bytes, start: int) -> None:
        taken.append(tried(target, data, measured=True))
        after = target.samples[0][:start] + data
        taken.append(tried(target, after, measured=True))

    over()
    assert taken.count(False) >= 20
