"""The sum that a refusal shows."""

from __future__ import annotations

import math

import pytest

from fedit_secure.errors import BudgetExhausted
from fedit_secure.privacy.caps import LIFETIME, PER_RUN, Cap

FILTER = "the Renyi filter of order 6"


def sentence(cap: Cap) -> str:
    with pytest.raises(BudgetExhausted) as caught:
        cap.require()
    assert caught.value.exit_status == 7
    return str(caught.value)


def test_what_is_spent_what_it_costs_what_that_makes_the_cap_and_the_delta() -> None:
    assert sentence(Cap("ward", LIFETIME, 8.0, 1e-6, 5.25, 4.5, 9.125, FILTER)) == (
        "the run would bring the records of 'ward' to epsilon 9.125 in all at delta "
        "1e-06, by the Renyi filter of order 6: it costs 4.5, and 5.25 of the cap of 8 is "
        "spent"
    )
    assert sentence(Cap("ward", "in any 90 days", 4.0, 1e-6, 0.0, 4.5, 4.5)) == (
        "the run would bring the records of 'ward' to epsilon 4.5 in any 90 days at delta "
        "1e-06: it costs 4.5, and 0 of the cap of 4 is spent"
    )
    assert sentence(Cap("ward", PER_RUN, 4.0, 1e-6, 1.0, 4.5, 4.5)) == (
        "the run would cost the records of 'ward' epsilon 4.5 at delta 1e-06, and the cap "
        "is 4 in any one run"
    )


def test_figures_that_are_close_are_told_apart() -> None:
    said = sentence(Cap("ward", PER_RUN, 4.0, 1e-6, 0.0, 4.00001, 4.00001))
    assert "epsilon 4.00001 at" in said
    said = sentence(Cap("ward", LIFETIME, 4.0, 1e-6, 0.0, math.inf, math.inf))
    assert "epsilon inf in all" in said


def test_what_fits() -> None:
    exact = Cap(
        "ward", LIFETIME, 8.0, 1e-6, 5.0, 3.0, 8.0000005
    )  # two machines' rounding
    exact.require()
    assert (exact.fits, exact.left) == (True, 3.0)
    assert not Cap("ward", LIFETIME, 8.0, 1e-6, 5.0, 3.0, 8.000002).fits
    unlimited = Cap("ward", LIFETIME, math.inf, 1e-6, 5.0, 3.0, math.inf)
    assert (unlimited.fits, unlimited.left) == (True, math.inf)
    assert Cap("ward", LIFETIME, 8.0, 1e-6, 9.0).left == 0.0
    assert Cap("ward", LIFETIME, 8.0, 1e-6, 9.0).fits  # no run is asked for
