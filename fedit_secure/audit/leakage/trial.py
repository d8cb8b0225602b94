"""What the final adapter gives back of a silo's own records, tried by the silo itself.

Run where the records are, and kept there: every figure here depends on the records
without any privacy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedit_secure.audit.leakage.extraction import (
    Extraction,
    comes_back,
    extraction,
    longest_passage,
)
from fedit_secure.audit.leakage.membership import Membership, membership
from fedit_secure.audit.leakage.model_under_test import ModelUnderTest
from fedit_secure.audit.leakage.names import Names, names
from fedit_secure.audit.leakage.record_scores import RecordScores
from fedit_secure.audit.leakage.sampled_units import (
    Located,
    SampledUnits,
    occurrences,
    sample_held_out,
    sample_members,
    times,
)
from fedit_secure.audit.leakage.wording import wording_scores
from fedit_secure.errors import ConfigError
from fedit_secure.privacy.plan import DpPlan, Unit
from fedit_secure.tuning.records import Record

Scored = tuple[Located, RecordScores]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried, and how much of it.

    Attributes:
        records: most of the silo's records, and most of the held-out ones.
        prefix: tokens of a response that are given away.
        length: tokens that must come back after them.
        seed: of all draws.
    """

    records: int = 200
    prefix: int = 5
    length: int = 20
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Exposed:
    """A record to look at.

    Attributes:
        where: its place in the silo's file.
        comes_back: its response does, from the given prefix.
        start: token of the response at which its longest passage begins that the
            adapter gives back and the base model doesn't.
        tokens: that passage's length.
        gain: nats per token by which the adapter finds the response likelier.
        times: how often the record occurs in the silo's data.
        text: the passage. To be shown on demand, and never to be written down.
    """

    where: str
    comes_back: bool
    start: int
    tokens: int
    gain: float
    times: int
    text: str


@dataclass(frozen=True, slots=True)
class Leakage:
    """All that was tried. Counts are of units: records, or persons.

    `membership` is None without held-out records, `names` without strings to ask for.
    """

    trial: Trial
    unit: Unit
    members: SampledUnits
    held_out: SampledUnits | None
    membership: Membership | None
    extraction: Extraction
    names: Names | None
    exposed: tuple[Exposed, ...]

    @property
    def found(self) -> bool:
        """Whether any test found something."""
        tests = (self.membership, self.extraction, self.names)
        return any(test is not None and test.verdict == "found" for test in tests)


def leakage(
    model: ModelUnderTest,
    own: Sequence[Located],
    held_out: Sequence[Located],
    secrets: dict[str, int],
    plan: DpPlan,
    key: bytes,
    trial: Trial,
) -> Leakage:
    """Try everything that there are records for.

    Args:
        model: with the adapter under test.
        own: all of the silo's records.
        held_out: records that were in no silo's data; may be none.
        secrets: strings to ask for, with their lines; may be none.
        plan: the silo's, for its unit.
        key: which chose a person's records (`tuning.units`): the charter's digest.
        trial: how much.

    Raises:
        ConfigError: no record has a response that can be scored, on either side; or
            nothing of the held-out records was really held out.
    """
    most, seed = trial.records, trial.seed
    members = sample_members(own, held_out, plan, key, most=most, seed=seed)
    others = None
    if held_out:
        others = sample_held_out(held_out, own, plan, key, most=most, seed=seed)
    ours = _scored(model, members, "the silo's records")
    theirs = None if others is None else _scored(model, others, "the held-out records")
    told = None
    if theirs is not None:
        told = membership(
            _scores(ours),
            _scores(theirs),
            wording=wording_scores(_records(ours), _records(theirs), seed=seed),
            # Of the whole plan: a run claims it even if it stopped early.
            epsilon=plan.epsilons().published,
            delta=plan.delta or 0.0,
        )
    asked = None
    if secrets:
        everybody = sample_members(own, (), plan, key, most=len(own), seed=seed)
        asked = names(secrets, everybody.records, model.score, seed=seed)
    back = extraction(
        _scores(ours),
        None if theirs is None else _scores(theirs),
        prefix=trial.prefix,
        length=trial.length,
        explained=0.5 if told is None else told.explained,
    )
    stands_out = told is not None and told.verdict == "found"
    bar = max((_gain(r) for unit in theirs or () for _, r in unit), default=0.0)
    exposed = _exposed(
        model, ours, occurrences(own), trial, bar if stands_out else float("inf")
    )
    return Leakage(trial, plan.unit, members, others, told, back, asked, exposed)


def _scored(
    model: ModelUnderTest, sample: SampledUnits, what: str
) -> list[tuple[Scored, ...]]:
    """Every unit's records that have a response, with their scores."""
    scores = iter(model.score([record for _, record in sample.records]))
    units = []
    for unit in sample.units:
        pairs = [(located, next(scores)) for located in unit]
        units.append(tuple((at, scored) for at, scored in pairs if scored is not None))
    units = [unit for unit in units if unit]
    if not units:
        raise ConfigError(f"none of {what} has a response that can be scored")
    return units


def _scores(units: Sequence[Sequence[Scored]]) -> list[list[RecordScores]]:
    return [[scored for _, scored in unit] for unit in units]


def _records(units: Sequence[Sequence[Scored]]) -> list[list[Record]]:
    return [[record for (_, record), _ in unit] for unit in units]


def _gain(record: RecordScores) -> float:
    return record.adapter.mean - record.base.mean


def _exposed(
    model: ModelUnderTest,
    units: Sequence[Sequence[Scored]],
    counted: Counter[tuple[str, str, str]],
    trial: Trial,
    bar: float,
) -> tuple[Exposed, ...]:
    """Records that come back, and those that gained more than any held-out one."""
    rows = []
    for (where, record), scored in (pair for unit in units for pair in unit):
        back, gain = comes_back(scored, trial.prefix, trial.length), _gain(scored)
        if not back and gain <= bar:
            continue
        passage = longest_passage(scored)
        rows.append(
            Exposed(
                where=where,
                comes_back=back,
                start=passage.start,
                tokens=passage.length,
                gain=gain,
                times=times(record, counted),
                text=model.text(scored, passage.start, passage.length),
            )
        )
    rows.sort(key=lambda row: (-row.comes_back, -row.tokens, -row.gain))
    return tuple(rows)
