"""From a coordinator's plan and the parties' cards to a charter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from pydantic import ValidationError

from fedit_secure.errors import BudgetExhausted, ConfigError
from fedit_secure.federation.aggregation import kept_factors, release_length
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import (
    AggregatorRow,
    BaseModelRow,
    Charter,
    Dp,
    SecAgg,
    SiloDp,
    SiloRow,
    TemplateRow,
)
from fedit_secure.federation.document import describe
from fedit_secure.federation.local_plan import Adapter
from fedit_secure.federation.participation import silos_per_round
from fedit_secure.federation.personal_line import personal_since, require_steps
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.run_plan import (
    DEFAULT_RECORDS_PER_PERSON,
    PlannedDp,
    PlannedSilo,
    RunPlan,
)
from fedit_secure.federation.update import Layout
from fedit_secure.privacy.plan import COUNTED, Unit, evaluation_event
from fedit_secure.secagg.params import SecAggParams


def draft_charter(
    plan: RunPlan,
    cards: Sequence[Card],
    *,
    base_model: BaseModelRow,
    template: TemplateRow,
    layout: Layout,
    initial_digest: bytes,
    today: date,
    predecessor: Charter | None = None,
    goes_on: bool = False,
) -> Charter:
    """The charter of a plan, its roster sorted by name, its noise calibrated.

    `layout` and `initial_digest` (32 bytes) describe the initial `GridState`; `goes_on`
    says that it isn't drawn anew. Raises ConfigError naming the card or field that is
    wrong.
    """
    if plan.expires < today:
        raise ConfigError(f"the plan's 'expires', {plan.expires}, is in the past")
    require_steps(plan.lora, plan.tuning)
    silos, hub = _parties(plan, cards, today)
    unit = unit_of(plan.dp, [bool(card.names_persons) for card in silos])
    sizes = {card.name: _size(plan, unit, card) for card in silos}
    params = _secagg_params(plan, unit, sizes, layout)
    noise = _noise(plan, unit, sizes)
    rows = tuple(
        SiloRow(
            name=card.name,
            identity=card.identity,
            issuer_certificate=card.issuer_certificate,
            population=card.population or card.name,
            weight=weight,
            records=sizes[card.name] if unit == "record" else None,
            persons=sizes[card.name] if unit == "person" else None,
            dp=noise[card.name],
            held_out=own.expected if (own := plan.evaluation_of(card.name)) else None,
        )
        for card, weight in zip(silos, params.weights, strict=True)
    )
    try:
        charter = Charter(
            federation=plan.federation,
            epoch=predecessor.epoch + 1 if predecessor else 1,
            predecessor=predecessor.digest().hex() if predecessor else None,
            run=plan.run,
            expires=plan.expires,
            roster=rows,
            aggregator=AggregatorRow(
                name=hub.name,
                identity=hub.identity,
                issuer_certificate=hub.issuer_certificate,
                address=plan.aggregator,
            ),
            base_model=base_model,
            template=template,
            max_tokens=plan.max_tokens,
            adapter=Adapter(
                **plan.lora.model_dump(exclude={"init"}),
                initial_digest=initial_digest.hex(),
                layout=layout,
                personal_since=personal_since(
                    plan.lora, layout, base_model.digest, predecessor, goes_on
                ),
            ),
            tuning=plan.tuning,
            rounds=plan.rounds,
            silos_per_round=None if params.silos == len(rows) else params.silos,
            dp=Dp(
                kind=plan.dp.kind,
                epsilon=plan.dp.epsilon,
                delta=plan.dp.delta,
                clip=plan.dp.clip,
                sizes=plan.dp.sizes,
                spare_charges=plan.dp.spare_charges,
                unit=unit,
                records_per_person=_cap(plan.dp, unit),
            ),
            secagg=SecAgg(
                corrupt=params.corrupt,
                minimum=params.minimum,
                ring_bits=24 if params.ring_bits == 24 else 32,
                bound=params.bound,
                allow_pair=params.allow_pair,
            ),
            update_rule=plan.update_rule,
            schedule=plan.schedule,
            evaluation=plan.terms_of_evaluation(),
        )
    except ValidationError as error:
        raise ConfigError(f"the plan: {describe(error.errors()[0])}") from error
    if predecessor:
        charter.check_successor(predecessor)
    return charter


def unit_of(dp: PlannedDp, names_persons: Sequence[bool]) -> Unit:
    """The unit of a plan; `names_persons` says of each silo whether its data does.

    Raises ConfigError for persons where a silo's data doesn't name them.
    """
    if dp.unit == "person" and not all(names_persons):
        raise ConfigError(
            "the plan's 'dp.unit' is person, but not every silo's card says that its data "
            "names persons"
        )
    if dp.unit is not None:
        return dp.unit
    return "person" if all(names_persons) else "record"


def _cap(dp: PlannedDp, unit: Unit) -> int | None:
    if unit == "person":
        return dp.records_per_person or DEFAULT_RECORDS_PER_PERSON
    if dp.records_per_person is not None:
        raise ConfigError(
            "the plan's 'dp.records_per_person' is for unit person, and it is per record"
        )
    return None


def _parties(
    plan: RunPlan, cards: Sequence[Card], today: date
) -> tuple[list[Card], Card]:
    names: set[str] = set()
    for card in cards:
        card.check(today)
        if card.expires < plan.expires:
            raise ConfigError(
                f"the card of {card.role} {card.name!r} expires on {card.expires}, before "
                f"the charter would ({plan.expires})"
            )
        if card.name in names:
            raise ConfigError(f"two cards have the name {card.name!r}")
        names.add(card.name)
    hubs = [card for card in cards if card.role == "aggregator"]
    silos = sorted((c for c in cards if c.role == "silo"), key=lambda card: card.name)
    if len(hubs) != 1:
        raise ConfigError(f"a charter needs one aggregator's card, not {len(hubs)}")
    if len(silos) < 2:
        raise ConfigError(
            f"a charter needs at least two silos' cards, not {len(silos)}"
        )
    known = {card.name for card in silos}
    for field, section in (
        ("silos", plan.silos),
        ("weights", plan.weights),
        ("dp.expected_batch", plan.dp.expected_batch),
    ):
        unknown = sorted(set(section) - known) if isinstance(section, dict) else []
        if unknown:
            raise ConfigError(
                f"the plan's {field!r} names silo {unknown[0]!r}, which gave no card"
            )
    return silos, hubs[0]


def _size(plan: RunPlan, unit: Unit, card: Card) -> int | None:
    """A silo's number of units, from its card or the plan; None where it is secret."""
    if plan.dp.sizes == "secret":
        return None
    planned = plan.silos.get(card.name, PlannedSilo())
    if unit == "record":
        counted, told, own = "records", planned.records, card.records
    else:
        counted, told, own = "persons", planned.persons, card.persons
    if told is None and own is None:
        raise ConfigError(
            f"sizes are public, but neither the card of silo {card.name!r} nor the plan's "
            f"'silos.{card.name}.{counted}' tells its {counted}"
        )
    if None not in (told, own) and told != own:
        raise ConfigError(
            f"the plan gives silo {card.name!r} {told} {counted}, its card {own}"
        )
    return told if own is None else own


def _secagg_params(
    plan: RunPlan, unit: Unit, sizes: Mapping[str, int | None], layout: Layout
) -> SecAggParams:
    bound = plan.secagg.bound
    if bound is None:
        if plan.tuning.optimizer != "adamw":
            raise ConfigError(
                "the plan needs 'secagg.bound', the largest coordinate of an update, "
                f"because the optimizer {plan.tuning.optimizer!r} sets none"
            )
        # AdamW moves a coordinate by about the learning rate a step.
        sends_b = "B" not in kept_factors(plan.lora.aggregation)
        ratio = (plan.tuning.b_rate_ratio or 1.0) if sends_b else 1.0
        rate = plan.tuning.learning_rate * max(1.0, ratio)
        bound = 1.2 * rate * plan.tuning.local_steps
    rules = (plan.secagg.corrupt, plan.secagg.minimum)
    try:
        return release_sizes(
            len(sizes),
            drawn=silos_per_round(plan.participation, len(sizes), *rules),
            length=release_length(layout, plan.lora.aggregation)
            + (plan.evaluation is not None),
            bound=bound,
            ring_bits=plan.secagg.ring_bits,
            weights=[_weight(plan, unit, *silo) for silo in sizes.items()],
            corrupt=plan.secagg.corrupt,
            minimum=plan.secagg.minimum,
            allow_pair=plan.secagg.allow_pair,
        )
    except ValueError as error:
        raise ConfigError(f"the plan's sizes don't do: {error}") from error


def _weight(plan: RunPlan, unit: Unit, name: str, size: int | None) -> int:
    if plan.weights == "equal":
        return 1
    if isinstance(plan.weights, str):
        if plan.weights != COUNTED[unit]:
            raise ConfigError(
                f"the plan's 'weights' go by {plan.weights}, but it is per {unit}: they "
                f"may go by {COUNTED[unit]}"
            )
        if size is None:
            raise ConfigError(
                f"weights by {plan.weights} would tell sizes that are secret"
            )
        return size
    if name not in plan.weights:
        raise ConfigError(f"the plan's 'weights' lacks silo {name!r}")
    return plan.weights[name]


def silo_noise(plan: RunPlan, unit: Unit, name: str, units: int | None) -> SiloDp:
    """One silo's share as `draft_charter` would calibrate it.

    `units` is the number of its records or persons, None for secret sizes. Raises what
    `draft_charter` does.
    """
    return _noise(plan, unit, {name: units})[name]


def _noise(
    plan: RunPlan, unit: Unit, sizes: Mapping[str, int | None]
) -> dict[str, SiloDp]:
    """Each silo's q, sigma and B-bar; sigma is the smallest that keeps to epsilon."""
    batches = {name: _expected_batch(plan, name) for name in sizes}
    rates = {
        name: _sample_rate(plan, unit, name, batches[name], count)
        for name, count in sizes.items()
    }
    # Silos of equal rates share a calibration, which takes a while.
    asked = {
        name: (rates[name], own.noise_multiplier if own else 0.0)
        for name in sizes
        for own in (plan.evaluation_of(name),)
    }
    sigmas = {costs: _sigma(plan, *costs) for costs in sorted(set(asked.values()))}
    return {
        name: SiloDp(
            sample_rate=rates[name],
            noise_multiplier=sigmas[asked[name]],
            expected_batch=batches[name],
        )
        for name in sizes
    }


def _expected_batch(plan: RunPlan, name: str) -> int:
    if isinstance(plan.dp.expected_batch, int):
        return plan.dp.expected_batch
    if name not in plan.dp.expected_batch:
        raise ConfigError(f"the plan's 'dp.expected_batch' lacks silo {name!r}")
    return plan.dp.expected_batch[name]


def _sample_rate(
    plan: RunPlan, unit: Unit, name: str, batch: int, count: int | None
) -> float:
    if count is None:
        if plan.dp.sample_rate is None:
            raise ConfigError(
                "the plan's sizes are secret, so it needs 'dp.sample_rate'"
            )
        return plan.dp.sample_rate
    if plan.dp.sample_rate is not None:
        raise ConfigError(
            "the plan's sizes are public, so 'dp.sample_rate' follows from them; leave it "
            "out"
        )
    if batch > count:
        raise ConfigError(
            f"silo {name!r} has {count} {COUNTED[unit]}, fewer than its expected batch of "
            f"{batch}"
        )
    return batch / count


def _sigma(plan: RunPlan, rate: float, evaluation: float) -> float:
    if plan.dp.kind == "none":
        return 0.0
    if plan.dp.epsilon is None or plan.dp.delta is None:
        raise ConfigError("the plan needs 'dp.epsilon' and 'dp.delta'")
    # The accountants take a second to import, and reading a plan needs none of them.
    from fedit_secure.privacy.accountant import calibrate
    from fedit_secure.privacy.mechanisms import PrivacyAccountingError

    charges = plan.rounds + plan.dp.spare_charges
    steps = charges * plan.tuning.local_steps
    extra = evaluation_event(evaluation, charges) if evaluation else None
    try:
        return calibrate(plan.dp.epsilon, plan.dp.delta, rate, steps, spent=extra)
    except BudgetExhausted as error:
        raise ConfigError(
            f"the plan's 'evaluation' with noise multiplier {evaluation:g} leaves nothing "
            f"of epsilon {plan.dp.epsilon:g} for the tuning"
        ) from error
    except (ValueError, PrivacyAccountingError) as error:
        raise ConfigError(f"the plan's privacy part doesn't do: {error}") from error
