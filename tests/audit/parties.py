"""The parties of a federation that runs on paper only: keys, cards, and their charter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from fedit_secure.federation.card import Card, Role, sign_card
from fedit_secure.federation.certificates import make_issuer
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
from fedit_secure.federation.local_plan import Adapter, Tuning
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import FedAvg
from fedit_secure.federation.update import GridState, from_float32
from fedit_secure.secagg.keys import SigningKey

HUB = "hub"
LENGTH = 24
LAYOUT = (
    ("base_model.model.a.lora_A.weight", (2, 6)),
    ("base_model.model.a.lora_B.weight", (6, 2)),
)
EXPIRES = date(2100, 1, 1)


def drawn(name: str, count: int = 32) -> bytes:
    """So many bytes that belong to this name."""
    return hashlib.shake_256(f"audit: {name}".encode()).digest(count)


def key_of(name: str) -> SigningKey:
    """The signature key of a party, or of anybody else."""
    return SigningKey.from_seed(drawn(f"identity of {name}"))


@lru_cache(maxsize=1024)
def _issuer(role: Role, name: str) -> str:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    return make_issuer(key, role, name, start, end)


@lru_cache(maxsize=1024)
def card_of(name: str, records: int | None = None, signed_by: str = "") -> Card:
    """A party's card. `signed_by` is somebody whose key stands there instead."""
    role: Role = "aggregator" if name == HUB else "silo"
    return sign_card(
        key_of(signed_by or name),
        name=name,
        role=role,
        issuer_certificate=_issuer(role, name),
        population=f"patients of {name}" if role == "silo" else None,
        records=records,
        expires=EXPIRES,
        contact="x",
    )


@dataclass(frozen=True)
class World:
    """A charter with all that its parties hold at the beginning."""

    charter: Charter
    initial: GridState

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.charter.roster)

    def cards(self) -> Mapping[str, Card]:
        """The silos' cards, which tell no sizes, and the aggregator's."""
        return {name: card_of(name) for name in (*self.names, HUB)}


def found(
    silos: int = 4,
    rounds: int = 3,
    *,
    spares: int = 1,
    noise: float | Sequence[float] = 2.0,
    minimum: int = 0,
    weights: tuple[int, ...] | None = None,
    records: Sequence[int] | None = None,
    kind: Literal["local", "none"] = "local",
    unit: Literal["record", "person"] = "record",
    sizes: Literal["public", "secret"] = "public",
    epsilon: float = 8.0,
    predecessor: Charter | None = None,
    per_round: int | None = None,
) -> World:
    """Silos s0, s1, ... and an aggregator, before their first round.

    `records`: of each silo, 100 by default, of which 10 are expected in a batch.
    `per_round`: silos that are drawn for each round, None for all.
    """
    initial = from_float32(LAYOUT, np.zeros(LENGTH, np.float32))
    secagg = release_sizes(
        silos,
        drawn=per_round,
        length=LENGTH,
        bound=0.25,
        weights=weights,
        minimum=minimum,
        allow_pair=silos == 2,
    )
    local = kind == "local"
    noises = [noise] * silos if isinstance(noise, float) else list(noise)
    rows = []
    for i in range(silos):
        name = f"s{i:0{len(str(silos - 1))}d}"
        units = 100 if records is None else records[i]
        told = units if sizes == "public" else None
        size: dict[str, Any] = (
            {"records": told}
            if unit == "record"
            else {"records": None, "persons": told}
        )
        rows.append(
            SiloRow(
                name=name,
                identity=key_of(name).public.hex(),
                issuer_certificate=_issuer("silo", name),
                population=f"patients of {name}",
                weight=secagg.weights[i],
                dp=SiloDp(
                    sample_rate=10 / units,
                    noise_multiplier=noises[i] if local else 0.0,
                    expected_batch=10,
                ),
                **size,
            )
        )
    charter = Charter(
        federation="small",
        epoch=predecessor.epoch + 1 if predecessor else 1,
        predecessor=predecessor.digest().hex() if predecessor else None,
        run="run",
        expires=EXPIRES,
        roster=tuple(rows),
        aggregator=AggregatorRow(
            name=HUB,
            identity=key_of(HUB).public.hex(),
            issuer_certificate=_issuer("aggregator", HUB),
            address="127.0.0.1:1",
        ),
        base_model=BaseModelRow(name="none", digest="00" * 32),
        template=TemplateRow(name="alpaca", digest="00" * 32),
        max_tokens=64,
        adapter=Adapter(rank=2, initial_digest=initial.digest().hex(), layout=LAYOUT),
        tuning=Tuning(learning_rate=1e-3, local_steps=3),
        rounds=rounds,
        silos_per_round=per_round,
        dp=Dp(
            kind=kind,
            epsilon=epsilon if local else None,
            delta=1e-5 if local else None,
            clip=1.0,
            unit=unit,
            sizes=sizes,
            spare_charges=spares,
            records_per_person=4 if unit == "person" else None,
        ),
        secagg=SecAgg(
            corrupt=secagg.corrupt,
            minimum=secagg.minimum,
            ring_bits=24 if secagg.ring_bits == 24 else 32,
            bound=secagg.bound,
            allow_pair=silos == 2,
        ),
        update_rule=FedAvg(),
        schedule={},
    )
    return World(charter, initial)
