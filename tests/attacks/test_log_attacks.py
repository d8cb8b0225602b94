"""What a run writes down, in logs and in what it tells its peers: no secret, ever."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import small_federation
from attacks.holdings import secrets_of
from faults.crashing import CountingLink, Dies, Door, Point, play
from small_federation import found

from fedit_secure import driver
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f


def forged(silo: str, frame: f.Frame) -> f.Frame:
    """To one silo altered envelopes, to another a survivor set signed by nobody."""
    if silo == "s2" and isinstance(frame, m.ShareSet):
        return replace(frame, envelopes=frame.envelopes[::-1])
    if silo == "s4" and isinstance(frame, m.SurvivorSet):
        return replace(frame, signature=bytes(64))
    return frame


async def test_logs_and_reasons_carry_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad run, logged to the last detail: an attempt that is attacked and voided, silos
    that die, and a sum in the end."""
    secrets: set[bytes] = set()
    step = driver.silo_step

    def watched(state, message, rand):
        after, effects = step(state, message, rand)
        secrets.update(secrets_of(state))
        secrets.update(secrets_of(after))
        return after, effects

    monkeypatch.setattr(driver, "silo_step", watched)
    monkeypatch.setattr(small_federation, "FaultyLink", CountingLink)
    caplog.set_level(logging.DEBUG)
    federation = found(tmp_path, 5)
    asked_to_void = []

    def first_attempt(silo: str, frame: f.Frame) -> f.Frame:
        asked_to_void.extend([frame] * isinstance(frame, m.VoidRequest))
        return frame if asked_to_void else forged(silo, frame)

    door = Door(federation, tamper=first_attempt)
    await play(door, [Dies("s1", at_send=Point(m.MaskedUpload))])
    assert "void" in door.phases()
    for party in (*federation.silos, federation.aggregator):
        secrets.update((party.signing.seed(),))
    drawn = [x for updates in federation.updates.values() for x in updates]
    coordinates = {f"{value:.5f}".rstrip("0") for update in drawn for value in update}
    reasons = [x.reason for _, x in door.heard if isinstance(x, f.Withdraw)]
    assert len(reasons) >= 2
    assert len(secrets) > 100
    written = caplog.text + "\n".join(reasons)
    assert "is faulty" in written
    for secret in secrets:
        assert secret.hex() not in written
        assert repr(secret)[2:-1] not in written or len(secret) < 6
    assert not [value for value in coordinates if value in written]
