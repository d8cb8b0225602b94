"""How ten silos' uploads of 120 MB go through one aggregator.

    python benchmarks/streaming.py [--quick]

Uploads of 40 M coordinates at 24 bits over real links (gRPC, mutual TLS, loopback) into
the aggregator's own server, spool and running sum, in a process of its own. The silos
share one process, and all of it this machine's cores. Throughput is compared, in turn,
with the same bytes over bare gRPC and over bare TLS. Claims: the aggregator's memory
with ten silos is within 10 % of that with two, and a silo that uploads takes at most
4 MiB of it, also when the disk is slow; one silo at 5 MB/s slows the others by at most
20 %; an upload that is cut three times at random bytes sends at most 4 % more than it
is long; one whose last answer is lost sends nothing again.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from _cable import Cable, cable_to
from _plain_transfer import Bare
from _record import arguments, report
from _upload_silos import Silos, Wave

from fedit_secure.federation.certificates import leaf_name

MB, MIB = 1e6, 2**20
SLOW = 5e6  # bytes a second
FAST = 4  # silos beside the slow one
CUTS = 3
LINK = 16 * 1024  # bytes that a link takes before any of an upload
DISK_SECONDS = 0.02  # that each write to the slow disk takes

CLAIMS = {  # figure: at most
    "rss_ratio": 1.10,
    "anon_ratio": 1.10,
    "anon_mib_a_silo": 4.0,
    "slow_disk_anon_mib_a_silo": 4.0,
    "beside_slow_ratio": 1.20,
    "cut_bytes_ratio": 1.04,
    "lost_answer_bytes_again": 0,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """`length` coordinates of an update, `shorter` where there are `many` silos."""

    length: int
    shorter: int
    silos: int
    few: tuple[int, ...]
    many: int
    repeats: int


FULL = Sizes(40_000_000, 10_000_000, 10, (2, 5), 30, 5)
QUICK = Sizes(4_000_000, 1_000_000, 4, (2,), 8, 3)


async def all_at_once(silos: Silos, count: int) -> Wave:
    """The first `count` silos, straight to the aggregator."""
    return await silos.wave(dict.fromkeys(range(count), silos.address))


async def throughput(sizes: Sizes) -> dict[str, float]:
    """Megabytes a second of all silos together, and what bare transfers reach."""
    n = sizes.silos
    taken: dict[str, list[float]] = {"upload": [], "grpc": [], "tls": []}
    async with Silos(n, sizes.length) as silos:
        roots = (
            party.card.issuer_certificate for party in (silos.hub, *silos.identities)
        )
        leaves = [silos.leaf(party) for party in silos.identities]
        name = leaf_name("aggregator", silos.hub.name)
        async with Bare(silos.leaf(silos.hub), leaves, "".join(roots), name) as bare:
            for _ in range(sizes.repeats):
                wave = await all_at_once(silos, n)
                taken["upload"].append(max(wave.seconds.values()))
                taken["grpc"].append(await bare.grpc_seconds(silos.payload))
                taken["tls"].append(await bare.tls_seconds(silos.payload))
        size = n * len(silos.payload) / MB
    rate = {way: size / statistics.median(times) for way, times in taken.items()}
    return {
        **{f"{way}_mb_per_second": value for way, value in rate.items()},
        "ratio_to_grpc": rate["upload"] / rate["grpc"],
        "ratio_to_tls": rate["upload"] / rate["tls"],
    }


async def memory(sizes: Sizes) -> dict[str, float]:
    """The aggregator's peak, a new process for each number of silos."""
    figures: dict[str, float] = {}
    waves: dict[tuple[int, int], Wave] = {}
    each = [(n, sizes.length) for n in (*sizes.few, sizes.silos)]
    for n, length in [
        *each,
        (sizes.few[0], sizes.shorter),
        (sizes.many, sizes.shorter),
    ]:
        async with Silos(n, length) as silos:
            wave = waves[n, length] = await all_at_once(silos, n)
        figures[f"n{n}_m{length}_rss_mib"] = wave.rss / MIB
        figures[f"n{n}_m{length}_anon_mib"] = wave.anon / MIB
    few, ten = waves[each[0]], waves[each[-1]]
    two, many = waves[sizes.few[0], sizes.shorter], waves[sizes.many, sizes.shorter]
    more = sizes.many - sizes.few[0]
    return figures | {
        "rss_ratio": ten.rss / few.rss,
        "anon_ratio": ten.anon / few.anon,
        "anon_mib_a_silo": (many.anon - two.anon) / more / MIB,
    }


async def slow_disk(sizes: Sizes) -> dict[str, float]:
    """What waits in memory, a silo, when the disk is slower than every silo."""
    n = sizes.silos
    async with Silos(n, sizes.shorter, disk_seconds=DISK_SECONDS) as silos:
        wave = await all_at_once(silos, n)
    grown = wave.anon_until_whole - wave.anon_before
    return {"slow_disk_anon_mib_a_silo": grown / n / MIB}


async def beside_a_slow_silo(sizes: Sizes) -> dict[str, float]:
    """How much longer the fast silos take beside one at 5 MB/s."""
    alone, beside = [], []
    async with Silos(FAST + 1, sizes.length) as silos:
        fast = dict.fromkeys(range(1, FAST + 1), silos.address)
        async with cable_to(silos.address, Cable()) as thin:
            for _ in range(sizes.repeats):
                alone.append(max((await silos.wave(fast)).seconds.values()))
                thin.bytes_a_second, left = SLOW, set(fast)

                def done(silo: int, left: set[int] = left) -> None:
                    left.discard(silo)
                    if not left:
                        thin.bytes_a_second = None

                wave = await silos.wave({0: thin.address, **fast}, done)
                assert wave.seconds[0] == max(wave.seconds.values())
                beside.append(max(wave.seconds[silo] for silo in fast))
    with_it, without = statistics.median(beside), statistics.median(alone)
    return {
        "beside_slow_ratio": with_it / without,
        "fast_seconds_beside_slow": with_it,
        "fast_seconds_alone": without,
    }


async def cut(sizes: Sizes) -> dict[str, float]:
    """Bytes on the wire over an upload's length, when it is cut at random bytes."""
    ratios = []
    async with Silos(2, sizes.length) as silos:
        for seed in range(sizes.repeats):
            draw, size = random.Random(seed), len(silos.payload)
            places = sorted(draw.randrange(1, size) for _ in range(CUTS))
            runs = [b - a for a, b in zip([0, *places], places, strict=False)]
            cable = Cable([LINK + run for run in runs])
            async with cable_to(silos.address, cable):
                await silos.wave({0: cable.address})
            assert not cable.cuts, "the upload was over before its last cut"
            ratios.append(cable.up / size)
    return {"cut_bytes_ratio": max(ratios)}


async def lost_answer(sizes: Sizes) -> dict[str, float]:
    """Bytes of an upload that are sent again after its last answer was lost."""
    async with Silos(2, sizes.length) as silos:
        cable = Cable(late_after=len(silos.payload))
        async with cable_to(silos.address, cable):

            async def lose() -> int:
                await silos.whole[0].wait()
                once = cable.up
                await cable.pull()
                return once

            losing = asyncio.create_task(lose())
            await silos.wave({0: cable.address})
            second = cable.up - await losing
            assert second, "the answer wasn't lost"
    return {
        "lost_answer_link_bytes": second,
        "lost_answer_bytes_again": max(0, second - LINK),
    }


SCENARIOS: tuple[Callable[[Sizes], Awaitable[dict[str, float]]], ...] = (
    throughput,
    memory,
    slow_disk,
    beside_a_slow_silo,
    cut,
    lost_answer,
)


def main() -> None:
    """Measure, print the table and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    sizes = QUICK if options.quick else FULL
    failed, figures = [], {}
    for scenario in SCENARIOS:
        found = asyncio.run(scenario(sizes))
        figures |= found
        for name, value in found.items():
            # The claims are of full size: on short uploads fixed costs weigh more.
            claim, most = "", None if options.quick else CLAIMS.get(name)
            if most is not None:
                claim = f"  claim: <= {most}"
                if value > most:
                    failed.append(name)
                    claim += "  FAILED"
            print(f"{name:32}{value:12.3f}{claim}", flush=True)
    report(
        "streaming",
        {name: round(value, 3) for name, value in figures.items()},
        sizes={
            "coordinates": sizes.length,
            "bytes": 3 * sizes.length + 8,
            "silos": sizes.silos,
            "fast": FAST,
            "cuts": CUTS,
            "repeats": sizes.repeats,
        },
        packages=("grpcio", "protobuf", "cryptography", "numpy"),
        seeds=tuple(range(sizes.repeats)),
    )
    if failed:
        sys.exit(f"not held: {', '.join(failed)}")


if __name__ == "__main__":
    main()
