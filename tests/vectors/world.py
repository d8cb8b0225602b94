"""The setting that all vectors of a release share: sizes, parties, updates, randomness.

Everything is drawn from SHAKE-256 of a name, so it is the same on every machine and under
every version of every library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from vectors.notation import to_json

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster, SecAggParams
from fedit_secure.secagg.shares import PRIME

# Six silos are the fewest that tolerate two that vanish: t = m_min = 4.
PARAMS = release_sizes(6, length=26, bound=0.5, weights=(1, 2, 1, 1, 3, 1))
AGGREGATOR = -1


def draw(name: str, count: int) -> bytes:
    """So many bytes that belong to this name."""
    return hashlib.shake_256(f"fedit-secure vectors: {name}".encode()).digest(count)


class Recorded:
    """A source of randomness that gives out what was written down, and no more."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def __call__(self, count: int) -> bytes:
        given, self.left = self.left[:count], self.left[count:]
        assert len(given) == count, "more randomness was asked for than is written down"
        return given


def coefficients(draws: bytes) -> list[int]:
    """What a dealer takes of its draws: 257 bits of 33 bytes each, if below the prime."""
    chunks = [draws[at : at + 33] for at in range(0, len(draws), 33)]
    values = [int.from_bytes(chunk, "little") % 2**257 for chunk in chunks]
    return [value for value in values if value < PRIME]


def _polynomials(silo: int, count: int) -> bytes:
    """Draws that hold so many coefficients, the last of them at the end."""
    size = 0
    while len(coefficients(draw(f"polynomials of {silo}", size))) < count:
        size += 33
    return draw(f"polynomials of {silo}", size)


def _update(silo: int) -> list[int]:
    """Integers over all of the range; its ends come first."""
    raw = np.frombuffer(draw(f"update of {silo}", 4 * PARAMS.length), "<u4")
    top = PARAMS.magnitude
    values = [int(x) % (2 * top + 1) - top for x in raw]
    return [top, -top, 0, *values[3:]]


def setting() -> dict[str, Any]:
    """The setting as its file holds it."""
    silos = []
    for i in range(PARAMS.silos):
        seed = draw(f"identity of {i}", 32)
        head = m.LedgerHead(f"patients of silo-{i}", 7 + i, draw(f"ledger of {i}", 32))
        # Of the even ones their peers have seen this head, of the odd ones an older one.
        seen = head if i % 2 == 0 else m.LedgerHead(head.population, 6, bytes([i]) * 32)
        polynomials = _polynomials(i, 2 * (PARAMS.threshold - 1))
        silos.append(
            {
                "name": f"silo-{i}",
                "identity_seed": seed.hex(),
                "identity_key": SigningKey.from_seed(seed).public.hex(),
                "ledger_head": to_json(head),
                "head_last_seen_by_its_peers": to_json(seen),
                "update": _update(i),
                "update_digest": draw(f"update digest of {i}", 32).hex(),
                "random": {
                    "offer": draw(f"secrets of {i}", 128).hex(),
                    "u1": polynomials.hex(),
                },
            }
        )
    seed = draw("identity of the aggregator", 32)
    key = SigningKey.from_seed(seed).public.hex()
    return {
        "about": "What every case of a release starts from; README.md says how.",
        "params": to_json(PARAMS),
        "aggregator": {"identity_seed": seed.hex(), "identity_key": key},
        "silos": silos,
        "charter": draw("charter", 32).hex(),
        "round": 3,
        "attempt": 2,
        "state_digest": draw("state", 32).hex(),
        "state_digest_after": draw("state after", 32).hex(),
    }


@dataclass(frozen=True)
class World:
    """A setting, read: what the state machines start from."""

    setting: dict[str, Any]

    @property
    def params(self) -> SecAggParams:
        given = self.setting["params"]
        return SecAggParams(**{**given, "weights": tuple(given["weights"])})

    def key(self, party: int) -> SigningKey:
        """The identity key of a silo, or of AGGREGATOR."""
        silos = self.setting["silos"]
        who = self.setting["aggregator"] if party == AGGREGATOR else silos[party]
        return SigningKey.from_seed(bytes.fromhex(who["identity_seed"]))

    @property
    def roster(self) -> Roster:
        members = tuple(
            Member(silo["name"], bytes.fromhex(silo["identity_key"]))
            for silo in self.setting["silos"]
        )
        key = bytes.fromhex(self.setting["aggregator"]["identity_key"])
        return Roster(members, key)

    @property
    def session(self) -> s.Session:
        at = self.setting
        digests = bytes.fromhex(at["charter"]), bytes.fromhex(at["state_digest"])
        where = (digests[0], at["round"], at["attempt"], digests[1])
        return s.Session(self.params, self.roster, *where)

    def invited(self, silo: int) -> s.Invited:
        """A silo as it stands before the first message."""
        who = self.setting["silos"][silo]
        seen = {
            i: head(peer["head_last_seen_by_its_peers"])
            for i, peer in enumerate(self.setting["silos"])
            if i != silo
        }
        return s.Invited(
            self.session,
            s.Me(silo, self.key(silo)),
            np.array(who["update"], np.int32),
            bytes.fromhex(who["update_digest"]),
            head(who["ledger_head"]),
            seen,
        )

    def random(self, silo: int, name: str) -> Recorded:
        """What a silo draws while it takes the message of this name."""
        drawn = self.setting["silos"][silo]["random"].get(name, "")
        return Recorded(bytes.fromhex(drawn))


def head(written: dict[str, Any]) -> m.LedgerHead:
    """A ledger's head from its JSON."""
    return m.LedgerHead(**{**written, "hash": bytes.fromhex(written["hash"])})
