"""The PRV accountant for the Poisson-subsampled Gaussian, in numpy and scipy alone.

It is the second opinion on every epsilon: written from the paper, sharing no code with
dp-accounting. Source: Gopi, Lee, Wutschitz, *Numerical Composition of Differential
Privacy*, NeurIPS 2021 (arXiv 2106.02848): the privacy loss random variable (section 3),
its mean-preserving discretisation (algorithm 2), composition by FFT modulo the grid
(algorithm 1), the mesh of theorem 5.5, the loss of the subsampled Gaussian (appendix B).

The figure returned is an upper bound on the true epsilon at delta. With d = delta/1000,
the event that the discretised sum is off by more than `error`, or that anything
left the grid, has probability at most d: coupling by Hoeffding's inequality d/6 (used
twice: for the bound and for the wrap), the tail of single losses d/8 (used three
times), the Chernoff tails of their sum 2 * d/16; what remains, d/6, is left to
floating point and checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr, ndtri

from fedit_secure.privacy.mechanisms import (
    Mechanism,
    PrivacyAccountingError,
    gaussians_together,
    require_delta,
)

EPSILON_ERROR = 0.01
"""What the answer exceeds the true epsilon by: the mesh's error bound, added to it."""

LARGEST_ERROR = 0.015
"""What it grows to, and no further, where the mesh for a smaller one fills the grid."""

MAX_POINTS = 2**22
"""Most grid points: 32 MiB an array, about a second of one core."""

MAX_LOSS = 700.0
"""Largest privacy loss on the grid: beyond it exp() leaves float64."""

_DELTA_SLACK = 1000
_PANEL_NODES = 16
_Floats = NDArray[np.float64]


class _Loss:
    """The privacy loss of one step, `g(x) = log(1 - q + q exp((2x - 1) / (2 sigma^2)))`.

    Removing a record: Y = g(x), x ~ (1-q) N(0, sigma^2) + q N(1, sigma^2). Adding one:
    Y = -g(x), x ~ N(0, sigma^2). g is increasing.
    """

    def __init__(self, mechanism: Mechanism, *, removal: bool) -> None:
        self.q, self.sigma, self.steps = mechanism
        self.removal = removal

    def of(self, x: _Floats) -> _Floats:
        """Y at each x."""
        exponent = (2 * x - 1) / (2 * self.sigma**2)
        with np.errstate(divide="ignore"):
            loss = np.logaddexp(np.log1p(-self.q), math.log(self.q) + exponent)
        return loss if self.removal else -loss

    def density(self, x: _Floats) -> _Floats:
        """The density that x is drawn from."""
        base = np.exp(-0.5 * (x / self.sigma) ** 2)
        if self.removal:
            shifted = np.exp(-0.5 * ((x - 1) / self.sigma) ** 2)
            base = (1 - self.q) * base + self.q * shifted
        return np.asarray(base / (self.sigma * math.sqrt(2 * math.pi)))

    def invert(self, loss: _Floats) -> _Floats:
        """g^-1: the x with g(x) = loss; -inf where no x reaches so low."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log1p(np.maximum(np.expm1(loss) / self.q, -1.0))
        return self.sigma**2 * ratio + 0.5

    def _left(self, x: _Floats) -> _Floats:
        """P(drawn x <= x); `_left` of the mirrored law is its upper tail, with no 1 - p."""
        if not self.removal:
            return np.asarray(ndtr(x / self.sigma))
        low, high = ndtr(x / self.sigma), ndtr((x - 1) / self.sigma)
        return np.asarray((1 - self.q) * low + self.q * high)

    def _right(self, x: _Floats) -> _Floats:
        if not self.removal:
            return np.asarray(ndtr(-x / self.sigma))
        low, high = ndtr(-x / self.sigma), ndtr((1 - x) / self.sigma)
        return np.asarray((1 - self.q) * low + self.q * high)

    def masses(self, edges: _Floats) -> _Floats:
        """P(edge_i < Y <= edge_i+1), from whichever tail is small: exact far out."""
        x = self.invert(edges if self.removal else -edges)
        zero = int(np.searchsorted(edges, 0.0))
        below, above = (
            (self._left, self._right) if self.removal else (self._right, self._left)
        )
        return np.concatenate(
            [np.diff(below(x[: zero + 1])), -np.diff(above(x[zero:]))]
        )

    def range_of(self, tail: float) -> tuple[float, float]:
        """An interval that x leaves with probability at most `tail`."""
        reach = -float(ndtri(tail / 2)) * self.sigma
        return -reach, reach + (1.0 if self.removal else 0.0)

    def quadrature(self, low: float, high: float) -> tuple[_Floats, _Floats]:
        """Composite Gauss-Legendre nodes and probability weights on [low, high].

        Panels are narrower than sigma (the density's scale) and than 4 sigma^2 (g's
        nearest complex singularity is pi sigma^2 away): the error is rounding.
        """
        panels = max(1, math.ceil((high - low) / self.panel_width))
        nodes, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
        bounds = np.linspace(low, high, panels + 1)
        half = np.diff(bounds)[:, None] / 2
        x = (bounds[:-1, None] + half * (nodes + 1)).ravel()
        return x, (half * weights).ravel() * self.density(x)

    @property
    def panel_width(self) -> float:
        return min(self.sigma / 2, 4 * self.sigma**2)


def _single_reach(losses: Sequence[_Loss], tail: float) -> float:
    """The |loss| that no single step passes, but for `tail` over all steps together."""
    total = sum(loss.steps for loss in losses)
    ends = [loss.of(np.array(loss.range_of(tail / total))) for loss in losses]
    return float(np.max(np.abs(ends)))


def _chernoff_reach(losses: Sequence[_Loss], outside: float, tail: float) -> float:
    """The |sum| that is passed with probability at most `tail` on each side.

    Chernoff's bound where every x lies in its range; leaving it (`outside`) is charged
    by `_single_reach`. Any exponent gives a valid bound, the best of a grid is taken.
    """
    top = min(16 * loss.sigma**2 / loss.panel_width for loss in losses)
    exponents = np.geomspace(min(0.05, top / 2), top, 40)
    total_steps = sum(loss.steps for loss in losses)
    upper = np.zeros_like(exponents)
    lower = np.zeros_like(exponents)
    for loss in losses:
        x, weights = loss.quadrature(*loss.range_of(outside / total_steps))
        y = loss.of(x)
        for sums, sign in ((upper, 1.0), (lower, -1.0)):
            for i, exponent in enumerate(exponents):
                power = sign * exponent * y
                peak = float(power.max())
                moment = peak + math.log(float(weights @ np.exp(power - peak)))
                sums[i] += loss.steps * moment
    bounds = (np.maximum(upper, lower) - math.log(tail)) / exponents
    return float(bounds.min())


def _mean(loss: _Loss, low: float, high: float) -> float:
    """E[Y | low <= Y <= high], to rounding error."""
    ends = loss.invert(np.array([low, high] if loss.removal else [-high, -low]))
    reach = 38 * loss.sigma  # the density is below the smallest double from there on
    x, weights = loss.quadrature(
        max(float(ends[0]), -reach), min(float(ends[1]), 1 + reach)
    )
    return float(weights @ loss.of(x) / weights.sum())


def _compose(
    losses: Sequence[_Loss], mesh: float, points: int
) -> tuple[_Floats, float]:
    """Masses of the composed loss on the grid (centre first index N//2), and its shift."""
    first = -(points // 2)
    grid = mesh * np.arange(first, first + points, dtype=np.float64)
    edges = mesh * (np.arange(first, first + points + 1, dtype=np.float64) - 0.5)
    product: NDArray[np.complex128] | None = None
    shift = 0.0
    for loss in losses:
        masses = loss.masses(edges)
        masses /= masses.sum()
        mean = _mean(loss, float(edges[0]), float(edges[-1]))
        shift += loss.steps * (mean - float(masses @ grid))
        spectrum = fft.rfft(fft.ifftshift(masses)) ** loss.steps
        product = spectrum if product is None else product * spectrum
    if product is None:
        raise ValueError("nothing to compose")
    return np.asarray(fft.fftshift(fft.irfft(product, points))), shift


def _epsilon_of(masses: _Floats, losses: _Floats, delta: float) -> float:
    """The smallest epsilon >= 0 with E[(1 - exp(epsilon - loss))+] <= delta."""
    positive = losses > 0
    p, t = masses[positive], losses[positive]
    above = np.cumsum(p[::-1])[::-1]
    scaled = np.cumsum((p * np.exp(-t))[::-1])[::-1]
    if p.size == 0 or above[0] - scaled[0] <= delta:
        return 0.0
    delta_at = above - np.exp(t) * scaled
    index = int(np.argmax(delta_at <= delta))
    return math.log((above[index] - delta) / scaled[index])


def _one_direction(losses: Sequence[_Loss], delta: float, error: float) -> float:
    """Epsilon in one direction, the error bound of the mesh that fits included."""
    slack = delta / _DELTA_SLACK
    steps = sum(loss.steps for loss in losses)
    largest = max(error, LARGEST_ERROR)
    half = single = _single_reach(losses, slack / 8)
    if single <= MAX_LOSS:
        half = max(single, _chernoff_reach(losses, slack / 8, slack / 16) + largest)
    meshes_per_error = math.sqrt(steps / 2 * math.log(12 / slack))
    error = max(error, 2 * half * meshes_per_error / (MAX_POINTS - 2))
    if half > MAX_LOSS or error > largest:
        raise PrivacyAccountingError(
            f"the PRV accountant can't reach {steps} steps whose privacy loss spreads "
            f"to {half:.3g} at delta {delta:g}: use more noise or fewer steps"
        )
    mesh = error / meshes_per_error
    points = fft.next_fast_len(math.ceil(2 * half / mesh + 2), real=True)
    masses, shift = _compose(losses, mesh, points)
    # Where the true mass is far below rounding, the transform's noise is symmetric about
    # zero: its negative half measures the whole. Zeroing it can only raise epsilon.
    noise = -2.0 * float(masses[masses < 0].sum())
    if noise > delta / 100:
        raise PrivacyAccountingError(
            f"delta {delta:g} is too small for the PRV accountant's float64 arithmetic"
        )
    # Sums are known modulo the grid's length. The window in which they're unique is the
    # one about zero once the shift is added, however far `steps` roundings add up.
    turned = round(shift / mesh)
    first = -(points // 2) - turned
    values = mesh * np.arange(first, first + points, dtype=np.float64) + shift
    masses = np.roll(np.maximum(masses, 0.0), turned)
    return error + _epsilon_of(masses, values, delta - slack - noise)


def epsilon(
    mechanisms: Sequence[Mechanism], delta: float, error: float = EPSILON_ERROR
) -> float:
    """An upper bound on epsilon at `delta` for the composition, adding or removing one.

    The same figure holds for zeroing a record out (the public-sizes adjacency): both
    directions of one dominating pair. Exceeds the truth by about `error`, and takes time
    and memory in proportion to 1/error.

    Raises PrivacyAccountingError when the answer is out of reach of the bounded grid;
    ValueError for parameters out of range.
    """
    require_delta(delta)
    for q, sigma, steps in mechanisms:
        if not (0 < q <= 1 and 0 < sigma < math.inf and steps >= 1):
            raise ValueError(
                f"no mechanism has sample rate {q}, noise multiplier {sigma} "
                f"and {steps} steps"
            )
    if not mechanisms:
        return 0.0
    together = gaussians_together(mechanisms)
    return max(
        _one_direction([_Loss(m, removal=removal) for m in together], delta, error)
        for removal in (True, False)
    )
