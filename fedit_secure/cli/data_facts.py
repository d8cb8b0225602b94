"""What `fedit data check` says about a silo's records. Nothing of it leaves the silo."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import UNITS_PER_DELTA
from fedit_secure.tuning.base_model import load_tokenizer, resolve_base_model
from fedit_secure.tuning.examples import load_template, make_examples, uncut_lengths
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.units import held_out_units, persons_of

_LONGEST_LIST = 10


def data_facts(
    source: DataSource,
    model: str | None,
    charter: Charter | None,
    records: Sequence[Record],
) -> dict[str, Any]:
    """Every count by its name; None is what the data or a missing charter doesn't say.

    Records, duplicates and the largest delta of each unit need nothing else; persons need
    a column that names them; the cap of records per person and all that the cut to
    `max_tokens` does need a charter, the cut the base model too. Raises ConfigError.
    """
    facts = {
        "records": len(records),
        "records_with_input": sum(bool(record.input.strip()) for record in records),
        "categories": len({r.category for r in records if r.category is not None}),
        "longest_characters": max(
            len(r.instruction) + len(r.input) + len(r.response) for r in records
        ),
    }
    persons = None if source.columns.person is None else persons_of(records)
    facts |= _duplicates(records, named=persons is not None)
    facts |= _persons(records, persons)
    cap = charter.dp.records_per_person if charter is not None else None
    facts |= _capped(persons, cap)
    if source.held_out is not None:
        facts |= {
            "held_out_records": held_out_units(records, "record"),
            "held_out_persons": None
            if persons is None
            else held_out_units(records, "person"),
        }
    facts |= {
        "charter_unit": charter and charter.dp.unit,
        "largest_delta_per_record": 1 / (UNITS_PER_DELTA * len(records)),
        "largest_delta_per_person": (
            None if persons is None else 1 / (UNITS_PER_DELTA * len(persons))
        ),
    }
    return facts | _cuts(model, charter, records)


def duplicates_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How often equal records occur: a guarantee per record doesn't cover duplicates."""
    times = Counter(Counter(_content(record) for record in records).values())
    return [
        {"times": count, "distinct_records": times[count]}
        for count in sorted(times, reverse=True)[:_LONGEST_LIST]
        if count > 1
    ]


def persons_table(
    columns: ColumnMap, records: Sequence[Record]
) -> list[dict[str, Any]]:
    """How many persons have 1, 2, 3-4, 5-8, ... records; none where no column names them."""
    if columns.person is None:
        return []
    doublings = Counter((len(own) - 1).bit_length() for own in persons_of(records))
    return [
        {"records_of_a_person": _range(power), "persons": doublings[power]}
        for power in sorted(doublings)
    ]


def _range(power: int) -> str:
    least, most = (1 << power >> 1) + 1, 1 << power
    return str(most) if least >= most else f"{least}-{most}"


def _duplicates(records: Sequence[Record], *, named: bool) -> dict[str, Any]:
    holders: defaultdict[tuple[str, str, str], list[str | None]] = defaultdict(list)
    for record in records:
        holders[_content(record)].append(record.person)
    repeated = [who for who in holders.values() if len(who) > 1]
    # Each record without an identifier counts as somebody else.
    shared = [who for who in repeated if who.count(None) > 1 or len(set(who)) > 1]
    return {
        "exact_duplicates": sum(map(len, repeated)),
        "most_times_a_record_occurs": max(map(len, holders.values())),
        "exact_duplicates_across_persons": sum(map(len, shared)) if named else None,
    }


def _persons(
    records: Sequence[Record], persons: list[list[int]] | None
) -> dict[str, Any]:
    nothing = ("persons", "records_without_a_person", "records_per_person_median",
               "records_per_person_90_percent", "records_per_person_most")  # fmt: skip
    if persons is None:
        return dict.fromkeys(nothing)
    sizes = sorted(map(len, persons))
    figures = (
        len(persons),
        sum(record.person is None for record in records),
        _quantile(sizes, 0.5),
        _quantile(sizes, 0.9),
        sizes[-1],
    )
    return dict(zip(nothing, figures, strict=True))


def _quantile(ordered: list[int], share: float) -> int:
    """The smallest size that at least this share of the persons doesn't exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _capped(persons: list[list[int]] | None, cap: int | None) -> dict[str, Any]:
    over = [len(own) for own in persons or () if cap is not None and len(own) > cap]
    known = persons is not None and cap is not None
    return {
        "records_per_person_at_most": cap,
        "persons_with_more": len(over) if known else None,
        "records_left_out": sum(over) - (cap or 0) * len(over) if known else None,
    }


def _cuts(
    model: str | None, charter: Charter | None, records: Sequence[Record]
) -> dict[str, Any]:
    if charter is None or model is None:
        return dict.fromkeys(_CUTS)
    tokenizer = load_tokenizer(resolve_base_model(model))
    agreed = charter.template
    template = load_template(agreed.name, tokenizer, agreed.digest)
    examples = make_examples(records, tokenizer, template, charter.max_tokens)
    prompts, responses = uncut_lengths(records, tokenizer, template)
    rows = list(zip(examples, prompts, responses, strict=True))
    whole = sum(prompts) + sum(responses)
    kept = sum(len(example.tokens) for example in examples)
    cut = [(e.first_label < p, e.labels < r) for e, p, r in rows]
    figures = (
        charter.max_tokens,
        sum(prompt or response for prompt, response in cut),
        sum(prompt for prompt, _ in cut),
        sum(response for _, response in cut),
        (whole - kept) / whole,
        sum(example.labels == 0 for example in examples),
    )
    return dict(zip(_CUTS, figures, strict=True))


_CUTS = (
    "max_tokens",
    "records_cut",
    "prompts_cut",
    "responses_cut",
    "share_of_tokens_lost",
    "records_without_response_tokens",
)


def _content(record: Record) -> tuple[str, str, str]:
    return record.instruction, record.input, record.response
