"""A picture of a privacy budget: what was spent charge by charge, a plan, and every cap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedit_secure.cli.spending import epsilon_of, spending, spread
from fedit_secure.errors import ConfigError
from fedit_secure.federation.admission import Account
from fedit_secure.privacy.caps import Cap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedit_secure.cli.planned import PlannedRun

_MOST_POINTS = 16  # of each curve: every one is a whole accounting

# On a ground of its own, so that it reads the same on light and dark pages.
_GROUND, _INK, _GRID = "#ffffff", "#1f2328", "#d8dee4"
_SPENT, _ROUNDS, _SPARES, _CAP = "#0550ae", "#bc4c00", "#8250df", "#cf222e"

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Budget:
    """What to draw: (charges, epsilon) of each part, the first of a part the last before.

    `caps`: every one, the lifetime's first. `counted`: what the ledger counts at the end,
    where a filter decides; else None.
    """

    caps: tuple[Cap, ...]
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


def spent_budget(account: Account) -> Budget:
    """What is spent by a silo's ledger. Raises ConfigError while nobody set a delta."""
    delta = account.delta()
    if delta is None:
        raise ConfigError(
            "nothing is spent, and the policy names no delta: there is nothing to draw"
        )
    return Budget(account.caps(), _spent(account, delta))


def planned_budget(run: PlannedRun, afterwards: float) -> Budget:
    """What is spent, and the run's rounds and spare charges beyond it."""
    delta = run.delta
    if delta is None or run.plan.kind == "none":
        raise ConfigError("a run without differential privacy has no curve to draw")
    charged = [] if run.ledger is None else list(run.ledger.intents())
    own = run.asked.charged(run.ledger)
    start, end = len(charged), len(charged) + run.left
    spares_from = min(end, start + max(0, run.plan.rounds - own))
    before = [intent.event() for intent in charged]

    def planned(first: int, last: int) -> Curve:
        if last == first:
            return ()
        found = []
        for n in spread(first, last, _MOST_POINTS):
            more = [run.plan.event_of(n - start)] if n > start else []
            found.append((n, epsilon_of([*before, *more], delta)))
        return found

    return Budget(
        run.account.caps(run.asked),
        _spent(run.account, delta),
        planned(start, spares_from),
        planned(spares_from, end),
        afterwards if run.filtered else None,
    )


def draw_budget(budget: Budget, path: Path) -> None:
    """Writes the picture to `path`, in the format of its suffix; replaces a file there.

    The curve against the lifetime cap; below it, where the policy sets other caps, a bar
    for each. Raises ConfigError where records were used without DP, so that nothing is
    bounded.
    """
    curves = (budget.spent, budget.rounds, budget.spares)
    if not all(math.isfinite(y) for curve in curves for _, y in curve):
        raise ConfigError(
            f"the records of {budget.caps[0].population!r} were used without "
            "differential privacy, so there is no curve to draw"
        )
    import matplotlib as mpl
    from matplotlib.figure import Figure

    several = len(budget.caps) > 1
    bars = 0.9 + 0.3 * len(budget.caps) if several else 0.0
    figure = Figure((8, 4.8 + bars), dpi=150, facecolor=_GROUND)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    if several:
        ratios = {"height_ratios": [4.2, bars]}
        upper, lower = figure.subplots(2, 1, gridspec_kw=ratios)
        _draw_bars(lower, budget.caps)
        _dress(lower)
        lower.grid(visible=False, axis="y")
    else:
        upper = figure.subplots()
    _draw_curves(upper, budget)
    _dress(upper)
    figure.legend(
        *upper.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=_INK,
    )
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context({"svg.hashsalt": "fedit"}):
        figure.savefig(path, facecolor=_GROUND, metadata=metadata)


def _draw_curves(axes: Axes, budget: Budget) -> None:
    from matplotlib.ticker import MaxNLocator

    lifetime = budget.caps[0]
    curves = (
        ("spent so far", budget.spent, _SPENT, "-"),
        ("planned rounds", budget.rounds, _ROUNDS, "--"),
        ("spare charges", budget.spares, _SPARES, ":"),
    )
    heights = [y for _, curve, _, _ in curves for _, y in curve]
    for label, curve, colour, line in curves:
        if curve:
            x, y = zip(*curve, strict=True)
            axes.plot(
                x, y, line, color=colour, marker="o", markersize=4, lw=2, clip_on=False,
                label=f"{label}: {y[-1]:.3g}",
            )  # fmt: skip
    end = max(x for _, curve, _, _ in curves for x, _ in curve)
    if budget.counted is not None and math.isfinite(budget.counted):
        heights.append(budget.counted)
        axes.plot(
            end, budget.counted, "D", color=_INK, markersize=7, clip_on=False,
            label=f"counted by the Rényi filter: {budget.counted:.3g}",
        )  # fmt: skip
    if lifetime.limit < math.inf:
        heights.append(lifetime.limit)
        axes.axhline(
            lifetime.limit, color=_CAP, lw=1.5, label=f"cap: {lifetime.limit:.3g}"
        )
    axes.set_xlim(0, max(1, end) * 1.03)
    axes.set_ylim(0, max(*heights, 1e-3) * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("charges to the ledger", color=_INK)
    axes.set_ylabel(_epsilon_at(lifetime.delta), color=_INK)
    axes.set_title(
        f"Privacy budget of {lifetime.population}", color=_INK, parse_math=False
    )


def _draw_bars(axes: Axes, caps: Sequence[Cap]) -> None:
    """A bar a cap, the first on top: what is spent, and what a run would make of it."""
    most = max(
        figure
        for cap in caps
        for figure in (cap.limit, cap.spent, cap.after or 0.0)
        if figure < math.inf
    )
    for row, cap in enumerate(caps):
        after = max(cap.spent, cap.after or 0.0)
        if cap.spent < math.inf:
            axes.barh(row, cap.spent, 0.5, color=_SPENT)
        if cap.spent < after < math.inf:
            axes.barh(row, after - cap.spent, 0.5, left=cap.spent, color=_ROUNDS)
        if cap.limit < math.inf:
            axes.plot([cap.limit] * 2, [row - 0.38, row + 0.38], color=_CAP, lw=2.5)
        of = f" of {cap.limit:.3g}" if cap.limit < math.inf else ""
        axes.annotate(
            f"{after:.3g}{of}", (1.0, row), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", va="center",
            color=_INK if cap.fits else _CAP, fontweight="normal" if cap.fits else "bold",
        )  # fmt: skip
    axes.set_xlim(0, most * 1.03)
    axes.set_ylim(len(caps) - 0.5, -0.5)
    axes.set_yticks(range(len(caps)), [cap.covers for cap in caps])
    axes.tick_params(axis="y", length=0)
    run = "" if caps[0].after is None else " with the whole run,"
    axes.set_xlabel(
        f"{_epsilon_at(caps[0].delta)}: spent,{run} and the cap on it", color=_INK
    )


def _dress(axes: Axes) -> None:
    axes.set_facecolor(_GROUND)
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(_INK)


def _epsilon_at(delta: float) -> str:
    return f"ε at δ = {delta:g}".replace("e-0", "e-")


def _spent(account: Account, delta: float) -> Curve:
    intents = () if account.ledger is None else account.ledger.intents()
    return spending(intents, delta, _MOST_POINTS)
