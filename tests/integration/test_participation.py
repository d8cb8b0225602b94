"""Rounds that are drawn for some of the silos, over in-memory links and real journals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from small_federation import LENGTH, Killed, SmallFederation, found

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.audit.bundle import Maker
from fedit_secure.audit.evidence.export import export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.audit.facts import Audit
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.errors import QuorumLost
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.privacy import ledger as pl
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal

SECONDS = 200  # for a slow machine


async def run(
    federation: SmallFederation,
    away: Iterable[str] = (),
    told: dict[str, list[tuple[int, str]]] | None = None,
    patience: float | None = None,
) -> list[object]:
    """One life of all daemons but those away: how the aggregator's ended, then the silos'.
    `patience`: seconds that the aggregator waits for silos to tune, by default the charter's.
    """
    hub = federation.new_aggregator()
    if patience is not None:
        change = {"tune_deadline_seconds": patience}
        hub._here._schedule = federation.charter.schedule.model_copy(update=change)
    here = [silo for silo in federation.silos if silo.name not in away]

    def hears(name: str):
        heard = ({} if told is None else told).setdefault(name, [])
        return lambda round, phase: heard.append((round, phase))

    async with asyncio.timeout(SECONDS):
        return await asyncio.gather(
            hub.run(),
            *(
                federation.run_silo(silo, lambda: hub, on_event=hears(silo.name))
                for silo in here
            ),
            return_exceptions=True,
        )


def all_differ(charter: Charter) -> bool:
    """Whether each round is of other silos."""
    cohorts, rounds = Cohorts(charter), range(1, charter.rounds + 1)
    return len({cohorts.of(now) for now in rounds}) == charter.rounds


def charged(federation: SmallFederation, name: str) -> list[int]:
    """The rounds that a silo's ledger has a charge for."""
    silo = next(s for s in federation.silos if s.name == name)
    with open_journal(federation.root / name) as journal:
        _, _, entries = federation.books(silo, journal).signed_ledger()
    events = pl.Ledger.from_entries(name, entries).events
    return [event.round for event in events if isinstance(event, pl.Intent)]


def step(federation: SmallFederation) -> float:
    params = federation.charter.secagg_params()
    return params.bound / params.magnitude


async def test_each_round_is_of_the_silos_that_it_is_drawn_for(tmp_path: Path) -> None:
    """Five silos, of which three are drawn for each of three rounds: only they tune, are
    charged and are in the sum, whose mean is over them. The rest sits the round out, and
    ends in the same state as everybody."""
    federation, told = found(tmp_path, 5, rounds=3, drawn=3, fits=all_differ), {}
    cohorts = Cohorts(federation.charter)
    final, *states = await run(federation, told=told)
    assert isinstance(final, GridState), final
    assert {state.digest() for state in states} == {final.digest()}
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    expected = np.zeros(LENGTH)
    for now in (1, 2, 3):
        assert folder.contributors(now) == cohorts.of(now)
        proof = folder.certificate(now)
        assert {word.silo for word in proof.confirmations} == set(cohorts.of(now))
        expected += federation.mean_of(now, list(cohorts.names(now)))
    np.testing.assert_allclose(to_float32(final), expected, atol=3 * step(federation))
    for silo in federation.silos:
        index = federation.charter.silo_index(silo.name)
        mine = [now for now in (1, 2, 3) if cohorts.takes(now, index)]
        assert charged(federation, silo.name) == mine
        assert [r for name, r in federation.updates if name == silo.name] == mine
        out = {now for now, phase in told[silo.name] if phase == "undrawn"}
        assert out == {1, 2, 3} - set(mine)
        worked = {now for now, phase in told[silo.name] if phase == "tuning"}
        assert worked == set(mine)
        shown = {e.round for e in federation.events
                 if e.silo == silo.name and e.phase == "undrawn"}  # fmt: skip
        assert shown == out
    audit = audited(federation)
    assert [fault for verdict in audit.verdicts for fault in verdict.faults] == []
    assert audit.passed
    assert audit.plan["silos_per_round"] == 3
    for ended in audit.rounds:
        assert ended.drawn == ended.contributors == cohorts.names(ended.round)


def audited(federation: SmallFederation) -> Audit:
    """What an auditor finds in the bundle of the run."""
    cards = [party.card for party in (*federation.silos, federation.aggregator)]
    evidence = run_evidence(federation.root / "run", federation.charter, cards=cards)
    path = federation.root / "bundle.zip"
    export_bundle(
        path,
        evidence.pieces,
        maker=Maker(role="aggregator", name="hub"),
        charter=federation.charter.digest(),
        key=federation.aggregator.signing,
        replace=False,
    )
    return audit_bundle(path)


async def test_a_failed_attempt_is_made_again_by_the_same_silos(tmp_path: Path) -> None:
    """A drawn silo dies while it uploads, and comes back: the attempt is void, and the next
    one is of the same silos. Nobody was chosen by a death, and nothing was charged again."""
    federation = found(tmp_path, 5, rounds=1, drawn=3, silo_deadline_seconds=3.0)
    cohorts = Cohorts(federation.charter)
    names = cohorts.names(1)
    hub = federation.new_aggregator()

    async def dies_once(silo) -> object:
        with pytest.raises(Killed):
            await federation.run_silo(silo, lambda: hub, at_send=m.Agreement)
        return await federation.run_silo(silo, lambda: hub)

    async with asyncio.timeout(SECONDS):
        final, *_ = await asyncio.gather(
            hub.run(),
            *(
                dies_once(silo)
                if silo.name == names[1]
                else federation.run_silo(silo, lambda: hub)
                for silo in federation.silos
            ),
        )
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    assert folder.contributors(1) == cohorts.of(1)
    assert [charged(federation, name) for name in names] == [[1]] * 3
    assert any(event.phase == "voided" for event in federation.events)
    expected = federation.mean_of(1, list(names))
    np.testing.assert_allclose(to_float32(final), expected, atol=step(federation))


async def test_a_silo_that_is_down_for_good_loses_the_quorum(tmp_path: Path) -> None:
    """Nobody is drawn in its place, now or at the next start; once it is back, the run goes
    on in the round in which it stopped."""
    federation = found(tmp_path, 5, rounds=2, drawn=3)
    cohorts = Cohorts(federation.charter)
    down = cohorts.names(1)[0]
    for _ in range(2):
        ended, *silos = await run(federation, away=[down], patience=1.0)
        assert isinstance(ended, QuorumLost), ended
        assert re.fullmatch(r"[0-2] silos were ready in time, not 3", str(ended))
        assert {getattr(silo, "exit_status", None) for silo in silos} == {8}
    others = set(range(5)) - set(cohorts.of(1))
    assert all(not charged(federation, f"s{i}") for i in others)
    final, *states = await run(federation)
    assert isinstance(final, GridState), final
    assert {state.digest() for state in states} == {final.digest()}
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    assert [folder.contributors(now) for now in (1, 2)] == [
        cohorts.of(1),
        cohorts.of(2),
    ]


async def test_a_restarted_aggregator_goes_on_with_the_same_silos(
    tmp_path: Path,
) -> None:
    """It dies between two rounds; some silos are away at first, and it matters only whether
    they are drawn."""
    federation = found(tmp_path, 5, rounds=2, drawn=3, fits=all_differ)
    cohorts = Cohorts(federation.charter)
    left: list[Aggregator] = []

    def one_round() -> bool:
        return left[0]._folder.progress.certified < 1

    hub = federation.new_aggregator()
    left.append(hub)
    async with asyncio.timeout(SECONDS):
        silos = [
            asyncio.ensure_future(federation.run_silo(silo, lambda: hub))
            for silo in federation.silos
        ]
        await hub.run(one_round)
        for silo in silos:
            silo.cancel()
        await asyncio.gather(*silos, return_exceptions=True)
    out = [f"s{i}" for i in range(5) if i not in cohorts.of(2)]
    final, *states = await run(federation, away=out)
    assert isinstance(final, GridState), final
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    assert folder.contributors(2) == cohorts.of(2)
    # Those who were away take the certified end when they come.
    final, *states = await run(federation)
    assert {state.digest() for state in states} == {final.digest()}
    assert len(states) == 5
