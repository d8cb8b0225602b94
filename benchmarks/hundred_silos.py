"""A hundred silos with a small adapter over gRPC, on the full graph.

    python benchmarks/hundred_silos.py [--quick]

`fedit aggregator serve` in a process of its own, and a hundred silo daemons over mutual
TLS on loopback: each with its own identity, journal and link, 25 of them to a process,
because the starts of a hundred Pythons (45 MiB and 0.7 s each) aren't what is measured.
Updates of about 10 k coordinates are drawn instead of tuned. Claims: everybody is in the
sum, at the first attempt; the largest frame to a silo and the largest of a silo's fit
their limits. The seconds run from the last silo ready to the certificate, and all parties
share this machine's cores.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from _record import arguments, report
from release import LIMIT_SECONDS, Release

from fedit_secure.wire.codec import PublishedNotice, decode
from fedit_secure.wire.limits import MAX_FRAME, MAX_SILO_FRAME, Limits

COORDINATES = 10_000
SILOS_A_PROCESS = 25
SILOS = Path(__file__).with_name("_drawn_silos.py")
FROM_SILO = ("Hello", "LedgerEntries", "Advert", "ShareBundle", "Agreement", "Reveal")
PHASES = ("advertise", "share", "mask", "agree", "reveal", "confirm", "certified")


class Hundred(Release):
    """One federation of one round, its silos some to a process."""

    def __init__(self, silos: int) -> None:
        super().__init__(silos, COORDINATES, drop=False)
        self.phases: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.connected_first = math.inf
        self.frames: dict[str, int] = {}
        self.peak = 0
        self._done = asyncio.Event()
        self._processes: list[asyncio.subprocess.Process] = []

    async def run(self) -> None:
        """To the certificate, and until every silo has ended."""
        configs = [str(self.federation.config_path(name)) for name in self.names]
        groups = range(0, len(configs), SILOS_A_PROCESS)
        fedit = ("-m", "fedit_secure.cli.main", "aggregator", "serve")
        hub = (*fedit, str(self.federation.config_path("aggregator")))
        commands = [(*hub, "--format", "json")]
        commands += [(str(SILOS), *configs[at : at + SILOS_A_PROCESS]) for at in groups]
        try:
            async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
                for number, command in enumerate(commands):
                    group.create_task(self._serve(number, command))
                await self._done.wait()
                self.peak = self._peak()
        finally:
            for process in self._processes:
                if process.returncode is None:
                    process.kill()

    async def _serve(self, number: int, command: tuple[str, ...]) -> None:
        with (self.folder / f"process-{number}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self._processes.append(process)
        assert process.stdout is not None
        async for line in process.stdout:
            self._hear(json.loads(line), of_hub=number == 0)
        if await process.wait():
            raise RuntimeError(f"a process failed; see {log.name}")

    def _hear(self, said: dict[str, Any], *, of_hub: bool) -> None:
        if "frames" in said:
            for name, size in said["frames"].items():
                self.frames[name] = max(size, self.frames.get(name, 0))
        elif of_hub and said.get("phase") == "idle":
            self.connected_first = min(self.connected_first, time.monotonic())
        elif of_hub and said.get("phase") == "tuned":
            self.ready[said["silo"]] = time.monotonic()
        elif of_hub and said.get("silo") == "":
            self.phases[said["phase"]] = time.monotonic()
            if said["phase"] == "certified":
                self._done.set()

    def _peak(self) -> int:
        pids = [process.pid for process in self._processes]
        hub = next(p for p in map(psutil.Process, pids) if "aggregator" in p.cmdline())
        status = Path(f"/proc/{hub.pid}/status").read_text(encoding="ascii")
        line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])

    @property
    def seconds(self) -> float:
        """From the last silo ready to the certificate."""
        return self.phases["certified"] - max(self.ready.values())

    def times(self) -> dict[str, float]:
        """Seconds in each of the aggregator's phases."""
        at = [self.phases[name] for name in PHASES]
        spans = zip(PHASES, at, at[1:], strict=False)
        return {f"{name}_seconds": end - begin for name, begin, end in spans}

    def contributors(self) -> int:
        """How many updates are in the sum of the only attempt."""
        assert "void" not in self.phases
        limits = Limits.of(self.federation.charter.secagg_params())
        state = self.folder / "federation" / "aggregator" / "state"
        (frame,) = state.glob("*/rounds/001/published.frame")
        notice = decode(frame.read_bytes(), limits)
        assert isinstance(notice, PublishedNotice)
        return len(notice.contributors)


def main() -> None:
    """Measure, print the table and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    silos, repeats = (20, 3) if options.quick else (100, 5)
    runs = []
    for _ in range(repeats):
        run = Hundred(silos)
        asyncio.run(run.run())
        runs.append(run)
        print(f"n={silos}: {run.seconds:.2f} s", flush=True)
    middle = statistics.median_low(run.seconds for run in runs)
    run = next(run for run in runs if run.seconds == middle)
    frames = {name: max(r.frames[name] for r in runs) for name in run.frames}
    to_silo = max(frames[name] for name in frames if name not in FROM_SILO)
    from_silo = max(frames[name] for name in FROM_SILO)
    figures = {
        "seconds": run.seconds,
        **run.times(),
        "aggregator_peak_mib": max(r.peak for r in runs) / 2**20,
        "contributors": min(r.contributors() for r in runs),
        "largest_frame_to_silo_ratio": to_silo / MAX_FRAME,
        "largest_frame_from_silo_ratio": from_silo / MAX_SILO_FRAME,
        **{f"{name}_bytes": size for name, size in sorted(frames.items())},
    }
    for name, value in figures.items():
        print(f"{name:32}{value:12.3f}")
    report(
        "hundred_silos",
        {name: round(value, 3) for name, value in figures.items()},
        sizes={"n": silos, "m": run.coordinates, "a_process": SILOS_A_PROCESS},
        packages=("grpcio", "protobuf", "cryptography", "numpy"),
        seeds=(1,),
    )
    fits = to_silo <= MAX_FRAME and from_silo <= MAX_SILO_FRAME
    if figures["contributors"] < silos or not fits:
        sys.exit("a claim isn't held")


if __name__ == "__main__":
    main()
