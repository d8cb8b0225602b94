"""Every field of every message, ledger entry, event and file, and what it may depend on.

A field that isn't here fails the tests: whoever adds one has to say what it is.

PUBLIC  follows from the charter, from what others said and from what was public before.
RANDOM  was drawn. Two runs draw the same here, so it is compared like a public one.
BOUND   rests, through ctx and K, on the global state and the ledgers' heads: on sums that
        were published, and on the two keyed digests. It is compared as long as these are
        the same.
KEYED   a digest under the silo's signature key: of its records (`fingerprints`) or of its
        noised update. Nobody without the key can tell it from random bytes.
UPDATE  the masked update, and what is computed from those masked bytes alone.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator
from typing import Any

from attacks.whole_run import VICTIM, Fetch, Passed, Seen
from pydantic import BaseModel

from fedit_secure.privacy import events
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import PublishedNotice, encode

PUBLIC, RANDOM, BOUND, KEYED, UPDATE = "public", "random", "bound", "keyed", "update"

FIELDS: dict[type, dict[str, str]] = {
    # What a silo and the aggregator say beside the protocol.
    f.Hello: {
        "silo": PUBLIC,
        "charter": PUBLIC,
        "wire_version": PUBLIC,
        "package_version": PUBLIC,
        "round": PUBLIC,
        "state_digest": BOUND,
        "ledger_sequence": PUBLIC,
    },
    f.Welcome: {"approvals": PUBLIC, "round": PUBLIC, "state_digest": BOUND},
    f.CannotServe: {"reason": PUBLIC, "exit_status": PUBLIC},
    f.RoundOffer: {"approvals": PUBLIC},
    f.LedgerEntries: {"first": PUBLIC, "signature": BOUND},
    f.HeadReceipt: {"signature": BOUND},
    f.Ready: {"round": PUBLIC},
    f.Phase: {"round": PUBLIC, "name": PUBLIC},
    f.Withdraw: {"round": PUBLIC, "attempt": PUBLIC, "reason": PUBLIC},
    f.Refused: {"round": PUBLIC, "reason": PUBLIC},
    f.RunEnded: {"round": PUBLIC, "state_digest": BOUND},
    Fetch: {"address": BOUND},
    # The messages of a release.
    m.LedgerHead: {"population": PUBLIC, "sequence": PUBLIC, "hash": BOUND},
    m.Offer: {
        "charter": PUBLIC,
        "round": PUBLIC,
        "attempt": PUBLIC,
        "state_digest": BOUND,
        "signature": BOUND,
    },
    m.Advert: {
        "silo": PUBLIC,
        "ctx": BOUND,
        "mask_key": RANDOM,
        "envelope_key": RANDOM,
        "self_commitment": BOUND,
        "group_commitment": BOUND,
        "signature": BOUND,
    },
    m.AdvertSet: {"ctx": BOUND, "signature": BOUND},
    m.ShareStatement: {
        "dealer": PUBLIC,
        "ctx": BOUND,
        "key_set": BOUND,
        "holders": PUBLIC,
        "envelope_hashes": BOUND,
        "self_commitments": BOUND,
        "key_commitments": BOUND,
        "signature": BOUND,
    },
    m.ShareBundle: {"envelopes": BOUND},
    m.ShareSet: {
        "ctx": BOUND,
        "key_set": BOUND,
        "envelopes": BOUND,
        "signature": BOUND,
    },
    m.UploadHeader: {
        "silo": PUBLIC,
        "ctx": BOUND,
        "key_set": BOUND,
        "dealers_digest": BOUND,
        "length": PUBLIC,
        "payload_digest": UPDATE,
        "signature": UPDATE,
    },
    m.MaskedUpload: {"payload": UPDATE},
    m.UploadAck: {
        "silo": PUBLIC,
        "ctx": BOUND,
        "header_digest": UPDATE,
        "signature": UPDATE,
    },
    m.SurvivorSet: {"ctx": BOUND, "signature": UPDATE},
    m.Agreement: {
        "silo": PUBLIC,
        "ctx": BOUND,
        "key_set": BOUND,
        "dealers_digest": BOUND,
        "survivors_digest": BOUND,
        "headers_digest": UPDATE,
        "signature": UPDATE,
    },
    m.AgreementSet: {"ctx": BOUND},
    m.Reveal: {
        "silo": PUBLIC,
        "ctx": BOUND,
        "self_shares": RANDOM,
        "key_shares": RANDOM,
        "signature": BOUND,
    },
    PublishedNotice: {
        "ctx": BOUND,
        "key_set": BOUND,
        "contributors": PUBLIC,
        "total_address": BOUND,
        "tag": BOUND,
        "signature": BOUND,
    },
    m.Confirmation: {
        "silo": PUBLIC,
        "charter": PUBLIC,
        "round": PUBLIC,
        "state_digest": BOUND,
        "release_digest": BOUND,
        "signature": BOUND,
    },
    m.VoidRequest: {"ctx": BOUND, "signature": BOUND},
    m.VoidStatement: {"silo": PUBLIC, "ctx": BOUND, "signature": BOUND},
    m.VoidCertificate: {"ctx": BOUND},
    m.SkipRequest: {
        "charter": PUBLIC,
        "round": PUBLIC,
        "state_digest": BOUND,
        "signature": BOUND,
    },
    m.RoundCertificate: {"round": PUBLIC},
    # The ledger's entries, which are sent to the aggregator.
    events.Opened: dict.fromkeys(
        (
            "kind",
            "version",
            "silo",
            "identity",
            "population",
            "unit",
            "adjacency",
            "delta",
            "cap_epsilon",
            "filter_order",
            "software",
        ),
        PUBLIC,
    )
    | {"fingerprints": KEYED},
    events.Intent: dict.fromkeys(
        (
            "kind",
            "version",
            "charter",
            "run",
            "round",
            "dp",
            "sample_rate",
            "noise_multiplier",
            "clip",
            "expected_batch",
            "steps",
            "charges",
            "weight",
            "unit",
            "sizes",
            "dtype",
        ),
        PUBLIC,
    )
    | {"state_digest": BOUND},
    events.Committed: {
        "kind": PUBLIC,
        "version": PUBLIC,
        "charter": PUBLIC,
        "round": PUBLIC,
        "update_digest": KEYED,
    },
    events.Masked: {"kind": PUBLIC, "version": PUBLIC, "ctx": BOUND},
    events.Revealed: {"kind": PUBLIC, "version": PUBLIC, "ctx": BOUND},
    events.Voided: {"kind": PUBLIC, "version": PUBLIC, "ctx": BOUND},
    events.Renewed: {
        "kind": PUBLIC,
        "version": PUBLIC,
        "ctx": BOUND,
        "certificate": BOUND,
    },
    events.Released: {
        "kind": PUBLIC,
        "version": PUBLIC,
        "charter": PUBLIC,
        "round": PUBLIC,
        "release_digest": BOUND,
        "state_digest": BOUND,
        "contributors": PUBLIC,
        "sum_digest": BOUND,
    },
    events.Aborted: {
        "kind": PUBLIC,
        "version": PUBLIC,
        "charter": PUBLIC,
        "round": PUBLIC,
        "reason": PUBLIC,
    },
    # Says that the records were changed between two starts: the one thing about them that
    # a ledger tells, and no run of one data set writes it.
    events.DataVersion: {
        "kind": PUBLIC,
        "version": PUBLIC,
        "old": KEYED,
        "new": KEYED,
    },
    # What an operator orders, without a look at the records.
    events.CapChanged: dict.fromkeys(
        ("kind", "version", "cap_epsilon", "reason", "signature"), PUBLIC
    ),
    events.KeyRotated: dict.fromkeys(
        ("kind", "version", "old", "new", "signature"), PUBLIC
    ),
    events.AuditRun: dict.fromkeys(
        (
            "kind",
            "version",
            "records",
            "data_digest",
            "sample_rate",
            "noise_multiplier",
            "clip",
            "expected_batch",
            "steps",
        ),
        PUBLIC,
    ),
}

# What `--format json` prints, a line each, and what a worker tells its daemon.
PRINTED = {"round": PUBLIC, "silo": PUBLIC, "phase": PUBLIC, "run": PUBLIC} | {
    "state": BOUND
}
# The sum of the update stays on the machine: it is how the daemon checks the pipe.
TOLD = {"phase": PUBLIC, "step": PUBLIC, "of": PUBLIC, "length": PUBLIC} | {
    "sha256": UPDATE
}

# What the aggregator writes. Entries and frames are those that it received or sent.
FILES = {
    "charter.json": PUBLIC,
    "progress.json": PUBLIC,
    "metrics.jsonl": PUBLIC,
    "manifest.json": BOUND,
    "ledgers/*.jsonl": "entries",
    "rounds/*/*.frame": "frame",
    "rounds/*/sum.int32": BOUND,
    "states/*.state": BOUND,
    "adapter/adapter_config.json": PUBLIC,
    "adapter/adapter_model.safetensors": BOUND,
    "rounds/*/adapter/adapter_config.json": PUBLIC,
    "rounds/*/adapter/adapter_model.safetensors": BOUND,
}

Leaf = tuple[str, str, Any]  # "Type.field", its class, its value


def leaves(value: Any, victim: int) -> Iterator[Leaf]:
    """All fields of a message and of the messages and ledger entries in it, in order.

    Masked bytes of other silos than `victim` are as good as bound ones.
    """
    kind = type(value)
    assert kind in FIELDS, f"{kind.__name__} is in no table: may it leave a silo?"
    table = dict(FIELDS[kind])
    if kind in (m.UploadHeader, m.UploadAck) and value.silo != victim:
        table = {name: BOUND if of == UPDATE else of for name, of in table.items()}
    if kind is m.MaskedUpload and value.header.silo != victim:
        table = {"payload": BOUND}
    for name in names_of(kind):
        field = getattr(value, name)
        where = f"{kind.__name__}.{name}"
        if kind is f.LedgerEntries and name == "entries":
            for entry in field:
                yield from leaves(events.decode(entry), victim)
        elif name in table:
            yield where, table[name], field
        else:
            parts = field if isinstance(field, tuple) else (field,)
            for part in parts:
                if part is not None:
                    yield from leaves(part, victim)


def names_of(kind: type) -> list[str]:
    """The fields of a message or of a ledger entry."""
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind) if field.init]


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
        *_in_lines(one, two, victim, ideal=ideal),
        *_in_files(one, two, ideal=ideal),
        *(["exit statuses"] if one.ended != two.ended else []),
    ]


def _in_messages(one: Seen, two: Seen, victim: int, *, ideal: bool) -> Iterator[str]:
    here, there = _story(one, victim), _story(two, victim)
    for n, (left, right) in enumerate(zip(here, there, strict=False)):
        if left != right:
            yield f"message {n}: {left} here, {right} there"
            return
    if len(here) != len(there):
        yield f"{len(here)} messages here, {len(there)} there"
        return
    masked = first(one.passed, lambda p: _masks(p, victim))
    known = first(one.passed, lambda p: _publishes(p, victim))
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


def _story(seen: Seen, victim: int) -> list[tuple[Any, ...]]:
    """What somebody on the line sees: when, where, what and how large."""
    known = first(seen.passed, lambda p: _publishes(p, victim))
    return [
        (
            p.seconds,
            p.silo,
            p.up,
            type(p.frame).__name__,
            # The sum's tag is a number, and takes fewer bytes where it is small.
            p.size if n < known or not isinstance(p.frame, PublishedNotice) else 0,
            [where for where, _, _ in leaves(p.frame, victim)],
        )
        for n, p in enumerate(seen.passed)
    ]


def _masks(p: Passed, victim: int) -> bool:
    return isinstance(p.frame, m.MaskedUpload) and p.frame.header.silo == victim


def _publishes(p: Passed, victim: int) -> bool:
    return isinstance(p.frame, PublishedNotice) and victim in p.frame.contributors


def _in_lines(one: Seen, two: Seen, victim: int, *, ideal: bool) -> Iterator[str]:
    if one.logged != two.logged:
        changed = sorted(set(one.logged) ^ set(two.logged))
        yield f"the log: {changed[:2]}"
    if one.printed.keys() != two.printed.keys():
        yield "who prints"
    told = (_lines(seen.workers) for seen in (one, two))
    printed = (
        [
            (party, line)
            for party, text in sorted(seen.printed.items())
            for line in text.splitlines()
        ]
        for seen in (one, two)
    )
    for table, here, there in ((TOLD, *told), (PRINTED, *map(_lines, printed))):
        if len(here) != len(there):
            yield f"{len(here)} lines here, {len(there)} there"
        for (party, left), (_, right) in zip(here, there, strict=False):
            for name in left.keys() | right.keys():
                if name not in table:
                    yield f"{party} says {name!r}, which is in no table"
                elif table[name] == PUBLIC and left.get(name) != right.get(name):
                    yield f"{party} says {left} here, {right} there"


def _lines(said: list[tuple[str, str]]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for party, line in said:
        try:
            content = json.loads(line)
        except ValueError:
            content = {line: "isn't JSON"}
        found.append((party, content))
    return found


def _in_files(one: Seen, two: Seen, *, ideal: bool) -> Iterator[str]:
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
        for name, content in seen.files.items():
            of = class_of(name)
            if of is None:
                yield f"the file {name} is in no table"
            if of == "entries" and set(content.splitlines()) - entries:
                yield f"{name} has what no silo sent"
            if of == "frame" and content not in sent:
                yield f"{name} is no message"
    for name in one.files.keys() & two.files.keys():
        a, b = one.files[name], two.files[name]
        if class_of(name) == PUBLIC and a != b:
            yield f"the file {name}"
        if name.startswith("rounds/001/") and ideal and a != b:
            yield f"{name}, whose sum is without the victim"
        if len(a) != len(b) and not name.endswith("published.frame"):
            yield f"the size of {name}"


_FRAMES = (m.AdvertSet, m.RoundCertificate, PublishedNotice)


def class_of(name: str) -> str | None:
    """What a file of the run folder is; None if it's in no table."""
    depth = name.count("/")
    fitting = (
        of
        for pattern, of in FILES.items()
        if fnmatch.fnmatchcase(name, pattern) and pattern.count("/") == depth
    )
    return next(fitting, None)


__all__ = ["VICTIM", "differences", "leaves", "names_of"]
