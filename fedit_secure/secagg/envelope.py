"""Silo-to-silo letters, relayed by the aggregator (ChaCha20-Poly1305, RFC 8439)."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedit_secure.secagg.keys import ExchangeKey, Secret, hkdf
from fedit_secure.secagg.transcript import join, u64

# A key seals one message, so its nonce may be constant: the key derives from two X25519
# keys of this attempt alone and from the direction, and a dealer, which never enters an
# attempt twice, seals one letter per holder.
_NONCE = bytes(12)


class BadEnvelope(ValueError):
    """A sealed letter that doesn't open, or doesn't hold what a letter holds."""


@dataclass(frozen=True, slots=True, repr=False)
class Letter(Secret):
    """What a dealer sends one holder: a share of b_u, one of its mask key, and g_u."""

    self_share: bytes  # 33 bytes
    key_share: bytes  # 33 bytes
    group_contribution: bytes  # 32 bytes

    def pack(self) -> bytes:
        """The 98-byte plaintext: the fields' sizes are fixed, so nothing parts them."""
        return self.self_share + self.key_share + self.group_contribution

    @classmethod
    def unpack(cls, plaintext: bytes) -> Letter:
        """The letter in a plaintext. Raises BadEnvelope unless it has 98 bytes."""
        if len(plaintext) != 33 + 33 + 32:
            raise BadEnvelope(f"a letter has 98 bytes, not {len(plaintext)}")
        return cls(plaintext[:33], plaintext[33:66], plaintext[66:])


def seal(
    own: ExchangeKey,
    peer_public: bytes,
    charter: bytes,
    ctx: bytes,
    key_set: bytes,
    sender: int,
    receiver: int,
    plaintext: bytes,
) -> bytes:
    """Seal the one letter from `sender` (whose key is `own`) to `receiver`.

    Raises:
        BadPublicKey: if no secret can be shared with `peer_public`.
    """
    place = (charter, ctx, key_set, u64(sender), u64(receiver))
    key = _key(own.exchange(peer_public), *place, own.public, peer_public)
    return key.encrypt(_NONCE, plaintext, None)


def open_(
    own: ExchangeKey,
    peer_public: bytes,
    charter: bytes,
    ctx: bytes,
    key_set: bytes,
    sender: int,
    receiver: int,
    sealed: bytes,
) -> bytes:
    """The plaintext that `sender` sealed for `receiver` (whose key is `own`).

    Raises:
        BadEnvelope: if it was sealed for another place, by another key, or altered.
        BadPublicKey: if no secret can be shared with `peer_public`.
    """
    place = (charter, ctx, key_set, u64(sender), u64(receiver))
    key = _key(own.exchange(peer_public), *place, peer_public, own.public)
    try:
        return key.decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise BadEnvelope(f"an envelope of silo {sender} doesn't open") from None


def _key(shared: bytes, charter: bytes, *info: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hkdf(shared, charter, join(b"fedit/env/v1", *info)))
