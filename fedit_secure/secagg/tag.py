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
from fedit_secure.secagg.keystream import TAG_PRIME, elements, in_pieces
from fedit_secure.secagg.transcript import Bound, Silos, digest, join

Floats = NDArray[np.float64]
_ROW = 256  # coordinates a row: rho_(i,j) = alpha_i * beta_j
_BLOCK = 1 << 12  # rows: their products add up exactly, and stay in cache


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TagKey(Secret):
    """The expanded key of one release.

    Attributes:
        width: bits of a limb of beta: with those of a coordinate and log2(256), 53.
        alpha: int64, one element mod p per row of 256 coordinates.
        beta: float64 of shape (256, limbs): elements mod p, their lowest limb first.
        pads: a_u by roster index, for every silo of U2.
    """

    width: int
    alpha: NDArray[np.int64]
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
        return cls(width, alpha, _limbs(beta, width), each)

    def rows(self) -> Floats:
        """What `put` fills and `inner` reads: a row's products with beta's limbs."""
        return np.empty((len(self.alpha), self.beta.shape[1]))

    def put(
        self, rows: Floats, v: NDArray[np.int32], here: slice, room: Floats
    ) -> None:
        """Multiply these coordinates, whole rows but at the vector's end, with beta.

        v is signed, and below 2^(b-1): so a row's products and their sum are integers below
        2^53, and no order of summation rounds. `room` is for a float64 a coordinate.
        """
        into = rows[here.start // _ROW : -(-here.stop // _ROW)]
        whole, part = room[: len(into) * _ROW], v[here]
        whole[: part.size], whole[part.size :] = part, 0
        np.matmul(whole.reshape(-1, _ROW), self.beta, out=into)

    def rows_of(self, v: NDArray[np.int32]) -> Floats:
        """The rows of a whole vector of the release's length; on all cores."""
        rows = self.rows()
        in_pieces(v.size, lambda here, _, rooms: self.put(rows, v, here, rooms[0]))
        return rows

    def inner(self, rows: Floats) -> int:
        """<rho, v> mod p, exactly, for the vector v whose coordinates were put there."""
        total = 0
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            high = np.floor(block * 2.0**-27)
            halves = np.stack((block - high * 2.0**27, high))
            # 13 + 27 + log2(_BLOCK) bits: exact too.
            alpha = _limbs(self.alpha[first : first + _BLOCK], 13)
            for (k, i, j), x in np.ndenumerate(alpha.T @ halves):
                total += int(x) << 27 * k + 13 * i + self.width * j
        return total % TAG_PRIME

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
        expected = self.inner(self.rows_of(total)) + sum(self.pads[u] for u in u3)
        if tag != expected % TAG_PRIME:
            raise Bad("the tag isn't that of this sum over these contributors")


def _limbs(numbers: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Split integers of 61 bits into limbs, lowest first: float64 of shape (n, limbs)."""
    shifts = np.arange(0, 61, bits)
    return (numbers[:, None] >> shifts & (1 << bits) - 1).astype(np.float64)
