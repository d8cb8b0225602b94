"""The same parsers for minutes: `make fuzz`.

FUZZ_MINUTES shares its time among the parsers, FUZZ_EXAMPLES gives each so many inputs,
FUZZ_SEED repeats a run, FUZZ_ONLY names some parsers. Every input follows from the seed,
the parser's name and its number, which a failure tells.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from random import Random

import pytest
from fuzz.damage import damaged
from fuzz.targets import TARGETS, Target, tried

SEED = os.environ.get("FUZZ_SEED") or secrets.token_hex(4)
MINUTES = float(os.environ.get("FUZZ_MINUTES") or 0)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0) or (10**12 if MINUTES else 2_000)
CHOSEN = [
    name for name in TARGETS if (os.environ.get("FUZZ_ONLY") or "").strip() in name
]
MEASURED = 8  # memory is traced for one input in so many: tracing is slow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]


@pytest.mark.parametrize("name", CHOSEN)
def test_fuzz(name: str, record_property: Callable[[str, object], None]) -> None:
    target = TARGETS[name]
    for data in (*target.samples, b"", b"{}"):
        tried(target, data)  # what is cached once isn't an input's memory
    end = time.monotonic() + 60 * MINUTES / len(CHOSEN) if MINUTES else float("inf")
    taken = [0, 0]
    number = 0
    try:
        while number < EXAMPLES and (number < 100 or time.monotonic() < end):
            taken[one(target, number)] += 1
            number += 1
    finally:
        record_property("fuzz", (name, taken[True], taken[False], SEED))
    assert taken[False] > number // 4  # the damage does damage


def one(target: Target, number: int) -> bool:
    """Try one input; a failure says which."""
    rng = Random(f"{SEED}/{target.name}/{number}")
    data = damaged(rng, target.samples, target.mutators)
    try:
        return tried(target, data, measured=number % MEASURED == 0)
    except BaseException as error:
        error.add_note(
            f"{target.name}, FUZZ_SEED={SEED}, input {number}, {len(data)} bytes: "
            f"{data[:500].hex()}"
        )
        raise
