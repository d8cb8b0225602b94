"""What `fedit data check` says about a silo's records. Nothing of it leaves the silo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedit_secure.config import SiloConfig
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import UNITS_PER_DELTA
from fedit_secure.tuning.base_model import load_tokenizer, resolve_base_model
from fedit_secure.tuning.examples import make_examples
from fedit_secure.tuning.records import Record

_LONGEST_LIST = 10


def data_facts(config: SiloConfig, records: Sequence[Record]) -> dict[str, Any]:
    """Counts of records, people, categories and repeats, and the largest delta that
    fits.

    With a charter and the base model at hand, also how many examples the cut leaves
    without a response token, or fill to the last token.
    """
    people = {record.person for record in records if record.person is not None}
    alone = sum(record.person is None for record in records)
    times = Counter(_content(record) for record in records)
    facts = {
        "records": len(records),
        "people": len(people) + alone if people else None,
        "categories": len({r.category for r in records if r.category is not None}),
        "with_input": sum(bool(record.input.strip()) for record in records),
        "longest_characters": max(
            len(r.instruction) + len(r.input) + len(r.response) for r in records
        ),
        "repeated_records": sum(count for count in times.values() if count > 1),
        "most_repeats": max(times.values()),
        "most_records_of_a_person": _most_of_a_person(records) if people else None,
        "largest_delta": 1 / (UNITS_PER_DELTA * len(records)),
    }
    return facts | _token_facts(config, records)


def repeats_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How often equal records occur: record privacy doesn't cover repeats."""
    times = Counter(Counter(_content(record) for record in records).values())
    return [
        {"times": count, "distinct_records": times[count]}
        for count in sorted(times, reverse=True)[:_LONGEST_LIST]
        if count > 1
    ]


def _token_facts(config: SiloConfig, records: Sequence[Record]) -> dict[str, Any]:
    nothing = {"max_tokens": None, "at_max_tokens": None, "without_response": None}
    if not config.charter.exists():
        return nothing
    charter = Charter.load(config.charter)
    tokenizer = load_tokenizer(resolve_base_model(config.model))
    examples = make_examples(
        records, tokenizer, charter.template.name, charter.max_tokens
    )
    return {
        "max_tokens": charter.max_tokens,
        "at_max_tokens": sum(
            len(example.tokens) >= charter.max_tokens for example in examples
        ),
        "without_response": sum(example.labels == 0 for example in examples),
    }


def _content(record: Record) -> tuple[str, str, str]:
    return record.instruction, record.input, record.response


def _most_of_a_person(records: Sequence[Record]) -> int:
    times = Counter(r.person for r in records if r.person is not None)
    return max(times.values())
