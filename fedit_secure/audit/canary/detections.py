"""What each detector of the canary audit looks for, as tests on numbers; no torch.

Every one is a test of a hypothesis: that the build does what it says. It flags where what
was seen has, under that hypothesis, a chance of `ALARM` at most, whatever the build
otherwise is. A detector that passes shows nothing: it failed to find a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.canary.one_run import (
    epsilon_lower_bound,
    gaussian_epsilon_lower_bound,
    gaussian_p_value,
)

ALARM = 1e-6
"""The chance at most that a detector flags a build which does what it says."""

DETECTORS: Final[Mapping[str, str]] = {
    "canary": "guesses from one noised sum who was in it, more often than its noise allows",
    "noise-scale": "the noise's variance isn't that of sigma * C",
    "noise-reuse": "noise of two steps or attempts is correlated",
    "sampling": "batches aren't drawn by independent coins of the plan's rate",
    "clip": "a record or a person moves a sum by another length than C",
    "step-count": "the steps done, told, planned and charged aren't as many",
    "intent": "records are sampled before the charge is durable, or after it was refused",
}
"""Each detector, and what it flags."""

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Figure = float | int | str | None

_ROUNDING = 1e-4  # of a sum, in clips: docs/privacy.md, "Pitfalls"
_GRID = 2.0**-20  # docs/privacy.md, "Noise"
_READING = 2e-6  # float32: what is seen of a sum is an adapter that it moved


@dataclass(frozen=True, slots=True)
class Detection:
    """What one detector found. `figures` are for people, by name."""

    detector: str
    flags: bool
    figures: dict[str, Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"there is no detector {self.detector!r}")

    @property
    def verdict(self) -> str:
        return "flags" if self.flags else "passes"


def canary(
    there: Bools, scores: Float64, *, guesses: int, sigma: float, delta: float
) -> Detection:
    """The one-run audit: the highest scores are guessed in, the lowest out.

    Args:
        there: bool (m,): which canaries were in, each by a fair coin.
        scores: (m,): the released sum along each canary.
        guesses: r, even, fixed before anything was seen.
        sigma: the noise multiplier that one Gaussian release is claimed to have had.
        delta: at which the bounds on epsilon are stated.
    """
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    correct = int(there[order[-half:]].sum() + (~there[order[:half]]).sum())
    game = (len(there), 2 * half, correct)
    p = gaussian_p_value(*game, sigma)
    return Detection(
        "canary",
        p <= ALARM,
        {
            "canaries": game[0],
            "guesses": game[1],
            "correct": correct,
            "epsilon_lower_bound": epsilon_lower_bound(*game, delta),
            "gaussian_epsilon_lower_bound": gaussian_epsilon_lower_bound(*game, delta),
            "p": p,
        },
    )


def noise_scale(
    noise: Float64, dimensions: int, *, sigma: float, coordinates: int
) -> Detection:
    """Two-sided chi-square of the noise's squared length.

    Args:
        noise: (sums, d), in clips: noised sums within a subspace where no record is.
        dimensions: of the subspace.
        sigma: the plan's noise multiplier.
        coordinates: d, which the grid's share of the noise depends on.
    """
    from scipy.stats import chi2

    # As it is documented, not as it is computed: else a wrong formula would agree.
    deviation = sigma * (1.0 + _ROUNDING) * (1.0 + _GRID * coordinates**0.5)
    degrees = len(noise) * dimensions
    squared = float((noise**2).sum())
    seen = squared / deviation**2
    p = 2.0 * min(chi2.sf(seen, degrees), chi2.cdf(seen, degrees))
    return Detection(
        "noise-scale",
        p <= ALARM,
        {
            "sigma_planned": sigma,
            "sigma_measured": (squared / degrees) ** 0.5,
            "p": float(p),
        },
    )


def noise_reuse(groups: Sequence[tuple[Float64, int]]) -> Detection:
    """The largest correlation of any two noise vectors of one group.

    Of two independent Gaussian vectors in n dimensions the squared cosine is Beta(1/2,
    (n-1)/2), exactly. Every pair has its share of the false alarms.

    Args:
        groups: (vectors (k, d), dimensions n that they lie in), k >= 2: of several steps,
            of several attempts.
    """
    from scipy.stats import beta

    least, largest, pairs = 1.0, 0.0, 0
    for vectors, dimensions in groups:
        # A noise of length 0 has no direction; noise-scale says so.
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
        upper = np.triu_indices(len(vectors), k=1)
        cosine = float(np.abs((units @ units.T)[upper]).max())
        p = float(beta.sf(min(1.0, cosine**2), 0.5, (dimensions - 1) / 2))
        pairs += len(upper[0])
        least, largest = min(least, p), max(largest, cosine)
    p = min(1.0, least * pairs)
    figures: dict[str, Figure] = {"pairs": pairs, "largest_correlation": largest}
    return Detection("noise-reuse", p <= ALARM, figures | {"p": p})


def sampling(batches: Bools, *, rate: float) -> Detection:
    """Whether the batches are Poisson samples: four tests, each with its share.

    The total of records drawn, against the rate. The spread of the batches' sizes and
    that of the records' counts, each against a binomial's: a fixed size spreads less,
    records that are favoured spread more. And how many records two adjacent batches
    share: none if records are used up, many if coins are repeated.

    Args:
        batches: bool (steps, records): who was in each.
        rate: q, 0 < q < 1.
    """
    from scipy.stats import binom, chi2, norm

    steps, records = batches.shape
    variance = rate * (1.0 - rate)
    total = int(batches.sum())
    draws = batches.size
    tails = [binom.cdf(total, draws, rate), binom.sf(total - 1, draws, rate)]
    for counts, tries in ((batches.sum(axis=1), records), (batches.sum(axis=0), steps)):
        spread = float(((counts - tries * rate) ** 2).sum() / (tries * variance))
        tails += [chi2.cdf(spread, len(counts)), chi2.sf(spread, len(counts))]
    shared = int((batches[1:] & batches[:-1]).sum())
    mean = records * (steps - 1) * rate**2
    # A record in three batches running counts in two neighbouring overlaps.
    deviation = records * (
        (steps - 1) * (rate**2 - rate**4) + 2 * (steps - 2) * (rate**3 - rate**4)
    )
    tails.append(norm.sf(abs(shared - mean) / deviation**0.5))
    p = min(1.0, 2 * 4 * float(min(tails)))  # two sides of four tests
    sizes = batches.sum(axis=1)
    return Detection(
        "sampling",
        p <= ALARM,
        {
            "mean_batch": float(sizes.mean()),
            "mean_planned": records * rate,
            "variance_of_sizes": float(sizes.var()),
            "variance_planned": records * variance,
            "overlap": shared,
            "overlap_planned": mean,
            "p": p,
        },
    )


def clip(
    distances: Mapping[str, float], coordinates: int, *, least: Mapping[str, float]
) -> Detection:
    """Neighbour replay: how far apart, in clips, two sums are under the same key.

    One has a unit that the other lacks. They may be C apart, and no more than rounding
    allows beyond it. Less than its due means that the unit isn't in its sum as it should
    be, and that nothing here can be trusted.

    Args:
        distances: by what was left out.
        coordinates: d: each sum is rounded to a grid.
        least: the due, by the same names; 1 for a unit far longer than the clip.
    """
    slack = _ROUNDING + _GRID * coordinates**0.5 + _READING
    flags = any(
        not least[name] * (1 - 10 * slack) <= moved <= 1 + slack
        for name, moved in distances.items()
    )
    figures: dict[str, Figure] = {f"moved_by_{k}": v for k, v in distances.items()}
    return Detection("clip", flags, figures | {"allowed": 1.0 + slack})


def step_count(done: float, counts: Mapping[str, int], planned: int) -> Detection:
    """Whether the steps agree: made by the adapter, planned, and all that is in `counts`.

    Args:
        done: how many times the first step's length the adapter moved along a record
            that was in every step; its noise is far below a half.
        counts: told as progress, charged in the ledger, seen by the accountant.
        planned: by the plan.
    """
    flags = not abs(done - planned) < 0.5
    flags = flags or any(count != planned for count in counts.values())
    figures: dict[str, Figure] = {"planned": planned, "done": done}
    return Detection("step-count", flags, figures | dict(counts))


def intent(
    *, charges: int, sampled_after: float | None, on_disk: bool, refusal_held: bool
) -> Detection:
    """Whether the charge comes first, and its refusal keeps records from being sampled.

    Args:
        charges: how often a round asked for its charge.
        sampled_after: seconds from the charge being durable to the first sampling;
            negative is before it. None: it wasn't seen to sample.
        on_disk: the charge is in the journal when it is opened anew.
        refusal_held: a round whose charge was refused sampled nothing, and ended.
    """
    late = sampled_after is not None and sampled_after > 0
    return Detection(
        "intent",
        not (charges == 1 and late and on_disk and refusal_held),
        {
            "charges_asked": charges,
            "seconds_from_charge_to_sampling": sampled_after,
            "charge_on_disk": "yes" if on_disk else "no",
            "refusal_held": "yes" if refusal_held else "no",
        },
    )
