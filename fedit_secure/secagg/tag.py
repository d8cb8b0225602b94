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
from fedit_secure.secagg.keystream import TAG_PRIME, Scratch, elements, in_pieces
from fedit_secure.secagg.transcript import Bound, Silos, digest, join

Floats = NDArray[np.float64]
_ROW = 256  # coordinates a row: rho_(i,j) = alpha_i * beta_j
_BLOCK = 1 << 12  # rows: their products add up exactly, and stay in cache


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TagKey(Secret):
    """The expanded key of one release.

    Attributes:
        width: bits of a limb of beta: with those of a coordinate and log2(256), 53.
        alpha: float64 of shape (rows, 5), an element mod p per row of 256 coordinates,
            in limbs of 13 bits, the lowest first.
        beta: float64 of shape (256, limbs): elements mod p, in limbs of `width` bits.
        pads: a_u by roster index, for every silo of U2.
    """

    width: int
    alpha: Floats
    beta: Floats
    pads: Mapping[int, int]

    @classmethod
    def derive(
        cls, bound: Bound, parts: Mapping[int, bytes], length: int, ring_bits: int
    ) -> "TagKey":
        """Expand the contributions g_u of U2 (32 bytes each, by roster index), each
        checked against its commitment, for updates of `length` coordinates of b bits."""
        group = digest("fedit/group/v1", *bound[1:], *(parts[u] for u in sorted(parts)))
        labels = (b"fedit/tag-rows/v1", b"fedit/tag-columns/v1", b"fedit/tag-pads/v1")
        seeds = (hkdf(group, b"", join(label)) for label in labels)
        counts = (-(-length // _ROW), _ROW, max(parts) + 1)
        alpha, beta, pads = map(elements, seeds, counts)
        width, each = 53 - 8 - ring_bits, {u: int(pads[u]) for u in parts}
        return cls(width, _limbs(alpha, 13), _limbs(beta, width), each)

    def inner(self, values: NDArray[np.int32]) -> int:
        """<rho, values> mod p, exactly.

        Two float64 matrix products over limbs: every product and every partial sum is an
        integer below 2^53, so no order of summation rounds.

        Args:
            values: int32 of the release's length, signed, below 2^(b-1).
        """
        rows = np.empty((len(self.alpha), self.beta.shape[1]))

        def work(here: slice, _: object, scratch: Scratch) -> None:
            part, into = values[here], rows[here.start // _ROW : -(-here.stop // _ROW)]
            whole = scratch[0][: len(into) * _ROW]
            whole[: part.size], whole[part.size :] = part, 0
            np.matmul(whole.reshape(-1, _ROW), self.beta, out=into)

        in_pieces(values.size, work)
        total = 0
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            high = np.floor(block * 2.0**-27)
            halves = np.stack((block - high * 2.0**27, high))
            # 13 + 27 + log2(_BLOCK) bits: exact too.
            limbs = self.alpha[first : first + _BLOCK].T @ halves
            for (k, i, j), x in np.ndenumerate(limbs):
                total += int(x) << 27 * k + 13 * i + self.width * j
        return total % TAG_PRIME

    def tag(self, silo: int, values: NDArray[np.int32]) -> int:
        """tau_u = <rho, v_u> + a_u mod p, for silo u's own update."""
        return (self.inner(values) + self.pads[silo]) % TAG_PRIME

    def check(self, total: NDArray[np.int32], tag: int, u3: Silos) -> None:
        """Check a sum against the sum T of its contributors' tags. Once a release.

        Args:
            total: X, int32 of shape (length,), signed, below 2^(b-1): see `check_sum`.
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


def _limbs(numbers: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Split integers of 61 bits into limbs, lowest first: float64 of shape (n, limbs)."""
    shifts = np.arange(0, 61, bits)
    return (numbers[:, None] >> shifts & (1 << bits) - 1).astype(np.float64)
