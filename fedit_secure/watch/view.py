"""A snapshot in words, as the page and `fedit run watch` show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fedit_secure.watch.snapshot import (
    AggregatorSnapshot,
    Cap,
    Certificate,
    SiloSnapshot,
    Snapshot,
    seconds_left,
)

Kind = Literal["good", "open", "bad"]

# Phases as the protocol names them, in words for whoever looks.
PHASES = {
    "starting": "starting",
    "idle": "connected",
    "away": "away",
    "loading": "loading records and model",
    "ready": "ready to sample",
    "tuning": "tuning",
    "tuned": "tuned",
    "undrawn": "sitting the round out",
    "refused": "refused the round",
    "advertise": "exchanging keys",
    "share": "sharing",
    "mask": "masking",
    "agree": "agreeing on the sum",
    "reveal": "unmasking the sum",
    "confirm": "verifying the sum",
    "void": "voiding an attempt",
    "voided": "attempt voided, the updates go on",
    "failed": "attempt failed",
    "certified": "round certified",
    "applied": "round applied",
    "skipped": "round skipped",
    "ended": "ended",
}
_SOON_DAYS, _NOW_DAYS = 30, 7
_WARNING, _ALARM = 0.8, 0.95  # of a cap


@dataclass(frozen=True, slots=True)
class Headline:
    """One sentence, how it is meant, and what else there is to say."""

    kind: Kind
    text: str
    more: str = ""


def shown(snapshot: Snapshot) -> dict[str, Any]:
    """What the templates are given."""
    return {
        "s": snapshot,
        "aggregator": isinstance(snapshot, AggregatorSnapshot),
        "headline": headline(snapshot),
        "now": snapshot.daemon.at,
        "left": seconds_left(snapshot),
    }


def headline(snapshot: Snapshot) -> Headline:
    """How things stand, worst first."""
    daemon = snapshot.daemon
    if daemon.state == "failed":
        return Headline("bad", "The daemon has failed.", daemon.why)
    if daemon.state == "stopped":
        return Headline("open", "The daemon was stopped.", daemon.why)
    if daemon.state == "ended":
        return Headline("good", "The run has ended.")
    where = doing(snapshot)
    if isinstance(snapshot, AggregatorSnapshot):
        silos, enough = len(snapshot.silos), snapshot.minimum
        more = (
            f"{snapshot.connected} of {silos} silos connected, {snapshot.ready} ready; a "
            f"sum needs {enough}{_drawn(snapshot)}."
        )
        short = sum(silo.connected for silo in snapshot.drawn) < enough
        return Headline("open" if short else "good", where, more)
    if not snapshot.connected:
        more = f"It goes on trying to reach {snapshot.aggregator}."
        return Headline("open", f"Not connected to the aggregator. {where}", more)
    return Headline("good", where, f"Connected to {snapshot.aggregator}.")


def _drawn(snapshot: AggregatorSnapshot) -> str:
    drawn = len(snapshot.drawn)
    return f" of the {drawn} drawn" if drawn < len(snapshot.silos) else ""


def doing(snapshot: Snapshot) -> str:
    """Round and phase, as a sentence."""
    now, rounds = snapshot.now, snapshot.run.rounds
    step = f", step {now.step} of {now.steps}" if now.steps else ""
    attempt = f", attempt {now.attempt}" if now.attempt > 1 else ""
    number = min(now.round, rounds)
    return f"Round {number} of {rounds}: {phase(now.phase)}{step}{attempt}."


def phase(name: str) -> str:
    """A phase in words."""
    return PHASES.get(name, name)


def moment(seconds: float) -> str:
    """Unix time as people write it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def iso(seconds: float) -> str:
    """Unix time for machines."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    units = (("d", 86400), ("h", 3600), ("min", 60))
    parts = []
    for name, size in units:
        if left >= size or parts:
            parts.append(f"{left // size} {name}")
            left %= size
    return " ".join(parts[:2])


def size(amount: int) -> str:
    """Bytes in a unit that keeps the number short."""
    if amount < 1024:
        return f"{amount} B"
    value = float(amount)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def epsilon(value: float | None) -> str:
    """None is what nothing bounds."""
    return "unbounded" if value is None else f"{value:.4g}"


def delta(value: float) -> str:
    """A small number as people write it."""
    return f"{value:g}".replace("e-0", "e-")


def days(certificate: Certificate, now: float) -> int:
    """Whole days that a certificate still holds; negative once it has ended."""
    return int((certificate.ends - now) // 86400)


def certificate_kind(certificate: Certificate, now: float) -> Kind:
    """How urgent it is. A leaf lives 90 days and renews by itself."""
    left = days(certificate, now)
    if left < _NOW_DAYS:
        return "bad"
    return "open" if left < _SOON_DAYS else "good"


def cap_kind(cap: Cap) -> Kind:
    """How near a cap is."""
    share = cap.share or 0.0
    if share > _ALARM:
        return "bad"
    return "open" if share > _WARNING else "good"


def percent(share: float) -> str:
    """A share in per cent, whole."""
    return f"{100 * share:.0f} %"


def bar(share: float) -> str:
    """The width of a bar in a picture 100 wide; one that is over stays within it."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}"


def epsilon_left(snapshot: SiloSnapshot) -> float | None:
    """Under the cap that is nearest; None where nothing bounds it."""
    left = [
        max(0.0, cap.limit - cap.spent)
        for cap in snapshot.caps
        if cap.limit is not None and cap.spent is not None
    ]
    return min(left, default=None)


def tail(path: str) -> str:
    """A path within its run folder."""
    return "/".join(path.split("/")[-3:])


FILTERS = {
    "phase": phase,
    "moment": moment,
    "iso": iso,
    "span": span,
    "size": size,
    "epsilon": epsilon,
    "delta": delta,
    "days": days,
    "certificate_kind": certificate_kind,
    "cap_kind": cap_kind,
    "percent": percent,
    "bar": bar,
    "tail": tail,
}
