from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import step_of

from fedit_secure.errors import ConfigError, MalformedMessage, ProtocolError
from fedit_secure.federation import update
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.update import (
    GridState,
    apply_update,
    check_float_mode,
    from_float32,
    to_float32,
)
from fedit_secure.secagg.params import SecAggParams

LAYOUT = (("layer.0.lora_A", (2, 3)), ("layer.0.lora_B", (4, 2)))


def golden_state() -> GridState:
    # Integers made without floating point, so that the digest can't depend on the
    # machine.
    values = [(i * 2654435761) % (1 << 30) - (1 << 29) for i in range(14)]
    return GridState(
        names=tuple(name for name, _ in LAYOUT),
        shapes=tuple(shape for _, shape in LAYOUT),
        values=np.array(values, dtype=np.int64),
    )


def params(**changes) -> SecAggParams:
    given = {"length": 14, "bound": 0.012, "weights": (3, 1, 2, 5)} | changes
    return release_sizes(4, **given)


GOLDEN = "887cfcccf3e04f2102f3bc5d15a07f11c1b9f4e0a8229ad7d6eada0e2212067b"
GOLDEN_AFTER = "c85cd039bfc288f94f01c357d06589397639a2e2dbef870ea0bc6b7ff15824db"
GOLDEN_BYTES = "d27665ddbc79a654ebbce14a98e983e49a5f2461c7ab7da16bf2ba022ca572cb"


def test_golden_digest():
    assert golden_state().digest().hex() == GOLDEN


def test_golden_digest_after_an_update():
    total = np.array([(-1) ** i * 104729 * i for i in range(14)], dtype=np.int32)
    after = apply_update(golden_state(), total, params(), (0, 2, 3))
    assert after.digest().hex() == GOLDEN_AFTER


def test_golden_bytes():
    assert hashlib.sha256(golden_state().to_bytes()).hexdigest() == GOLDEN_BYTES


def test_every_part_is_in_the_digest():
    base = golden_state()
    moved = base.values.copy()
    moved[-1] += 1
    others = [
        GridState(("x", base.names[1]), base.shapes, base.values),
        GridState(base.names, ((3, 2), (4, 2)), base.values),
        GridState(base.names[::-1], base.shapes, base.values),
        GridState(base.names, base.shapes, moved),
        GridState(base.names, base.shapes, base.values, 23),
    ]
    assert len({s.digest() for s in (base, *others)}) == 6


def test_the_mean_is_weighted_and_within_a_grid_step():
    p = params()
    rng = np.random.default_rng(1)
    updates = rng.uniform(-p.bound, p.bound, (4, 14))
    silos = (0, 1, 3)
    w = np.array(p.weights)
    encoded = {
        u: np.rint(updates[u] * w[u] / 5 / step_of(p)).astype(np.int32) for u in silos
    }
    total = np.sum([encoded[u] for u in silos], axis=0, dtype=np.int32)
    before = golden_state()
    after = apply_update(before, total, p, silos)
    mean = sum(w[u] * updates[u] for u in silos) / sum(w[u] for u in silos)
    moved = (after.values - before.values) / 2**24
    # One grid step of the state, and half a ring step for each of three silos.
    assert np.abs(moved - mean).max() <= 2**-24 + 1.5 * step_of(p) * 5 / 9


def test_k_is_evaluated_in_the_documented_order():
    p = params(bound=0.1)
    total = np.full(14, 12345, dtype=np.int32)
    k = ((p.bound * 2.0**24) * 5.0) / (p.magnitude * 11)
    before = golden_state()
    after = apply_update(before, total, p, (0, 1, 2, 3))
    assert (after.values - before.values).tolist() == [round(12345 * k)] * 14


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_by_name(data):
    with pytest.raises(MalformedMessage):
        GridState.from_bytes(data)


def test_bytes_round_trip():
    state = golden_state()
    again = GridState.from_bytes(state.to_bytes())
    assert again.digest() == state.digest()
    assert again.layout == LAYOUT
    with pytest.raises(ValueError, match="read-only"):
        again.values[0] = 1


@pytest.mark.parametrize("position", range(15, 200, 7))
def test_a_flipped_bit_is_refused_or_changes_the_digest(position):
    data = bytearray(golden_state().to_bytes())
    data[position] ^= 4
    try:
        state = GridState.from_bytes(bytes(data))
    except MalformedMessage:
        return
    assert state.digest() != golden_state().digest()


def test_truncated_and_spaced_headers_are_refused():
    data = golden_state().to_bytes()
    with pytest.raises(MalformedMessage, match="14 coordinates"):
        GridState.from_bytes(data[:-8])
    with pytest.raises(MalformedMessage, match="whole integers"):
        GridState.from_bytes(data[:-1])
    size = int.from_bytes(data[15:23], "little")
    spaced = data[:15] + (size + 1).to_bytes(8, "little") + b" " + data[23:]
    with pytest.raises(MalformedMessage, match="canonical"):
        GridState.from_bytes(spaced)


def test_float_round_trip_is_exact_on_the_grid():
    values = np.array([0, 1, -1, 2**-24, -(2**-24), 0.5, 3.25] * 2, dtype=np.float32)
    assert to_float32(from_float32(LAYOUT, values)).tolist() == values.tolist()


def test_float_values_move_by_half_a_step_at_most():
    values = np.random.default_rng(2).normal(0, 0.02, 14).astype(np.float32)
    state = from_float32(LAYOUT, values)
    assert np.abs(to_float32(state) - values).max() <= 2**-25


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**30])
def test_values_off_the_grid_are_refused(bad):
    values = np.zeros(14, dtype=np.float32)
    values[3] = bad
    with pytest.raises(ValueError, match="not finite, or too large"):
        from_float32(LAYOUT, values)


@pytest.mark.parametrize(
    ("total", "silos", "why"),
    [
        (np.zeros(13, np.int32), (0, 1, 2), "isn't of this release"),
        (np.zeros(14, np.int64), (0, 1, 2), "isn't of this release"),
        (np.zeros(14, np.int32), (), "distinct contributors"),
        (np.zeros(14, np.int32), (0, 0, 1), "distinct contributors"),
    ],
)
def test_sums_that_do_not_fit_are_refused(total, silos, why):
    with pytest.raises(ProtocolError, match=why):
        apply_update(golden_state(), total, params(), silos)


def test_a_state_cannot_leave_its_grid():
    edge = GridState(("a",), ((1,),), np.array([2**53 - 1]))
    p = release_sizes(4, length=1, bound=1.0)
    total = np.array([p.magnitude], dtype=np.int32)
    with pytest.raises(ProtocolError, match="leaves its grid"):
        apply_update(edge, total, p, (0,))
    wide = release_sizes(4, length=1, bound=1e12)
    with pytest.raises(ProtocolError, match="mean update leaves"):
        apply_update(edge, total, wide, (0,))


def test_this_machine_passes_the_float_check():
    check_float_mode()


def test_flush_to_zero_is_refused():
    torch = pytest.importorskip("torch", reason="torch sets the processor's flag")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormals to zero")
    try:
        with pytest.raises(ConfigError, match="flushes subnormal"):
            check_float_mode()
        with pytest.raises(ConfigError, match="flushes subnormal"):
            apply_update(golden_state(), np.zeros(14, np.int32), params(), (0, 1, 2))
    finally:
        torch.set_flush_denormal(False)


def test_a_state_is_hashed_once_and_read_where_it_lies(monkeypatch):
    state = golden_state()
    calls = []
    real = update.digest
    monkeypatch.setattr(update, "digest", lambda *a: calls.append(1) or real(*a))
    assert state.digest() == state.digest()
    assert len(calls) == 1
    head, values = state.parts()
    assert head + bytes(values) == state.to_bytes()
    assert np.shares_memory(np.frombuffer(values, np.int64), state.values)
    data = bytearray(state.to_bytes())
    again = GridState.from_bytes(data)
    assert np.shares_memory(again.values, np.frombuffer(data, np.uint8))
    assert not again.values.flags.writeable


def test_flush_to_zero_in_a_thread_of_the_update_is_refused(monkeypatch):
    """Every thread that rounds looks at its own flags."""
    seen = []
    monkeypatch.setattr(update, "check_float_mode", lambda: seen.append(1))
    apply_update(golden_state(), np.zeros(14, np.int32), params(), (0, 1, 2))
    assert seen
