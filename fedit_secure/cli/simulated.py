"""`fedit simulate`: from simulation.yaml to one run in this process."""

from __future__ import annotations

from typing import Any

from fedit_secure.cli.output import note
from fedit_secure.config import SimulationConfig
from fedit_secure.federation.run_plan import RunTerms


def simulated_facts(
    config: SimulationConfig,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the simulation; returns what it left, and one row for each round and silo.

    Raises what the run itself raises.
    """
    # Imports torch, which nothing else on the command line may.
    from fedit_secure.simulation.run import simulate

    result = simulate(
        {name: source.model_dump() for name, source in config.data.items()},
        config.model_dump(include=set(RunTerms.model_fields)),
        folder=config.output,
        held_out=None if config.held_out is None else config.held_out.model_dump(),
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
    if result.personal:
        facts["personal"] = {name: str(own) for name, own in result.personal.items()}
    return facts, [
        {name: getattr(row, name) for name in result.columns} for row in result.rows
    ]
