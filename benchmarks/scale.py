"""How a release's computation grows with the number of silos.

    python benchmarks/scale.py [--quick]

Whole releases in one process through the state machines, m = 100 k coordinates, n = 10 to
100 silos on the full graph, nobody lost; every step of every silo and of the aggregator is
timed. A silo derives n masks of m coordinates, seals n letters of two shares, and checks n
adverts and statements: its time is a + b n. The aggregator takes off n self masks, and opens
n secrets of t shares. Claim: a silo's time at n = 100 is at most 13 times that at n = 10
(10 times, and the letters of n dealers to n holders, which it looks through).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from _record import arguments, report

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import protocol
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster

SILO_STEPS = (
    "Offer",
    "AdvertSet",
    "ShareSet",
    "SurvivorSet",
    "AgreementSet",
    "PublishedSum",
)


def a_release(silos: int, length: int) -> tuple[Any, ...]:
    """What `run_release` takes: a session, the aggregator's key, and invited silos."""
    rng = np.random.default_rng(silos)
    params = release_sizes(silos, length=length, bound=1.0)
    *keys, hub = (SigningKey.from_seed(rng.bytes(32)) for _ in range(silos + 1))
    members = tuple(Member(f"silo-{i}", key.public) for i, key in enumerate(keys))
    roster = Roster(members, hub.public)
    session = s.Session(params, roster, b"R" * 32, 1, 1, b"d" * 32)
    top = params.magnitude
    invited = {
        i: s.Invited(
            session,
            s.Me(i, key),
            rng.integers(-top, top, length, np.int32, True),
            bytes([i]) * 32,
            m.LedgerHead(f"silo-{i}", 1, b"h" * 32),
            {},
        )
        for i, key in enumerate(keys)
    }
    return session, hub, invited, rng.bytes


def timed(step: Callable[..., Any], into: dict[str, list[float]]) -> Callable[..., Any]:
    """The step, its times kept under the name of the message that it took."""

    def run(state: Any, message: Any, *rest: Any) -> Any:
        begin = time.perf_counter()
        done = step(state, message, *rest)
        into[type(message).__name__].append(time.perf_counter() - begin)
        return done

    return run


def measure(silos: int, length: int) -> tuple[dict[str, float], float]:
    """Median seconds of a silo's steps, and the aggregator's in total, for one release."""
    by_silo: dict[str, list[float]] = defaultdict(list)
    by_hub: dict[str, list[float]] = defaultdict(list)
    session, hub, invited, rand = a_release(silos, length)
    silo_step, aggregator_step = protocol.silo_step, protocol.aggregator_step
    protocol.silo_step = timed(silo_step, by_silo)
    protocol.aggregator_step = timed(aggregator_step, by_hub)
    try:
        state, _ = protocol.run_release(session, hub, invited, rand)
    finally:
        protocol.silo_step, protocol.aggregator_step = silo_step, aggregator_step
    assert isinstance(state, s.Certified), f"a release of {silos} silos failed"
    each = {name: statistics.median(by_silo[name]) for name in SILO_STEPS}
    return each, sum(sum(times) for times in by_hub.values())


def main() -> None:
    """Measure, print the table and the JSON line; exit 1 if the claim fails."""
    options = arguments(__doc__ or "").parse_args()
    length, sizes = (
        (10_000, (5, 10, 20)) if options.quick else (100_000, (10, 25, 50, 100))
    )
    figures: dict[str, float] = {}
    print(f"{'n':>4}{'a silo, ms':>12}{'of it masks':>13}{'aggregator, ms':>16}")
    totals = {}
    for silos in sizes:
        runs = [measure(silos, length) for _ in range(3)]
        each, hub = sorted(runs, key=lambda run: sum(run[0].values()))[1]
        totals[silos] = sum(each.values())
        masks = each["ShareSet"]
        print(
            f"{silos:4}{1e3 * totals[silos]:12.1f}{1e3 * masks:13.1f}{1e3 * hub:16.0f}"
        )
        figures[f"n{silos}_silo_milliseconds"] = 1e3 * totals[silos]
        figures[f"n{silos}_mask_milliseconds"] = 1e3 * masks
        figures[f"n{silos}_aggregator_milliseconds"] = 1e3 * hub
    growth = totals[sizes[-1]] / totals[sizes[0]]
    figures["silo_growth"] = growth
    allowed = 1.3 * sizes[-1] / sizes[0]
    print(f"a silo's time grows {growth:.1f}-fold (claim: at most {allowed:.0f})")
    report(
        "scale",
        {name: round(value, 3) for name, value in figures.items()},
        sizes={"coordinates": length, "silos": list(sizes)},
        packages=("cryptography", "numpy"),
        seeds=sizes,
    )
    if growth > allowed and not options.quick:
        sys.exit("the claim isn't held")


if __name__ == "__main__":
    main()
