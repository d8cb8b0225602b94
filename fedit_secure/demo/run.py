"""`fedit demo`: four hospitals and an aggregator, for real, on this machine.

An aggregator daemon and one daemon per silo, each a process of its own, over mutual TLS on
loopback: the same programs, files and protocol as on machines of their own. Then the same
records through the baselines, and all of it in one table.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedit_secure.config import PlanFile
from fedit_secure.demo.audited import audit_run
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.demo.display import Display, print_summary
from fedit_secure.demo.material import Material, own_material, synthetic_material
from fedit_secure.demo.sizes import DEMO, DemoSizes
from fedit_secure.privacy.ledger import recompute
from fedit_secure.privacy.neighbourhoods import person_epsilon
from fedit_secure.simulation.processes import Processes, free_address

if TYPE_CHECKING:
    from fedit_secure.simulation.parties import LocalFederation


def main(
    *,
    data: Path | None = None,
    model: str | None = None,
    silos: int = 4,
    rounds: int = DEMO.rounds,
    epsilon: float = DEMO.epsilon,
    output: Path | None = None,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Run the demo and print what came out.

    Raises ConfigError for bad records or a bad model, and what the daemons end with.
    """
    began = time.monotonic()
    folder = output or Path(tempfile.mkdtemp(prefix="fedit-demo-"))
    say = _speaker(as_json)
    material = (
        synthetic_material(folder / "data", silos, seed)
        if data is None
        else own_material(data, folder / "data", silos, seed)
    )
    say(f"{len(material.silos)} silos in {folder}: keys, charter, calibrated noise")
    from fedit_secure.simulation.parties import found_federation  # loads torch: seconds

    sizes = DEMO if data is None and model is None else own_sizes(material)
    plan = demo_plan(sizes, model or str(base_model_path()), rounds, epsilon, seed)
    federation = found_federation(folder / "federation", plan, material.silos)
    with Display(list(material.silos), rounds, enabled=not as_json) as display:
        asyncio.run(_run(federation, display))
    from fedit_secure.demo.baselines import Baselines

    say("for comparison: every silo alone, and all data pooled")
    baselines = Baselines(federation, material)
    rows = baselines.table(say)
    samples = baselines.samples()
    facts = _facts(federation, material)
    say("what an auditor would find: the run's bundle, exported and verified")
    facts |= audit_run(federation, facts["ledgers"].parent, _beside(facts["budgets"]))
    facts["seconds"] = round(time.monotonic() - began, 1)
    print_summary(facts, rows, samples, as_json=as_json)


def own_sizes(material: Material) -> DemoSizes:
    """Sizes for a user's own model or records, where nothing is known of either."""
    smallest = min(material.records.values())
    return replace(
        DEMO,
        targets="all-linear",
        max_tokens=256,
        expected_batch=max(1, min(DEMO.expected_batch, smallest // 4)),
        learning_rate=3e-3,
        rank=4,
    )


def demo_plan(
    sizes: DemoSizes, model: str, rounds: int, epsilon: float, seed: int
) -> PlanFile:
    """What a coordinator would write into plan.yaml."""
    from fedit_secure.simulation.run import run_plan

    return run_plan(
        {
            "federation": "demo",
            "run": "demo",
            "aggregator": free_address(),
            "base_model": model,
            "max_tokens": sizes.max_tokens,
            "lora": {
                "rank": sizes.rank,
                "alpha": sizes.alpha,
                "targets": sizes.targets,
            },
            "tuning": {
                "learning_rate": sizes.learning_rate,
                "local_steps": sizes.local_steps,
            },
            "rounds": rounds,
            "dp": {
                "epsilon": epsilon,
                "delta": sizes.delta,
                "clip": sizes.clip,
                "expected_batch": sizes.expected_batch,
                "spare_charges": sizes.spare_charges,
                # What a patient's epsilon then is, is shown beside it.
                "unit": "record",
            },
            "schedule": {
                "tune_deadline_seconds": 900,
                "phase_deadline_seconds": 60,
                "silo_deadline_seconds": 120,
                "ready_slot_seconds": 0.5,
            },
            "seed": seed,
        }
    )


async def _run(federation: LocalFederation, display: Display) -> None:
    async with Processes(federation, display.take) as processes:
        await processes.wait()


def _beside(budgets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a patient's epsilon is at each silo, which the claim per record leaves out."""
    return [
        {
            "hidden": f"a patient with {budget['most_records_of_a_patient']} records at "
            f"{name}, all of them",
            "epsilon": budget["epsilon_per_patient"],
            "stated_by": "PLD alone",
        }
        for name, budget in budgets.items()
        if budget["epsilon_per_patient"] is not None
    ]


def _facts(federation: LocalFederation, material: Material) -> dict[str, Any]:
    charter = federation.charter
    run = federation.folder / "aggregator" / "state" / charter.digest().hex()[:16]
    budgets = {}
    for name in federation.silos:
        plan = charter.plan_for(name)
        most, delta = material.most_per_person[name], plan.delta or 0.0
        entries = (run / "ledgers" / f"{name}.jsonl").read_bytes().splitlines()
        budgets[name] = {
            "records": charter.row(name).records,
            "epsilon_per_record": recompute(entries, delta).published,
            "epsilon_per_patient": person_epsilon(plan, most, 0) if most else None,
            "most_records_of_a_patient": most,
            "cap": federation.policy.epsilon,
            "delta": delta,
        }
    return {
        "budgets": budgets,
        "adapter": run / "adapter",
        "ledgers": run / "ledgers",
        "manifest": run / "manifest.json",
        "charter": federation.folder / "charter.json",
    }


def _speaker(as_json: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    return say
