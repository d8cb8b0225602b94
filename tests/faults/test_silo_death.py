"""Silos that die at each step of a round, and what it costs: whole daemons in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from small_federation import Killed, SmallFederation, found
from streams import step_of

from fedit_secure.aggregator.events import Event
from fedit_secure.errors import QuorumLost
from fedit_secure.federation.update import to_float32
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.life import MASKED, Life
from fedit_secure.wire import frames as f

SECONDS = 90


def charges(federation: SmallFederation, silo: str) -> int:
    """Intents in a silo's ledger: what it was charged for."""
    with open_journal(federation.root / silo) as journal:
        entries = journal.ledger(silo)
    return sum(json.loads(entry)["kind"] == "intent" for entry in entries)


def life(federation: SmallFederation, silo: str) -> Life:
    with open_journal(federation.root / silo) as journal:
        kept = journal.life(federation.charter.digest())
    return Life.from_bytes(kept) if kept else Life()


async def run(
    federation: SmallFederation,
    dying: dict[str, dict[str, type]],
    *,
    revive: bool,
    away_seconds: float = 0.0,
):
    """All silos; those in `dying` are killed there, and if `revive` restarted after
    `away_seconds`."""
    hub = federation.new_aggregator()

    async def silo(party):
        if party.name in dying:
            with pytest.raises(Killed):
                await federation.run_silo(party, lambda: hub, **dying[party.name])
            if not revive:
                return None
            await asyncio.sleep(away_seconds)
        return await federation.run_silo(party, lambda: hub)

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        silos = [group.create_task(silo(party)) for party in federation.silos]
        state = await hub.run()
    ends = [task.result() for task in silos]
    assert all(end is None or end.digest() == state.digest() for end in ends)
    return state


def assert_sum(
    federation: SmallFederation, state, round: int, names: list[str]
) -> None:
    bound = step_of(federation.charter.secagg_params()) + 2.0**-24
    error = np.abs(to_float32(state) - federation.mean_of(round, names)).max()
    assert error <= bound, error


async def test_all_silos_alive(tmp_path: Path) -> None:
    federation = found(tmp_path, 4)
    state = await run(federation, {}, revive=False)
    assert_sum(federation, state, 1, ["s0", "s1", "s2", "s3"])
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4


@pytest.mark.parametrize("at", [m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement])
async def test_one_of_five_dies_in_the_release(tmp_path: Path, at: type) -> None:
    federation = found(tmp_path, 5)
    state = await run(federation, {"s2": {"at_send": at}}, revive=False)
    summed = ["s0", "s1", "s3", "s4"] + (["s2"] if at is m.Agreement else [])
    assert_sum(federation, state, 1, summed)


async def test_one_of_five_dies_while_tuning(tmp_path: Path) -> None:
    federation = found(tmp_path, 5, tune_deadline_seconds=6.0)
    state = await run(federation, {"s2": {"at_send": f.Ready}}, revive=False)
    assert_sum(federation, state, 1, ["s0", "s1", "s3", "s4"])
    assert charges(federation, "s2") == 1


async def test_two_of_five_die_before_mask_and_it_costs_nothing(tmp_path: Path) -> None:
    """They vanish once U2 stands: the rest mask in vain, void by certificate, and the same
    updates enter the next attempt. Nobody is charged twice."""
    federation = found(tmp_path, 5)
    dying = {name: {"at_receive": m.ShareSet} for name in ("s1", "s3")}
    state = await run(federation, dying, revive=True)
    names = [f"s{i}" for i in range(5)]
    assert_sum(federation, state, 1, names)
    assert [charges(federation, name) for name in names] == [1] * 5
    assert all(len(federation.updates[name, 1]) == 1 for name in names)


async def test_two_of_five_die_after_mask_and_the_attempt_is_voided(
    tmp_path: Path,
) -> None:
    """The fuse is burnt, the upload never arrives: restarted silos void at once."""
    federation = found(tmp_path, 5)
    dying = {name: {"at_send": m.MaskedUpload} for name in ("s1", "s3")}
    state = await run(federation, dying, revive=True)
    names = [f"s{i}" for i in range(5)]
    assert_sum(federation, state, 1, names)
    assert [charges(federation, name) for name in names] == [1] * 5
    closed = life(federation, "s1").closed
    assert len(closed) >= 1
    assert "void" in [event.phase for event in federation.events]


async def test_a_silo_killed_at_the_mask_fuse_stays_masked_on_disk(
    tmp_path: Path,
) -> None:
    federation = found(tmp_path, 5)
    await run(federation, {"s2": {"at_send": m.MaskedUpload}}, revive=False)
    after = life(federation, "s2")
    assert (after.state, after.round) == (MASKED, 1)


async def test_silos_and_aggregator_restart_between_rounds(tmp_path: Path) -> None:
    federation = found(tmp_path, 4, rounds=3)
    certified = asyncio.Event()

    def watch(event: Event) -> None:
        if event.phase == "certified":
            certified.set()

    first = federation.new_aggregator(watch)
    silos = [
        asyncio.create_task(federation.run_silo(party, lambda: first))
        for party in federation.silos
    ]
    task = asyncio.create_task(first.run())
    async with asyncio.timeout(SECONDS):
        await certified.wait()
        for job in (task, *silos):
            job.cancel()
        await asyncio.gather(task, *silos, return_exceptions=True)
        state = await run(federation, {}, revive=False)
    total = sum(federation.mean_of(r, [f"s{i}" for i in range(4)]) for r in (1, 2, 3))
    assert np.abs(to_float32(state) - total).max() < 1e-5


async def test_withheld_reveals_skip_the_round_and_cost_one_charge(
    tmp_path: Path,
) -> None:
    """Two of four fall silent once they agreed: no sum, no void, but the run goes on."""
    federation = found(tmp_path, 4, rounds=2, phase_deadline_seconds=1.0)
    dying = {name: {"at_send": m.Reveal} for name in ("s1", "s3")}
    state = await run(federation, dying, revive=True, away_seconds=2.0)
    names = [f"s{i}" for i in range(4)]
    assert_sum(federation, state, 2, names)  # round 1 left the state as it was
    assert [charges(federation, name) for name in names] == [2] * 4
    assert "skipped" in [event.phase for event in federation.events]


async def test_silos_restarted_at_their_reveal_give_it_and_the_round_has_its_sum(
    tmp_path: Path,
) -> None:
    """They are back before the aggregator gives them up, with the reveal of the fuse."""
    federation = found(tmp_path, 4, phase_deadline_seconds=5.0)
    dying = {name: {"at_send": m.Reveal} for name in ("s1", "s3")}
    state = await run(federation, dying, revive=True)
    names = [f"s{i}" for i in range(4)]
    assert_sum(federation, state, 1, names)
    assert [charges(federation, name) for name in names] == [1] * 4
    assert "skipped" not in [event.phase for event in federation.events]


async def test_a_run_without_enough_silos_ends_everybody(tmp_path: Path) -> None:
    """Two of four never come: the rest isn't left waiting, and says why with status 8."""
    federation = found(
        tmp_path, 4, tune_deadline_seconds=4.0, phase_deadline_seconds=0.2
    )
    hub = federation.new_aggregator()
    present = [
        asyncio.create_task(federation.run_silo(party, lambda: hub))
        for party in federation.silos[:2]
    ]
    async with asyncio.timeout(SECONDS):
        with pytest.raises(QuorumLost, match="2 silos were ready in time, not 3"):
            await hub.run()
        ends = await asyncio.gather(*present, return_exceptions=True)
    assert [type(end) for end in ends] == [QuorumLost, QuorumLost]
    assert all(end.exit_status == 8 for end in ends)
