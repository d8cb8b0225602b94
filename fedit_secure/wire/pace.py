"""How far an upload may be ahead of what the aggregator has said that it holds.

What is on its way when a connection breaks is lost, and travels again. HTTP/2 lets about
a MiB be on its way (`calls.server_options`), which a long upload may well lose, once. So
one that hasn't broken is held back only if it is short, to a 32nd of its length. But a
call that goes on after a break begins with little, for where one broke another may, and
then may have a hundredth of what it has brought across. However often it breaks, all
breaks but the first lose at most 1 % of an upload together, and 8 KiB more each; and a
line that holds is soon at full speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedit_secure.wire.limits import CHUNK, PIECE

_LEAST: Final = 8 * 1024  # bytes
_SHARE: Final = 100  # one part of so many that a later call has brought across
_FIRST: Final = 32  # one part of so many of an upload that hasn't broken
_SHORT: Final = 256 * 1024  # bytes: of a short upload too, or it would be a slow one
NO_LIMIT: Final = 1 << 62  # bytes: HTTP/2's own is the lower one


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one Upload call: of `length` bytes it begins after the first `start`."""

    length: int
    start: int

    def window(self, held: int) -> int:
        """How many bytes may be on their way once `held` are there."""
        if self.start == 0:
            window = max(self.length // _FIRST, _SHORT)
        else:
            window = _LEAST + (held - self.start) // _SHARE
        return window if window < CHUNK else NO_LIMIT

    def piece(self, held: int) -> int:
        """How many go into one message, for a message is lost whole."""
        return min(self.window(held) // 2, PIECE)
