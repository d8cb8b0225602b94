"""Snapshots to show: one of each role, in the middle of a run."""

from __future__ import annotations

from dataclasses import replace

from fedit_secure.watch import snapshot as w

DAY = 86400.0
NOW = 1_800_000_000.0
SILOS = ("clinic-a", "clinic-b", "university-hospital-c")


def daemon(name: str) -> w.Daemon:
    """A process that has run for a day."""
    return w.Daemon(
        name=name, version="0.1.0", pid=4711, started=NOW - DAY, at=NOW, state="running"
    )


def run(rounds: int = 5, certified: int = 2) -> w.Run:
    """A run under way."""
    return w.Run(
        federation="north",
        epoch=3,
        name="spring",
        charter="ab" * 32,
        expires="2027-12-31",
        rounds=rounds,
        certified=certified,
    )


def ended(number: int, outcome: w.Outcome = "released") -> w.EndedRound:
    """A closed round."""
    return w.EndedRound(
        round=number,
        outcome=outcome,
        state=f"{number:02x}" * 32,
        adapter=f"/var/lib/fedit/state/0123456789abcdef/rounds/{number:03d}/adapter",
        contributors=SILOS if outcome == "released" else (),
        seconds=3700.0,
    )


def certificate(party: str, days: float, kind: str = "issuer") -> w.Certificate:
    """One that ends in so many days."""
    return w.Certificate(
        party=party,
        role="aggregator" if party == "hub" else "silo",
        kind="leaf" if kind == "leaf" else "issuer",
        ends=NOW + days * DAY + 60,
    )


def head(silo: str, entries: int = 7) -> w.Head:
    """Of a ledger."""
    return w.Head(silo=silo, population=silo, entries=entries, hash="cd" * 32)


def an_aggregator(silos: tuple[str, ...] = SILOS) -> w.AggregatorSnapshot:
    """Two silos are connected, one of them is ready."""
    away = len(silos) - 1
    return w.AggregatorSnapshot(
        daemon=daemon("hub"),
        run=run(),
        now=w.Now(
            round=3, phase="tuning", since=NOW - 754, deadline=NOW + 2846, attempt=1
        ),
        minimum=2,
        silos=tuple(
            w.ServedSilo(
                name=name,
                connected=n != away,
                phase="away" if n == away else ("tuned" if n == 0 else "tuning"),
                since=NOW - 60 * n - 5,
                ready=n == 0,
                traffic=w.Traffic(sent=12_345 * (n + 1), received=98_765_432),
            )
            for n, name in enumerate(silos)
        ),
        attempts_voided=1,
        rounds=(ended(1), ended(2, "skipped")),
        heads=tuple(head(name) for name in silos),
        certificates=(
            certificate("hub", 80, "leaf"),
            certificate("hub", 400),
            certificate(silos[0], 5),
            *(certificate(name, 25 + n) for n, name in enumerate(silos[1:])),
        ),
        traffic=w.Traffic(sent=45_678_901, received=296_296_296),
    )


def cap(covers: str, spent: float | None, limit: float | None) -> w.Cap:
    """Epsilon against a cap."""
    return w.Cap(covers=covers, delta=1e-6, spent=spent, limit=limit)


def a_silo() -> w.SiloSnapshot:
    """Tuning, step 3 of 8; one cap nearly spent."""
    return w.SiloSnapshot(
        daemon=daemon("clinic-a"),
        run=run(),
        now=w.Now(round=3, phase="tuning", since=NOW - 754, step=3, steps=8),
        aggregator="hub.north.example:7443",
        connected=True,
        connection_since=NOW - DAY,
        charges=3,
        planned=6,
        run_epsilon=4.0,
        caps=(
            cap("in all", 3.14159, 8.0),
            cap("per run", 3.4, 4.0),
            cap("in 90 days", 3.9, 4.0),
        ),
        head=head("clinic-a", 11),
        rounds=(
            replace(ended(1), adapter=None, seconds=None),
            w.EndedRound(round=2, outcome="skipped"),
        ),
        certificates=(
            certificate("clinic-a", 80, "leaf"),
            certificate("clinic-a", 400),
            certificate("hub", 20),
        ),
        traffic=w.Traffic(sent=45_678_901, received=296_296_296),
    )
