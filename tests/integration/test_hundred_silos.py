"""The most silos that a full graph is for, as whole daemons over gRPC."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.crashing import assert_sum, charges, ends_of
from grpc_federation import release
from small_federation import found

from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import encode
from fedit_secure.wire.limits import MAX_FRAME, MAX_SILO_FRAME

SECONDS = 280
PATIENT = {
    "tune_deadline_seconds": SECONDS,
    "phase_deadline_seconds": SECONDS,
    "silo_deadline_seconds": SECONDS,
}


@pytest.mark.slow
async def test_a_hundred_silos_are_in_one_sum(tmp_path: Path) -> None:
    """Nobody is lost to a limit: of frames, of streams, of patience."""
    federation = found(tmp_path, 100, **PATIENT)
    shown: list[int] = []

    def note(frame: f.Frame) -> f.Frame:
        if isinstance(frame, m.ShareSet):
            shown.append(len(encode(frame)))
        return frame

    state, heard = await release(federation, note, SECONDS)
    names = tuple(silo.name for silo in federation.silos)
    assert ends_of(federation) == names
    assert_sum(federation, state, names)
    assert {charges(federation, name) for name in names} == {1}
    dealt = [len(encode(said)) for _, said in heard if isinstance(said, m.ShareBundle)]
    assert len(dealt) == 100
    assert max(dealt) < MAX_SILO_FRAME
    assert 1_000_000 < max(shown) < MAX_FRAME
    assert not [frame for _, frame in heard if isinstance(frame, f.Withdraw)]
