"""How long a release takes, from the last silo's update to the certified sum.

    python benchmarks/release.py [--quick]

Real processes over loopback mTLS: one aggregator, n silo daemons whose update is drawn
instead of tuned; advertise, share, mask, upload, agree, reveal, release, apply, confirm.
Claims, for m = 4 M coordinates: n = 10 takes at most 3 s, at most 4 s with one silo killed
while it masks; the aggregator's memory at n = 30 is within 10 % of that at n = 5. All
parties share this machine's cores, so a federation on machines of its own is faster.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from _record import arguments, report

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.processes import Processes, ProcessEvent, free_address
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource

PER_RANK = (
    9_856  # coordinates of the packaged base model's all-linear adapter, per rank
)
DRAWN_SILO = (str(Path(__file__).with_name("_drawn_silo.py")),)
LIMIT_SECONDS = 300


class Release:
    """One federation of one round, timed."""

    def __init__(self, silos: int, coordinates: int, *, drop: bool) -> None:
        self.rank = max(1, round(coordinates / PER_RANK))
        self.drop = drop
        self.folder = Path(tempfile.mkdtemp(prefix="fedit-release-"))
        self.names = [f"silo-{i:02}" for i in range(silos)]
        records = self.folder / "records.jsonl"
        line = json.dumps({"instruction": "Say yes.", "response": "Yes."})
        records.write_text(f"{line}\n" * 64, encoding="utf-8")
        source = DataSource(path=str(records))
        self.federation = found_federation(
            self.folder / "federation",
            run_plan(self._plan()),
            dict.fromkeys(self.names, source),
        )
        self.tuned: dict[str, float] = {}
        self.certified = 0.0
        self.processes: Processes | None = None
        self.rss = 0

    def _plan(self) -> dict[str, object]:
        return {
            "federation": "release",
            "run": "release",
            "aggregator": free_address(),
            "base_model": str(base_model_path()),
            "max_tokens": 64,
            "lora": {"rank": self.rank, "alpha": self.rank},
            "tuning": {"learning_rate": 1e-3, "local_steps": 1},
            "rounds": 1,
            "dp": {"kind": "none", "clip": 1.0, "expected_batch": 8},
            "secagg": {"bound": 0.01, "ring_bits": 24},
            "schedule": {"ready_slot_seconds": 0.01, "phase_deadline_seconds": 60},
            "seed": 1,
        }

    async def run(self) -> None:
        """To the certificate."""
        async with (
            asyncio.timeout(LIMIT_SECONDS),
            Processes(
                self.federation, self._take, silo_program=DRAWN_SILO
            ) as self.processes,
        ):
            hub = psutil.Process(self.processes.pid("aggregator"))
            while not self.certified:
                self.rss = max(self.rss, hub.memory_info().rss)
                await asyncio.sleep(0.02)

    def _take(self, event: ProcessEvent) -> None:
        now = time.monotonic()
        by_hub = event.party == "aggregator"
        if not by_hub and event.phase == "tuned":
            self.tuned[event.party] = now
        elif by_hub and not event.silo and event.phase == "certified":
            self.certified = now
        elif self.drop and event.party == self.names[-1] and event.phase == "mask":
            assert self.processes is not None
            self.processes.kill(event.party)

    @property
    def seconds(self) -> float:
        """From the last silo ready to the certified sum."""
        return self.certified - max(self.tuned.values())

    @property
    def coordinates(self) -> int:
        """What was really summed."""
        return self.rank * PER_RANK


def measure(silos: int, coordinates: int, repeats: int, drop: bool = False) -> Release:
    """The release of median time among `repeats`."""
    runs = []
    for _ in range(repeats):
        release = Release(silos, coordinates, drop=drop)
        asyncio.run(release.run())
        runs.append(release)
    middle = statistics.median_low(run.seconds for run in runs)
    found = next(run for run in runs if run.seconds == middle)
    print(
        f"n={silos:3} m={found.coordinates:9,}{' one drop' if drop else ''}: "
        f"{found.seconds:6.2f} s, aggregator at most {found.rss / 2**20:.0f} MiB",
        flush=True,
    )
    return found


def main() -> None:
    """Measure, print the curve and the JSON line; exit 1 if a claim fails."""
    options = arguments(__doc__ or "").parse_args()
    if options.quick:
        grid, large, repeats = [(4, 100_000)], 100_000, 3
        few, many, head = 3, 6, 4
    else:
        grid = [(5, 1_000_000), (10, 1_000_000), (20, 1_000_000), (10, 100_000)]
        large, repeats, few, many, head = 4_000_000, 3, 5, 30, 10
    curve = {f"n{n}_m{m}_seconds": measure(n, m, 1).seconds for n, m in grid}
    whole = measure(head, large, repeats)
    dropped = measure(head, large, repeats, drop=True)
    small, big = measure(few, large, 1), measure(many, large, 1)
    figures = {
        "seconds": whole.seconds,
        "seconds_with_one_drop": dropped.seconds,
        "aggregator_rss_ratio": big.rss / small.rss,
        "aggregator_rss_mib_few": small.rss / 2**20,
        "aggregator_rss_mib_many": big.rss / 2**20,
        f"n{many}_seconds": big.seconds,
        **curve,
    }
    report(
        "release",
        {name: round(value, 3) for name, value in figures.items()},
        sizes={"n": head, "m": whole.coordinates, "few": few, "many": many},
        packages=("grpcio", "protobuf", "cryptography", "numpy"),
        seeds=(1,),
    )
    held = (
        whole.seconds <= 3
        and dropped.seconds <= 4
        and abs(big.rss / small.rss - 1) < 0.1
    )
    if not held and not options.quick:
        sys.exit("a claim isn't held")


if __name__ == "__main__":
    main()
