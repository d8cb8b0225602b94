"""`fedit audit verify`: a bundle's claims, one by one, offline and without trust in us.

It believes the charter's digest, which the auditor compares with what an operator was
given, and the signatures under it; the rest it recomputes. Nothing here is shared with the
code that writes ledgers, charges budgets or publishes sums, but the formats and the pure
functions that are the protocol's definition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedit_secure.audit import claims, costs, heads, releases
from fedit_secure.audit.beside import children, shares
from fedit_secure.audit.bundle import (
    LABEL,
    MANIFEST,
    SIGNATURE,
    Bundle,
    Manifest,
    charter_of,
)
from fedit_secure.audit.facts import Audit, RoundFacts, SiloFacts
from fedit_secure.audit.findings import Fault, verdicts
from fedit_secure.audit.histories import History
from fedit_secure.audit.ledger_reader import read_history
from fedit_secure.audit.parties import check_delta, check_parties
from fedit_secure.audit.rounds import Ended, Terms, read_rounds
from fedit_secure.audit.states import Followed, follow
from fedit_secure.errors import ConfigError
from fedit_secure.federation.adapter_digests import adapter_of
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.secagg.keys import BadSignature, verify
from fedit_secure.secagg.transcript import digest

_ROUND = re.compile(r"[0-9]{6,9}")
_MOST_LEDGER = 128 << 20  # bytes: fifty times what a thousand rounds take
_ALONE = 500  # rounds times silos below which a second process wouldn't pay


def audit_bundle(
    path: Path, *, witnesses: Sequence[Path] = (), jobs: int = 1, points: int = 2
) -> Audit:
    """Verify a bundle.

    Args:
        path: a .zip file or a folder.
        witnesses: other bundles of the same charter, such as a silo's own: their heads
            must lie on the same ledgers.
        jobs: processes to read with.
        points: of each silo's curve of epsilon, at most.

    Raises:
        ConfigError: what is there is no bundle, or none that can be read.
    """
    with ExitStack() as opened:
        bundle = opened.enter_context(Bundle(path))
        others = [opened.enter_context(Bundle(other)) for other in witnesses]
        return _Auditor(bundle, others, jobs, points).audit()


class _Auditor:
    """One verification: what is known so far, and what is wrong or lacking of it."""

    def __init__(
        self, bundle: Bundle, witnesses: Sequence[Bundle], jobs: int, points: int
    ) -> None:
        self.bundle, self.witnesses = bundle, witnesses
        self.jobs, self.points = jobs, points
        self.manifest = _manifest(bundle)
        self.charter = charter_of(bundle)
        self.own = self.charter.digest().hex()
        self.faults: list[Fault] = []
        self.lacks: dict[str, tuple[str, ...]] = {}
        names = tuple(row.name for row in self.charter.roster)
        maker = self.manifest.maker
        # A silo's own bundle speaks of its own ledger only.
        self.alone = maker.role == "silo" and maker.name in names
        self.silos = (maker.name,) if self.alone else names

    def audit(self) -> Audit:
        """All claims, in their order."""
        self.faults += _check_files(self.bundle, self.manifest)
        self.faults += _check_maker(self.bundle, self.manifest, self.charter)
        self.faults += check_parties(self.bundle, self.charter, self.silos)
        if not list(self.bundle.stems("cards", ".card")):
            self._lack("charter", "cards/")
        self.faults += check_delta(self.charter)
        terms = Terms.of(self.charter)
        histories, rounds = self._read(terms)
        self._absent(histories, rounds)
        sound = self._ledgers(histories)
        self.faults += heads.check_adverts(self.charter, rounds, sound)
        self.faults += heads.check_seen(self.bundle, self.charter, sound, own=True)
        for witness in self.witnesses:
            self.faults += heads.check_witness(witness, self.charter, sound)
            self.faults += heads.check_seen(witness, self.charter, sound, own=False)
        for history in sound.values():
            self.faults += releases.check_plan(self.charter, self.own, history)
        for ended in rounds:
            self.faults += ended.faults
        if not self.alone:
            states = _states_before(terms, rounds)
            self.faults += releases.check_charges(
                self.charter, self.own, rounds, sound, states
            )
        followed = self._follow(terms, rounds)
        silos = tuple(self._cost(history) for history in sound.values())
        self._missing(rounds)
        return Audit(
            bundle=self.bundle.path.name,
            maker=f"{self.manifest.maker.role} {self.manifest.maker.name}",
            federation=self.charter.federation,
            run=self.charter.run,
            epoch=self.charter.epoch,
            charter=self.own,
            words=" ".join(self.charter.words()),
            plan=_plan_facts(self.charter),
            verdicts=verdicts(self.faults, self.lacks),
            silos=silos,
            rounds=tuple(self._round_facts(terms, ended) for ended in rounds),
            adapter=_final(followed.last),
        )

    # ------------------------------------------------------------------------- reading

    def _read(self, terms: Terms) -> tuple[dict[str, History], list[Ended]]:
        """All ledgers and all rounds, in processes of their own where that pays."""
        names = [n for n in self.silos if f"ledgers/{n}.jsonl" in self.bundle]
        numbers = self._rounds_there()
        jobs = self.jobs if len(numbers) * len(names) > _ALONE else 1
        mine, *theirs = shares(numbers, jobs)
        with children(self.bundle.path, theirs) as beside:
            histories = [self._history(name) for name in names]
            for history in histories:
                costs.foresee(self.charter, history)
            rounds = list(read_rounds(self.bundle, terms, mine))
            rounds += [ended for child in beside for ended in child.result()]
        return {history.silo: history for history in histories}, rounds

    def _history(self, name: str) -> History:
        row = self.charter.row(name)
        data = self.bundle.read(f"ledgers/{name}.jsonl", _MOST_LEDGER) or b""
        return read_history(name, row.population, row.identity, data)

    def _rounds_there(self) -> list[int]:
        """The rounds to read: up to the last that has any file, gaps included."""
        found = set()
        for name in self.bundle.names:
            folder, _, rest = name.partition("/")
            number = rest.partition("/")[0]
            if folder == "rounds" and _ROUND.fullmatch(number):
                found.add(int(number))
        beyond = sorted(n for n in found if not 1 <= n <= self.charter.rounds)
        what = f"the charter has {self.charter.rounds} rounds"
        self.faults += [Fault("round-unknown", f"round {n}", what) for n in beyond]
        last = max((n for n in found if n not in beyond), default=0)
        return list(range(1, last + 1))

    # ------------------------------------------------------------------------- checking

    def _absent(
        self, histories: Mapping[str, History], rounds: Sequence[Ended]
    ) -> None:
        """A silo that never came has no ledger here; one that advertised has."""
        came = {
            self.charter.roster[index].name
            for ended in rounds
            for index, _, _ in ended.heads
        }
        for name in self.silos:
            if name in histories:
                continue
            if name in came or self.alone:
                what = "its ledger isn't there, and it took part"
                self.faults.append(Fault("ledger-missing", f"silo {name}", what))
            else:
                self._lack("ledgers", f"ledgers/{name}.jsonl")

    def _ledgers(self, histories: Mapping[str, History]) -> dict[str, History]:
        """Those that are whole and lead to their signed heads."""
        sound = {}
        for name, history in histories.items():
            held = heads.anchor(self.bundle, self.charter, history)
            for lack in held.lacks:
                self._lack("ledgers", lack)
            self.faults += held.faults
            # An entry that was changed is told by the chain, whatever it says now.
            if held.sound:
                self.faults += history.faults
            if held.sound and history.readable:
                sound[name] = history
        return sound

    def _follow(self, terms: Terms, rounds: Sequence[Ended]) -> Followed:
        if self.alone:
            return Followed()
        followed = follow(self.bundle, self.charter, terms, rounds)
        self.faults += followed.faults
        for lack in followed.lacks:
            self._lack("adapters", lack)
        return followed

    def _cost(self, history: History) -> SiloFacts:
        opened = history.opened
        assert opened is not None
        own = history.of(self.own)
        run = costs.run_cost(self.charter, history.silo)
        self.faults += costs.check_run(self.charter, history.silo, run)
        self.faults += costs.check_caps(history)
        claim, wrong = claims.read_claim(self.bundle, self.charter, history.silo)
        self.faults += wrong
        if claim is not None:
            self.faults += claims.check_claim(self.own, history, claim, run)
        elif own and not wrong:
            self._lack("epsilon", f"claims/{history.silo}.claim")
        released = sum(charter == self.own for charter, _ in history.releases)
        return SiloFacts(
            name=history.silo,
            population=opened.population,
            unit=opened.unit,
            entries=history.entries,
            head=history.hashes[-1].hex(),
            charges=len(own),
            planned=self.charter.plan_for(history.silo).charges,
            lost=len(own) - released,
            before=len(history.charges) - len(own),
            run=run,
            lifetime=costs.cost_at(history, history.entries),
            counted=costs.filtered(history, history.entries, self.own),
            cap=costs.cap_at(history, history.entries),
            claimed=None if claim is None else claim.lifetime.published,
            curve=costs.curve(history, self.points),
        )

    def _missing(self, rounds: Sequence[Ended]) -> None:
        """What a bundle of this maker can't show."""
        if self.alone or not rounds:
            why = "the aggregator's transcript" if self.alone else "rounds/"
            for claim in ("rounds", "sums", "charges", "adapters", "heads"):
                self._lack(claim, why)

    def _lack(self, claim: str, what: str) -> None:
        self.lacks[claim] = (*self.lacks.get(claim, ()), what)

    def _round_facts(self, terms: Terms, ended: Ended) -> RoundFacts:
        names = sorted(self.charter.roster[i].name for i in ended.contributors)
        return RoundFacts(
            ended.round,
            ended.outcome,
            tuple(sorted(terms.cohorts.names(ended.round))),
            tuple(names),
            ended.signers,
            ended.state.hex(),
        )


# --------------------------------------------------------------------------------- files


def _manifest(bundle: Bundle) -> Manifest:
    data = bundle.read(MANIFEST, Manifest.most_bytes)
    if data is None:
        raise ConfigError(f"{bundle.path} is no bundle: it has no {MANIFEST}")
    return Manifest.from_bytes(data, f"{MANIFEST} in {bundle.path}")


def _check_files(bundle: Bundle, manifest: Manifest) -> Iterator[Fault]:
    here = {name for name in bundle.names if name not in (MANIFEST, SIGNATURE)}
    for name, due in sorted(manifest.files.items()):
        if name not in here:
            yield Fault("file-missing", name, "the manifest lists it")
        elif bundle.sha256(name) != due:
            yield Fault("file-changed", name, "its SHA-256 isn't the manifest's")
    for name in sorted(here - manifest.files.keys()):
        yield Fault("file-unlisted", name, "the manifest doesn't list it")


def _check_maker(
    bundle: Bundle, manifest: Manifest, charter: Charter
) -> Iterator[Fault]:
    if manifest.charter != charter.digest().hex():
        what = "the manifest is of another charter than charter.json"
        yield Fault("other-charter", MANIFEST, what)
    keys = {("aggregator", charter.aggregator.name): charter.aggregator.identity}
    keys |= {("silo", row.name): row.identity for row in charter.roster}
    key = keys.get((manifest.maker.role, manifest.maker.name))
    if key is None:
        what = f"{manifest.maker.role} {manifest.maker.name} isn't in the charter"
        yield Fault("manifest-unsigned", MANIFEST, what)
        return
    covered = digest(LABEL, manifest.to_bytes())
    try:
        verify(bytes.fromhex(key), covered, bundle.read(SIGNATURE, 64) or b"")
    except (BadSignature, ConfigError):
        what = f"{manifest.maker.name} didn't sign it"
        yield Fault("manifest-unsigned", SIGNATURE, what)


# --------------------------------------------------------------------------------- facts


def _states_before(terms: Terms, rounds: Sequence[Ended]) -> dict[int, bytes]:
    """The state that each round began with, where a quorum confirmed it."""
    found = {1: terms.initial}
    found |= {ended.round + 1: ended.state for ended in rounds if ended.state}
    return found


def _plan_facts(charter: Charter) -> dict[str, Any]:
    dp, tuning, sizes = charter.dp, charter.tuning, charter.secagg_params()
    return {
        "rounds": charter.rounds,
        "silos": len(charter.roster),
        "silos_per_round": sizes.silos,
        "minimum_silos": sizes.minimum,
        "quorum": sizes.threshold,
        "silos_that_may_collude": sizes.corrupt,
        "base_model": charter.base_model.name,
        "coordinates": charter.length,
        "local_steps": tuning.local_steps,
        "privacy": dp.kind,
        "epsilon": dp.epsilon,
        "delta": dp.delta,
        "unit": dp.unit,
        "sizes": dp.sizes,
        "records_per_person": dp.records_per_person,
        "clip": dp.clip,
        "spare_charges": dp.spare_charges,
        "expires": charter.expires.isoformat(),
    }


def _final(state: GridState | None) -> str | None:
    return None if state is None else adapter_of(state)
