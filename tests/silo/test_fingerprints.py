"""The keyed digests in a silo's ledger: without the key they are as good as random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_federation import LENGTH, found

from fedit_secure.privacy import events
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.update_digest import update_digest
from fedit_secure.tuning.records import Record

KEY, OTHER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2))
RECORDS = [Record(f"question {n}", "", f"answer {n}", person=str(n)) for n in range(9)]


def test_the_commitment_is_to_every_field_of_every_record_in_any_order() -> None:
    here = commitment(RECORDS, KEY)
    assert commitment(RECORDS[::-1], KEY) == here
    for changed in (
        RECORDS[:-1],
        [*RECORDS, RECORDS[0]],
        [*RECORDS[:-1], replace(RECORDS[-1], person="7")],
        [*RECORDS[:-1], replace(RECORDS[-1], input="x")],
    ):
        assert commitment(changed, KEY) != here


def test_without_the_key_nobody_can_test_a_guess() -> None:
    assert commitment(RECORDS, OTHER) != commitment(RECORDS, KEY)
    assert {len(commitment(RECORDS[:n], KEY)) for n in (0, 1, 9)} == {32}


def test_the_ledger_names_an_update_only_under_the_silos_key(tmp_path: Path) -> None:
    """The plain digest would let anybody test a guess at the update: it's in no entry."""
    federation = found(tmp_path, 3)
    update = np.full(LENGTH, 0.01, np.float32)
    named = set()
    for silo in federation.silos:
        with open_journal(tmp_path / silo.name) as journal:
            books = federation.books(silo, journal)
            books.admit(bytes(32))
            books.reserve(1)
            books.commit_update(1, update)
            entries = books.signed_ledger()[2]
        last = events.decode(entries[-1])
        assert isinstance(last, events.Committed)
        named.add(last.update_digest)
        assert update_digest(update).hex() not in b"".join(entries).decode()
    assert len(named) == 3
