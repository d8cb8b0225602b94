"""The accountants in a process of their own say what they say in ours, and end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_federation import POLICY, SmallFederation, found

from fedit_secure.errors import BudgetExhausted, PolicyRefusal, StorageError
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.silo.accountants import Accountants
from fedit_secure.silo.accounting import Question, answer, reply, take_reply
from fedit_secure.silo.books import Books
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.adapter_store import StateStore

SECONDS = 60.0


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 3, rounds=2)


@pytest.fixture
def accountants() -> Iterator[Accountants]:
    made = Accountants()
    yield made
    made.close()


def question(federation: SmallFederation, **other: object) -> Question:
    asked = Question("admit", federation.charter, "s0", POLICY)
    return replace(asked, **other)  # type: ignore[arg-type]


def test_it_charges_as_books_without_it_do(
    federation: SmallFederation, accountants: Accountants
) -> None:
    """The same ledger, byte for byte but for its times; and the process has been used."""
    ledgers = []
    for number, ask in enumerate((answer, accountants)):
        home = federation.root / f"books{number}"
        with open_journal(home) as journal:
            me = federation.silos[0]
            states = StateStore(home / "states")
            terms = (federation.charter, "s0", me.signing, POLICY)
            books = Books(journal, states, *terms, ask=ask)
            books.admit(bytes(32))
            books.check_budget()
            books.reserve(1)
            ledgers.append(journal.ledger("s0"))
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == 2
    assert accountants._process is not None


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"policy": POLICY.model_copy(update={"epsilon": 0.5})}, BudgetExhausted),
        ({"policy": POLICY.model_copy(update={"minimum_silos": 9})}, PolicyRefusal),
    ],
)
def test_it_refuses_with_the_same_words(
    federation: SmallFederation,
    accountants: Accountants,
    other: dict[str, object],
    kind: type[Exception],
) -> None:
    said = []
    for ask in (answer, accountants):
        with pytest.raises(kind) as refused:
            ask(question(federation, **other))
        assert type(refused.value) is kind
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_a_question_is_the_same_on_the_other_side(federation: SmallFederation) -> None:
    asked = question(
        federation, times=ChargeTimes(7, (3, 7)), entries=(b"{}",), round=4
    )
    again = Question.from_json(asked.to_json())
    assert again == asked
    assert take_reply(reply(question(federation).to_json())) == ""


def test_a_process_that_is_killed_has_charged_nothing_and_is_replaced(
    federation: SmallFederation, accountants: Accountants
) -> None:
    accountants(question(federation))
    first = accountants._process
    assert first is not None
    first.kill()
    with pytest.raises(
        StorageError, match=f"status -{signal.SIGKILL.value}; nothing was"
    ):
        accountants(question(federation))
    assert accountants(question(federation)) == ""
    assert accountants._process is not first


def test_it_ends_when_nobody_asks(federation: SmallFederation) -> None:
    accountants = Accountants(keep_seconds=0.2)
    accountants(question(federation))
    first = accountants._process
    assert first is not None
    assert first.wait(SECONDS) == 0
    until = time.monotonic() + SECONDS
    while accountants._process is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert accountants(question(federation)) == ""
    accountants.close()


def test_closing_ends_a_call(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is stopped waits for no accountant."""
    monkeypatch.setattr(
        "fedit_secure.silo.accountants._PROGRAM", ("-c", "import time; time.sleep(600)")
    )
    accountants, raised = Accountants(), []

    def ask() -> None:
        with pytest.raises(StorageError) as error:
            accountants(question(federation))
        raised.append(str(error.value))

    asking = threading.Thread(target=ask)
    asking.start()
    while accountants._process is None:
        time.sleep(0.01)
    accountants.close()
    asking.join(SECONDS)
    assert raised
    assert "nothing was charged" in raised[0]
