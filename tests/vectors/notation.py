"""How the vectors are written down: messages as JSON, changes of one as a JSON Patch.

Bytes are hexadecimal, also a tag (8 little-endian bytes, as it is hashed: JSON's numbers
are exact to 2^53 only). A patch is of RFC 6902, with `add`, `remove` and `replace`.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import u64

WIDTH = 100  # characters of a line that is kept together
SHORT = 24  # characters of an item that shares a line


def to_json(value: Any) -> Any:
    """A message, or anything in one, as JSON holds it."""
    if is_dataclass(value):
        found = {
            f.name: to_json(getattr(value, f.name)) for f in fields(value) if f.init
        }
        if "tag" in found:
            found["tag"] = u64(found["tag"]).hex()
        if "signature" in found:  # last, as it covers the others
            found["signature"] = found.pop("signature")
        return found
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, np.ndarray):
        return [int(x) for x in value]
    if isinstance(value, tuple | list):
        return [to_json(x) for x in value]
    if isinstance(value, dict):
        return {str(key): to_json(x) for key, x in value.items()}
    return value


def write(message: Any) -> dict[str, Any]:
    """A whole message, with its kind."""
    return {"kind": type(message).__name__, **to_json(message)}


def read(written: dict[str, Any]) -> Any:
    """The message that `write` wrote down."""
    rest = dict(written)
    return _read(getattr(m, rest.pop("kind")), rest)


def _read(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _read(hints[name], x) for name, x in value.items()})
    if get_origin(kind) is np.ndarray:
        return np.array(value, np.int32)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        return tuple(_read(of, x) for of, x in zip(kinds, value, strict=True))
    if kind is int and isinstance(value, str):
        return int.from_bytes(bytes.fromhex(value), "little")
    return value if kind in (str, int) else bytes.fromhex(value)


# ------------------------------------------------------------------------------- patches


def difference(old: Any, new: Any, at: str = "") -> list[dict[str, Any]]:
    """The patch that makes the new of the old."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        pairs = [(key, old[key], new[key]) for key in old]
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(len(old)):
            if old[:i] + old[i + 1 :] == new:
                return [{"op": "remove", "path": f"{at}/{i}"}]
        for i in range(len(new)):
            if new[:i] + new[i + 1 :] == old:
                return [{"op": "add", "path": f"{at}/{i}", "value": new[i]}]
        if len(old) != len(new):
            return [{"op": "replace", "path": at, "value": new}]
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        pairs = []
        if old != new:
            return [{"op": "replace", "path": at, "value": new}]
    return [change for key, a, b in pairs for change in difference(a, b, f"{at}/{key}")]


def patched(old: Any, patch: list[dict[str, Any]]) -> Any:
    """The old with the patch applied."""
    new = deepcopy(old)
    for change in patch:
        *path, last = change["path"].split("/")[1:]
        place = new
        for key in path:
            place = place[int(key) if isinstance(place, list) else key]
        key = int(last) if isinstance(place, list) else last
        if change["op"] == "remove":
            del place[key]
        elif change["op"] == "add":
            place.insert(key, change["value"])
        else:
            place[key] = change["value"]
    return new


# --------------------------------------------------------------------------------- files


def shortened(messages: dict[str, Any]) -> dict[str, Any]:
    """The messages as they stand in a file: the sets of dealers, which all holders are
    shown alike, but once in full."""
    like, made = "u2 to 0", dict(messages)
    for name, message in messages.items():
        if name.startswith("u2 to ") and name != like:
            own = {key: message[key] for key in ("envelopes", "signature")}
            assert {**messages[like], **own} == message
            patch = [
                {"op": "replace", "path": f"/{key}", "value": value}
                for key, value in own.items()
            ]
            made[name] = {"like": like, "changes": patch}
    return made


def full(messages: dict[str, Any]) -> dict[str, Any]:
    """What `shortened` made short."""
    return {
        name: patched(messages[x["like"]], x["changes"]) if "like" in x else x
        for name, x in messages.items()
    }


def dump(value: Any, indent: int = 0) -> str:
    """Readable JSON: what fits stands on one line, and short items share lines."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        lines = [
            f"{json.dumps(key)}: {dump(x, indent + 1)}" for key, x in value.items()
        ]
        left, right = "{", "}"
    else:
        lines, left, right = [dump(x, indent + 1) for x in value], "[", "]"
        if all(isinstance(x, int | str) and len(str(x)) <= SHORT for x in value):
            lines = _filled(lines)
    body = f",\n{pad}".join(lines)
    return f"{left}\n{pad}{body}\n{' ' * indent}{right}"


def _filled(items: list[str]) -> list[str]:
    lines = [items[0]]
    for item in items[1:]:
        longer = f"{lines[-1]}, {item}"
        lines[-1:] = [longer] if len(longer) <= WIDTH else [lines[-1], item]
    return lines
