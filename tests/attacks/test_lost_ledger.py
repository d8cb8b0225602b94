"""A silo whose ledger is lost, old or another's never begins anew as if nothing were
spent: whole daemons in memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.errors import (
    FaultySiloOrAggregator,
    LedgerBehind,
    QuorumLost,
    StorageError,
)
from fedit_secure.federation.heads import sign_head
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import decode, encode
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, SiloLink, memory_pair

VICTIM = "s3"


@pytest.fixture
async def past(tmp_path: Path) -> SmallFederation:
    """One round of all four silos is over, and everybody is switched off."""
    federation = found(tmp_path, 4)
    hub = federation.new_aggregator()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for party in federation.silos:
            group.create_task(federation.run_silo(party, lambda: hub))
        await hub.run()
    return federation


@dataclass
class Scripted:
    """An aggregator that says these frames after the Hello, and hears what comes."""

    frames: list[f.Frame]
    heard: list[Any] = field(default_factory=list)

    def get(self, address: bytes) -> None:
        """It has no blobs."""

    async def on_connect(self, link: Any, hello: f.Hello) -> None:
        self.heard.append(hello)
        for frame in self.frames:
            await link.send(frame)
        await asyncio.sleep(0.2)
        await link.send(f.CannotServe("the script is over", QuorumLost.exit_status))
        try:
            while True:
                self.heard.append(await link.receive())
        except Exception:  # noqa: BLE001 - the silo has left
            return


async def start(
    federation: SmallFederation, hub: Aggregator | Scripted, name: str = VICTIM
) -> BaseException:
    """One silo's daemon as `serve` starts it: nothing new is written before it connects.

    Returns what it ends with. Tuning fails the test once it is past its charge.
    """
    party = next(silo for silo in federation.silos if silo.name == name)
    index, limits = (
        federation.charter.silo_index(name),
        Limits.of(federation.charter.secagg_params()),
    )
    serving: list[asyncio.Task[None]] = []

    async def tune(round: int, state: GridState, charge: Charge) -> Any:
        await charge()
        raise AssertionError("it sampled")

    async def dial() -> SiloLink:
        own, peer = memory_pair(index, name, Published(hub), limits)  # type: ignore[arg-type]

        async def serve_peer() -> None:
            await hub.on_connect(peer, await peer.receive())  # type: ignore[arg-type]

        serving.append(asyncio.create_task(serve_peer()))
        return own

    with open_journal(federation.root / name) as journal:
        books = federation.books(party, journal)
        books.check(bytes(32))
        daemon = SiloDaemon(federation.charter, name, party.signing, books, tune)
        try:
            async with asyncio.timeout(20):
                await daemon.run(dial)
        except Exception as error:  # noqa: BLE001 - the test says which
            return error
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
    raise AssertionError("it took that for the end of the run")


def entries(federation: SmallFederation) -> tuple[bytes, ...]:
    with open_journal(federation.root / VICTIM) as journal:
        return journal.ledger(VICTIM)


def copy_of(federation: SmallFederation) -> Path:
    return federation.root / "run" / "ledgers" / f"{VICTIM}.jsonl"


def lose_the_disk(home: Path) -> None:
    shutil.rmtree(home)


def lose_the_journal(home: Path) -> None:
    """As a backup brings it back that left the journal out, and its mark with it."""
    (home / "journal.sqlite").unlink()
    (home / "journal.made").unlink()


@pytest.mark.parametrize("lose", [lose_the_disk, lose_the_journal])
async def test_lost_ledger(past: SmallFederation, lose: Callable[[Path], None]) -> None:
    """It learns of its past from the aggregator before it writes a word."""
    held = copy_of(past).read_bytes()
    lose(past.root / VICTIM)
    error = await start(past, past.new_aggregator())
    assert type(error) is LedgerBehind, error
    assert error.exit_status == 10
    assert "`fedit budget restore`" in str(error)
    assert f"ledgers/{VICTIM}.jsonl" in str(error)
    assert entries(past) == ()
    assert copy_of(past).read_bytes() == held


async def test_old_backup(past: SmallFederation, tmp_path: Path) -> None:
    """The state folder as it was before the last round: its fuses and charges are gone."""
    backup = tmp_path / "backup"
    whole = entries(past)
    shutil.rmtree(past.root / VICTIM)
    with open_journal(backup) as journal:
        journal.commit(population=VICTIM, expected_sequence=0, entries=whole[:1])
    shutil.copytree(backup, past.root / VICTIM)
    error = await start(past, past.new_aggregator())
    assert type(error) is LedgerBehind, error
    assert "ends after 1 entries, and the aggregator has signed" in str(error)
    assert f"it holds {len(whole)} entries" in str(error)
    assert entries(past) == whole[:1]


async def test_ledger_begun_anew(past: SmallFederation) -> None:
    """As long as the one that is known, and another: what was spent isn't in it."""
    home = past.root / VICTIM
    count = len(entries(past))
    shutil.rmtree(home)
    with open_journal(home) as journal:
        books = past.books(past.silos[3], journal)
        books.admit(b"another".ljust(32))
        for _ in range(count - 1):
            books.admit(b"and another".ljust(32))
            books.admit(b"another".ljust(32))
    error = await start(past, past.new_aggregator())
    assert type(error) is LedgerBehind, error
    assert f"another from entry {count} on, or before" in str(error)


async def test_lost_ledger_in_the_next_run(
    past: SmallFederation, tmp_path: Path
) -> None:
    """A run folder that is new knows what the earlier ones hold."""
    folder = tmp_path / "next" / "ledgers"
    key = past.aggregator.signing
    none = LedgerCopies(folder, past.charter, key)
    assert none.receipt(VICTIM) is None
    earlier = [tmp_path / "none", copy_of(past).parent]
    knows = LedgerCopies(folder, past.charter, key, earlier)
    receipt = knows.receipt(VICTIM)
    assert receipt is not None
    assert receipt.head.sequence == len(entries(past))
    # And it is this run's own from then on: the silo sends what follows.
    assert LedgerCopies(folder, past.charter, key).receipt(VICTIM) == receipt
    lose_the_disk(past.root / VICTIM)
    welcome = f.Welcome(
        tuple(a.to_bytes() for a in past.approvals),
        None, 0, past.initial.digest(), receipt,
    )  # fmt: skip
    assert type(await start(past, Scripted([welcome]))) is LedgerBehind


async def test_another_runs_damaged_copy_is_no_reason_to_forget(
    past: SmallFederation, tmp_path: Path
) -> None:
    copy_of(past).write_bytes(b"{}\n")
    with pytest.raises(StorageError, match=r"s3\.jsonl can't be read"):
        LedgerCopies(
            tmp_path / "next", past.charter, past.aggregator.signing,
            [copy_of(past).parent],
        )  # fmt: skip


async def test_copies_of_another_population_are_nobodys_past(
    past: SmallFederation, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{VICTIM}.jsonl").write_bytes(
        (copy_of(past).parent / "s2.jsonl").read_bytes()
    )
    copies = LedgerCopies(
        tmp_path / "next", past.charter, past.aggregator.signing, [other]
    )
    assert copies.receipt(VICTIM) is None


async def test_a_head_that_the_aggregator_did_not_sign_stops_nobody(
    past: SmallFederation,
) -> None:
    """Who relays its frames can't stop a silo with an invented past."""
    head = m.LedgerHead(VICTIM, 99, b"x" * 32)
    forged = f.HeadReceipt(head, sign_head(past.silos[0].signing, VICTIM, head))
    welcome = f.Welcome(
        tuple(a.to_bytes() for a in past.approvals), None, 0, past.initial.digest(),
        forged,
    )  # fmt: skip
    error = await start(past, Scripted([welcome]))
    assert type(error) is FaultySiloOrAggregator, error


async def test_a_receipt_for_more_than_is_here_ends_the_daemon(tmp_path: Path) -> None:
    """It comes after the Welcome: another process has gone on with this ledger."""
    federation = found(tmp_path, 4)
    head = m.LedgerHead(VICTIM, 9, b"x" * 32)
    receipt = f.HeadReceipt(
        head, sign_head(federation.aggregator.signing, VICTIM, head)
    )
    proof = tuple(a.to_bytes() for a in federation.approvals)
    welcome = f.Welcome(proof, None, 0, federation.initial.digest())

    class WithState(Scripted):
        def get(self, address: bytes) -> Any:
            return federation.initial.to_bytes()

    error = await start(federation, WithState([welcome, receipt]))
    assert type(error) is LedgerBehind, error


async def test_nothing_is_sampled_without_a_receipt_for_the_charge(
    tmp_path: Path,
) -> None:
    """So a charge that the aggregator's copy lacks can't have been sampled, and a ledger
    that is restored from it is whole.

    This aggregator goes on with the round and never countersigns.
    """
    federation = found(tmp_path, 4)
    proof = tuple(a.to_bytes() for a in federation.approvals)
    state = federation.initial.digest()
    made = m.Offer(federation.charter.digest(), 1, 1, state)
    offer = checks.sign(federation.aggregator.signing, made)

    class WithState(Scripted):
        def get(self, address: bytes) -> Any:
            return federation.initial.to_bytes()

    script = WithState(
        [f.Welcome(proof, None, 0, state), f.RoundOffer(offer, None, proof)]
    )
    error = await start(federation, script)
    assert type(error) is QuorumLost, error  # the script's last word: no "it sampled"
    sent = [
        e for x in script.heard if isinstance(x, f.LedgerEntries) for e in x.entries
    ]
    here = entries(federation)
    assert b'"intent"' in here[-1]  # charged, and the aggregator was told
    assert here[-1] in sent


# ------------------------------------------------------------- a journal's own receipt


async def test_a_ledger_shorter_than_its_own_receipt(past: SmallFederation) -> None:
    """A journal that was put together from an old ledger and a new receipt."""
    whole = entries(past)
    with open_journal(past.root / VICTIM) as journal:
        receipt = journal.receipt(VICTIM)
    assert receipt is not None
    told = decode(receipt, Limits.of(past.charter.secagg_params()))
    assert isinstance(told, f.HeadReceipt)
    signed = told.head.sequence
    assert signed > 2
    for kept in (0, 1, signed - 1, signed):
        shutil.rmtree(past.root / VICTIM)
        with open_journal(past.root / VICTIM) as journal:
            journal.commit(
                population=VICTIM,
                expected_sequence=0,
                entries=whole[:kept],
                receipt=receipt,
            )
            if kept == signed:
                assert past.books(past.silos[3], journal).sequence == signed
                continue
            here = f"ends after {kept}" if kept else "is missing"
            with pytest.raises(LedgerBehind, match=here):
                past.books(past.silos[3], journal)


async def test_a_receipt_that_is_not_the_aggregators(past: SmallFederation) -> None:
    head = m.LedgerHead(VICTIM, 1, b"h" * 32)
    forged = f.HeadReceipt(head, sign_head(past.silos[3].signing, VICTIM, head))
    with open_journal(past.root / VICTIM) as journal:
        journal.commit(population=VICTIM, receipt=encode(forged))
        with pytest.raises(StorageError, match="isn't signed by it"):
            past.books(past.silos[3], journal)


async def test_a_receipt_outlives_its_aggregator(past: SmallFederation) -> None:
    """The next charter names another aggregator: the old receipt is still the old
    one's, and still counts."""
    other = past.charter.aggregator.model_copy(update={"identity": "ab" * 32})
    past.charter = past.charter.model_copy(update={"aggregator": other})
    with open_journal(past.root / VICTIM) as journal:
        books = past.books(past.silos[3], journal)
        assert books.head().sequence > 1
