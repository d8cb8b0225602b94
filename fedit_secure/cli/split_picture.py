"""A picture of who holds what: a bar a silo, a colour a label."""

from __future__ import annotations

from pathlib import Path

from fedit_secure.cli.splitting import Split, counts, most_common

# On a ground of its own, so that it reads the same on light and dark pages.
_GROUND, _INK, _OTHERS = "#ffffff", "#1f2328", "#afb8c1"


def draw_split(split: Split, path: Path) -> None:
    """Writes it; `budget_picture.require_drawable` says whether that can be done."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    held, shown = counts(split), most_common(split)
    silos = list(held)
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(silos)), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab10"]
    ends = [0] * len(silos)
    for number, label in enumerate([*shown, None]):
        parts = [
            held[silo][label]
            if label is not None
            else held[silo].total() - sum(held[silo][each] for each in shown)
            for silo in silos
        ]
        if not any(parts):
            continue
        colour = _OTHERS if label is None else colours(number)
        # A label may begin with "_", which a legend would leave out.
        said = "(others)" if label is None else f"\N{ZERO WIDTH SPACE}{label[:40]}"
        axes.barh(silos, parts, left=ends, label=said, color=colour, height=0.7)
        ends = [end + part for end, part in zip(ends, parts, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("rows", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, labelcolor=_INK)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context({"svg.hashsalt": "fedit"}):
        figure.savefig(path, facecolor=_GROUND, metadata=metadata)
