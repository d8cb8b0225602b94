"""What goes beside the frames: masked uploads and blobs, in chunks of at most 1 MiB."""

from __future__ import annotations

from collections.abc import Iterator

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg.messages import Blob, UploadHeader
from fedit_secure.wire.codec import UPLOAD_HEADER, parse
from fedit_secure.wire.limits import CHUNK, PIECE, Limits
from fedit_secure.wire.pb import federation_pb2 as pb


def upload_start(header: UploadHeader) -> bytes:
    """The first message of an Upload call."""
    first = pb.UploadChunk()
    UPLOAD_HEADER.put(first, "header", header)
    return bytes(first.SerializeToString())


def upload_chunk(offset: int, data: Blob, *, tell: bool = False) -> bytes:
    """A message that follows: the bytes at this offset of the payload. With `tell` the
    aggregator answers how many it holds with them."""
    chunk = pb.UploadChunk(offset=offset, data=bytes(data), tell=tell)
    return bytes(chunk.SerializeToString())


def upload_chunks(payload: Blob, held: int) -> Iterator[bytes]:
    """The payload in order, without its first `held` bytes, in pieces of one size."""
    view = memoryview(payload).cast("B")
    for offset in range(held, len(view), PIECE):
        yield upload_chunk(offset, view[offset : offset + PIECE])


def upload_header(data: bytes, limits: Limits) -> UploadHeader:
    """The header in an Upload's first message; MalformedMessage if it isn't there."""
    chunk = parse(pb.UploadChunk, data)
    if not chunk.HasField("header") or chunk.data or chunk.offset or chunk.tell:
        raise MalformedMessage("an upload that doesn't begin with its header alone")
    try:
        header: UploadHeader = UPLOAD_HEADER.take(chunk.header, limits)
    except ValueError as error:
        raise MalformedMessage(f"an UploadHeader with {error}") from None
    return header


def upload_data(data: bytes, expected_offset: int, length: int) -> tuple[bytes, bool]:
    """The next bytes of an upload of `length` in all, and whether the silo wants to be
    told once they are held; MalformedMessage on any gap."""
    chunk = parse(pb.UploadChunk, data)
    piece = bytes(chunk.data)  # once: each access to the field copies it
    if chunk.HasField("header") or not 1 <= len(piece) <= CHUNK:
        raise MalformedMessage(f"an upload chunk of {len(piece)} bytes")
    if chunk.offset != expected_offset:
        raise MalformedMessage(
            f"an upload chunk at offset {chunk.offset} instead of {expected_offset}"
        )
    if expected_offset + len(piece) > length:
        raise MalformedMessage(f"an upload that goes on after {length} bytes")
    return piece, bool(chunk.tell)


def upload_state(held: int, payload_digest: bytes = b"") -> bytes:
    """What the aggregator answers: the bytes it holds, and in the end their digest."""
    state = pb.UploadState(held=held, payload_digest=payload_digest)
    return bytes(state.SerializeToString())


def upload_held(data: bytes, header: UploadHeader, *, whole: bool) -> int:
    """The bytes that the aggregator holds; MalformedMessage unless that can be so."""
    state = parse(pb.UploadState, data)
    expected = header.payload_digest if whole else b""
    if state.payload_digest != expected or state.held > header.length:
        raise MalformedMessage("an answer that doesn't belong to this upload")
    if whole and state.held != header.length:
        raise MalformedMessage(f"{state.held} of {header.length} bytes held in the end")
    return int(state.held)


def fetch_request(address: bytes) -> bytes:
    """The request for a blob."""
    return pb.FetchRequest(address=address).SerializeToString()


def fetch_address(data: bytes) -> bytes:
    """The 32-byte address that a request asks for; MalformedMessage else."""
    address = bytes(parse(pb.FetchRequest, data).address)
    if len(address) != 32:
        raise MalformedMessage(f"a blob address of {len(address)} bytes, not 32")
    return address


def blob_chunks(blob: Blob) -> Iterator[bytes]:
    """The messages of one Fetch call; an empty blob has one too."""
    view = memoryview(blob).cast("B")
    for offset in range(0, max(len(view), 1), PIECE):
        data = bytes(view[offset : offset + PIECE])
        yield pb.BlobChunk(size=len(view), data=data).SerializeToString()


class BlobReader:
    """Puts a fetched blob together, in memory no larger than was asked for."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._data: memoryview | None = None
        self._held = 0

    def add(self, data: bytes) -> None:
        """Take one message; MalformedMessage if it says or holds too much."""
        chunk = parse(pb.BlobChunk, data)
        if chunk.size > self._max:
            raise MalformedMessage(f"a blob of {chunk.size} bytes, above {self._max}")
        if self._data is None:
            self._data = memoryview(bytearray(chunk.size))
        piece = chunk.data  # once: each access to the field copies it
        held = self._held + len(piece)
        if chunk.size != len(self._data) or held > chunk.size:
            raise MalformedMessage("a blob that outgrows its size")
        self._data[self._held : held] = piece
        self._held = held

    def whole(self) -> memoryview:
        """The blob, read-only; MalformedMessage if bytes are missing."""
        if self._data is None or self._held != len(self._data):
            size = None if self._data is None else len(self._data)
            raise MalformedMessage(
                f"a blob of {size} bytes that ended after {self._held}"
            )
        return self._data.toreadonly()
