"""What the fuzzers found, each with the input that showed it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fuzz import samples
from fuzz.damage_more import _der, _parts, pem

from fedit_secure.config import load_policy
from fedit_secure.errors import (
    ConfigError,
    ConnectError,
    MalformedMessage,
    StorageError,
)
from fedit_secure.federation.approval import Approval
from fedit_secure.federation.certificates import check_issuer, check_leaf
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.events import decode
from fedit_secure.secagg.transcript import u64
from fedit_secure.storage.life import Life

NASTY = "a\n\x1b[2J\u202e"


def short_line(error: pytest.ExceptionInfo[Exception]) -> None:
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 700


# ------------------------------------------------------------------------------- states


def state(header: object, values: int) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return b"fedit/state/v1\n" + u64(len(text)) + text + bytes(8 * values)


@pytest.mark.parametrize(
    ("layout", "values", "bits"),
    [
        ([["a", [2.0]]], 2, 24),  # its digest was an AttributeError
        ([["a", [2]]], 2, 24.0),
        ([], 0, -0.0),
        ([["a", [True, 2]]], 2, 24),  # a second file with the digest of [1, 2]
        ([["a", [2]]], 2, True),
        ([["a", [2**70, 0]]], 0, 24),  # its digest was a ValueError
        ([["\ud800", [2]]], 2, 24),  # its digest was a UnicodeEncodeError
        ([["a", [2, 10**400, 1.5]]], 0, 24),  # an OverflowError
        ([["a", [float("nan")]]], 0, 24),
        ([["a", [9] * 200_000]], 0, 24),  # seconds of multiplication
        pytest.param([["a", [1]]], 1, -(10**4000), id="quoted"),  # whole, in the text
        ([[["a"], [1]]], 1, 24),
    ],
)
def test_a_state_is_of_text_and_integers(
    layout: object, values: int, bits: object
) -> None:
    data = state({"fraction_bits": bits, "layout": layout}, values)
    with pytest.raises(MalformedMessage) as caught:
        GridState.from_bytes(data)
    short_line(caught)


def test_shapes_without_coordinates_have_a_digest_too() -> None:
    data = state({"fraction_bits": 0, "layout": [["a", [0, 2**53 - 1]]]}, 0)
    read = GridState.from_bytes(data)
    assert read.to_bytes() == data
    assert len(read.digest()) == 32


@pytest.mark.parametrize(
    "data",
    [
        b'{"round":Infinity}',  # an OverflowError
        b'{"round":-1e999}',
        b"[" * 100_000,  # a RecursionError
        b'{"round":"' + b"x" * 100_000 + b'"}',
    ],
)
def test_a_damaged_life_is_a_storage_error(data: bytes) -> None:
    with pytest.raises(StorageError) as caught:
        Life.from_bytes(data)
    short_line(caught)


# ------------------------------------------------------------------------------ ledgers


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "x" * 60_000},
        {"kind": NASTY},
        {"kind": "masked", "version": 1, "ctx": "0a" * 32, NASTY: 1},
        {"kind": "masked", "version": 1, "ctx": "0a" * 32, "x" * 60_000: 1},
    ],
)
def test_an_entrys_own_words_are_quoted_short_and_printable(content: object) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode(json.dumps(content).encode())
    short_line(caught)


# ---------------------------------------------------------------------------- documents


def changed(**fields: object) -> bytes:
    content = json.loads(samples.charters()[0])
    content |= fields
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def test_a_charters_own_words_are_quoted_short() -> None:
    secagg = json.loads(samples.charters()[0])["secagg"]
    for data in (
        changed(**{"x" * 100_000: 1}),
        changed(**{NASTY: 1}),
        changed(secagg=secagg | {"corrupt": 10**4000}),
    ):
        with pytest.raises(ConfigError) as caught:
            Charter.from_bytes(data, "the charter")
        short_line(caught)


def test_a_charters_tensors_have_eight_sides_at_most() -> None:
    """More took seconds to multiply, and their product was no 64-bit length."""
    adapter = json.loads(samples.charters()[0])["adapter"]
    adapter["layout"] = [["a", [1] * 9]]
    with pytest.raises(ConfigError, match=r"'adapter.layout.0.1' .*at most 8"):
        Charter.from_bytes(changed(adapter=adapter), "the charter")


def test_an_approval_larger_than_any_is_not_parsed(tmp_path: Path) -> None:
    """Its 50,000 unknown fields took a hundred times its size in memory."""
    data = b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}"
    with pytest.raises(ConfigError, match="an approval is larger than 64 KiB"):
        Approval.from_bytes(data, "an approval")
    path = tmp_path / "a.approval"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.approval is larger than 64 KiB"):
        Approval.load(path)


# ------------------------------------------------------------------------- certificates


def resigned(text: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A certificate with its content changed, signed again by our issuer's key."""
    ((_, outer),) = _parts(base64.b64decode(b"".join(text.split(b"\n")[1:-2])))
    (tag, body), algorithm, _ = _parts(outer)
    content = _der(tag, change(body))
    signature = b"\0" + samples.ISSUER_KEY.sign(content, ec.ECDSA(SHA256()))
    return pem(_der(0x30, content + _der(*algorithm) + _der(3, signature)))


def of_version_six(body: bytes) -> bytes:
    return body.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06", 1)


def with_an_extension_twice(body: bytes) -> bytes:
    *head, (tag, boxed) = _parts(body)
    ((inner, extensions),) = _parts(boxed)
    twice = extensions + _der(*_parts(extensions)[0])
    return b"".join(_der(*part) for part in (*head, (tag, _der(inner, twice))))


def of_an_unknown_key_type(body: bytes) -> bytes:
    known = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"  # 1.2.840.10045.2.1
    return body.replace(known, known[:-1] + b"\x0d", 1)


@pytest.mark.parametrize(
    "change", [of_version_six, with_an_extension_twice, of_an_unknown_key_type]
)
def test_a_certificate_that_the_library_cannot_read(
    change: Callable[[bytes], bytes],
) -> None:
    """InvalidVersion, DuplicateExtension and UnsupportedAlgorithm came out."""
    with pytest.raises(ConfigError, match="isn't a self-signed"):
        check_issuer(resigned(samples.ISSUER.encode(), change).decode())
    if change is not of_an_unknown_key_type:  # a leaf's own key signs nothing here
        leaf = resigned(samples.leaves()[0], change)
        with pytest.raises(ConnectError, match="wasn't issued by"):
            check_leaf(leaf, samples.ISSUER, "silo", "clinic-a", samples.NOW)


# --------------------------------------------------------------------------------- YAML

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "holds more than 100000 values"),  # 9^9 of them: no end
        ("epsilon: !!bool x", "isn't YAML text"),  # a KeyError
        ("epsilon: !!timestamp x", "isn't YAML text"),  # an AttributeError
        ("epsilon: !!int ''", "isn't YAML text"),  # an IndexError
        ("epsilon: !" + "t" * 9000, "could not determine a constructor"),
        ("epsilon: *" + "x" * 9000, "found undefined alias"),
        ("x" * 900 + ": 1\ndelta: 1", "is unknown"),
        (f"? {'x' * 900}\n: 1\n? {'x' * 900}\n: 2", "is there twice"),
    ],
)
def test_a_policy_that_is_no_plain_yaml(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        load_policy(path)
    assert len(str(caught.value)) < len(str(path)) + 700
