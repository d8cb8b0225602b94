"""Ledgers share one history: each is still a value that nothing changes."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.errors import StorageError
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.events import Intent
from fedit_secure.privacy.plan import DpPlan

PLAN = DpPlan(
    sample_rate=0.01,
    noise_multiplier=2.0,
    clip=1.0,
    expected_batch=8,
    local_steps=1,
    rounds=10_000,
    spare_charges=0,
    delta=1e-6,
)
OPENED = pl.Opened(
    silo="north",
    identity="0a" * 32,
    population="ward",
    adjacency="zero-out",
    delta=1e-6,
    cap_epsilon=8.0,
    filter_order=4.0,
    fingerprints="0b" * 32,
    software="x",
)


def hexed(n: int) -> str:
    return f"{n:064x}"


def intent(charter: int, round: int) -> Intent:
    return Intent.of(
        PLAN,
        charter=hexed(charter),
        run="r",
        round=round,
        state_digest=hexed(0),
        weight=1,
        dtype="float32",
    )


def events(charter: int, round: int, ctx: int) -> list[pl.Event]:
    here = {"charter": hexed(charter), "round": round}
    digest = hexed(ctx)
    return [
        pl.Committed(**here, update_digest=digest),
        pl.Masked(ctx=digest),
        pl.Revealed(ctx=digest),
        pl.Released(**here, release_digest=digest, state_digest=digest),
    ]


def naive(ledger: pl.Ledger) -> tuple[object, ...]:
    """What a ledger answers, by a look at every event."""
    intents = [e for e in ledger.events if isinstance(e, Intent)]
    released = [e for e in ledger.events if isinstance(e, pl.Released)]
    charters = list(dict.fromkeys(i.charter for i in intents))
    return (
        tuple(intents),
        [(c, sum(i.charter == c for i in intents)) for c in charters],
        [
            sum(i.charter == c for i in intents) - sum(r.charter == c for r in released)
            for c in charters
        ],
        {(i.charter, i.round) for i in intents},
    )


def answers(ledger: pl.Ledger) -> tuple[object, ...]:
    charges = ledger.charges().own
    rounds = {
        (c.charter, n)
        for c in charges
        for n in range(30)
        if ledger.has_intent(c.charter, n)
    }
    return (
        ledger.intents(),
        [(c.charter, c.times) for c in charges],
        [ledger.lost_charges(c.charter) for c in charges],
        rounds,
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_ledger_stays_what_it_was_whichever_is_gone_on_from(
    data: st.DataObject,
) -> None:
    """Ledgers grow from any earlier one; each answers as a look at its events does."""
    made = [pl.Ledger.open(OPENED)]
    taken = [made[0].entries]
    for step in range(data.draw(st.integers(1, 25))):
        start = made[data.draw(st.integers(0, len(made) - 1))]
        charter = data.draw(st.integers(1, 3))
        rounds = [i.round for i in start.intents(hexed(charter))]
        now = max(rounds, default=0) + 1
        grown = pl.Ledger(
            start._history.extended(start.sequence, intent(charter, now)),
            start.sequence + 1,
        )
        if data.draw(st.booleans()):
            for event in events(charter, now, 1000 + step):
                grown = grown.append(event)
        made.append(grown)
        taken.append(grown.entries)
    for ledger, entries in zip(made, taken, strict=True):
        assert ledger.entries == entries
        assert answers(ledger) == naive(ledger)
        again = pl.Ledger.from_entries("ward", entries)
        assert (again, again.hashes, again.events) == (
            ledger,
            ledger.hashes,
            ledger.events,
        )
        assert hash(again) == hash(ledger)


def test_a_refused_event_leaves_no_trace() -> None:
    ledger = pl.Ledger.open(OPENED)
    for _ in range(2):
        with pytest.raises(StorageError, match="no intent"):
            ledger.append(events(1, 1, 5)[0])
    after = ledger.append(pl.DataVersion(old=hexed(1), new=hexed(2)))
    assert after.sequence == 2
    assert pl.Ledger.from_entries("ward", after.entries) == after


def test_threads_that_go_on_from_one_ledger_never_mix() -> None:
    start = pl.Ledger.open(OPENED)
    made: list[pl.Ledger] = []

    def grow(fill: int) -> None:
        ledger = start
        for n in range(200):
            ledger = ledger.append(pl.DataVersion(old=hexed(fill), new=hexed(n)))
        made.append(ledger)

    threads = [threading.Thread(target=grow, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert start.sequence == 1
    for ledger in made:
        versions = ledger.events[1:]
        assert len({e.old for e in versions if isinstance(e, pl.DataVersion)}) == 1
        assert [e.new for e in versions if isinstance(e, pl.DataVersion)] == [
            hexed(n) for n in range(200)
        ]
    assert len({ledger.hash for ledger in made}) == 4


def test_going_on_from_the_newest_copies_nothing() -> None:
    """So a run's ledgers cost an entry each, and not its whole past."""
    first = pl.Ledger.open(OPENED)
    second = first.append(pl.DataVersion(old=hexed(1), new=hexed(2)))
    assert second._history is first._history
    fork = first.append(pl.DataVersion(old=hexed(1), new=hexed(3)))
    assert fork._history is not first._history
    assert second.entries != fork.entries
