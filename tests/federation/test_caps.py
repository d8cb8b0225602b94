"""Only the operator's key changes the lifetime cap, at one place of one ledger."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
from pydantic import ValidationError

from fedit_secure.errors import StorageError
from fedit_secure.federation.caps import CapChange, cap_changes
from fedit_secure.federation.signed_ledger import (
    check_signatures,
    next_change,
    sign_event,
    verified_ledger,
)
from fedit_secure.privacy.ledger import (
    CapChanged,
    DataVersion,
    KeyRotated,
    Ledger,
    LedgerCorrupt,
    Opened,
)
from fedit_secure.secagg.keys import SigningKey

KEY, OTHER, THIRD = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
WARD = "ward 7, records of 2025"


def opened(population: str = WARD, cap: float | None = 8.0) -> Ledger:
    return Ledger.open(
        Opened(
            silo="north",
            identity=KEY.public.hex(),
            population=population,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=cap,
            filter_order=6.0,
            fingerprints="0b" * 32,
            software="test",
        )
    )


def changed(
    ledger: Ledger, new: float, key: SigningKey = KEY, reason: str = "board, 2 May"
) -> Ledger:
    return ledger.append(next_change(ledger, new, reason).signed(key))


def grown(ledger: Ledger) -> Ledger:
    return ledger.append(DataVersion(old="0b" * 32, new="0c" * 32))


def independent_digest(*fields: bytes) -> bytes:
    """By docs/protocol.md: each field behind its length, hashed."""
    return hashlib.sha256(
        b"".join(struct.pack("<Q", len(field)) + field for field in fields)
    ).digest()


def test_what_is_signed_is_what_the_protocol_says() -> None:
    ledger = grown(opened())
    change = next_change(ledger, 12.5, "Vorstand, 2. Mai: für zwei Läufe")
    assert change.digest() == independent_digest(
        b"fedit/cap/v1",
        WARD.encode(),
        struct.pack("<Q", 3),
        ledger.hash,
        struct.pack("<d", 8.0),
        struct.pack("<d", 12.5),
        "Vorstand, 2. Mai: für zwei Läufe".encode(),
    )
    first = next_change(opened(cap=None), 4.0, "x")
    assert first.digest() == independent_digest(
        b"fedit/cap/v1", WARD.encode(), struct.pack("<Q", 2), opened(cap=None).hash,
        b"", struct.pack("<d", 4.0), b"x",
    )  # fmt: skip


def test_signed_changes_are_taken_one_after_another() -> None:
    ledger = changed(changed(grown(changed(opened(), 12.0)), 3.0), 9.0)
    check_signatures(ledger)
    assert ledger.cap_epsilon == 9.0
    again = verified_ledger(WARD, ledger.entries)
    found = [
        (c.entry, c.old, c.new) for c, _, _ in cap_changes(again.events, again.hashes)
    ]
    assert found == [(2, 8.0, 12.0), (4, 12.0, 3.0), (5, 3.0, 9.0)]
    check_signatures(opened())
    check_signatures(changed(opened(cap=None), 2.0))
    assert opened(cap=None).cap_epsilon == math.inf


def refused(ledger: Ledger, entry: int, what: str) -> None:
    with pytest.raises(LedgerCorrupt, match=what) as caught:
        verified_ledger(ledger.population, ledger.entries)
    assert caught.value.entry == entry
    assert caught.value.exit_status == 1


UNSIGNED = "isn't signed by the silo's key"


def test_attack_somebody_elses_signature() -> None:
    refused(changed(opened(), 80.0, OTHER), 2, UNSIGNED)
    nonsense = CapChanged(cap_epsilon=80.0, reason="more", signature="0" * 128)
    refused(opened().append(nonsense), 2, UNSIGNED)


def signed(ledger: Ledger) -> CapChanged:
    event = changed(ledger, 12.0).events[-1]
    assert isinstance(event, CapChanged)
    return event


@pytest.mark.parametrize(
    "change", [{"cap_epsilon": 12.000000000000002}, {"reason": "board, 3 May"}]
)
def test_attack_an_edited_change(change: dict[str, object]) -> None:
    refused(opened().append(signed(opened()).model_copy(update=change)), 2, UNSIGNED)


@pytest.mark.parametrize(
    "elsewhere",
    [
        grown(opened()),  # a later place
        opened("another ward"),
        opened(cap=9.0),  # another cap before it
        changed(opened(), 12.0),  # once more
    ],
    ids=["later", "population", "cap", "twice"],
)
def test_attack_a_change_taken_from_elsewhere(elsewhere: Ledger) -> None:
    moved = elsewhere.append(signed(opened()))
    refused(moved, moved.sequence, UNSIGNED)


def test_attack_a_cap_raised_again_after_it_was_lowered() -> None:
    """The change that raised it once can't be played again."""
    raised = changed(opened(), 20.0)
    lowered = changed(raised, 2.0)
    refused(lowered.append(raised.events[-1]), 4, UNSIGNED)


@pytest.mark.parametrize(
    "field", ["population", "entry", "before", "old", "new", "reason"]
)
def test_every_field_is_signed(field: str) -> None:
    change = CapChange(WARD, 2, b"h" * 32, 8.0, 12.0, "why")
    other = {"population": "x", "entry": 3, "before": b"i" * 32, "old": 9.0, "new": 13.0,
             "reason": "y"}  # fmt: skip
    assert replace(change, **{field: other[field]}).digest() != change.digest()


def rotated(ledger: Ledger, to: SigningKey, by: SigningKey) -> Ledger:
    event = KeyRotated(
        old=(by if by is not OTHER else KEY).public.hex(),
        new=to.public.hex(),
        signature="0" * 128,
    )
    return ledger.append(sign_event(by, ledger, event))


def test_a_rotated_key_changes_the_cap_and_the_old_one_no_more() -> None:
    after = rotated(opened(), THIRD, KEY)
    check_signatures(changed(after, 80.0, THIRD))
    refused(changed(after, 80.0, KEY), 3, UNSIGNED)


def test_attack_a_rotation_to_the_attackers_key() -> None:
    taken = rotated(opened(), OTHER, OTHER)
    refused(changed(taken, 80.0, OTHER), 2, "'key-rotated' isn't signed")


def test_a_change_that_no_entry_can_hold() -> None:
    for cap, reason in (
        (0.0, "x"),
        (-1.0, "x"),
        (math.inf, "x"),
        (1.0, ""),
        (1.0, "\n"),
    ):
        with pytest.raises(ValidationError):
            next_change(opened(), cap, reason).signed(KEY)


def test_the_entry_is_as_the_schema_always_had_it() -> None:
    entry = json.loads(changed(opened(), 12.0).entries[-1])
    assert set(entry) == {"kind", "version", "cap_epsilon", "reason", "signature"}
    assert changed(opened(), 12.0).entries == changed(opened(), 12.0).entries
    with pytest.raises(StorageError):
        opened().append(opened().opened)


def test_a_verifier_takes_it_without_the_ledger_that_writes() -> None:
    code = (
        "import sys, fedit_secure.federation.caps;"
        "sys.exit('fedit_secure.privacy.ledger' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
