"""The verifiable sum: a padded linear MAC over Z_p, p = 2^61 - 1, and its check.

The silos of U2 share a key G that the aggregator never holds. Each appends
tau_u = <rho, v_u> + a_u mod p to its update; the sum of the tags verifies the sum of
the updates, because tags are linear. The pads a_u make every tag uniform to the
aggregator, so it can't scale or shift one: a forged sum passes with probability <= 2/p
(protocol.md, "Verifiable sum").
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.keys import Bad, Secret, hkdf
from fedit_secure.secagg.masks import TAG_PRIME, elements
from fedit_secure.secagg.transcript import Bound, Silos, digest, join

_ROW = 256  # coordinates a row: rho_(i,j) = alpha_i * beta_j
_ROWS = 512  # rows a tile: 1 MiB of float64
_BETA_BITS = 14  # limb + int32 + log2(256) = 53 bits: exact in a float64


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TagKey(Secret):
    """The expanded key of one release.

    Attributes:
        length: coordinates of the update.
        alpha: int64, one element mod p per row of 256 coordinates.
        beta: int64 of shape (256,), elements mod p.
        pads: a_u by roster index, for every silo of U2.
    """

    length: int
    alpha: NDArray[np.int64]
    beta: NDArray[np.int64]
    pads: Mapping[int, int]

    @classmethod
    def derive(cls, bound: Bound, parts: Mapping[int, bytes], length: int) -> "TagKey":
        """Expand the contributions g_u of U2 (32 bytes each, by roster index), each
        checked against its commitment, for updates of `length` coordinates."""
        group = digest("fedit/group/v1", *bound[1:], *(parts[u] for u in sorted(parts)))
        alpha = hkdf(group, b"", join(b"fedit/tag-rows/v1"))
        beta = hkdf(group, b"", join(b"fedit/tag-columns/v1"))
        pads = hkdf(group, b"", join(b"fedit/tag-pads/v1"))
        rows, columns = elements(alpha, 0, -(-length // _ROW)), elements(beta, 0, _ROW)
        each = {u: int(elements(pads, u, 1)[0]) for u in parts}
        return cls(length, rows, columns, each)

    def inner(self, values: NDArray[np.int32]) -> int:
        """<rho, values> mod p, exactly.

        Two float64 matrix products a tile, over limbs of the key: every partial sum is
        an integer below 2^53, so no order of summation rounds.

        Args:
            values: int32 of shape (length,), signed.
        """
        if values.shape != (self.length,):
            raise ValueError(f"a tag is of {self.length} integers, not {values.shape}")
        alphas, betas = _limbs(self.alpha, 16, 61), _limbs(self.beta, _BETA_BITS, 61)
        tile = np.zeros(_ROWS * _ROW)
        products = np.zeros((alphas.shape[1], betas.shape[1], 3), np.int64)
        for first in range(0, len(alphas), _ROWS):
            part = values[first * _ROW : (first + _ROWS) * _ROW]
            tile[: part.size] = part
            tile[part.size :] = 0
            alpha = alphas[first : first + _ROWS]
            sums = (tile.reshape(_ROWS, _ROW)[: len(alpha)] @ betas).astype(np.int64)
            # 16 + 18 + log2(512) bits: exact too, and 2^20 of them fit an int64.
            product = np.tensordot(alpha, _limbs(sums, 18, 54), (0, 0))
            products += product.astype(np.int64)
        limbs = np.ndenumerate(products)
        shifted = (int(x) << 16 * i + _BETA_BITS * j + 18 * k for (i, j, k), x in limbs)
        return int(sum(shifted) % TAG_PRIME)

    def tag(self, silo: int, values: NDArray[np.int32]) -> int:
        """tau_u = <rho, values> + a_u mod p, for silo u's own update."""
        return (self.inner(values) + self.pads[silo]) % TAG_PRIME

    def check(self, total: NDArray[np.int32], tag: int, u3: Silos) -> None:
        """Check a sum against the sum T of its contributors' tags. Once a release.

        Args:
            total: X, int32 of shape (length,), signed.
            tag: T.
            u3: the contributors' roster indices.

        Raises:
            Bad: if T isn't the tag of exactly this sum over exactly these silos.
        """
        if len(self.pads.keys() & set(u3)) < len(u3):
            raise Bad("the sum's contributors aren't distinct silos of U2")
        expected = self.inner(total) + sum(self.pads[u] for u in u3)
        if tag != expected % TAG_PRIME:
            raise Bad("the tag isn't that of this sum over these contributors")


def _limbs(numbers: NDArray[np.int64], bits: int, width: int) -> NDArray[np.float64]:
    """Split integers of `width` bits into limbs, lowest first: shape (..., limbs).

    The last limb keeps the sign.
    """
    shifts = range(0, width, bits)
    limbs = [numbers >> s & (1 << bits) - 1 for s in shifts[:-1]]
    return np.stack([*limbs, numbers >> shifts[-1]], axis=-1).astype(np.float64)
