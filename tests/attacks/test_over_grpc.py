"""The same malicious aggregator over gRPC with mutual TLS, against whole silo daemons.

What it sends to one silo is changed on the way out and signed again with its own key; the
silo says what it found in its Withdraw, and the three others have their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults.crashing import assert_sum, charges, ends_of
from grpc_federation import VICTIM, release
from small_federation import found

from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f


def flipped(u2: m.ShareSet) -> m.ShareSet:
    (dealer, sealed), *rest = u2.envelopes
    bad = (dealer, bytes([sealed[0] ^ 1]) + sealed[1:])
    return replace(u2, envelopes=(bad, *rest))


def swapped(u1: m.AdvertSet) -> m.AdvertSet:
    last = replace(u1.adverts[-1], mask_key=u1.adverts[-1].envelope_key)
    return replace(u1, adverts=(*u1.adverts[:-1], last))


def nudged(out: m.PublishedSum) -> m.PublishedSum:
    total = out.total.copy()
    total[0] += 1
    return replace(out, total=total)


ATTACKS: dict[str, tuple[type, Callable[[Any], Any], str]] = {
    "swapped_keys": (m.AdvertSet, swapped, "a wrong signature on Advert"),
    "small_cohort": (
        m.AdvertSet,
        lambda u1: replace(u1, adverts=u1.adverts[:2]),
        "U1 is below the minimum of 3 silos",
    ),
    "envelope_bit_flipped": (m.ShareSet, flipped, "an altered envelope"),
    "envelope_withheld": (
        m.ShareSet,
        lambda u2: replace(u2, envelopes=u2.envelopes[1:]),
        "it withheld or doubled an envelope",
    ),
    "lying_ack": (
        m.UploadAck,
        lambda ack: replace(ack, header_digest=b"x" * 32),
        "it acknowledged what was never sent",
    ),
    "acked_but_unlisted": (
        m.SurvivorSet,
        lambda u3: replace(u3, headers=u3.headers[1:]),
        "it left out an acknowledged upload",
    ),
    "missing_agreements": (
        m.AgreementSet,
        lambda quorum: replace(quorum, agreements=quorum.agreements[:2]),
        "its quorum has 2 of 3 signatures",
    ),
    "forged_sum": (m.PublishedSum, nudged, "the tag isn't that of this sum"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_over_grpc(tmp_path: Path, attack: str) -> None:
    kind, change, what = ATTACKS[attack]
    federation = found(tmp_path, 4)

    def do(frame: f.Frame) -> f.Frame:
        if type(frame) is not kind:
            return frame
        changed = change(frame)
        if not hasattr(changed, "signature"):
            return changed
        return checks.sign(federation.aggregator.signing, changed)

    state, heard = await release(federation, do)
    left = [frame.reason for name, frame in heard if isinstance(frame, f.Withdraw)]
    assert len(left) == 1
    assert what in left[0]
    faulty = (
        "silo 'any contributor' or the aggregator" if attack == "forged_sum" else ""
    )
    assert left[0].startswith(f"{faulty or 'the aggregator'} is faulty: ")
    said = [type(frame) for name, frame in heard if name == VICTIM]
    assert_silent_after(attack, said)
    # The others go on without the victim, or with the upload that it had sent.
    among = ends_of(federation)
    assert set(among) >= {"s1", "s2", "s3"}
    assert_sum(federation, state, among)
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4


def assert_silent_after(attack: str, said: list[type]) -> None:
    """Nothing of the step that was attacked, nor of a later one, left the victim."""
    steps = [m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal]
    first = {m.AdvertSet: 0, m.ShareSet: 1, m.UploadAck: 2, m.SurvivorSet: 2}
    never = steps[first.get(ATTACKS[attack][0], 3) :]
    if attack == "forged_sum":
        never = []
    assert not set(never) & set(said), said


async def test_the_same_without_an_attack(tmp_path: Path) -> None:
    federation = found(tmp_path, 4)
    state, heard = await release(federation)
    assert ends_of(federation) == ("s0", "s1", "s2", "s3")
    assert_sum(federation, state, ends_of(federation))
    assert not [frame for _, frame in heard if isinstance(frame, f.Withdraw)]
