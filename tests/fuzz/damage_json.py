"""Damage to JSON that stays near JSON: the tree is changed, then written again.

Numbers are kept as they were written, and objects as lists of pairs, so that a key may
come twice and `1.0` isn't `1`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzz.damage import HOSTILE_TEXT, Mutator, edge


@dataclass(frozen=True)
class Raw:
    """A token that is written as it stands."""

    text: str


@dataclass
class Pairs:
    """An object whose keys may repeat."""

    items: list[tuple[str, Any]] = field(default_factory=list)


TOKENS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1E400", "5e-324"),
    *("0", "-0", "-0.0", "0.0", "1", "-1", "1.0", "1e0", "16.00", "01", "+1", ".5"),
    *("9" * 400, "9" * 4300, "9" * 5000, "-" + "1" * 4300, "0." + "3" * 3000),
    *("true", "false", "null", "[]", "{}", '""', "[[]]", "[{}]", '[""]', "undefined"),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', r'"\u001b[2J"', r'"\n"', r'"\x"'),
    *('"\u202e"', '"\u00e9"', r'"\u00e9"', r'"\u2028"', "'a'", '"a', '"a\tb"'),
    *('"' + "a" * 201 + '"', '"' + "x" * 20_000 + '"', '"' + r"\u001b" * 3000 + '"'),
    *('"0001-01-01"', '"9999-12-31"', '"2026-02-30"', '"2026-01-01T00:00:00"'),
    *('"F32"', '"F64"', '"BF16"', '"F8_E4M3"', '"U64"', '"BOOL"', '"C64"'),
    *("[" * 300 + "]" * 300, "[" * 20_000, '{"a":' * 300 + "1" + "}" * 300),
)
KEYS = (
    *("extra", "", "kind", "version", "signature", "__class__", "__proto__", "\u00e9"),
    *("a\n\u001b[2J\u202e", "x" * 20_000, "\ud800", "0", "layout", "fraction_bits"),
)


def read(data: bytes) -> Any:
    """The tree of a JSON text; ValueError or RecursionError if it isn't one."""
    return json.loads(
        data,
        object_pairs_hook=lambda pairs: Pairs(list(pairs)),
        parse_int=Raw,
        parse_float=Raw,
        parse_constant=Raw,
    )


def write(value: Any, indent: int | None, depth: int = 0) -> str:
    """The text of a tree, as `json.dumps` lays it out."""
    if isinstance(value, Raw):
        return value.text
    if not isinstance(value, Pairs | list):
        return json.dumps(value)
    if isinstance(value, list):
        inside = [write(item, indent, depth + 1) for item in value]
        ends = "[]"
    else:
        colon = ":" if indent is None else ": "
        inside = [
            json.dumps(key) + colon + write(item, indent, depth + 1)
            for key, item in value.items
        ]
        ends = "{}"
    if not inside or indent is None:
        return ends[0] + ",".join(inside) + ends[1]
    line = "\n" + " " * indent * (depth + 1)
    return ends[0] + line + f",{line}".join(inside) + line[: -indent or None] + ends[1]


def holders(tree: Any) -> list[list[Any]]:
    """Every list of the tree: of items, or of an object's pairs."""
    found: list[list[Any]] = []
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Pairs):
            found.append(value.items)
            waiting += [item for _, item in value.items]
        elif isinstance(value, list):
            found.append(value)
            waiting += value
    return found


def _new(rng: Random, other: Any) -> Any:
    how = rng.randrange(6)
    if how == 0:
        return Raw(str(rng.choice((edge(rng), -edge(rng), edge(rng) + 0.5))))
    if how == 1:
        inner = rng.choice(holders(other) or [[]])
        if inner:
            item = rng.choice(inner)
            return item[1] if isinstance(item, tuple) else item
    if how == 2:
        return Pairs([(rng.choice(KEYS), Raw("1"))])
    return Raw(rng.choice(TOKENS))


def change(rng: Random, tree: Any, other: Any) -> Any:
    """The tree with one change; it is changed in place where it can be."""
    places = holders(tree)
    if not places or not rng.randrange(12):
        return rng.choice((_new(rng, other), [tree], Pairs([("a", tree)]), other))
    inner = rng.choice(places)
    if not inner:  # it may be an object's, where only pairs belong
        return rng.choice((_new(rng, other), other))
    at = rng.randrange(len(inner))
    item = inner[at]
    pair = isinstance(item, tuple)
    new = _new(rng, other)
    how = rng.randrange(8)
    if how == 0:
        del inner[at]
    elif how == 1:
        inner.insert(rng.randrange(len(inner) + 1), item)
    elif how == 2:
        inner.insert(at, (item[0], new) if pair else new)
    elif how == 3:
        inner.insert(at, (rng.choice(KEYS), new) if pair else new)
        if pair and rng.randrange(2):
            inner.sort(key=lambda p: p[0] if isinstance(p, tuple) else "")
    elif how == 4:
        rng.shuffle(inner)
    elif how == 5 and pair:
        inner[at] = (rng.choice(KEYS), item[1])
    elif how == 6:
        inner *= rng.choice((2, 3, 50))
    else:
        inner[at] = (item[0], new) if pair else new
    return tree


def document(indent: int | None, end: bytes) -> Mutator:
    """Damage to a document of this layout, nearly always written in that layout."""

    def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
        how = indent if rng.randrange(12) else rng.choice((None, 0, 1, 4))
        try:
            tree = change(rng, read(data), read(other))
            return write(tree, how).encode("utf-8", "surrogatepass") + end
        except (ValueError, RecursionError):
            return data + rng.choice(HOSTILE_TEXT)

    return mutate


def respell(rng: Random, data: bytes, other: bytes) -> bytes:
    """The same value in another spelling, which a canonical format must refuse."""
    where = [i for i, c in enumerate(data) if c in b'":,{}[]aeiou0123456789.']
    if not where:
        return data
    at = rng.choice(where)
    c = data[at : at + 1]
    spelt = {b".": b".0", b"0": b"00", b"1": b"1.0", b'"': b'" ', b"e": rb"\u0065"}
    return data[:at] + spelt.get(c, c + b" ") + data[at + 1 :]
