"""An aggregator that chooses who takes part in a round, against whole daemons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator import service
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.errors import FaultyAggregator, ProtocolError, QuorumLost
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.identity import Identity
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.life import Life
from fedit_secure.wire import frames as f

SECONDS = 200  # for a slow machine
SILOS, DRAWN = 5, 3


class Picked(Cohorts):
    """The silos that somebody would rather have."""

    def __init__(self, federation: SmallFederation, pick: Callable[..., Any]) -> None:
        super().__init__(federation.charter)
        self._true, self._pick = Cohorts(federation.charter), pick

    def of(self, round: int) -> tuple[int, ...]:
        return self._pick(self._true, round)


def draws_others(charter: Charter) -> bool:
    """Whether its first two rounds are of different silos."""
    cohorts = Cohorts(charter)
    return cohorts.of(1) != cohorts.of(2)


def another(true: Cohorts, round: int) -> tuple[int, ...]:
    """One silo that isn't drawn, in the place of one that is."""
    drawn = true.of(round)
    out = next(i for i in range(SILOS) if i not in drawn)
    return tuple(sorted((*drawn[1:], out)))


def of_the_round_before(true: Cohorts, round: int) -> tuple[int, ...]:
    return true.of(max(1, round - 1))


def picking(
    federation: SmallFederation, pick: Callable[..., Any], patience: float
) -> Aggregator:
    hub = federation.new_aggregator()
    hub._cohorts = hub._attempts._cohorts = Picked(federation, pick)
    change = {"tune_deadline_seconds": patience}
    hub._here._schedule = federation.charter.schedule.model_copy(update=change)
    return hub


async def ends(federation: SmallFederation, hub: Aggregator) -> object:
    silos = [
        asyncio.ensure_future(federation.run_silo(silo, lambda: hub))
        for silo in federation.silos
    ]
    async with asyncio.timeout(SECONDS):
        (ended,) = await asyncio.gather(hub.run(), return_exceptions=True)
        for silo in silos:
            silo.cancel()
        await asyncio.gather(*silos, return_exceptions=True)
    return ended


def said_no(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if what in r.getMessage()]


@pytest.mark.parametrize(
    ("pick", "round"),
    [(another, 1), (of_the_round_before, 2)],
    ids=["picked", "replayed"],
)
async def test_picked_and_replayed_cohort(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    pick: Callable[..., Any],
    round: int,
) -> None:
    """It offers a round to a silo that isn't drawn: an honest one refuses, names it, and
    neither charges nor tunes. So no sum of that cohort comes about."""
    caplog.set_level(logging.WARNING)
    federation = found(tmp_path, SILOS, rounds=2, drawn=DRAWN, fits=draws_others)
    true = Cohorts(federation.charter)
    outsiders = set(pick(true, round)) - set(true.of(round))
    assert outsiders
    # The rounds before it are honest, and take as long as they take.
    hub = picking(federation, pick, 60.0 if round > 1 else 2.0)
    if round > 1:
        change = {"tune_deadline_seconds": 2.0}
        short = federation.charter.schedule.model_copy(update=change)
        honest = hub._here.begin

        def begin(cohort: Any) -> None:
            honest(cohort)
            if hub._folder.progress.round == round:
                hub._here._schedule = short

        hub._here.begin = begin  # type: ignore[method-assign]
    ended = await ends(federation, hub)
    assert isinstance(ended, QuorumLost), ended
    refusals = said_no(
        caplog, f"it offers round {round}, which isn't drawn for this silo"
    )
    assert refusals
    assert all("the aggregator is faulty" in text for text in refusals)
    names = {federation.charter.roster[i].name for i in outsiders}
    assert not {name for name, now in federation.updates if now == round} & names
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    assert folder.progress.certified == round - 1
    assert folder.published(round) is None


async def test_picked_cohort_with_an_accomplice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silo that isn't drawn plays along, tunes and advertises. Those that are refuse the
    set of adverts, so nothing is masked, let alone revealed."""
    caplog.set_level(logging.WARNING)
    federation = found(
        tmp_path, SILOS, rounds=1, drawn=DRAWN, silo_deadline_seconds=0.5
    )
    picked = Picked(federation, another)
    true = Cohorts(federation.charter)
    (outsider,) = set(picked.of(1)) - set(true.of(1))
    accomplice = federation.charter.roster[outsider].name
    real = SiloDaemon.__init__

    def made(
        daemon: SiloDaemon, charter: Any, name: str, *more: Any, **named: Any
    ) -> None:
        real(daemon, charter, name, *more, **named)
        if name == accomplice:
            daemon._attempts._cohorts = picked

    monkeypatch.setattr(SiloDaemon, "__init__", made)
    monkeypatch.setattr(service, "MAX_ATTEMPTS", 2)
    hub = picking(federation, another, 60.0)
    ended = await ends(federation, hub)
    # Not even the round's skip: its own word isn't one of the round's.
    assert isinstance(ended, ProtocolError), ended
    assert (accomplice, 1) in federation.updates  # it did what it could
    what = f"the aggregator is faulty: no silo has number {outsider} here"
    assert said_no(caplog, what)
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    assert folder.published(1) is None
    for silo in federation.silos:
        with open_journal(tmp_path / silo.name) as journal:
            life = federation.books(silo, journal).life
        assert (life.update_digest, life.revealed) == (b"", frozenset())


# --------------------------------------------------- what a silo that sits out is asked for


@dataclass
class Recorded:
    """A link that keeps what the silo says."""

    said: list[f.Frame] = field(default_factory=list)

    async def send(self, frame: f.Frame) -> None:
        self.said.append(frame)


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, SILOS, rounds=2, drawn=DRAWN, fits=draws_others)


def outsider_of(federation: SmallFederation) -> Identity:
    drawn = Cohorts(federation.charter).names(1)
    return next(silo for silo in federation.silos if silo.name not in drawn)


def asked(federation: SmallFederation) -> dict[str, tuple[f.Frame, str]]:
    """What the aggregator signs, and what the silo answers to it."""
    charter, key = federation.charter, federation.aggregator.signing
    R, state = charter.digest(), federation.initial.digest()
    cohorts = Cohorts(charter)
    session = s.Session(charter.secagg_params(), cohorts.roster(1), R, 1, 1, state)
    words = []
    for index in cohorts.of(1)[:2]:  # c + 1 of them, on a state of the aggregator's
        word = m.Confirmation(index, R, 1, b"x" * 32, b"r" * 32)
        words.append(checks.sign(federation.silos[index].signing, word))
    offer = checks.sign(key, m.Offer(R, 1, 1, state))
    approvals = tuple(approval.to_bytes() for approval in federation.approvals)
    drawn = "which isn't drawn for this silo"
    return {
        "round": (f.RoundOffer(offer, None, approvals), drawn),
        "attempt": (offer, drawn),
        "skip": (
            checks.sign(key, m.SkipRequest(R, 1, state)),
            "it asked to skip a round that isn't drawn for us",
        ),
        "void": (checks.sign(key, m.VoidRequest(session.ctx)), ""),
        "confirm": (m.RoundCertificate(1, tuple(words)), ""),
    }


@pytest.mark.parametrize("what", ["round", "attempt", "skip", "void", "confirm"])
async def test_a_silo_that_isnt_drawn_does_nothing_that_it_is_asked(
    federation: SmallFederation, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It signs nothing of the round, writes nothing, and says so where it can be proved."""
    caplog.set_level(logging.WARNING)
    silo, (frame, answer) = outsider_of(federation), asked(federation)[what]
    with open_journal(federation.root / silo.name) as journal:
        books = federation.books(silo, journal)
        books.admit(bytes(32))
        entries = books.sequence

        async def tune(*_: Any) -> Any:
            raise AssertionError("it tunes")

        args = (federation.charter, silo.name, silo.signing, books, tune)
        daemon, link = SiloDaemon(*args), Recorded()
        daemon._link = link  # type: ignore[assignment]
        await daemon._take(frame)
        assert daemon._tuning is None
        assert daemon._patience() is None  # nothing is awaited, so nothing is confirmed
        assert (books.life, books.sequence, books.certified) == (Life(), entries, 0)
    said = [x for x in link.said if not isinstance(x, f.Withdraw)]
    assert not said
    reasons = [x.reason for x in link.said if isinstance(x, f.Withdraw)]
    assert len(reasons) == bool(answer)
    assert all(answer in r and "the aggregator is faulty" in r for r in reasons)


async def test_forged_history_by_silos_that_werent_drawn(
    federation: SmallFederation,
) -> None:
    """The silo takes no state that t silos confirmed of which one isn't of the round; and no
    confirmations of the drawn ones for a round that is drawn for others."""
    silo, charter = outsider_of(federation), federation.charter
    cohorts, R = Cohorts(charter), charter.digest()
    t = charter.secagg_params().threshold

    def proof(round: int, signers: list[int]) -> m.RoundCertificate:
        state = (federation.initial.digest(), b"r" * 32)
        words = [
            checks.sign(
                federation.silos[i].signing, m.Confirmation(i, R, round, *state)
            )
            for i in signers
        ]
        return m.RoundCertificate(round, tuple(words))

    with open_journal(federation.root / silo.name) as journal:
        books = federation.books(silo, journal)
        books.admit(bytes(32))
        daemon = SiloDaemon(charter, silo.name, silo.signing, books, None)  # type: ignore[arg-type]
        daemon._link = Recorded()  # type: ignore[assignment]
        books.keep_state(federation.initial)
        mine = charter.silo_index(silo.name)
        stacked = proof(1, [*cohorts.of(1)[: t - 1], mine])
        for certificate in (stacked, proof(2, list(cohorts.of(1)))):
            with pytest.raises(FaultyAggregator, match="no silo has number"):
                await daemon._adopt(certificate)
            assert books.certified == 0
        await daemon._adopt(proof(1, list(cohorts.of(1))))
        assert books.certified == 1
