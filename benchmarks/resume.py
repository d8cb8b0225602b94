"""What an upload costs that is interrupted twenty times.

    python benchmarks/resume.py [--quick]

A masked upload of 30 MB over a real link (gRPC, mutual TLS, loopback) to the aggregator's
server in a process of its own. A relay between them counts every byte that the silo sends,
handshakes included, and cuts the connection at twenty random places: by closing it, by
resetting it, or by saying nothing and letting what is sent go nowhere until the silo
notices. The silo dials again and goes on. Throughput is that of an upload that nothing
happens to, in turn with one that may be as far ahead of the aggregator's answers as HTTP/2
lets it: over loopback, and over a relay that takes 10 ms each way. Claims: at most 5 %
more bytes than the upload has, in the worst case of all; at least 0.95 of the throughput
on loopback.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from _cable import CLOSE, RESET, SILENCE, Cable, cable_to
from _record import arguments, report
from _upload_silos import Silos

from fedit_secure.wire import outgoing
from fedit_secure.wire.limits import PIECE

MB = 1e6
LINK = 16 * 1024  # bytes that a connection takes before any of an upload
DELAY_SECONDS = 0.01  # each way
NOTICED_SECONDS = 2.0  # after which a silo gives up a connection on which nothing moves
MOST_EXTRA, LEAST_RATIO = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class Sizes:
    """`silent` seeds are cut by silence: each of these cuts takes seconds to notice."""

    length: int
    interruptions: int
    seeds: int
    silent: int
    pairs: int


FULL = Sizes(10_000_000, 20, 5, 2, 15)
QUICK = Sizes(10_000_000, 20, 2, 0, 5)


class Unpaced:
    """In the place of `Pace`: whole pieces, and no answer before the last."""

    def __init__(self, length: int, start: int) -> None:
        self._length = length

    def window(self, held: int) -> int:
        """More than there is to send."""
        return 8 * self._length

    def piece(self, held: int) -> int:
        """A message's."""
        return PIECE


@contextmanager
def unpaced() -> Iterator[None]:
    """Uploads that begin meanwhile aren't held back by the silo."""
    pace = outgoing.Pace
    outgoing.Pace = Unpaced  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        outgoing.Pace = pace  # type: ignore[misc]


async def interrupted(sizes: Sizes, how: str, seed: int) -> float:
    """Bytes that the silo sent above the upload's own, over these."""
    async with Silos(2, sizes.length, progress_seconds=NOTICED_SECONDS) as silos:
        draw, size = random.Random(seed), len(silos.payload)
        places = sorted(draw.randrange(1, size) for _ in range(sizes.interruptions))
        runs = [b - a for a, b in zip([0, *places], places, strict=False)]
        cable = Cable([LINK + run for run in runs], how=how)
        async with cable_to(silos.address, cable):
            await silos.wave({0: cable.address})
        assert not cable.cuts, "the upload was over before its last cut"
        return cable.up / size - 1


async def throughput_ratio(sizes: Sizes, delay_seconds: float) -> dict[str, float]:
    """How fast an upload is over one that is held back by nothing, and the former."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    async with Silos(2, sizes.length) as silos:
        cable = Cable(delay_seconds=delay_seconds)
        async with cable_to(silos.address, cable):
            address = cable.address if delay_seconds else silos.address
            await silos.wave({0: address})
            for turn in range(2 * sizes.pairs):
                paced = turn % 4 in (0, 3)
                if paced:
                    wave = await silos.wave({0: address})
                else:
                    with unpaced():
                        wave = await silos.wave({0: address})
                taken[paced].append(wave.seconds[0])
        size = len(silos.payload) / MB
    middle = {paced: statistics.median(times) for paced, times in taken.items()}
    return {"ratio": middle[False] / middle[True], "mb_per_second": size / middle[True]}


def main() -> None:
    """Measure, print the table and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    sizes = QUICK if options.quick else FULL
    figures: dict[str, float] = {"interruptions": sizes.interruptions}
    for how, seeds in (
        (CLOSE, sizes.seeds),
        (RESET, sizes.seeds),
        (SILENCE, sizes.silent),
    ):
        shares = [asyncio.run(interrupted(sizes, how, seed)) for seed in range(seeds)]
        if shares:
            figures[f"{how}_extra_bytes_share"] = max(shares)
            print(f"{how:8} {' '.join(f'{share:.4f}' for share in shares)}", flush=True)
    figures["extra_bytes_share"] = max(
        share for name, share in figures.items() if name.endswith("_share")
    )
    for name, delay in (("", 0.0), ("_20_ms", DELAY_SECONDS)):
        found = asyncio.run(throughput_ratio(sizes, delay))
        figures[f"throughput_ratio{name}"] = found["ratio"]
        figures[f"mb_per_second{name}"] = found["mb_per_second"]
        print(f"throughput{name} {found}", flush=True)
    report(
        "resume",
        {name: round(value, 4) for name, value in figures.items()},
        sizes={
            "coordinates": sizes.length,
            "bytes": 3 * sizes.length + 8,
            "seeds_of_each": sizes.seeds,
            "seeds_of_silence": sizes.silent,
            "pairs": sizes.pairs,
        },
        packages=("grpcio", "protobuf", "cryptography"),
        seeds=tuple(range(sizes.seeds)),
    )
    failed = []
    if figures["extra_bytes_share"] > MOST_EXTRA:
        failed.append("extra_bytes_share")
    if figures["throughput_ratio"] < LEAST_RATIO and not options.quick:
        failed.append("throughput_ratio")
    if failed:
        sys.exit(f"not held: {', '.join(failed)}")


if __name__ == "__main__":
    main()
