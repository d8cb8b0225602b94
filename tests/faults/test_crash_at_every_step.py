"""A silo's process, and the aggregator's, is gone at every frame and every phase.

It comes back from its disk, and the run ends: in the exact sum over whoever contributed, or
where shares were already given and no sum can come out any more, in a skipped round or a
lost quorum, which is said. Nobody is charged twice for one update, and nobody says two
things where it may say one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_federation
from faults.crashing import (
    CountingLink,
    Dies,
    Door,
    Point,
    assert_answered_once,
    assert_sum,
    charges,
    ends_of,
    play,
)
from small_federation import found

from fedit_secure.errors import BudgetExhausted, QuorumLost
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import messages as m
from fedit_secure.silo.books import Books
from fedit_secure.wire import frames as f

NAMES = tuple(f"s{i}" for i in range(5))
PATIENT = {"phase_deadline_seconds": 3.0, "silo_deadline_seconds": 6.0}
Outcome = GridState | QuorumLost


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", CountingLink)


def five(tmp_path: Path, **schedule: float) -> Door:
    """t = 4: one of them may be missing."""
    return Door(found(tmp_path, 5, **schedule))


def assert_released(door: Door, end: Outcome) -> tuple[str, ...]:
    """The exact sum of at least four came out."""
    assert isinstance(end, GridState), end
    among = ends_of(door.federation)
    assert among is not None
    assert len(among) >= 4
    assert_sum(door.federation, end, among)
    return among


def assert_ended(door: Door, end: Outcome) -> None:
    """Shares were given: the exact sum, or none at all and everybody knows."""
    if isinstance(end, QuorumLost):
        assert ends_of(door.federation) is None
    elif ends_of(door.federation) == ():
        assert "skipped" in door.phases()
        assert_sum(door.federation, end, ())
    else:
        assert_released(door, end)


def assert_once(door: Door, most: int = 1, of: str = "s2") -> None:
    """One answer of a kind, one charge; `most` charges of the silo that died."""
    assert_answered_once(door)
    for name in NAMES:
        assert charges(door.federation, name) <= (most if name == of else 1), name
        # However often it was charged, it drew noise for one update.
        assert len(door.federation.updates.get((name, 1), [])) <= 1


# ---------------------------------------------------------------------------- one silo

# A charge stands from before the first record is sampled. A silo that dies between the
# two tunes again, for a second charge: it can't know whether it had begun.
CHARGED = {f.LedgerEntries, f.HeadReceipt}
SENT = [
    f.Hello, f.LedgerEntries, f.Phase, f.Ready, m.Advert, m.ShareBundle, m.MaskedUpload,
    m.Agreement, m.Reveal, m.Confirmation, f.Claim,
]  # fmt: skip
RECEIVED = [
    f.Welcome, f.RoundOffer, f.HeadReceipt, m.Offer, m.AdvertSet, m.ShareSet, m.UploadAck,
    m.SurvivorSet, m.AgreementSet, m.PublishedSum, m.RoundCertificate, f.RunEnded,
]  # fmt: skip
SILO = {f"before_sending_{what.__name__}": ("at_send", what) for what in SENT}
SILO |= {f"on_receiving_{what.__name__}": ("at_receive", what) for what in RECEIVED}


@pytest.mark.parametrize("at", SILO)
async def test_silo(tmp_path: Path, at: str) -> None:
    """It is missing where it died, and nobody else is."""
    where, what = SILO[at]
    door = five(tmp_path, **PATIENT)
    end = await play(door, [Dies("s2", **{where: Point(what)})])
    among = assert_released(door, end)
    assert {"s0", "s1", "s3", "s4"} <= set(among)
    if what in (m.Agreement, m.Reveal, m.Confirmation, f.Claim):
        assert "s2" in among  # its upload was there
    assert_once(door, 2 if what in CHARGED else 1)


@pytest.mark.parametrize("nth", [2, 3])
@pytest.mark.parametrize("where", ["at_send", "at_receive"])
async def test_silo_around_its_charge(tmp_path: Path, where: str, nth: int) -> None:
    """Charged and not yet countersigned, or countersigned and not yet sampled."""
    door = five(tmp_path, **PATIENT)
    what = f.LedgerEntries if where == "at_send" else f.HeadReceipt
    end = await play(door, [Dies("s2", **{where: Point(what, nth)})])
    assert_released(door, end)
    assert_once(door, 2)


def uploads_fail() -> list[Dies]:
    """Two of five vanish once they have burnt the fuse: the attempt must be voided."""
    return [Dies(name, at_send=Point(m.MaskedUpload)) for name in ("s1", "s3")]


def reveals_fail() -> list[Dies]:
    """Two of five are gone when shares are due, and back when it is too late."""
    dies = {"at_send": Point(m.Reveal), "back": "skipped"}
    return [Dies("s1", **dies), Dies("s3", **{**dies, "at_send": Point(m.Reveal)})]


VOIDING = {
    "before_sending_VoidStatement": ("at_send", m.VoidStatement),
    "on_receiving_VoidRequest": ("at_receive", m.VoidRequest),
    "on_receiving_VoidCertificate": ("at_receive", m.VoidCertificate),
}
SKIPPING = {
    "before_sending_Confirmation": ("at_send", m.Confirmation),
    "on_receiving_SkipRequest": ("at_receive", m.SkipRequest),
    "on_receiving_RoundCertificate": ("at_receive", m.RoundCertificate),
}


@pytest.mark.parametrize("at", VOIDING)
async def test_silo_while_the_attempt_is_voided(tmp_path: Path, at: str) -> None:
    where, what = VOIDING[at]
    door = five(tmp_path, **PATIENT)
    end = await play(door, [*uploads_fail(), Dies("s2", **{where: Point(what)})])
    assert "void" in door.phases()
    assert_released(door, end)  # the same updates, in the next attempt
    assert_once(door)


@pytest.mark.parametrize("at", SKIPPING)
async def test_silo_while_the_round_is_skipped(tmp_path: Path, at: str) -> None:
    where, what = SKIPPING[at]
    door = five(tmp_path)
    end = await play(door, [*reveals_fail(), Dies("s2", **{where: Point(what)})])
    assert ends_of(door.federation) == ()
    assert_ended(door, end)
    assert_once(door)


def unsigned_to_s2(silo: str, frame: f.Frame) -> f.Frame:
    if silo == "s2" and isinstance(frame, m.ShareSet):
        return replace(frame, signature=bytes(64))
    return frame


async def test_silo_before_sending_Withdraw(tmp_path: Path) -> None:
    """It was shown what the aggregator never signed, and dies before it says so."""
    door = five(tmp_path, **PATIENT)
    door.tamper = unsigned_to_s2
    end = await play(door, [Dies("s2", at_send=Point(f.Withdraw))])
    assert assert_released(door, end) == ("s0", "s1", "s3", "s4")
    assert_once(door)


async def test_silo_before_sending_Refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its budget is spent, so it tunes nothing, before the restart and after it."""
    real = Books.check_budget

    def check(books: Books) -> None:
        if books._name == "s2":
            raise BudgetExhausted("nothing is left")
        real(books)

    monkeypatch.setattr(Books, "check_budget", check)
    door = five(tmp_path, **PATIENT)
    end = await play(door, [Dies("s2", at_send=Point(f.Refused))])
    assert assert_released(door, end) == ("s0", "s1", "s3", "s4")
    assert charges(door.federation, "s2") == 0
    assert_once(door)


async def test_silo_on_receiving_CannotServe(tmp_path: Path) -> None:
    """Two never come, so the run is given up; back again, it finds nobody."""
    door = five(tmp_path, tune_deadline_seconds=1.0)
    dies = Dies("s2", at_receive=Point(f.CannotServe))
    end = await play(door, [dies], absent=["s3", "s4"])
    assert isinstance(end, QuorumLost)
    assert "3 silos were ready in time, not 4" in str(end)
    assert_once(door)


# ---------------------------------------------------------------------- the aggregator

BEFORE = [  # what it sends before any silo gives a share: nothing is lost with it
    f.Welcome, f.RoundOffer, f.HeadReceipt, m.Offer, m.AdvertSet, m.ShareSet, m.UploadAck,
    m.SurvivorSet,
]  # fmt: skip
AFTER = [m.AgreementSet, m.PublishedSum, m.RoundCertificate]
HEARD = [
    f.LedgerEntries, f.Phase, f.Ready, m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement
]  # fmt: skip
HEARD_AFTER = [m.Reveal, m.Confirmation]


def points(whats: list[type], how: str, *nths: int) -> dict[str, tuple[type, int]]:
    return {
        f"{how}_{what.__name__}_{nth}": (what, nth) for what in whats for nth in nths
    }


SENDING = points([*BEFORE, f.RunEnded], "sending", 3)  # to nobody yet: see PHASES
SENDING_LATE = points(AFTER, "sending", 1, 3)
HEARING = points(HEARD, "hearing", 4)
HEARING_LATE = points(HEARD_AFTER, "hearing", 1, 4)


async def dead_aggregator(
    tmp_path: Path,
    dying: list[Dies],
    schedule: dict[str, float] | None = None,
    **point: Any,
) -> tuple[Door, Outcome]:
    """The outcome after the first process of the aggregator died at this point."""
    door = five(tmp_path, **(schedule or {}))
    for where, what in point.items():
        setattr(door, where, what)
    end = await play(door, dying)
    assert door.life == 1, "it never died"
    assert_once(door)
    return door, end


@pytest.mark.parametrize("at", SENDING)
async def test_aggregator_before_sending(tmp_path: Path, at: str) -> None:
    """With some silos told and others not: the attempt is voided, for free."""
    door, end = await dead_aggregator(tmp_path, [], at_send=Point(*SENDING[at]))
    assert_released(door, end)


@pytest.mark.parametrize("at", HEARING)
async def test_aggregator_on_hearing(tmp_path: Path, at: str) -> None:
    door, end = await dead_aggregator(tmp_path, [], at_receive=Point(*HEARING[at]))
    assert_released(door, end)


@pytest.mark.parametrize("at", SENDING_LATE)
async def test_aggregator_before_sending_once_shares_are_due(
    tmp_path: Path, at: str
) -> None:
    """A sum that is out, or certified, is taken up again; without one there is none."""
    what, nth = SENDING_LATE[at]
    door, end = await dead_aggregator(tmp_path, [], at_send=Point(what, nth))
    assert_ended(door, end)
    if what is not m.AgreementSet:
        assert_released(door, end)


@pytest.mark.parametrize("at", HEARING_LATE)
async def test_aggregator_on_hearing_once_shares_are_due(
    tmp_path: Path, at: str
) -> None:
    what, nth = HEARING_LATE[at]
    door, end = await dead_aggregator(tmp_path, [], at_receive=Point(what, nth))
    assert_ended(door, end)
    if what is m.Confirmation:
        assert_released(door, end)


@pytest.mark.parametrize("nth", [1, 4])
async def test_aggregator_on_hearing_Claim(tmp_path: Path, nth: int) -> None:
    """The run is over, and what it costs is said again to the next process."""
    here = {"at_receive": Point(f.Claim, nth)}
    door, end = await dead_aggregator(tmp_path, [], PATIENT, **here)
    assert_released(door, end)
    claims = door.federation.root / "run" / "claims"
    assert len(list(claims.glob("*.claim"))) == 5


async def test_aggregator_on_hearing_Withdraw(tmp_path: Path) -> None:
    """A silo refuses what it was shown: this process's doing, and gone with it."""
    here = {"at_receive": Point(f.Withdraw), "tamper": unsigned_to_s2}
    door, end = await dead_aggregator(tmp_path, [], **here)
    assert_released(door, end)


PHASES = [
    "tuning",
    "advertise",
    "share",
    "mask",
    "agree",
    "reveal",
    "certified",
    "ended",
]


@pytest.mark.parametrize("phase", [*PHASES, "confirm"])
async def test_aggregator_entering(tmp_path: Path, phase: str) -> None:
    """Before its first message of the phase, and before anything of it is on disk."""
    door, end = await dead_aggregator(tmp_path, [], at_event=Point(phase))
    assert_ended(door, end)
    if phase in PHASES:
        assert_released(door, end)


VOIDS = {
    "entering_void": {"at_event": "void"},
    "sending_VoidRequest": {"at_send": m.VoidRequest},
    "hearing_VoidStatement": {"at_receive": m.VoidStatement},
    "sending_VoidCertificate": {"at_send": m.VoidCertificate},
}
SKIPS = {
    "entering_skipped": {"at_event": "skipped"},
    "sending_SkipRequest": {"at_send": m.SkipRequest},
    "hearing_Confirmation": {"at_receive": m.Confirmation},
    "sending_RoundCertificate": {"at_send": m.RoundCertificate},
}


@pytest.mark.parametrize("at", VOIDS)
async def test_aggregator_while_it_voids(tmp_path: Path, at: str) -> None:
    point = {where: Point(what) for where, what in VOIDS[at].items()}
    door, end = await dead_aggregator(tmp_path, uploads_fail(), **point)
    assert_released(door, end)


@pytest.mark.parametrize("at", SKIPS)
async def test_aggregator_while_it_skips(tmp_path: Path, at: str) -> None:
    point = {where: Point(what) for where, what in SKIPS[at].items()}
    door, end = await dead_aggregator(tmp_path, reveals_fail(), **point)
    assert ends_of(door.federation) == ()  # and nobody has to say it twice
    assert_ended(door, end)


# ------------------------------------------------------------------------ every step?


def test_every_frame_of_either_role_is_a_place_to_die() -> None:
    """A message that is new on the wire is new here too."""
    never = {f.Phase, f.Withdraw, m.Confirmation}  # the aggregator never sends these
    places = [*SILO.values(), *VOIDING.values(), *SKIPPING.values()]
    sent = {what for where, what in places if where == "at_send"}
    got = {what for where, what in places if where == "at_receive"}
    assert sent | {f.Withdraw, f.Refused} == f.FROM_SILO
    assert got | {f.CannotServe} == f.FROM_AGGREGATOR - never
    late = [VOIDS, SKIPS]
    said = {p["at_send"] for table in late for p in table.values() if "at_send" in p}
    said |= {what for what, _ in (SENDING | SENDING_LATE).values()}
    assert said | {f.CannotServe} == f.FROM_AGGREGATOR - never
    heard = {p["at_receive"] for t in late for p in t.values() if "at_receive" in p}
    heard |= {what for what, _ in (HEARING | HEARING_LATE).values()}
    assert heard | {f.Hello, f.Withdraw, f.Refused, f.Claim} == f.FROM_SILO
