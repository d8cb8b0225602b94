"""A silo's own B, from its tuning to the next epoch: which file counts, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save
from small_federation import LAYOUT, POLICY, SmallFederation, found

from fedit_secure.errors import ConfigError, FeditError, StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import from_float32
from fedit_secure.secagg import messages as m
from fedit_secure.silo import personal as personal_module
from fedit_secure.silo.books import Books
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.personal import Personal
from fedit_secure.silo.personal_file import Origin, packed
from fedit_secure.silo.restore import restore
from fedit_secure.storage.adapter_store import StateStore

ME = "s0"
HALF = 12  # coordinates of A, and of B
GLOBAL = np.linspace(-1, 1, 2 * HALF, dtype=np.float32)


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 4, rounds=3, aggregation="fedsa")


@contextmanager
def opened(
    federation: SmallFederation, charter: Charter | None = None
) -> Iterator[tuple[Books, Personal]]:
    """The books of a silo's process, admitted and with its ledger open."""
    charter, silo = charter or federation.charter, federation.silos[0]
    with open_journal(federation.root / ME) as journal:
        personal = Personal.of(journal, charter, ME, "none")
        assert personal is not None
        states = StateStore(federation.root / ME / "states")
        terms = (journal, states, charter, ME, silo.signing, POLICY)
        books = Books(*terms, personal=personal)
        books.admit(bytes(32))
        yield books, personal


def own_b(number: float) -> np.ndarray:
    return np.full(HALF, number, np.float32)


def full(*_: object, **__: object) -> None:
    raise StorageError("the disk is full")


def tune(books: Books, round: int, number: float) -> None:
    """A round is charged and tuned; all of its B is `number`."""
    assert books.personal is not None
    books.reserve(round)
    books.personal.keep(round, own_b(number))
    books.commit_update(round, np.zeros(HALF, np.float32))


def close(books: Books, round: int, *, release: bool = True) -> None:
    """The round ends, in a state of `GLOBAL` or in none."""
    state = from_float32(LAYOUT, GLOBAL)
    books.keep_state(state)
    what = (state.digest(), b"r" * 32 if release else b"")
    word = m.Confirmation(1, bytes(32), round, *what, signature=bytes(64))
    books.close_round(m.RoundCertificate(round, (word,)), None)


def counting(personal: Personal) -> float | None:
    """The number of which the next round's B is made; None for the global one."""
    whole = personal.whole(from_float32(LAYOUT, GLOBAL))
    np.testing.assert_allclose(whole[:HALF], GLOBAL[:HALF], atol=1e-6)
    if personal.begins_with is None:
        np.testing.assert_allclose(whole[HALF:], GLOBAL[HALF:], atol=1e-6)
        return None
    (number,) = set(whole[HALF:].tolist())
    return float(number)


def files(personal: Personal) -> list[str]:
    return sorted(path.name[:15] for path in personal.folder.glob("*.safetensors"))


# ------------------------------------------------------------------------------ its life


def test_it_counts_from_the_end_of_its_round_on(federation: SmallFederation) -> None:
    with opened(federation) as (books, personal):
        assert counting(personal) is None
        tune(books, 1, 1.0)
        assert counting(personal) is None  # the round isn't over
        close(books, 1)
        assert counting(personal) == 1.0
        tune(books, 2, 2.0)
        assert files(personal) == ["epoch-1-round-1", "epoch-1-round-2"]
        close(books, 2, release=False)
        assert counting(personal) == 2.0  # there was no sum, and it was paid for
        close(books, 3)
        assert counting(personal) == 2.0  # a round that the silo missed
        assert files(personal) == ["epoch-1-round-2"]
    with opened(federation) as (_, personal):
        assert counting(personal) == 2.0


def test_its_adapter_can_be_opened_after_each_round(
    federation: SmallFederation,
) -> None:
    with opened(federation) as (books, personal):
        assert not personal.adapter.exists()
        for round in (1, 2):
            tune(books, round, float(round))
            close(books, round)
            saved = load_file(personal.adapter / "adapter_model.safetensors")
            assert set(saved[LAYOUT[1][0]].flat) == {float(round)}
        charter = Charter.load(personal.adapter.parent / "charter.json")
        assert charter.digest() == federation.charter.digest()


def test_a_round_behind_which_others_have_ended_counts(
    federation: SmallFederation,
) -> None:
    """The silo was away for the end of its round and for the next."""
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 2)
        assert counting(personal) == 1.0


def test_a_crash_before_the_update_is_kept_leaves_the_b_of_before(
    federation: SmallFederation,
) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        books.reserve(2)
        personal.keep(2, own_b(9.0))
    with opened(federation) as (books, personal):
        assert counting(personal) == 1.0
        assert books.update(2) is None
        assert files(personal) == ["epoch-1-round-1"]  # what nothing names is gone
        tune(books, 2, 2.0)
        close(books, 2)
        assert counting(personal) == 2.0


def test_a_crash_before_the_adapter_is_saved_is_made_good_at_the_start(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(personal_module, "save_peft", full)
            with pytest.raises(StorageError, match="full"):
                close(books, 1)
        assert not personal.adapter.exists()
    with opened(federation) as (books, personal):
        assert books.certified == 1
        saved = load_file(personal.adapter / "adapter_model.safetensors")
        assert set(saved[LAYOUT[1][0]].flat) == {1.0}


def test_a_disk_that_is_full_changes_nothing(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        books.reserve(2)
        with monkeypatch.context() as patch:
            patch.setattr(personal_module, "write_durably", full)
            with pytest.raises(StorageError, match="full"):
                personal.keep(2, own_b(2.0))
        with pytest.raises(StorageError, match="its B isn't on the disk"):
            books.commit_update(2, np.zeros(HALF, np.float32))
        assert books.update(2) is None
        assert counting(personal) == 1.0


def test_an_update_that_comes_after_the_end_of_its_round_brings_no_b(
    federation: SmallFederation,
) -> None:
    """A thread can't be cancelled: it finds the round over, whose files are tidied."""
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        books.reserve(2)
        personal.keep(2, own_b(2.0))
        close(books, 2)
        with pytest.raises(StorageError, match="round 2 of this charter is over"):
            books.commit_update(2, np.zeros(HALF, np.float32))
        assert counting(personal) == 1.0
    with opened(federation) as (_, personal):
        assert counting(personal) == 1.0


def test_a_b_of_another_round_is_never_taken_for_this_ones(
    federation: SmallFederation,
) -> None:
    with opened(federation) as (books, personal):
        personal.keep(2, own_b(2.0))
        books.reserve(1)
        with pytest.raises(StorageError, match="round 1 was tuned, and its B isn't"):
            books.commit_update(1, np.zeros(HALF, np.float32))


def test_nobody_but_the_silos_account_may_read_it(federation: SmallFederation) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        tune(books, 2, 1.0)
        home = personal.folder.parent
        assert home.stat().st_mode & 0o777 == 0o700
        found = [path for path in home.rglob("*") if path.is_file()]
        assert len(found) == 5
        assert {path.stat().st_mode & 0o777 for path in found} == {0o600}


def test_the_journal_has_its_name_and_nothing_of_it(
    federation: SmallFederation,
) -> None:
    marked = np.random.default_rng(0).normal(0, 1, HALF).astype("<f4")
    with opened(federation) as (books, personal):
        assert books.personal is personal
        books.reserve(1)
        personal.keep(1, marked)
        books.commit_update(1, np.zeros(HALF, np.float32))
        close(books, 1)
    data = (federation.root / ME / "journal.sqlite").read_bytes()
    assert not any(value.tobytes() in data for value in marked)


# -------------------------------------------------------------------- lost, and put right


def lost(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def edited(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [lost, cut, edited])
@pytest.mark.parametrize("pending", [False, True])
def test_one_that_is_lost_or_harmed_is_named_before_anything_is_charged(
    federation: SmallFederation, harm: Callable[[Path], None], pending: bool
) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        if not pending:
            close(books, 1)
        (path,) = personal.folder.glob("*.safetensors")
        entries = books.sequence
    harm(path)
    with pytest.raises(StorageError) as told, opened(federation):
        pass
    assert str(told.value).startswith(f"{path}, this silo's own B after round 1 of ")
    assert "`fedit silo personal --restore FILE`" in str(told.value)
    assert told.value.exit_status == 1
    with open_journal(federation.root / ME) as journal:
        personal = Personal(journal, federation.charter, ME, "none")
        assert len(journal.ledger(ME)) == entries
        if personal.begins_with is not None:
            assert not personal.is_whole(personal.begins_with)
        personal.start_over()
    with opened(federation) as (books, personal):
        assert counting(personal) is None
        assert books.sequence == entries  # what was charged stays charged
        close(books, 1 if pending else 2)
        assert counting(personal) is None


def test_one_that_vanishes_under_a_running_daemon_ends_it_before_the_charge(
    federation: SmallFederation,
) -> None:
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        shutil.rmtree(personal.folder)
        with pytest.raises(StorageError, match="is missing"):
            personal.whole(books.state())


def test_an_earlier_one_can_be_put_back(
    federation: SmallFederation, tmp_path: Path
) -> None:
    kept = tmp_path / "backup.safetensors"
    with opened(federation) as (books, personal):
        for round in (1, 2):
            tune(books, round, float(round))
            close(books, round)
            (path,) = personal.folder.glob("*.safetensors")
            if round == 1:
                shutil.copy(path, kept)
        path.unlink()
    with open_journal(federation.root / ME) as journal:
        personal = Personal(journal, federation.charter, ME, "none")
        assert personal.restore(kept, kept.read_bytes()).round == 1
    with opened(federation) as (books, personal):
        assert counting(personal) == 1.0
        tune(books, 3, 3.0)
        close(books, 3)
        assert counting(personal) == 3.0


def own_file(of: SmallFederation, **changes: Any) -> bytes:
    told = {
        "federation": of.charter.federation,
        "epoch": 1,
        "charter": of.charter.digest().hex(),
        "silo": ME,
        "population": ME,
        "round": 1,
    }
    return packed(Origin(**(told | changes)), LAYOUT[1:], own_b(1.0))


def of_another_type(data: bytes) -> bytes:
    return save({key: value.astype("f2") for key, value in load(data).items()})


def infinite(federation: SmallFederation) -> bytes:
    origin = Origin(
        federation="small", epoch=1, charter="0" * 64, silo=ME, population=ME, round=1
    )
    return packed(origin, LAYOUT[1:], own_b(np.inf))


WRONG: dict[str, tuple[Callable[[SmallFederation], bytes], str]] = {
    "another silo's": (
        lambda f: own_file(f, silo="s1"),
        "it belongs to silo 's1' of 'small', population 's0'",
    ),
    "another federation's": (
        lambda f: own_file(f, federation="large"),
        "it belongs to silo 's0' of 'large'",
    ),
    "another population's": (lambda f: own_file(f, population="p"), "population 'p'"),
    "another charter's": (
        lambda f: own_file(f, charter="0" * 64),
        "it is of epoch 1, and the adapter of epoch 1 doesn't go on from that one's",
    ),
    "another adapter's": (
        lambda f: packed(
            Origin(
                federation="small",
                epoch=1,
                charter=f.charter.digest().hex(),
                silo=ME,
                population=ME,
                round=1,
            ),
            LAYOUT[:1],
            own_b(1.0),
        ),
        "its tensors aren't the B of this charter's adapter",
    ),
    "without an origin": (
        lambda f: save(load(own_file(f))),
        "this isn't the file of a silo's own B",
    ),
    "with another field": (
        lambda f: save(load(own_file(f)), {"fedit": '{"round": 1, "loss": 2}'}),
        "the field '(federation|loss)'",
    ),
    "no safetensors": (lambda f: b"\x80\x04K*.", "this isn't the file"),
    "empty": (lambda f: b"", "this isn't the file"),
    "infinite": (infinite, "a value that isn't finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_isnt_this_silos_own_is_refused_and_nothing_changes(
    federation: SmallFederation, wrong: str
) -> None:
    make, sentence = WRONG[wrong]
    with opened(federation) as (books, personal):
        tune(books, 1, 1.0)
        close(books, 1)
        with pytest.raises(ConfigError, match=sentence) as told:
            personal.restore(Path("given.safetensors"), make(federation))
        assert str(told.value).startswith("given.safetensors: ")
        assert counting(personal) == 1.0
        assert files(personal) == ["epoch-1-round-1"]


# ------------------------------------------------------------------------- the next epoch


def following(federation: SmallFederation, epoch: int = 2, **adapter: Any) -> Charter:
    """The next epoch's charter."""
    before = federation.charter
    content = before.model_dump(mode="json")
    content |= {"epoch": epoch, "predecessor": before.digest().hex()}
    content["adapter"] |= adapter
    return Charter.model_validate(content)


def ended(federation: SmallFederation, *, pending: bool = False) -> None:
    """Epoch 1: round 1 is over, round 2 perhaps tuned."""
    with opened(federation) as (books, _):
        tune(books, 1, 1.0)
        close(books, 1)
        if pending:
            tune(books, 2, 2.0)


def test_it_goes_on_with_the_adapter(federation: SmallFederation) -> None:
    ended(federation)
    second = following(federation, personal_since=1)
    with opened(federation, second) as (books, personal):
        assert counting(personal) == 1.0
        tune(books, 1, 5.0)
        assert counting(personal) == 1.0
        close(books, 1)
        assert counting(personal) == 5.0
        assert files(personal) == ["epoch-2-round-1"]


def test_what_was_tuned_and_not_over_in_the_epoch_before_was_paid_for(
    federation: SmallFederation,
) -> None:
    ended(federation, pending=True)
    with opened(federation, following(federation, personal_since=1)) as (books, own):
        assert counting(own) == 2.0
        close(books, 1)  # which this silo missed
        assert counting(own) == 2.0
        tune(books, 2, 6.0)
        assert counting(own) == 2.0


@pytest.mark.parametrize(
    ("epoch", "since"), [(2, None), (3, 2)], ids=["drawn anew", "of a later line"]
)
def test_it_is_of_no_use_to_another_a(
    federation: SmallFederation, epoch: int, since: int | None
) -> None:
    """It begins with the global state's, and the old one stays until there is a new one."""
    ended(federation)
    third = following(federation, epoch, personal_since=since)
    with opened(federation, third) as (books, personal):
        assert counting(personal) is None
        close(books, 1)
        assert files(personal) == ["epoch-1-round-1"]
        tune(books, 2, 7.0)
        assert files(personal) == ["epoch-1-round-1", f"epoch-{epoch}-round-2"]
        close(books, 2)
        assert counting(personal) == 7.0
        assert files(personal) == [f"epoch-{epoch}-round-2"]


def test_it_isnt_another_populations(federation: SmallFederation) -> None:
    ended(federation)
    content = following(federation, personal_since=1).model_dump(mode="json")
    content["roster"][0]["population"] = "others"
    with opened(federation, Charter.model_validate(content)) as (_, personal):
        assert counting(personal) is None


def test_a_journal_from_the_aggregators_copy_asks_the_operator(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """The ledger says that the silo has tuned, and nothing here says what came of it."""
    ended(federation)
    kept = tmp_path / "kept.safetensors"
    with open_journal(federation.root / ME) as journal:
        entries = journal.ledger(ME)
        personal = Personal(journal, federation.charter, ME, "none")
        assert personal.begins_with is not None
        shutil.copy(personal.path(personal.begins_with), kept)
    shutil.rmtree(federation.root / ME / "personal")
    for path in (federation.root / ME).glob("journal.*"):
        path.unlink()
    key = federation.silos[0].signing
    with open_journal(federation.root / ME) as journal:
        restore(journal, federation.charter, ME, key, entries)
    second = following(federation, personal_since=1)
    sentence = "'s0' has tuned in epoch 1, and its own B isn't in .*: put it back"
    with pytest.raises(StorageError, match=sentence), opened(federation, second):
        pass
    with open_journal(federation.root / ME) as journal:
        personal = Personal(journal, second, ME, "none")
        personal.restore(kept, kept.read_bytes())
    with opened(federation, second) as (_, personal):
        assert counting(personal) == 1.0
        personal.start_over()
        assert counting(personal) is None
    with opened(federation, second) as (_, personal):
        assert counting(personal) is None


def test_a_silo_that_is_new_begins_with_the_global_states(
    federation: SmallFederation,
) -> None:
    with opened(federation, following(federation, personal_since=1)) as (_, personal):
        assert counting(personal) is None


def test_books_of_a_charter_with_own_bs_are_never_without(
    federation: SmallFederation, tmp_path: Path
) -> None:
    plain = found(tmp_path / "plain", 4)
    with open_journal(federation.root / ME) as journal:
        assert Personal.of(journal, plain.charter, ME, "none") is None
        personal = Personal.of(journal, federation.charter, ME, "none")
        states = StateStore(federation.root / ME / "states")
        for charter, given in ((federation.charter, None), (plain.charter, personal)):
            key = federation.silos[0].signing
            terms = (journal, states, charter, ME, key, POLICY)
            with pytest.raises(ValueError, match="own B"):
                Books(*terms, personal=given)


def test_an_error_here_is_ours(federation: SmallFederation) -> None:
    """A note that isn't one is said in a sentence."""
    ended(federation)
    with open_journal(federation.root / ME) as journal:
        journal.commit(notes={"personal/small": b"{"})
        personal = Personal(journal, federation.charter, ME, "none")
        with pytest.raises(FeditError, match=r"note 'personal/small' in .* isn't one"):
            personal.check(None)
