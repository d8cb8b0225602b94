"""Both roles rotate their keys, encrypted ones, between two epochs of whole daemons."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from operators import Operators

from fedit_secure.errors import ConfigError, ConnectError, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import issue_leaf, load_identity
from fedit_secure.federation.passphrase import read_passphrase
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.ledger import CapChanged, KeyRotated
from fedit_secure.silo import serve as silo_module
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.tls import Tls

SILOS = ("a", "b", "c")


@pytest.fixture
def operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operators:
    """Of parties whose keys are encrypted."""
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    made = Operators(tmp_path / "federation", monkeypatch)
    made.keys = ("--passphrase-file", path)
    return made


async def refused_at_the_handshake(
    operators: Operators, charter: Charter, retired: Path
) -> None:
    """The old keys dial the aggregator of the new epoch."""
    old = load_identity(retired, read_passphrase(operators.keys[1]))  # type: ignore[arg-type]
    hub, limits = charter.aggregator, Limits.of(charter.secagg_params())
    leaf = issue_leaf(old, (), datetime.now(UTC))
    tls = Tls.of_silo(leaf, hub.name, hub.issuer_certificate)
    with pytest.raises(ConnectError, match="doesn't accept this silo's certificate"):
        await connect(operators.address, tls, limits, patience_seconds=0)


@pytest.mark.slow
async def test_keys_rotate_from_one_epoch_to_the_next(
    operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators.host()
    operators.join(*SILOS)
    assert operators.draft(1, SILOS, rounds=1) == 0
    first = operators.agree(1, SILOS)
    await operators.run(SILOS)
    before = operators.ledger("a")
    silo, hub = operators.config("a"), operators.config("hub")

    # Both make their next identity beside the one in use.
    operators.do("silo", "rotate", silo)
    operators.do("aggregator", "rotate", hub)
    assert operators.fedit("silo", "rotate", silo) == 4  # it has begun already
    assert (
        operators.fedit("silo", "rotate", silo, "--finish") == 6
    )  # no charter pins it
    for folder in (silo.parent, hub.parent):
        text = (folder / "identity.next" / "identity.key").read_text()
        assert text.startswith("-----BEGIN ENCRYPTED")
    assert operators.ledger("a") == before

    # The next epoch pins the new cards, and is approved with the new key.
    more = f"initial_state: {operators.run_folder(first)}\n"
    assert operators.draft(2, SILOS, rounds=1, more=more) == 0
    second = operators.agree(2, SILOS)
    old, new = first.row("a").identity, second.row("a").identity
    assert old != new
    assert first.aggregator.identity != second.aggregator.identity
    for end in (await operators.silo("a"), await operators.hub()):
        assert isinstance(end, ConfigError)
        assert "rotate --finish" in str(end)
    operators.do("silo", "rotate", silo, "--finish")
    operators.do("aggregator", "rotate", hub, "--finish")
    (retired,) = silo.parent.glob("identity.retired-*")
    assert retired.name == f"identity.retired-{old[:8]}"

    hub_task = asyncio.create_task(operators.hub())
    listening = asyncio.Event()
    operators.on_event = lambda event: listening.set()
    async with asyncio.timeout(120):
        silos = [asyncio.create_task(operators.silo(name)) for name in "bc"]
        await listening.wait()
        await refused_at_the_handshake(operators, second, retired)
        silos.append(asyncio.create_task(operators.silo("a")))
        ends = await asyncio.gather(hub_task, *silos)
    assert all(isinstance(end, GridState) for end in ends), ends
    assert len({end.digest() for end in ends}) == 1  # type: ignore[union-attr]
    operators.audit(2)

    ledger = operators.ledger("a")
    assert ledger.entries[: before.sequence] == before.entries
    (rotation,) = (e for e in ledger.events if isinstance(e, KeyRotated))
    assert (rotation.old, rotation.new) == (old, new)
    kept = operators.run_folder(second) / "ledgers" / "a.jsonl"
    assert tuple(kept.read_bytes().splitlines()) == ledger.entries
    assert not any(isinstance(e, KeyRotated) for e in operators.ledger("b").events)

    # What an operator decides from now on is under the new key, and others follow it.
    operators.do("budget", "set", 41, silo, "--reason", "x", "--yes")
    assert isinstance(operators.ledger("a").last, CapChanged)
    operators.do("budget", "show", silo)

    # The old identity, put back: its card isn't the charter's, and the old charter is over.
    monkeypatch.setattr(silo_module, "PATIENCE_SECONDS", 0.0)
    shutil.move(silo.parent / "identity", silo.parent / "identity.new")
    shutil.copytree(retired, silo.parent / "identity")
    end = await operators.silo("a")
    assert isinstance(end, PolicyRefusal)
    assert "isn't this silo's own card" in str(end)
    (silo.parent / "charter.json").write_bytes(first.to_bytes())
    end = await operators.silo("a")
    assert isinstance(end, PolicyRefusal)
    assert "approved last" in str(end)
    (silo.parent / "state" / "approvals" / "north.json").unlink()
    assert operators.fedit("charter", "approve", silo, "--yes") == 0
    end = await operators.silo("a")
    assert isinstance(end, ConfigError)  # the ledger has gone over to the new key
    assert "only the old key can hand a ledger over" in str(end)
    assert operators.fedit("budget", "set", 60, silo, "--reason", "x", "--yes") == 4
