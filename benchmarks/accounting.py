"""Epsilon over a fixed grid of plans, by every accountant, and how long each takes.

    python benchmarks/accounting.py [--quick]

Claims, over all plans that have an epsilon stated, at least 200 of them: PLD and PRV are
at most 0.02 apart (`max_gap`), RDP is never below PLD (`rdp_below_pld`), and without
sampling PLD is within 1e-3 of the closed form. The others are counted by the reason that
an accountant gives; RDP's bound is what their records would have spent.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

import dp_accounting as dpa
from _record import arguments, report

from fedit_secure.privacy import prv
from fedit_secure.privacy.accountant import (
    MAX_GAP,
    Epsilons,
    PrivacyAccountingError,
    require_reach,
)
from fedit_secure.privacy.mechanisms import Mechanism
from fedit_secure.privacy.pld import pld_epsilon
from fedit_secure.privacy.renyi import divergences, rdp_epsilon

RATES = (0.001, 0.01, 0.05, 0.2, 0.5, 1.0)
NOISE = (0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
STEPS = (1, 10, 100, 1000, 20_000)
DELTAS = (1e-5, 1e-7)
QUICK = (RATES[::2] + RATES[-1:], NOISE[::2], STEPS[::2], DELTAS)
CLAIMS = {
    "max_gap": (MAX_GAP, False),
    "rdp_below_pld": (0, False),
    "closed_form_gap": (1e-3, False),
    "stated_plans": (200, True),
}


class Grid:
    """The figures of every plan asked so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"pld": [], "prv": [], "rdp": []}
        self.refused: Counter[str] = Counter()
        self.gaps: list[float] = []
        self.margins: list[float] = []
        self.closed_form_gaps: list[float] = []

    def ask(self, plan: Mechanism, delta: float) -> None:
        """Ask every accountant what a plan costs; keep what it says and how long it took."""
        divergences.cache_clear()
        rdp = self._timed("rdp", lambda: rdp_epsilon((plan,), delta))
        try:
            require_reach((plan,), delta)
            by_prv = self._timed("prv", lambda: prv.epsilon((plan,), delta))
            by_pld = self._timed("pld", lambda: pld_epsilon((plan,), delta))
        except PrivacyAccountingError as error:
            self.refused[_reason(str(error))] += 1
            return
        if not Epsilons(by_pld, by_prv, rdp).agreed:
            print(f"{plan} at {delta:g}: PLD {by_pld}, PRV {by_prv}, RDP {rdp}")
        self.gaps.append(abs(by_prv - by_pld))
        self.margins.append(rdp - by_pld)
        if plan.sample_rate == 1:
            sigma = plan.noise_multiplier / math.sqrt(plan.steps)
            exact = dpa.get_epsilon_gaussian(sigma, delta)
            self.closed_form_gaps.append(abs(by_pld - exact))

    def _timed(self, name: str, work: Callable[[], float]) -> float:
        begin = time.perf_counter()
        found = work()
        self.seconds[name].append(time.perf_counter() - begin)
        return found

    def figures(self) -> dict[str, object]:
        """The named results."""
        times = {}
        for name, seconds in self.seconds.items():
            times[f"{name}_seconds_median"] = round(statistics.median(seconds), 4)
            times[f"{name}_seconds_max"] = round(max(seconds), 3)
        return {
            "stated_plans": len(self.gaps),
            "max_gap": round(max(self.gaps), 5),
            "min_gap": round(min(self.gaps), 5),
            "rdp_below_pld": sum(margin < 0 for margin in self.margins),
            "rdp_least_margin": round(min(self.margins), 6),
            "closed_form_gap": round(max(self.closed_form_gaps), 7),
            "out_of_reach": self.refused.total(),
            "out_of_reach_why": dict(self.refused),
            **times,
        }


def _reason(sentence: str) -> str:
    for reason in ("beyond any guarantee", "PRV accountant", "PLD accountant"):
        if reason in sentence:
            return reason
    return sentence


def main() -> None:
    """Ask, print the table and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    axes = QUICK if options.quick else (RATES, NOISE, STEPS, DELTAS)
    grid = Grid()
    grid.ask(Mechanism(0.1, 2.0, 10), 1e-5)  # imports what is imported once
    grid = Grid()
    begin = time.perf_counter()
    for q, sigma, steps, delta in itertools.product(*axes):
        grid.ask(Mechanism(q, sigma, steps), delta)
    figures = grid.figures() | {"seconds": round(time.perf_counter() - begin, 1)}
    failed = []
    for name, value in figures.items():
        least, above = CLAIMS.get(name, (None, False))
        if options.quick and name == "stated_plans":
            least = None  # the quick grid has fewer
        claim = "" if least is None else f"  claim: {'>=' if above else '<='} {least}"
        if least is not None and (value < least if above else value > least):
            failed.append(name)
            claim += "  FAILED"
        print(f"{name:24}{value}{claim}")
    rates, noise, counts, deltas = axes
    report(
        "accounting",
        figures,
        sizes={
            "sample_rates": rates,
            "noise_multipliers": noise,
            "steps": counts,
            "deltas": deltas,
            "plans": math.prod(map(len, axes)),
        },
        packages=("dp-accounting", "numpy", "scipy"),
    )
    if failed:
        sys.exit(f"not held: {', '.join(failed)}")


if __name__ == "__main__":
    main()
