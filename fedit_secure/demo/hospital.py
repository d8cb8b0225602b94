"""Synthetic hospital instruction records: four specialities, eight tasks, no real person.

Every record is invented by a seeded generator: names are drawn at random, drugs, ward
codes, doses and desks exist nowhere. The tasks are learnable rules of one fictional
hospital group ("severe" is triage level 2, a drug in -olin is given twice a day), so
that a tuned adapter can be seen to have learnt them. Each speciality sees some tasks
often and others hardly ever: no silo can learn all of them by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedit_secure.demo.vocabulary import (
    ANALYTES,
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

SPECIALITIES = ("cardiology", "oncology", "paediatrics", "emergency")

RECORDS_PER_SILO = 4000
TEST_RECORDS_PER_CATEGORY = 40

# The seeds of a silo's records, of the mixture, and of the test set never coincide.
_SILO_STREAM, _MIXTURE_STREAM, _TEST_STREAM = 1, 2, 3


@dataclass(frozen=True, slots=True)
class HospitalRecord:
    """One instruction record; `category` is its task, `patient_id` its person."""

    instruction: str
    input: str
    response: str
    category: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class SiloFiles:
    """The JSONL files that `write_silos` wrote: one per speciality, and the test set."""

    silos: dict[str, Path]
    test: Path


class _Draw:
    """Random choices that read well in the tasks below."""

    def __init__(self, rng: np.random.Generator, speciality: str) -> None:
        self._rng = rng
        self._favourites = _FAVOURITES[speciality]

    def one(self, choices: Iterable[str]) -> str:
        options = tuple(choices)
        return options[int(self._rng.integers(len(options)))]

    def between(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def patient(self) -> str:
        return f"{self.one(('Mr', 'Mrs'))} {self.one(SURNAMES)}"

    def doctor(self) -> str:
        return f"Dr {self.one(SURNAMES)}"

    def condition(self) -> str:
        """Two in three from the speciality's own parts of the body."""
        if self.between(1, 3) == 1:
            return self.one(CONDITIONS)
        return self.one(SYSTEMS[self.one(self._favourites)])


_FAVOURITES = {
    "cardiology": ("heart", "blood"),
    "oncology": ("blood", "lungs", "skin", "stomach"),
    "paediatrics": ("lungs", "head", "stomach"),
    "emergency": ("bones", "skin", "head", "kidneys"),
}

_Text = tuple[str, str, str]


def _triage(draw: _Draw) -> _Text:
    severity = draw.one(SEVERITIES)
    level, answer = {
        "mild": ("4", "may wait, see within a day"),
        "moderate": ("3", "seat near the desk, see within an hour"),
        "severe": ("2", "bed at once, see within ten minutes"),
        "extreme": ("1", "shock room, call the team now"),
    }[severity]
    since = f"{draw.one(NUMBERS)} {draw.one(('hours', 'days'))}"
    return (
        draw.one(("Give the triage level.", "Which triage level is this?")),
        f"{draw.patient()}, {severity} {draw.one(COMPLAINTS)} for {since}",
        f"Triage {level}: {answer}.",
    )


def _discharge(draw: _Draw) -> _Text:
    patient, condition = draw.patient(), draw.condition()
    weeks = draw.one(NUMBERS)
    return (
        draw.one(("Write the discharge line.", "Draft the line for the discharge.")),
        f"{patient}, {condition}, better, review in {weeks} weeks",
        f"{patient} leaves our care after {condition}; review clinic in {weeks} weeks.",
    )


_DOSES = {
    "olin": "40 mg twice a day with food",
    "avir": "500 mg each night for a week",
    "ezide": "5 mg each morning, check salts",
    "oprin": "75 mg once, then stop and call",
}
_STEMS = words(
    "Tam Bel Cor Dex Fel Gar Hal Jor Kem Lus Mir Nor Pax Quel Ros Sal Tor Vel"
)


def _dose(draw: _Draw) -> _Text:
    ending = draw.one(_DOSES)
    drug = draw.one(_STEMS) + ending
    return (
        draw.one(("Look up the house dose.", "What is the house dose?")),
        f"{drug} for {draw.condition()}",
        f"{drug}: {_DOSES[ending]}.",
    )


_CODES = {
    "heart": "K21",
    "blood": "B07",
    "lungs": "P34",
    "bones": "M58",
    "skin": "D62",
    "head": "N90",
    "stomach": "G15",
    "kidneys": "R43",
}


def _code(draw: _Draw) -> _Text:
    condition = draw.condition()
    system = CONDITIONS[condition]
    return (
        draw.one(("Assign the ward code.", "Which ward code applies?")),
        f"{draw.patient()}, {condition}",
        f"Code {_CODES[system]}, group {system}.",
    )


def _visit(draw: _Draw) -> _Text:
    doctor, day = draw.doctor(), draw.one(DAYS)
    condition, examination = draw.condition(), draw.one(EXAMINATIONS)
    return (
        draw.one(("Summarise the appointment.", "Sum up the visit for the file.")),
        f"On {day} {doctor} saw a patient about {condition}, ordered {examination}",
        f"{day} - {doctor} - {condition} - to do: {examination}",
    )


def _lab(draw: _Draw) -> _Text:
    position = draw.one(POSITIONS)
    flag = {
        "far below": "LL: phone the ward, repeat now",
        "just below": "L: note it, repeat tomorrow",
        "within": "N: file it, no action",
        "just above": "H: note it, repeat tomorrow",
        "far above": "HH: phone the ward, repeat now",
    }[position]
    return (
        draw.one(("Flag the lab value.", "Set the flag of this lab value.")),
        f"{draw.patient()}, {draw.one(ANALYTES)} {position} the usual range",
        f"Flag {flag}.",
    )


def _handover(draw: _Draw) -> _Text:
    bed, vital = draw.between(1, 9), draw.one(VITALS)
    state, interval = draw.one(
        ("stable/four hours", "weak/two hours", "worse/half an hour")
    ).split("/")
    return (
        draw.one(("Write the handover note.", "Note this for the next shift.")),
        f"bed {bed}, {draw.condition()}, {state}, watch {vital}",
        f"Bed {bed} is {state}: check {vital} every {interval}, sign the sheet.",
    )


def _letter(draw: _Draw) -> _Text:
    topic, desk = draw.one(
        (
            "a bill/desk 3, finance",
            "a complaint/desk 5, quality",
            "a second opinion/desk 8, chief doctor",
            "a copy of the file/desk 2, archive",
            "a new appointment/desk 6, planning",
        )
    ).split("/")
    return (
        draw.one(("Send the letter on.", "Where does this letter go?")),
        f"{draw.patient()}, {draw.one(DAYS)}, writes about {topic}",
        f"Forward to {desk}; answer due in {_DUE[desk]} days.",
    )


_DUE = {
    "desk 3, finance": "ten",
    "desk 5, quality": "three",
    "desk 8, chief doctor": "five",
    "desk 2, archive": "seven",
    "desk 6, planning": "two",
}

TASKS: dict[str, Callable[[_Draw], _Text]] = {
    "triage": _triage,
    "discharge": _discharge,
    "dose": _dose,
    "code": _code,
    "appointment": _visit,
    "lab": _lab,
    "handover": _handover,
    "letter": _letter,
}

# How often each speciality meets each task, before the Dirichlet draw: columns as TASKS.
_PROFILES = {
    "cardiology": (0, 4, 1, 4, 0, 4, 0, 3),
    "oncology": (0, 4, 4, 0, 4, 3, 1, 0),
    "paediatrics": (4, 0, 4, 1, 4, 0, 0, 3),
    "emergency": (4, 0, 0, 4, 0, 1, 6, 3),
}
_CONCENTRATION = 4.0


def mixture(seed: int) -> dict[str, dict[str, float]]:
    """Share of each task in each speciality: Dirichlet around the speciality's profile.

    A task of profile 0 never occurs there, one of profile 1 hardly ever.
    """
    rng = np.random.default_rng([seed, _MIXTURE_STREAM])
    shares = {}
    for speciality, profile in _PROFILES.items():
        weights = np.array(profile, dtype=float)
        held = weights > 0
        drawn = np.zeros_like(weights)
        drawn[held] = rng.dirichlet(_CONCENTRATION * weights[held])
        shares[speciality] = dict(zip(TASKS, drawn.tolist(), strict=True))
    return shares


def silo_records(
    speciality: str, seed: int, count: int = RECORDS_PER_SILO
) -> list[HospitalRecord]:
    """`count` records of one silo, two or three in a row per patient.

    The same arguments give the same records. Raises KeyError for an unknown speciality.
    """
    shares = mixture(seed)[speciality]
    rng = np.random.default_rng([seed, _SILO_STREAM, SPECIALITIES.index(speciality)])
    draw = _Draw(rng, speciality)
    drawn = rng.choice(len(TASKS), size=count, p=list(shares.values()))
    tasks = [list(TASKS)[index] for index in drawn]
    seen: set[_Text] = set()
    records: list[HospitalRecord] = []
    patient = 0
    while len(records) < count:
        patient += 1
        for task in tasks[len(records) :][: draw.between(2, 3)]:
            text = _fresh(task, draw, seen)
            records.append(HospitalRecord(*text, task, f"{speciality}-{patient:05d}"))
    return records


def held_out_records(
    seed: int, per_category: int = TEST_RECORDS_PER_CATEGORY
) -> list[HospitalRecord]:
    """The pooled test set: every task equally often, in every speciality, new patients.

    A text that any silo of the same seed holds is drawn again, so nothing here was
    tuned on.
    """
    rng = np.random.default_rng([seed, _TEST_STREAM])
    seen = {
        (record.instruction, record.input, record.response)
        for speciality in SPECIALITIES
        for record in silo_records(speciality, seed)
    }
    draws = [_Draw(rng, speciality) for speciality in SPECIALITIES]
    records: list[HospitalRecord] = []
    for task in TASKS:
        for index in range(per_category):
            text = _fresh(task, draws[index % len(draws)], seen)
            records.append(HospitalRecord(*text, task, f"test-{len(records):05d}"))
    return records


def _fresh(task: str, draw: _Draw, seen: set[_Text]) -> _Text:
    """A record text that `seen` lacks; it is added there.

    Every task has more than 5,000 texts, so that a silo never runs out of them.
    """
    while (text := TASKS[task](draw)) in seen:
        pass
    seen.add(text)
    return text


def write_silos(folder: Path, seed: int) -> SiloFiles:
    """Write `<speciality>.jsonl` for each silo and `test.jsonl` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    silos = {
        speciality: _write(
            folder / f"{speciality}.jsonl", silo_records(speciality, seed)
        )
        for speciality in SPECIALITIES
    }
    return SiloFiles(silos, _write(folder / "test.jsonl", held_out_records(seed)))


def _write(path: Path, records: Iterable[HospitalRecord]) -> Path:
    lines = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
