"""The last line of every benchmark: one JSON object that can stand on its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every script takes: `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="about a minute on two cores"
    )
    return parser


def machine() -> dict[str, object]:
    """Processor, cores, operating system and Python."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def report(
    benchmark: str,
    figures: Mapping[str, object],
    *,
    sizes: Mapping[str, object],
    packages: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
) -> None:
    """Print the JSON line.

    Args:
        benchmark: the script's name.
        figures: named results; a name ends in its unit (`help_seconds_median`).
        sizes: everything that the figures depend on.
        packages: distributions whose versions the figures depend on.
        seeds: what was drawn from; empty if nothing was.
    """
    versions = {name: metadata.version(name) for name in ("fedit-secure", *packages)}
    line = {
        "benchmark": benchmark,
        "figures": dict(figures),
        "sizes": dict(sizes),
        "seeds": list(seeds),
        "versions": versions,
        "machine": machine(),
    }
    print(json.dumps(line, sort_keys=True))
