"""Runs a case of a release on the real state machines, from what the files say alone.

A party starts afresh, takes the messages that the case lists, one by one, and performs
nothing: what it does about the last of them is the case's outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from vectors.notation import patched, read, write
from vectors.world import AGGREGATOR, World

from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.protocol import aggregator_step, open_attempt, silo_step

Written = Mapping[str, dict[str, Any]]  # the messages of the release, by name


@dataclass(frozen=True)
class Step:
    """One transition: what took what, and what came of it."""

    before: Any
    message: Any
    after: Any
    effects: tuple[Any, ...]
    total_before: Any = None  # the aggregator's running sum, which grows in place


def party_of(case: Mapping[str, Any]) -> int:
    """The roster index of the silo that the case is about; AGGREGATOR for all else."""
    kind, _, index = str(case["party"]).partition(" ")
    return int(index) if kind == "silo" else AGGREGATOR


def message_of(
    world: World, messages: Written, case: Mapping[str, Any], at: str
) -> Any:
    """The message of this name as the case has it."""
    if at == "deadline":
        return m.Deadline()
    if at == "applied":
        return m.StateApplied(bytes.fromhex(world.setting["state_digest_after"]))
    return read(patched(messages[at], case.get("changes", {}).get(at, [])))


def start(world: World, party: int) -> Any:
    """A party's state before its first message."""
    if party != AGGREGATOR:
        return world.invited(party)
    silos = range(world.params.silos)
    return open_attempt(world.session, world.key(AGGREGATOR), silos)[0]


def take(world: World, party: int, state: Any, name: str, message: Any) -> Step:
    """One transition. Raises what the party raises."""
    total = np.copy(getattr(getattr(state, "masking", state), "total", np.zeros(0)))
    if party == AGGREGATOR:
        return Step(state, message, *aggregator_step(state, message), total)
    rand = world.random(party, name)
    after, effects = silo_step(state, message, rand)
    assert not rand.left, f"silo {party} drew less than is written down"
    return Step(state, message, after, effects)


def run(world: World, messages: Written, case: Mapping[str, Any]) -> Step:
    """The last transition of a case. Its error is raised; one before it is a failure."""
    *before, last = case["takes"]
    if case["party"] == "anybody":
        shown = message_of(world, messages, case, last)
        return Step(None, shown, None, JUDGES[type(shown)](world, shown))
    party = party_of(case)
    state = start(world, party)
    for name in before:
        message = message_of(world, messages, case, name)
        try:
            state = take(world, party, state, name, message).after
        except Exception as error:
            what = f"{case['name']}: {name} must be accepted, but {error}"
            raise AssertionError(what) from error
    message = message_of(world, messages, case, last)
    return take(world, party, state, last, message)


def outcome(step: Step) -> list[Any]:
    """What a step gives, in order: the kinds of fuses, "release", and messages."""
    given: list[Any] = []
    for effect in step.effects:
        if isinstance(effect, m.Fuse):
            given.append(f"fuse {effect.kind}")
        elif isinstance(effect, m.Release):
            given.append("release")
        elif isinstance(effect, m.Send):
            written = write(effect.message)
            given += [written] if written not in given else []  # one to all counts once
    return given


def _void(world: World, shown: m.VoidCertificate) -> tuple[Any, ...]:
    checks.void_certificate(world.roster, world.params, shown)
    return ()


def _round(world: World, shown: m.RoundCertificate) -> tuple[Any, ...]:
    size, charter = world.params, world.session.charter
    checks.certified(world.roster, charter, shown, size.threshold)
    return ()


# What anybody can check without being in the attempt.
JUDGES: dict[type, Callable[[World, Any], tuple[Any, ...]]] = {
    m.VoidCertificate: _void,
    m.RoundCertificate: _round,
}
