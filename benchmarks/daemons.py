"""What a silo's daemon takes while it waits, and how many of them an aggregator holds.

    python benchmarks/daemons.py [--quick]

Idle: one `fedit silo serve` of three, its records read, its budget accounted for and its
round tuned by the real worker; then it waits for the others, who never come. Beside it a
second one with its page on, which a Prometheus asks every 15 seconds and a health check
every 30: what the page costs is the ratio of the two, in one run. Held: a hundred silo
daemons, 25 a process, each with a connection of its own (gRPC, mutual TLS, loopback) to
`fedit aggregator serve`, with a small adapter, from the first connection to the end of a
round; their updates are drawn and not tuned. Claims: an idle daemon has no torch mapped,
less than 150 MB resident and less than 1 % of a core, with its page and without; all
hundred are in the round's sum.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
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
NAMES = PLAIN, PAGED, ABSENT = ("north", "south", "west")
SCRAPE_SECONDS = 15.0


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
    that waits for the others so many seconds; and of one with its page on, which is asked
    meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="fedit-daemons-"))
    records = folder / "records.jsonl"
    with records.open("w", encoding="utf-8") as file:
        for number in range(RECORDS):
            line = {"instruction": f"Say {number}.", "response": f"It is {number} now."}
            file.write(json.dumps(line) + "\n")
    data = dict.fromkeys(NAMES, DataSource(path=str(records)))
    federation = found_federation(folder / "federation", run_plan(_plan()), data)
    shown = free_address()
    config = federation.config_path(PAGED)
    config.write_text(f"{config.read_text()}page: {{listen: '{shown}'}}\n")
    waiting = {PLAIN, PAGED}
    tuned = asyncio.Event()

    def take(event: ProcessEvent) -> None:
        if event.phase == "tuned":
            waiting.discard(event.party)
        if not waiting:
            tuned.set()

    daemons = Processes(federation, take)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await daemons.start("aggregator")
            silos = [psutil.Process(await daemons.start(n)) for n in (PLAIN, PAGED)]
            await tuned.wait()
            while any(silo.children() for silo in silos):  # noqa: ASYNC110
                await asyncio.sleep(1.0)  # the workers, the accountants
            await asyncio.sleep(SETTLE_SECONDS)
            plain, paged = await _watched(silos, seconds, shown)
    finally:
        await daemons.end()
    return {f"idle_{name}": value for name, value in plain.items()} | {
        **{f"paged_{name}": value for name, value in paged.items()},
        "page_rss_ratio": paged["rss_mib"] / plain["rss_mib"],
    }


async def _watched(
    silos: list[psutil.Process], seconds: float, page: str
) -> list[dict[str, float | bool]]:
    """What each of them takes in so many seconds, in which the page is asked."""
    before, began = [sum(silo.cpu_times()[:2]) for silo in silos], time.monotonic()
    asking = asyncio.create_task(_ask(page))
    await asyncio.sleep(seconds)
    used = [
        sum(silo.cpu_times()[:2]) - was for silo, was in zip(silos, before, strict=True)
    ]
    took = time.monotonic() - began
    asking.cancel()
    return [
        {
            "rss_mib": silo.memory_info().rss / 2**20,
            "core_share": share / took,
            "maps_torch": any("torch" in row.path for row in silo.memory_maps()),
        }
        for silo, share in zip(silos, used, strict=True)
    ]


async def _ask(page: str) -> None:
    """As a Prometheus and a container's health check do, for ever."""
    for turn in itertools.count():
        paths = ["/metrics", "/healthz"] if turn % 2 == 0 else ["/metrics"]
        for path in paths:
            await asyncio.to_thread(_get, page, path)
        await asyncio.sleep(SCRAPE_SECONDS)


def _get(page: str, path: str) -> None:
    connection = http.client.HTTPConnection(page, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == http.HTTPStatus.OK, f"{path}: {answer.status}"


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
        packages=(
            "grpcio",
            "cryptography",
            "numpy",
            "pydantic",
            "starlette",
            "uvicorn",
        ),
    )
    fits = all(
        figures[f"{kind}_rss_mib"] < MOST_MIB
        and figures[f"{kind}_core_share"] < MOST_SHARE
        and not figures[f"{kind}_maps_torch"]
        for kind in ("idle", "paged")
    )
    if not fits or figures["connected_silos"] < silos:
        sys.exit("a claim isn't held")


if __name__ == "__main__":
    main()
