"""A simulation's own server rule is applied as the charter's are."""

from __future__ import annotations

import numpy as np
import pytest
from small_federation import found

from fedit_secure.errors import ConfigError
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import Adaptive, FedAvg, FedAvgM
from fedit_secure.federation.update import apply_update, from_float32, with_moments
from fedit_secure.simulation.own_rule import RuledCharter, own_rule

LAYOUT = (("a", (40,)),)


def moved(rule, rounds=3):
    """The state after some sums."""
    state = with_moments(from_float32(LAYOUT, np.zeros(40, np.float32)), rule)
    params = release_sizes(3, length=40, bound=0.25)
    for round in range(rounds):
        total = np.random.default_rng(round).integers(-999, 999, 40).astype(np.int32)
        state = apply_update(state, total, params, (0, 1, 2), rule)
    return state


@pytest.mark.parametrize(
    "rule", [FedAvg(), FedAvgM(), Adaptive(name="fedyogi", learning_rate=0.01)]
)
def test_a_known_rule_given_as_ones_own_moves_alike(rule):
    assert moved(own_rule(rule)).digest() == moved(rule).digest()


def test_a_function_is_a_rule_without_memory():
    def twice(mean):
        return 2 * mean

    assert own_rule(twice).name == "twice"
    assert own_rule(twice).first(24) == ()
    one, other = moved(own_rule(twice), 1), moved(FedAvg(), 1)
    assert np.abs(one.values - 2 * other.values).max() <= 1
    assert one.layout == other.layout


@pytest.mark.parametrize(
    "wrong", [lambda mean: mean[:-1], lambda mean: [mean, mean], lambda mean: 0.0]
)
def test_a_step_of_another_shape_is_refused(wrong):
    with pytest.raises(ConfigError, match="must return one step of shape"):
        moved(own_rule(wrong))


def test_what_is_no_rule_is_refused():
    with pytest.raises(ConfigError, match="has name, moments, first, step, or is a"):
        own_rule("fedavg")
    renamed = FedAvgM()
    odd = type("Odd", (), {"name": "odd", "moments": ("mine",), "first": renamed.first,
                           "step": renamed.step})()  # fmt: skip
    with pytest.raises(ConfigError, match="moments of server rule 'odd' must be"):
        own_rule(odd)


def test_the_charters_file_stays_what_it_was(tmp_path):
    charter, rule = found(tmp_path, 3).charter, own_rule(FedAvgM())
    ruled = RuledCharter.of(charter, rule)
    assert ruled.digest() == charter.digest()
    assert ruled.server_rule is rule
    assert charter.server_rule == charter.update_rule
    assert ruled.state_length == 2 * charter.state_length
