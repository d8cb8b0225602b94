"""Made-up public offices: hundreds of small tasks, each with a rule of its own.

An office asks for one thing ("Note the harbour list."), takes a few fields and answers
in its own form: some fields copied, some phrases, perhaps a grade. A base model that
has seen hundreds of them expects that every instruction has its own form of answer,
and learns to follow the words of the instruction, to copy fields and to grade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedit_secure.demo.vocabulary import (
    COMPLAINTS,
    CONDITIONS,
    DAYS,
    EXAMINATIONS,
    NUMBERS,
    POSITIONS,
    SEVERITIES,
    SURNAMES,
    SYSTEMS,
    VITALS,
    words,
)

PLACES = words(
    """
    harbour market school library garden kitchen station museum garage bakery farm hotel
    theatre tower mill church bridge stable cellar office post bank shop park court
    studio field forest island village clinic ward lab pharmacy
    """
)

NOUNS = words(
    """
    list slip note ticket level line card order page label letter plan bill box shelf
    key team desk room bed seat file sheet code flag group value report visit shift
    review dose answer copy call appointment discharge handover triage archive finance
    quality planning opinion complaint action food water salt care trace doctor patient
    """
)

VERBS = words(
    """
    write give check look set sort send assign draft sum note phone repeat stop wait
    sign forward file order keep open close move count clean watch leave take see find
    book bring hold pass start end mark read turn
    """
)

ADJECTIVES = words(
    """
    first second next last usual chief new old early late long short full empty red
    blue white green warm cold dry wet plain house small large due
    """
)

MOMENTS = (
    "now",
    "today",
    "tomorrow",
    "at once",
    "at night",
    "each morning",
    "each night",
    "twice a day",
    "once a week",
    "within a day",
    "within an hour",
    "within ten minutes",
    "in {n} days",
    "in {n} weeks",
    "every {n} hours",
    "every half an hour",
    "for a week",
)

UNITS = ("mg", "g", "days", "hours", "weeks", "minutes")
SEPARATORS = (", ", "; ", ": ", " - ", ". ", " and ", " for ", " in ")
GRADED: dict[str, tuple[str, ...]] = {
    "severity": SEVERITIES,
    "position": POSITIONS,
    "system": tuple(SYSTEMS),
    "state": ("stable", "weak", "worse", "better"),
    "ending": ("olin", "avir", "ezide", "oprin", "umab", "astin"),
}
_SYLLABLES = words(
    """
    ba bel cor da dex fa fel gar hal in jor ke kem lo lus mi mir mo nor o pa pax quel ra
    ros sa sal tam ti tor u vel vi za ze
    """
)


class Draw:
    """Random choices of words and fields."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def one(self, choices: Sequence[str]) -> str:
        """One of `choices`."""
        return choices[self.index(len(choices))]

    def index(self, length: int) -> int:
        """A whole number below `length`."""
        return int(self._rng.integers(length))

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return bool(self._rng.random() < share)

    def shuffled(self, choices: Sequence[str]) -> list[str]:
        """`choices` in random order."""
        return [choices[int(i)] for i in self._rng.permutation(len(choices))]

    def invented(self) -> str:
        """A word that nobody knows, so that copying is learnt and not remembered."""
        return "".join(
            self.one(_SYLLABLES) for _ in range(2 + self.index(2))
        ).capitalize()

    def person(self) -> str:
        """A title and a surname."""
        return f"{self.one(('Mr', 'Mrs', 'Dr'))} {self.one(SURNAMES)}"

    def code(self) -> str:
        """A letter and two digits."""
        return f"{self.one('ABCDEFGHJKLMNPRSTUVW')}{self.index(90) + 10}"


# What an office may be given: kind of field -> how its value is drawn.
_FIELDS: dict[str, Callable[[Draw], str]] = {
    "person": Draw.person,
    "day": lambda draw: draw.one(DAYS),
    "number": lambda draw: f"{draw.one(NUMBERS)} {draw.one(UNITS[2:])}",
    "digit": lambda draw: f"{draw.one(NOUNS)} {draw.index(9) + 1}",
    "word": Draw.invented,
    "code": Draw.code,
    "condition": lambda draw: draw.one(tuple(CONDITIONS)),
    "complaint": lambda draw: draw.one(COMPLAINTS),
    "examination": lambda draw: draw.one(EXAMINATIONS),
    "vital": lambda draw: draw.one(VITALS),
    "place": lambda draw: draw.one(PLACES),
}


@dataclass(frozen=True, slots=True)
class Office:
    """One made-up task: its wordings, what it is given, and its form of answer.

    `answer` lists what is written in order: "=kind" copies that field, "?" is the
    grade, anything else stands as it is. `grades` maps a graded value to its label.
    """

    instructions: tuple[str, ...]
    fields: tuple[str, ...]
    joints: tuple[str, ...]
    graded: str | None
    grades: dict[str, str]
    answer: tuple[str, ...]

    def text(self, draw: Draw) -> tuple[str, str, str]:
        """One (instruction, input, response) of this office."""
        values = {field: _FIELDS[field](draw) for field in self.fields}
        grade = ""
        given = list(values.values())
        if self.graded is not None:
            value, grade = self._graded(draw, self.graded)
            given.append(value)
        joints = (*self.joints[: len(given) - 1], "")
        asked = "".join(part + joint for part, joint in zip(given, joints, strict=True))
        said = "".join(
            values[part[1:]] if part[0] == "=" else grade if part == "?" else part
            for part in self.answer
        )
        return draw.one(self.instructions), asked, said[0].upper() + said[1:]

    def _graded(self, draw: Draw, kind: str) -> tuple[str, str]:
        if kind == "system":
            condition = draw.one(tuple(CONDITIONS))
            return condition, self.grades[CONDITIONS[condition]]
        value = draw.one(GRADED[kind])
        label = self.grades[value]
        if kind == "ending":
            return draw.invented() + value, label
        if kind == "position":
            return f"{draw.one(NOUNS)} {value} the usual range", label
        return value, label


def phrase(draw: Draw) -> str:
    """Two to five words that an answer may consist of."""
    noun, verb, adjective = draw.one(NOUNS), draw.one(VERBS), draw.one(ADJECTIVES)
    moment = draw.one(MOMENTS).format(n=draw.one(NUMBERS))
    return draw.one(
        (
            f"{verb} the {noun}",
            f"{verb} it {moment}",
            f"{verb} {moment}",
            f"{noun} {draw.index(9) + 1}, {draw.one(NOUNS)}",
            f"{draw.index(900) + 5} {draw.one(UNITS)} {moment}",
            f"{adjective} {noun}",
            f"{verb}s our {noun}",
            f"{noun} {moment}",
            f"no {noun}, {verb} the {draw.one(PLACES)}",
            f"{verb} near the {draw.one(PLACES)}",
        )
    )


def make_office(draw: Draw) -> Office:
    """A new office, its rule included."""
    noun, place = draw.one(NOUNS), draw.one(PLACES)
    verb, other = draw.one(VERBS), draw.one(VERBS)
    instructions = (
        f"{verb.capitalize()} the {place} {noun}.",
        draw.one(
            (
                f"What is the {place} {noun}?",
                f"Which {place} {noun} is it?",
                f"{other.capitalize()} the {noun} of the {place}.",
                f"Where does the {place} {noun} go?",
            )
        ),
    )
    graded = draw.one(tuple(GRADED)) if draw.chance(0.6) else None
    fields = tuple(draw.shuffled(tuple(_FIELDS))[: 1 + draw.index(3)])
    copied = [f"={field}" for field in fields if draw.chance(0.6)]
    items = copied + [phrase(draw) for _ in range(1 + draw.index(2))]
    if graded is not None:
        items.append("?")
    answer = [draw.one(("", "", f"{draw.one(NOUNS)} ", f"{draw.one(ADJECTIVES)} "))]
    for item in draw.shuffled(items):
        answer += [item, draw.one(SEPARATORS)]
    answer[-1] = draw.one((".", ".", ""))
    return Office(
        instructions=instructions,
        fields=fields,
        joints=tuple(draw.one(SEPARATORS) for _ in range(len(fields))),
        graded=graded,
        grades=_grades(draw, GRADED[graded]) if graded is not None else {},
        answer=tuple(part for part in answer if part),
    )


def _grades(draw: Draw, values: Sequence[str]) -> dict[str, str]:
    """A label for each value: a number up or down, a letter, a code or a phrase."""
    count = len(values)
    numbers = [str(number + 1) for number in range(count)]
    labels = (
        numbers,
        numbers[::-1],
        [draw.code() for _ in values],
        draw.shuffled("ABCDEFGHLN")[:count],
        [phrase(draw) for _ in values],
        [f"{number}, {phrase(draw)}" for number in numbers],
    )[draw.index(6)]
    return dict(zip(values, labels, strict=True))
