"""Damage to the other formats: states, ledgers, certificates, YAML."""

from __future__ import annotations

import base64
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fuzz import damage_json
from fuzz.damage import Mutator, edge, edge_bytes

# ------------------------------------------------------------------ states and tensors

_HEADER = damage_json.document(None, b"")


def framed(magic: bytes) -> Mutator:
    """Damage to a file of magic, header length, JSON header and numbers."""
    start = len(magic) + 8

    def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
        size = int.from_bytes(data[len(magic) : start], "little")
        header, values = data[start : start + size], data[start + size :]
        how = rng.randrange(5)
        if how < 3:
            header = _HEADER(rng, header, header)
        elif how == 3:
            at = 8 * rng.randrange(len(values) // 8 + 1)
            values = values[:at] + edge(rng).to_bytes(8, "little") + values[at + 8 :]
        says = edge(rng) if how == 4 else len(header)
        return magic + says.to_bytes(8, "little") + header + values

    return mutate


# ------------------------------------------------------------------------------ ledgers

_ENTRY = damage_json.document(None, b"")


def ledger(rng: Random, data: bytes, other: bytes) -> bytes:
    """A ledger, one entry a line, whose entries are moved, repeated or changed."""
    lines, foreign = data.split(b"\n"), other.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(7)
    if how == 0:
        lines.insert(to, lines[at])
    elif how == 1:
        lines.insert(to, lines.pop(at))
    elif how == 2:
        lines.insert(at, rng.choice(foreign))
    elif how == 3:
        lines[at] = rng.choice(foreign)
    elif how == 4:
        del lines[at:to]
    else:
        lines[at] = _ENTRY(rng, lines[at], rng.choice(foreign)).replace(b"\n", b" ")
    return b"\n".join(lines)


# ------------------------------------------------------------------------- certificates


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 128:
        return first, at + 1
    count = first & 127
    return int.from_bytes(data[at + 1 : at + 1 + count], "big"), at + 1 + count


def _der(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + body


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        size, start = _length(data, at + 1)
        found.append((data[at], data[start : start + size]))
        if start + size > len(data) or data[at] & 31 == 31:
            raise ValueError("not DER")
        at = start + size
    return found


def _twist(rng: Random, data: bytes, depth: int = 0) -> bytes:
    """A sequence's content with one element, at some depth, changed."""
    try:
        parts = _parts(data)
    except (ValueError, IndexError):
        parts = []
    if not parts:
        return data[: rng.randrange(len(data) + 1)] + edge_bytes(rng)
    at = rng.randrange(len(parts))
    tag, body = parts[at]
    if (tag & 32 or tag == 4) and depth < 9 and rng.randrange(5):
        parts[at] = (tag, _twist(rng, body, depth + 1))
    else:
        how = rng.randrange(6)
        if how == 0:
            del parts[at]
        elif how == 1:
            parts.insert(at, parts[at])
        elif how == 2:
            parts[at] = (rng.randrange(256), body)
        elif how == 3:
            parts[at] = (tag, body + edge_bytes(rng))
        elif how == 4 and body:
            flipped = bytearray(body)
            flipped[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            parts[at] = (tag, bytes(flipped))
        else:
            rng.shuffle(parts)
    return b"".join(_der(tag, body) for tag, body in parts)


def pem(der: bytes) -> bytes:
    """A certificate's text, as OpenSSL lays it out."""
    text = base64.b64encode(der)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join(
        (b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b"")
    )


def certificate(key: ec.EllipticCurvePrivateKey) -> Mutator:
    """What the owner of an issuer key may sign: its own certificate, changed at will."""

    def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
        try:
            whole = base64.b64decode(b"".join(data.split(b"\n")[1:-2]))
            ((_, outer),) = _parts(whole)
            (tag, tbs), algorithm, _ = _parts(outer)
        except (ValueError, IndexError):
            return data
        tbs = _der(tag, _twist(rng, tbs))
        signature = b"\0" + key.sign(tbs, ec.ECDSA(SHA256()))
        return pem(_der(0x30, tbs + _der(*algorithm) + _der(3, signature)))

    return mutate


def in_document(inner: Mutator, field: bytes) -> Mutator:
    """`inner`, applied to the PEM text in one field of a JSON document."""

    def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
        mark = b'"' + field + b'": "'
        places = [i for i in range(len(data)) if data.startswith(mark, i)]
        if not places:
            return data
        start = rng.choice(places) + len(mark)
        end = data.find(b'"', start)
        text = data[start:end].replace(rb"\n", b"\n")
        new = inner(rng, text, text).replace(b"\n", rb"\n")
        return data[:start] + new + data[end:]

    return mutate


# --------------------------------------------------------------------------------- YAML

_YAML = (
    *(b"&a ", b"*a", b"*b", b"<<: *a", b"<<: [*a, *a]", b"? [a]\n: b", b"!!set {a}"),
    *(b"!!python/object/apply:os.system [x]", b"!" + b"t" * 900, b"*" + b"x" * 900),
    *(b"[" * 50, b"[" * 300, b"{" * 100, b"- " * 300, b"'", b'"\\x1b"', b"\t"),
    *(b"1:59:59", b"1" * 5000, b".inf", b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 99),
    *(b"2026-99-99", b"0001-01-01T00:00:00+23:59", b"2026-01-01 1:1:1.5 -99:99"),
    *(b"~", b"yes", b"no", b"null", b"''", b"!!binary x", b"!!int x", b"!!float x"),
    *(
        b"!!timestamp x",
        b"!!bool x",
        b"!!omap x",
        b"%YAML 9.9\n---\n",
        b"---\n",
        b"...\n",
    ),
)


def yaml(rng: Random, data: bytes, other: bytes) -> bytes:
    """Lines moved, values replaced by what YAML makes something else of."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    key, colon, value = lines[at].partition(b": ")
    how = rng.randrange(6)
    if how == 0:
        lines.insert(at, rng.choice((lines[at], *other.split(b"\n"))))
    elif how == 1:
        lines[at] = b" " * rng.randrange(5) + lines[at]
    elif how == 2:
        lines.insert(at, rng.choice(_YAML))
    elif how == 3:
        lines[at] = rng.choice(_YAML) + colon + value
    else:
        lines[at] = key + b": " + rng.choice((*_YAML, rng.choice(_YAML) + value))
    return b"\n".join(lines)
