"""Damage to valid bytes: what a faulty line or a hostile peer makes of a good sample.

Every function takes a `random.Random`, so that Hypothesis can shrink what it drew and a
long run can be repeated from its seed. The ones here know nothing of a format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

Mutator = Callable[[Random, bytes, bytes], bytes]

MOST = 256 * 1024  # bytes of one input

# Where integers of some width end, or where our own limits lie.
EDGES = (
    *(0, 1, 2, 3, 4, 5, 12, 13, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256),
    *(500, 501, 512, 513, 1024, 1025, 8192, 8193, 65535, 65536, 65537),
    *(1 << 20, (1 << 20) + 1, 3 << 20, (1 << 24) - 1, 1 << 24),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) - 1, 1 << 53),
    *((1 << 53) + 1, (1 << 61) - 2, (1 << 61) - 1, (1 << 63) - 1, 1 << 63),
    (1 << 64) - 1,
)
HOSTILE_TEXT = (
    b"\xff\xfe",  # not UTF-8
    b"\xed\xa0\x80",  # a surrogate in UTF-8
    b"\xc0\x80",  # an overlong NUL
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\x00",
    b"\x1b[2J",
    b"\r\n",
    "\u202e\u2028\u0085".encode(),
    "\ufeff".encode(),
    b"..%2f%s%n{0}",
)


def varint(number: int, padding: int = 0) -> bytes:
    """A base-128 integer, with `padding` bytes more than it needs."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number | 128 if padding else number)
    if padding:
        out += b"\x80" * (padding - 1) + b"\0"
    return bytes(out)


def edge(rng: Random) -> int:
    """An integer on one of the edges."""
    return rng.choice(EDGES)


def edge_bytes(rng: Random) -> bytes:
    """An integer on an edge, as some format would write it."""
    number = edge(rng)
    how = rng.randrange(4)
    if how == 0:
        return varint(number, rng.choice((0, 0, 1, 3, 9)))
    if how == 1:
        return (number & 0xFFFFFFFF).to_bytes(4, "little")
    return number.to_bytes(8, "little" if how == 2 else "big")


def noise(rng: Random, most: int = 12) -> bytes:
    """A few random bytes."""
    return bytes(rng.randrange(256) for _ in range(rng.randrange(1, most + 1)))


def _place(rng: Random, data: Sequence[int]) -> int:
    return rng.randrange(len(data) + 1)


def flip(rng: Random, data: bytes, other: bytes) -> bytes:
    """Change one bit."""
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    """Keep the beginning only, or the end."""
    at = _place(rng, data)
    return data[:at] if rng.randrange(4) else data[at:]


def delete(rng: Random, data: bytes, other: bytes) -> bytes:
    """Take a slice out."""
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 8, 40)) :]


def insert(rng: Random, data: bytes, other: bytes) -> bytes:
    """Put something in."""
    at = _place(rng, data)
    new = rng.choice((noise(rng), edge_bytes(rng), rng.choice(HOSTILE_TEXT)))
    return data[:at] + new + data[at:]


def overwrite(rng: Random, data: bytes, other: bytes) -> bytes:
    """Replace what is there, length kept: often a length field, blown up."""
    at = _place(rng, data)
    new = rng.choice((noise(rng), edge_bytes(rng), edge_bytes(rng)))
    return data[:at] + new + data[at + len(new) :]


def repeat(rng: Random, data: bytes, other: bytes) -> bytes:
    """Say a slice several times."""
    start, end = sorted((_place(rng, data), _place(rng, data)))
    piece = data[start:end]
    times = min(rng.choice((2, 2, 3, 5, 50, 1000)), MOST // max(len(piece), 1))
    return data[:start] + piece * times + data[end:]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one sample and the end of another."""
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def append(rng: Random, data: bytes, other: bytes) -> bytes:
    """Something after the end."""
    return data + rng.choice((other, noise(rng), b"\0", b"\n", data))


def pad(rng: Random, data: bytes, other: bytes) -> bytes:
    """A great many equal bytes somewhere."""
    at = _place(rng, data)
    return (
        data[:at]
        + rng.choice(b"\x00\x0aa[{\xff 9").to_bytes(1, "big") * 20_000
        + (data[at:])
    )


BYTES: tuple[Mutator, ...] = (
    flip,
    flip,
    truncate,
    delete,
    insert,
    overwrite,
    overwrite,
    repeat,
    splice,
    append,
    pad,
)


def damaged(
    rng: Random, samples: Sequence[bytes], mutators: Sequence[Mutator]
) -> bytes:
    """One input: a sample after one to four kinds of damage; sometimes only noise."""
    if not rng.randrange(16):
        return noise(rng, 200)
    data = rng.choice(samples)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        data = rng.choice(mutators)(rng, data, rng.choice(samples))[:MOST]
    return data
