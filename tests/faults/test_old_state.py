"""State folders that aren't what the last process left: older, edited, damaged, gone.

The silo refuses and says why, or has lost nothing. It never guesses, no record is drawn
on a forgotten charge, and the aggregator's copy keeps every charge that there was.
"""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random

import grpc_federation
import pytest
from faults.crashing import charges
from faults.process_federation import VICTIM, Nursery, Story, copy_of, tell
from faults.silo_process import POLICY
from faults.syscalls import AFTER, BEFORE, Fate, Kind, kinds
from faults.verdict import assert_charged_for_all, charged, check, ledger_in, look
from small_federation import found

from fedit_secure.errors import ConnectError, LedgerBehind, StorageError
from fedit_secure.silo.books import Books, open_journal
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import _seal

KILLED = -signal.SIGKILL
YEAR = 365 * 24 * 3600
UNLINK = kinds(Kind.UNLINK)
# Charged and tuned; then charged and tuned again, and masked.
FATES = [
    Fate(step="update", at=UNLINK, how=BEFORE),
    Fate(step="mask", at=UNLINK, how=AFTER),
]

Damage = Callable[[Path, Path], None]  # the folder as it is, and as it was before


def old_folder(state: Path, old: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(old, state)


def old_journal(state: Path, old: Path) -> None:
    shutil.copy(old / "journal.sqlite", state / "journal.sqlite")


def no_journal(state: Path, old: Path) -> None:
    (state / "journal.sqlite").unlink()


def no_folder(state: Path, old: Path) -> None:
    shutil.rmtree(state)


def resealed(*changes: tuple[str, bytes | None]) -> Damage:
    """Entries changed, or the last ones taken out, by somebody who knows the format."""

    def damage(state: Path, old: Path) -> None:
        db = sqlite3.connect(state / "journal.sqlite")
        db.execute("DROP TRIGGER entries_stay")
        db.execute("DROP TRIGGER entries_last")
        for where, new in changes:
            if new is None:
                db.execute(f"DELETE FROM entries WHERE {where}")
                continue
            ((number, value),) = db.execute(
                f"SELECT sequence, value FROM entries WHERE {where}"
            )
            edited = value.replace(b'"noise_multiplier":2.0', new)
            seal = _seal("entry", f"{number} {VICTIM}", edited)
            db.execute(
                "UPDATE entries SET value = ?, digest = ? WHERE sequence = ?",
                (edited, seal, number),
            )
        db.commit()
        db.close()

    return damage


SHORT = "ends after {} entries, and the aggregator has signed that it holds 4"
REFUSED: dict[str, tuple[Damage, str]] = {
    "old_folder": (old_folder, SHORT.format(2)),
    # Without the rollback journal that lay beside it then, it is no state that ever was.
    "old_journal": (old_journal, SHORT.format(3)),
    "no_folder": (no_folder, SHORT.format(1)),
    "last_entries_gone": (resealed(("sequence > 2", None)), SHORT.format(2)),
    "no_journal": (no_journal, "journal.sqlite is missing"),
    "cheaper_charge": (
        resealed(
            ("sequence = 2", b'"noise_multiplier":9.0'),
            ("sequence = 3", b'"noise_multiplier":9.0'),
        ),
        "is another from entry 4 on, or before",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_refused(nursery: Nursery, tmp_path: Path, how: str) -> None:
    damage, sentence = REFUSED[how]

    def between(story: Story, life: int) -> None:
        look(story, life)
        copy_of(story, f"was{life}")
        if life == 2:
            damage(story.state_folder, story.outside / "was1")

    story = await tell(nursery, tmp_path, FATES, between=between, hasty=True)
    behind = LedgerBehind.exit_status
    assert story.ends == [KILLED, KILLED, behind], story.reports
    error = story.reports[-1].error
    assert sentence in error
    assert "\n" not in error
    assert story.sampled == [(1, 1), (1, 2)]  # the third drew none
    run = story.federation.root / "run" / "ledgers" / f"{VICTIM}.jsonl"
    held = run.read_bytes().splitlines()
    assert_charged_for_all(held, story.sampled)
    assert story.state is not None  # the others went on without it


async def test_lost_states_are_fetched_again(nursery: Nursery, tmp_path: Path) -> None:
    """They are only what the certificate names; nothing of them is believed unseen."""

    def between(story: Story, life: int) -> None:
        states = story.state_folder / "states"
        assert list(states.iterdir())
        shutil.rmtree(states)

    fates = [Fate(step="close", at=UNLINK, how=AFTER)]
    story = await tell(nursery, tmp_path, fates, silos=3, between=between)
    assert story.ends == [KILLED, 0], story.reports
    check(story)
    assert charged(ledger_in(story.state_folder)) == {1: 1, 2: 1}


async def test_a_damaged_state_is_refused_by_name(
    nursery: Nursery, tmp_path: Path
) -> None:
    def between(story: Story, life: int) -> None:
        for state in (story.state_folder / "states").iterdir():
            content = bytearray(state.read_bytes())
            content[len(content) // 2] ^= 1
            state.write_bytes(content)

    fates = [Fate(step="close", at=UNLINK, how=AFTER)]
    story = await tell(nursery, tmp_path, fates, between=between, hasty=True)
    assert story.ends == [KILLED, 1], story.reports
    error = story.reports[-1].error
    assert re.search(r"\.state (is damaged|isn't the state)", error), error
    assert all(life == 1 for _, life in story.sampled)


@pytest.mark.parametrize("clock", [-YEAR, YEAR])
async def test_a_clock_that_was_set(
    nursery: Nursery, tmp_path: Path, clock: int
) -> None:
    """Between two lives. The books know no time: not one charge comes or goes."""
    fates = [Fate(step="mask", at=UNLINK, how=AFTER), Fate(clock=clock)]
    story = await tell(nursery, tmp_path, fates, silos=3)
    assert story.ends == [KILLED, 0], story.reports
    check(story)
    assert charged(ledger_in(story.state_folder)) == {1: 1, 2: 1}


@pytest.mark.parametrize("years", [-1, 1])
async def test_a_wrong_clock_ends_at_the_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """The certificate that it issues itself isn't valid today: nothing is charged."""
    real, wrong = grpc_federation.issue_leaf, timedelta(days=365 * years)

    def issue(identity, hosts, now):
        return real(identity, hosts, now + wrong * (identity.name == VICTIM))

    monkeypatch.setattr(grpc_federation, "issue_leaf", issue)
    federation = found(tmp_path, 4)
    with pytest.raises(ExceptionGroup) as raised:
        await grpc_federation.release(federation)
    (error,) = raised.value.exceptions
    assert isinstance(error, ConnectError)
    assert "certificate" in str(error)
    assert charges(federation, VICTIM) == 0


# ------------------------------------------------------- every length, and flipped bits


@pytest.fixture(scope="module")
async def masked(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A silo that was killed once it had masked, as its folder lay there then."""
    folder = tmp_path_factory.mktemp("masked")

    def between(story: Story, life: int) -> None:
        copy_of(story, f"was{life}")

    story = await tell(nursery, folder, FATES[1:], between=between, hasty=True)
    assert story.ends[0] == KILLED
    return story


def start(story: Story, state: Path) -> tuple[bytes, ...]:
    """What a silo's process does with its folder first; its ledger. StorageError."""
    federation = story.federation
    party = federation.silos[0]
    with open_journal(state) as journal:
        books = Books(
            journal,
            StateStore(state / "states"),
            federation.charter,
            VICTIM,
            party.signing,
            POLICY,
        )
        books.admit(bytes(32))
        books.update(1)
        return journal.ledger(VICTIM)


def damaged(story: Story, content: bytes, folder: Path) -> tuple[bytes, ...] | None:
    """The ledger that a silo would go on with; None if it refuses, in one sentence."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(story.outside / "was1", folder)
    (folder / "journal.sqlite").write_bytes(content)
    try:
        return start(story, folder)
    except StorageError as error:
        said = str(error)
    assert "\n" not in said
    assert str(folder) in said or VICTIM in said
    return None


def test_a_journal_cut_at_any_length(masked: Story, tmp_path: Path) -> None:
    content = (masked.outside / "was1" / "journal.sqlite").read_bytes()
    whole = damaged(masked, content, tmp_path / "whole")
    assert charged(whole or ()) == {1: 1}
    pages = range(0, len(content), 4096)
    cuts = {cut + off for cut in pages for off in (-1, 0, 1, 512)} | {1, 16, 99, 100}
    for cut in sorted(cuts & set(range(len(content)))):
        assert damaged(masked, content[:cut], tmp_path / "cut") is None, cut


def test_a_bit_flipped_anywhere(masked: Story, tmp_path: Path) -> None:
    """Refused, or where it lies nowhere, nothing has changed."""
    content = (masked.outside / "was1" / "journal.sqlite").read_bytes()
    whole = damaged(masked, content, tmp_path / "whole")
    chance, refused = Random(11), 0
    for _ in range(150):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        left = damaged(masked, bytes(flipped), tmp_path / "flipped")
        assert left in (None, whole)
        refused += left is None
    assert refused > 15
