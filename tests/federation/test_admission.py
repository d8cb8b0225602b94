"""Every cap, and that nothing but the policy loosens the policy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.config import SiloConfig, load_policy, load_silo_config
from fedit_secure.errors import BudgetExhausted, ConfigError, PolicyRefusal
from fedit_secure.federation.admission import Account, Asked, admit
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.ledger import Ledger, Opened
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.renyi import filter_epsilon

ME = "clinic-a"
DELTA, ORDER, DAY = 1e-6, 6.0, 86_400
FIRST, SECOND = "01" * 32, "02" * 32
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.5,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=2,
    spare_charges=1,
    delta=DELTA,
)
COST = PLAN.epsilons().published
ASKED = Asked(PLAN, SECOND)


def policy(**changes):
    fields = {"epsilon": 50.0, "delta": DELTA, "tell_record_count": True}
    return Policy.model_validate(fields | changes)


def ledger_of(*charters: str, cap: float = 50.0) -> Ledger:
    """A ledger with one charge for each charter named."""
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity="ab" * 32,
            population=ME,
            adjacency="zero-out",
            delta=DELTA,
            cap_epsilon=cap,
            filter_order=ORDER,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    for number, charter in enumerate(charters):
        ledger = ledger.reserve(
            PLAN,
            run="run",
            round=1 + charters[:number].count(charter),
            charter=charter,
            state_digest="00" * 32,
            weight=1,
        )
    return ledger


def window(days: int, epsilon: float) -> dict[str, float]:
    return {"days": days, "epsilon": epsilon}


def refusal(account: Account, asked: Asked = ASKED) -> str:
    with pytest.raises(BudgetExhausted) as caught:
        account.require_room(asked)
    assert caught.value.exit_status == 7
    return str(caught.value)


# ------------------------------------------------------------------------------- per run


@pytest.mark.parametrize("ledger", [None, ledger_of(), ledger_of(FIRST, FIRST)])
def test_a_cap_per_run_is_held_against_the_whole_plan(ledger: Ledger | None) -> None:
    fits = Account(ME, policy(epsilon_per_run=COST), ledger)
    fits.require_room(ASKED)
    (per_run,) = [cap for cap in fits.caps(ASKED) if cap.covers == "in any one run"]
    assert (per_run.run, per_run.after, per_run.spent) == (COST, COST, 0)
    said = refusal(Account(ME, policy(epsilon_per_run=COST - 0.1), ledger))
    assert said == (
        f"the run would cost the records of '{ME}' epsilon {COST:.4g} at delta 1e-06, and "
        f"the cap is {COST - 0.1:.4g} in any one run"
    )


def test_a_cap_per_run_that_was_lowered_holds_for_a_run_under_way() -> None:
    account = Account(ME, policy(epsilon_per_run=0.8 * COST), ledger_of(SECOND))
    so_far = epsilons(PLAN.event_of(1), DELTA).published
    assert so_far < 0.8 * COST
    assert account.caps(ASKED)[1].spent == so_far
    refusal(account)


def test_the_difference_to_the_cap_shows_in_the_figures() -> None:
    close = COST - 2e-6
    said = refusal(Account(ME, policy(epsilon_per_run=close), None))
    assert f"{COST:.7g}" in said or f"{COST:.8g}" in said


# ------------------------------------------------------------------------------- windows


def at(day: float, *days: float) -> ChargeTimes:
    """Charges on some days, seen on another."""
    return ChargeTimes(int(day * DAY), tuple(int(d * DAY) for d in days))


def test_a_window_holds_its_charges_and_the_whole_run() -> None:
    ledger = ledger_of(FIRST, FIRST, FIRST)
    times = at(200, 10, 120, 130)  # the first is out of 90 days
    two = Account(ME, policy(windows=[window(90, 40)]), ledger, times)
    (_, cap) = two.caps(ASKED)
    events = [ledger.intents()[0].event()] * 2 + [PLAN.run_event()]
    from dp_accounting import ComposedDpEvent

    needed = filter_epsilon(ComposedDpEvent(events), ORDER, DELTA)
    assert cap.after == needed
    assert cap.counted_by == "the Renyi filter of order 6"
    assert cap.spent == epsilons(PLAN.event_of(2), DELTA).published
    assert cap.covers == "in any 90 days"
    replace(two, policy=policy(windows=[window(90, needed)])).require_room(ASKED)
    tight = replace(two, policy=policy(windows=[window(90, needed - 0.01)]))
    said = refusal(tight)
    for part in (
        f"bring the records of '{ME}' to epsilon {needed:.4g} in any 90 days at delta",
        "1e-06, by the Renyi filter of order 6",
        f"it costs {COST:.4g}, and {cap.spent:.4g} of the cap of {needed - 0.01:.4g}",
    ):
        assert part in said
    # When the other two are out of the window, the run is alone in it.
    later = replace(tight, times=at(230, 10, 120, 130))
    later.require_room(ASKED)
    assert later.caps(ASKED)[1].after == COST


def test_every_window_counts_and_the_shortest_may_decide() -> None:
    ledger, times = ledger_of(FIRST), at(200, 180)
    both = policy(windows=[window(365, 40), window(30, COST)])
    assert "in any 30 days" in refusal(Account(ME, both, ledger, times))
    Account(ME, both, ledger, at(220, 180)).require_room(ASKED)


def test_a_run_alone_in_its_window_is_counted_as_its_plan() -> None:
    ledger = ledger_of(SECOND, SECOND)
    exact = policy(windows=[window(90, COST)])
    Account(ME, exact, ledger, at(3, 1, 2)).require_room(ASKED)
    # Its charges that are out of the window need no room there any more.
    caps = Account(ME, exact, ledger, at(95, 1, 94)).caps(ASKED)
    assert caps[1].after == epsilons(PLAN.event_of(2), DELTA).published


def test_charges_without_a_time_are_in_every_window() -> None:
    tight = policy(windows=[window(1, COST)])
    account = Account(ME, tight, ledger_of(FIRST), ChargeTimes(10**9))
    assert "in any one day" in refusal(account)


def test_before_the_first_charter_a_window_holds_the_run_alone() -> None:
    Account(ME, policy(windows=[window(1, COST)]), None).require_room(ASKED)
    assert "in any one day" in refusal(
        Account(ME, policy(windows=[window(1, COST - 0.1)]), None)
    )


def test_records_used_without_dp_leave_a_window_no_room() -> None:
    none = replace(PLAN, kind="none", noise_multiplier=0.0)
    used = ledger_of().reserve(
        none, run="bare", round=1, charter=FIRST, state_digest="00" * 32, weight=1,
        allow_without_dp=True,
    )  # fmt: skip
    (_, cap) = Account(ME, policy(windows=[window(9, 4)]), used, at(3, 1)).caps(ASKED)
    assert (cap.spent, cap.after) == (math.inf, math.inf)


# ------------------------------------------------------------------- nothing is loosened


def test_the_lower_of_two_lifetime_caps_counts() -> None:
    for own, of_policy in ((COST - 0.1, 50.0), (50.0, COST - 0.1)):
        account = Account(ME, policy(epsilon=of_policy), ledger_of(cap=own))
        assert account.lifetime_limit == COST - 0.1
        assert "0 of the cap of" in refusal(account)


LOOSE = {
    "epsilon": 50.0,
    "delta": DELTA,
    "epsilon_per_run": 40.0,
    "windows": [window(30, 40.0), window(365, 45.0)],
    "minimum_silos": 2,
    "max_local_steps": 1000,
    "tell_record_count": True,
    "allow_pair": True,
    "allow_without_dp": False,
}
TIGHTER = st.fixed_dictionaries(
    {},
    optional={
        "epsilon": st.floats(0.5, 50),
        "delta": st.floats(1e-9, DELTA),
        "epsilon_per_run": st.floats(0.5, 40),
        "windows": st.lists(
            st.builds(window, st.integers(1, 400), st.floats(0.5, 50)),
            max_size=3,
            unique_by=lambda w: w["days"],
        ).map(lambda more: [*LOOSE["windows"], *more][:3]),
        "minimum_silos": st.integers(2, 6),
        "max_local_steps": st.integers(1, 20),
        "tell_record_count": st.booleans(),
        "require_person_unit": st.booleans(),
        "allowed_base_models": st.sampled_from(["any", ["ab" * 32], ["cd" * 32]]),
    },
)


def admitted(charter: Charter, fields: dict, ledger: Ledger | None) -> bool:
    try:
        admit(charter, ME, Account(ME, Policy.model_validate(fields), ledger))
    except PolicyRefusal:
        return False
    return True


@settings(max_examples=40, deadline=None)
@given(TIGHTER, st.sampled_from([None, ledger_of(), ledger_of(FIRST)]))
def test_whatever_is_tightened_never_admits_more(charter, tighter, ledger) -> None:
    """And what is admitted keeps to every field of the policy, whatever the charter says."""
    fields = LOOSE | tighter
    if len({w["days"] for w in fields["windows"]}) < len(fields["windows"]):
        return
    if not admitted(charter, fields, ledger):
        return
    assert admitted(charter, LOOSE, ledger)
    tight = Policy.model_validate(fields)
    plan = charter.plan_for(ME)
    assert plan.delta <= tight.delta * (1 + 1e-5)
    assert charter.secagg_params().minimum >= tight.minimum_silos
    assert charter.tuning.local_steps <= tight.max_local_steps
    assert tight.tell_record_count
    assert not tight.require_person_unit
    delta = DELTA if ledger is not None else tight.delta
    cost = epsilons(plan.run_event(), delta).published - 1e-5
    limits = [tight.epsilon, tight.epsilon_per_run, *(w.epsilon for w in tight.windows)]
    assert cost <= min(limits)


def test_a_charter_that_claims_more_gets_no_more(charter) -> None:
    """It can name any epsilon, as many spares, and whatever else: the cost is computed."""
    own = policy(epsilon_per_run=4.0)
    dp = charter.dp.model_copy(update={"epsilon": 1e6})
    with pytest.raises(BudgetExhausted, match="the cap is 4 in any one run"):
        admit(charter.model_copy(update={"dp": dp}), ME, Account(ME, own, None))


def test_neither_silo_yaml_nor_the_environment_speaks_for_the_policy(
    tmp_path, monkeypatch
) -> None:
    assert not set(Policy.model_fields) & set(SiloConfig.model_fields)
    text = (
        "name: a\nidentity: i\nstate: s\ncharter: c\napproval: a\npolicy: policy.yaml\n"
        "model: m\ndata: {path: ./d.jsonl}\n"
    )
    (tmp_path / "silo.yaml").write_text(text)
    (tmp_path / "policy.yaml").write_text("epsilon: 2\ndelta: 1e-6\n")
    for field in Policy.model_fields:
        (tmp_path / "more.yaml").write_text(f"{text}{field}: 100\n")
        with pytest.raises(ConfigError, match=f"the key '{field}' is unknown"):
            load_silo_config(tmp_path / "more.yaml")
        monkeypatch.setenv(f"FEDIT_{field.upper()}", "100")
        with pytest.raises(ConfigError, match="is unknown"):
            load_silo_config(tmp_path / "silo.yaml")
        monkeypatch.delenv(f"FEDIT_{field.upper()}")
    monkeypatch.setenv("FEDIT_POLICY__EPSILON", "100")
    with pytest.raises(ConfigError, match="policy"):
        load_silo_config(tmp_path / "silo.yaml")
    assert load_policy(tmp_path / "policy.yaml").epsilon == 2
