"""Founded federations of four silos, and one silo's records in several versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.seen import VICTIM, Seen
from attacks.tiny_base import save_base
from attacks.whole_run import watch

from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource, HeldOutSource

NAMES = ("east", "north", "south", "west")  # as in the roster
INDEX = NAMES.index(VICTIM)
RECORDS = 40
TOKENS = 64
SLOT = 100.0  # seconds of a clock that jumps


@dataclass(frozen=True)
class World:
    """Founded federations, and the victim's records in several versions."""

    founded: dict[str, LocalFederation]
    plans: dict[str, dict[str, Any]]
    data: dict[str, Path]
    folder: Path

    def watch(self, name: str, data: str, of: str = "public", **options: Any) -> Seen:
        """One run of a federation on one version of the victim's records."""
        path = self.folder / f"{of}-{name}"
        return watch(self.founded[of], self.data[data], path, **options)


def make_world(folder: Path) -> World:
    """A base model, records, and four federations in an empty folder."""
    base = folder / "base"
    words, overflowing = save_base(base)

    def write(name: str, rows: list[tuple[str, str]]) -> Path:
        lines = [json.dumps({"instruction": i, "response": r}) for i, r in rows]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    usual = [
        (f"{words[i]} {words[3 * i % 99]}", words[7 * i % 99]) for i in range(RECORDS)
    ]
    long = " ".join(words * 9)
    strange = [(long, overflowing), (overflowing, "a"), ("{}", long)]
    data = {
        "usual": write("usual", usual),
        "zeroed": write("zeroed", [("a", "a")] * RECORDS),
        "extreme": write("extreme", [strange[i % 3] for i in range(RECORDS)]),
        "few": write("few", strange * 3),
    }
    sources = {name: DataSource(path=str(write(name, usual))) for name in NAMES}
    dp = {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "expected_batch": 10}
    plan = {
        "base_model": str(base),
        "max_tokens": TOKENS,
        "lora": {"rank": 2},
        "tuning": {"learning_rate": 1e-3, "local_steps": 2},
        "rounds": 3,
        "dp": dp,
        "schedule": {
            "tune_deadline_seconds": 10000,
            "phase_deadline_seconds": 20,
            "silo_deadline_seconds": 60,
            "ready_slot_seconds": SLOT,
        },
    }
    hidden = {**plan, "dp": {**dp, "sizes": "secret", "sample_rate": 0.25}}
    plans = {"public": plan, "secret": hidden, "short": {**hidden, "rounds": 1}}
    plans["evaluated"] = {**plan, "rounds": 2, "evaluation": {"clip": 12.0}}
    held_out = HeldOutSource(fraction=0.25)
    apart = {n: s.model_copy(update={"held_out": held_out}) for n, s in sources.items()}
    founded = {
        name: found_federation(
            folder / name,
            run_plan(plan),
            apart if name == "evaluated" else sources,
            token_budget=2 * TOKENS,
        )
        for name, plan in plans.items()
    }
    return World(founded, plans, data, folder)
