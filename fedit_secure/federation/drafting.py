"""From a coordinator's plan and the parties' cards to a charter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedit_secure.errors import ConfigError
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import (
    Adapter,
    AggregatorRow,
    BaseModelRow,
    Charter,
    Count,
    Dp,
    Lora,
    Schedule,
    SecAgg,
    SiloDp,
    SiloRow,
    TemplateRow,
    Tuning,
    UpdateRule,
)
from fedit_secure.federation.document import Address, Line, Name, Part, describe
from fedit_secure.federation.update import Layout, layout_length
from fedit_secure.secagg.params import SecAggParams


class PlannedDp(Part):
    """The plan's privacy part. `sample_rate` is for secret sizes, common to all silos.

    `expected_batch` is one number for all silos, or one for each by name.
    """

    kind: Literal["local", "none"] = "local"
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] = 1.0
    expected_batch: Count | dict[Name, Count]
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    sizes: Literal["public", "secret"] = "public"
    spare_charges: Annotated[int, Field(ge=0, le=1000)] = 1


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
    dp: PlannedDp
    secagg: PlannedSecAgg = PlannedSecAgg()
    weights: Literal["equal", "records"] | dict[Name, Count] = "equal"
    schedule: Schedule = Schedule()
    expires: date
    silos: dict[Name, PlannedSilo] = {}
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
    silos, hub = _parties(plan, cards, today)
    params = _secagg_params(plan, silos, layout)
    records = {card.name: _records(plan, card) for card in silos}
    noise = _noise(plan, records)
    rows = tuple(
        SiloRow(
            name=card.name,
            identity=card.identity,
            issuer_certificate=card.issuer_certificate,
            population=card.population or card.name,
            weight=weight,
            records=records[card.name],
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
            dp=Dp(
                kind=plan.dp.kind,
                epsilon=plan.dp.epsilon,
                delta=plan.dp.delta,
                clip=plan.dp.clip,
                sizes=plan.dp.sizes,
                spare_charges=plan.dp.spare_charges,
            ),
            secagg=SecAgg(
                corrupt=params.corrupt,
                minimum=params.minimum,
                ring_bits=params.ring_bits,
                bound=params.bound,
                allow_pair=params.allow_pair,
            ),
            update_rule=UpdateRule(),
            schedule=plan.schedule,
        )
    except ValidationError as error:
        raise ConfigError(f"the plan: {describe(error.errors()[0])}") from error
    if predecessor:
        charter.check_successor(predecessor)
    charter.check_date(today)
    return charter
