"""In what two whole runs differ, and mustn't: see `what_may_leave.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from attacks.seen import Passed, Seen
from attacks.what_may_leave import (
    BOUND,
    KEYED,
    PRINTED,
    PUBLIC,
    RANDOM,
    TOLD,
    UPDATE,
    class_of,
    leaves,
    status_classes,
    status_fields,
)

from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import PublishedNotice, encode


def size(value: Any) -> Any:
    """The shape of a value: what can be seen of it without reading it."""
    if isinstance(value, tuple):
        return [size(part) for part in value]
    if isinstance(value, bytes | memoryview | str):
        return len(value)
    return type(value).__name__


def first(passed: list[Passed], wanted: Any) -> int:
    """The place of the first message that is wanted; one beyond the last if none is."""
    return next((n for n, p in enumerate(passed) if wanted(p)), len(passed))


def differences(one: Seen, two: Seen, victim: int, *, ideal: bool) -> list[str]:
    """Everything in which two runs differ, and mustn't. `ideal` as in `watch`."""
    return [
        *_in_messages(one, two, victim, ideal=ideal),
        *_in_lines(one, two),
        *_in_files(one, two, victim, ideal=ideal),
        *_in_status(one, two),
        *(["exit statuses"] if sorted(one.ended) != sorted(two.ended) else []),
    ]


def _in_messages(one: Seen, two: Seen, victim: int, *, ideal: bool) -> Iterator[str]:
    known = first(one.passed, lambda p: _publishes(p, victim))
    # Keys bound to the keyed digests make other tags from the first sum on.
    numbered = known if ideal else 0
    here, there = (_story(seen, victim, numbered) for seen in (one, two))
    for n, (left, right) in enumerate(zip(here, there, strict=False)):
        if left != right:
            yield f"message {n}: {left} here, {right} there"
            return
    if len(here) != len(there):
        yield f"{len(here)} messages here, {len(there)} there"
        return
    masked = first(one.passed, lambda p: _masks(p, victim))
    free = {
        PUBLIC: len(here),
        RANDOM: len(here),
        BOUND: known if ideal else 0,
        KEYED: len(here) if ideal else 0,
        UPDATE: masked if ideal else 0,
    }
    for n, (left, right) in enumerate(zip(one.passed, two.passed, strict=True)):
        pairs = zip(
            leaves(left.frame, victim), leaves(right.frame, victim), strict=False
        )
        for (where, of, a), (_, _, b) in pairs:
            if size(a) != size(b) or (a != b and n < free[of]):
                yield f"message {n}, {left.silo}: {where}, which is {of}"


def _story(seen: Seen, victim: int, numbered: int) -> list[tuple[Any, ...]]:
    """What somebody on the line sees: when, where, what and how large.

    From message `numbered` on, a sum's tag may differ, and so may its size.
    """
    return [
        (
            p.seconds,
            p.silo,
            p.up,
            type(p.frame).__name__,
            # The sum's tag is a number, and takes fewer bytes where it is small.
            p.size if n < numbered or not isinstance(p.frame, PublishedNotice) else 0,
            [where for where, _, _ in leaves(p.frame, victim)],
        )
        for n, p in enumerate(seen.passed)
    ]


def _masks(p: Passed, victim: int) -> bool:
    return isinstance(p.frame, m.MaskedUpload) and p.frame.header.silo == victim


def _publishes(p: Passed, victim: int) -> bool:
    return isinstance(p.frame, PublishedNotice) and victim in p.frame.contributors


def _in_lines(one: Seen, two: Seen) -> Iterator[str]:
    """Each party's lines for itself: who is first is a matter of the network."""
    for party in sorted({who for s in (one, two) for who, _ in s.logged}):
        a, b = ([x for who, x in s.logged if who == party] for s in (one, two))
        if a != b:
            yield f"the log of {party}: {sorted(set(a) ^ set(b))[:2]}"
    if one.printed.keys() != two.printed.keys():
        yield "who prints"
    told = (sorted(s.workers, key=lambda said: said[0]) for s in (one, two))
    printed = (
        [(who, x) for who, text in sorted(s.printed.items()) for x in text.splitlines()]
        for s in (one, two)
    )
    for table, here, there in ((TOLD, *told), (PRINTED, *printed)):
        if len(here) != len(there):
            yield f"{len(here)} lines here, {len(there)} there"
        for (party, a), (_, b) in zip(here, there, strict=False):
            left, right = _fields(a), _fields(b)
            for name in left.keys() | right.keys():
                if name not in table:
                    yield f"{party} says {name!r}, which is in no table"
                elif table[name] == PUBLIC and left.get(name) != right.get(name):
                    yield f"{party} says {left} here, {right} there"


def _fields(line: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(line)
    except ValueError:
        return {line: "isn't JSON"}
    return content


def _in_files(one: Seen, two: Seen, victim: int, *, ideal: bool) -> Iterator[str]:
    names = [
        sorted(name if not name.startswith("states/") else "state" for name in s.files)
        for s in (one, two)
    ]
    if names[0] != names[1]:
        yield "which files there are"
    for seen in (one, two):
        sent = {encode(p.frame) for p in seen.passed if type(p.frame) in _FRAMES}
        entries = {
            entry
            for p in seen.passed
            if isinstance(p.frame, f.LedgerEntries)
            for entry in p.frame.entries
        }
        claims = {p.frame.document for p in seen.passed if isinstance(p.frame, f.Claim)}
        for name, content in seen.files.items():
            of = class_of(name)
            if of is None:
                yield f"the file {name} is in no table"
            if of == "entries" and set(content.splitlines()) - entries:
                yield f"{name} has what no silo sent"
            if of == "frame" and content not in sent:
                yield f"{name} is no message"
            if of == "claim" and content not in claims:
                yield f"{name} is what no silo claimed"
    without = tuple(_rounds_without(one, victim))
    for name in one.files.keys() & two.files.keys():
        a, b = one.files[name], two.files[name]
        if class_of(name) == PUBLIC and a != b:
            yield f"the file {name}"
        if ideal and a != b and name.startswith(without):
            yield f"{name}, of a round before the victim was in a sum"
        if len(a) != len(b) and not name.endswith("published.frame"):
            yield f"the size of {name}"


def _in_status(one: Seen, two: Seen) -> Iterator[str]:
    """It stays in the silo, and yet only its times may depend on the records."""
    classes = status_classes()
    here, there = (list(status_fields(json.loads(s.status))) for s in (one, two))
    if [where for where, _ in here] != [where for where, _ in there]:
        yield "which fields the status has"
    for (where, a), (_, b) in zip(here, there, strict=False):
        if where not in classes:
            yield f"the status says {where!r}, which is in no table"
        elif classes[where] == PUBLIC and a != b:
            yield f"the status says {a} as {where} here, {b} there"


def _rounds_without(seen: Seen, victim: int) -> Iterator[str]:
    """The folders of the rounds before the first whose sum has the victim's update."""
    sums = {
        encode(p.frame): p.frame.contributors
        for p in seen.passed
        if isinstance(p.frame, PublishedNotice)
    }
    for name in sorted(seen.files):
        if name.endswith("published.frame"):
            if victim in sums[seen.files[name]]:
                return
            yield name.removesuffix("published.frame")


_FRAMES = (m.AdvertSet, m.RoundCertificate, PublishedNotice)
