"""A picture of a privacy budget: what was spent charge by charge, a plan, and the cap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedit_secure.cli.standing import identity_of, ledger_of, population_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.errors import ConfigError
from fedit_secure.privacy.ledger import Ledger

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from fedit_secure.cli.planned import PlannedRun

_MOST_POINTS = 16  # of each curve: every one is a whole accounting

# On a ground of its own, so that it reads the same on light and dark pages.
_GROUND, _INK, _GRID = "#ffffff", "#1f2328", "#d8dee4"
_SPENT, _ROUNDS, _SPARES, _CAP = "#0550ae", "#bc4c00", "#8250df", "#cf222e"

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Budget:
    """What to draw: (charges, epsilon) of each part, the first of a part the last before.

    `counted`: what the ledger counts at the end, where a filter decides; else None.
    """

    population: str
    delta: float
    cap: float
    spent: Curve
    rounds: Curve = ()
    spares: Curve = ()
    counted: float | None = None


def require_drawable(path: Path) -> None:
    """Raises ConfigError for another kind of file, a missing folder or library."""
    if path.suffix not in {".svg", ".png"}:
        raise ConfigError(f"the picture {path} must be a file .svg or .png")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "a picture needs matplotlib; run pip install 'fedit-secure[plots]'"
        )


def spent_budget(config: SiloConfig) -> Budget:
    """What is spent by a silo's ledger. Raises ConfigError while nobody set a delta."""
    population = population_of(identity_of(config))
    policy, ledger = load_policy(config.policy), ledger_of(config, population)
    delta = policy.delta if ledger is None else ledger.delta
    if delta is None:
        raise ConfigError(
            "nothing is spent, and the policy names no delta: there is nothing to draw"
        )
    cap = min(
        math.inf if ledger is None else ledger.cap_epsilon, policy.epsilon or math.inf
    )
    return Budget(population, delta, cap, _spent(ledger, delta))


def planned_budget(run: PlannedRun, afterwards: float) -> Budget:
    """What is spent, and the run's rounds and spare charges beyond it."""
    delta = run.delta
    if delta is None or run.plan.kind == "none":
        raise ConfigError("a run without differential privacy has no curve to draw")
    charged = [] if run.ledger is None else list(run.ledger.intents())
    own = sum(intent.charter == run.charter for intent in charged)
    start, end = len(charged), len(charged) + run.left
    spares_from = min(end, start + max(0, run.plan.rounds - own))
    before = [intent.event() for intent in charged]

    def planned(first: int, last: int) -> Curve:
        if last == first:
            return ()
        found = []
        for n in _points(first, last):
            more = [run.plan.event_of(n - start)] if n > start else []
            found.append((n, _epsilon([*before, *more], delta)))
        return found

    return Budget(
        run.population,
        delta,
        run.cap,
        _spent(run.ledger, delta),
        planned(start, spares_from),
        planned(spares_from, end),
        afterwards if run.filtered else None,
    )


def draw_budget(budget: Budget, path: Path) -> None:
    """Writes the picture to `path`, in the format of its suffix; replaces a file there.

    Raises ConfigError where records were used without DP, so that nothing is bounded.
    """
    curves = (
        ("spent so far", budget.spent, _SPENT, "-"),
        ("planned rounds", budget.rounds, _ROUNDS, "--"),
        ("spare charges", budget.spares, _SPARES, ":"),
    )
    heights = [y for _, curve, _, _ in curves for _, y in curve]
    if not all(map(math.isfinite, heights)):
        raise ConfigError(
            f"the records of {budget.population!r} were used without differential "
            "privacy, so there is no curve to draw"
        )
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained", facecolor=_GROUND)
    axes = figure.add_subplot(facecolor=_GROUND)
    for label, curve, colour, line in curves:
        if curve:
            x, y = zip(*curve, strict=True)
            axes.plot(
                x, y, line, color=colour, marker="o", markersize=4, lw=2,
                label=f"{label}: {y[-1]:.3g}",
            )  # fmt: skip
    end = max(x for _, curve, _, _ in curves for x, _ in curve)
    if budget.counted is not None and math.isfinite(budget.counted):
        heights.append(budget.counted)
        axes.plot(
            end, budget.counted, "D", color=_INK, markersize=7,
            label=f"counted by the Rényi filter: {budget.counted:.3g}",
        )  # fmt: skip
    if budget.cap < math.inf:
        heights.append(budget.cap)
        axes.axhline(budget.cap, color=_CAP, lw=1.5, label=f"cap: {budget.cap:.3g}")
    axes.set_xlim(0, max(1, end) * 1.03)
    axes.set_ylim(0, max(*heights, 1e-3) * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("charges to the ledger", color=_INK)
    delta = f"{budget.delta:g}".replace("e-0", "e-")
    axes.set_ylabel(f"ε at δ = {delta}", color=_INK)
    axes.set_title(
        f"Privacy budget of {budget.population}", color=_INK, parse_math=False
    )
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(_INK)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=_INK)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context({"svg.hashsalt": "fedit"}):
        figure.savefig(path, facecolor=_GROUND, metadata=metadata)


def _spent(ledger: Ledger | None, delta: float) -> Curve:
    events = [] if ledger is None else [intent.event() for intent in ledger.intents()]
    return [(n, _epsilon(events[:n], delta)) for n in _points(0, len(events))]


def _epsilon(events: Sequence[DpEvent], delta: float) -> float:
    from dp_accounting import ComposedDpEvent

    from fedit_secure.privacy.accountant import spent_epsilons

    return spent_epsilons(ComposedDpEvent(events), delta).published


def _points(first: int, last: int) -> list[int]:
    """At most _MOST_POINTS numbers from first to last, both included."""
    steps = min(last - first, _MOST_POINTS - 1)
    if steps < 1:
        return [first]
    return [first + round(i * (last - first) / steps) for i in range(steps + 1)]
