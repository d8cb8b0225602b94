"""Public text for the demo's base model: cooking, travel, shops, weather, plain medicine.

Invented by a seeded generator, in the form of instructions and of encyclopaedia lines.
It teaches the base model the language, the instruction format and some skills (copying
a name, grading by an adjective, recognising which organ an illness concerns), but no
rule, code, dose, level or desk of the silos' hospitals: those exist in `hospital` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedit_secure.demo.offices import NOUNS, PLACES, Draw, make_office, phrase
from fedit_secure.demo.vocabulary import (
    ANALYTES,
    COMPLAINTS,
    CONDITIONS,
    DAYS,
    EXAMINATIONS,
    NUMBERS,
    POSITIONS,
    SEVERITIES,
    VITALS,
)


@dataclass(frozen=True, slots=True)
class PublicText:
    """An instruction with its answer, or, without an instruction, a passage."""

    instruction: str
    input: str
    response: str


_DISHES = "apple pie/onion soup/rye bread/fish stew/plum cake/bean salad/egg curry"
_GOODS = "books/lamps/chairs/coats/candles/plates/radios/blankets"
_CITIES = "Oslo/Porto/Lyon/Graz/Turin/Bergen/Malmo/Ghent/Sofia/Riga"
_WEATHER = "storm/rain/fog/frost/heat/snow/hail/wind"
_SPORTS = "rowing/chess/tennis/judo/cycling/hockey"
_PLANTS = "rose/fern/oak/tulip/basil/ivy/birch/mint"
_TOOLS = "saw/drill/ladder/hammer/rake/brush"
_TONES = "kind/short/polite/warm/plain"


def _pick(draw: Draw, options: str) -> str:
    return draw.one(options.split("/"))


_Text = tuple[str, str, str]


def _warning(draw: Draw) -> _Text:
    grade = draw.index(len(SEVERITIES))
    colour = ("white", "yellow", "orange", "red")[grade]
    advice = ("no need to act", "take a coat", "stay at home", "leave the area now")
    hours = f"{draw.one(NUMBERS)} {draw.one(('hours', 'days'))}"
    return (
        draw.one(("Issue the weather warning.", "Which warning colour is it?")),
        f"{_pick(draw, _CITIES)}, {SEVERITIES[grade]} {_pick(draw, _WEATHER)} for {hours}",
        f"{colour.capitalize()} warning, {advice[grade]}.",
    )


def _spice(draw: Draw) -> _Text:
    grade = draw.index(len(SEVERITIES))
    return (
        draw.one(("How hot is this dish?", "Rate the spice of the dish.")),
        f"{_pick(draw, _DISHES)}, {SEVERITIES[grade]} pepper, for {draw.person()}",
        f"{grade + 1} of 4 peppers, {('for all', 'for most', 'for few', 'for none')[grade]}.",
    )


def _gauge(draw: Draw) -> _Text:
    place = draw.index(len(POSITIONS))
    word = ("very low", "low", "normal", "high", "very high")[place]
    act = (
        "fill it today",
        "fill it soon",
        "leave it",
        "drain it soon",
        "drain it today",
    )
    return (
        draw.one(("Read the gauge.", "What does the gauge say?")),
        f"{draw.one(PLACES)}, oil {POSITIONS[place]} the usual range",
        f"Oil {word}, {act[place]}.",
    )


def _order(draw: Draw) -> _Text:
    person, goods, number = draw.person(), _pick(draw, _GOODS), draw.one(NUMBERS)
    weeks = draw.one(NUMBERS)
    return (
        draw.one(("Confirm the order.", "Write the order line.")),
        f"{person}, {number} {goods}, paid, arrives in {weeks} weeks",
        draw.one(
            (
                f"{person} bought {number} {goods}; arrives in {weeks} weeks.",
                f"Dear {person}, your {number} {goods} arrive in {weeks} weeks.",
            )
        ),
    )


def _trip(draw: Draw) -> _Text:
    person, day = draw.person(), draw.one(DAYS)
    start, end = _pick(draw, _CITIES), _pick(draw, _CITIES)
    return (
        draw.one(("Summarise the trip.", "Sum up the journey.")),
        f"On {day} {person} went from {start} to {end} and ordered a taxi",
        f"{person}, {day}: {start}, then {end}; booked a taxi",
    )


def _call(draw: Draw) -> _Text:
    person, day, goods = draw.person(), draw.one(DAYS), _pick(draw, _GOODS)
    return (
        draw.one(("Summarise the call.", "Sum up the talk for the shop.")),
        f"On {day} {person} called the shop about {goods} and wanted {draw.invented()}",
        f"{person} called about {goods} on {day}.",
    )


def _stock(draw: Draw) -> _Text:
    name, code = draw.invented(), draw.code()
    return (
        draw.one(("Look up the shelf.", "What is the shelf?")),
        f"{name} is on shelf {code}",
        f"{name}, shelf {code}.",
    )


def _match(draw: Draw) -> _Text:
    left, right = draw.invented(), draw.invented()
    first, second = draw.index(9), draw.index(9)
    verdict = (
        "drew with" if first == second else "beat" if first > second else "lost to"
    )
    return (
        draw.one(("Report the match.", "Who won the match?")),
        f"{_pick(draw, _SPORTS)}, {left} {first}, {right} {second}",
        f"{left} {verdict} {right}.",
    )


def _organ(draw: Draw) -> _Text:
    condition = draw.one(tuple(CONDITIONS))
    organ = CONDITIONS[condition]
    return (
        draw.one(("Which organ is it?", f"What does {condition} concern?")),
        condition if draw.index(2) else f"{draw.person()}, {condition}",
        draw.one((f"The {organ}.", f"It concerns the {organ}.")),
    )


def _room(draw: Draw) -> _Text:
    number, place = draw.index(9) + 1, draw.one(PLACES)
    state = draw.one(("clean", "wet", "warm", "dark", "empty"))
    watch = draw.one(("lamps", "doors", "windows", "pipes"))
    return (
        draw.one(("Write the cleaning note.", "Note this for the next team.")),
        f"room {number}, {place}, {state}, watch {watch}",
        f"The {place}, room {number}: {state}. Look at the {watch} once a day.",
    )


def _mail(draw: Draw) -> _Text:
    subject, box = draw.one(
        ("a ticket/box 4", "a lost bag/box 7", "a broken lamp/box 9", "a job/box 1")
    ).split("/")
    person = draw.person()
    return (
        draw.one(("Sort the mail.", "Which box does it go to?")),
        f"{person} writes about {subject}",
        f"Put it in {box}, reply to {person}.",
    )


def _repeat(draw: Draw) -> _Text:
    words = [draw.invented() for _ in range(2 + draw.index(3))]
    kind, text = draw.one(("Repeat", "Reverse", "First", "Last")), ", ".join(words)
    answer = {
        "Repeat": text,
        "Reverse": ", ".join(reversed(words)),
        "First": words[0],
        "Last": words[-1],
    }[kind]
    wanted = f"{kind} this list." if kind in {"Repeat", "Reverse"} else f"{kind} word?"
    return (wanted, text, answer)


def _polite(draw: Draw) -> _Text:
    person, tone, day = draw.person(), _pick(draw, _TONES), draw.one(DAYS)
    return (
        f"Write a {tone} greeting.",
        f"{person}, {day}",
        draw.one((f"Good {day}, {person}!", f"Hello {person}, have a {tone} {day}.")),
    )


def _form(draw: Draw) -> _Text:
    """A form made up on the spot: follow what the instruction spells out."""
    mark = draw.one((":", ";", "-", "|", "/", "="))
    first, second = draw.invented(), draw.one(NUMBERS)
    label = draw.invented()
    return (
        draw.one((f"Fill the form {label} {mark}", f"Use {mark} after {label}")),
        f"{first}, {second}",
        f"{label} {mark} {first} {mark} {second}",
    )


def _passage(draw: Draw) -> _Text:
    condition = draw.one(tuple(CONDITIONS))
    organ, examination = CONDITIONS[condition], draw.one(EXAMINATIONS)
    city, dish = _pick(draw, _CITIES), _pick(draw, _DISHES)
    first, second = draw.one(COMPLAINTS), draw.one(VITALS)
    lines = (
        f"A {condition} concerns the {organ}.",
        f"A patient with {condition} may need {examination}.",
        f"The doctor asks about {first}, then orders {examination}.",
        f"A nurse on the ward will check {second}, note it and call the doctor.",
        f"A blood test shows {draw.one(ANALYTES)} and {draw.one(ANALYTES)}.",
        f"A hospital has wards, beds, a clinic, a lab and a {draw.one(NOUNS)}.",
        f"In {city} people eat {dish} on {draw.one(DAYS)}.",
        f"The {_pick(draw, _PLANTS)} grows in {city} for {draw.one(NUMBERS)} weeks.",
        f"Use a {_pick(draw, _TOOLS)} in the {draw.one(PLACES)}.",
        f"Bake with {draw.one(NUMBERS)} eggs for {draw.one(NUMBERS)} minutes.",
        f"{draw.person()} wrote about the {draw.one(NOUNS)}: {phrase(draw)}.",
    )
    return "", "", draw.one(lines)


TASKS: tuple[Callable[[Draw], _Text], ...] = (
    _warning,
    _spice,
    _gauge,
    _order,
    _trip,
    _call,
    _stock,
    _match,
    _organ,
    _room,
    _mail,
    _repeat,
    _polite,
    _form,
    _passage,
    _passage,
)

OFFICES = 500
_OFFICE_SHARE = 0.6


def public_texts(seed: int, count: int) -> list[PublicText]:
    """`count` texts, three in five from the offices, the rest from `TASKS`.

    The same arguments give the same texts.
    """
    draw = Draw(np.random.default_rng(seed))
    offices = [make_office(draw) for _ in range(OFFICES)]
    texts = []
    for _ in range(count):
        if draw.chance(_OFFICE_SHARE):
            texts.append(PublicText(*offices[draw.index(OFFICES)].text(draw)))
        else:
            texts.append(PublicText(*TASKS[draw.index(len(TASKS))](draw)))
    return texts
