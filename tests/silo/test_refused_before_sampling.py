"""A run that would exceed a cap never samples a record, whenever that comes out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from small_federation import POLICY, found

from fedit_secure.errors import BudgetExhausted
from fedit_secure.federation.policy import Policy
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo.books import Books
from fedit_secure.silo.ledger_opening import open_journal

SECONDS = 60
TIGHT = {
    "in all": {"epsilon": 0.5},
    "in any one run": {"epsilon_per_run": 0.5},
    "in any 90 days": {"windows": [{"days": 90, "epsilon": 0.5}]},
}


def tightened(covers: str) -> Policy:
    return Policy.model_validate(POLICY.model_dump() | TIGHT[covers])


@pytest.mark.parametrize("covers", TIGHT)
async def test_a_daemon_over_a_cap_does_not_even_dial(
    tmp_path: Path, covers: str
) -> None:
    federation = found(tmp_path, 3)
    own = federation.silos[0]
    federation.policies["s0"] = tightened(covers)

    def hub() -> None:
        pytest.fail("it dialled")

    with pytest.raises(BudgetExhausted, match=covers) as caught:
        await federation.run_silo(own, hub)  # type: ignore[arg-type]
    assert caught.value.exit_status == 7
    assert federation.updates == {}  # its tuning was never called
    with open_journal(federation.root / "s0") as journal:
        assert journal.ledger("s0") == ()


@pytest.mark.parametrize("covers", TIGHT)
async def test_a_charge_over_a_cap_is_refused_at_the_last_moment(
    tmp_path: Path, covers: str
) -> None:
    """The policy admitted the run, and is tightened while the base model is loaded."""
    federation, reached = found(tmp_path, 4), []
    hub = federation.new_aggregator()

    def tighten(books: Books) -> None:
        reached.append(covers)
        books._policy = tightened(covers)

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        for party in federation.silos:
            last = {"before_charge": tighten} if party.name == "s2" else {}
            group.create_task(federation.run_silo(party, lambda: hub, **last))  # type: ignore[arg-type]
        await hub.run()
    assert reached == [covers]
    # What follows the charge, sampling, is never reached: there is no update.
    assert sorted(federation.updates) == [("s0", 1), ("s1", 1), ("s3", 1)]
    with open_journal(federation.root / "s2") as journal:
        assert Ledger.from_entries("s2", journal.ledger("s2")).intents() == ()
    refused = [e for e in federation.events if e.phase == "refused"]
    assert {event.silo for event in refused} == {"s2"}
