from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import Signed, digest, encode, join, u64

fields = st.lists(st.binary(max_size=20), max_size=5)


def parse(encoded: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(encoded):
        size = int.from_bytes(encoded[at : at + 8], "little")
        found.append(encoded[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def test_u64_is_eight_little_endian_bytes():
    assert u64(0x0102) == b"\x02\x01\0\0\0\0\0\0"
    assert u64(2**64 - 1) == b"\xff" * 8


@pytest.mark.parametrize("n", [-1, 2**64])
def test_u64_refuses_what_does_not_fit(n):
    with pytest.raises(ValueError, match="0 <= n < 2\\^64"):
        u64(n)


@given(fields)
def test_join_can_be_taken_apart_again(parts):
    assert parse(join(*parts)) == parts


@given(fields, fields)
def test_two_field_lists_never_share_an_encoding(one, other):
    assert (join(*one) == join(*other)) == (one == other)


@given(st.text(max_size=8), fields)
def test_digest_is_sha256_of_the_joined_label_and_fields(label, parts):
    expected = hashlib.sha256(join(label.encode(), *parts)).digest()
    assert digest(label, *parts) == expected


def test_digest_counts_a_buffer_in_bytes_not_items():
    vector = np.arange(1000, dtype="<i4")
    assert digest("x", vector.data) == digest("x", vector.tobytes())
    assert join(vector.data) == join(vector.tobytes())


class Inner(Signed, label="inner"):
    number: int


class Outer(Signed, label="outer"):
    name: str
    inner: tuple[Inner, ...]
    blob: bytes


OUTER = Outer(name="n", inner=(Inner(number=1), Inner(number=2)), blob=b"b")


def test_a_signature_covers_every_field_of_a_message_but_signatures():
    inner = join(join(u64(1)), join(u64(2)))
    assert OUTER.signed_digest() == digest("outer", b"n", inner, b"b")
    assert encode(OUTER) == join(b"n", inner, b"b")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "m"},
        {"blob": b""},
        {"inner": ()},
        {"inner": OUTER.inner[::-1]},
        {"inner": (*OUTER.inner, Inner(number=3))},
    ],
)
def test_a_changed_field_changes_what_is_signed(changes):
    assert replace(OUTER, **changes).signed_digest() != OUTER.signed_digest()


def test_signatures_are_left_out_of_what_is_signed_at_every_depth():
    signed = tuple(replace(i, signature=b"s") for i in OUTER.inner)
    assert replace(OUTER, inner=signed, signature=b"s").signed_digest() == (
        OUTER.signed_digest()
    )


def test_what_was_encoded_once_is_encoded_alike_when_it_changes():
    """Statements are encoded once; another one, however like it, is another."""
    zero, one, two = (bytes([i]) * 32 for i in range(3))
    statement = m.ShareStatement(
        0, zero, one, (0, 1), (b"", two), (one, one), (two, two)
    )
    first = encode(statement)
    assert encode(statement) == first
    assert encode(replace(statement, signature=b"s" * 64)) == first  # it isn't covered
    for change in (
        {"dealer": 1},
        {"ctx": two},
        {"holders": (0, 2)},
        {"envelope_hashes": (b"", one)},
        {"self_commitments": (one, two)},
        {"key_commitments": (two, one)},
    ):
        assert encode(replace(statement, **change)) != first
    advert = m.Advert(0, zero, one, two, one, two, m.LedgerHead("a", 1, zero))
    assert encode(replace(advert, ledger_head=m.LedgerHead("b", 1, zero))) != encode(
        advert
    )
