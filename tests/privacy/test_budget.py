"""What a ledger charges, what that costs, and what it refuses, before any tuning."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import dp_accounting as dpa
import pytest

from fedit_secure.errors import BudgetExhausted, PolicyRefusal, StorageError
from fedit_secure.privacy import accountant, prv
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.accountant import PrivacyAccountingError, epsilons
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.renyi import best_order, filter_epsilon

FIRST, SECOND, THIRD, STATE, DIGEST = (f"{n:064x}" for n in range(1, 6))
DELTA = 1e-6
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.0,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=3,
    spare_charges=1,
    delta=DELTA,
)
COST = PLAN.epsilons().published
NONE = replace(PLAN, kind="none", noise_multiplier=0.0, delta=None)


def opened(cap: float | None = 8.0, adjacency: str = "zero-out") -> pl.Ledger:
    order = best_order(PLAN.run_event(), DELTA, cap or 8.0)
    return pl.Ledger.open(
        pl.Opened(
            silo="north",
            identity="0a" * 32,
            population="ward",
            adjacency=adjacency,  # type: ignore[arg-type]
            delta=DELTA,
            cap_epsilon=cap,
            filter_order=order,
            fingerprints="0b" * 32,
            software="test",
        )
    )


def charge(
    ledger: pl.Ledger,
    round: int,
    charter: str = FIRST,
    plan: DpPlan = PLAN,
    **options: object,
) -> pl.Ledger:
    return ledger.reserve(
        plan,
        run="winter",
        round=round,
        charter=charter,
        state_digest=STATE,
        weight=1,
        **options,  # type: ignore[arg-type]
    )


def naive_epsilon(entries: tuple[bytes, ...]) -> float:
    """dp-accounting on the entries' JSON, without a line of ours."""
    accountant = dpa.pld.PLDAccountant(dpa.NeighboringRelation.REPLACE_SPECIAL)
    for document in map(json.loads, entries):
        if document["kind"] == "intent":
            step = dpa.PoissonSampledDpEvent(
                document["sample_rate"],
                dpa.GaussianDpEvent(document["noise_multiplier"]),
            )
            accountant.compose(dpa.SelfComposedDpEvent(step, document["steps"]))
    return float(accountant.get_epsilon(DELTA))


def test_epsilon_is_recomputed_from_the_bytes_alone() -> None:
    ledger = opened()
    for round in (1, 2, 3, 3):
        ledger = charge(ledger, round)
    spent = ledger.spent()
    assert spent.published == COST
    again = pl.recompute(list(ledger.entries), DELTA)
    assert again.published == pytest.approx(spent.published, abs=1e-6)
    assert naive_epsilon(ledger.entries) == pytest.approx(spent.pld, abs=1e-6)


def test_what_is_spent_is_stated_though_an_accountant_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = charge(opened(), 1)
    exact = ledger.spent()
    monkeypatch.setattr(accountant, "_figures", accountant._figures.__wrapped__)

    def beyond(*arguments: object) -> float:
        raise PrivacyAccountingError("out of reach")

    monkeypatch.setattr(prv, "epsilon", beyond)
    spent = ledger.spent()
    assert (spent.pld, spent.prv) == (None, None)
    assert spent.published == spent.rdp == exact.rdp > exact.published
    assert pl.recompute(ledger.entries, DELTA) == spent
    with pytest.raises(PrivacyAccountingError, match="out of reach"):
        ledger.would_cost(PLAN, charter=FIRST)


def test_recomputing_refuses_bytes_that_are_no_ledger() -> None:
    ledger = charge(opened(), 1)
    for entries in ([], [b"{}"], ledger.entries[1:], [*ledger.entries, b"{}"]):
        with pytest.raises(pl.LedgerCorrupt):
            pl.recompute(entries, DELTA)


def test_attack_intent_uncharged_by_what_follows() -> None:
    """Aborted, voided, failed, rotated: what was drawn once stays charged."""
    ledger = charge(opened(), 1)
    before = ledger.spent()
    assert before.published > 0
    for event in (
        pl.Aborted(charter=FIRST, round=1, reason="tuning-failed"),
        pl.Voided(ctx=DIGEST),
        pl.DataVersion(old=DIGEST, new=STATE),
        pl.KeyRotated(old="0a" * 32, new="0c" * 32, signature="0" * 128),
        pl.CapChanged(cap_epsilon=9.0, reason="trial", signature="0" * 128),
        pl.AuditRun(
            records="synthetic",
            data_digest=DIGEST,
            sample_rate=1.0,
            noise_multiplier=1.5,
            clip=1.0,
            expected_batch=100,
            steps=1,
        ),
    ):
        ledger = ledger.append(event)
        assert ledger.spent() == before
    again = charge(ledger, 1)  # tuning once more is a second charge
    assert again.spent() == epsilons(PLAN.event_of(2), DELTA)
    assert again.spent().published > before.published


def test_attack_a_release_uncharges_what_brought_none() -> None:
    """Round 1 was drawn and lost: it stays charged beside the round that came out."""
    ledger = charge(charge(opened(), 1), 2)
    ledger = ledger.append(
        pl.Released(charter=FIRST, round=2, release_digest=DIGEST, state_digest=STATE)
    )
    assert ledger.spent() == epsilons(PLAN.event_of(2), DELTA)


def test_an_unopened_budget_is_whole() -> None:
    ledger = opened()
    assert ledger.spent().published == 0
    assert ledger.lost_charges(FIRST) == 0
    assert not ledger.has_intent(FIRST, 1)
    assert (ledger.delta, ledger.cap_epsilon) == (DELTA, 8.0)


def test_an_intent_says_what_the_step_does() -> None:
    intent = charge(opened(), 2).intents(FIRST)[0]
    arguments = PLAN.step_arguments()
    assert intent.event() == PLAN.round_event()
    assert (intent.sample_rate, intent.noise_multiplier, intent.clip) == (
        arguments.sample_rate,
        arguments.noise_multiplier,
        arguments.clip,
    )
    assert (intent.steps, intent.charges) == (arguments.steps, PLAN.charges)
    assert (intent.expected_batch, intent.round) == (arguments.expected_batch, 2)


# ---------------------------------------------------------------------------- first charter


def test_the_first_charter_is_held_to_its_whole_plan_before_it_begins() -> None:
    assert opened().would_cost(PLAN) == COST
    assert opened().would_cost(PLAN, charter=FIRST) == COST
    for cap in (COST, COST + 1):
        charge(opened(cap), 1)
    ledger = opened(COST - 0.01)
    with pytest.raises(BudgetExhausted, match=rf"epsilon {COST:.4g} .* 0 of the cap"):
        ledger.require_budget(PLAN)
    with pytest.raises(BudgetExhausted):
        charge(ledger, 1)  # though one round alone would fit
    assert PLAN.epsilons(spares=0).published < COST


def test_a_policy_may_lower_the_cap_and_not_lift_it() -> None:
    with pytest.raises(BudgetExhausted):
        charge(opened(8.0), 1, cap_epsilon=COST - 0.01)
    with pytest.raises(BudgetExhausted):
        charge(opened(COST - 0.01), 1, cap_epsilon=8.0)
    charge(opened(8.0), 1, cap_epsilon=COST)


def test_only_a_signed_entry_lifts_the_cap() -> None:
    ledger = opened(COST - 0.01).append(
        pl.CapChanged(cap_epsilon=COST, reason="board, 2 May", signature="0" * 128)
    )
    assert ledger.cap_epsilon == COST
    assert len(charge(ledger, 1).intents()) == 1


def test_a_charter_has_its_charges_and_no_more() -> None:
    ledger = opened(100.0)
    for round in (1, 2, 3, 3):
        ledger = charge(ledger, round)
    with pytest.raises(BudgetExhausted, match="3 rounds and 1 spare charges"):
        charge(ledger, 3)


def test_lost_charges_are_limited() -> None:
    ledger = charge(charge(opened(), 1), 1)
    assert ledger.lost_charges(FIRST) == 2
    with pytest.raises(BudgetExhausted, match="2 charges of run 'winter'"):
        charge(ledger, 2, max_lost_charges=1)
    ledger = ledger.append(
        pl.Released(charter=FIRST, round=1, release_digest=DIGEST, state_digest=STATE)
    )
    assert ledger.lost_charges(FIRST) == 1
    assert len(charge(ledger, 2, max_lost_charges=1).intents()) == 3


@pytest.mark.parametrize(
    "change",
    [{"noise_multiplier": 9.0}, {"local_steps": 1}, {"rounds": 4}, {"clip": 2.0}],
)
def test_attack_plan_changed_within_a_charter(change: dict[str, float]) -> None:
    ledger = charge(opened(100.0), 1)
    with pytest.raises(StorageError, match="one plan"):
        charge(ledger, 2, plan=replace(PLAN, **change))  # type: ignore[arg-type]


def test_rounds_of_a_charter_do_not_go_back() -> None:
    with pytest.raises(StorageError, match="round 1 comes after its round 2"):
        charge(charge(opened(), 2), 1)


def test_public_sizes_need_a_ledger_that_zeroes_out() -> None:
    ledger = opened(adjacency="add-or-remove")
    with pytest.raises(PolicyRefusal, match="public sizes"):
        charge(ledger, 1)
    secret = replace(PLAN, sizes="secret")
    assert charge(ledger, 1, plan=secret).intents()[0].sizes == "secret"
    assert charge(opened(), 1, plan=secret).spent() == charge(opened(), 1).spent()


# ---------------------------------------------------------------------------- later charters


def test_a_later_charter_is_held_to_the_filter_over_everything() -> None:
    ledger = charge(opened(20.0), 1)
    order = ledger.opened.filter_order
    both = dpa.ComposedDpEvent([PLAN.run_event(), PLAN.run_event()])
    needed = filter_epsilon(both, order, DELTA)
    assert ledger.would_cost(PLAN) == needed
    assert ledger.would_cost(PLAN, charter=SECOND) == needed
    assert needed > epsilons(both, DELTA).published
    with pytest.raises(BudgetExhausted):
        charge(ledger, 1, SECOND, cap_epsilon=needed - 0.01)
    assert len(charge(ledger, 1, SECOND, cap_epsilon=needed).intents(SECOND)) == 1


def test_attack_stopping_the_first_charter_early_frees_nothing() -> None:
    """Its plan was admitted whole, without the filter: it is counted whole for ever."""
    ledger = charge(opened(COST), 1)
    small = replace(PLAN, noise_multiplier=20.0, local_steps=1, rounds=1)
    little = dpa.ComposedDpEvent([PLAN.round_event(), small.run_event()])
    assert filter_epsilon(little, ledger.opened.filter_order, DELTA) < COST
    with pytest.raises(BudgetExhausted):
        charge(ledger, 1, SECOND, plan=small)
    # The first charter itself goes on to its planned end.
    for round in (2, 3, 3):
        ledger = charge(ledger, round)
    assert ledger.spent().published == COST


def test_attack_alternating_charters_to_pass_the_cap() -> None:
    cap = 1.5 * COST
    ledger, charters = opened(cap), [f"{100 + n:064x}" for n in range(12)]
    refused = 0
    for round in (1, 2, 3, 3):
        for charter in charters:
            try:
                ledger = charge(ledger, round, charter)
            except BudgetExhausted:
                refused += 1
    assert 2 <= len({intent.charter for intent in ledger.intents()}) < 12
    assert refused == 12 * 4 - len(ledger.intents())
    event, order = ledger.charged_event(), ledger.opened.filter_order
    assert ledger.spent().published <= filter_epsilon(event, order, DELTA) <= cap


def test_a_resumed_charter_pays_only_for_what_remains() -> None:
    ledger = charge(charge(opened(40.0), 1), 1, SECOND)
    ledger = charge(ledger, 2, SECOND)
    started = ledger.would_cost(PLAN, charter=SECOND)
    assert started == pytest.approx(opened_twice(), abs=1e-9)
    third = ledger.would_cost(PLAN, charter=THIRD)
    assert third > started
    assert ledger.would_cost(PLAN, charter=FIRST) < started


def opened_twice() -> float:
    both = dpa.SelfComposedDpEvent(PLAN.run_event(), 2)
    return filter_epsilon(both, opened(40.0).opened.filter_order, DELTA)


# --------------------------------------------------------------------------------- without DP


def test_without_dp_is_refused_unless_allowed() -> None:
    with pytest.raises(PolicyRefusal, match="without differential privacy") as caught:
        charge(opened(), 1, plan=NONE)
    assert not isinstance(caught.value, BudgetExhausted)


def test_without_dp_the_spend_is_unbounded_for_ever() -> None:
    ledger = charge(opened(), 1, plan=NONE, allow_without_dp=True)
    assert ledger.spent().published == math.inf
    assert pl.recompute(ledger.entries, DELTA).published == math.inf
    assert json.loads(ledger.entries[1])["clip"] is None
    again = charge(ledger, 2, plan=NONE, allow_without_dp=True)
    assert len(again.intents()) == 2
    with pytest.raises(BudgetExhausted, match="inf of the cap of 8"):
        charge(ledger, 1, SECOND)


def test_a_silo_without_a_cap_is_charged_all_the_same() -> None:
    ledger = charge(opened(None), 1)
    assert ledger.cap_epsilon == math.inf
    assert ledger.spent().published > 0
    with pytest.raises(BudgetExhausted):
        charge(opened(None), 1, cap_epsilon=COST - 0.01)
