"""An upload that is interrupted twenty times sends at most 5 % more than it is long."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _cable import CLOSE, RESET, Cable, cable_to
from wire_hub import LIMITS, hello, hub
from wire_samples import HEADER, Parties

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits

LENGTH = 10_000_000  # coordinates: 30 MB
CUTS = 20
LINK = 12 * 1024  # bytes that a connection takes before any of an upload
SECONDS = 200


async def test_twenty_cuts(parties: Parties, tmp_path: Path) -> None:
    limits = Limits(silos=4, length=LENGTH, payload_bytes=3 * LENGTH + 8)
    payload = np.random.default_rng(3).bytes(limits.payload_bytes)
    named = {
        "length": len(payload),
        "payload_digest": digest("fedit/payload/v1", payload),
    }
    upload = m.MaskedUpload(replace(HEADER, **named), payload)
    draw = random.Random(11)
    places = sorted(draw.randrange(1, len(payload)) for _ in range(CUTS))
    runs = [b - a for a, b in zip([0, *places], places, strict=False)]
    cable = Cable([LINK + run for run in runs], how=CLOSE)
    async with (
        asyncio.timeout(SECONDS),
        hub(parties, tmp_path, limits) as where,
        cable_to(where.address, cable),
    ):
        whole = False
        while not whole:
            # As the daemon does: a link that ends is made anew, with what is left to say.
            with suppress(ConnectError, DeadlineExceeded):
                link = await connect(cable.address, parties.silo_tls(0), limits)
                try:
                    await link.send(hello(parties, 0))
                    peer, _ = await where.peers.get()
                    await link.upload(upload)
                    whole = True
                    got = await peer.receive()
                finally:
                    await link.close()
    assert isinstance(got, m.MaskedUpload)
    assert bytes(got.payload) == payload
    assert not cable.cuts
    assert cable.up <= 1.05 * len(payload)


@pytest.mark.parametrize("how", [CLOSE, RESET])
@pytest.mark.parametrize("after", [1, 400, 1_200])
async def test_a_line_that_breaks_in_the_handshake_is_dialled_again(
    parties: Parties, tmp_path: Path, how: str, after: int
) -> None:
    """It isn't taken for a certificate that was refused, which ends a daemon."""
    cable = Cable([after, after], how=how)
    async with (
        asyncio.timeout(SECONDS),
        hub(parties, tmp_path) as where,
        cable_to(where.address, cable),
    ):
        link = await connect(cable.address, parties.silo_tls(0), LIMITS)
        await link.send(hello(parties, 0))
        await where.peers.get()
        assert not cable.cuts
        await link.close()
