"""Draw the diagrams and the step tables of docs/protocol.md from the transition tables,
or with --check see that the page is up to date.

`run_release()` runs twice with four silos: once as it is, and once with two uploads that
don't arrive. What is drawn is what happened: who sent what to whom, in which order, behind
which fuse. A step's number is the one in its docstring. Only NOTES is written by hand.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from generated_blocks import filled, write_or_check

from fedit_secure.errors import FeditError
from fedit_secure.secagg import aggregator_steps as agg
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import protocol, silo_steps
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster, SecAggParams
from fedit_secure.secagg.protocol import AGGREGATOR, SILO, aggregator_step, silo_step

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "protocol.md"

NOTES: dict[type, str] = {
    m.Offer: "attempt, global state",
    m.Advert: "keys, commitments, head",
    m.AdvertSet: "U1, so K",
    m.ShareBundle: "sealed shares",
    m.ShareSet: "U2, envelopes",
    m.MaskedUpload: "y_u and its tag",
    m.UploadAck: "it is whole",
    m.SurvivorSet: "U3",
    m.Agreement: "to U3",
    m.AgreementSet: "t of them",
    m.Reveal: "one share per peer",
    m.PublishedSum: "X, T",
    m.Release: "the tag is right",
    m.StateApplied: "X is applied",
    m.Confirmation: "of the new state",
    m.RoundCertificate: "t equal",
    m.Lost: "a link is gone",
    m.Deadline: "the time is over",
    m.VoidRequest: "too few uploads",
    m.VoidStatement: "never again in ctx",
    m.VoidCertificate: "t of them",
}
"""What the diagrams say beside the name of a message, or of a release."""

SILOS, U = 4, 0  # how many there are, and the one in the left lane
MARGIN, LEFT, RIGHT = 19, 44, 19  # columns up to each of the three lines
APART = f"{'│':{RIGHT}}│"  # the aggregator's line and the others', and nothing between


@dataclass(frozen=True, slots=True)
class Ran:
    """One step of a release: whose it was (None: the aggregator's), the number in its
    docstring or "", the message that it took, and its effects."""

    at: int | None
    number: str
    took: m.Message | None
    effects: tuple[m.Effect, ...]


# ---------------------------------------------------------------------------- the runs


def number(step: Callable[..., Any]) -> str:
    """`3` for a step whose docstring begins with "Step 3", else nothing."""
    found = re.match(r"Step (\d)", step.__doc__ or "")
    return found[1] if found else ""


def run(end: type, instead: Mapping[int, m.Message]) -> list[Ran]:
    """Every step of one release, in order.

    `instead` is what the aggregator takes in place of the uploads of these silos. Raises
    SystemExit if it fails, or its last state isn't an `end`.
    """
    ran: list[Ran] = []

    def opened(*given: Any) -> agg.Step:
        state, effects = agg.open_attempt(*given)
        ran.append(Ran(None, number(agg.open_attempt), None, effects))
        return state, effects

    def by_silo(state: Any, message: m.Message, rand: Any) -> silo_steps.Step:
        after, effects = silo_step(state, message, rand)
        step = SILO[type(state), type(message)]
        silo = silo_steps.start_of(state).me.silo
        ran.append(Ran(silo, number(step), message, effects))
        return after, effects

    def by_aggregator(state: Any, message: m.Message) -> agg.Step:
        if isinstance(message, m.MaskedUpload):
            message = instead.get(message.header.silo, message)
        after, effects = aggregator_step(state, message)
        sealed = type(after) is not type(state)
        step = number(agg.PHASES[type(state)][2]) if sealed else ""
        ran.append(Ran(None, step, message, effects))
        return after, effects

    steps: dict[str, Any] = {"silo_step": by_silo, "aggregator_step": by_aggregator}
    with mock.patch.multiple(protocol, open_attempt=opened, **steps):
        try:
            state, _ = protocol.run_release(*setting(), random.Random(1).randbytes)
        except FeditError as error:
            raise SystemExit(f"a release that is drawn failed: {error}") from error
    if type(state) is not end:
        ended = f"{type(state).__name__}, not in {end.__name__}"
        raise SystemExit(f"a release that is drawn ended in {ended}")
    return ran


def setting() -> tuple[s.Session, SigningKey, dict[int, s.SiloState]]:
    """A session, the aggregator's key, and the silos, which are all invited."""
    params = SecAggParams(
        silos=SILOS, corrupt=1, threshold=3, minimum=3, length=1, ring_bits=24,
        bound=1.0, weights=(1,) * SILOS, allow_pair=False,
    )  # fmt: skip
    *keys, hub = (SigningKey.from_seed(bytes([i]) * 32) for i in range(SILOS + 1))
    members = tuple(Member(f"silo-{i}", key.public) for i, key in enumerate(keys))
    session = s.Session(params, Roster(members, hub.public), b"", 1, 1, b"")
    update, head = np.zeros(1, np.int32), m.LedgerHead("", 0, b"")
    them = (s.Me(i, key) for i, key in enumerate(keys))
    return session, hub, {
        me.silo: s.Invited(session, me, update, b"", head, {}) for me in them
    }  # fmt: skip


# ------------------------------------------------------------------------ the diagrams


def draw(ran: list[Ran]) -> str:
    """A row for each message and fuse of silo U, and for what the aggregator notices."""
    head = f"{'silo u':>{MARGIN + 4}}{'aggregator':>{LEFT}}{'other silos':>{RIGHT + 2}}"
    lines, last = [head], ""
    for step in ran:
        for row in rows(step, ran):
            lines.append(f"{'' if step.number == last else step.number:2}{row}")
            last = step.number or last
    return "\n".join(["```", *lines, "```"])


def rows(step: Ran, ran: list[Ran]) -> Iterator[str]:
    """What one step adds to a diagram."""
    if step.took is not None and not isinstance(step.took, m.Sent):  # its own driver's
        if step.at == U:
            yield row(f"│ {note(step.took)}")
        elif step.at is None:
            yield row(f"│{note(step.took) + ' ':>{LEFT - 1}}")
    for effect in step.effects:
        if isinstance(effect, m.Send) and step.at == U:
            arrow = f"├{f'── {note(effect.message)} ':─<{LEFT - 2}}►"
            yield row(arrow, by_others(type(effect.message), ran))
        elif isinstance(effect, m.Send) and effect.to == U:
            arrow = f"│◄{f' {note(effect.message)} ──':─>{LEFT - 2}}"
            yield row(arrow, to_others(effect.message, ran))
        elif isinstance(effect, m.Fuse) and step.at == U:
            yield row("│", fuse=f"fuse: {effect.kind}")
        elif isinstance(effect, m.Release) and step.at == U:
            yield row(f"│ {note(effect)}")


def row(left: str, right: str = APART, fuse: str = "") -> str:
    """One line without its number, from silo U's line and from the aggregator's."""
    return f"{fuse:>{MARGIN - 4}}  {left:{LEFT}}{right}"


def note(what: m.Message | m.Release) -> str:
    """Its name, and what NOTES says of it."""
    return f"{type(what).__name__}: {NOTES[type(what)]}"


def sends(ran: Iterable[Ran]) -> Iterator[tuple[int | None, m.Send]]:
    """Every message that is sent, with its sender."""
    for step in ran:
        yield from ((step.at, x) for x in step.effects if isinstance(x, m.Send))


def by_others(kind: type, ran: list[Ran]) -> str:
    """An arrow from the other silos, if they send such a message too."""
    senders = {at for at, send in sends(ran) if type(send.message) is kind}
    return f"│◄{'':─<{RIGHT - 2}}┤" if senders - {U} else APART


def to_others(message: m.Message, ran: list[Ran]) -> str:
    """An arrow to the other silos, if they are sent this message, or one of this kind."""
    others = [send.message for at, send in sends(ran) if send.to not in (None, U)]
    if any(sent is message for sent in others):
        return f"┼{'':─<{RIGHT - 2}}►│"
    if any(type(sent) is type(message) for sent in others):
        return f"┼{'─ each its own ':─<{RIGHT - 2}}►│"
    return "┤" + APART[1:]


# -------------------------------------------------------------------------- the tables


def table(head: str, steps: Mapping[tuple[type, type], Any]) -> str:
    """A row for all states in which a step takes the same messages. Beside a step that
    fills a phase stands the step that ends it."""
    takes: dict[tuple[Any, type], list[str]] = {}
    for (state, message), step in steps.items():
        takes.setdefault((step, state), []).append(message.__name__)
    states: dict[tuple[Any, str], list[type]] = {}
    for (step, state), messages in takes.items():
        states.setdefault((step, ", ".join(messages)), []).append(state)
    often = Counter(steps.values())  # steps that many states share come last
    lines = [head, re.sub("[^|]+", "---", head)]
    for step, names in sorted(states, key=lambda found: often[found[0]]):
        among = states[step, names]
        cells = [", ".join(state.__name__ for state in among), names, step.__name__]
        if among[0] in agg.PHASES:
            _, fills, ends = agg.PHASES[among[0]]
            cells.append(ends.__name__ if step is fills else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------- the page


def blocks() -> dict[str, str]:
    """All that is generated, by the name between its markers."""
    release = run(s.Certified, {})
    void = run(s.Ended, {SILOS - 2: m.Lost(SILOS - 2), SILOS - 1: m.Deadline()})
    check_notes([*release, *void])
    masked = dropwhile(lambda step: not isinstance(step.took, m.ShareSet), void)
    return {
        "release": draw(release),
        "silo": table("| state | message | step |", SILO),
        "aggregator": table("| phase | message | step | ends with |", AGGREGATOR),
        "void": draw([*masked]),
    }


def check_notes(ran: list[Ran]) -> None:
    """SystemExit for a message that lacks a note, and for a note on nothing shown."""
    shown = {type(step.took) for step in ran if step.took is not None} | {m.Release}
    shown |= {type(send.message) for _, send in sends(ran)}
    tabled = {message for pairs in (SILO, AGGREGATOR) for _, message in pairs}
    for kind in (tabled | shown) - NOTES.keys():
        raise SystemExit(f"{kind.__name__} has no note in .ci/protocol_diagram.py")
    for kind in NOTES.keys() - shown:
        raise SystemExit(
            f"{kind.__name__} has a note in .ci/protocol_diagram.py, and no diagram"
        )


def current(text: str) -> str:
    """The page with everything in it that is generated now."""
    return filled(text, blocks(), "diagram", "docs/protocol.md")


def main(arguments: list[str]) -> None:
    """Write the page, or with --check end with status 1 on a difference."""
    write_or_check(
        arguments,
        PAGE,
        current,
        script="protocol_diagram.py",
        stale=(
            "docs/protocol.md doesn't show what the protocol's tables do:"
            " run `make diagram`"
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
