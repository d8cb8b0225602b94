"""The vectors agree with a second implementation that knows docs/protocol.md alone."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from secagg import independent as it
from secagg.independent_release import Release, plain, written
from vectors.notation import full

HERE = Path(__file__).parent
FOLDER = HERE.parent / "vectors" / "secagg"
HELD = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.iterdir()}
MESSAGES = {
    name: message
    for file in HELD.values()
    for name, message in full(file.get("messages", {})).items()
}
DIGESTS = {n: x for f in HELD.values() for n, x in f.get("signed_digests", {}).items()}
CASES = [case for file in HELD.values() for case in file.get("cases", [])]
WITH_VALUES = [case for case in CASES if "values" in case]


@pytest.fixture(scope="module")
def release() -> Release:
    u3 = [header["silo"] for header in MESSAGES["u3"]["headers"]]
    quorum = [agreement["silo"] for agreement in MESSAGES["quorum"]["agreements"]]
    return Release(HELD["setting"], u3, quorum)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("name", ["independent.py", "independent_release.py"])
def test_it_is_independent(name):
    tree = ast.parse((HERE / name).read_text("utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    roots = {name.partition(".")[0] for name in imported}
    assert roots - {"cryptography", "secagg"} <= sys.stdlib_module_names


# -------------------------------------------------------------------------- the messages


def index(name: str) -> int:
    """The silo at the end of a message's name, or -1."""
    last = name.rpartition(" ")[2]
    return int(last) if last.isdigit() else -1


def produced(release: Release, name: str) -> it.Message:
    """The message of this name, made anew."""
    first, silo = name.partition(" ")[0], index(name)
    closed = sorted({index(name) for name in HELD["void"]["messages"]} - {-1})
    made: dict[str, Callable[[], it.Message]] = {
        "offer": release.offer,
        "advert": lambda: release.adverts[silo],
        "u1": release.u1,
        "bundle": lambda: release.bundle(silo),
        "u2": lambda: release.u2(silo),
        "upload": lambda: release.upload(silo),
        "ack": lambda: release.ack(silo),
        "u3": release.survivors,
        "agreement": lambda: release.agreement(silo, release.u3),
        "quorum": release.agreements,
        "reveal": lambda: release.reveal(silo),
        "published": release.published,
        "confirmation": lambda: release.confirmation(silo, sum_digest(release)),
        "certificate": lambda: release.certificate(release.quorum[:silo]),
        "void": lambda: release.void(silo),
    }
    special: dict[str, Callable[[], it.Message]] = {
        "agreement 0 as a late one": lambda: release.agreement(0, release.u3[1:]),
        "void request": lambda: release.by_aggregator("VoidRequest", ctx=release.ctx),
        "void certificate": lambda: release.void_certificate(closed),
    }
    return special[name]() if name in special else made[first]()


def sum_digest(release: Release) -> bytes:
    return it.release_digest(release.published())


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_is_made_alike(release, name):
    message = produced(release, name)
    assert written(message) == MESSAGES[name]
    if name in DIGESTS:
        assert it.signed_digest(message).hex() == DIGESTS[name]
    else:
        assert message["kind"] not in it.LABELS


def test_the_sum_is_that_of_the_updates(release):
    each = zip(*(release.silos[u].update for u in release.u3), strict=True)
    out = release.published()
    assert out["total"] == [sum(column) for column in each]
    assert it.tag_holds(release.group, out["total"], out["tag"], release.u3)
    assert not it.tag_holds(release.group, out["total"], out["tag"], release.all)


def test_every_letter_opens(release):
    for name, message in MESSAGES.items():
        if message["kind"] == "ShareSet":
            to = index(name)
            for sender, sealed in message["envelopes"]:
                letter = it.opened(release.envelope_key(sender, to), unhex(sealed))
                silo = release.silos[sender]
                shares = silo.share("self", to) + silo.share("key", to)
                assert letter == shares + silo.g


# ----------------------------------------------------------------- the values on the way


def stream(release: Release, seed: bytes, sign: int) -> dict[str, Any]:
    at = it.after(release.params["length"])
    return {
        "sign": sign,
        "seed": seed,
        "first_block": it.blocks(seed, 0, 1),
        "tag_block": it.blocks(seed, at, 1),
        "tag_mask": it.u64(it.tag_mask(seed, release.params["length"])),
    }


def advertise(release: Release, i: int) -> dict[str, Any]:
    silo = release.silos[i]
    return {
        "mask_key_private": silo.mask_key,
        "envelope_key_private": silo.envelope_key,
        "self_seed": silo.b,
        "group_contribution": silo.g,
    }


def share(release: Release, i: int) -> dict[str, Any]:
    silo, found = release.silos[i], {"key_set": release.key_set}
    for kind in ("self", "key"):
        above = silo.above[kind]
        found[f"{kind}_coefficients"] = [c.to_bytes(33, "little") for c in above]
        found[f"{kind}_shares"] = {v: silo.share(kind, v) for v in release.all}
    others = [v for v in release.all if v != i]
    return {**found, "envelope_keys": {v: release.envelope_key(i, v) for v in others}}


def mask(release: Release, i: int) -> dict[str, Any]:
    update, group = release.silos[i].update, release.group
    (own, _), *_ = release.streams(i)
    vector, tag = release.masked(i)
    others = [w for w in release.all if w != i]
    header = release.upload(i)["header"]
    return {
        "dealers_digest": release.bound[2],
        "self_mask": stream(release, own, 1),
        "pair_masks": {
            w: {
                "shared_secret": release.pair_secret(w, i),
                **stream(release, release.pair_seed(w, i), it.sign_of(i, w)),
            }
            for w in others
        },
        "group_key": group,
        "alpha": [it.u64(it.alpha(group, 0))],
        "beta_1_to_4": [it.u64(it.beta(group, j)) for j in range(4)],
        "pads": {u: it.u64(it.pad(group, u)) for u in release.all},
        "inner_product": it.u64(it.inner_product(group, update)),
        "tag": it.u64(it.tag(group, i, update)),
        "masked_vector": it.pack(vector, 32),
        "masked_tag": it.u64(tag),
        "header_digest": it.signed_digest(header),
    }


def agree(release: Release, i: int) -> dict[str, Any]:
    headers = [release.headers[u] for u in release.u3]
    return {
        "survivors_digest": it.set_digest(release.u3),
        "headers_digest": it.headers_digest(headers),
        "header_digests": [it.signed_digest(header) for header in headers],
    }


def reveal(release: Release, i: int) -> dict[str, Any]:
    answer = release.reveal(i)
    kinds = ("self_shares", "key_shares")
    return {f"{kind}_of": [u for u, _ in answer[kind]] for kind in kinds}


def verify(release: Release, i: int) -> dict[str, Any]:
    total, group = release.published()["total"], release.group
    return {
        "release_digest": sum_digest(release),
        "inner_product": it.u64(it.inner_product(group, total)),
        "pads": it.u64(sum(it.pad(group, u) for u in release.u3) % it.P),
    }


def open_sum(release: Release) -> dict[str, Any]:
    uploads = [release.upload(u)["payload"] for u in release.u3]
    rings = (
        it.unpack(payload[:-8], release.params["ring_bits"]) for payload in uploads
    )
    tags = (int.from_bytes(payload[-8:], "little") for payload in uploads)
    vectors = zip(*rings, strict=True)
    holders = release.quorum[: release.params["threshold"]]
    added: dict[str, Any] = {}
    secrets: dict[int, Any] = {}
    for u in release.all:
        kind = "self" if u in release.u3 else "key"
        secret = release.recovered(u)
        secrets[u] = {"kind": kind, "holders": holders, "secret": secret}
        if kind == "self":
            seed = it.self_seed(secret, *release.bound)
            added[f"self {u}"] = stream(release, seed, -1)
            continue
        for w in release.u3:
            one = stream(release, release.pair_seed(w, u), it.sign_of(u, w))
            added[f"pair {u} {w}"] = one
    return {
        "secrets": secrets,
        "masked_sum": it.pack(
            [sum(column) % 2 ** release.params["ring_bits"] for column in vectors], 32
        ),
        "masked_tag_sum": it.u64(sum(tags) % it.P),
        "streams_added": added,
        "release_digest": sum_digest(release),
    }


STEPS = {
    "advertise": advertise, "share": share, "mask": mask, "agree": agree,
    "reveal": reveal, "release": verify,
}  # fmt: skip


@pytest.mark.parametrize("case", WITH_VALUES, ids=lambda case: case["name"])
def test_every_value_on_the_way_is_computed_alike(release, case):
    if case["party"] == "aggregator":
        assert plain(open_sum(release)) == case["values"]
        return
    file, silo = case["name"].partition("_")[0], index(case["party"])
    assert plain(STEPS[file](release, silo)) == case["values"]
