"""Pictures for the report: inline SVG by matplotlib, on a white ground of their own."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from fedit_secure.audit.facts import Audit, SiloFacts

_GROUND, _INK, _GRID, _CAP = "#ffffff", "#1f2328", "#d8dee4", "#b3261e"
# Apart in lightness too, so that they differ in grey: for lines, from dark to light.
_LINES = ("#0b3d91", "#b45309", "#6b7280", "#0f766e", "#9d174d", "#7c8a00")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
_OUT, _IN, _SKIPPED, _UNKNOWN = "#ffffff", "#0b3d91", "#c9ced6", "#f3b6b1"
_NAMED = 6  # curves that get a colour and a label of their own
_WIDTH = 4.6  # inches: still readable on a phone


def curves_picture(silos: Sequence[SiloFacts]) -> str | None:
    """Epsilon after every charge, and the caps; None where nothing is bounded or charged.

    Silos with the same curve share a line. Of more than six different ones, the costliest
    have a label; the others are grey.
    """
    lines = _distinct(silos)
    if not lines:
        return None
    figure, axes = _figure(3.3)
    for n, (points, names) in enumerate(lines):
        x, y = zip(*points, strict=True)
        style: dict[str, Any] = {"color": _GRID, "lw": 1, "zorder": 1}
        if n < _NAMED:
            style = {"color": _LINES[n], "ls": _DASHES[n], "lw": 2, "zorder": 3}
            style["label"] = f"{_who(names)}: {y[-1]:.3g}"
        axes.plot(x, y, **style)
    caps = sorted({silo.cap for silo in silos if silo.cap is not None})
    for cap in caps[:3]:
        axes.axhline(cap, color=_CAP, lw=1.5, label=f"cap: {cap:.3g}")
    heights = [y for points, _ in lines for _, y in points] + caps[:3]
    axes.set_ylim(0, max(*heights, 1e-3) * 1.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("charges to the ledger", color=_INK)
    axes.set_ylabel("ε so far", color=_INK)
    axes.grid(color=_GRID, lw=0.8)
    _whole_numbers(axes.xaxis)
    columns = 2 if len(lines) + len(caps) > 1 else 1
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, labelcolor=_INK
    )
    return _svg(figure)


def sums_picture(audit: Audit) -> str | None:
    """Which silo is in which round's sum: silos down, rounds across; None for no round."""
    if not audit.rounds or not audit.silos:
        return None
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    names = [silo.name for silo in audit.silos]
    place = {name: row for row, name in enumerate(names)}
    cells = [[0] * len(audit.rounds) for _ in names]
    for column, ended in enumerate(audit.rounds):
        kind = {"released": 0, "skipped": 2}.get(ended.outcome, 3)
        for row in range(len(names)):
            cells[row][column] = kind
        for name in ended.contributors:
            if name in place:
                cells[place[name]][column] = 1
    figure, axes = _figure(min(6.0, 1.3 + 0.22 * len(names)))
    colours = [_OUT, _IN, _SKIPPED, _UNKNOWN]
    last = len(audit.rounds) + 0.5
    axes.imshow(
        cells,
        cmap=ListedColormap(colours),
        norm=BoundaryNorm([-0.5, 0.5, 1.5, 2.5, 3.5], 4),
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, last, len(names) - 0.5, -0.5),
    )
    if len(names) <= 25:
        axes.set_yticks(range(len(names)), names)
        axes.set_yticks([y + 0.5 for y in range(len(names) - 1)], minor=True)
        axes.grid(which="minor", axis="y", color=_GROUND, lw=2)
    else:
        axes.set_ylabel(f"{len(names)} silos, in the charter's order", color=_INK)
        axes.set_yticks([])
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("round", color=_INK)
    _whole_numbers(axes.xaxis)
    told = {cell for row in cells for cell in row}
    words = ("not in the sum", "in the sum", "round skipped", "not known")
    patches = [
        Patch(facecolor=colours[n], edgecolor=_INK, lw=0.6, label=words[n])
        for n in sorted(told)
    ]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=2, frameon=False,
        labelcolor=_INK,
    )  # fmt: skip
    return _svg(figure)


def _distinct(
    silos: Sequence[SiloFacts],
) -> list[tuple[tuple[tuple[int, float], ...], list[str]]]:
    """Curves and whose they are, the costliest first; without those that are unbounded."""
    found: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for silo in silos:
        if len(silo.curve) > 1 and all(math.isfinite(y) for _, y in silo.curve):
            found.setdefault(silo.curve, []).append(silo.name)
    return sorted(found.items(), key=lambda line: -line[0][-1][1])


def _who(names: Sequence[str]) -> str:
    together = ", ".join(names)
    return together if len(together) <= 28 else f"{len(names)} silos"


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor=_GROUND)
    axes = figure.add_subplot(facecolor=_GROUND)
    axes.tick_params(colors=_INK)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(_INK)
    return figure, axes


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _svg(figure: Any) -> str:
    """The picture's <svg> element, without the XML around it, and the same each time."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fedit", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", facecolor=_GROUND, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # Two pictures on one page must not share ids: the later would take the earlier's.
    mark = f"p{crc32(text.encode()):x}-"
    text = re.sub(r'\bid="', f'id="{mark}', text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{mark}', text)
    text = re.sub(r"url\(#", f"url(#{mark}", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
