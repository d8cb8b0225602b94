"""What one silo remembers of its peers, and what its ledger says of a voided attempt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_federation import LENGTH, POLICY, SmallFederation, found

from fedit_secure.errors import BudgetExhausted, FaultySilo, FeditError
from fedit_secure.federation.policy import Policy
from fedit_secure.privacy.ledger import Committed, Ledger, Renewed
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import ExchangeKey
from fedit_secure.secagg.transcript import digest, encode
from fedit_secure.silo.accounting import Question, answer
from fedit_secure.silo.books import Books
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.update_digest import update_digest
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal

CTX = b"c" * 32


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 4)


def advert(peer: int, population: str, sequence: int) -> m.Advert:
    key = ExchangeKey.from_bytes(bytes([peer + 1]) * 32).public
    head = m.LedgerHead(population, sequence, bytes([sequence]) * 32)
    return m.Advert(peer, CTX, key, key, bytes(32), bytes(32), head)


def test_other_population_at_the_first_meeting(federation: SmallFederation) -> None:
    """A peer whose ledger was never seen can't name another population than the
    charter's, under which nothing was spent."""
    own = federation.silos[0]
    with open_journal(federation.root / own.name) as journal:
        heads = federation.books(own, journal).peer_heads()
        assert heads.keys() == {0, 1, 2, 3}
        checks.advert(advert(2, "s2", 0), heads[2])
        with (
            pytest.raises(FaultySilo, match="another population"),
            checks.blame(FaultySilo, "s2"),
        ):
            checks.advert(advert(2, "nobody", 0), heads[2])


def test_peer_heads_outlive_the_process(federation: SmallFederation) -> None:
    own, seen = federation.silos[0], m.LedgerHead("s2", 7, b"h" * 32)
    with open_journal(federation.root / own.name) as journal:
        fuse = m.Fuse("heads", 1, 1, CTX, heads=((2, seen),))
        federation.books(own, journal).burn(fuse)
    with open_journal(federation.root / own.name) as journal:
        assert federation.books(own, journal).peer_heads()[2] == seen


def test_the_ledger_names_the_void_certificate_as_anybody_can_compute_it(
    federation: SmallFederation,
) -> None:
    """By its transcript encoding, which docs/protocol.md gives, not by the wire's."""
    own, update = federation.silos[0], np.ones(LENGTH, np.float32)
    statements = tuple(
        replace(word, signature=silo.signing.sign(word.signed_digest()))
        for i, silo in enumerate(federation.silos)
        for word in [m.VoidStatement(i, CTX)]
    )
    proof = m.VoidCertificate(CTX, statements)
    masked = m.Fuse("mask", 1, 1, CTX, update_digest=update_digest(update))
    with open_journal(federation.root / own.name) as journal:
        books = federation.books(own, journal)
        books.admit(bytes(32))
        books.reserve(1)
        books.commit_update(1, update)
        for fuse in (m.Fuse("advertise", 1, 1, CTX), masked):
            books.burn(fuse)
        books.renewed(m.Fuse("renew", 1, 1, CTX), proof)
        event = Ledger.from_entries(own.name, journal.ledger(own.name)).events[-1]
    expected = digest("fedit/void-certificate/v1", encode(proof))
    assert event == Renewed(ctx=CTX.hex(), certificate=expected.hex())


def test_an_update_in_the_ledger_has_a_name_that_only_its_silo_can_make(
    federation: SmallFederation,
) -> None:
    """The ledger travels: else whoever guesses an update could see whether it was it."""
    update, names = np.ones(LENGTH, np.float32), set()
    for own in federation.silos[:2]:
        with open_journal(federation.root / own.name) as journal:
            books = federation.books(own, journal)
            books.admit(bytes(32))
            books.reserve(1)
            books.commit_update(1, update)
            event = Ledger.from_entries(own.name, journal.ledger(own.name)).events[-1]
        assert isinstance(event, Committed)
        names.add(event.update_digest)
    assert len(names) == 2
    public = update_digest(update)
    guesses = (public, digest("fedit/update-name/v1", public))
    assert names.isdisjoint(guess.hex() for guess in guesses)


def books_of(federation: SmallFederation, journal: Journal, **policy: Any) -> Books:
    party = federation.silos[0]
    limits = {"epsilon": 8.0, "delta": 1e-5, "tell_record_count": True}
    return Books(
        journal,
        StateStore(federation.root / party.name / "states"),
        federation.charter,
        party.name,
        party.signing,
        Policy(**(limits | policy)),
    )


@pytest.mark.parametrize("most", [0, 1])
def test_no_more_charges_are_lost_than_the_policy_allows(
    tmp_path: Path, most: int
) -> None:
    """A round that is charged again and again brings the records nothing but cost."""
    federation = found(tmp_path, 4, rounds=5)  # the plan itself would allow six charges
    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, max_lost_charges=most)
        books.admit(bytes(32))
        for _ in range(most + 1):
            books.reserve(1)
        with pytest.raises(BudgetExhausted, match="brought no release"):
            books.reserve(1)
        name = federation.charter.row("s0").population
        kinds = [json.loads(entry)["kind"] for entry in journal.ledger(name)]
    assert kinds.count("intent") == most + 1


def test_steps_of_two_threads_come_one_after_the_other(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """A charge whose tuning was stopped is still being computed when the next step comes."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(question: Question) -> str:
        if question.what == "reserve" and question.round == 1:
            asked.set()
            assert go_on.wait(60)
        return answer(question)

    with open_journal(tmp_path / "slow") as journal:
        states = StateStore(tmp_path / "slow" / "states")
        terms = (federation.charter, "s0", federation.silos[0].signing, POLICY)
        books = Books(journal, states, *terms, ask=slow)
        books.admit(bytes(32))
        failed: list[FeditError] = []

        def step(*steps: Callable[[], None]) -> None:
            try:
                for each in steps:
                    each()
            except FeditError as error:
                failed.append(error)

        first = threading.Thread(target=step, args=(lambda: books.reserve(1),))
        first.start()
        assert asked.wait(60)
        later = (books.check_budget, lambda: books.reserve(2))
        second = threading.Thread(target=step, args=later)
        second.start()
        second.join(0.3)
        assert second.is_alive()  # it waits for its turn
        go_on.set()
        first.join(60)
        second.join(60)
        assert failed == []
        kinds = [json.loads(entry)["kind"] for entry in journal.ledger("s0")]
    assert kinds == ["opened", "intent", "intent"]
