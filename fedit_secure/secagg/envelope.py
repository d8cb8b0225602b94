"""Silo-to-silo letters, relayed by the aggregator (ChaCha20-Poly1305, RFC 8439)."""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedit_secure.secagg.keys import Bad, ExchangeKey, Secret, hkdf
from fedit_secure.secagg.transcript import Bound, encode, join

# A key seals one message, so its nonce may be constant: the key derives from two X25519
# keys of this attempt alone and from the direction, and a dealer, which never enters an
# attempt twice, seals one letter per holder.
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True, repr=False)
class Letter(Secret):
    """What a dealer gives one holder: a share of b_u, one of its mask key, and g_u."""

    self_share: bytes  # 33 bytes
    key_share: bytes  # 33 bytes
    group_contribution: bytes  # 32 bytes


def seal(
    own: ExchangeKey, bound: Bound, me: int, to: int, peer: bytes, letter: Letter
) -> bytes:
    """Seal the one letter from silo `me` to silo `to`, whose public key is `peer`.

    Raises:
        Bad: if no secret can be shared with `peer`.
    """
    # The fields' sizes are fixed, so nothing parts them: 98 bytes.
    plaintext = letter.self_share + letter.key_share + letter.group_contribution
    cipher = _cipher(own.exchange(peer), bound, me, to, own.public, peer)
    return cipher.encrypt(_NONCE, plaintext, None)


def open_(
    own: ExchangeKey, bound: Bound, me: int, sender: int, peer: bytes, sealed: bytes
) -> Letter:
    """The letter that silo `sender`, whose public key is `peer`, sealed for silo `me`.

    Raises:
        Bad: if it was sealed for another place, by another key, or altered.
        Bad: if no secret can be shared with `peer`.
    """
    cipher = _cipher(own.exchange(peer), bound, sender, me, peer, own.public)
    try:
        plain = cipher.decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise Bad(f"an envelope of silo {sender} doesn't open") from None
    if len(plain) != 33 + 33 + 32:
        raise Bad(f"a letter has 98 bytes, not {len(plain)}")
    return Letter(plain[:33], plain[33:66], plain[66:])


def _cipher(shared: bytes, bound: Bound, *place: int | bytes) -> ChaCha20Poly1305:
    info = join(b"fedit/env/v1", bound.ctx, bound.key_set, *map(encode, place))
    return ChaCha20Poly1305(hkdf(shared, bound.charter, info))
