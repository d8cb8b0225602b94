"""The ledger as bytes, as a chain, and as an order of events: every edit is noticed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedit_secure.errors import PolicyRefusal, StorageError
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.carried_over import CarriedCharge
from fedit_secure.privacy.events import decode
from fedit_secure.privacy.plan import DpPlan

CHARTER, OTHER_CHARTER, STATE, NEXT_STATE = (f"{n:064x}" for n in (1, 2, 3, 4))
CTX, CTX2, DIGEST = (f"{n:064x}" for n in (5, 6, 7))
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.0,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=3,
    spare_charges=1,
    delta=1e-6,
)


def opening(**change: object) -> pl.Opened:
    fields = {
        "silo": "north",
        "identity": "0a" * 32,
        "population": "ward 7, records of 2025",
        "adjacency": "zero-out",
        "delta": 1e-6,
        "cap_epsilon": 8.0,
        "filter_order": 4.0,
        "fingerprints": "0b" * 32,
        "software": "fedit-secure 0.1.0, dp-accounting 0.6.0",
    }
    return pl.Opened.model_validate({**fields, **change})


POPULATION = opening().population


def charge(ledger: pl.Ledger, round: int, charter: str = CHARTER) -> pl.Ledger:
    return ledger.reserve(
        PLAN, run="winter", round=round, charter=charter, state_digest=STATE, weight=1
    )


def one_round(ledger: pl.Ledger, round: int, ctx: str) -> pl.Ledger:
    ledger = charge(ledger, round)
    for event in (
        pl.Committed(charter=CHARTER, round=round, update_digest=DIGEST),
        pl.Masked(ctx=ctx),
        pl.Revealed(ctx=ctx),
        pl.Released(
            charter=CHARTER,
            round=round,
            release_digest=DIGEST,
            state_digest=NEXT_STATE,
            contributors=("north", "south", "west"),
            sum_digest=DIGEST,
        ),
    ):
        ledger = ledger.append(event)
    return ledger


@pytest.fixture(scope="module")
def ledger() -> pl.Ledger:
    return one_round(one_round(pl.Ledger.open(opening()), 1, CTX), 2, CTX2)


# ------------------------------------------------------------------------- bytes and chain


def test_the_chain_is_sha256_over_the_last_hash_and_the_entry(
    ledger: pl.Ledger,
) -> None:
    last = bytes(32)
    for entry, known in zip(ledger.entries, ledger.hashes, strict=True):
        last = hashlib.sha256(last + entry).digest()
        assert known == last
    assert ledger.hash == last
    assert ledger.sequence == len(ledger.entries) == 11


def test_the_head_is_encoded_as_secure_aggregation_signs_it(ledger: pl.Ledger) -> None:
    from fedit_secure.secagg.messages import LedgerHead
    from fedit_secure.secagg.transcript import encode

    head = LedgerHead(POPULATION, ledger.sequence, ledger.hash)
    assert ledger.head_bytes() == encode(head)


def test_entries_bring_the_same_ledger_back(ledger: pl.Ledger) -> None:
    again = pl.Ledger.from_entries(POPULATION, ledger.entries)
    assert again == ledger
    assert repr(again) == f"<Ledger of {POPULATION!r}, 11 entries>"


def test_entries_are_canonical_ascii_without_epsilon(ledger: pl.Ledger) -> None:
    for entry in ledger.entries:
        document = json.loads(entry)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        assert text.encode("ascii") == entry
        assert document["version"] == 1
    spent = {"epsilon", "loss", "batch_size", "records", "count", "gradient_norm"}
    for entry in ledger.entries[1:]:
        assert not spent & set(json.loads(entry))


def test_entries_per_record_have_the_bytes_they_always_had(ledger: pl.Ledger) -> None:
    """Golden: written before a ledger could be per person."""
    assert (
        ledger.hash.hex()
        == "82f074615ffeb6c7111416967939033dcfbc3491fcbe23b437e0407118e6076c"
    )
    assert b'"unit":"record"' in ledger.entries[0]
    assert b'"unit":"record"' in ledger.entries[1]


def test_an_old_ledger_stays_as_it_was(ledger: pl.Ledger) -> None:
    before = (ledger.entries, ledger.hash)
    assert charge(ledger, 3).sequence == ledger.sequence + 1
    assert (ledger.entries, ledger.hash) == before


def edited(entry: bytes, **change: object) -> bytes:
    document = {**json.loads(entry), **change}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def swap(i: int, j: int) -> Callable[[list[bytes]], list[bytes]]:
    def apply(entries: list[bytes]) -> list[bytes]:
        entries[i], entries[j] = entries[j], entries[i]
        return entries

    return apply


def set_entry(i: int, **change: object) -> Callable[[list[bytes]], list[bytes]]:
    return lambda entries: [
        edited(entry, **change) if n == i else entry for n, entry in enumerate(entries)
    ]


TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "noise_raised": set_entry(1, noise_multiplier=50.0),
    "steps_lowered": set_entry(6, steps=1),
    "rate_lowered_everywhere": lambda entries: [
        edited(e, sample_rate=0.001) if b'"intent"' in e else e for e in entries
    ],
    "cap_raised": set_entry(0, cap_epsilon=80.0),
    "contributors_changed": set_entry(5, contributors=["north", "south"]),
    "rounds_swapped": swap(1, 6),
    "commit_before_intent": swap(1, 2),
    "round_removed": lambda entries: entries[:1] + entries[6:],
    "truncated": lambda entries: entries[:6],
    "truncated_to_the_opening": lambda entries: entries[:1],
    "emptied": lambda entries: [],
    "intent_duplicated": lambda entries: [*entries[:2], *entries[1:]],
    "commit_duplicated": lambda entries: [*entries[:3], *entries[2:]],
    "release_duplicated": lambda entries: [*entries, entries[-1]],
    "opening_duplicated": lambda entries: [entries[0], *entries],
    "opening_replaced": lambda entries: [
        opening(population="another").to_bytes(),
        *entries[1:],
    ],
    "intents_uncharged": lambda entries: [e for e in entries if b'"intent"' not in e],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_attack_tampered_ledger(ledger: pl.Ledger, name: str) -> None:
    """Refused for its form, or at the latest against a head that a peer has kept."""
    entries = TAMPERINGS[name](list(ledger.entries))
    with pytest.raises(pl.LedgerCorrupt, match=r"corrupt at entry \d+: "):
        pl.Ledger.from_entries(POPULATION, entries).require_head(
            ledger.sequence, ledger.hash
        )


@pytest.mark.parametrize(
    ("name", "entry", "what"),
    [
        ("commit_before_intent", 2, "no intent"),
        ("commit_duplicated", 4, "more updates than intents"),
        ("release_duplicated", 12, "is over"),
        ("opening_duplicated", 2, "opened once"),
        ("opening_replaced", 1, "'another'"),
        ("steps_lowered", 7, "one plan"),
        ("rounds_swapped", 3, "no intent"),
        ("intents_uncharged", 2, "no intent"),
        ("emptied", 1, "none"),
    ],
)
def test_the_corrupt_entry_is_named(
    ledger: pl.Ledger, name: str, entry: int, what: str
) -> None:
    entries = TAMPERINGS[name](list(ledger.entries))
    with pytest.raises(pl.LedgerCorrupt, match=what) as caught:
        pl.Ledger.from_entries(POPULATION, entries)
    assert caught.value.entry == entry
    assert isinstance(caught.value, StorageError)


def test_attack_ledger_rollback(ledger: pl.Ledger) -> None:
    """An older whole ledger, as from a backup, against the head that peers know."""
    for count in range(1, ledger.sequence):
        older = pl.Ledger.from_entries(POPULATION, ledger.entries[:count])
        ledger.require_head(older.sequence, older.hash)
        with pytest.raises(pl.LedgerCorrupt, match="it ends here"):
            older.require_head(ledger.sequence, ledger.hash)


def test_attack_ledger_fork(ledger: pl.Ledger) -> None:
    """Two continuations of one ledger: neither goes on from the other's head."""
    left = charge(ledger, 3)
    right = charge(ledger, 2)
    with pytest.raises(pl.LedgerCorrupt, match="another hash") as caught:
        left.require_head(right.sequence, right.hash)
    assert caught.value.entry == 12
    for head in (0, -1):
        with pytest.raises(pl.LedgerCorrupt):
            left.require_head(head, bytes(32))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_attack_any_changed_byte(ledger: pl.Ledger, data: st.DataObject) -> None:
    entries = list(ledger.entries)
    index = data.draw(st.integers(0, len(entries) - 1))
    entry = bytearray(entries[index])
    position = data.draw(st.integers(0, len(entry) - 1))
    entry[position] ^= data.draw(st.integers(1, 255))
    entries[index] = bytes(entry)
    with pytest.raises(pl.LedgerCorrupt):
        pl.Ledger.from_entries(POPULATION, entries).require_head(
            ledger.sequence, ledger.hash
        )


MASKED = pl.Masked(ctx=CTX).to_bytes()
CAP = pl.CapChanged(cap_epsilon=9.0, reason="more", signature="0" * 128).to_bytes()


@pytest.mark.parametrize(
    "entry",
    [
        MASKED + b"\n",
        b" " + MASKED,
        MASKED.replace(b",", b", "),
        MASKED.replace(b":1}", b":1.0}"),
        MASKED.replace(b":1}", b":true}"),
        MASKED.replace(b":1}", b":2}"),
        MASKED.replace(b"{", b'{"kind":"masked",', 1),
        MASKED.replace(b"{", b'{"batch_size":61,', 1),
        b'{"kind":"masked","version":1,"ctx":"' + CTX.encode() + b'"}',
        MASKED.replace(b"0000005", b"000000A"),
        MASKED.replace(b"0000005", b"0000005\\n"),
        MASKED.replace(b"masked", b"uncharged"),
        MASKED[:-1],
        MASKED + MASKED,
        b"[" + MASKED + b"]",
        b"",
        b"null",
        b"\xff",
        CAP.replace(b"9.0", b"NaN"),
        CAP.replace(b"9.0", b"Infinity"),
        CAP.replace(b"9.0", b"1e999"),
        CAP.replace(b"9.0", b"9"),
        CAP.replace(b"9.0", b"9.00"),
        CAP.replace(b"9.0", b"-9.0"),
        CAP.replace(b"9.0", b'"9.0"'),
        CAP.replace(b"9.0", b"null"),
        CAP.replace(b"more", b"mor\\u0065"),
        CAP.replace(b"more", "mehr für".encode()),
        CAP.replace(b"more", b"x" * 70_000),
    ],
)
def test_attack_foreign_or_second_encoding(ledger: pl.Ledger, entry: bytes) -> None:
    """One event has one encoding; unknown kinds, fields, versions, NaN are refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        decode(entry)
    assert "\n" not in str(caught.value)
    with pytest.raises(pl.LedgerCorrupt, match="at entry 12"):
        pl.Ledger.from_entries(POPULATION, [*ledger.entries, entry])


PLANS = {"record": PLAN, "person": replace(PLAN, unit="person", records_per_person=16)}


@pytest.mark.parametrize(
    ("unit", "other"), [("record", "person"), ("person", "record")]
)
def test_attack_units_mixed_in_a_ledger(unit: str, other: str) -> None:
    """A charter of the other unit isn't charged, and an entry of it isn't read."""
    ledger = pl.Ledger.open(opening(unit=unit))
    terms = {"run": "r", "round": 1, "state_digest": STATE, "weight": 1}
    own = ledger.reserve(PLANS[unit], charter=CHARTER, **terms)  # type: ignore[arg-type]
    assert own.intents()[0].unit == unit
    foreign = pl.Ledger.open(opening(unit=other)).reserve(
        PLANS[other],
        charter=OTHER_CHARTER,
        **terms,  # type: ignore[arg-type]
    )
    for kept in (ledger, own):
        with pytest.raises(PolicyRefusal, match=f"per {other}.*per {unit} of 'ward 7"):
            kept.require_budget(PLANS[other])
        with pytest.raises(PolicyRefusal, match=f"ledger per {unit}"):
            kept.reserve(PLANS[other], charter=OTHER_CHARTER, **terms)  # type: ignore[arg-type]
        with pytest.raises(pl.LedgerCorrupt, match=f"unit is the {unit}"):
            pl.Ledger.from_entries(POPULATION, [*kept.entries, foreign.entries[1]])
    # Nor does an edited opening make another ledger of it.
    with pytest.raises(pl.LedgerCorrupt, match=f"unit is the {other}"):
        pl.Ledger.from_entries(
            POPULATION, [edited(own.entries[0], unit=other), *own.entries[1:]]
        )


def test_nothing_but_the_schema_can_be_written() -> None:
    with pytest.raises(ValidationError):
        pl.Committed.model_validate(
            {"charter": CHARTER, "round": 1, "update_digest": DIGEST, "loss": 2.3}
        )
    for bad in (math.nan, math.inf, 0.0, "8"):
        with pytest.raises(ValidationError):
            opening(cap_epsilon=bad)
    with pytest.raises(ValidationError):
        pl.Masked(ctx=CTX).ctx = CTX2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="sorted"):
        pl.Released(
            charter=CHARTER,
            round=1,
            release_digest=DIGEST,
            state_digest=STATE,
            contributors=("south", "north"),
        )


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
rounds = st.integers(1, 2**53 - 1)
texts = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=200
)
positive = st.floats(5e-324, allow_nan=False, allow_infinity=False)
events = st.one_of(
    st.builds(
        pl.Opened,
        silo=texts,
        unit=st.sampled_from(["record", "person"]),
        identity=digests,
        population=texts,
        adjacency=st.sampled_from(["zero-out", "add-or-remove"]),
        delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
        cap_epsilon=st.none() | positive,
        filter_order=st.floats(1, 1e6, exclude_min=True),
        fingerprints=digests,
        software=texts,
    ),
    st.builds(
        pl.Intent,
        charter=digests,
        run=texts,
        round=rounds,
        state_digest=digests,
        dp=st.just("local"),
        sample_rate=st.floats(0, 1, exclude_min=True),
        noise_multiplier=positive,
        clip=positive,
        expected_batch=rounds,
        steps=rounds,
        charges=rounds,
        weight=rounds,
        unit=st.sampled_from(["record", "person"]),
        sizes=st.sampled_from(["public", "secret"]),
        dtype=st.sampled_from(["float32", "float64"]),
    ),
    st.builds(pl.Committed, charter=digests, round=rounds, update_digest=digests),
    st.builds(pl.Masked, ctx=digests),
    st.builds(pl.Revealed, ctx=digests),
    st.builds(pl.Voided, ctx=digests),
    st.builds(pl.Renewed, ctx=digests, certificate=digests),
    st.builds(
        pl.Released,
        charter=digests,
        round=rounds,
        release_digest=digests,
        state_digest=digests,
        contributors=st.none()
        | st.sets(texts, max_size=5).map(lambda names: tuple(sorted(names))),
        sum_digest=st.none() | digests,
    ),
    st.builds(
        pl.Aborted,
        charter=digests,
        round=rounds,
        reason=st.sampled_from(["skipped", "tuning-failed", "interrupted"]),
    ),
    st.builds(pl.DataVersion, old=digests, new=digests),
    st.builds(
        pl.CapChanged,
        cap_epsilon=positive,
        reason=texts,
        signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
    ),
    st.builds(
        pl.KeyRotated,
        old=digests,
        new=digests,
        signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
    ),
    st.builds(
        pl.Lost,
        epsilon=st.none() | positive,
        reason=texts,
        signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
    ),
    st.builds(
        pl.Inherited,
        source=texts,
        sequence=rounds,
        hash=digests,
        unit=st.sampled_from(["record", "person"]),
        filter_order=st.floats(1, 1e6, exclude_min=True),
        charges=st.lists(
            st.builds(
                CarriedCharge,
                sample_rate=st.floats(0, 1, exclude_min=True),
                noise_multiplier=st.floats(0, 1e6),
                steps=rounds,
                times=rounds,
            ),
            max_size=3,
        ).map(tuple),
        lost=st.none() | st.floats(0, 1e6),
        reason=texts,
        signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
    ),
    st.builds(
        pl.AuditRun,
        records=st.sampled_from(["public", "synthetic"]),
        data_digest=digests,
        sample_rate=st.floats(0, 1, exclude_min=True),
        noise_multiplier=positive,
        clip=positive,
        expected_batch=rounds,
        steps=rounds,
    ),
)


@settings(max_examples=300, deadline=None)
@given(event=events)
def test_every_event_round_trips_to_the_same_bytes(event: pl.Event) -> None:
    entry = event.to_bytes()
    assert decode(entry) == event
    assert decode(entry).to_bytes() == entry
    assert entry.isascii()


# ----------------------------------------------------------------------------------- order


def committed(round: int = 1) -> pl.Committed:
    return pl.Committed(charter=CHARTER, round=round, update_digest=DIGEST)


def released(round: int = 1) -> pl.Released:
    return pl.Released(
        charter=CHARTER, round=round, release_digest=DIGEST, state_digest=STATE
    )


@pytest.mark.parametrize(
    ("before", "event", "what"),
    [
        ([], opening(), "opened once"),
        ([], committed(2), "no intent"),
        ([], released(2), "no intent"),
        ([], pl.Aborted(charter=OTHER_CHARTER, round=1), "no intent"),
        ([committed()], committed(), "more updates than intents"),
        ([], pl.Masked(ctx=CTX), "every committed update is masked"),
        ([committed(), pl.Masked(ctx=CTX)], pl.Masked(ctx=CTX), "before"),
        ([committed(), pl.Masked(ctx=CTX)], pl.Masked(ctx=CTX2), "is masked already"),
        ([committed(), pl.Voided(ctx=CTX)], pl.Masked(ctx=CTX), "voided before"),
        ([committed()], pl.Revealed(ctx=CTX), "nothing was masked"),
        (
            [committed(), pl.Masked(ctx=CTX), pl.Voided(ctx=CTX)],
            pl.Revealed(ctx=CTX),
            "voided",
        ),
        (
            [committed(), pl.Masked(ctx=CTX), pl.Revealed(ctx=CTX)],
            pl.Revealed(ctx=CTX),
            "revealed in",
        ),
        (
            [committed(), pl.Masked(ctx=CTX), pl.Revealed(ctx=CTX)],
            pl.Voided(ctx=CTX),
            "can't be voided",
        ),
        (
            [committed(), pl.Masked(ctx=CTX), pl.Revealed(ctx=CTX)],
            pl.Renewed(ctx=CTX, certificate=DIGEST),
            "unrevealed",
        ),
        ([committed()], pl.Renewed(ctx=CTX, certificate=DIGEST), "no masked"),
        ([released()], pl.Aborted(charter=CHARTER, round=1), "is over"),
        (
            [],
            pl.KeyRotated(old=DIGEST, new=CTX, signature="0" * 128),
            "isn't the silo's",
        ),
    ],
)
def test_an_event_out_of_order_is_refused(
    before: list[pl.Event], event: pl.Event, what: str
) -> None:
    ledger = charge(pl.Ledger.open(opening()), 1)
    for earlier in before:
        ledger = ledger.append(earlier)
    with pytest.raises(StorageError, match=what):
        ledger.append(event)
    with pytest.raises(pl.LedgerCorrupt, match=what):
        pl.Ledger.from_entries(POPULATION, [*ledger.entries, event.to_bytes()])


def test_a_void_certificate_frees_the_update_for_another_attempt() -> None:
    ledger = charge(pl.Ledger.open(opening()), 1)
    for event in (
        committed(),
        pl.Masked(ctx=CTX),
        pl.Voided(ctx=CTX),
        pl.Renewed(ctx=CTX, certificate=DIGEST),
        pl.Masked(ctx=CTX2),
        pl.Revealed(ctx=CTX2),
        released(),
    ):
        ledger = ledger.append(event)
    assert pl.Ledger.from_entries(POPULATION, ledger.entries) == ledger
    with pytest.raises(StorageError, match="renewed before"):
        ledger.append(pl.Renewed(ctx=CTX, certificate=DIGEST))


def test_a_ledger_starts_with_its_opening() -> None:
    with pytest.raises(pl.LedgerCorrupt, match="isn't the opening") as caught:
        pl.Ledger.from_entries(POPULATION, [MASKED])
    assert caught.value.entry == 1


def test_a_charge_is_made_by_reserve_alone(ledger: pl.Ledger) -> None:
    with pytest.raises(ValueError, match="reserve"):
        ledger.append(ledger.intents()[0])


def test_keys_rotate_in_a_row() -> None:
    ledger = pl.Ledger.open(opening())
    keys = ["0a" * 32, "0c" * 32, "0d" * 32]
    for old, new in pairwise(keys):
        ledger = ledger.append(pl.KeyRotated(old=old, new=new, signature="0" * 128))
    assert pl.Ledger.from_entries(POPULATION, ledger.entries).sequence == 3
