"""The functions of the vectors, by the second implementation: bytes, sizes, encoding, keys,
sharing, masks and tags."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from secagg import independent as it
from secagg.independent_release import plain

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
HELD = [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.iterdir())]
CASES = [case for file in HELD for case in file.get("cases", [])]
CALLS = [case for case in CASES if "expected" in case]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def group_of(x: dict[str, Any]) -> bytes:
    parts = dict(zip(x["u2"], map(unhex, x["group_contributions"]), strict=True))
    bound = (unhex(x["ctx"]), unhex(x["key_set"]), it.set_digest(x["u2"]))
    return it.group_key(parts, *bound)


def integers(packed: str, kind: str = "<i") -> list[int]:
    return [n for (n,) in struct.iter_unpack(kind, unhex(packed))]


def context(x: dict[str, Any]) -> dict[str, Any]:
    where = (unhex(x["charter"]), x["round"], x["attempt"], unhex(x["state_digest"]))
    digest = it.codec_digest(x["params"])
    return {"codec_digest": digest, "ctx": it.context(*where, x["params"])}


def defaults(x: dict[str, Any]) -> dict[str, Any]:
    made = it.sizes(**x)
    payload = made["length"] * made["ring_bits"] // 8 + 8
    size = {"magnitude": it.magnitude(made), "payload_bytes": payload}
    assert it.are_sizes(made)
    return {"params": made, **size, "codec_digest": it.codec_digest(made)}


def split(x: dict[str, Any]) -> dict[str, Any]:
    above, secret = it.coefficients(unhex(x["random"])), unhex(x["secret"])
    assert len(above) == x["threshold"] - 1
    return {"shares": {v: it.share(secret, above, v) for v in x["holders"]}}


def combine(x: dict[str, Any]) -> dict[str, Any]:
    assert len(x["shares"]) == x["threshold"]
    return {"secret": it.recover({int(v): unhex(y) for v, y in x["shares"].items()})}


def add_streams(x: dict[str, Any]) -> dict[str, Any]:
    vector, tag = integers(x["vector"], "<I"), 0
    for seed, sign in x["streams"]:
        vector = it.add(vector, unhex(seed), sign)
        tag += sign * it.tag_mask(unhex(seed), len(vector))
    return {"vector": it.pack(vector, 32), "tag_mask": it.u64(tag % it.P)}


def tag_of(x: dict[str, Any]) -> dict[str, Any]:
    group, values = group_of(x), integers(x["values"])
    rows = range(-(-x["length"] // 256))
    return {
        "alpha": [it.u64(it.alpha(group, i)) for i in rows],
        "beta_1": it.u64(it.beta(group, 0)),
        "beta_256": it.u64(it.beta(group, 255)),
        "pads": {u: it.u64(it.pad(group, u)) for u in x["u2"]},
        "inner_product": it.u64(it.inner_product(group, values)),
        "tag": it.u64(it.tag(group, x["silo"], values)),
    }


def check_tag(x: dict[str, Any]) -> dict[str, Any]:
    claimed = int.from_bytes(unhex(x["tag"]), "little")
    what = (group_of(x), integers(x["values"]), claimed, x["contributors"])
    assert it.tag_holds(*what)
    return {}


def encode(x: dict[str, Any]) -> dict[str, Any]:
    kind = {"<f8": "<d", "<f4": "<f"}[x["type"]]
    update = [float(y) for y in integers(x["update"], kind)]
    values, scale = it.encode(update, x["params"], x["silo"], unhex(x["key"]))
    return {"values": values, "scale": scale}


def unpack(x: dict[str, Any]) -> dict[str, Any]:
    ring = it.unpack(unhex(x["packed"]), x["ring_bits"])
    signed = [it.signed_integer(y, x["ring_bits"]) for y in ring]
    return {"vector": it.pack(ring, 32), "signed": signed}


def skipped(x: dict[str, Any]) -> dict[str, Any]:
    who = {"silo": x["silo"], "charter": unhex(x["charter"]), "round": x["round"]}
    state = {"state_digest": unhex(x["state_digest"]), "release_digest": b""}
    word = it.sign(unhex(x["identity_seed"]), "Confirmation", **who, **state)
    return {"digest": it.signed_digest(word), "signature": word["signature"]}


def sizes(x: dict[str, Any]) -> dict[str, Any]:
    assert it.are_sizes(x["params"])
    return {"magnitude": it.magnitude(x["params"])}


def public_key(x: dict[str, Any]) -> dict[str, Any]:
    assert it.is_public_key(unhex(x["public_key"]))
    return {}


def exchange(x: dict[str, Any]) -> dict[str, Any]:
    key = unhex(x["private_key"])
    return {"public_key": it.public(key), "shared": it.exchange(key, unhex(x["peer"]))}


def digest(x: dict[str, Any]) -> dict[str, Any]:
    label = x["label"].removeprefix("fedit/").removesuffix("/v1")
    return {"digest": it.H(label, *map(unhex, x["fields"]))}


FUNCTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "u64": lambda x: {"bytes": it.u64(int(x["n"]))},
    "join": lambda x: {"bytes": it.join(*map(unhex, x["fields"]))},
    "digest": digest,
    "digest of a set": lambda x: {"digest": it.set_digest(x["silos"])},
    "context": context,
    "parameters with defaults": defaults,
    "parameters": sizes,
    "check a public key": public_key,
    "key exchange": exchange,
    "split": split,
    "combine": combine,
    "add mask streams": add_streams,
    "tag": tag_of,
    "check a tag": check_tag,
    "encode": encode,
    "pack": lambda x: {"packed": it.pack(integers(x["vector"], "<I"), x["ring_bits"])},
    "unpack": unpack,
    "statement of a skipped round": skipped,
}


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case["name"])
def test_every_function_gives_the_same(case):
    assert plain(FUNCTIONS[case["function"]](case["inputs"])) == case["expected"]


JUDGED = ("parameters", "check a public key", "check a tag")
REFUSED = [c for c in CASES if "error" in c and c.get("function") in JUDGED]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_it_refuses_the_same_sizes_keys_and_tags(case):
    with pytest.raises(AssertionError):
        FUNCTIONS[case["function"]](case["inputs"])


def test_there_are_sizes_keys_and_tags_to_refuse():
    assert {case["function"] for case in REFUSED} == set(JUDGED)
