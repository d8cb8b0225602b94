"""Ed25519 signatures (RFC 8032), single-use X25519 keys (RFC 7748), HKDF (RFC 5869)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Rand = Callable[[int], bytes]  # that many fresh uniform bytes
# Clamped to the scalar 2^254: a multiple of the cofactors, coprime to both large group
# orders, so it sends exactly the low-order points to zero.
_LOW_ORDER_PROBE = x25519.X25519PrivateKey.from_private_bytes(bytes(32))


class Bad(ValueError):
    """What no honest party sends."""


class BadSignature(Bad):
    """A signature that the named key didn't make over this digest."""


class Secret:
    """Base of what holds a secret: it prints as `<redacted>` and can't be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<redacted>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} holds secrets: it isn't serialised")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SigningKey(Secret):
    """A party's Ed25519 identity key."""

    _key: ed25519.Ed25519PrivateKey

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key of a 32-byte seed (RFC 8032's private key)."""
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    def seed(self) -> bytes:
        """The 32 bytes to keep secret."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> bytes:
        """A 64-byte signature over a 32-byte labelled digest, never over free text."""
        if len(digest) != 32:
            raise ValueError(f"only 32-byte digests are signed, not {len(digest)}")
        return self._key.sign(digest)


def verify(public: bytes, digest: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature over a 32-byte digest.

    Raises:
        BadSignature: if the key or signature is malformed, or they don't match.
    """
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, digest)
    except (InvalidSignature, ValueError):
        raise BadSignature("the signature doesn't match the key and digest") from None


def check_public(public: bytes) -> None:
    """Refuse the X25519 public keys that aren't one party's own fresh key.

    RFC 7748 reads keys mod 2^255 - 19 and ignores bit 255, so one point has several
    encodings. Only the canonical one passes: a *twin* can't pose as a second key.
    Points of low order are refused: they share zero with whomever they meet.

    Raises:
        Bad: unless `public` is 32 bytes, below 2^255 - 19 and of high order.
    """
    if len(public) != 32 or int.from_bytes(public, "little") >= 2**255 - 19:
        raise Bad("an X25519 public key has 32 bytes and is below 2^255 - 19")
    try:
        _LOW_ORDER_PROBE.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:  # the library refuses an all-zero result, as RFC 7748 6.1 asks
        raise Bad("an X25519 public key must not be of low order") from None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ExchangeKey(Secret):
    """An X25519 key, drawn for one attempt and dropped after it."""

    _key: x25519.X25519PrivateKey

    @classmethod
    def from_bytes(cls, private: bytes) -> Self:
        """The key of 32 private bytes (clamped on use, as RFC 7748 says)."""
        return cls(x25519.X25519PrivateKey.from_private_bytes(private))

    def private_bytes(self) -> bytes:
        """The 32 private bytes: what Shamir shares."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        """The 32-byte shared secret with a peer's public key; derive keys from it.

        Raises:
            Bad: what `check_public` refuses.
        """
        check_public(peer)
        return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(peer))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes. `info` is `join(label, ...)`."""
    return HKDF(SHA256(), length=32, salt=salt, info=info).derive(secret)
