"""Real daemons, one fault each: what docs/operator.md says of it is what happens.

SIGKILL of either role as it enters each of its phases, a network that is gone for longer
than a phase may take, half-open connections, a second daemon with one identity, clocks
that are wrong by days, a charter of another epoch. After each: no charge below what was
sampled, no entry lost, the adapter that follows from the published sums, and every
process at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.real_federation import HUB, RealFederation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SECONDS = 300.0
SILOS, ROUNDS = 4, 3
VICTIM = "silo-1"
PHASE_SECONDS = 6.0
SCHEDULE = {"phase_deadline_seconds": PHASE_SECONDS, "silo_deadline_seconds": 12}
SILO_PHASES = (
    "tuning",
    "tuned",
    "advertise",
    "share",
    "mask",
    "agree",
    "reveal",
    "confirm",
    "applied",
)
HUB_PHASES = (
    "tuning",
    "advertise",
    "share",
    "mask",
    "agree",
    "reveal",
    "confirm",
    "certified",
)


class Struck:
    """Calls `strike` the first time that the party is in this phase of round 2."""

    def __init__(self, party: str, phase: str, strike: Callable[[], None]) -> None:
        self.party, self.phase, self._strike = party, phase, strike
        self.done = asyncio.Event()

    def __call__(self, party: str, event: dict[str, Any]) -> None:
        own = party == self.party and event.get("silo", "") == (
            "" if party == HUB else party
        )
        here = own and (event["round"], event["phase"]) == (2, self.phase)
        if here and not self.done.is_set():
            self.done.set()
            self._strike()


@pytest.fixture
def federation(tmp_path: Path) -> RealFederation:
    return RealFederation(tmp_path / "all", ROUNDS, SILOS, schedule=SCHEDULE)


def whole(federation: RealFederation) -> None:
    """All rounds are certified, and nothing of them is wrong or lost."""
    assert federation.run_folder().progress.certified == ROUNDS
    federation.check()


@pytest.mark.parametrize("phase", SILO_PHASES)
async def test_a_silo_killed_in_each_phase(
    federation: RealFederation, phase: str
) -> None:
    """It comes back after the others may have gone on, and all end with the same state."""
    async with federation:
        victim = federation.running[VICTIM]
        federation.on_event = struck = Struck(VICTIM, phase, victim.kill)
        async with asyncio.timeout(SECONDS):
            await struck.done.wait()
        await federation.kill(VICTIM)
        await asyncio.sleep(1.0)
        await federation.start(VICTIM)
        await federation.ended(SECONDS)
    whole(federation)
    assert federation.ends[VICTIM] == [-signal.SIGKILL, 0]
    assert {federation.ends[p][-1] for p in federation.running} == {0}


@pytest.mark.parametrize("phase", HUB_PHASES)
async def test_the_aggregator_killed_in_each_phase(
    federation: RealFederation, phase: str
) -> None:
    async with federation:
        hub = federation.running[HUB]
        federation.on_event = struck = Struck(HUB, phase, hub.kill)
        async with asyncio.timeout(SECONDS):
            await struck.done.wait()
        await federation.kill(HUB)
        await federation.start(HUB)
        await federation.ended(SECONDS)
    whole(federation)
    assert federation.ends[HUB][0] == -signal.SIGKILL
    assert {federation.ends[p][-1] for p in federation.running} == {0}


async def test_words_that_a_restarted_aggregator_hears_before_it_goes_on(
    tmp_path: Path,
) -> None:
    """It is killed with a sum published, and two silos stand still until the other two have
    said to the next process what they confirm, which they say to it once: without these
    words there would never be enough.

    The two are stopped as the sum is published, and may be too late for it: then the same
    is tried in the next round.
    """
    rounds, late = 8, ("silo-2", "silo-3")
    federation = RealFederation(tmp_path / "all", rounds, SILOS, schedule=SCHEDULE)
    said: dict[int, set[str]] = defaultdict(set)
    moved = asyncio.Event()

    def signal_late(number: int) -> None:
        for name in late:
            federation.running[name].send_signal(number)

    def note(party: str, event: dict[str, Any]) -> None:
        if event["phase"] != "confirm" or event["round"] < 2:
            return
        if party == HUB and not event.get("silo"):
            signal_late(signal.SIGSTOP)
        elif party != HUB:
            said[event["round"]].add(party)
            moved.set()

    async with federation, asyncio.timeout(SECONDS):
        federation.on_event = note
        for now in range(2, rounds):
            while not {"silo-0", "silo-1"} <= said[now]:
                await moved.wait()
                moved.clear()
            await federation.kill(HUB)
            in_time = federation.run_folder().progress.certified < now
            if in_time:
                federation.on_event = lambda party, event: None
            await federation.start(HUB)
            if in_time:
                break
            signal_late(signal.SIGCONT)
        assert in_time, (
            "the sum was certified in every round before two silos stood still"
        )
        while federation.log(HUB).read_text().count("serving") < now:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        # What they confirm comes right behind the connection, which is soon made anew.
        await asyncio.sleep(5.0)
        assert federation.run_folder().progress.certified < now
        signal_late(signal.SIGCONT)
        await federation.ended(SECONDS)
    assert federation.run_folder().progress.certified == rounds
    federation.check()
    assert {federation.ends[p][-1] for p in federation.running} == {0}


@pytest.mark.parametrize("forget", [False, True], ids=["stands-still", "half-open"])
@pytest.mark.parametrize("phase", ["tuning", "share", "mask", "reveal"])
async def test_a_line_that_is_dead_for_longer_than_a_phase(
    federation: RealFederation, phase: str, forget: bool
) -> None:
    """Nobody is told: packets vanish, and with `forget` the connection is gone after it."""
    dead: set[asyncio.Task[None]] = set()

    def strike() -> None:
        silence = federation.relays[VICTIM].silence(2 * PHASE_SECONDS, forget=forget)
        dead.add(asyncio.create_task(silence))

    async with federation:
        federation.on_event = struck = Struck(VICTIM, phase, strike)
        async with asyncio.timeout(SECONDS):
            await struck.done.wait()
        await federation.ended(SECONDS)
        await asyncio.gather(*dead)
    whole(federation)
    assert {federation.ends[p][-1] for p in federation.running} == {0}


async def test_a_silo_that_stands_still_holds_nobody_up(
    federation: RealFederation,
) -> None:
    """SIGSTOP in the middle of a release; it goes on, and is in the later rounds."""
    async with federation:
        victim = federation.running[VICTIM]

        def strike() -> None:
            victim.send_signal(signal.SIGSTOP)

        federation.on_event = struck = Struck(VICTIM, "mask", strike)
        async with asyncio.timeout(SECONDS):
            await struck.done.wait()
            while 2 not in federation.certified | federation.skipped:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        victim.send_signal(signal.SIGCONT)
        await federation.ended(SECONDS)
    whole(federation)
    assert federation.ends[VICTIM] == [0]


async def test_a_second_daemon_with_the_same_identity_ends(
    federation: RealFederation,
) -> None:
    """On a copy of the state folder, which no lock can notice: one of the two stays."""
    async with federation:
        federation.on_event = struck = Struck(VICTIM, "tuning", lambda: None)
        async with asyncio.timeout(SECONDS):
            await struck.done.wait()
        copy = federation.home("twin")
        shutil.copytree(federation.home(VICTIM), copy)
        federation.federation.silos["twin"] = federation.federation.silos[VICTIM]
        await federation.start("twin")
        async with asyncio.timeout(SECONDS):
            twins = [federation.running[name] for name in (VICTIM, "twin")]
            waiting = [asyncio.create_task(twin.wait()) for twin in twins]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await federation.ended(SECONDS)
        await asyncio.gather(*waiting)
    statuses = sorted(federation.ends[VICTIM] + federation.ends["twin"])
    assert statuses[-1] in (2, 10), statuses  # turned away, or its copy is behind
    said = federation.words(VICTIM) + federation.words("twin")
    assert "connected a second time" in said or "entries" in said
    assert not federation.below(VICTIM)
    state = federation.recomputed()
    assert federation.run_folder().state().digest() == state.digest()


@pytest.mark.parametrize("days", [-200, 3], ids=["expired", "of-the-future"])
async def test_a_clock_that_is_wrong_by_days(
    federation: RealFederation, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leaf isn't valid: it ends with status 2 and nothing charged; the others go on."""
    monkeypatch.setenv("SOAK_CLOCK_DAYS", str(days))
    monkeypatch.setenv("SOAK_CLOCK_OF", VICTIM)
    async with federation:
        async with asyncio.timeout(SECONDS):
            await federation.running[VICTIM].wait()
        await federation.ended(SECONDS)
    assert federation.ends[VICTIM] == [2]
    assert "certificate" in federation.words(VICTIM)
    assert federation.charges(VICTIM) == []
    others = [name for name in federation.names if name != VICTIM]
    assert {federation.ends[p][-1] for p in (HUB, *others)} == {0}
    assert federation.run_folder().progress.certified == ROUNDS
    state = federation.recomputed()
    assert federation.run_folder().state().digest() == state.digest()


async def test_a_silo_of_another_charter_is_told_so(
    federation: RealFederation, tmp_path: Path
) -> None:
    other = RealFederation(tmp_path / "other", ROUNDS, SILOS, schedule=SCHEDULE)
    # The other run's silo has our aggregator's address, and its own charter.
    address = json.dumps({"address": federation.charter.aggregator.address})
    async with federation:
        environment = {"FEDIT_AGGREGATOR__ADDRESS": json.loads(address)["address"]}
        os.environ.update(environment)
        try:
            await other.start(VICTIM)
        finally:
            for key in environment:
                del os.environ[key]
        async with asyncio.timeout(SECONDS):
            await other.running[VICTIM].wait()
        await federation.ended(SECONDS)
    assert other.ends[VICTIM] == [2]  # its issuer is pinned by nobody here
    assert other.charges(VICTIM) == []
    whole(federation)
