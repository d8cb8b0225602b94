"""The two ends of one connection, and the in-memory pair that simulation runs on.

A `SiloLink` is the silo's end, a `PeerLink` the aggregator's end of one silo. Both
carry frames in order. What is too large for a frame goes beside it: a masked upload
from silo to aggregator, and blobs, which a silo fetches by their address, from
aggregator to silo. A `PublishedSum` is sent as a frame without its integers; the silo's
end fetches those and hands out the whole message, so nobody above this module sees the
difference.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np

from fedit_secure.errors import ConnectError, MalformedMessage
from fedit_secure.secagg.messages import Blob, MaskedUpload, PublishedSum, UploadHeader
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire.codec import PublishedNotice, decode, decode_from_silo, encode
from fedit_secure.wire.frames import FROM_AGGREGATOR, Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.mailbox import Mailbox


class BlobSource(Protocol):
    """Where the aggregator's end finds the blobs that silos ask for."""

    def get(self, address: bytes) -> Blob | None:
        """The blob at a 32-byte address, or None. Called from a worker thread."""


class SiloLink(Protocol):
    """The silo's end."""

    async def send(self, frame: Frame) -> None:
        """Send a frame; a MaskedUpload is uploaded. ConnectError: the link is down."""

    async def receive(self) -> Frame:
        """The next frame, safe to cancel; ConnectError at the end of the stream."""

    async def upload(self, upload: MaskedUpload) -> None:
        """Hand over a masked upload; returns when the aggregator's end has it whole."""

    async def fetch(
        self, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
    ) -> Blob:
        """The blob whose `check(blob)` is `address`; ConnectError if there is none."""

    async def close(self) -> None:
        """End the connection; what was sent before still arrives."""


class PeerLink(Protocol):
    """The aggregator's end of one silo; `silo` is the roster index of `name`."""

    @property
    def silo(self) -> int:
        """The silo's roster index, as its certificate proves it."""

    @property
    def name(self) -> str:
        """The silo's name in the charter."""

    async def send(self, frame: Frame) -> None:
        """Send a frame; ConnectError when the link is down."""

    async def receive(self) -> Frame:
        """The next frame or upload, safe to cancel; ConnectError at the end."""

    async def close(self) -> None:
        """End the connection; what was sent before still arrives."""


class Published:
    """The integers of the last few published sums, by blob address, before `beyond`.

    Sending a PublishedSum to N silos must not cost N copies, and the sum must be there
    for a silo that asks late.
    """

    def __init__(self, beyond: BlobSource, keep: int = 2) -> None:
        self._beyond = beyond
        self._keep = keep
        self._sums: OrderedDict[bytes, Blob] = OrderedDict()
        self._last: tuple[PublishedSum, bytes] | None = None

    def add(self, published: PublishedSum) -> bytes:
        """Keep the sum's int32 little-endian bytes; returns their address."""
        if self._last is not None and self._last[0] is published:
            return self._last[1]
        total = np.ascontiguousarray(published.total, dtype="<i4").data.cast("B")
        address = published.release_digest
        self._sums[address] = total
        self._sums.move_to_end(address)
        while len(self._sums) > self._keep:
            self._sums.popitem(last=False)
        self._last = published, address
        return address

    def get(self, address: bytes) -> Blob | None:
        """The sum's bytes, or what the blob source has."""
        found = self._sums.get(address)
        return found if found is not None else self._beyond.get(address)


def encode_for_silo(frame: Frame, published: Published) -> bytes:
    """The bytes of a frame to a silo; a PublishedSum's integers go into `published`."""
    if isinstance(frame, PublishedSum):
        return encode(PublishedNotice.of(frame, published.add(frame)))
    return encode(frame)


async def fetch_sum(
    link: SiloLink, notice: PublishedNotice, limits: Limits
) -> PublishedSum:
    """The message that a notice stands for. Its integers lie at the release digest, which
    covers them, so they are hashed once; raises what `fetch` and `whole_sum` do."""
    made: list[PublishedSum] = []

    def release_digest(blob: Blob) -> bytes:
        made.append(whole_sum(notice, blob, limits))
        return made[0].release_digest

    await link.fetch(notice.total_address, 4 * limits.length, release_digest)
    return made[0]


def whole_sum(notice: PublishedNotice, blob: Blob, limits: Limits) -> PublishedSum:
    """The message that a notice and its blob stand for; MalformedMessage if the blob
    isn't one int32 for each coordinate."""
    if len(blob) != 4 * limits.length:
        raise MalformedMessage(
            f"a sum of {len(blob)} bytes for {limits.length} coordinates"
        )
    total = np.frombuffer(blob, dtype="<i4")
    if sys.byteorder == "big":
        total = total.astype(np.int32)
    return notice.whole(total)


def check_upload(header: UploadHeader, silo: int, limits: Limits) -> None:
    """MalformedMessage unless the header is `silo`'s, of the charter's exact size."""
    if header.silo != silo:
        raise MalformedMessage(
            f"the silo at roster index {silo} sent an upload headed as {header.silo}"
        )
    if header.length != limits.payload_bytes:
        raise MalformedMessage(
            f"an upload of {header.length} bytes, where the charter's codec has "
            f"{limits.payload_bytes}"
        )


# ------------------------------------------------------------------------- in memory


class _MemorySiloLink:
    def __init__(
        self,
        silo: int,
        limits: Limits,
        up: Mailbox[bytes | MaskedUpload],
        down: Mailbox[bytes],
        published: Published,
    ) -> None:
        self._silo = silo
        self._limits = limits
        self._up = up
        self._down = down
        self._published = published

    async def send(self, frame: Frame) -> None:
        if isinstance(frame, MaskedUpload):
            await self.upload(frame)
        else:
            await self._up.put(encode(frame))

    async def receive(self) -> Frame:
        frame = decode(await self._down.take(), self._limits, FROM_AGGREGATOR)
        if isinstance(frame, PublishedNotice):
            return await fetch_sum(self, frame, self._limits)
        return frame

    async def upload(self, upload: MaskedUpload) -> None:
        check_upload(upload.header, self._silo, self._limits)
        if digest("fedit/payload/v1", upload.payload) != upload.header.payload_digest:
            raise MalformedMessage("an upload's bytes don't match its header's digest")
        await self._up.put(upload)

    async def fetch(
        self, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
    ) -> Blob:
        blob = self._published.get(address)
        if blob is None:
            raise ConnectError(f"the aggregator holds no blob {address.hex()[:16]}")
        return checked_blob(blob, address, max_bytes, check)

    async def close(self) -> None:
        for mailbox in (self._up, self._down):
            mailbox.close("the silo closed the link")


class _MemoryPeerLink:
    def __init__(
        self,
        silo: int,
        name: str,
        limits: Limits,
        up: Mailbox[bytes | MaskedUpload],
        down: Mailbox[bytes],
        published: Published,
    ) -> None:
        self.silo = silo
        self.name = name
        self._limits = limits
        self._up = up
        self._down = down
        self._published = published

    async def send(self, frame: Frame) -> None:
        await self._down.put(encode_for_silo(frame, self._published))

    async def receive(self) -> Frame:
        item = await self._up.take()
        if isinstance(item, MaskedUpload):
            return item
        return decode_from_silo(item, self._limits)

    async def close(self) -> None:
        for mailbox in (self._up, self._down):
            mailbox.close("the aggregator closed the link")


def checked_blob(
    blob: Blob, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
) -> Blob:
    """`blob` itself; MalformedMessage if it is too large or not what was asked for."""
    if len(blob) > max_bytes:
        raise MalformedMessage(f"a blob of {len(blob)} bytes, above {max_bytes}")
    if check(blob) != address:
        raise MalformedMessage(f"a blob that isn't {address.hex()[:16]}")
    return blob


def memory_pair(
    silo: int,
    name: str,
    blobs: BlobSource | Published,
    limits: Limits,
    capacity: int = 64,
) -> tuple[SiloLink, PeerLink]:
    """Two ends of one link in this process; every frame still passes through the codec.

    Give every silo's pair the same `Published` and a published sum is kept once.
    """
    up: Mailbox[bytes | MaskedUpload] = Mailbox(capacity)
    down: Mailbox[bytes] = Mailbox(capacity)
    published = blobs if isinstance(blobs, Published) else Published(blobs)
    return (
        _MemorySiloLink(silo, limits, up, down, published),
        _MemoryPeerLink(silo, name, limits, up, down, published),
    )
