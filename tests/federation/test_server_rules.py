"""The five server rules, held against scalars in plain Python: equal to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.errors import ProtocolError
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    Adaptive,
    FedAvg,
    FedAvgM,
    UpdateRule,
)
from fedit_secure.federation.update import (
    GridState,
    apply_update,
    to_float32,
    with_moments,
)

GRID = 2.0**24
LAYOUT = (("layer.0.lora_A", (2, 3)), ("layer.0.lora_B", (4, 2)))
PARAMS = release_sizes(4, length=14, bound=0.012, weights=(3, 1, 2, 5))
EVERYBODY = (0, 1, 2, 3)
ADAPTIVE = [
    Adaptive(name=name, learning_rate=0.01)
    for name in ("fedadam", "fedyogi", "fedadagrad")
]
RULES: list[UpdateRule] = [FedAvg(), FedAvgM(learning_rate=0.7), *ADAPTIVE]
GOLDEN = {
    "fedavg": "45b9a92ad6c8bd35c0be53df95038ccad5f158d4cfac42011ad969fb2fad5c45",
    "fedavgm": "2cfb85ba5362b215911875cdeba207a7dadc45a138f4b0fc90479ee3f3342377",
    "fedadam": "ffe6ec06bf1271fffa03741e80641f89cd78c9ee01530ee86ae9bad8a4367f0d",
    "fedyogi": "d96d692d8d168d20d786c2ff1ee7e9799f4115e667a6482e41752ae3bad5f60e",
    "fedadagrad": "9fd1f21ecf1debb4b1d5a6abcfcb5ed7d3c0ac281133f2307aa967e5e550a5c8",
}
by_name = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def adapter() -> GridState:
    values = np.arange(14, dtype=np.int64) * 1_290_000 - (1 << 23)
    names, shapes = zip(*LAYOUT, strict=True)
    return GridState(names, shapes, values)


def total_of(seed: int) -> np.ndarray:
    most = len(EVERYBODY) * PARAMS.magnitude
    return np.random.default_rng(seed).integers(-most, most, 14).astype(np.int32)


def scalar(rule: UpdateRule, x: int, m: int, v: int, delta: float) -> tuple[int, ...]:
    """One coordinate, as the papers write it; Python rounds halves to even too."""
    if isinstance(rule, FedAvg):
        return x + round(delta), m, v
    if isinstance(rule, FedAvgM):
        m = round(m * rule.momentum + delta)
        return x + round(m * rule.learning_rate), m, v
    b1, b2 = rule.betas
    m = round(m * b1 + delta * (1.0 - b1))
    s = delta * delta
    if rule.name == "fedadam":
        v = round(v * b2 + s * (1.0 - b2))
    elif rule.name == "fedyogi":
        v = round(v - s * (1.0 - b2) * float(np.sign(v - s)))
    else:
        v = round(v + s)
    below = math.sqrt(v) + rule.tau * GRID
    return x + round(m * (rule.learning_rate * GRID) / below), m, v


def moments_of(state: GridState, coordinate: int) -> list[int]:
    """Of one coordinate, first and second; 0 where the rule has none."""
    found = dict.fromkeys((FIRST_MOMENT, SECOND_MOMENT), 0)
    for number, name in enumerate(state.names[len(LAYOUT) :], start=1):
        found[name] = int(state.values[14 * number + coordinate])
    return list(found.values())


@by_name
def test_every_round_equals_the_scalar_rule(rule: UpdateRule) -> None:
    state = with_moments(adapter(), rule)
    w = sum(PARAMS.weights)
    factor = ((PARAMS.bound * GRID) * 5.0) / float(PARAMS.magnitude * w)
    for round in range(1, 6):
        total = total_of(round)
        after = apply_update(state, total, PARAMS, EVERYBODY, rule)
        assert after.layout == state.layout
        for i in range(14):
            given = int(state.values[i]), *moments_of(state, i)
            expected = scalar(rule, *given, float(total[i]) * factor)
            assert (int(after.values[i]), *moments_of(after, i)) == expected
        state = after


@by_name
def test_golden_digest_after_five_rounds(rule: UpdateRule) -> None:
    state = with_moments(adapter(), rule)
    for round in range(1, 6):
        total = np.array([(-1) ** i * 7919 * i * round for i in range(14)], np.int32)
        state = apply_update(state, total, PARAMS, (0, 2, 3), rule)
    assert state.digest().hex() == GOLDEN[rule.name]


@given(st.integers(1, 9))
def test_momentum_of_nothing_is_fedavg(seed: int) -> None:
    plain, rule = adapter(), FedAvgM(momentum=0.0)
    state = with_moments(plain, rule)
    for round in range(3):
        total = total_of(10 * seed + round)
        plain = apply_update(plain, total, PARAMS, EVERYBODY)
        state = apply_update(state, total, PARAMS, EVERYBODY, rule)
    np.testing.assert_array_equal(to_float32(state), to_float32(plain))


@pytest.mark.parametrize("rule", ADAPTIVE, ids=lambda rule: rule.name)
def test_adaptive_rules_move_every_coordinate_alike(rule: Adaptive) -> None:
    """Where updates are far above tau, a step is about the rate, whatever their size."""
    state = with_moments(adapter(), rule)
    total = np.full(14, 4 * PARAMS.magnitude, np.int32)
    total[:7] //= 3
    moved = 0
    for _ in range(40):
        after = apply_update(state, total, PARAMS, EVERYBODY, rule)
        moved, state = to_float32(after) - to_float32(state), after
    assert moved[0] / moved[-1] > 0.7
    assert (moved > 0).all()
    assert (moved <= 2 * rule.learning_rate).all()


def test_the_adapter_is_what_leaves_the_state() -> None:
    state = with_moments(adapter(), ADAPTIVE[0])
    assert state.adapter_layout == LAYOUT
    assert state.length == 3 * 14
    np.testing.assert_array_equal(to_float32(state), to_float32(adapter()))


def test_moments_of_an_earlier_run_are_left_behind() -> None:
    rule = FedAvgM()
    used = apply_update(with_moments(adapter(), rule), total_of(1), PARAMS, (0,), rule)
    fresh = with_moments(used, ADAPTIVE[0])
    np.testing.assert_array_equal(to_float32(fresh), to_float32(used))
    assert moments_of(fresh, 3) == [0, round((1e-3 * GRID) ** 2)]


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: rule.name)
def test_a_state_of_another_rule_is_refused(rule: UpdateRule) -> None:
    with pytest.raises(ProtocolError, match=rf"isn't one of the rule {rule.name}"):
        apply_update(adapter(), total_of(1), PARAMS, EVERYBODY, rule)
    with pytest.raises(ProtocolError, match="isn't one of the rule fedavg"):
        apply_update(with_moments(adapter(), rule), total_of(1), PARAMS, EVERYBODY)


def test_what_leaves_the_grid_is_refused() -> None:
    params = release_sizes(4, length=14, bound=50.0)
    total = np.full(14, 4 * params.magnitude, np.int32)
    rule = Adaptive(name="fedadagrad", learning_rate=0.1)
    state = with_moments(adapter(), rule)
    with pytest.raises(ProtocolError, match="leaves the state's grid"):
        apply_update(state, total, params, EVERYBODY, rule)
