"""`fedit simulate`: from simulation.yaml to one run in this process."""

from __future__ import annotations

from typing import Any

from fedit_secure.cli.output import note
from fedit_secure.config import SimulationConfig
from fedit_secure.tuning.job import DataSource

_PLAN_KEYS = frozenset(
    {"base_model", "template", "max_tokens", "lora", "tuning", "rounds", "dp"}
    | {"participation"}
    | {"secagg", "weights", "seed"}
)


def simulated_facts(
    config: SimulationConfig,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the simulation; returns what it left, and one row a silo.

    Raises what the run itself raises.
    """
    # Imports torch, which nothing else on the command line may.
    from fedit_secure.simulation.run import simulate

    result = simulate(
        {
            name: DataSource.model_validate(source.model_dump())
            for name, source in config.data.items()
        },
        config.model_dump(include=set(_PLAN_KEYS)),
        folder=config.output,
        threads=config.threads,
        token_budget=config.token_budget,
        on_event=lambda e: note(f"round {e.round}: {e.silo or 'aggregator'} {e.phase}"),
    )
    facts = {
        "folder": result.folder,
        "adapter": result.folder / "adapter",
        "rounds": result.charter.rounds,
        "unit": result.charter.dp.unit,
        "state": result.state.digest().hex(),
    }
    rows = [
        {
            "silo": row.name,
            result.charter.counted: row.units,
            "epsilon": result.epsilons[row.name],
        }
        for row in result.charter.roster
    ]
    return facts, rows
