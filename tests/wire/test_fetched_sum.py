"""A sum is fetched by its release digest: other integers under it are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg.messages import Blob, PublishedSum
from fedit_secure.wire.codec import PublishedNotice
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import checked_blob, fetch_sum

LIMITS = Limits(silos=3, length=4, payload_bytes=20)
OUT = PublishedSum(b"c" * 32, b"K" * 32, (0, 1, 2), np.arange(4, dtype=np.int32), 7, ())


class Link:
    """An aggregator that serves these bytes, whatever is asked for."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    async def fetch(
        self, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
    ) -> Blob:
        return checked_blob(self.blob, address, max_bytes, check)


async def test_the_integers_are_those_of_the_address() -> None:
    notice = PublishedNotice.of(OUT, OUT.release_digest)
    made = await fetch_sum(Link(OUT.total.tobytes()), notice, LIMITS)  # type: ignore[arg-type]
    assert made.release_digest == OUT.release_digest
    assert np.array_equal(made.total, OUT.total)


@pytest.mark.parametrize("change", ["other", "short", "long"])
async def test_other_integers_are_refused(change: str) -> None:
    data = OUT.total.tobytes()
    other = {"other": data[:-1] + b"\1", "short": data[:-4], "long": data + bytes(4)}
    notice = PublishedNotice.of(OUT, OUT.release_digest)
    with pytest.raises(MalformedMessage):
        await fetch_sum(Link(other[change]), notice, LIMITS)  # type: ignore[arg-type]
