"""The primitives give the answers that their publications give.

What our code calls is asked where it takes the published input; where it is narrower (a
32-byte output, a zero nonce, digests alone), the library's primitive under it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedit_secure.secagg import envelope, keystream, shares
from fedit_secure.secagg.keys import (
    Bad,
    BadSignature,
    ExchangeKey,
    SigningKey,
    hkdf,
    verify,
)
from fedit_secure.secagg.transcript import Bound, digest, join, u64

FILE = Path(__file__).parents[1] / "vectors" / "known_answers.json"
KNOWN = json.loads(FILE.read_text("utf-8"))
PRIME = 2**256 + 297


def cases(group: str) -> list[dict]:
    return KNOWN[group]["cases"]


def _hex(case: dict, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def test_every_group_names_its_source():
    assert len(KNOWN) == 11
    for name, group in KNOWN.items():
        assert name == "about" or group["source"], name


@pytest.mark.parametrize("case", cases("aes_256_ctr"))
def test_aes_256_ctr(case):
    key, counter, plain, sealed = _hex(
        case, "key", "counter", "plaintext", "ciphertext"
    )
    cipher = Cipher(algorithms.AES256(key), modes.CTR(counter))
    assert cipher.encryptor().update(plain) == sealed


@pytest.mark.parametrize("case", cases("aes_256_gcm"))
@pytest.mark.parametrize("wide", [True, False])
def test_a_tile_is_what_gcm_encrypts_with(monkeypatch, case, wide):
    """The nonce is the number of the tile, on processors of both kinds."""
    monkeypatch.setattr(keystream, "WIDE_AES", wide)
    key, nonce, plain, sealed = _hex(case, "key", "nonce", "plaintext", "ciphertext")
    stream = keystream.keystream(key, int.from_bytes(nonce, "big"))
    assert stream.update(plain) == sealed


@pytest.mark.parametrize("case", cases("hkdf_sha256"))
def test_hkdf(case):
    secret, salt, info, prk, okm = _hex(case, "secret", "salt", "info", "prk", "okm")
    # The first 32 bytes of the output don't depend on its length.
    assert hkdf(secret, salt, info) == okm[:32]
    assert HKDF(SHA256(), len(okm), salt, info).derive(secret) == okm
    assert HKDFExpand(SHA256(), len(okm), info).derive(prk) == okm


def test_x25519():
    first, second = cases("x25519")
    for case in (first, second):
        scalar, u, shared = _hex(case, "scalar", "u", "shared")
        private = x25519.X25519PrivateKey.from_private_bytes(scalar)
        assert private.exchange(x25519.X25519PublicKey.from_public_bytes(u)) == shared
    scalar, u, shared = _hex(first, "scalar", "u", "shared")
    assert ExchangeKey.from_bytes(scalar).exchange(u) == shared
    # The second point has bit 255 set, which RFC 7748 masks and we refuse.
    scalar, u, shared = _hex(second, "scalar", "u", "shared")
    ours = ExchangeKey.from_bytes(scalar)
    assert u[31] & 0x80
    with pytest.raises(Bad):
        ours.exchange(u)
    assert ours.exchange(u[:31] + bytes([u[31] & 0x7F])) == shared


def test_x25519_iterated():
    group = KNOWN["x25519_iterated"]
    k = u = bytes.fromhex(group["start"])
    for done in range(1, 1001):
        k, u = ExchangeKey.from_bytes(k).exchange(u), k
        if str(done) in group["after"]:
            assert k.hex() == group["after"][str(done)]
    assert sorted(group["after"]) == ["1", "1000"]


def test_x25519_diffie_hellman():
    group = KNOWN["x25519_diffie_hellman"]
    one, other, shared = _hex(group, "alice", "bob", "shared")
    alice, bob = ExchangeKey.from_bytes(one), ExchangeKey.from_bytes(other)
    assert [alice.public, bob.public] == _hex(group, "alice_public", "bob_public")
    assert alice.exchange(bob.public) == bob.exchange(alice.public) == shared


@pytest.mark.parametrize("case", cases("ed25519"))
def test_ed25519(case):
    seed, public, message, signature = _hex(
        case, "seed", "public", "message", "signature"
    )
    assert SigningKey.from_seed(seed).public == public
    verify(public, message, signature)
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert private.sign(message) == signature
    with pytest.raises(BadSignature):
        verify(public, message + b"\0", signature)
    hashed = hashlib.sha256(message).digest()  # what we sign is a digest
    assert SigningKey.from_seed(seed).sign(hashed) == private.sign(hashed)


@pytest.mark.parametrize("case", cases("chacha20_poly1305"))
def test_chacha20_poly1305(case):
    key, nonce, aad, plain, sealed, tag = _hex(
        case, "key", "nonce", "aad", "plaintext", "ciphertext", "tag"
    )
    cipher = ChaCha20Poly1305(key)
    assert cipher.encrypt(nonce, plain, aad) == sealed + tag
    assert cipher.decrypt(nonce, sealed + tag, aad) == plain
    with pytest.raises(InvalidTag):
        cipher.decrypt(nonce, sealed + tag[:-1] + bytes([tag[-1] ^ 1]), aad)


def test_an_envelope_is_that_cipher_under_the_derived_key():
    group = KNOWN["x25519_diffie_hellman"]
    alice, bob, shared = _hex(group, "alice", "bob", "shared")
    one, other = ExchangeKey.from_bytes(alice), ExchangeKey.from_bytes(bob)
    bound = Bound(b"R" * 32, b"c" * 32, b"K" * 32)
    letter = envelope.Letter(b"1" * 33, b"2" * 33, b"3" * 32)
    place = (bound.ctx, bound.key_set, u64(4), u64(5), one.public, other.public)
    key = HKDF(SHA256(), 32, bound.charter, join(b"fedit/env/v1", *place))
    plain = b"1" * 33 + b"2" * 33 + b"3" * 32
    expected = ChaCha20Poly1305(key.derive(shared)).encrypt(bytes(12), plain, None)
    assert envelope.seal(one, bound, 4, 5, other.public, letter) == expected


@pytest.mark.parametrize("case", cases("sha256"))
def test_sha256(case):
    message, hashed = _hex(case, "message", "digest")
    assert hashlib.sha256(message).digest() == hashed
    spelt = len(b"l").to_bytes(8, "little") + b"l" + u64(len(message)) + message
    assert digest("l", message) == hashlib.sha256(spelt).digest()


@pytest.mark.parametrize("case", cases("shamir"), ids=lambda case: case["comment"])
def test_shamir(case):
    (secret,) = _hex(case, "secret")
    drawn = [bytes.fromhex(c) for c in case["coefficients"]]
    given = {int(v): bytes.fromhex(x) for v, x in case["shares"].items()}
    # By hand: the polynomial, highest power first, the secret last.
    terms = [int.from_bytes(c, "little") for c in (*drawn, secret)]
    for holder, share in given.items():
        powers = reversed(range(len(terms)))
        y = sum(c * (holder + 1) ** p for c, p in zip(terms, powers, strict=True))
        assert y % PRIME == int.from_bytes(share, "little")
    left, t = list(drawn), len(terms)
    assert shares.split(secret, t, tuple(given), lambda n: left.pop(0)) == given
    assert not left
    holders = sorted(given)
    for skip in range(len(holders) - t + 1):
        some = {v: given[v] for v in holders[skip : skip + t]}
        assert shares.combine(some, t) == secret
    assert shares.PRIME == PRIME
