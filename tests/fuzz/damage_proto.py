"""Damage to protocol buffers: fields are repeated, moved, nested, or lie about sizes.

A message is taken apart into its fields by the generated descriptors, so that damage
reaches nested lists; it is put together again with every length right, unless a lie
about a length is the damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from fuzz.damage import HOSTILE_TEXT, MOST, Mutator, edge, edge_bytes, noise, varint


@dataclass
class Node:
    """One field: its number, wire type, and nested fields or the bytes that follow."""

    number: int
    wire: int
    body: bytes | list[Node]
    padding: int = 0
    says: int | None = None  # a length other than its own


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("no integer")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at


def read(data: bytes, kind: Any) -> list[Node]:
    """The fields of a message of this descriptor; ValueError if it isn't one."""
    nodes, at = [], 0
    while at < len(data):
        key, at = _varint_at(data, at)
        number, wire = key >> 3, key & 7
        start = at
        if wire == 0:
            _, at = _varint_at(data, at)
        elif wire == 2:
            size, start = _varint_at(data, at)
            at = start + size
        else:
            at += {1: 8, 5: 4}.get(wire, 1 << 60)
        if at > len(data):
            raise ValueError("cut short")
        body: bytes | list[Node] = data[start:at]
        known = kind.fields_by_number.get(number) if kind else None
        if known is not None and known.message_type is not None and wire == 2:
            body = read(data[start:at], known.message_type)
        nodes.append(Node(number, wire, body))
    return nodes


def write(nodes: list[Node]) -> bytes:
    """The bytes of the fields."""
    out = bytearray()
    for node in nodes:
        body = node.body if isinstance(node.body, bytes) else write(node.body)
        out += varint(node.number << 3 | node.wire, node.padding)
        if node.wire == 2:
            says = len(body) if node.says is None else node.says
            out += varint(says, node.padding)
        out += body
    return bytes(out[:MOST])


def lists(nodes: list[Node]) -> list[list[Node]]:
    """This list of fields and all that are nested in it."""
    found, waiting = [], [nodes]
    while waiting:
        fields = waiting.pop()
        found.append(fields)
        waiting += [node.body for node in fields if isinstance(node.body, list)]
    return found


def _copy(node: Node) -> Node:
    body = node.body
    kept = body if isinstance(body, bytes) else [_copy(inner) for inner in body]
    return Node(node.number, node.wire, kept, node.padding, node.says)


def _unknown(rng: Random) -> Node:
    number = rng.choice((1, 2, 15, 16, 99, 1011, 19_000, (1 << 29) - 1, 0))
    wire = rng.choice((0, 1, 2, 2, 3, 4, 5, 6, 7))
    body = {0: varint(edge(rng)), 1: bytes(8), 5: bytes(4), 2: noise(rng)}
    return Node(number, wire, body.get(wire, b""))


def _other_body(rng: Random, node: Node) -> bytes:
    """What the field might hold instead, of the same wire type."""
    if node.wire != 2:
        return rng.choice((varint(edge(rng)), varint(edge(rng), 1), b"\xff" * 11))
    body = node.body if isinstance(node.body, bytes) else write(node.body)
    size = rng.choice((0, 1, 31, 32, 33, 64, 65, 500, 501, 513, 8193, 65_537))
    return rng.choice(
        (
            body[:-1],
            body + b"\0",
            b"",
            b"x" * size,
            bytes(rng.choice((2, 30, 2000))),
            rng.choice(HOSTILE_TEXT) + body,
            body + edge_bytes(rng),
        )
    )


def _nested(rng: Random, node: Node) -> bytes:
    """The field inside itself, or groups that open and never close, many times."""
    times = rng.choice((3, 90, 101, 5000))
    if rng.randrange(3) == 0:
        return varint(node.number << 3 | 3) * times
    body = node.body if isinstance(node.body, bytes) else write(node.body)
    for _ in range(min(times, 400)):
        body = varint(node.number << 3 | 2) + varint(len(body)) + body
    return body


def change(rng: Random, nodes: list[Node], other: list[Node]) -> None:
    """One change somewhere in the tree, in place."""
    fields = rng.choice(lists(nodes))
    foreign = rng.choice(lists(other))
    new = _copy(rng.choice(foreign)) if foreign else _unknown(rng)
    if not fields:
        fields.append(new)
    elif rng.randrange(2):
        _rearrange(rng, fields, new)
    else:
        _falsify(rng, rng.choice(fields))


def _rearrange(rng: Random, fields: list[Node], new: Node) -> None:
    at = rng.randrange(len(fields))
    how = rng.randrange(6)
    if how == 0:
        del fields[at]
    elif how == 1:
        copies = rng.choice((1, 2, 4, 5, 300))
        fields[at:at] = [_copy(fields[at]) for _ in range(copies)]
    elif how == 2:
        rng.shuffle(fields)
    elif how == 3:
        fields.insert(at, new)
    elif how == 4:
        fields[at] = new
    else:
        fields.insert(rng.randrange(len(fields) + 1), _unknown(rng))


def _falsify(rng: Random, node: Node) -> None:
    how = rng.randrange(7)
    if how == 0:
        node.says = edge(rng)
    elif how == 1:
        node.padding = rng.choice((1, 2, 3))
    elif how == 2:
        node.wire = rng.choice((0, 1, 2, 3, 5))
    elif how == 3:
        node.number = rng.choice((node.number + 1, max(node.number - 1, 0), 1, 2))
    elif how == 4:
        node.body, node.wire = _nested(rng, node), 2
    else:
        node.body = _other_body(rng, node)


def message(descriptor: Any) -> Mutator:
    """Damage to messages of this descriptor."""

    def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
        try:
            nodes, second = read(data, descriptor), read(other, descriptor)
        except (ValueError, RecursionError):
            return data + edge_bytes(rng)
        change(rng, nodes, second)
        return write(nodes)

    return mutate
