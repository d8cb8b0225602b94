"""A federation of real processes for a hundred rounds, in which things go wrong all the
time: `make soak`.

ROUNDS says how many rounds, MINUTES after how many it is enough, SEED repeats the faults
(not the moments at which they meet the processes). Every few seconds a silo or the
aggregator is killed, stopped or stands still, or a silo's line is cut or goes dead. The
figures are one line of JSON, and are added to `runs/soak.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from faults.real_federation import HUB, RealFederation

SEED = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
ROUNDS = int(os.environ.get("SOAK_ROUNDS") or 100)
MINUTES = float(os.environ.get("SOAK_MINUTES") or 30)
KEPT = Path("runs/soak.jsonl")
HANG_SECONDS = 300.0  # without a round's end; a deadline of the charter is 120 at most
FAULTS_A_ROUND = 1.0
CALM = 1  # rounds at the end in which nothing is done to anybody
FAULTS = {
    "silo killed": 5,
    "aggregator killed": 2,
    "silo stopped": 1,
    "aggregator stopped": 1,
    "silo stands still": 2,
    "line cut": 4,
    "line dead, then alive": 2,
    "line dead, then cut": 2,
}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * MINUTES + 900)]


class Soak:
    """One run of it; `injected` counts the faults by their kind."""

    def __init__(self, federation: RealFederation) -> None:
        self.of, self.chance = federation, Random(SEED)
        self.injected: Counter[str] = Counter()
        self.hangs = 0
        self.unexpected: list[str] = []
        self._killing: set[str] = set()
        self._restarts = 0

    @property
    def done(self) -> int:
        """The last round that has ended."""
        return max((0, *self.of.certified, *self.of.skipped))

    async def run(self) -> None:
        """Until all daemons have ended, or it is enough, or something hangs."""
        until = time.monotonic() + 60 * MINUTES
        jobs: set[asyncio.Task[None]] = set()
        try:
            while not all(map(self.of.stopped, self.of.running)) and not self.hangs:
                if time.monotonic() > until:
                    break
                for job in [job for job in jobs if job.done()]:
                    jobs.discard(job)
                    job.result()
                if self._due() and len(jobs) < 2:
                    jobs.add(asyncio.create_task(self._fault()))
                await asyncio.sleep(self.chance.uniform(0.5, 3.0))
                await self._see_to_the_dead()
                if time.monotonic() - self.of.moved > HANG_SECONDS:
                    self.hangs += 1
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    def _due(self) -> bool:
        """Faults keep step with rounds, and come now and then where no round ends."""
        waited = (time.monotonic() - self.of.moved) / 30
        due = FAULTS_A_ROUND * (1 + self.done) + waited
        return self.done < self.of.rounds - CALM and self.injected.total() < due

    async def _fault(self) -> None:
        kinds = list(FAULTS)
        kind = self.chance.choices(kinds, list(FAULTS.values()))[0]
        silo = self.chance.choice(self.of.names)
        party = HUB if kind.startswith("aggregator") else silo
        if party in self._killing or self.of.stopped(party):
            return
        self.injected[kind] += 1
        pause, relay = self.chance.uniform(0.0, 3.0), self.of.relays[silo]
        self._killing.add(party)
        try:
            if kind.endswith(("killed", "stopped")):
                number = signal.SIGKILL if kind.endswith("killed") else signal.SIGTERM
                await self.of.kill(party, number)
                await asyncio.sleep(pause)
                await self.of.start(party)
            elif kind == "line cut":
                await relay.cut()
            elif kind.startswith("line dead"):
                await relay.silence(4 * pause, forget=kind.endswith("cut"))
            else:
                process = self.of.running[party]
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(4 * pause)
                    process.send_signal(signal.SIGCONT)
        finally:
            self._killing.discard(party)

    async def _see_to_the_dead(self) -> None:
        """A process that nobody killed and that failed is started again, as by systemd."""
        for party, process in list(self.of.running.items()):
            if party in self._killing or process.returncode in (None, 0):
                continue
            words = self.of.words(party)
            self.unexpected.append(f"{party} ended with {process.returncode}: {words}")
            self._restarts += 1
            assert self._restarts < 50, self.unexpected
            await self.of.start(party)

    def figures(self, seconds: float) -> dict[str, object]:
        """What came of it."""
        of = self.of
        progress = of.run_folder().progress
        same = of.recomputed().digest() == of.run_folder().state().digest()
        return {
            "rounds_finished": progress.certified,
            "rounds_skipped": len(of.skipped),
            "faults": dict(sorted(self.injected.items())),
            "faults_injected": self.injected.total(),
            "attempts_voided": of.events["void"],
            "bytes_lost": of.lost_bytes(),
            "charges_below_spend": sum(of.below(name) for name in of.names),
            "charges": sum(len(of.charges(name)) for name in of.names),
            "sampled": sum(len(of.sampled(name)) for name in of.names),
            "hangs": self.hangs,
            "unexpected_ends": self.unexpected,
            "adapter_equals_recomputed": same,
            "seconds": round(seconds, 1),
            "seed": SEED,
        }


def keep(line: str) -> None:
    """Add it to the figures of earlier runs."""
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


async def test_a_hundred_rounds(tmp_path: Path) -> None:
    began = time.monotonic()
    federation = RealFederation(tmp_path / "soak", ROUNDS)
    soak = Soak(federation)
    async with federation:
        await soak.run()
        whole = all(map(federation.stopped, federation.running))
        if not whole:  # it is enough, or something hangs
            for party in federation.running:
                await federation.kill(party)
    figures = soak.figures(time.monotonic() - began)
    line = json.dumps(figures, sort_keys=True)
    sys.stdout.write(f"\n{line}\n")
    keep(line)
    federation.check()
    assert (figures["hangs"], figures["bytes_lost"]) == (0, 0)
    assert figures["charges_below_spend"] == 0
    assert figures["adapter_equals_recomputed"]
    assert not [end for end in soak.unexpected if " ended with 5" in end]
    if whole:
        assert figures["rounds_finished"] == ROUNDS
        assert {ends[-1] for ends in federation.ends.values()} == {0}
