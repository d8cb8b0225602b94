"""Cases of what isn't a step: bytes, context, sizes, encoding, keys, sharing, tag."""

from __future__ import annotations

from typing import Any

import numpy as np
from streams import inner
from vectors import functions
from vectors.notation import to_json
from vectors.world import PARAMS, draw

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg.shares import PRIME

Json = dict[str, Any]
Cases = list[Json]


def good(name: str, comment: str, function: str, **inputs: Any) -> Json:
    """A case whose outcome is what the code gives."""
    what = to_json(inputs)
    case = {"name": name, "comment": comment, "function": function, "inputs": what}
    return {**case, "expected": functions.call(case)}


def bad(
    name: str, comment: str, function: str, error: str, because: str, **inputs: Any
) -> Json:
    """A case that is refused; nobody is suspected of what one computes alone."""
    case = {"name": name, "comment": comment, "function": function}
    wanted = {"error": error, "suspect": None, "because": because}
    return {**case, "inputs": to_json(inputs), **wanted}


def transcript() -> Cases:
    """Integers, joined fields, labelled digests."""
    return [
        good("u64", "Integers are 8 bytes, little-endian.", "u64", n="258"),
        good("u64_largest", "2^64 - 1 is the largest.", "u64", n=str(2**64 - 1)),
        bad("u64_bad_too_large", "2^64 doesn't fit.", "u64",
            "ValueError", "0 <= n < 2^64", n=str(2**64)),
        bad("u64_bad_negative", "There is no sign.", "u64",
            "ValueError", "0 <= n < 2^64", n="-1"),
        good("join_nothing", "No field gives no byte.", "join", fields=[]),
        good("join", "Each field stands behind its length; an empty one has a length too.",
             "join", fields=[b"ab", b"", b"c"]),
        good("join_parted_otherwise", "Other borders give other bytes.",
             "join", fields=[b"a", b"bc", b""]),
        good("digest", "SHA-256 over the joined label and fields.",
             "digest", label="fedit/ctx/v1", fields=[b"R", b"round"]),
        good("digest_without_fields", "A label alone.",
             "digest", label="fedit/tag-rows/v1", fields=[]),
        good("set_digest", "H of a set: the label and its sorted indices as integers.",
             "digest of a set", silos=[0, 1, 2, 3, 5]),
        good("set_digest_unsorted", "The order in which a set is given doesn't count.",
             "digest of a set", silos=[5, 3, 2, 1, 0]),
        good("set_digest_empty", "No silo.", "digest of a set", silos=[]),
    ]  # fmt: skip


def context(setting: Json) -> Cases:
    """ctx, and that it moves with each thing that it covers."""
    at = {key: setting[key] for key in ("charter", "round", "attempt", "state_digest")}
    at["params"] = setting["params"]
    sizes = setting["params"]
    others = {
        "charter": ("charter", draw("another charter", 32).hex()),
        "round": ("round", at["round"] + 1),
        "attempt": ("attempt", at["attempt"] + 1),
        "state": ("state_digest", draw("another state", 32).hex()),
        "weights": ("params", {**sizes, "weights": [1] * 6}),
        "ring": ("params", {**sizes, "ring_bits": 32}),
        "bound": ("params", {**sizes, "bound": 0.25}),
        "length": ("params", {**sizes, "length": 27}),
        "minimum": ("params", {**sizes, "minimum": 5}),
    }
    made = [good("context", "That of the release.", "context", **at)]
    for name, (key, value) in others.items():
        comment = f"With another {name}, all else equal."
        changed = {**at, key: value}
        made.append(good(f"context_other_{name}", comment, "context", **changed))
    return made


def params() -> Cases:
    """Thresholds, and everything that is refused."""
    made = []
    for n in (2, 3, 4, 5, 6, 7, 10, 100):
        pair = {"allow_pair": True} if n == 2 else {}
        comment = f"What a roster of {n} gets by default."
        sizes = {"silos": n, "length": 24, "bound": 0.5, **pair}
        made.append(
            good(f"params_of_{n}", comment, "parameters with defaults", **sizes)
        )
    made += [
        good("params_minimum", "A minimum above t counts.", "parameters with defaults",
             silos=5, length=24, bound=0.5, minimum=5),
        good("params_more_corrupt", "c = N - 2 leaves no silo to be missing.",
             "parameters with defaults", silos=5, length=24, bound=0.5, corrupt=3),
        good("params_wide_ring", "24 bits would round by more than 1 %, so 32 are taken.",
             "parameters with defaults", silos=100, length=40_000_000, bound=0.5),
        good("params_drawn", "5 of 10 are drawn: c is the 10's, all else the 5's.",
             "parameters with defaults", silos=10, drawn=5, length=24, bound=0.5),
        good("params_exact", "The release's sizes.", "parameters", params=PARAMS),
    ]  # fmt: skip
    refused: dict[str, tuple[str, str, Json]] = {
        "one_silo": ("One silo has nobody to hide behind.", "N >= 3",
                     {"silos": 1, "corrupt": 0, "threshold": 1, "minimum": 1,
                      "weights": [1]}),
        "pair": ("A pair without allow_pair.", "allow_pair",
                 {"silos": 2, "corrupt": 0, "threshold": 2, "minimum": 2,
                  "weights": [1, 1]}),
        "drawn_pair": ("Two that are drawn of four are no pair.", "N >= 3",
                       {"silos": 2, "corrupt": 0, "threshold": 2, "minimum": 2,
                        "weights": [1] * 4, "allow_pair": True}),
        "nobody_corrupt": ("c = 0, which is for a pair.", "1 <= c <= N - 2",
                           {"corrupt": 0, "threshold": 4}),
        "all_but_one_corrupt": ("c = N - 1.", "1 <= c <= N - 2",
                                {"corrupt": 5, "threshold": 6, "minimum": 6}),
        "threshold_too_low": ("A downgraded t: two quorums needn't share an honest silo.",
                              "t = floor((N + c)/2) + 1", {"threshold": 3}),
        "threshold_too_high": ("t isn't a choice.", "t = floor((N + c)/2) + 1",
                               {"threshold": 5, "minimum": 5}),
        "minimum_too_low": ("A downgraded minimum.", "t <= m_min <= N", {"minimum": 3}),
        "minimum_too_high": ("More than there are.", "t <= m_min <= N", {"minimum": 7}),
        "no_length": ("No coordinate.", "1 <= length", {"length": 0}),
        "ring": ("Another ring.", "b = 24 or b = 32", {"ring_bits": 16}),
        "bound": ("S = 0.", "1e-30 <= S <= 1e30", {"bound": 0.0}),
        "weights": ("A weight is missing.", "N weights", {"weights": [1] * 5}),
        "weight": ("A weight of zero.", "0 < weight", {"weights": [1] * 5 + [0]}),
        "rounding": ("The ring is too narrow for the length.", "sqrt(length/6)/M",
                     {"length": 10**10}),
    }  # fmt: skip
    for name, (comment, because, change) in refused.items():
        given = {**to_json(PARAMS), **change}
        what = ("parameters", "ValueError", because)
        made.append(bad(f"params_bad_{name}", comment, *what, params=given))
    return made


def encoding() -> Cases:
    """Floats to integers and back, and the packed bytes."""
    narrow = release_sizes(5, length=24, bound=0.5)
    wide = release_sizes(5, length=24, bound=0.5, ring_bits=32)
    weighted = release_sizes(4, length=24, bound=0.5, weights=(1, 2, 3, 6))
    raw = np.frombuffer(draw("floats", 8 * 24), "<u8").astype(np.float64)
    floats = raw / 2.0**64 - 0.5
    floats[:3] = (0.5, -0.5, 0.0)
    beyond = floats * 3
    small, coins = floats.astype("<f4").tobytes(), draw("coins", 32)
    long, far = floats.astype("<f8").tobytes(), beyond.astype("<f8").tobytes()
    infinite = np.where(np.arange(24) == 7, np.inf, floats).astype("<f8").tobytes()
    ring = draw("ring", 4 * 24)
    one = {"silo": 0, "key": coins}
    return [
        good("encode_24", "float64 at 24 bits; the ends of the range first.", "encode",
             params=narrow, type="<f8", update=long, **one),
        good("encode_32", "The same at 32 bits.", "encode",
             params=wide, type="<f8", update=long, **one),
        good("encode_float32", "float32 is widened to float64 first.", "encode",
             params=narrow, type="<f4", update=small, **one),
        good("encode_weighted", "Silo 1 of weights 1, 2, 3, 6 is scaled by 2/6.", "encode",
             params=weighted, type="<f8", update=long, silo=1, key=coins),
        good("encode_scaled", "A coordinate is beyond S: the whole vector is scaled.",
             "encode", params=narrow, type="<f8", update=far, **one),
        bad("encode_bad_infinite", "Coordinate 7 isn't finite.", "encode",
            "ValueError", "isn't finite", params=narrow, type="<f8", update=infinite,
            **one),
        bad("encode_bad_length", "One coordinate is missing.", "encode",
            "ValueError", "24 floats", params=narrow, type="<f8", update=long[8:], **one),
        good("pack_24", "The low 3 bytes of each.", "pack", vector=ring, ring_bits=24),
        good("pack_32", "All 4 bytes.", "pack", vector=ring, ring_bits=32),
        good("unpack_24", "And lifted to signed integers.", "unpack",
             packed=draw("packed", 72), length=24, ring_bits=24),
        good("unpack_32", "And lifted to signed integers.", "unpack",
             packed=draw("packed", 96), length=24, ring_bits=32),
        bad("unpack_bad_short", "A byte is missing.", "unpack", "Bad",
            "don't take", packed=draw("packed", 71), length=24, ring_bits=24),
        bad("unpack_bad_other_ring", "Packed at 32 bits, read at 24.", "unpack",
            "Bad", "don't take", packed=draw("packed", 96), length=24,
            ring_bits=24),
    ]  # fmt: skip


def sharing() -> Cases:
    """Shamir's scheme and the single-use keys."""
    secret, holders = draw("shared secret", 32), [0, 2, 3, 7]
    drawn = (5).to_bytes(33, "little") + b"\xff" * 33 + (7).to_bytes(33, "little")
    comment = "The third 33 bytes replace the second, which pass the prime."
    what = {"secret": secret, "threshold": 3, "holders": holders, "random": drawn}
    dealt = good("split", comment, "split", **what)
    given = dealt["expected"]["shares"]
    three = {v: given[v] for v in ("0", "3", "7")}
    large = {"0": (2**256 + 5).to_bytes(33, "little").hex()}
    return [
        dealt,
        good("combine", "Three of the four.", "combine", shares=three, threshold=3),
        good("combine_others", "Another three give the same.", "combine",
             shares={v: given[v] for v in ("0", "2", "7")}, threshold=3),
        bad("combine_bad_too_few", "Two of three.", "combine", "ValueError",
            "opens with 3 shares", shares={v: given[v] for v in ("0", "2")}, threshold=3),
        bad("combine_bad_not_reduced", "A share that isn't below the prime.", "combine",
            "Bad", "below the prime", threshold=1,
            shares={"0": PRIME.to_bytes(33, "little")}),
        bad("combine_bad_long_secret", "2^256 + 5 is an element, and no secret.",
            "combine", "Bad", "32-byte secret", shares=large, threshold=1),
    ]  # fmt: skip


def keys() -> Cases:
    """Public keys that are refused whoever sends them."""
    p = 2**255 - 19
    base = (9).to_bytes(32, "little")
    order_8 = (
        325606250916557431795983626356110631294008115727848805560023387167927233504
    )
    points = {
        "zero": (0, "The point 0, of order 2."),
        "one": (1, "The point 1, of order 4."),
        "order_8": (order_8, "A point of order 8."),
        "minus_one": (p - 1, "The point -1, on the twist."),
    }
    twins = {
        "bit_255": (9 + 2**255, "The base point with bit 255 set."),
        "not_reduced": (p + 9, "The base point plus the prime."),
        "prime": (p, "Zero, not reduced."),
    }
    what = ("check a public key", "Bad")
    made = [
        good("public_key", "The base point, as RFC 7748 writes it.",
             "check a public key", public_key=base),
        good("exchange", "The shared secret before any derivation.", "key exchange",
             private_key=draw("exchange", 32), peer=base),
    ]  # fmt: skip
    for name, (u, comment) in points.items():
        key = {"public_key": u.to_bytes(32, "little")}
        made.append(bad(f"public_key_bad_{name}", comment, *what, "low order", **key))
    for name, (u, comment) in twins.items():
        key = {"public_key": u.to_bytes(32, "little")}
        made.append(bad(f"public_key_bad_{name}", comment, *what, "2^255 - 19", **key))
    short = {"public_key": bytes(31)}
    made.append(bad("public_key_bad_short", "31 bytes.", *what, "32 bytes", **short))
    return made


def tags() -> Cases:
    """The verifiable sum over more than one row, and sums that it refuses."""
    u2, length = [0, 1, 3], 259  # two rows, the last one of three coordinates
    drawn = (
        np.frombuffer(draw("values of a tag", 4 * length), "<i4") % 2000001 - 1000000
    )
    values = drawn.astype("<i4")
    parts = [draw(f"contribution {u}", 32) for u in u2]
    group = {"ctx": draw("ctx", 32), "key_set": draw("K", 32), "u2": u2,
             "group_contributions": parts, "length": length, "ring_bits": 24}  # fmt: skip
    own = good("tag", "Silo 1's tag of 259 coordinates, in two rows.", "tag",
               **group, silo=1, values=values.tobytes())  # fmt: skip
    key = functions._tag_key(to_json(group))
    total = 3 * values
    right = (inner(key, total) + sum(key.pads.values())) % (2**61 - 1)
    twice = 2 * right % (2**61 - 1)

    def check(name: str, comment: str, total: Any, tag: int, among: list[int]) -> Json:
        given = {"values": total.astype("<i4").tobytes(), "contributors": among}
        what = {**group, **given, "tag": tag.to_bytes(8, "little")}
        if "_bad_" not in name:
            return good(name, comment, "check a tag", **what)
        because = "distinct silos" if "outsider" in name else "isn't that of this sum"
        return bad(name, comment, "check a tag", "Bad", because, **what)

    one_more = total.copy()
    one_more[258] += 1
    return [
        own,
        check("tag_of_a_sum", "The sum of three equal updates.", total, right, u2),
        check("tag_bad_one_more", "The last coordinate is one too large.",
              one_more, right, u2),
        check("tag_bad_scaled", "Twice the sum with twice the tag: pads don't scale.",
              2 * total, twice, u2),
        check("tag_bad_zero", "Nothing at all, with tag 0.", 0 * total, 0, u2),
        check("tag_bad_fewer", "One contributor is left out.", total, right, [0, 1]),
        check("tag_bad_outsider", "Silo 2 isn't in U2.", total, right, [0, 1, 2]),
        good("mask", "Two streams, one added and one subtracted; tile 1 masks the tag.",
             "add mask streams", vector=draw("ring", 104),
             streams=[[draw("stream 1", 32), 1], [draw("stream 2", 32), -1]]),
    ]  # fmt: skip


def skipped(setting: Json) -> Cases:
    """The statement that a round was skipped."""
    who = setting["silos"][1]["identity_seed"]
    at = {key: setting[key] for key in ("charter", "round", "state_digest")}
    comment = "Silo 1 states that the round left the state as it was."
    what = ("confirm_skipped", comment, "statement of a skipped round")
    return [good(*what, silo=1, identity_seed=who, **at)]
