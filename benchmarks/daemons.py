"""What a silo's daemon takes while it waits, and how many of them an aggregator holds.

    python benchmarks/daemons.py [--quick]

Idle: one `fedit silo serve` of three, its records read, its budget accounted for and its
round tuned by the real worker; then it waits for the others, who never come. Held: a
hundred silo daemons, 25 a process, each with a connection of its own (gRPC, mutual TLS,
loopback) to `fedit aggregator serve`, with a small adapter, from the first connection to
the end of a round; their updates are drawn and not tuned. Claims: the idle daemon has no
torch mapped, less than 150 MB resident and less than 1 % of a core; all hundred are in
the round's sum.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
from _record import arguments, report
from hundred_silos import Hundred

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.processes import Processes, ProcessEvent, free_address
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource

RECORDS = 20_000
SETTLE_SECONDS = 3.0
LIMIT_SECONDS = 600
MOST_MIB, MOST_SHARE = 150e6 / 2**20, 0.01  # 150 MB
NAMES = ("north", "south", "west")


def _plan() -> dict[str, object]:
    return {
        "federation": "daemons",
        "run": "daemons",
        "aggregator": free_address(),
        "base_model": str(base_model_path()),
        "max_tokens": 64,
        "lora": {"rank": 2},
        "tuning": {"learning_rate": 1e-3, "local_steps": 1},
        "rounds": 2,
        "dp": {"epsilon": 8.0, "delta": 1e-6, "clip": 1.0, "expected_batch": 32},
        "schedule": {"tune_deadline_seconds": 100_000, "ready_slot_seconds": 0.1},
    }


async def idle(seconds: float) -> dict[str, float | bool]:
    """Resident memory, share of a core, and whether torch is mapped, of a silo's daemon
    that waits for the others so many seconds."""
    folder = Path(tempfile.mkdtemp(prefix="fedit-daemons-"))
    records = folder / "records.jsonl"
    with records.open("w", encoding="utf-8") as file:
        for number in range(RECORDS):
            line = {"instruction": f"Say {number}.", "response": f"It is {number} now."}
            file.write(json.dumps(line) + "\n")
    data = dict.fromkeys(NAMES, DataSource(path=str(records)))
    federation = found_federation(folder / "federation", run_plan(_plan()), data)
    tuned = asyncio.Event()

    def take(event: ProcessEvent) -> None:
        if (event.party, event.phase) == (NAMES[0], "tuned"):
            tuned.set()

    daemons = Processes(federation, take)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await daemons.start("aggregator")
            daemon = psutil.Process(await daemons.start(NAMES[0]))
            await tuned.wait()
            while daemon.children():  # noqa: ASYNC110 - the worker's, the accountants'
                await asyncio.sleep(1.0)
            await asyncio.sleep(SETTLE_SECONDS)
            before, began = sum(daemon.cpu_times()[:2]), time.monotonic()
            await asyncio.sleep(seconds)
            used = sum(daemon.cpu_times()[:2]) - before
            took = time.monotonic() - began
            rss = daemon.memory_info().rss
            maps = " ".join(row.path for row in daemon.memory_maps())
    finally:
        await daemons.end()
    return {
        "idle_rss_mib": rss / 2**20,
        "idle_core_share": used / took,
        "idle_maps_torch": "torch" in maps,
    }


def held(silos: int) -> dict[str, float]:
    """One round of so many silos: how many were in it, how long it took from the first
    connection to the certificate, and the aggregator's memory at most."""
    run = Hundred(silos)
    asyncio.run(run.run())
    return {
        "connected_silos": run.contributors(),
        "round_seconds": run.phases["certified"] - run.connected_first,
        "release_seconds": run.seconds,
        "aggregator_rss_mib": run.peak / 2**20,
    }


def main() -> None:
    """Measure, print the table and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    silos, seconds = (20, 10.0) if options.quick else (100, 120.0)
    figures = asyncio.run(idle(seconds)) | held(silos)
    for name, value in figures.items():
        print(
            f"{name:24}{value:12.4f}"
            if not isinstance(value, bool)
            else f"{name:24}{value!s:>12}"
        )
    report(
        "daemons",
        {n: v if isinstance(v, bool) else round(v, 4) for n, v in figures.items()},
        sizes={"records": RECORDS, "idle_seconds": seconds, "silos": silos},
        packages=("grpcio", "cryptography", "numpy", "pydantic"),
    )
    fits = figures["idle_rss_mib"] < MOST_MIB and not figures["idle_maps_torch"]
    fits = fits and figures["idle_core_share"] < MOST_SHARE
    if not fits or figures["connected_silos"] < silos:
        sys.exit("a claim isn't held")


if __name__ == "__main__":
    main()
