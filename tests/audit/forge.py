"""Bundles of runs that happened on paper only: no network, no records, real signatures.

A `Run` is told what each silo and the aggregator do. It writes the ledgers and messages
that they would: what the verifier judges, made without it. Where a silo lies while the
run goes on, `writes` says what it puts into its ledger in the place of each event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from audit.claiming import claim_of
from audit.parties import HUB, World, drawn, key_of
from audit.sealing import sealed

from fedit_secure.audit.bundle import AdapterDigests, SeenHeads, SignedHead, round_name
from fedit_secure.federation.adapter_digests import adapter_of
from fedit_secure.federation.approval import approve
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.heads import sign_head
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.privacy import events as e
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.states import Session
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire.codec import PublishedNotice, encode

Names = Sequence[str]
Writes = Callable[[str, e.Event], Iterable[e.Event | bytes]]


def honestly(silo: str, event: e.Event) -> Iterable[e.Event | bytes]:
    """What happened, and nothing else."""
    return (event,)


class Chain:
    """A ledger: whatever lines its silo chains. `hashes` begins before the first."""

    def __init__(self, population: str) -> None:
        self.population = population
        self.entries: list[bytes] = []
        self.hashes = [bytes(32)]

    def add(self, entry: bytes) -> None:
        self.entries.append(entry)
        self.hashes.append(hashlib.sha256(self.hashes[-1] + entry).digest())

    def head(self, at: int | None = None) -> m.LedgerHead:
        """The head after `at` entries, by default all of them."""
        number = len(self.entries) if at is None else at
        return m.LedgerHead(self.population, number, self.hashes[number])

    def to_bytes(self) -> bytes:
        return b"".join(entry + b"\n" for entry in self.entries)


def signed_head(
    silo: str, head: m.LedgerHead, *, by: str = "", counter: str | None = HUB
) -> SignedHead:
    """A head as the silo and the aggregator sign it, or others in their place."""
    counted = None if counter is None else sign_head(key_of(counter), silo, head).hex()
    return SignedHead(
        silo=silo,
        population=head.population,
        sequence=head.sequence,
        hash=head.hash.hex(),
        signature=sign_head(key_of(by or silo), silo, head).hex(),
        countersignature=counted,
    )


@dataclass
class Evidence:
    """What is left of a run: the files of a bundle but for the manifest."""

    world: World
    chains: dict[str, Chain]
    files: dict[str, bytes] = field(default_factory=dict)
    maker: str = HUB

    def sealed(self) -> dict[str, bytes]:
        """All files, with a manifest that the maker signs."""
        return sealed(self.files, self.world.charter, self.maker)

    def put_ledger(self, silo: str, chain: Chain) -> None:
        """The silo's ledger is this, up to a head that both parties signed."""
        self.chains[silo] = chain
        self.files[f"ledgers/{silo}.jsonl"] = chain.to_bytes()
        self.put_head(signed_head(silo, chain.head()))

    def put_head(self, head: SignedHead) -> None:
        self.files[f"heads/{head.silo}.json"] = head.to_bytes()

    def put_claim(self, silo: str) -> None:
        """The silo's own claim about all of its ledger as it stands."""
        claim = claim_of(self.world.charter, silo, self.chains[silo])
        self.files[f"claims/{silo}.claim"] = claim.to_bytes()

    def put_seen(self, silo: str, seen: SeenHeads) -> None:
        self.files[f"seen/{silo}.json"] = seen.to_bytes()


class Run:
    """A run under way. Rounds count from 1, attempts from 1 in each round.

    `chains`: ledgers that go on from earlier charters. `cap`: what a new one is opened
    with. `signers`: how many signatures the aggregator keeps under a sum and a
    certificate, all of them by default; a real one keeps as many as its quorum.
    """

    def __init__(
        self,
        world: World,
        *,
        cap: float | None = 8.0,
        chains: Mapping[str, Chain] | None = None,
        writes: Writes = honestly,
        signers: int | None = None,
    ) -> None:
        self.world, self.writes, self.signers = world, writes, signers
        self.charter, self.digest = world.charter, world.charter.digest()
        self.params = self.charter.secagg_params()
        self.cohorts = Cohorts(self.charter)
        self.keys = {name: key_of(name) for name in (*world.names, HUB)}
        self.plans = {name: world.charter.plan_for(name) for name in world.names}
        self.state, self.round, self.numbers = world.initial, 1, count(1)
        self.files: dict[str, bytes] = {}
        self.adapters: dict[str, str] = {}
        self.published: m.PublishedSum | None = None
        self.charged: set[tuple[str, int]] = set()
        self.chains = dict(chains or {})
        for name in world.names:
            if name not in self.chains:
                self.chains[name] = Chain(f"patients of {name}")
                self.write(name, _opening(world, name, cap))

    def write(self, silo: str, event: e.Event) -> None:
        """An event happens to a silo, which writes what it writes."""
        for entry in self.writes(silo, event):
            line = entry if isinstance(entry, bytes) else entry.to_bytes()
            self.chains[silo].add(line)

    # --------------------------------------------------------------------- step by step

    def charge(self, silos: Names) -> None:
        """They charge this round to their records, and begin to tune."""
        for name in silos:
            intent = e.Intent.of(
                self.plans[name],
                charter=self.digest.hex(),
                run=self.charter.run,
                round=self.round,
                state_digest=self.state.digest().hex(),
                weight=self.charter.row(name).weight,
                dtype="float32",
            )
            self.write(name, intent)
            self.charged.add((name, self.round))

    def commit(self, silos: Names) -> None:
        """They have tuned an update."""
        for name in silos:
            update = drawn(f"update {name} {self.round} {self.chains[name].hashes[-1]}")
            where = {"charter": self.digest.hex(), "round": self.round}
            self.write(name, e.Committed(**where, update_digest=update.hex()))

    def attempt(
        self, silos: Names, heads: Mapping[str, m.LedgerHead] | None = None
    ) -> Attempt:
        """They advertise. `heads`: what some show in the place of their ledgers' heads."""
        number = next(self.numbers)
        where = (self.digest, self.round, number, self.state.digest())
        session = Session(self.params, self.cohorts.roster(self.round), *where)
        shown = {name: self.chains[name].head() for name in silos} | dict(heads or {})
        adverts = []
        for name in silos:
            what = f"{name} {self.round} {number}"
            mask_key, envelope_key = (
                drawn(f"{key} key of {what}")[:31] + b"\x01"
                for key in ("mask", "other")
            )
            advert = m.Advert(
                self.charter.silo_index(name),
                session.ctx,
                mask_key,
                envelope_key,
                drawn(f"seed of {what}"),
                drawn(f"part of {what}"),
                shown[name],
            )
            adverts.append(checks.sign(self.keys[name], advert))
        shown_set = checks.sign(
            self.keys[HUB], m.AdvertSet(session.ctx, tuple(adverts))
        )
        self.put("adverts.frame", encode(shown_set))
        return Attempt(self, session, shown_set)

    def confirm(
        self,
        silos: Names,
        state: GridState | None = None,
        release_digest: bytes | None = None,
    ) -> None:
        """They confirm how the round ended, and the aggregator certifies it."""
        release = release_digest
        if release is None:
            assert self.published is not None
            release = self.published.release_digest
            state = self.applied() if state is None else state
        ended = self.state if state is None else state
        words = []
        for name in silos[: self.signers]:
            index, of = self.charter.silo_index(name), (self.digest, self.round)
            word = m.Confirmation(index, *of, ended.digest(), release)
            words.append(checks.sign(self.keys[name], word))
        certificate = m.RoundCertificate(self.round, tuple(words))
        self.put("certificate.frame", encode(certificate))
        self.adapters[str(self.round)] = adapter_of(ended)
        self.state = ended

    def applied(self) -> GridState:
        """The state that follows from the published sum."""
        out = self.published
        assert out is not None
        return apply_update(self.state, out.total, self.params, out.contributors)

    def close(self, silos: Names, blind: Names = ()) -> None:
        """They learn that the round is over: the `blind` without seeing its sum."""
        for name in silos:
            if (name, self.round) not in self.charged:
                continue
            where = {"charter": self.digest.hex(), "round": self.round}
            if self.published is None:
                self.write(name, e.Aborted(**where))
                continue
            seen = {} if name in blind else self._seen(self.published)
            self.write(
                name,
                e.Released(
                    **where,
                    release_digest=self.published.release_digest.hex(),
                    state_digest=self.state.digest().hex(),
                    **seen,
                ),
            )
        self.round, self.numbers, self.published = self.round + 1, count(1), None

    def put(self, file: str, data: bytes) -> None:
        """The aggregator keeps a file of this round."""
        self.files[round_name(self.round, file)] = data

    def _seen(self, out: m.PublishedSum) -> dict[str, object]:
        names = sorted(self.world.names[silo] for silo in out.contributors)
        total = np.ascontiguousarray(out.total, "<i4").data.cast("B")
        sum_digest = digest("fedit/sum/v1", total).hex()
        return {"contributors": tuple(names), "sum_digest": sum_digest}

    # ---------------------------------------------------------------------- all at once

    def released(
        self,
        *,
        away: Names = (),
        late: Names = (),
        lost: Names = (),
        blind: Names = (),
        again: Names = (),
    ) -> None:
        """A round that ends in a sum.

        Args:
            away: silos that aren't there; they aren't charged.
            late: that are charged, and not ready in time.
            lost: that mask, and whose uploads don't arrive whole.
            blind: that close the round without having seen its sum.
            again: that died while they tuned, and are charged twice.
        """
        names = self.but(away)
        self.charge([name for name in names if name in again])
        self.charge(names)
        ready = [name for name in names if name not in late]
        self.commit(ready)
        attempt = self.attempt(ready)
        attempt.mask(ready)
        attempt.reveal(ready)
        summed = [name for name in ready if name not in lost]
        attempt.publish(summed, agreed=ready)
        self.confirm(self.but(blind, of=ready))
        self.close(names, blind=(*blind, *late))

    def skipped(self, *, confirmed: Names | None = None) -> None:
        """A round that everybody is charged for, and that brings no sum."""
        self.charge(self.drawn)
        self.commit(self.drawn)
        self.skip(confirmed)

    def skip(self, confirmed: Names | None = None) -> None:
        """The round ends without a release."""
        names = self.drawn
        self.published = None
        self.confirm(names if confirmed is None else confirmed, self.state, b"")
        self.close(names)

    def but(self, without: Names, of: Names | None = None) -> list[str]:
        """The silos of this round, or some of them, without these."""
        return [n for n in (self.drawn if of is None else of) if n not in without]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The silos that this round is drawn for."""
        return self.cohorts.names(self.round)

    def end(self, *, vanished: Names = ()) -> Evidence:
        """The run is over. The `vanished` never came back to sign a claim."""
        charter, world = self.charter, self.world
        evidence = Evidence(world, self.chains, dict(self.files))
        files = evidence.files
        files["charter.json"] = charter.to_bytes()
        files["initial.state"] = world.initial.to_bytes()
        files["adapters.json"] = AdapterDigests(by_round=self.adapters).to_bytes()
        for name, card in world.cards().items():
            files[f"cards/{name}.card"] = card.to_bytes()
        for name in world.names:
            own = approve(charter, name, self.keys[name])
            files[f"approvals/{name}.approval"] = own.to_bytes()
            evidence.put_ledger(name, self.chains[name])
            if name not in vanished and self.any_charge(name):
                evidence.put_claim(name)
        return evidence

    def any_charge(self, silo: str) -> bool:
        """Whether the silo was charged in any round."""
        return any(name == silo for name, _ in self.charged)


@dataclass
class Attempt:
    """One attempt at a sum, as far as it comes."""

    run: Run
    session: Session
    adverts: m.AdvertSet

    @property
    def ctx(self) -> str:
        return self.session.ctx.hex()

    def mask(self, silos: Names) -> None:
        for name in silos:
            self.run.write(name, e.Masked(ctx=self.ctx))

    def reveal(self, silos: Names) -> None:
        for name in silos:
            self.run.write(name, e.Revealed(ctx=self.ctx))

    def void(self, silos: Names) -> None:
        for name in silos:
            self.run.write(name, e.Voided(ctx=self.ctx))

    def renew(self, silos: Names) -> None:
        proof = drawn(f"void certificate of {self.ctx}").hex()
        for name in silos:
            self.run.write(name, e.Renewed(ctx=self.ctx, certificate=proof))

    def publish(self, summed: Names, agreed: Names) -> None:
        """The sum over `summed`, on which those who `agreed` have agreed."""
        run, session = self.run, self.session
        index = run.charter.silo_index
        u3 = tuple(sorted(map(index, summed)))
        key_set, headers = self.adverts.key_set(), drawn(f"headers {self.ctx}")
        dealers = m.silo_set(tuple(advert.silo for advert in self.adverts.adverts))
        agreements = []
        for name in agreed[: run.signers]:
            what = (session.ctx, key_set, dealers, m.silo_set(u3), headers)
            agreement = m.Agreement(index(name), *what)
            agreements.append(checks.sign(run.keys[name], agreement))
        total, most = np.zeros(run.params.length, np.int32), run.params.magnitude
        for name in summed:
            seed = int.from_bytes(drawn(f"{name} {self.ctx}", 8))
            rng = np.random.default_rng(seed)
            total += rng.integers(-most, most, total.size, np.int32, endpoint=True)
        tag = int.from_bytes(drawn(f"tag {self.ctx}", 7))
        out = m.PublishedSum(session.ctx, key_set, u3, total, tag, tuple(agreements))
        run.published = out = checks.sign(run.keys[HUB], out)
        run.put("sum.int32", total.astype("<i4").tobytes())
        run.put("published.frame", encode(PublishedNotice.of(out, out.release_digest)))


def _opening(world: World, name: str, cap: float | None) -> e.Opened:
    dp = world.charter.dp
    return e.Opened(
        silo=name,
        identity=key_of(name).public.hex(),
        population=f"patients of {name}",
        unit=dp.unit,
        adjacency="zero-out" if dp.sizes == "public" else "add-or-remove",
        delta=dp.delta or 1e-6,
        cap_epsilon=cap,
        filter_order=16.0,
        fingerprints=drawn(f"records of {name}").hex(),
        software="fedit-secure 0.1.0",
    )
