from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedit_secure.secagg.envelope import Letter, open_, seal
from fedit_secure.secagg.keys import Bad, ExchangeKey
from fedit_secure.secagg.transcript import Bound, join, u64

ANN, BEN, EVE = (ExchangeKey.from_bytes(bytes([i]) * 32) for i in (1, 2, 3))
BOUND = Bound(b"R" * 32, b"ctx", b"K", b"U2")
LETTER = Letter(b"s" * 33, b"k" * 33, b"g" * 32)
PLAIN = b"s" * 33 + b"k" * 33 + b"g" * 32


def hkdf_by_hand(secret: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_the_aead_s_known_answer():
    # RFC 8439, section 2.8.2.
    cipher = ChaCha20Poly1305(bytes(range(0x80, 0xA0)))
    sealed = cipher.encrypt(
        bytes.fromhex("070000004041424344454647"),
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip "
        b"for the future, sunscreen would be it.",
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert sealed.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )


def test_a_letter_is_sealed_as_the_protocol_says():
    info = join(b"fedit/env/v1", b"ctx", b"K", u64(4), u64(9), ANN.public, BEN.public)
    key = hkdf_by_hand(ANN.exchange(BEN.public), b"R" * 32, info)
    expected = ChaCha20Poly1305(key).encrypt(bytes(12), PLAIN, None)
    assert seal(ANN, BOUND, 4, 9, BEN.public, LETTER) == expected


def test_the_receiver_opens_what_the_sender_sealed():
    sealed = seal(ANN, BOUND, 4, 9, BEN.public, LETTER)
    assert len(sealed) == 98 + 16
    assert open_(BEN, BOUND, 9, 4, ANN.public, sealed) == LETTER


@pytest.mark.parametrize(
    "moved",
    [
        (BOUND._replace(charter=b"other"), 9, 4),
        (BOUND._replace(ctx=b"other"), 9, 4),
        (BOUND._replace(key_set=b"other"), 9, 4),
        (BOUND, 9, 5),
        (BOUND, 5, 4),
        (BOUND, 4, 9),
    ],
)
def test_a_letter_opens_in_its_own_place_only(moved):
    sealed = seal(ANN, BOUND, 4, 9, BEN.public, LETTER)
    with pytest.raises(Bad, match="doesn't open"):
        open_(BEN, *moved, ANN.public, sealed)


def test_a_reflected_letter_does_not_open():
    # The same two keys share the same secret in both directions.
    sealed = seal(ANN, BOUND, 4, 9, BEN.public, LETTER)
    with pytest.raises(Bad):
        open_(ANN, BOUND, 9, 4, BEN.public, sealed)
    assert seal(BEN, BOUND, 4, 9, ANN.public, LETTER) != sealed


def test_another_key_does_not_open_a_letter():
    sealed = seal(ANN, BOUND, 4, 9, BEN.public, LETTER)
    for own, peer in ((EVE, ANN), (BEN, EVE)):
        with pytest.raises(Bad):
            open_(own, BOUND, 9, 4, peer.public, sealed)


@pytest.mark.parametrize("at", [0, 50, 97, 98, 113])
def test_a_flipped_bit_is_refused(at):
    sealed = bytearray(seal(ANN, BOUND, 4, 9, BEN.public, LETTER))
    sealed[at] ^= 1
    with pytest.raises(Bad):
        open_(BEN, BOUND, 9, 4, ANN.public, bytes(sealed))


@pytest.mark.parametrize("size", [0, 15, 16, 113])
def test_a_truncated_letter_is_refused(size):
    sealed = seal(ANN, BOUND, 4, 9, BEN.public, LETTER)
    with pytest.raises(Bad):
        open_(BEN, BOUND, 9, 4, ANN.public, sealed[:size])


def test_no_letter_is_exchanged_with_a_low_order_key():
    with pytest.raises(Bad):
        seal(ANN, BOUND, 4, 9, bytes(32), LETTER)
    with pytest.raises(Bad):
        open_(ANN, BOUND, 9, 4, bytes(32), b"")


@pytest.mark.parametrize("size", [0, 97, 99])
def test_a_plaintext_of_another_size_is_no_letter(size):
    sized = Letter(bytes(size), b"", b"")
    with pytest.raises(Bad, match="98 bytes"):
        open_(BEN, BOUND, 9, 4, ANN.public, seal(ANN, BOUND, 4, 9, BEN.public, sized))


def test_a_letter_is_neither_printed_nor_serialised():
    assert repr(LETTER) == f"{LETTER}" == "<redacted>"
    with pytest.raises(TypeError):
        pickle.dumps(LETTER)
