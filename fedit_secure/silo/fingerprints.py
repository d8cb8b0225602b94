"""A commitment to a silo's records that tells nobody anything about them.

The ledger's first entry carries it, and a changed one is entered as a new data version. It
is keyed by the silo's identity: without that key nobody can test whether a record is in it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest
from fedit_secure.tuning.records import Record, record_bytes

_LABEL = "fedit/fingerprints/v1"


def commitment(records: Iterable[Record], key: SigningKey) -> bytes:
    """32 bytes over the sorted keyed fingerprints of the records, in any order."""
    # Ed25519 signatures are deterministic, and only the key's holder can make this one.
    secret = key.sign(digest(_LABEL))
    prints = sorted(
        hmac.digest(secret, record_bytes(record), "sha256") for record in records
    )
    return digest(_LABEL, *prints)
