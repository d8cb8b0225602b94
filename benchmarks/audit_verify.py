"""How long an auditor's verification takes, and how much memory.

    python benchmarks/audit_verify.py [--quick] [--jobs N] [--plans N]

Claims, for 100 silos and 1,000 rounds on two cores: under 60 s and 1 GiB, counting every
process. The bundle is forged on paper by the tests' forger: every silo takes part in every
round but now and then one, and signs all that it would; a quorum's signatures are kept, as
the aggregator does; there are a few voided attempts and skipped rounds. All silos have one
plan, which is accounted once; `--plans 100` gives each its own. Each verification is a
process of its own, started as an auditor would start it.

`peak_gib` is the largest sum of resident memory of the process and its children, asked for
twenty times a second; what they share is counted for each of them. `peak_alone_gib` is the
largest of any one of them, by the kernel's count. `cpu_seconds_median` is of all of them:
where others use the machine too, it says more than the wall clock.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from _record import arguments, report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the forger of bundles is a test's

from audit.forge import Run  # noqa: E402
from audit.parties import found  # noqa: E402
from audit.sealing import write_zip  # noqa: E402

CLAIMS = {"verify_seconds_max": 60.0, "peak_gib": 1.0}
_EVERY = 0.05  # seconds between two looks at the memory


def forge(path: Path, silos: int, rounds: int, plans: int = 1) -> int:
    """Write a bundle of so many silos, rounds and plans; returns the sums in it."""
    sizes = [2_000 + 10 * (i % plans) for i in range(silos)]
    world = found(silos, rounds, spares=max(5, rounds // 50), records=sizes)
    run = Run(world, signers=world.charter.secagg_params().threshold)
    names, sums = run.world.names, 0
    for round in range(1, rounds + 1):
        if round % 97 == 50:
            run.skipped()
            continue
        absent = names[round % silos]
        if round % 41 == 20:  # its first attempt is voided before anybody masks
            there = run.but([absent])
            run.charge(there)
            run.commit(there)
            run.attempt(there).void(there)
            attempt = run.attempt(there)
            attempt.mask(there)
            attempt.reveal(there)
            attempt.publish(there, agreed=there)
            run.confirm(there)
            run.close(there)
        elif round % 7 == 3:
            run.released(lost=[absent])
        elif round % 11 == 5:
            run.released(away=[absent])
        else:
            run.released()
        sums += 1
    write_zip(run.end().sealed(), path)
    return sums


def verify(path: Path, jobs: int) -> dict[str, float]:
    """Seconds and memory of one `fedit audit verify`; it has to pass."""
    command = [sys.executable, "-m", "fedit_secure.cli.main", "audit", "verify"]
    command += [str(path), "--jobs", str(jobs), "--format", "json"]
    start, before, peak = time.perf_counter(), os.times(), 0
    with tempfile.TemporaryFile() as out:
        process = psutil.Popen(command, cwd=ROOT, stdout=out)
        while process.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                size = sum(member.memory_info().rss for member in family)
            except psutil.NoSuchProcess:  # one of them has ended while we looked
                continue
            peak = max(peak, size)
            time.sleep(_EVERY)
        seconds = time.perf_counter() - start
        out.seek(0)
        found = json.load(out)
    if process.returncode or not found["passed"]:
        raise SystemExit(f"the honest bundle doesn't pass: {found['verdicts']}")
    lacking = [v["claim"] for v in found["verdicts"] if v["result"] != "holds"]
    if lacking:
        raise SystemExit(f"the bundle has all evidence, and {lacking} don't hold")
    after = os.times()
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    return {"seconds": seconds, "cpu": used, "peak": peak / 2**30}


def main() -> None:
    """Forge, verify, print the table and the JSON line; exit 1 if a claim fails."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plans", type=int, default=1, help="different DP plans")
    parser.add_argument("--silos", type=int)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    silos = options.silos or (10 if options.quick else 100)
    rounds = options.rounds or (100 if options.quick else 1_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zip"
        start = time.perf_counter()
        sums = forge(path, silos, rounds, options.plans)
        forged = time.perf_counter() - start
        size = path.stat().st_size
        runs = [verify(path, options.jobs) for _ in range(3)]
    seconds = [run["seconds"] for run in runs]
    alone = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of KiB
    figures = {
        "verify_seconds_median": round(statistics.median(seconds), 2),
        "cpu_seconds_median": round(statistics.median(run["cpu"] for run in runs), 2),
        "verify_seconds_max": round(max(seconds), 2),
        "peak_gib": round(max(run["peak"] for run in runs), 3),
        "peak_alone_gib": round(alone, 3),
        "forge_seconds": round(forged, 1),
        "bundle_mib": round(size / 2**20, 1),
    }
    failed = [name for name, most in CLAIMS.items() if not figures[name] < most]
    for name, value in figures.items():
        claim = f"  claim: < {CLAIMS[name]:g}" if name in CLAIMS else ""
        print(f"{name:24}{value}{claim}{'  FAILED' if name in failed else ''}")
    sizes = {"silos": silos, "rounds": rounds, "sums": sums, "plans": options.plans}
    sizes |= {"coordinates": 24, "jobs": options.jobs}
    packages = ("cryptography", "dp-accounting", "numpy", "pydantic", "scipy")
    report("audit_verify", figures, sizes=sizes, packages=packages)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
