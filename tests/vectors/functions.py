"""The functions that cases name which aren't a step of a release, over JSON inputs.

Each calls the code's own function and writes down what it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from streams import added, alpha, beta, inner, packed, ring_of, tag_of
from vectors.notation import to_json
from vectors.world import Recorded

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import fixed_point, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import ExchangeKey, SigningKey, check_public
from fedit_secure.secagg.params import Member, Roster, SecAggParams
from fedit_secure.secagg.protocol import confirmation
from fedit_secure.secagg.states import Me, Session
from fedit_secure.secagg.tag import TagKey
from fedit_secure.secagg.transcript import Bound, digest, join, u64

Json = dict[str, Any]


def _hex(value: str) -> bytes:
    return bytes.fromhex(value)


def _params(given: Json) -> SecAggParams:
    return SecAggParams(**{**given, "weights": tuple(given["weights"])})


def integer(x: Json) -> Json:
    return {"bytes": u64(int(x["n"]))}


def joined(x: Json) -> Json:
    return {"bytes": join(*map(_hex, x["fields"]))}


def labelled(x: Json) -> Json:
    return {"digest": digest(x["label"], *map(_hex, x["fields"]))}


def set_of_silos(x: Json) -> Json:
    return {"digest": m.silo_set(tuple(x["silos"]))}


def context(x: Json) -> Json:
    params, where = _params(x["params"]), (x["round"], x["attempt"])
    digests = (_hex(x["charter"]), _hex(x["state_digest"]))
    somebody = tuple(Member(str(n), n.to_bytes(32)) for n in range(1, params.silos + 1))
    roster = Roster(
        somebody, bytes(32)
    )  # ctx covers the charter's digest, not the keys
    at = Session(params, roster, digests[0], *where, digests[1])
    return {"codec_digest": params.codec_digest(), "ctx": at.ctx}


def defaults(x: Json) -> Json:
    made = release_sizes(**x)
    sizes = {"magnitude": made.magnitude, "payload_bytes": made.payload_bytes}
    return {"params": made, **sizes, "codec_digest": made.codec_digest()}


def sizes(x: Json) -> Json:
    return {"magnitude": _params(x["params"]).magnitude}


def public_key(x: Json) -> Json:
    check_public(_hex(x["public_key"]))
    return {}


def exchange(x: Json) -> Json:
    key = ExchangeKey.from_bytes(_hex(x["private_key"]))
    return {"public_key": key.public, "shared": key.exchange(_hex(x["peer"]))}


def split(x: Json) -> Json:
    rand, holders = Recorded(_hex(x["random"])), tuple(x["holders"])
    return {"shares": shares.split(_hex(x["secret"]), x["threshold"], holders, rand)}


def combine(x: Json) -> Json:
    given = {int(holder): _hex(share) for holder, share in x["shares"].items()}
    return {"secret": shares.combine(given, x["threshold"])}


def mask(x: Json) -> Json:
    vector = np.frombuffer(_hex(x["vector"]), "<u4").copy()
    streams = [(_hex(seed), sign) for seed, sign in x["streams"]]
    total, tag = added(vector, streams)
    return {"vector": total.astype("<u4").tobytes(), "tag_mask": u64(tag)}


def _tag_key(x: Json) -> TagKey:
    bound = Bound(b"", _hex(x["ctx"]), _hex(x["key_set"]), m.silo_set(tuple(x["u2"])))
    parts = zip(x["u2"], map(_hex, x["group_contributions"]), strict=True)
    return TagKey.derive(bound, dict(parts), x["length"], x["ring_bits"])


def tag(x: Json) -> Json:
    key, values = _tag_key(x), np.frombuffer(_hex(x["values"]), "<i4")
    return {
        "alpha": [u64(alpha(key, i)) for i in range(len(key.alpha))],
        "beta_1": u64(beta(key, 0)),
        "beta_256": u64(beta(key, 255)),
        "pads": {u: u64(a) for u, a in key.pads.items()},
        "inner_product": u64(inner(key, values)),
        "tag": u64(tag_of(key, x["silo"], values)),
    }


def check_tag(x: Json) -> Json:
    total = np.frombuffer(_hex(x["values"]), "<i4")
    residue = int.from_bytes(_hex(x["tag"]), "little")
    _tag_key(x).check(total, residue, tuple(x["contributors"]))
    return {}


def encode(x: Json) -> Json:
    update = np.frombuffer(_hex(x["update"]), x["type"])
    key, params = _hex(x["key"]), _params(x["params"])
    made = fixed_point.encode(update, params, x["silo"], key)
    return {"values": made.values, "scale": made.scale}


def pack(x: Json) -> Json:
    ring = np.frombuffer(_hex(x["vector"]), "<u4")
    return {"packed": packed(ring, x["ring_bits"])[:-8]}


def unpack(x: Json) -> Json:
    sizes = (x["length"], x["ring_bits"])
    ring = ring_of(_hex(x["packed"]) + bytes(8), *sizes)
    signed = fixed_point.lift_signed(ring, x["ring_bits"])
    return {"vector": ring.tobytes(), "signed": signed}


def skipped(x: Json) -> Json:
    me = Me(x["silo"], SigningKey.from_seed(_hex(x["identity_seed"])))
    digests = (_hex(x["state_digest"]), b"")
    _, word = confirmation(me, _hex(x["charter"]), x["round"], *digests)
    return {"digest": word.signed_digest(), "signature": word.signature}


FUNCTIONS: dict[str, Callable[[Json], Json]] = {
    "u64": integer,
    "join": joined,
    "digest": labelled,
    "digest of a set": set_of_silos,
    "context": context,
    "parameters with defaults": defaults,
    "parameters": sizes,
    "check a public key": public_key,
    "key exchange": exchange,
    "split": split,
    "combine": combine,
    "add mask streams": mask,
    "tag": tag,
    "check a tag": check_tag,
    "encode": encode,
    "pack": pack,
    "unpack": unpack,
    "statement of a skipped round": skipped,
}


def call(case: Json) -> Json:
    """What the case's function gives for its inputs, as JSON. Raises what it raises."""
    return dict(to_json(FUNCTIONS[case["function"]](case["inputs"])))
