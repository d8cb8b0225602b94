"""From a coordinator's plan and the parties' cards to a charter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import release_length
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import (
    AggregatorRow,
    BaseModelRow,
    Charter,
    Dp,
    Schedule,
    SecAgg,
    SiloDp,
    SiloRow,
    TemplateRow,
)
from fedit_secure.federation.document import Address, Line, Name, Part, describe
from fedit_secure.federation.local_plan import Adapter, Count, Lora, Tuning
from fedit_secure.federation.participation import Participation, silos_per_round
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import FedAvg, UpdateRule
from fedit_secure.federation.update import Layout
from fedit_secure.privacy.plan import COUNTED, Unit
from fedit_secure.secagg.params import SecAggParams

DEFAULT_RECORDS_PER_PERSON = 16
"""Of a person's records, how many take part. It costs no privacy: all of them share one
clip. More of them only average that person's gradient better, at that much more time."""

Weights = Literal["equal", "records", "persons"] | dict[Name, Count]
"""Of the silos' updates. Those by number go by the units': persons' records stay untold."""


class PlannedDp(Part):
    """The plan's privacy part. `sample_rate` is for secret sizes, common to all silos.

    `expected_batch` is one number for all silos, or one for each by name; it counts
    units. `unit` is by default the person where every silo's card says that its data
    names persons, else the record. `records_per_person`, for unit "person", is by
    default DEFAULT_RECORDS_PER_PERSON.
    """

    kind: Literal["local", "none"] = "local"
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] = 1.0
    expected_batch: Count | dict[Name, Count]
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    sizes: Literal["public", "secret"] = "public"
    spare_charges: Annotated[int, Field(ge=0, le=1000)] = 1
    unit: Unit | None = None
    records_per_person: Count | None = None


class PlannedSecAgg(Part):
    """The plan's secure aggregation part; what is left out follows from the roster."""

    corrupt: Annotated[int, Field(ge=0)] | None = None
    minimum: Annotated[int, Field(ge=0)] = 0
    ring_bits: Literal[24, 32] | None = None
    bound: Annotated[float, Field(gt=0)] | None = None
    allow_pair: bool = False


class PlannedSilo(Part):
    """What a silo's operator told of the silo beside its card."""

    records: Count | None = None
    persons: Count | None = None


class RunPlan(Part):
    """What the coordinator decides. `seed` draws the initial adapter; it is public."""

    federation: Name
    run: Name
    aggregator: Address
    base_model: Line
    template: Line = "alpaca"
    max_tokens: Annotated[int, Field(ge=8, le=1 << 20)] = 512
    lora: Lora = Lora()
    tuning: Tuning
    rounds: Count
    participation: Participation = 1.0
    dp: PlannedDp
    secagg: PlannedSecAgg = PlannedSecAgg()
    weights: Weights = "equal"
    update_rule: UpdateRule = FedAvg()
    schedule: Schedule = Schedule()
    expires: date
    silos: dict[Name, PlannedSilo] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


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
) -> Charter:
    """The charter of a plan, its roster sorted by name, its noise calibrated.

    `layout` and `initial_digest` (32 bytes) describe the initial `GridState`. Raises
    ConfigError naming the card or field that is wrong.
    """
    if plan.expires < today:
        raise ConfigError(f"the plan's 'expires', {plan.expires}, is in the past")
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
                **plan.lora.model_dump(),
                initial_digest=initial_digest.hex(),
                layout=layout,
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
        rate = plan.tuning.learning_rate * max(1.0, plan.tuning.b_rate_ratio or 1.0)
        bound = 1.2 * rate * plan.tuning.local_steps
    rules = (plan.secagg.corrupt, plan.secagg.minimum)
    try:
        return release_sizes(
            len(sizes),
            drawn=silos_per_round(plan.participation, len(sizes), *rules),
            length=release_length(layout, plan.lora.aggregation),
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
    steps = (plan.rounds + plan.dp.spare_charges) * plan.tuning.local_steps
    # Silos of equal rates share a calibration, which takes a while.
    sigmas = {rate: _sigma(plan, rate, steps) for rate in sorted(set(rates.values()))}
    return {
        name: SiloDp(
            sample_rate=rates[name],
            noise_multiplier=sigmas[rates[name]],
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


def _sigma(plan: RunPlan, rate: float, steps: int) -> float:
    if plan.dp.kind == "none":
        return 0.0
    if plan.dp.epsilon is None or plan.dp.delta is None:
        raise ConfigError("the plan needs 'dp.epsilon' and 'dp.delta'")
    # The accountants take a second to import, and reading a plan needs none of them.
    from fedit_secure.privacy.accountant import calibrate

    try:
        return calibrate(plan.dp.epsilon, plan.dp.delta, rate, steps)
    except ValueError as error:
        raise ConfigError(f"the plan's privacy part doesn't do: {error}") from error
