"""Memory: a length that is only declared costs nothing, and a whole input little."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from fuzz import samples
from fuzz.damage import varint
from fuzz.targets import TARGETS
from wire_samples import LIMITS, h

from fedit_secure.errors import ConfigError, MalformedMessage
from fedit_secure.federation.approval import Approval
from fedit_secure.federation.card import Card
from fedit_secure.secagg.transcript import u64
from fedit_secure.wire import bulk
from fedit_secure.wire.codec import BODIES, decode, decode_from_silo
from fedit_secure.wire.limits import CHUNK, MAX_FRAME, MAX_SILO_FRAME
from fedit_secure.wire.pb import federation_pb2 as pb

LENGTHS = (1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
FIELDS = pb.Envelope.DESCRIPTOR.fields_by_name


def peak(parse: object, data: bytes, *refuses: type[Exception]) -> int:
    """Bytes of memory that refusing `data` took, at most."""
    tracemalloc.start()
    try:
        with pytest.raises(refuses):
            parse(data)  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def declared(number: int, length: int) -> bytes:
    """The beginning of a field of so many bytes."""
    return varint(number << 3 | 2) + varint(length)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_declared_length_of_a_frame_is_no_allocation(length: int) -> None:
    parse = TARGETS["frame"].parse
    for body in BODIES:
        field = FIELDS[body]
        outer = declared(field.number, length) + b"x" * 64
        assert peak(parse, outer, MalformedMessage) < 64 * 1024
        for inner in field.message_type.fields:
            part = declared(inner.number, length) + b"x" * 64
            data = declared(field.number, len(part)) + part
            assert peak(parse, data, MalformedMessage) < 64 * 1024


@pytest.mark.parametrize("length", LENGTHS)
def test_a_declared_length_elsewhere_is_no_allocation(length: int) -> None:
    for name in ("upload header", "upload chunk", "fetch request", "blob"):
        for number in (1, 2, 3):
            data = declared(number, length) + b"x" * 64
            assert peak(TARGETS[name].parse, data, MalformedMessage) < 64 * 1024
    state = b"fedit/state/v1\n" + u64(length) + b"{" * 64
    assert peak(TARGETS["state"].parse, state, MalformedMessage) < 64 * 1024
    tensors = u64(length) + b"{" * 64
    assert peak(TARGETS["adapter tensor"].parse, tensors, ConfigError) < 64 * 1024


def test_a_states_shapes_are_no_allocation() -> None:
    for shape in ("[9007199254740991]", "[2097152,2097152]", "[1000000]"):
        header = f'{{"fraction_bits":24,"layout":[["a",{shape}]]}}'.encode()
        data = b"fedit/state/v1\n" + u64(len(header)) + header + bytes(64)
        assert peak(TARGETS["state"].parse, data, MalformedMessage) < 64 * 1024


def test_a_tensors_shape_is_no_allocation() -> None:
    header = b'{"adapter":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}'
    header %= (1 << 40, 1 << 42)
    data = u64(len(header)) + header + bytes(64)
    assert peak(TARGETS["adapter tensor"].parse, data, ConfigError) < 64 * 1024


def test_what_is_too_large_is_not_even_parsed() -> None:
    """A frame that a byte more makes too large costs nothing beside itself."""
    large = declared(FIELDS["void_certificate"].number, MAX_FRAME) + bytes(MAX_FRAME)
    assert peak(lambda d: decode(d, LIMITS), large, MalformedMessage) < 16 * 1024
    silos = large[: MAX_SILO_FRAME + 1]
    assert peak(lambda d: decode_from_silo(d, LIMITS), silos, MalformedMessage) < (
        16 * 1024
    )
    text = b'{"' + b"x" * (1 << 20) + b'":1}'
    for document in (Card, Approval):
        parse = document.from_bytes
        assert peak(lambda d, p=parse: p(d, "it"), text, ConfigError) < 16 * 1024


def test_a_blob_is_held_to_what_was_asked_for() -> None:
    """The first chunk that says too much is refused; no chunk is kept beyond the size."""
    reader = bulk.BlobReader(CHUNK)
    chunk = pb.BlobChunk(size=1 << 62, data=b"x").SerializeToString()
    assert peak(reader.add, chunk, MalformedMessage) < 64 * 1024
    reader = bulk.BlobReader(3)
    reader.add(pb.BlobChunk(size=3, data=b"ab").SerializeToString())
    with pytest.raises(MalformedMessage, match="outgrows"):
        reader.add(pb.BlobChunk(size=3, data=b"cd").SerializeToString())


def test_an_upload_says_no_more_than_it_is() -> None:
    """A chunk past the end, or at an offset of its own, is refused."""
    for offset in (1, 1 << 63, (1 << 64) - 1):
        chunk = pb.UploadChunk(offset=offset, data=b"x").SerializeToString()
        with pytest.raises(MalformedMessage, match="at offset"):
            bulk.upload_data(chunk, 0, 26)
    chunk = pb.UploadChunk(offset=20, data=b"x" * 7).SerializeToString()
    with pytest.raises(MalformedMessage, match="goes on after 26"):
        bulk.upload_data(chunk, 20, 26)
    held = bulk.upload_state(1 << 62, h(1))
    with pytest.raises(MalformedMessage):
        bulk.upload_held(held, bulk.upload_header(samples.UPLOAD, LIMITS), whole=True)


# Protocol buffers are allocated outside Python, where only the process's own size
# shows them: the largest frames of the smallest messages, each in a fresh process.
CHILD = """
import sys
sys.path[:0] = {path!r}
from fuzz.test_bounds import many_empty
from fedit_secure.errors import MalformedMessage
from fedit_secure.wire.codec import decode
from wire_samples import LIMITS
data = many_empty({body!r}, {field!r}, {size})
def size():
    # Not `ru_maxrss`, which counts what the tests had when they started this process.
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
before = size()
try:
    decode(data, LIMITS)
except MalformedMessage:
    print(size() - before)
"""


def many_empty(body: str, field: str, size: int) -> bytes:
    """A frame of as many empty messages in one repeated field as fit in `size`."""
    outer = FIELDS[body]
    one = declared(outer.message_type.fields_by_name[field].number, 0)
    inside = one * ((size - 16) // len(one))
    return declared(outer.number, len(inside)) + inside


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process its peak")
@pytest.mark.parametrize(
    ("body", "field", "size", "most"),
    [
        ("share_set", "statements", MAX_FRAME, 400),
        ("advert_set", "adverts", MAX_FRAME, 400),
        ("share_bundle", "envelopes", MAX_SILO_FRAME, 64),
    ],
)
def test_the_most_messages_in_one_frame(
    body: str, field: str, size: int, most: int
) -> None:
    tests = Path(__file__).parents[1]
    code = CHILD.format(
        path=[str(tests), str(tests / "wire")], body=body, field=field, size=size
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= most * 1024  # KiB
