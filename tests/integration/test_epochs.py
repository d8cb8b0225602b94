"""Charter epochs over whole daemons: silos join, leave and are revoked; ledgers and the
adapter go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from operators import Operators

from fedit_secure.errors import ConnectError, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.ledger import Intent, Opened
from fedit_secure.silo import serve as silo_module


@pytest.fixture
def operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operators:
    return Operators(tmp_path / "federation", monkeypatch)


def kept(operators: Operators, charter: Charter, name: str) -> tuple[bytes, ...]:
    """The aggregator's copy of a ledger, in one epoch's run folder."""
    path = operators.run_folder(charter) / "ledgers" / f"{name}.jsonl"
    return tuple(path.read_bytes().splitlines())


def charges(operators: Operators, name: str) -> list[str]:
    """Under which charters a silo charged, in order."""
    events = operators.ledger(name).events
    return [event.charter for event in events if isinstance(event, Intent)]


async def refused(operators: Operators, name: str) -> ConnectError | PolicyRefusal:
    """What a silo's daemon ends with while the aggregator serves an epoch without it."""
    with operators.patch.context() as patch:
        patch.setattr(silo_module, "PATIENCE_SECONDS", 0.0)
        end = await operators.silo(name)
    assert isinstance(end, ConnectError | PolicyRefusal), end
    assert "\n" not in str(end)
    return end


async def run_without(
    operators: Operators, names: tuple[str, ...], outsider: str
) -> GridState:
    """A run, in whose first round the outsider tries to take part."""
    hub = asyncio.create_task(operators.hub())
    async with asyncio.timeout(120):
        while True:  # until it listens
            assert not hub.done(), hub.result()
            end = await refused(operators, outsider)
            if "accept this silo's certificate" in str(end):
                break
            assert "can't be reached" in str(end)
            await asyncio.sleep(0.05)
        assert end.exit_status == 2
        ends = await asyncio.gather(hub, *map(operators.silo, names))
    assert all(isinstance(end, GridState) for end in ends), ends
    assert len({end.digest() for end in ends}) == 1  # type: ignore[union-attr]
    return ends[0]  # type: ignore[return-value]


async def test_silos_join_leave_and_are_revoked_from_epoch_to_epoch(
    operators: Operators,
) -> None:
    operators.host()
    operators.join("a", "b", "c", "d")
    assert operators.draft(1, "abcd") == 0
    first = operators.agree(1, "abcd")
    ended = await operators.run("abcd")
    operators.audit(1)

    # The second: d leaves, e joins. The adapter goes on from its certified end.
    operators.join("e")
    assert operators.draft(2, "abce") == 4  # it must say where it starts
    again = operators.root / "epoch-2"
    again.rename(again.with_name("refused"))
    start = f"initial_state: {operators.run_folder(first)}\n"
    assert operators.draft(2, "abce", more=start) == 0
    second = operators.agree(2, "abce")
    assert second.adapter.initial_digest == ended.digest().hex()
    after = await run_without(operators, tuple("abce"), "d")
    assert after.digest() != ended.digest()
    operators.audit(2)
    one, two = (charter.digest().hex() for charter in (first, second))
    for name in "abc":
        assert charges(operators, name) == [one, one, two, two]
        whole = operators.ledger(name).entries
        before = kept(operators, first, name)
        assert whole[: len(before)] == before  # gone on, and not begun anew
        assert kept(operators, second, name) == whole
    assert charges(operators, "d") == [one, one]
    assert charges(operators, "e") == [two, two]
    opened = [isinstance(event, Opened) for event in operators.ledger("e").events]
    assert opened == [True] + [False] * (len(opened) - 1)

    # The third: b is revoked. What it still has is worth nothing.
    start = f"initial_state: {operators.run_folder(second)}\n"
    assert operators.draft(3, "ace", more=start) == 0
    third = operators.agree(3, "ace")
    charter = operators.root / "epoch-3" / "charter.json"
    (operators.root / "b" / "charter.json").write_bytes(charter.read_bytes())
    assert operators.fedit("charter", "approve", operators.config("b"), "--yes") == 6
    (operators.root / "b" / "charter.json").write_bytes(second.to_bytes())
    assert third.adapter.initial_digest == after.digest().hex()
    last = await run_without(operators, tuple("ace"), "b")
    operators.audit(3)
    three = third.digest().hex()
    assert charges(operators, "a") == [one, one, two, two, three, three]
    assert charges(operators, "b") == [one, one, two, two]
    state = GridState.from_bytes(
        (
            operators.run_folder(third) / "states" / f"{last.digest().hex()}.state"
        ).read_bytes()
    )
    assert state.digest() == last.digest()
