"""The closed, versioned schema of ledger entries, and their one encoding as bytes.

An entry is one line of canonical JSON: ASCII, sorted keys, no spaces, no NaN. Entries say
what was done, never what it cost: an epsilon is computed from them, by this release's
accountants or by better ones. They hold nothing that depends on the records: no batch
size, no loss, no count. Kinds are added, with a version of their own; none is redefined.
A field may come to take one more value, as `unit` did for "person", and a kind a field that
isn't there where it says nothing, as an intent's `evaluation`: every entry that was valid
before keeps its bytes and its meaning, and a reader who doesn't know the value or the
field refuses the entry instead of misreading it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.entry import (
    Count,
    Digest,
    Entry,
    Order,
    Part,
    Positive,
    PublicKey,
    Round,
    Signature,
    Text,
)
from fedit_secure.privacy.mechanisms import charges_event
from fedit_secure.privacy.plan import DpPlan, Kind, Sizes, Unit

if TYPE_CHECKING:
    from dp_accounting import DpEvent

MAX_ENTRY_BYTES = 64 * 1024
_EXCERPT = 200  # characters of what is wrong with an entry

AbortReason = Literal["skipped", "tuning-failed", "interrupted", "withheld", "stopped"]


class Opened(Entry):
    """The first entry: whose records these are, and what they may ever cost.

    `cap_epsilon` at `delta` is the lifetime cap, null where the silo's policy sets none;
    `filter_order` the Renyi order of the lifetime filter; `fingerprints` a commitment to
    keyed fingerprints of the records; `identity` the silo's signature key; `software`
    the versions of whatever the guarantee rests on. `unit` is the ledger's for good: what
    was charged per record can't be told as a person's, nor the other way round.
    """

    kind: Literal["opened"] = "opened"
    version: Literal[1] = 1
    silo: Text
    identity: PublicKey
    population: Text
    unit: Unit = "record"
    adjacency: Literal["zero-out", "add-or-remove"]
    delta: Annotated[float, Field(gt=0, lt=1)]
    cap_epsilon: Positive | None
    filter_order: Order
    fingerprints: Digest
    software: Text


class ChargedEvaluation(Part):
    """What a charge releases of the held-out units: see `evaluation.EvaluationPlan`."""

    clip: Positive
    noise_multiplier: Annotated[float, Field(ge=0)]
    expected: Count


class Intent(Entry):
    """One charge, durable before the first record is sampled. Nothing takes it back.

    `state_digest` is of the adapter that tuning starts from; `charges` is what the
    charter plans in all, spares included; the DP parameters are those of `DpPlan`,
    `clip` null without DP. They are per `unit`. How many records a person takes part
    with isn't here: it is in the charter, and the cost doesn't depend on it. `evaluation`
    is there where the round also releases a figure of the held-out units.
    """

    kind: Literal["intent"] = "intent"
    version: Literal[1] = 1
    charter: Digest
    run: Text
    round: Round
    state_digest: Digest
    dp: Kind
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    clip: Positive | None
    expected_batch: Count
    steps: Count
    charges: Count
    weight: Count
    unit: Unit
    sizes: Sizes
    dtype: Literal["float32", "float64"]
    evaluation: ChargedEvaluation | None = Field(
        default=None, exclude_if=lambda value: value is None
    )

    @model_validator(mode="after")
    def _noise_or_none(self) -> Self:
        private, more = self.dp == "local", self.evaluation_noise
        if private != (self.noise_multiplier > 0) or private != (self.clip is not None):
            raise ValueError("noise and clip are there under DP, and only then")
        if more is not None and private != (more > 0):
            raise ValueError("an evaluation has noise under DP, and only then")
        return self

    @property
    def evaluation_noise(self) -> float | None:
        """The evaluation's noise multiplier, None where nothing is evaluated."""
        return None if self.evaluation is None else self.evaluation.noise_multiplier

    def event(self, times: int = 1) -> DpEvent:
        """What so many such charges release about the records, at most."""
        noise, more = self.noise_multiplier, self.evaluation_noise
        return charges_event(self.sample_rate, noise, self.steps, times, more)

    def plan(self) -> tuple[object, ...]:
        """What all intents of one charter have in common."""
        return (
            self.run,
            self.dp,
            self.sample_rate,
            self.noise_multiplier,
            self.clip,
            self.expected_batch,
            self.steps,
            self.charges,
            self.weight,
            self.unit,
            self.sizes,
            self.dtype,
            self.evaluation,
        )

    @classmethod
    def of(
        cls,
        plan: DpPlan,
        *,
        charter: str,
        run: str,
        round: int,
        state_digest: str,
        weight: int,
        dtype: Literal["float32", "float64"],
    ) -> Intent:
        """The intent of one round under a plan."""
        arguments, own = plan.step_arguments(), plan.evaluation
        return cls(
            charter=charter,
            run=run,
            round=round,
            state_digest=state_digest,
            dp=plan.kind,
            sample_rate=arguments.sample_rate,
            noise_multiplier=arguments.noise_multiplier,
            clip=arguments.clip,
            expected_batch=arguments.expected_batch,
            steps=arguments.steps,
            charges=plan.charges,
            weight=weight,
            unit=plan.unit,
            sizes=plan.sizes,
            dtype=dtype,
            evaluation=None if own is None else ChargedEvaluation(**own.as_dict()),
        )


class Committed(Entry):
    """Tuning has ended with an update; its digest is salted."""

    kind: Literal["committed"] = "committed"
    version: Literal[1] = 1
    charter: Digest
    round: Round
    update_digest: Digest


class Masked(Entry):
    """The update was masked, once, for the attempt `ctx`."""

    kind: Literal["masked"] = "masked"
    version: Literal[1] = 1
    ctx: Digest


class Revealed(Entry):
    """The silo revealed shares in the attempt: its update may be in a sum now."""

    kind: Literal["revealed"] = "revealed"
    version: Literal[1] = 1
    ctx: Digest


class Voided(Entry):
    """The silo will never reveal in the attempt."""

    kind: Literal["voided"] = "voided"
    version: Literal[1] = 1
    ctx: Digest


class Renewed(Entry):
    """A void certificate freed the update masked in the attempt; `certificate` is its
    digest.
    """

    kind: Literal["renewed"] = "renewed"
    version: Literal[1] = 1
    ctx: Digest
    certificate: Digest


class Released(Entry):
    """A round ended in a state. `release_digest` binds ctx, key set, contributors, sum.

    `contributors`, sorted, and `sum_digest` are null at a silo that took the state from
    the quorum's certificate without seeing the sum.
    """

    kind: Literal["released"] = "released"
    version: Literal[1] = 1
    charter: Digest
    round: Round
    release_digest: Digest
    state_digest: Digest
    contributors: tuple[Text, ...] | None = None
    sum_digest: Digest | None = None

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        names = self.contributors
        if names is not None and list(names) != sorted(set(names)):
            raise ValueError("the contributors are sorted and distinct")
        return self


class Aborted(Entry):
    """The round brought no sum. Its charge stays."""

    kind: Literal["aborted"] = "aborted"
    version: Literal[1] = 1
    charter: Digest
    round: Round
    reason: AbortReason = "skipped"


class DataVersion(Entry):
    """The population's records changed: the commitment before and after."""

    kind: Literal["data-version"] = "data-version"
    version: Literal[1] = 1
    old: Digest
    new: Digest


class CapChanged(Entry):
    """The operator changed the lifetime cap, for a reason, and signed that."""

    kind: Literal["cap-changed"] = "cap-changed"
    version: Literal[1] = 1
    cap_epsilon: Positive
    reason: Text
    signature: Signature


class KeyRotated(Entry):
    """The silo's signature key changed; signed by the old one."""

    kind: Literal["key-rotated"] = "key-rotated"
    version: Literal[1] = 1
    old: PublicKey
    new: PublicKey
    signature: Signature


class AuditRun(Entry):
    """A canary audit on records that are public or synthetic, which costs nothing.

    One on the population's own records is an intent under a charter of its own.
    """

    kind: Literal["audit-run"] = "audit-run"
    version: Literal[1] = 1
    records: Literal["public", "synthetic"]
    data_digest: Digest
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Positive
    clip: Positive
    expected_batch: Count
    steps: Count


Event = (
    Opened
    | Intent
    | Committed
    | Masked
    | Revealed
    | Voided
    | Renewed
    | Released
    | Aborted
    | DataVersion
    | CapChanged
    | KeyRotated
    | AuditRun
    | Lost
    | Inherited
)

_EVENTS: TypeAdapter[Event] = TypeAdapter(
    Annotated[Event, Field(discriminator="kind")],
    config=ConfigDict(hide_input_in_errors=True),
)


def decode(entry: bytes) -> Event:
    """The event of an entry.

    Raises ValueError, in one sentence, for a kind or field outside the schema, a value
    out of range, and for every encoding of an event but the canonical one.
    """
    if len(entry) > MAX_ENTRY_BYTES:
        raise ValueError(f"it is longer than {MAX_ENTRY_BYTES} bytes")
    try:
        event = _EVENTS.validate_json(entry)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        # Both may quote the entry: an unknown key, an unknown kind.
        raise ValueError(_brief(f"{where}: {first['msg']}")) from None
    if event.to_bytes() != entry:
        raise ValueError("its bytes aren't canonical JSON")
    return event


def _brief(text: str) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= _EXCERPT else f"{shown[:_EXCERPT]}..."
