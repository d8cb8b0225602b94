"""Every frame through the codec, and every kind of damage on the way in."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_samples import (
    ADVERT,
    AGREEMENT,
    FRAMES,
    HELLO,
    LIMITS,
    OFFER,
    PUBLISHED,
    STATEMENT,
    h,
    s,
)

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import (
    BODIES,
    PublishedNotice,
    decode,
    decode_from_silo,
    encode,
    parse,
)
from fedit_secure.wire.limits import MAX_FRAME, Limits
from fedit_secure.wire.pb import federation_pb2 as pb

NOTICE = PublishedNotice.of(PUBLISHED, h(7))
ON_WIRE = (*FRAMES, NOTICE)


@pytest.mark.parametrize("frame", ON_WIRE, ids=lambda frame: type(frame).__name__)
def test_round_trip(frame: f.Frame) -> None:
    assert decode(encode(frame), LIMITS) == frame


def test_every_frame_type_is_sampled_and_has_a_direction() -> None:
    every = set(get_args(f.Frame))
    sampled = {type(frame) for frame in FRAMES}
    assert every - sampled == {m.MaskedUpload, m.PublishedSum}
    assert {record.of for record in BODIES.values()} == sampled | {PublishedNotice}
    assert every == f.FROM_SILO | f.FROM_AGGREGATOR


def test_the_specification_names_the_same_bodies_and_fields() -> None:
    assert set(BODIES) == {field.name for field in pb.Envelope.DESCRIPTOR.fields}
    for body, record in BODIES.items():
        specified = pb.Envelope.DESCRIPTOR.fields_by_name[body].message_type
        names = {field.name for field in specified.fields}
        assert names == set(record.fields), body
        assert names == {field.name for field in fields(record.of)}, body


def test_a_published_sum_is_whole_again_with_its_integers() -> None:
    got = NOTICE.whole(PUBLISHED.total)
    assert got.signed_digest() == PUBLISHED.signed_digest()
    assert got.signature == PUBLISHED.signature


@pytest.mark.parametrize(
    "frame",
    [m.MaskedUpload(None, b""), PUBLISHED, m.StateApplied(h(1)), m.Deadline()],  # type: ignore[arg-type]
    ids=lambda frame: type(frame).__name__,
)
def test_what_is_no_frame_is_not_encoded(frame: f.Frame) -> None:
    with pytest.raises(TypeError, match="isn't sent as a frame"):
        encode(frame)


def test_a_share_set_of_a_hundred_silos_fits_in_a_frame() -> None:
    n = 100
    limits = Limits(silos=n, length=1, payload_bytes=11)
    everyone = tuple(range(n))
    statement = replace(
        STATEMENT,
        holders=everyone,
        envelope_hashes=(h(1),) * n,
        self_commitments=(h(2),) * n,
        key_commitments=(h(3),) * n,
    )
    share_set = m.ShareSet(
        ctx=h(1),
        key_set=h(2),
        statements=tuple(replace(statement, dealer=u) for u in everyone),
        envelopes=tuple((u, b"e" * 512) for u in everyone[1:]),
        signature=s(1),
    )
    data = encode(share_set)
    assert 1_000_000 < len(data) < MAX_FRAME
    assert decode(data, limits) == share_set


def test_a_frame_that_nobody_would_accept_is_not_sent() -> None:
    with pytest.raises(MalformedMessage, match="Welcome of"):
        encode(f.Welcome((b"x" * MAX_FRAME,), None, 0, h(1)))


# ------------------------------------------------------------------------ wrong values

OVERSIZED = "x" * 501
BAD = {
    "short_charter": (replace(OFFER, charter=h(1)[:31]), "charter: 31 bytes, not 32"),
    "long_signature": (replace(OFFER, signature=s(1) + b"x"), "signature: 65 bytes"),
    "unsigned": (replace(OFFER, signature=b""), "signature: 0 bytes, not 64"),
    "round": (replace(OFFER, round=(1 << 53) + 1), "round: 9007199254740993 isn't"),
    "silo": (replace(ADVERT, silo=4), "silo: 4 isn't in the roster of 4"),
    "mask_key": (replace(ADVERT, mask_key=b""), "mask_key: 0 bytes"),
    "nested": (
        replace(ADVERT, ledger_head=m.LedgerHead("p", 1, b"short")),
        "ledger_head: hash: 5 bytes",
    ),
    "many": (m.AgreementSet(ctx=h(1), agreements=(AGREEMENT,) * 5), "5 entries, above"),
    "share": (
        m.Reveal(
            silo=0,
            ctx=h(1),
            self_shares=((1, b"x" * 32),),
            key_shares=(),
            signature=s(1),
        ),
        "self_shares: 32 bytes, not 33",
    ),
    "share_of_nobody": (
        m.Reveal(
            silo=0,
            ctx=h(1),
            self_shares=(),
            key_shares=((4, b"x" * 33),),
            signature=s(1),
        ),
        "key_shares: 4 isn't in the roster",
    ),
    "envelope": (
        m.ShareBundle(statement=STATEMENT, envelopes=((0, b"x" * 513),)),
        "envelopes: 513 bytes, above 512",
    ),
    "one_holder_of_three": (
        m.ShareBundle(replace(STATEMENT, holders=(0, 4, 3)), ()),
        "holders: 4 isn't in the roster of 4",
    ),
    "one_commitment_of_three": (
        m.ShareBundle(replace(STATEMENT, self_commitments=(h(1), h(2)[:31], h(3))), ()),
        "self_commitments: 31 bytes, not 32",
    ),
    "one_empty_commitment": (
        m.ShareBundle(replace(STATEMENT, key_commitments=(h(1), h(2), b"")), ()),
        "key_commitments: 0 bytes, not 32",
    ),
    "unequal_columns": (
        m.ShareBundle(
            statement=replace(STATEMENT, key_commitments=(h(1),)), envelopes=()
        ),
        "3 holders with another number",
    ),
    "tag": (replace(NOTICE, tag=(1 << 61) - 1), "tag: 2305843009213693951 isn't"),
    "exit_status": (f.CannotServe("no", 10), "exit_status: 10 isn't in 1..9"),
    "no_exit_status": (f.CannotServe("no", 0), "exit_status: 0 isn't in 1..9"),
    "text": (replace(HELLO, silo=OVERSIZED), "silo: 501 characters"),
    "control": (replace(HELLO, silo="a\x1b[2Jb"), "silo: unprintable characters"),
    "bidi": (replace(HELLO, silo="a\u202eb"), "silo: unprintable characters"),
    "approval": (f.Welcome((b"x" * 8193,), None, 0, h(1)), "approvals: 8193 bytes"),
    "approvals": (f.Welcome((b"x",) * 5, None, 0, h(1)), "approvals: 5 entries"),
    "entry": (
        f.LedgerEntries(
            0, (b"x" * (f.MAX_ENTRY + 1),), m.LedgerHead("p", 1, h(1)), s(1)
        ),
        "entries: 65537 bytes",
    ),
    "claim": (f.Claim(b"x" * (f.MAX_CLAIM + 1)), "document: 16385 bytes, above 16384"),
    "entries": (
        f.LedgerEntries(0, (b"",) * 1025, m.LedgerHead("p", 1, h(1)), s(1)),
        "entries: 1025 entries, above 1024",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_values_that_break_a_rule(case: str) -> None:
    frame, match = BAD[case]
    with pytest.raises(MalformedMessage, match=match):
        decode(encode(frame), LIMITS)


def test_a_missing_part() -> None:
    envelope = pb.Envelope()
    envelope.ParseFromString(encode(ADVERT))
    envelope.advert.ClearField("ledger_head")
    with pytest.raises(MalformedMessage, match="Advert with ledger_head: missing"):
        decode(envelope.SerializeToString(), LIMITS)


def test_an_unknown_phase() -> None:
    for number in (0, 13, -1):
        envelope = pb.Envelope(phase=pb.Phase(round=1, name=number))
        with pytest.raises(MalformedMessage, match="Phase with name: unknown phase"):
            decode(envelope.SerializeToString(), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(OFFER) + b"\x98\x3f\x01",  # field 1011
        encode(OFFER) + encode(OFFER),  # the body twice
        encode(OFFER) + encode(HELLO),
        encode(f.Ready(1)).replace(b"\x08\x01", b"\x08\x81\x00"),  # a padded number
        encode(f.Ready(1)).replace(b"\x1a\x02\x08\x01", b"\x1a\x03\x08\x81\x00"),
        encode(HELLO).replace(b"north", b"nor\xff\xfe"),  # not UTF-8
    ],
    ids=["empty", "unknown", "twice", "two", "truncated", "padded", "utf8"],
)
def test_bytes_that_are_no_frame(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data, LIMITS)


def test_hidden_bytes_inside_a_nested_message() -> None:
    envelope = pb.Envelope()
    envelope.ParseFromString(encode(ADVERT))
    head = envelope.advert.ledger_head.SerializeToString() + b"\x98\x3f\x01"
    envelope.advert.ledger_head.ParseFromString(head)
    with pytest.raises(MalformedMessage, match="belong to no field"):
        decode(envelope.SerializeToString(), LIMITS)


def test_no_peer_sends_what_only_the_other_side_sends() -> None:
    for frame in ON_WIRE:
        kind = m.PublishedSum if frame is NOTICE else type(frame)
        for allowed in (f.FROM_SILO, f.FROM_AGGREGATOR):
            if kind in allowed:
                assert decode(encode(frame), LIMITS, allowed) == frame
            else:
                with pytest.raises(MalformedMessage, match="never sends one"):
                    decode(encode(frame), LIMITS, allowed)


def test_a_silos_frame_is_at_most_half_a_mebibyte() -> None:
    head = m.LedgerHead("p", 10, h(1))
    page = f.LedgerEntries(0, (b"x" * 65_000,) * 9, head, s(1))
    assert decode(encode(page), LIMITS) == page
    with pytest.raises(MalformedMessage, match="above 524288"):
        decode_from_silo(encode(page), LIMITS)


# -------------------------------------------------------------------------------- fuzz


def frame_or_malformed(data: bytes) -> None:
    try:
        frame = decode(data, LIMITS)
    except MalformedMessage as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 400
    else:
        # What was accepted is canonical: nothing in it was ignored.
        assert len(encode(frame)) == len(data)
        assert decode(encode(frame), LIMITS) == frame


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
@example(b"\x0a")
def test_random_bytes_decode_or_are_malformed(data: bytes) -> None:
    frame_or_malformed(data)


@settings(deadline=None, max_examples=600)
@given(st.sampled_from([encode(frame) for frame in ON_WIRE]), st.data())
def test_damaged_frames_decode_or_are_malformed(
    data: bytes, draw: st.DataObject
) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        kind = draw.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        at = draw.draw(st.integers(0, max(len(damaged) - 1, 0)))
        if kind == "flip" and damaged:
            damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
        elif kind == "cut":
            del damaged[at : at + draw.draw(st.integers(1, 40))]
        elif kind == "insert":
            damaged[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
        else:
            damaged += damaged[at:]
    frame_or_malformed(bytes(damaged))


_RANDOM_FIELDS = {
    "uint32": st.integers(0, 6),
    "uint64": st.integers(0, 2**64 - 1) | st.integers(0, 20),
    "bytes": st.sampled_from([b"", h(1), s(1), b"x" * 33, b"y"]),
    "string": st.text(max_size=20),
}


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_well_formed_protobuf_of_any_values(body: str, draw: st.DataObject) -> None:
    """Random values in the right fields reach every rule, not only the parser."""
    envelope = pb.Envelope()
    part = getattr(envelope, body)
    part.SetInParent()
    _fill(part, draw)
    frame_or_malformed(envelope.SerializeToString())


def _fill(message: object, draw: st.DataObject) -> None:
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        repeated = field.is_repeated
        times = draw.draw(st.integers(0, 5 if repeated else 1))
        for _ in range(times):
            if field.message_type is not None:
                inner = getattr(message, field.name)
                inner = inner.add() if repeated else inner
                inner.SetInParent()
                _fill(inner, draw)
                continue
            if field.enum_type is not None:
                value: object = draw.draw(st.integers(0, 20))
            else:
                kind = {13: "uint32", 4: "uint64", 12: "bytes", 9: "string"}[field.type]
                value = draw.draw(_RANDOM_FIELDS[kind])
            if repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def test_parse_names_what_it_wanted() -> None:
    with pytest.raises(MalformedMessage, match="aren't a BlobChunk"):
        parse(pb.BlobChunk, b"\xff")


# ------------------------------------------------------------------------------ frames


def test_reasons_are_cleaned_where_they_are_made() -> None:
    nasty = "a\x1b[2Jb\u202ec\n" + "d" * 1000
    for frame in (
        f.Withdraw(1, 1, nasty),
        f.Refused(1, nasty),
        f.CannotServe(nasty, 1),
    ):
        assert frame.reason.isprintable()
        assert len(frame.reason) == f.MAX_TEXT
        assert decode(encode(frame), LIMITS) == frame


def test_phases_are_a_closed_list() -> None:
    with pytest.raises(ValueError, match="unknown phase"):
        f.Phase(1, "loss=0.3")
    names = pb.PhaseName.keys()
    assert names == [
        "PHASE_UNSPECIFIED",
        *(f"PHASE_{name.upper()}" for name in f.PHASES),
    ]


@given(st.lists(st.integers(0, f.MAX_ENTRY), max_size=40), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_ledger_pages_hold_every_entry_once(sizes: list[int], first: int) -> None:
    entries = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    head = m.LedgerHead("p", first + len(entries), h(1))
    pages = list(f.ledger_pages(first, entries, head, s(1)))
    assert [e for page in pages for e in page.entries] == entries
    expected = first
    for page in pages:
        assert page.first == expected
        expected += len(page.entries)
        assert decode_from_silo(encode(page), LIMITS) == page
    assert all(page.entries for page in pages) or not entries


def test_many_small_entries_are_paged_by_number() -> None:
    head = m.LedgerHead("p", 3000, h(1))
    pages = list(f.ledger_pages(0, [b"{}"] * 3000, head, s(1)))
    assert [len(page.entries) for page in pages] == [1024, 1024, 952]


def test_frames_are_frozen_and_slotted() -> None:
    for frame in FRAMES:
        assert is_dataclass(frame)
        with pytest.raises((AttributeError, TypeError)):
            frame.extra = 1  # type: ignore[union-attr]


def test_the_total_is_not_on_the_wire() -> None:
    big = replace(PUBLISHED, total=np.zeros(1_000_000, dtype=np.int32))
    assert len(encode(PublishedNotice.of(big, h(1)))) < 1000
