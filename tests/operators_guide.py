"""docs/operator.md as a list of steps. What to do with a block, and on whose machine, is in
the comment above it, which a reader doesn't see:

    <!-- on north -->                               commands, one after the other
    <!-- start on north -->                         a command that goes on until the run ends
    <!-- write north:plan.yaml -->                  a file
    <!-- set in north:a.yaml and south:b.yaml -->   keys of a file, in place of those there
    <!-- carry south:a.card to north:cards/ -->     a file that one sends to the other

A marker that ends in ", of two" is for a federation of two silos alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "operator.md"
_MARKED = re.compile(
    r"<!-- (?P<marker>(?:on|start on|write|set in|carry) [^>]*) -->\n"
    r"(?:```[a-z]*\n(?P<block>.*?)```\n)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Place:
    machine: str
    path: str

    @classmethod
    def of(cls, text: str) -> Place:
        machine, _, path = text.partition(":")
        return cls(machine, path)


@dataclass(frozen=True)
class Command:
    machine: str
    line: str
    goes_on: bool


@dataclass(frozen=True)
class Write:
    place: Place
    text: str


@dataclass(frozen=True)
class SetKeys:
    place: Place
    text: str


@dataclass(frozen=True)
class Carry:
    start: Place
    end: Place


Step = Command | Write | SetKeys | Carry


def steps(*, of_two: bool, guide: str | None = None) -> list[Step]:
    """The guide's steps in its order."""
    text = guide if guide is not None else GUIDE.read_text(encoding="utf-8")
    found: list[Step] = []
    for match in _MARKED.finditer(text):
        marker, only_two, _ = match["marker"].partition(", of two")
        if only_two and not of_two:
            continue
        found += _steps(marker, match["block"])
    return found


def _steps(marker: str, block: str | None) -> list[Step]:
    if places := re.fullmatch(r"carry (\S+) to (\S+)", marker):
        return [Carry(Place.of(places[1]), Place.of(places[2]))]
    assert block is not None, f"nothing follows <!-- {marker} -->"
    if place := re.fullmatch(r"write (\S+)", marker):
        return [Write(Place.of(place[1]), block)]
    if places := re.fullmatch(r"set in (.+)", marker):
        return [SetKeys(Place.of(each), block) for each in places[1].split(" and ")]
    machine = re.fullmatch(r"(start )?on (\S+)", marker)
    assert machine, marker
    lines = (line.partition("  #")[0].strip() for line in block.splitlines())
    return [Command(machine[2], line, bool(machine[1])) for line in lines if line]


def with_another(found: list[Step], name: str) -> list[Step]:
    """The same with one silo more, which does what South does, right after it."""
    return [
        each for step in found for each in (step, _as(step, name)) if each is not None
    ]


def _as(step: Step, name: str) -> Step | None:
    def renamed(text: str) -> str:
        return text.replace("south", name)

    def place(of: Place) -> Place:
        return Place(renamed(of.machine), renamed(of.path))

    if isinstance(step, Carry):
        other: Step = Carry(place(step.start), place(step.end))
    elif isinstance(step, Command):
        other = Command(renamed(step.machine), renamed(step.line), step.goes_on)
    else:
        other = type(step)(place(step.place), step.text)
    return None if other == step else other
