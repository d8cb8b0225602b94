"""The charter: the one file that every party approves, and the root of all trust.

It names the parties by key, and fixes everything that must not be decided while a run
is under way: base model, template, initial adapter, tuning plan, noise, thresholds,
weights. Its digest R is in every message. A new epoch is a new file that names its
predecessor; that is also how a silo joins, leaves or is revoked.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.aggregation import places, release_length, released_factors
from fedit_secure.federation.card import Card
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.document import (
    Address,
    Document,
    Hex32,
    Line,
    Name,
    Part,
    absent_if_none,
)
from fedit_secure.federation.evaluation import Evaluation, check_rows, plan_of
from fedit_secure.federation.local_plan import Adapter, Count, Tuning
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import ServerRule, UpdateRule
from fedit_secure.federation.update import layout_length
from fedit_secure.federation.words import words
from fedit_secure.privacy.plan import COUNTED, DpPlan, Unit
from fedit_secure.secagg.params import Member, Roster, SecAggParams
from fedit_secure.secagg.transcript import digest

Seconds = Annotated[float, Field(gt=0, le=90 * 86_400)]


class SiloDp(Part):
    """One silo's own share of the DP plan: sample rate q, noise multiplier, B-bar.

    q is of a unit, and B-bar a number of units.
    """

    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    expected_batch: Count


class SiloRow(Part):
    """One silo as the charter pins it.

    Where sizes are public, `records` is the number of records of a charter per record,
    and `persons` that of the persons of a charter per person, which then doesn't tell
    the records. Where they're secret, neither is there. `held_out` is how many units the
    silo's evaluation expects, which are among them; None for none.
    """

    name: Name
    identity: Hex32
    issuer_certificate: str
    population: Line
    weight: Annotated[int, Field(ge=1, lt=2**32)]
    records: Count | None
    dp: SiloDp
    persons: Count | None = absent_if_none()
    held_out: Count | None = absent_if_none()

    @property
    def units(self) -> int | None:
        """How many privacy units the silo has; None where sizes are secret."""
        return self.records if self.persons is None else self.persons


class AggregatorRow(Part):
    """The aggregator as the charter pins it, and the one port that silos dial."""

    name: Name
    identity: Hex32
    issuer_certificate: str
    address: Address


class BaseModelRow(Part):
    """The base model's name for people, and its `base_model_digest` in hex."""

    name: Line
    digest: Hex32


class TemplateRow(Part):
    """The prompt template's name and the digest of its file."""

    name: Line
    digest: Hex32


class Dp(Part):
    """What every silo's guarantee has in common; `epsilon` covers rounds and spares.

    `records_per_person` is k, the most records that a person takes part with; it is
    there for unit "person" only.
    """

    kind: Literal["local", "none"] = "local"
    epsilon: Annotated[float, Field(gt=0)] | None
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    clip: Annotated[float, Field(gt=0)]
    unit: Unit = "record"
    sizes: Literal["public", "secret"] = "public"
    spare_charges: Annotated[int, Field(ge=0, le=1000)] = 1
    records_per_person: Count | None = absent_if_none()


class SecAgg(Part):
    """Sizes of a release; what they must satisfy is in `SecAggParams`."""

    corrupt: Annotated[int, Field(ge=0)]
    minimum: Count
    ring_bits: Literal[24, 32]
    bound: Annotated[float, Field(gt=0)]
    allow_pair: bool


class Schedule(Part):
    """Seconds. `ready_slot`: what follows work on records leaves a silo only at multiples
    of it after the offer, to hide how long that took.

    `tune_deadline`: after an offer, for the local tuning. `phase_deadline`: for one
    phase of a release. `silo_deadline`: without progress, a silo gives an attempt up.
    """

    tune_deadline_seconds: Seconds = 3600.0
    phase_deadline_seconds: Seconds = 60.0
    silo_deadline_seconds: Seconds = 600.0
    ready_slot_seconds: Seconds = 1.0


class Charter(Document):
    """See the module. Roster order is the silos' index in every message."""

    # Ten thousand silos and as many tensors have less than half of it.
    most_bytes: ClassVar[int] = 64 << 20

    format: Literal["fedit/charter/v1"] = "fedit/charter/v1"
    federation: Name
    epoch: Annotated[int, Field(ge=1, lt=2**32)]
    predecessor: Hex32 | None
    run: Name
    expires: date
    roster: Annotated[tuple[SiloRow, ...], Field(min_length=2, max_length=10_000)]
    aggregator: AggregatorRow
    base_model: BaseModelRow
    template: TemplateRow
    max_tokens: Annotated[int, Field(ge=8, le=1 << 20)]
    adapter: Adapter
    tuning: Tuning
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    # Drawn for each round by `cohort.draw`; absent where all take part in all.
    silos_per_round: Annotated[int, Field(ge=3)] | None = absent_if_none()
    dp: Dp
    secagg: SecAgg
    update_rule: UpdateRule
    schedule: Schedule
    evaluation: Evaluation | None = absent_if_none()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if (self.epoch == 1) != (self.predecessor is None):
            raise ValueError("epoch 1, and no other, has no predecessor")
        if (self.adapter.personal_since or 0) >= self.epoch:
            raise ValueError("adapter.personal_since isn't an earlier epoch")
        self.secagg_roster()
        if (self.silos_per_round or 0) >= len(self.roster):
            raise ValueError("silos_per_round is left out where all silos take part")
        least = self.secagg_params().minimum
        if least != self.secagg.minimum:
            raise ValueError(f"secagg.minimum must be m_min, which is {least} here")
        for row in self.roster:
            _require_issuer(f"silo {row.name!r}", row.issuer_certificate)
        _require_issuer("the aggregator", self.aggregator.issuer_certificate)
        certificates = {row.issuer_certificate for row in self.roster}
        certificates.add(self.aggregator.issuer_certificate)
        if len(certificates) <= len(self.roster):
            raise ValueError("two parties share an issuer certificate")
        self._check_privacy()
        return self

    def _check_privacy(self) -> None:
        if self.dp.kind == "none":
            if self.dp.epsilon is not None or self.dp.delta is not None:
                raise ValueError("dp of kind none can't name an epsilon or a delta")
        elif self.dp.epsilon is None or self.dp.delta is None:
            raise ValueError("dp of kind local must name its epsilon and delta")
        if self.dp.sizes == "secret":
            facts = {(r.units, r.weight, r.dp, r.held_out) for r in self.roster}
            if len(facts) > 1 or self.roster[0].units is not None:
                raise ValueError(
                    "secret sizes need equal weights, one dp row for all, no "
                    f"{self.counted}"
                )
        held_out = [row.held_out for row in self.roster]
        check_rows(self.evaluation, held_out, private=self.dp.kind != "none")
        for row in self.roster:
            self._check_size(row)
            self.plan_for(row.name)

    def _check_size(self, row: SiloRow) -> None:
        other = row.persons if self.dp.unit == "record" else row.records
        if other is not None:
            told = "persons" if self.counted == "records" else "records"
            raise ValueError(
                f"the charter is per {self.dp.unit}, but silo {row.name!r} tells {told}"
            )
        if self.dp.sizes == "public" and row.units is None:
            raise ValueError(
                f"sizes are public, but silo {row.name!r} tells no {self.counted}"
            )
        if row.units and row.dp.sample_rate != row.dp.expected_batch / row.units:
            raise ValueError(
                f"silo {row.name!r}: sample rate isn't expected batch / {self.counted}"
            )

    @property
    def counted(self) -> Literal["records", "persons"]:
        """What the privacy units are, in the plural."""
        return COUNTED[self.dp.unit]

    def digest(self) -> bytes:
        """R: 32 bytes over the file's bytes."""
        return digest("fedit/charter/v1", self.to_bytes())

    def words(self) -> tuple[str, ...]:
        """R as fifteen words, for operators to compare."""
        return words(self.digest())

    def silo_index(self, name: str) -> int:
        """A silo's index in the roster; raises PolicyRefusal if it isn't in it."""
        for index, row in enumerate(self.roster):
            if row.name == name:
                return index
        raise PolicyRefusal(f"silo {name!r} isn't in the roster of {self.federation!r}")

    def row(self, name: str) -> SiloRow:
        """A silo's row; raises PolicyRefusal if it isn't in the roster."""
        return self.roster[self.silo_index(name)]

    @property
    def length(self) -> int:
        """Coordinates of the adapter."""
        return layout_length(self.adapter.layout)

    def released(self, round: int) -> tuple[slice, ...]:
        """Where in the adapter's flat vector is what this round releases."""
        adapter = self.adapter
        return places(adapter.layout, released_factors(adapter.aggregation, round))

    @property
    def release_length(self) -> int:
        """Coordinates of every release: zeros follow where a round has fewer, and last
        comes the evaluation's.
        """
        adapter = self.adapter
        tuned = release_length(adapter.layout, adapter.aggregation)
        return tuned + (self.evaluation is not None)

    @property
    def server_rule(self) -> ServerRule:
        """What moves the global state: `update_rule`, but in a simulation with its own."""
        return self.update_rule

    @property
    def state_length(self) -> int:
        """Integers of the global state: the adapter, and what the server rule remembers."""
        return self.length * (1 + len(self.server_rule.moments))

    def secagg_params(self) -> SecAggParams:
        """The sizes of every release. Raises ValueError naming a broken inequality."""
        return release_sizes(
            len(self.roster),
            drawn=self.silos_per_round,
            length=self.release_length,
            bound=self.secagg.bound,
            ring_bits=self.secagg.ring_bits,
            weights=[row.weight for row in self.roster],
            corrupt=self.secagg.corrupt,
            minimum=self.secagg.minimum,
            allow_pair=self.secagg.allow_pair,
        )

    def secagg_roster(self) -> Roster:
        """Names and identity keys of the silos in order, and the aggregator's key."""
        return Roster(
            members=tuple(
                Member(row.name, bytes.fromhex(row.identity)) for row in self.roster
            ),
            aggregator_key=bytes.fromhex(self.aggregator.identity),
        )

    def plan_for(self, name: str) -> DpPlan:
        """The DP plan of one silo; raises PolicyRefusal if it isn't in the roster."""
        row = self.row(name)
        own = row.dp
        return DpPlan(
            kind=self.dp.kind,
            sample_rate=own.sample_rate,
            noise_multiplier=own.noise_multiplier,
            clip=self.dp.clip,
            expected_batch=own.expected_batch,
            local_steps=self.tuning.local_steps,
            rounds=self.rounds,
            spare_charges=self.dp.spare_charges,
            delta=self.dp.delta,
            target_epsilon=self.dp.epsilon,
            unit=self.dp.unit,
            sizes=self.dp.sizes,
            records_per_person=self.dp.records_per_person,
            evaluation=plan_of(self.evaluation, row.held_out),
        )

    def check_card(self, card: Card) -> None:
        """Raises PolicyRefusal unless this silo's card is in the roster unaltered."""
        row = self.row(card.name)
        pinned = (row.identity, row.issuer_certificate, row.population)
        if card.role != "silo" or pinned != (
            card.identity,
            card.issuer_certificate,
            card.population,
        ):
            raise PolicyRefusal(
                f"the charter's row for silo {card.name!r} isn't this silo's own card"
            )
        for told, own in ((row.records, card.records), (row.persons, card.persons)):
            if own is not None and told not in (None, own):
                raise PolicyRefusal(
                    f"the charter gives silo {card.name!r} {told} {self.counted}, its "
                    f"card {own}"
                )

    def check_date(self, today: date) -> None:
        """Raises PolicyRefusal if the charter has expired."""
        if self.expires < today:
            raise PolicyRefusal(
                f"the charter of {self.federation!r}, epoch {self.epoch}, expired on "
                f"{self.expires}"
            )

    def refusal_of(self, name: str, other: bytes) -> PolicyRefusal:
        """Why silo `name`, which goes by another charter (its R), can't join this one."""
        which = "another charter"
        if self.predecessor == other.hex():
            which = f"epoch {self.epoch - 1}, which this one has followed"
        return PolicyRefusal(
            f"epoch {self.epoch} of {self.federation!r} is served here, and silo {name!r} "
            f"goes by {which}: its operator has to approve this one first"
        )

    def check_successor(self, of: Charter) -> None:
        """Raises ConfigError unless this is the next epoch after the charter `of`."""
        if self.federation != of.federation:
            raise ConfigError(
                f"a charter of {self.federation!r} can't follow {of.federation!r}'s"
            )
        if self.epoch != of.epoch + 1 or self.predecessor != of.digest().hex():
            raise ConfigError(
                f"epoch {self.epoch} of {self.federation!r} doesn't name the given "
                f"epoch {of.epoch} as its predecessor"
            )


def _require_issuer(party: str, pem: str) -> None:
    # TLS takes every certificate of a PEM text for a root: a second one would be a
    # second party's way in.
    try:
        check_issuer(pem)
    except ConfigError as error:
        raise ValueError(f"{party}: {error}") from error
