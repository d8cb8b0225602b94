"""A plan's fraction of the silos, as its charter has it, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fedit_secure.cli.charter_facts import charter_facts
from fedit_secure.cli.runs import _last_round
from fedit_secure.cli.standing import _drawn_for
from fedit_secure.errors import ConfigError, PlanMisfit, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.participation import silos_per_round
from fedit_secure.federation.policy import Policy, check_terms
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.storage.progress import Progress


@pytest.mark.parametrize(
    ("fraction", "silos", "drawn"),
    [
        (0.6, 5, 3), (0.61, 5, 4), (0.75, 4, 3), (0.5, 10, 5), (0.07, 100, 7),
        (0.14, 50, 7), (0.55, 20, 11), (1.0, 4, None), (0.99, 4, None), (0.76, 4, None),
    ],
)  # fmt: skip
def test_a_fraction_is_rounded_up_as_it_is_written(fraction, silos, drawn):
    """In binary 0.07 of 100 and 0.55 of 20 are a little more than 7 and 11."""
    assert silos_per_round(fraction, silos, 1, 0) == drawn


def test_who_may_collude_stays_and_the_rest_is_the_cohorts():
    """c follows from the roster: all that collude may be drawn for one round. t, m_min and
    the range of a coordinate follow from the cohort."""
    sizes = release_sizes(10, drawn=5, length=1000, bound=1.0)
    assert (sizes.silos, sizes.corrupt, sizes.threshold, sizes.minimum) == (5, 3, 5, 5)
    assert release_sizes(10, drawn=8, length=1000, bound=1.0).minimum == 6
    assert sizes.magnitude == (2**23 - 1) // 5
    assert sizes.weights == (1,) * 10
    for silos in range(4, 60):
        for drawn in range(3, silos):
            corrupt = max(1, (silos - 1) // 3)
            if drawn < corrupt + 2:
                with pytest.raises(ValueError, match="c <= N - 2"):
                    release_sizes(silos, drawn=drawn, length=10, bound=1.0)
                with pytest.raises(PlanMisfit):
                    silos_per_round((drawn - 0.5) / silos, silos, None, 0)
                continue
            sizes = release_sizes(silos, drawn=drawn, length=10, bound=1.0)
            t, c = sizes.threshold, sizes.corrupt
            assert c == corrupt
            assert 2 * t > drawn + c
            assert max(3, c + 2) <= t <= sizes.minimum <= drawn


def test_the_charter_of_a_plan_with_it(make_plan, make_charter, cards, charter):
    some = make_charter(make_plan(participation=0.75), cards)
    assert some.silos_per_round == 3
    assert b'"silos_per_round": 3' in some.to_bytes()
    assert Charter.from_bytes(some.to_bytes(), "it") == some
    params = some.secagg_params()
    assert (params.silos, params.corrupt, params.threshold, params.minimum) == (
        3,
        1,
        3,
        3,
    )
    # Nobody is promised anything for being left out: the plan's noise and charges stay.
    for row, whole in zip(some.roster, charter.roster, strict=True):
        assert row.dp == whole.dp
        assert some.plan_for(row.name) == charter.plan_for(row.name)


def test_all_silos_leave_no_trace_in_the_charter(
    make_plan, make_charter, cards, charter
):
    for fraction in (1, 0.9):
        made = make_charter(make_plan(participation=fraction), cards)
        assert made.digest() == charter.digest()
    assert b"silos_per_round" not in charter.to_bytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"participation": 0.5},
         "'participation' draws 2 of 4 silos a round, and 1 may collude"),
        ({"participation": 0.75, "secagg": {"corrupt": 2}},
         "a round then needs 4 at least"),
        ({"participation": 0.75, "secagg": {"minimum": 4}},
         "draws 3 of 4 silos a round, and its 'secagg.minimum' asks for 4 in a sum"),
        ({"participation": 0.5, "secagg": {"corrupt": 0, "allow_pair": True}},
         "a round then needs 3 at least"),
    ],
)  # fmt: skip
def test_a_fraction_that_makes_no_sum(make_plan, make_charter, cards, changes, why):
    with pytest.raises(PlanMisfit, match=why) as caught:
        make_charter(make_plan(**changes), cards)
    assert caught.value.field == "participation"
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, "half", float("nan")])
def test_no_fraction(make_plan, fraction):
    with pytest.raises(ValidationError, match="participation"):
        make_plan(participation=fraction)


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        (2, "silos_per_round"),
        (4, "silos_per_round is left out where all silos take part"),
        (5, "silos_per_round is left out where all silos take part"),
    ],
)
def test_a_charter_that_draws_too_few_or_all(
    make_plan, make_charter, cards, drawn, why
):
    some = make_charter(make_plan(participation=0.75), cards)
    data = some.to_bytes().replace(
        b'"silos_per_round": 3', f'"silos_per_round": {drawn}'.encode()
    )
    with pytest.raises(ConfigError, match=why):
        Charter.from_bytes(data, "it")


def test_a_silos_own_minimum_is_of_the_cohort(make_plan, make_charter, cards):
    """The roster has four silos; a sum of three is one of three."""
    some = make_charter(make_plan(participation=0.75), cards)
    policy = Policy(epsilon=8, delta=1e-6, tell_record_count=True)
    check_terms(some, "clinic-a", policy)
    strict = policy.model_copy(update={"minimum_silos": 4})
    with pytest.raises(PolicyRefusal) as refused:
        check_terms(some, "clinic-a", strict)
    assert str(refused.value) == (
        "the charter lets 3 silos make a sum, of 3 a round, and this silo's policy asks "
        "for at least 4 (minimum_silos)"
    )


def test_an_operator_reads_it_in_the_charter(make_plan, make_charter, cards, charter):
    some = make_charter(make_plan(participation=0.75), cards)
    said = charter_facts(some)["secure_sum"]
    assert said.startswith(
        "4 silos, 3 of them drawn for each round, 1 may be corrupt, 3 "
    )
    assert charter_facts(charter)["secure_sum"].startswith("4 silos, 1 may be corrupt")


def test_an_aggregator_says_for_whom_a_round_is_drawn(make_plan, make_charter, cards):
    some = make_charter(make_plan(participation=0.75), cards)
    cohorts = Cohorts(some)
    assert _drawn_for(some, None) == list(cohorts.names(1))
    assert _drawn_for(some, Progress(round=3, certified=2)) == list(cohorts.names(3))
    assert _drawn_for(some, Progress(round=4, certified=3)) is None


def test_a_silos_run_is_over_with_its_last_drawn_round(make_plan, make_charter, cards):
    some = make_charter(make_plan(participation=0.75, rounds=6), cards)
    cohorts = Cohorts(some)
    for row in some.roster:
        mine = [n for n in range(1, 7) if row.name in cohorts.names(n)]
        assert _last_round(some, row.name) == max(mine, default=0)
    assert _last_round(some, "stranger") == 0
