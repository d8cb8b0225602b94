"""Messages that are stale, between real processes over gRPC with mutual TLS: of the round
before, of another attempt, of another run.

Whoever sends them is known and has signed them. To the aggregator they are a silo's late
words: they change nothing, and the round has the sum of all. A silo that is shown them
leaves the attempt and blames the aggregator; the others go on, and it is charged nothing
more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults.real_federation import HUB, TESTS, RealFederation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]

SECONDS = 700.0
SILOS = 4
VICTIM = "silo-1"
# Nobody is given up for being slow: whose update is in a sum is what is tested.
SCHEDULE = {"tune_deadline_seconds": 600, "phase_deadline_seconds": 200}
SCHEDULE |= {"silo_deadline_seconds": 400}
SPARE = 3  # rounds: a message is stale only where one of its kind came before
EVERYWHERE = ("attempt", "round", "run")  # what each message can be stale by
ELSEWHERE = ("round", "run")  # what names no attempt

BY_A_SILO = {
    "Ready": ("round",),
    "Advert": EVERYWHERE,
    "ShareBundle": EVERYWHERE,
    "MaskedUpload": EVERYWHERE,
    "Agreement": EVERYWHERE,
    "Reveal": EVERYWHERE,
    "Confirmation": ELSEWHERE,
}
# What the aggregator sends, and whether the silo's update is in the sum all the same; None
# where it may be: an attempt that it left may have been closed before it entered again.
BY_THE_AGGREGATOR: dict[str, tuple[tuple[str, ...], bool | None]] = {
    "RoundOffer": (ELSEWHERE, True),
    "Offer": (ELSEWHERE, None),
    "AdvertSet": (EVERYWHERE, False),
    "ShareSet": (EVERYWHERE, False),
    "UploadAck": (EVERYWHERE, True),
    "SurvivorSet": (EVERYWHERE, True),
    "AgreementSet": (EVERYWHERE, True),
    "PublishedSum": (("round",), True),
    "RoundCertificate": (("round",), True),
}


def replaying(folder: Path, party: str, kinds: list[str]) -> RealFederation:
    """From round 2 on this party says these kinds again, one a round."""
    rounds = 1 + len(kinds) + SPARE
    federation = RealFederation(folder, rounds, SILOS, schedule=SCHEDULE)
    plan = folder / "plan.json"
    plan.write_text(json.dumps(kinds))
    program = str(TESTS / "faults" / "replaying_daemon.py")
    federation.programs[party] = (program,)
    federation.environments[party] = {
        "REPLAY_PLAN": str(plan),
        "REPLAY_SAID": str(folder / "said"),
        "REPLAY_TO": VICTIM,
    }
    return federation


async def ended(federation: RealFederation) -> None:
    async with federation:
        await federation.ended(SECONDS)
    federation.check()
    # An aggregator may be started once more, for a silo that was slow to end.
    assert {end for ends in federation.ends.values() for end in ends} == {0}
    assert federation.run_folder().progress.certified == federation.rounds
    rounds = [*range(1, federation.rounds + 1)]
    assert all(federation.charges(name) == rounds for name in federation.names)


def said(folder: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """What was said again, by kind and by what it was stale by: the round, and the error
    where the answer was one."""
    lines = [json.loads(line) for line in (folder / "said").read_text().splitlines()]
    return {(kind, stale): (round, error) for round, kind, stale, error in lines}


async def test_stale_messages_to_the_aggregator(tmp_path: Path) -> None:
    kinds = list(BY_A_SILO)
    federation = replaying(tmp_path / "all", VICTIM, kinds)
    await ended(federation)
    heard = said(federation.folder)
    assert set(heard) == {(kind, stale) for kind in kinds for stale in BY_A_SILO[kind]}
    for (kind, _), (_, error) in heard.items():
        # An upload has an answer; any other message is one among many.
        refused = "that attempt takes no uploads" in error
        assert refused if kind == "MaskedUpload" else not error
    folder, everyone = federation.run_folder(), tuple(range(SILOS))
    for round in range(1, federation.rounds + 1):
        assert folder.contributors(round) == everyone, round


async def test_stale_messages_to_a_silo(tmp_path: Path) -> None:
    kinds = list(BY_THE_AGGREGATOR)
    federation = replaying(tmp_path / "all", HUB, kinds)
    await ended(federation)
    heard = said(federation.folder)
    assert set(heard) == {
        (kind, stale) for kind in kinds for stale in BY_THE_AGGREGATOR[kind][0]
    }
    assert not any(error for _, error in heard.values())
    log, folder = federation.log(VICTIM).read_text(), federation.run_folder()
    blamed = [json.loads(line)["text"] for line in log.splitlines()]
    victim = federation.charter.silo_index(VICTIM)
    rounds = {kind: round for (kind, _), (round, _) in heard.items()}
    for kind, round in rounds.items():
        counted = BY_THE_AGGREGATOR[kind][1]
        if counted is not None:
            assert (victim in folder.contributors(round)) == counted, kind
        others = {*range(SILOS)} - {victim}
        assert others <= set(folder.contributors(round)), kind
        if kind != "RoundCertificate":  # the last round's changes nothing
            begins = f"round {round}: the aggregator is faulty: "
            assert any(text.startswith(begins) for text in blamed), kind
