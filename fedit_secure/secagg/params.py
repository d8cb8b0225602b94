"""Who takes part, and the sizes that one release is safe at.

Everything follows from the *roster*, or from those of it that a round is drawn for, never
from who turned up: otherwise the aggregator picks a small cohort full of colluders, or
runs two views of one release.
"""

import struct
from collections.abc import Collection, Iterator

from fedit_secure.secagg.transcript import Value, digest, u64


class Member(Value):
    """One silo of the roster and its pinned Ed25519 public key (32 bytes)."""

    name: str
    verify_key: bytes


class Roster(Value):
    """The silos in charter order, which gives each its index, and the aggregator's key.

    `drawn` are the indices that a round is drawn for, None for all. Nobody else's signature
    counts in that round, and nobody else is asked for one.

    Raises:
        ValueError: if two parties share a name or key, or a name or key is malformed.
    """

    members: tuple[Member, ...]
    aggregator_key: bytes
    drawn: frozenset[int] | None = None

    def __post_init__(self) -> None:
        names = [m.name for m in self.members]
        keys = [m.verify_key for m in self.members] + [self.aggregator_key]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("the roster's silo names must be non-empty and unique")
        if any(len(k) != 32 for k in keys) or len(set(keys)) < len(keys):
            raise ValueError("the roster's keys must be 32 bytes long and unique")

    @property
    def silos(self) -> Collection[int]:
        """The indices of those who take part."""
        return range(len(self.members)) if self.drawn is None else self.drawn

    def name(self, silo: int) -> str:
        """The name at a roster index; ValueError if there is none."""
        if not 0 <= silo < len(self.members):
            raise ValueError(f"silo {silo} isn't in the roster of {len(self.members)}")
        return self.members[silo].name


class SecAggParams(Value):
    """The sizes of a release (protocol.md, "Parameters" and "Encoding").

    Attributes:
        silos: N, silos that take part in a round: the roster, or as many as are drawn.
        corrupt: c, silos that may collude with the aggregator.
        threshold: t, shares that open a secret and signatures that make a quorum.
        minimum: m_min, fewest updates in a sum.
        length: coordinates of the update.
        ring_bits: b, bits a coordinate takes on the wire: 24 or 32.
        bound: S, the largest absolute coordinate of an update.
        weights: public positive integers, one per silo of the whole roster, by index.
        allow_pair: whether a roster of two is accepted, where each can subtract itself.

    Raises:
        ValueError: naming the inequality that doesn't hold.
    """

    silos: int
    corrupt: int
    threshold: int
    minimum: int
    length: int
    ring_bits: int
    bound: float
    weights: tuple[int, ...]
    allow_pair: bool

    def __post_init__(self) -> None:
        for inequality, holds in self._rules():
            if not holds:
                raise ValueError(f"secure aggregation needs {inequality}, not {self}")

    def _rules(self) -> Iterator[tuple[str, bool]]:
        n, c, t, ws = self.silos, self.corrupt, self.threshold, self.weights
        # c <= N - 2 makes max(3, c + 2) <= t <= N. And 2t > N + c: two quorums, or a
        # quorum and a void certificate, have an honest silo in common.
        # Two that are drawn of more are no pair, whatever both policies allow.
        yield "N >= 3 or allow_pair", n >= 3 or (n == len(ws) == 2 and self.allow_pair)
        yield "1 <= c <= N - 2, or c = 0 for N = 2", (n != 2) <= c <= n - 2
        yield "t = floor((N + c)/2) + 1", t == (n + c) // 2 + 1
        yield "t <= m_min <= N", t <= self.minimum <= n
        yield "1 <= length < 2^36", 1 <= self.length < 1 << 36
        yield "b = 24 or b = 32", self.ring_bits in (24, 32)
        yield "1e-30 <= S <= 1e30", 1e-30 <= self.bound <= 1e30
        yield "at least N weights", len(ws) >= n
        yield "0 < weight < 2^32", all(type(w) is int and 0 < w < 2**32 for w in ws)
        # A silo's rounding error, in L2 and as a fraction of S.
        yield "sqrt(length/6)/M <= 0.01", self.length <= 6e-4 * self.magnitude**2

    @property
    def magnitude(self) -> int:
        """M = floor((2^(b-1) - 1)/N): N integers of at most M can't wrap the ring."""
        return ((1 << self.ring_bits - 1) - 1) // max(self.silos, 1)

    @property
    def payload_bytes(self) -> int:
        """Bytes of an upload: the packed coordinates, then the tag."""
        return self.length * self.ring_bits // 8 + 8

    def codec_digest(self) -> bytes:
        """32 bytes over every field that decides how updates are encoded and summed."""
        sizes = (self.silos, self.corrupt, self.threshold, self.minimum, self.length)
        bound = struct.pack("<d", self.bound)
        integers = (u64(n) for n in (*sizes, self.ring_bits, *self.weights))
        return digest("fedit/codec/v1", bound, *integers)
