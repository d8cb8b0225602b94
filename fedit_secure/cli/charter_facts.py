"""A charter as an operator reads it: facts, the roster, and what it costs each silo."""

from __future__ import annotations

from typing import Any

from fedit_secure.federation.aggregation import kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.readings import reading_of


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
        "aggregation": _aggregation(charter),
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
        "evaluation": evaluation_words(charter),
        "secure_sum": (
            f"{_taking_part(charter)}, {params.corrupt} may be corrupt, "
            f"{params.threshold} open a secret, at least {params.minimum} in a sum, "
            f"{params.ring_bits} bits, bound {params.bound:g}"
        ),
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }


def _aggregation(charter: Charter) -> str:
    adapter = charter.adapter
    name = adapter.aggregation or "fedit"
    if not kept_factors(adapter.aggregation):
        return name
    since = adapter.personal_since
    begins = "the initial state's" if since is None else f"its own since epoch {since}"
    return f"{name}: A is summed; each silo keeps a B, which begins with {begins}"


def evaluation_words(charter: Charter) -> str:
    """What a round releases of held-out records, how noisy it is, and what it costs."""
    terms = charter.evaluation
    if terms is None:
        return "nothing of held-out records is released"
    plans = [charter.plan_for(row.name).evaluation for row in charter.roster]
    told = [plan for plan in plans if plan is not None]
    whole = reading_of(charter, 0, range(len(charter.roster)))
    assert whole is not None
    one = "record" if charter.dp.unit == "record" else "person"
    if not terms.noise_multiplier:
        return (
            f"each round releases the mean response NLL of {len(told)} silos' held-out "
            f"{charter.counted} WITHOUT noise, each {one}'s clipped to {terms.clip:g} nats"
        )
    most = max(plan.deviation for plan in told)
    return (
        f"each round releases the mean response NLL of {len(told)} silos' held-out "
        f"{charter.counted}, each {one}'s clipped to {terms.clip:g} nats, with noise of "
        f"standard deviation {whole.deviation:.3g} nats if all are in the sum, and "
        f"{most:.3g} at most at a silo; epsilon counts it, which by itself would be "
        f"{_evaluation_epsilon(charter):.3g}"
    )


def _evaluation_epsilon(charter: Charter) -> float:
    from fedit_secure.privacy.accountant import epsilons
    from fedit_secure.privacy.plan import evaluation_event

    assert charter.evaluation is not None
    assert charter.dp.delta is not None
    times = charter.rounds + charter.dp.spare_charges
    event = evaluation_event(charter.evaluation.noise_multiplier, times)
    return epsilons(event, charter.dp.delta).published


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
    costs: dict[tuple[float, float, bool], float | None] = {}
    rows = []
    for row in charter.roster:
        evaluates = row.held_out is not None
        rates = (row.dp.sample_rate, row.dp.noise_multiplier, evaluates)
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
                **({} if charter.evaluation is None else {"held_out": row.held_out}),
                "epsilon": costs[rates],
            }
        )
    return rows


def run_epsilon(charter: Charter, name: str) -> float | None:
    """The published epsilon of a silo's whole plan, spares included; None without DP."""
    plan = charter.plan_for(name)
    return None if plan.kind == "none" else plan.epsilons().published
