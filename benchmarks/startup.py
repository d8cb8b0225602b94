"""How long `fedit --help` takes, and how large an install without torch is.

Claim: the median is at most 0.3 s, and the core install holds no torch. A bare Python
start is measured in turn with it, because machines are shared and noisy.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from _record import arguments, report

HEAVY = {"torch", "transformers", "peft", "opacus", "datasets"}


def seconds(command: list[str]) -> float:
    """Wall time of one run; the command must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def core_install() -> dict[str, int]:
    """Bytes on disk of fedit-secure without extras and of all that it requires."""
    sizes: dict[str, int] = {}
    queue = ["fedit-secure"]
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in sizes:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # a requirement of another platform
            continue
        files = (Path(str(file.locate())) for file in distribution.files or [])
        sizes[name] = sum(path.stat().st_size for path in files if path.is_file())
        queue += [
            re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            for requirement in distribution.requires or []
            if "extra ==" not in requirement
        ]
    return sizes


def main() -> None:
    """Measure, print a table for people, and the JSON line."""
    options = arguments(__doc__ or "").parse_args()
    runs = 9 if options.quick else 31
    fedit = str(Path(sys.executable).parent / "fedit")
    seconds([fedit, "--help"])  # writes the byte code
    help_times, python_times = [], []
    for _ in range(runs):
        python_times.append(seconds([sys.executable, "-c", "pass"]))
        help_times.append(seconds([fedit, "--help"]))

    core = core_install()
    figures = {
        "help_seconds_median": round(statistics.median(help_times), 3),
        "help_seconds_worst": round(max(help_times), 3),
        "python_seconds_median": round(statistics.median(python_times), 3),
        "core_install_megabytes": round(sum(core.values()) / 1e6),
        "core_install_distributions": len(core),
        "core_install_has_torch": bool(HEAVY & set(core)),
    }
    for name, value in figures.items():
        print(f"{name:32}{value}")
    report("startup", figures, sizes={"runs": runs}, packages=("typer", "rich"))


if __name__ == "__main__":
    main()
