from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from fedit_secure.errors import BudgetExhausted, ConfigError, PolicyRefusal
from fedit_secure.federation.admission import Account
from fedit_secure.federation.admission import admit as admit_to
from fedit_secure.federation.policy import Policy, check_delta, check_terms
from fedit_secure.privacy.ledger import Ledger, Opened
from fedit_secure.privacy.renyi import best_order

ME = "clinic-a"
EQUAL = {"epsilon": 8, "delta": 1e-6, "expected_batch": 32}


def policy(**changes):
    fields = {"epsilon": 8.0, "delta": 1e-6, "tell_record_count": True}
    return Policy(**(fields | changes))


def admit(charter, name, policy, ledger):
    return admit_to(charter, name, Account(name, policy, ledger))


def opened(**changes):
    fields = {
        "silo": ME,
        "identity": "ab" * 32,
        "population": ME,
        "adjacency": "zero-out",
        "delta": 1e-6,
        "cap_epsilon": 8.0,
        "filter_order": 8.0,
        "fingerprints": "cd" * 32,
        "software": "test",
    }
    return Ledger.open(Opened(**(fields | changes)))


def charged(ledger, charter, rounds):
    """The ledger after `rounds` charges of a charter."""
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            charter.plan_for(ME),
            run=charter.run,
            round=number,
            charter=charter.digest().hex(),
            state_digest="00" * 32,
            weight=1,
            allow_without_dp=True,
        )
    return ledger


# --------------------------------------------------------------------------------- terms


def test_what_the_policy_allows_is_admitted(charter):
    check_terms(charter, ME, policy())
    check_terms(
        charter,
        ME,
        policy(minimum_silos=3, allowed_base_models=("ab" * 32,), max_local_steps=8),
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"minimum_silos": 4}, "lets 3 silos make a sum.*at least 4"),
        ({"allowed_base_models": ()}, "isn't among this silo's allowed_base_models"),
        ({"allowed_base_models": ("cd" * 32,)}, "base model 'base'"),
        ({"max_local_steps": 7}, "8 local steps a round.*allows 7"),
        ({"tell_record_count": False}, "doesn't set tell_record_count"),
    ],
)
def test_what_it_does_not_allow_is_refused(charter, changes, why):
    with pytest.raises(PolicyRefusal, match=why) as caught:
        check_terms(charter, ME, policy(**changes))
    assert caught.value.exit_status == 6
    with pytest.raises(PolicyRefusal, match=why):
        admit(charter, ME, policy(**changes), None)


def test_without_dp_only_where_allowed(make_plan, make_charter, cards):
    bare = make_charter(make_plan(dp={"kind": "none", "expected_batch": 64}), cards)
    with pytest.raises(PolicyRefusal, match=r"without differential privacy"):
        admit(bare, ME, policy(), None)
    admitted = admit(bare, ME, policy(allow_without_dp=True), None)
    assert admitted.after == math.inf


def test_a_pair_only_where_allowed(make_plan, make_charter, cards):
    pair = [card for card in cards if card.name in (ME, "clinic-b", "hub")]
    two = make_charter(make_plan(secagg={"allow_pair": True}, dp=EQUAL), pair)
    with pytest.raises(PolicyRefusal, match="federation of two"):
        check_terms(two, ME, policy())
    check_terms(two, ME, policy(allow_pair=True))


def test_an_unknown_silo_is_refused(charter):
    with pytest.raises(PolicyRefusal, match="isn't in the roster"):
        admit(charter, "clinic-x", policy(), None)


def test_a_policy_needs_a_budget_unless_dp_may_be_off():
    with pytest.raises(ValidationError, match="epsilon and delta are needed"):
        Policy()
    with pytest.raises(ValidationError, match="belong together"):
        Policy(epsilon=8)
    assert Policy(allow_without_dp=True).epsilon is None


# --------------------------------------------------------------------------------- delta


def with_dp(charter, **changes):
    """The charter with parts of its DP section replaced, its noise as it was."""
    return charter.model_copy(update={"dp": charter.dp.model_copy(update=changes)})


def test_delta_is_bounded_by_the_records(charter):
    exact = with_dp(charter, delta=1 / 8000)
    check_delta(exact, 800)
    with pytest.raises(PolicyRefusal, match=r"delta 0\.000125 is too large"):
        check_delta(exact, 801)


def test_the_refusal_tells_no_record_count(charter):
    with pytest.raises(PolicyRefusal) as caught:
        check_delta(with_dp(charter, delta=1e-3), 98765)
    assert "98765" not in str(caught.value)


# -------------------------------------------------------------------------------- budget


def test_the_first_charter(charter):
    cost = charter.plan_for(ME).epsilons().published
    for ledger in (None, opened()):
        admitted = admit(charter, ME, policy(), ledger)
        assert admitted.run == pytest.approx(cost)
        assert admitted.after == pytest.approx(cost)
        assert (admitted.spent, admitted.delta) == (0.0, 1e-6)
        assert 7.9 < cost <= 8


@pytest.mark.parametrize("ledger", [None, "opened"])
def test_a_budget_too_small(charter, ledger):
    given = None if ledger is None else opened()
    with pytest.raises(BudgetExhausted, match=r"epsilon 7.9|epsilon 8") as caught:
        admit(charter, ME, policy(epsilon=7.5), given)
    assert caught.value.exit_status == 7


def test_the_ledgers_own_cap_counts_too(charter):
    with pytest.raises(BudgetExhausted):
        admit(charter, ME, policy(epsilon=100.0), opened(cap_epsilon=5.0))


def test_a_second_charter_needs_what_the_first_left(
    charter, make_plan, make_charter, cards
):
    spent = charged(opened(), charter, 3)
    second = make_charter(make_plan(run="second"), cards, predecessor=charter)
    with pytest.raises(BudgetExhausted):
        admit(second, ME, policy(), spent)
    order = best_order(charter.plan_for(ME).run_event(), 1e-6, 40.0)
    rich = opened(cap_epsilon=40.0, filter_order=order)
    admitted = admit(second, ME, policy(epsilon=40.0), charged(rich, charter, 3))
    assert admitted.run < admitted.after <= 40
    assert 0 < admitted.spent < admitted.after


def test_a_run_that_has_begun_costs_no_more_than_its_plan(charter):
    cost = charter.plan_for(ME).epsilons().published
    for rounds in range(5):  # three and a spare charge
        admitted = admit(charter, ME, policy(), charged(opened(), charter, rounds))
        assert admitted.after == pytest.approx(cost)
        if rounds == 4:
            assert admitted.spent == pytest.approx(cost)


def test_records_that_were_used_without_dp_have_no_budget(
    charter, make_plan, make_charter, cards
):
    bare = make_charter(make_plan(dp={"kind": "none", "expected_batch": 64}), cards)
    used = charged(opened(), bare, 1)
    with pytest.raises(BudgetExhausted):
        admit(charter, ME, policy(), used)


def test_a_delta_above_the_policys_is_refused(charter):
    with pytest.raises(PolicyRefusal, match=r"delta is 1e-05, .* at most 1e-06"):
        admit(with_dp(charter, delta=1e-5), ME, policy(), None)


def test_noise_that_misses_the_epsilon_that_the_charter_names(charter):
    with pytest.raises(PolicyRefusal, match=r"names epsilon 7, but its noise .* gives"):
        admit(with_dp(charter, epsilon=7.0), ME, policy(), None)


def test_a_missing_field_is_a_configuration_error(tmp_path):
    from fedit_secure.config import load_policy

    path = tmp_path / "policy.yaml"
    path.write_text("epsilon: 8\n")
    with pytest.raises(ConfigError, match="belong together"):
        load_policy(path)
