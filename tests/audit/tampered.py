"""One fault in a bundle: who made it how, and what the verifier must call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from audit.forge import Attempt, Evidence, Run, Writes
from audit.parties import HUB, found, key_of

from fedit_secure.audit.bundle import round_name
from fedit_secure.privacy import events as e
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.limits import Limits

Files = dict[str, bytes]
Make = Callable[[], Evidence | Files]


@dataclass(frozen=True)
class Tampered:
    """A tampered bundle.

    `done` says how. `code` is the root of it, `silo`, `round`, `entry` and `file` are what
    the fault has to name, and `also` all other codes that are true of this bundle, because
    they follow. Where it can't be audited at all, `refused` are texts of the sentence that
    says so.
    """

    name: str
    done: str
    code: str
    make: Callable[[], Files]
    silo: str | None = None
    round: int | None = None
    entry: int | None = None
    file: str | None = None
    also: frozenset[str] = frozenset()
    refused: tuple[str, ...] = ()

    @property
    def codes(self) -> frozenset[str]:
        """Exactly what the verifier finds."""
        return self.also | {self.code}


TABLE: dict[str, Tampered] = {}


def tampered(
    code: str, *, also: Iterable[str] = (), **named: Any
) -> Callable[[Make], Make]:
    """Enter a bundle under its function's name; the function's docstring tells the deed."""

    def enter(make: Make) -> Make:
        def files() -> Files:
            made = make()
            return made.sealed() if isinstance(made, Evidence) else made

        name, done = make.__name__, " ".join((make.__doc__ or "").split())
        assert done, f"{name} doesn't say what was done"
        assert name not in TABLE, f"{name} is there twice"
        TABLE[name] = Tampered(name, done, code, files, also=frozenset(also), **named)
        return make

    return enter


def refused(*texts: str) -> Callable[[Make], Make]:
    """Enter a bundle that is none: it can't be audited at all."""
    return tampered("refused", refused=texts)


# ------------------------------------------------------------------ lies during the run


def instead(
    silo: str,
    kind: type[e.Event],
    lie: Callable[[Any], Iterable[e.Event | bytes]],
    nth: int | None = None,
) -> Writes:
    """A silo that writes something else for its nth event of a kind, or for all of them."""
    met = 0

    def writes(name: str, event: e.Event) -> Iterable[e.Event | bytes]:
        nonlocal met
        if name != silo or not isinstance(event, kind):
            return (event,)
        met += 1
        return lie(event) if nth in (None, met) else (event,)

    return writes


def changed(**fields: Any) -> Callable[[Any], Iterable[e.Event]]:
    """The event with other fields."""
    return lambda event: (event.model_copy(update=fields),)


def unwritten(_: e.Event) -> Iterable[e.Event]:
    """Nothing at all."""
    return ()


def run_of(writes: Writes, *, rounds: int = 3, **options: Any) -> Evidence:
    """Three rounds in which everybody takes part, and somebody lies."""
    run = Run(found(rounds=rounds), writes=writes, **options)
    for _ in range(rounds):
        run.released()
    return run.end()


def honest(rounds: int = 3, **options: Any) -> Evidence:
    """A run in which nobody lied, to be tampered with afterwards."""
    run = Run(found(rounds=rounds, **options))
    for _ in range(rounds):
        run.released()
    return run.end()


def finish(run: Run, attempt: Attempt) -> None:
    """Everybody goes on to the end of the round."""
    everybody = run.world.names
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    run.confirm(everybody)
    run.close(everybody)


# ------------------------------------------------------------------- lies after the run


def frame(evidence: Evidence, round: int, file: str) -> Any:
    """A frame of the transcript."""
    limits = Limits.of(evidence.world.charter.secagg_params())
    return decode(evidence.files[round_name(round, file)], limits)


def put(evidence: Evidence, round: int, file: str, message: Any) -> None:
    """Another frame in its place."""
    evidence.files[round_name(round, file)] = encode(message)


def signed(by: str, message: Any, **changes: Any) -> Any:
    """A message with other fields, under somebody's signature."""
    return checks.sign(key_of(by), replace(message, **changes))


def published(evidence: Evidence, round: int) -> m.PublishedSum:
    """The sum of a round."""
    notice = frame(evidence, round, "published.frame")
    total = evidence.files[round_name(round, "sum.int32")]
    return notice.whole(np.frombuffer(total, "<i4"))


def republish(
    evidence: Evidence, round: int, *, by: str = HUB, **changes: Any
) -> m.PublishedSum:
    """A sum with other fields in its place, signed anew by the aggregator."""
    old = published(evidence, round)
    names = ("ctx", "key_set", "contributors", "total", "tag", "agreements")
    fields = {name: getattr(old, name) for name in names} | changes
    out = checks.sign(key_of(by), m.PublishedSum(**fields))
    put(evidence, round, "published.frame", PublishedNotice.of(out, out.release_digest))
    total = np.ascontiguousarray(out.total, "<i4")
    evidence.files[round_name(round, "sum.int32")] = total.tobytes()
    return out
