"""One whole release by the second implementation: every message, from secrets alone.

Who took part is given; all else follows from the setting, as docs/protocol.md says.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from secagg import independent as it

Message = it.Message


def plain(value: Any) -> Any:
    """As the vectors write it: bytes in hexadecimal, tags as their 8 bytes."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        made = {str(key): plain(x) for key, x in value.items()}
        if isinstance(value.get("tag"), int):
            made["tag"] = it.u64(value["tag"]).hex()
        return made
    return [plain(x) for x in value] if isinstance(value, list | tuple) else value


class Silo:
    """What a silo draws for an attempt, and its identity."""

    def __init__(self, index: int, at: dict[str, Any]) -> None:
        self.index = index
        self.seed = bytes.fromhex(at["identity_seed"])
        self.update = at["update"]
        self.head = {
            **at["ledger_head"],
            "hash": bytes.fromhex(at["ledger_head"]["hash"]),
        }
        drawn = bytes.fromhex(at["random"]["offer"])
        each = [drawn[k : k + 32] for k in (0, 32, 64, 96)]
        self.mask_key, self.envelope_key, self.b, self.g = each
        above = it.coefficients(bytes.fromhex(at["random"]["u1"]))
        half = len(above) // 2
        self.above = {"self": above[:half], "key": above[half:]}

    def share(self, kind: str, holder: int) -> bytes:
        secret = self.b if kind == "self" else self.mask_key
        return it.share(secret, self.above[kind], holder)


class Release:
    """An attempt over U1 = U2 = the roster, the uploads of U3, and a quorum."""

    def __init__(
        self, setting: dict[str, Any], u3: list[int], quorum: list[int]
    ) -> None:
        self.params = setting["params"]
        self.silos = [Silo(i, at) for i, at in enumerate(setting["silos"])]
        self.aggregator = bytes.fromhex(setting["aggregator"]["identity_seed"])
        self.all, self.u3, self.quorum = list(range(len(self.silos))), u3, quorum
        self.charter = bytes.fromhex(setting["charter"])
        self.state = bytes.fromhex(setting["state_digest"])
        self.state_after = bytes.fromhex(setting["state_digest_after"])
        self.round, self.attempt = setting["round"], setting["attempt"]
        where = (self.charter, self.round, self.attempt, self.state)
        self.ctx = it.context(*where, self.params)

    def by(self, signer: int, kind: str, /, **fields: Any) -> Message:
        return it.sign(self.silos[signer].seed, kind, **fields)

    def by_aggregator(self, kind: str, **fields: Any) -> Message:
        return it.sign(self.aggregator, kind, **fields)

    # ----------------------------------------------------------------- advertise and share

    def offer(self) -> Message:
        where = {"round": self.round, "attempt": self.attempt, "state": self.state}
        where["state_digest"] = where.pop("state")
        return self.by_aggregator("Offer", charter=self.charter, **where)

    @cached_property
    def adverts(self) -> list[Message]:
        return [
            self.by(
                silo.index,
                "Advert",
                silo=silo.index,
                ctx=self.ctx,
                mask_key=it.public(silo.mask_key),
                envelope_key=it.public(silo.envelope_key),
                self_commitment=it.commitment(self.ctx, silo.index, silo.b),
                group_commitment=it.commitment(self.ctx, silo.index, silo.g),
                ledger_head=silo.head,
            )
            for silo in self.silos
        ]

    @cached_property
    def key_set(self) -> bytes:
        return it.key_set(self.ctx, self.adverts)

    def u1(self) -> Message:
        return self.by_aggregator("AdvertSet", ctx=self.ctx, adverts=self.adverts)

    def envelope_key(self, sender: int, to: int) -> bytes:
        one, other = (self.adverts[i]["envelope_key"] for i in (sender, to))
        secret = it.exchange(self.silos[sender].envelope_key, other)
        place = (self.ctx, self.key_set, sender, to, one, other)
        return it.envelope_key(secret, self.charter, *place)

    def envelope(self, sender: int, to: int) -> bytes:
        silo = self.silos[sender]
        letter = silo.share("self", to) + silo.share("key", to) + silo.g
        return it.seal(self.envelope_key(sender, to), letter)

    def statement(self, dealer: int) -> Message:
        silo, hashes = self.silos[dealer], []
        for v in self.all:
            own = v == dealer
            hashes.append(b"" if own else it.H("envelope", self.envelope(dealer, v)))
        promised = {
            f"{kind}_commitments": [
                it.share_commitment(
                    self.ctx, self.key_set, dealer, v, kind, silo.share(kind, v)
                )
                for v in self.all
            ]
            for kind in ("self", "key")
        }
        what = {"ctx": self.ctx, "key_set": self.key_set, "holders": self.all}
        what["envelope_hashes"] = hashes
        return self.by(dealer, "ShareStatement", dealer=dealer, **what, **promised)

    @cached_property
    def statements(self) -> list[Message]:
        return [self.statement(dealer) for dealer in self.all]

    def bundle(self, dealer: int) -> Message:
        others = [v for v in self.all if v != dealer]
        sealed = [[v, self.envelope(dealer, v)] for v in others]
        statement = unnamed(self.statements[dealer])
        return {"kind": "ShareBundle", "statement": statement, "envelopes": sealed}

    def u2(self, to: int) -> Message:
        sealed = [[d, self.envelope(d, to)] for d in self.all if d != to]
        bound = {"ctx": self.ctx, "key_set": self.key_set}
        shown = {"statements": self.statements, "envelopes": sealed}
        return self.by_aggregator("ShareSet", **bound, **shown)

    # ------------------------------------------------------------------------------- masks

    @property
    def bound(self) -> tuple[bytes, bytes, bytes]:
        return self.ctx, self.key_set, it.set_digest(self.all)

    def pair_secret(self, u: int, w: int) -> bytes:
        return it.exchange(self.silos[u].mask_key, self.adverts[w]["mask_key"])

    def pair_seed(self, u: int, w: int) -> bytes:
        return it.pair_seed(self.pair_secret(u, w), self.charter, u, w, *self.bound)

    @cached_property
    def group(self) -> bytes:
        parts = {silo.index: silo.g for silo in self.silos}
        return it.group_key(parts, *self.bound)

    def streams(self, u: int) -> list[tuple[bytes, int]]:
        own = it.self_seed(self.silos[u].b, *self.bound)
        others = [w for w in self.all if w != u]
        return [(own, 1), *((self.pair_seed(u, w), it.sign_of(u, w)) for w in others)]

    def masked(self, u: int) -> tuple[list[int], int]:
        """The masked vector mod 2^32 and the masked tag."""
        update, length = self.silos[u].update, self.params["length"]
        vector, tag = [x % 2**32 for x in update], it.tag(self.group, u, update)
        for seed, sign in self.streams(u):
            vector = it.add(vector, seed, sign)
            tag += sign * it.tag_mask(seed, length)
        return vector, tag % it.P

    def upload(self, u: int) -> Message:
        vector, tag = self.masked(u)
        payload = it.pack(vector, self.params["ring_bits"]) + it.u64(tag)
        what = {"ctx": self.ctx, "key_set": self.key_set}
        what |= {"dealers_digest": self.bound[2], "length": len(payload)}
        what["payload_digest"] = it.H("payload", payload)
        header = self.by(u, "UploadHeader", silo=u, **what)
        return {"kind": "MaskedUpload", "header": header, "payload": payload}

    @cached_property
    def headers(self) -> dict[int, Message]:
        return {u: self.upload(u)["header"] for u in self.u3}

    def ack(self, u: int) -> Message:
        hashed = it.signed_digest(self.headers[u])
        what = {"ctx": self.ctx, "silo": u, "header_digest": hashed}
        return self.by_aggregator("UploadAck", **what)

    # ------------------------------------------------------------ agree, reveal and unmask

    def survivors(self) -> Message:
        headers = [self.headers[u] for u in self.u3]
        return self.by_aggregator("SurvivorSet", ctx=self.ctx, headers=headers)

    def agreement(self, silo: int, u3: list[int]) -> Message:
        ctx, key_set, dealers = self.bound
        what = {"silo": silo, "ctx": ctx, "key_set": key_set, "dealers_digest": dealers}
        what["survivors_digest"] = it.set_digest(u3)
        what["headers_digest"] = it.headers_digest([self.headers[u] for u in u3])
        return self.by(silo, "Agreement", **what)

    def agreements(self) -> Message:
        said = [self.agreement(silo, self.u3) for silo in self.quorum]
        return {"kind": "AgreementSet", "ctx": self.ctx, "agreements": said}

    def reveal(self, v: int) -> Message:
        dropped = [u for u in self.all if u not in self.u3 and u != v]
        return self.by(
            v,
            "Reveal",
            silo=v,
            ctx=self.ctx,
            self_shares=[[u, self.silos[u].share("self", v)] for u in self.u3],
            key_shares=[[u, self.silos[u].share("key", v)] for u in dropped],
        )

    def recovered(self, u: int) -> bytes:
        """A secret from what the first t of the quorum revealed."""
        kind = "self_shares" if u in self.u3 else "key_shares"
        holders = self.quorum[: self.params["threshold"]]
        return it.recover({v: dict(self.reveal(v)[kind])[u] for v in holders})

    def published(self) -> Message:
        """X and T as the aggregator computes them, without any silo's update."""
        length, bits = self.params["length"], self.params["ring_bits"]
        vector, tag = [0] * length, 0
        for u in self.u3:
            payload = self.upload(u)["payload"]
            ring = it.unpack(payload[:-8], bits)
            vector = [(a + b) % 2**32 for a, b in zip(vector, ring, strict=True)]
            tag += int.from_bytes(payload[-8:], "little")
        remove = [(it.self_seed(self.recovered(u), *self.bound), -1) for u in self.u3]
        for u in set(self.all) - set(self.u3):
            key = self.recovered(u)
            for w in self.u3:
                secret = it.exchange(key, self.adverts[w]["mask_key"])
                seed = it.pair_seed(secret, self.charter, u, w, *self.bound)
                remove.append((seed, it.sign_of(u, w)))
        for seed, sign in remove:
            vector = it.add(vector, seed, sign)
            tag += sign * it.tag_mask(seed, length)
        return self.by_aggregator(
            "PublishedSum",
            ctx=self.ctx,
            key_set=self.key_set,
            contributors=self.u3,
            total=[it.signed_integer(x, bits) for x in vector],
            tag=tag % it.P,
            agreements=self.agreements()["agreements"],
        )

    # ---------------------------------------------------------------------- how it ends

    def confirmation(self, silo: int, release: bytes) -> Message:
        state = self.state_after if release else self.state
        where = {"charter": self.charter, "round": self.round, "state_digest": state}
        what = {"silo": silo, **where, "release_digest": release}
        return self.by(silo, "Confirmation", **what)

    def certificate(self, signers: list[int]) -> Message:
        release = it.release_digest(self.published())
        said = [self.confirmation(silo, release) for silo in signers]
        return {"kind": "RoundCertificate", "round": self.round, "confirmations": said}

    def void(self, silo: int) -> Message:
        return self.by(silo, "VoidStatement", silo=silo, ctx=self.ctx)

    def void_certificate(self, signers: list[int]) -> Message:
        words = [self.void(silo) for silo in signers]
        return {"kind": "VoidCertificate", "ctx": self.ctx, "statements": words}


def unnamed(message: Any) -> Any:
    """A message as it stands in another: without its kind, at any depth."""
    if isinstance(message, dict):
        return {k: unnamed(x) for k, x in message.items() if k != "kind"}
    return [unnamed(x) for x in message] if isinstance(message, list) else message


def written(message: Message) -> Message:
    """A message as the vectors write it."""
    return dict(plain({"kind": message["kind"], **unnamed(message)}))
