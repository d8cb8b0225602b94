from __future__ import annotations

import copy
import pickle

import pytest

from fedit_secure.secagg.keys import (
    Bad,
    BadSignature,
    ExchangeKey,
    SigningKey,
    check_public,
    hkdf,
    verify,
)

P = 2**255 - 19
DIGEST = bytes(range(32))

# RFC 8032, section 7.1, TEST 1 to 3.
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]

# RFC 7748, section 6.1.
ALICE = bytes.fromhex(
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
)
ALICE_PUBLIC = bytes.fromhex(
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
)
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex(
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
)
SHARED = bytes.fromhex(
    "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
)

# Every canonical point of low order, on the curve and on its twist (the orders 4, 1 or 2,
# and 8): each shares zero with everybody.
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), ED25519)
def test_ed25519_known_answers(seed, public, message, signature):
    key = SigningKey.from_seed(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.seed().hex() == seed
    assert key._key.sign(bytes.fromhex(message)).hex() == signature
    verify(key.public, bytes.fromhex(message), bytes.fromhex(signature))


def test_a_signature_verifies_for_its_key_and_digest_only():
    key, other = (SigningKey.from_seed(bytes([i]) * 32) for i in (1, 2))
    signature = key.sign(DIGEST)
    verify(key.public, DIGEST, signature)
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    for bad in (
        (other.public, DIGEST, signature),
        (key.public, bytes(32), signature),
        (key.public, DIGEST, flipped),
        (key.public, DIGEST, signature[:-1]),
        (key.public, DIGEST, b""),
        (key.public[:-1], DIGEST, signature),
    ):
        with pytest.raises(BadSignature):
            verify(*bad)


def test_a_signature_with_a_reduced_scalar_added_to_is_refused():
    # S + L verifies in the equation; RFC 8032 5.1.7 demands S < L.
    order = 2**252 + 27742317777372353535851937790883648493
    key = SigningKey.from_seed(bytes(32))
    signature = key.sign(DIGEST)
    scalar = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        verify(key.public, DIGEST, signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_only_digests_are_signed(size):
    with pytest.raises(ValueError, match="32-byte digests"):
        SigningKey.from_seed(bytes(32)).sign(bytes(size))


def test_x25519_known_answers():
    alice, bob = ExchangeKey.from_bytes(ALICE), ExchangeKey.from_bytes(BOB)
    assert (alice.public, bob.public) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.exchange(bob.public) == bob.exchange(alice.public) == SHARED
    assert alice.private_bytes() == ALICE


def test_x25519_known_answer_of_the_scalar_multiplication():
    # RFC 7748, section 5.2, the first vector.
    key = ExchangeKey.from_bytes(
        bytes.fromhex(
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"
        )
    )
    point = bytes.fromhex(
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"
    )
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert key.exchange(point).hex() == expected


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_keys_are_refused(point):
    with pytest.raises(Bad, match="low order"):
        check_public(point.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "twin",
    [
        ALICE_PUBLIC[:-1] + bytes([ALICE_PUBLIC[-1] | 0x80]),  # bit 255
        P.to_bytes(32, "little"),
        (P + 9).to_bytes(32, "little"),  # the base point's other encoding
        b"\xff" * 32,
    ],
)
def test_twin_keys_are_refused(twin):
    with pytest.raises(Bad, match="below 2\\^255 - 19"):
        check_public(twin)
    with pytest.raises(Bad):
        ExchangeKey.from_bytes(BOB).exchange(twin)


def test_the_twin_refused_above_would_share_the_same_secret():
    bob = ExchangeKey.from_bytes(BOB)
    twin = ALICE_PUBLIC[:-1] + bytes([ALICE_PUBLIC[-1] | 0x80])
    from cryptography.hazmat.primitives.asymmetric import x25519

    raw = x25519.X25519PublicKey.from_public_bytes(twin)
    assert bob._key.exchange(raw) == bob.exchange(ALICE_PUBLIC)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size_are_refused(size):
    with pytest.raises(Bad, match="32 bytes"):
        check_public(bytes(size))


def test_honest_keys_pass():
    for i in range(1, 20):
        check_public(ExchangeKey.from_bytes(bytes([i]) * 32).public)


def test_hkdf_known_answers():
    # RFC 5869, A.1 and A.3: the first 32 bytes of the output don't depend on its length.
    secret = b"\x0b" * 22
    first = hkdf(secret, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert first.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )
    assert hkdf(secret, b"", b"").hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    )


@pytest.mark.parametrize(
    "secret", [SigningKey.from_seed(bytes(32)), ExchangeKey.from_bytes(BOB)]
)
def test_secrets_are_neither_printed_nor_serialised(secret):
    assert repr(secret) == str(secret) == f"{secret}" == "<redacted>"
    assert "<redacted>" in repr({"key": secret})
    with pytest.raises(TypeError, match="isn't serialised"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
