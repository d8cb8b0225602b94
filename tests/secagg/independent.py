"""A second implementation of the secure aggregation, from docs/protocol.md alone.

It shares no code with fedit_secure and takes no care to be fast: hashes and HMAC from the
standard library, plain integers for all arithmetic, and the ciphers and curves of
`cryptography`. It has no states and refuses nothing: it says what an honest release
consists of, so that the vectors don't only say what the code does.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

Message = dict[str, Any]  # "kind", the fields in the order in which they are signed
P = 2**61 - 1
Q = 2**256 + 297
LABELS = {
    "Offer": "offer", "Advert": "advert", "AdvertSet": "u1", "ShareStatement": "shares",
    "ShareSet": "u2", "UploadHeader": "upload", "UploadAck": "ack", "SurvivorSet": "u3",
    "Agreement": "agree", "Reveal": "reveal", "PublishedSum": "published",
    "Confirmation": "confirm", "VoidRequest": "void-request", "VoidStatement": "void",
}  # fmt: skip

# ------------------------------------------------------------------- bytes and signatures


def u64(n: int) -> bytes:
    return n.to_bytes(8, "little")


def join(*fields: bytes) -> bytes:
    return b"".join(u64(len(field)) + field for field in fields)


def H(label: str, *fields: bytes) -> bytes:
    return hashlib.sha256(join(f"fedit/{label}/v1".encode(), *fields)).digest()


def kdf(secret: bytes, salt: bytes, label: str, *fields: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes, as RFC 5869 puts it: extract, then the first block."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    info = join(f"fedit/{label}/v1".encode(), *fields)
    return hmac.digest(key, info + b"\x01", "sha256")


def encoded(value: Any) -> bytes:
    """One field of a message."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return u64(value)
    return join(*map(encoded, covered(value) if isinstance(value, dict) else value))


def covered(message: Message) -> list[Any]:
    return [x for name, x in message.items() if name not in ("kind", "signature")]


def signed_digest(message: Message) -> bytes:
    label = LABELS[message["kind"]]
    if message["kind"] == "PublishedSum":
        rest = (u64(message["tag"]), encoded(message["agreements"]))
        return H(label, release_digest(message), *rest)
    return H(label, *map(encoded, covered(message)))


def sign(seed: bytes, kind: str, **fields: Any) -> Message:
    message = {"kind": kind, **fields}
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return {**message, "signature": key.sign(signed_digest(message))}


def set_digest(silos: Iterable[int]) -> bytes:
    return H("silos", *map(u64, sorted(silos)))


def cohort(charter: bytes, round: int, silos: int, size: int) -> list[int]:
    """The roster indices that a round is drawn for."""
    lots = {i: H("cohort", charter, u64(round), u64(i)) for i in range(silos)}
    return sorted(sorted(lots, key=lots.__getitem__)[:size])


def codec_digest(params: dict[str, Any]) -> bytes:
    names = ("silos", "corrupt", "threshold", "minimum", "length", "ring_bits")
    integers = [params[name] for name in names] + list(params["weights"])
    return H("codec", struct.pack("<d", params["bound"]), *map(u64, integers))


def context(
    charter: bytes, round: int, attempt: int, state: bytes, params: dict[str, Any]
) -> bytes:
    where = (charter, u64(round), u64(attempt), state)
    return H("ctx", *where, codec_digest(params))


def key_set(ctx: bytes, adverts: Sequence[Message]) -> bytes:
    return H("keyset", ctx, encoded(adverts))


def headers_digest(headers: Sequence[Message]) -> bytes:
    return H("headers", *map(signed_digest, headers))


def release_digest(out: Message) -> bytes:
    x = b"".join(struct.pack("<i", n) for n in out["total"])
    return H("release", out["ctx"], out["key_set"], set_digest(out["contributors"]), x)


# --------------------------------------------------------- keys, commitments and sharing


def public(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes_raw()


def exchange(private: bytes, peer: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(peer))


def is_public_key(key: bytes) -> bool:
    """32 bytes, canonical and of high order: no shared secret with it is zero."""
    if len(key) != 32 or int.from_bytes(key, "little") >= 2**255 - 19:
        return False
    try:
        exchange(bytes(range(32)), key)
    except ValueError:  # the library's word for a secret of zeros
        return False
    return True


def commitment(ctx: bytes, silo: int, secret: bytes) -> bytes:
    return H("commit", ctx, u64(silo), secret)


def share_commitment(
    ctx: bytes, k: bytes, dealer: int, holder: int, kind: str, share: bytes
) -> bytes:
    place = (u64(dealer), u64(holder), kind.encode())
    return H("share", ctx, k, *place, share)


def coefficients(drawn: bytes) -> list[int]:
    """All that such a sequence of draws gives."""
    chunks = (drawn[at : at + 33] for at in range(0, len(drawn), 33))
    values = (int.from_bytes(chunk, "little") % 2**257 for chunk in chunks)
    return [value for value in values if value < Q]


def share(secret: bytes, above: Sequence[int], holder: int) -> bytes:
    """The value at holder + 1; the coefficients come from the highest power down."""
    terms = [*above, int.from_bytes(secret, "little")]
    powers = reversed(range(len(terms)))
    y = sum(c * (holder + 1) ** k for c, k in zip(terms, powers, strict=True))
    return (y % Q).to_bytes(33, "little")


def recover(shares: dict[int, bytes]) -> bytes:
    """Lagrange's interpolation at zero, as a fraction of integers."""
    total = 0
    for v, piece in shares.items():
        weight = Fraction(1)
        for w in shares.keys() - {v}:
            weight *= Fraction(w + 1, w - v)
        inverse = pow(weight.denominator, -1, Q)
        total += int.from_bytes(piece, "little") * weight.numerator * inverse
    return (total % Q).to_bytes(32, "little")


def envelope_key(secret: bytes, charter: bytes, *place: Any) -> bytes:
    """`place`: ctx, K, from, to, and both public keys in the same order."""
    return kdf(secret, charter, "env", *map(encoded, place))


def seal(key: bytes, letter: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), letter, None)


def opened(key: bytes, sealed: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)


# -------------------------------------------------------------------------- masks and tags


TILE_BLOCKS = 2**17


def blocks(seed: bytes, first: int, count: int) -> bytes:
    """The keystream by its definition: counters, encrypted one by one."""
    ecb = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()

    def counter(i: int) -> bytes:
        tile, block = divmod(i, TILE_BLOCKS)
        return tile.to_bytes(12, "big") + (block + 2).to_bytes(4, "big")

    return b"".join(ecb.update(counter(i)) for i in range(first, first + count))


def element(seed: bytes, index: int) -> int:
    return int.from_bytes(blocks(seed, index, 1), "little") % P


def after(length: int) -> int:
    """The first block of the first tile without a coordinate."""
    return -(-length // (4 * TILE_BLOCKS)) * TILE_BLOCKS


def coordinates(seed: bytes, length: int) -> list[int]:
    raw = blocks(seed, 0, -(-length // 4))
    return [int.from_bytes(raw[4 * k : 4 * k + 4], "little") for k in range(length)]


def tag_mask(seed: bytes, length: int) -> int:
    return element(seed, after(length))


def add(vector: Sequence[int], seed: bytes, sign: int) -> list[int]:
    """The vector with a stream added to it, or (-1) taken off it, mod 2^32."""
    stream = coordinates(seed, len(vector))
    return [(a + sign * b) % 2**32 for a, b in zip(vector, stream, strict=True)]


def self_seed(b: bytes, *bound: bytes) -> bytes:
    """`bound`: ctx, K and H(U2)."""
    return kdf(b, b"", "self", *bound)


def pair_seed(secret: bytes, charter: bytes, u: int, w: int, *bound: bytes) -> bytes:
    return kdf(secret, charter, "mask", *bound, u64(min(u, w)), u64(max(u, w)))


def sign_of(u: int, w: int) -> int:
    """What u does with the stream that it shares with w."""
    return 1 if u < w else -1


def group_key(parts: dict[int, bytes], *bound: bytes) -> bytes:
    return H("group", *bound, *(parts[u] for u in sorted(parts)))


def alpha(group: bytes, row: int) -> int:
    return element(kdf(group, b"", "tag-rows"), row)


def beta(group: bytes, column: int) -> int:
    return element(kdf(group, b"", "tag-columns"), column)


def pad(group: bytes, silo: int) -> int:
    return element(kdf(group, b"", "tag-pads"), silo)


def inner_product(group: bytes, values: Sequence[int]) -> int:
    products = (
        alpha(group, k // 256) * beta(group, k % 256) * x for k, x in enumerate(values)
    )
    return sum(products) % P


def tag(group: bytes, silo: int, values: Sequence[int]) -> int:
    return (inner_product(group, values) + pad(group, silo)) % P


def tag_holds(
    group: bytes, total: Sequence[int], claimed: int, among: Iterable[int]
) -> bool:
    return (
        inner_product(group, total) + sum(pad(group, u) for u in among)
    ) % P == claimed


# ------------------------------------------------------------------------------- encoding


def magnitude(params: dict[str, Any]) -> int:
    return (2 ** (params["ring_bits"] - 1) - 1) // params["silos"]


def encode(
    update: Sequence[float], params: dict[str, Any], silo: int, key: bytes
) -> tuple[list[int], float]:
    ceiling = max(params["bound"], *(abs(x) for x in update))
    weights = params["weights"]
    grid = magnitude(params) * weights[silo] / max(weights)
    values = []
    for k, x in enumerate(update):
        tile, place = divmod(k, 4 * TILE_BLOCKS)
        block = blocks(key, tile * TILE_BLOCKS + place // 8, 1)
        coin = block[2 * (place % 8) : 2 * (place % 8) + 2]
        z = x * (grid / ceiling * 2.0**16)
        z += int.from_bytes(coin, "little", signed=True) | 1
        values.append(round(Fraction(z) / 2**16))
    return values, params["bound"] / ceiling


def pack(vector: Sequence[int], ring_bits: int) -> bytes:
    size = ring_bits // 8
    return b"".join((x % 2**ring_bits).to_bytes(size, "little") for x in vector)


def unpack(packed: bytes, ring_bits: int) -> list[int]:
    size = ring_bits // 8
    each = (packed[at : at + size] for at in range(0, len(packed), size))
    return [int.from_bytes(item, "little") for item in each]


def signed_integer(x: int, ring_bits: int) -> int:
    low = x % 2**ring_bits
    return low - 2**ring_bits if low >= 2 ** (ring_bits - 1) else low


def sizes(
    silos: int, *, drawn: int | None = None, length: int, bound: float,
    corrupt: int | None = None,
    minimum: int = 0, ring_bits: int | None = None, weights: Any = None,
    allow_pair: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The parameters of a charter that leaves these out."""
    if corrupt is None:
        corrupt = 0 if silos == 2 else max(1, (silos - 1) // 3)
    n = drawn or silos
    t = (n + corrupt) // 2 + 1
    made = {
        "silos": n, "corrupt": corrupt, "threshold": t, "minimum": max(t, minimum),
        "length": length, "ring_bits": 24, "bound": bound,
        "weights": list(weights or [1] * silos), "allow_pair": allow_pair,
    }  # fmt: skip
    too_coarse = math.sqrt(length / 6) / magnitude(made) > 0.01
    made["ring_bits"] = ring_bits or (32 if too_coarse else 24)
    return made


def are_sizes(p: dict[str, Any]) -> bool:
    """Whether they keep every rule of the table of parameters."""
    n, c, t, weights = p["silos"], p["corrupt"], p["threshold"], p["weights"]
    pair = n == 2 == len(weights) and c == 0 and p["allow_pair"]
    roster = (n >= 3 and 1 <= c <= n - 2) or pair
    quorum = t == (n + c) // 2 + 1 and t <= p["minimum"] <= n
    coded = 1 <= p["length"] < 2**36 and p["ring_bits"] in (24, 32)
    scaled = 1e-30 <= p["bound"] <= 1e30 and len(weights) >= n
    if not (roster and quorum and coded and scaled):
        return False
    coarse = math.sqrt(p["length"] / 6) / magnitude(p) > 0.01
    return all(0 < w < 2**32 for w in weights) and not coarse
