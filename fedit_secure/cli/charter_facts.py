"""A charter as an operator reads it: facts, the roster, and what it costs each silo."""

from __future__ import annotations

from typing import Any

from fedit_secure.federation.charter import Charter


def charter_facts(charter: Charter) -> dict[str, Any]:
    """What a charter fixes, and its digest and words."""
    params = charter.secagg_params()
    adapter, tuning, dp = charter.adapter, charter.tuning, charter.dp
    targets = adapter.targets
    return {
        "federation": charter.federation,
        "epoch": charter.epoch,
        "predecessor": charter.predecessor,
        "run": charter.run,
        "expires": charter.expires,
        "aggregator": f"{charter.aggregator.name} at {charter.aggregator.address}",
        "base_model": charter.base_model.name,
        "base_model_digest": charter.base_model.digest,
        "template": charter.template.name,
        "adapter": (
            f"LoRA rank {adapter.rank}, alpha {adapter.alpha:g}, targets "
            f"{targets if isinstance(targets, str) else ' '.join(targets)}, "
            f"{charter.length} coordinates"
        ),
        "tuning": (
            f"{charter.rounds} rounds of {tuning.local_steps} {tuning.optimizer} steps, "
            f"learning rate {tuning.learning_rate:g}, at most {charter.max_tokens} tokens"
        ),
        "privacy": (
            f"{dp.kind}: epsilon {dp.epsilon:g} at delta {dp.delta:g} per {dp.unit}"
            f"{_capped(dp.records_per_person)}, clip {dp.clip:g}, sizes {dp.sizes}, spare "
            f"charges {dp.spare_charges}"
            if dp.epsilon is not None and dp.delta is not None
            else "NONE: records are trained on without differential privacy"
        ),
        "secure_sum": (
            f"{_taking_part(charter)}, {params.corrupt} may be corrupt, "
            f"{params.threshold} open a secret, at least {params.minimum} in a sum, "
            f"{params.ring_bits} bits, bound {params.bound:g}"
        ),
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }


def _taking_part(charter: Charter) -> str:
    silos, drawn = len(charter.roster), charter.silos_per_round
    return f"{silos} silos" + (
        f", {drawn} of them drawn for each round" if drawn else ""
    )


def _capped(records: int | None) -> str:
    return "" if records is None else f" with at most {records} records"


def costliest_silo(roster: list[dict[str, Any]]) -> str:
    """The silo of `roster_table` with the largest epsilon, the first of equals."""
    costliest = max(roster, key=lambda row: row["epsilon"] or 0.0)
    return str(costliest["silo"])


def roster_table(charter: Charter) -> list[dict[str, Any]]:
    """One row a silo, with the epsilon of all its rounds and spares."""
    costs: dict[tuple[float, float], float | None] = {}
    rows = []
    for row in charter.roster:
        rates = (row.dp.sample_rate, row.dp.noise_multiplier)
        if rates not in costs:
            costs[rates] = run_epsilon(charter, row.name)
        rows.append(
            {
                "silo": row.name,
                "population": row.population,
                charter.counted: row.units,
                "weight": row.weight,
                "rate": row.dp.sample_rate,
                "noise": row.dp.noise_multiplier,
                "batch": row.dp.expected_batch,
                "epsilon": costs[rates],
            }
        )
    return rows


def run_epsilon(charter: Charter, name: str) -> float | None:
    """The published epsilon of a silo's whole plan, spares included; None without DP."""
    plan = charter.plan_for(name)
    return None if plan.kind == "none" else plan.epsilons().published
