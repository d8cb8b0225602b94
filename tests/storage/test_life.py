from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.errors import FuseBlown, StorageError
from fedit_secure.secagg.messages import Fuse
from fedit_secure.storage.life import FRESH, MASKED, REVEALED, VOIDED, Life, burn

UPDATE, OTHER = b"u" * 32, b"v" * 32


def ctx(round: int, attempt: int) -> bytes:
    return bytes([round, attempt]) * 16


def fuse(kind: str, round: int = 1, attempt: int = 1, update: bytes = UPDATE) -> Fuse:
    return Fuse(kind, round, attempt, ctx(round, attempt), update)


def lived(*kinds: str, life: Life | None = None, **where: int) -> Life:
    life = life or Life()
    for kind in kinds:
        life = burn(life, fuse(kind, **where))
    return life


def refused(life: Life, what: str, match: str) -> None:
    kind, *where = what.split()
    with pytest.raises(FuseBlown, match=match):
        burn(life, fuse(kind, *map(int, where)))


def test_the_life_of_an_update_that_is_released():
    life = lived("advertise")
    assert (life.round, life.attempt, life.state) == (1, 1, FRESH)
    life = lived("mask", life=life)
    assert (life.state, life.ctx, life.update_digest) == (MASKED, ctx(1, 1), UPDATE)
    life = lived("reveal", life=life)
    assert life.state == REVEALED
    life = lived("confirm", life=life)
    assert life.confirmed == 1


def test_the_life_of_an_update_that_is_voided_and_renewed():
    life = lived("advertise", "mask", "void")
    assert life.state == VOIDED
    refused(life, "advertise 1 2", "voided, so it enters no attempt")
    life = lived("renew", life=life)
    assert life.state == FRESH
    life = lived("advertise", "mask", "reveal", life=life, attempt=2)
    assert life.state == REVEALED


def test_a_masked_update_is_renewed_by_the_certificate_of_others():
    life = lived("advertise", "mask", "renew")
    assert life.state == FRESH
    refused(life, "reveal", "closed")
    refused(life, "mask", "closed")


def test_before_mask_an_attempt_may_fail_for_free():
    life = lived("advertise")
    for attempt in range(2, 5):
        life = lived("advertise", life=life, attempt=attempt)
    assert life.state == FRESH


@pytest.mark.parametrize(
    ("kinds", "next_", "match"),
    [
        ((), "mask", "another attempt"),
        ((), "reveal", "another attempt"),
        ((), "renew", "only the masked"),
        (("advertise",), "advertise", "entered before"),
        (("advertise",), "advertise 1 0", "entered before"),
        (("advertise",), "reveal", "fresh, not masked"),
        (("advertise",), "renew", "only the masked"),
        (("advertise",), "mask 1 2", "another attempt"),
        (("advertise", "mask"), "mask", "masked, not fresh"),
        (("advertise", "mask"), "advertise 1 2", "masked, so it enters no attempt"),
        (("advertise", "mask"), "reveal 1 2", "another attempt"),
        (("advertise", "mask"), "renew 1 2", "only the masked"),
        (("advertise", "mask", "reveal"), "reveal", "revealed, not masked"),
        (("advertise", "mask", "reveal"), "void", "revealed in this attempt"),
        (("advertise", "mask", "reveal"), "renew", "only the masked"),
        (("advertise", "mask", "reveal"), "advertise 1 2", "revealed, so it enters"),
        (("advertise", "void"), "mask", "closed"),
        (("advertise", "mask", "void"), "reveal", "closed"),
        (("advertise", "mask", "confirm"), "reveal", "closed"),
        (("advertise", "confirm"), "mask", "closed"),
        (("advertise", "confirm"), "confirm", "stated the end of round 1 before"),
        (("advertise", "confirm"), "advertise 1 2", "round 1 is over"),
        (("void",), "advertise", "voided by this silo"),
    ],
)
def test_what_is_ruled_out(kinds, next_, match):
    refused(lived(*kinds), next_, match)


def test_the_end_of_an_earlier_round_isn_t_stated_late():
    life = lived("advertise", round=2)
    refused(life, "confirm 1 0", "entered round 2 already")


def test_a_round_has_one_update_and_an_update_one_round():
    life = lived("advertise", "mask", "renew")
    life = lived("advertise", life=life, attempt=2)
    with pytest.raises(FuseBlown, match="one update"):
        burn(life, fuse("mask", 1, 2, OTHER))
    life = lived("advertise", life=life, round=2)
    with pytest.raises(FuseBlown, match="in an earlier round"):
        burn(life, fuse("mask", 2, 1, UPDATE))
    assert burn(life, fuse("mask", 2, 1, OTHER)).state == MASKED


def test_what_was_revealed_is_never_voided_not_even_rounds_later():
    life = lived("advertise", "mask", "reveal", "confirm")
    life = burn(burn(life, fuse("advertise", 2)), fuse("mask", 2, 1, OTHER))
    refused(life, "void 1 1", "revealed in this attempt")
    assert burn(life, fuse("void", 2)).state == VOIDED


def test_an_attempt_that_was_never_entered_can_be_closed():
    life = lived("void")
    assert life.state == FRESH
    assert ctx(1, 1) in life.closed
    life = lived("advertise", "mask", life=life, attempt=2)
    assert burn(life, fuse("void")).state == MASKED  # another attempt's promise


def test_voiding_again_says_the_same():
    life = lived("advertise", "mask", "void")
    assert burn(life, fuse("void")) == life


STEPS = ("advertise", "mask", "reveal", "void", "renew", "confirm")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STEPS), st.integers(1, 2), st.integers(1, 3),
            st.sampled_from([UPDATE, OTHER]), st.booleans(),
        ),
        max_size=25,
    )
)  # fmt: skip
@settings(max_examples=300)
def test_whatever_happens_in_whatever_order(steps):
    """The promises of docs/protocol.md, over every order of steps and restarts."""
    life, done = Life(), []
    for kind, round_, attempt, update, restart in steps:
        step = fuse(kind, round_, attempt, update)
        if restart:
            life = Life.from_bytes(life.to_bytes())
        try:
            after = burn(life, step)
        except FuseBlown:
            continue
        assert (after.round, after.attempt) >= (life.round, life.attempt)
        assert after.closed >= life.closed
        life = after
        done.append((kind, step.ctx, round_, update))
    for kind in ("advertise", "mask", "reveal"):
        entered = [c for k, c, *_ in done if k == kind]
        assert len(entered) == len(set(entered)), f"{kind} twice in one attempt"
    reveals = [(c, r) for k, c, r, _ in done if k == "reveal"]
    assert len({r for _, r in reveals}) == len(reveals), "two reveals in a round"
    for context, _ in reveals:
        at = done.index(next(x for x in done if x[:2] == ("reveal", context)))
        assert all(x[:2] != ("void", context) for x in done), "voided and revealed"
        assert all(x[:2] != ("renew", context) for x in done[at:])
    masked: dict[bytes, set[int]] = {}
    for kind, _, round_, update in done:
        if kind == "mask":
            masked.setdefault(update, set()).add(round_)
    assert all(len(rounds) == 1 for rounds in masked.values())
    stated = [r for k, _, r, _ in done if k == "confirm"]
    assert len(stated) == len(set(stated))


def test_bytes_round_trip():
    life = lived("advertise", "mask", "reveal", "confirm")
    life = burn(burn(life, fuse("advertise", 2)), fuse("void", 2))
    assert Life.from_bytes(life.to_bytes()) == life
    assert Life.from_bytes(Life().to_bytes()) == Life()


def changed(**fields: object) -> bytes:
    made = json.loads(lived("advertise", "mask").to_bytes()) | fields
    return json.dumps(made, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff",
        lived("advertise").to_bytes()[:-1],
        lived("advertise").to_bytes() + b" ",
        changed(state="reborn"),
        changed(round="1"),
        changed(ctx="zz"),
        changed(ctx=7),
        changed(extra=1),
        changed(closed="00"),
        changed(closed=["00", "00"]),
    ],
)
def test_damaged_bytes_are_refused(data):
    with pytest.raises(StorageError, match="life of an update"):
        Life.from_bytes(data)
