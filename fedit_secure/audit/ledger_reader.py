"""One silo's ledger, read again from its bytes alone.

This is a second reading of the rules in docs/privacy.md, and shares nothing with the code
that writes ledgers but the schema of their entries and what signatures under them cover. It
follows the life of the one update that a silo may hold at a time, and notes where in the
ledger everything happened.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Literal

from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import Carried, Charge, History, Key, Release, Terms
from fedit_secure.federation.caps import CapChange
from fedit_secure.federation.ledger_signatures import SignedEvent, check_entry
from fedit_secure.privacy import events as e
from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.secagg.keys import BadSignature, verify

MOST_ENTRIES = 1 << 20
"""Of a ledger: 200,000 rounds of five."""


class ImpossibleEntry(ValueError):
    """Of what kind a fault in an entry is, and what it is; one sentence."""

    def __init__(self, what: str, code: str = "entry-impossible") -> None:
        super().__init__(what)
        self.code = code


def read_history(silo: str, population: str, identity: str, data: bytes) -> History:
    """Read the ledger in `data`, one entry a line, of the silo that a charter pins so.

    Never raises: what is wrong is in `faults`, at the first entry that is.
    """
    reader = _Reader(History(silo), population)
    history = reader.history
    if data.count(b"\n") > MOST_ENTRIES:
        where, what = f"ledgers/{silo}.jsonl", f"it has more than {MOST_ENTRIES} lines"
        history.faults.append(Fault("entry-malformed", where, what))
        return history
    lines = data.split(b"\n")
    if lines[-1]:
        where = f"ledgers/{silo}.jsonl"
        history.faults.append(
            Fault("entry-malformed", where, "its last entry has no end")
        )
    for number, entry in enumerate(lines[:-1], 1):
        history.hashes.append(hashlib.sha256(history.hashes[-1] + entry).digest())
        if history.faults:
            continue
        try:
            reader.take(number, _decoded(entry))
        except ImpossibleEntry as wrong:
            where = f"ledger of {silo}, entry {number}"
            history.faults.append(Fault(wrong.code, where, str(wrong)))
    if not history.faults and history.opened is None:
        where = f"ledgers/{silo}.jsonl"
        history.faults.append(Fault("ledger-missing", where, "it has no entry"))
    if not history.faults and history.identity != identity:
        where = f"ledger of {silo}"
        what = "it is another identity's than the one that the charter pins"
        history.faults.append(Fault("entry-of-another", where, what))
    return history


def _decoded(entry: bytes) -> e.Event:
    try:
        return e.decode(entry)
    except ValueError as wrong:
        raise ImpossibleEntry(str(wrong), "entry-malformed") from None


class _Reader:
    """The rules, one a kind of event. `update` is the silo's one update and its state."""

    def __init__(self, history: History, population: str) -> None:
        self.history = history
        self.population = population
        self.fingerprints = ""
        self.inherited: dict[str, Inherited] = {}
        self.update: Key | None = None
        self.state: Literal["free", "masked", "revealed"] = "free"
        self.attempt = ""
        self.closed: set[str] = set()  # attempts left for good: voided or renewed
        self.charged: Counter[Key] = Counter()
        self.committed: Counter[Key] = Counter()
        self.counts: Counter[str] = Counter()
        self.terms: dict[str, Terms] = {}
        self.sets: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.last: dict[str, int] = {}

    def take(self, number: int, event: e.Event) -> None:
        """Raises ImpossibleEntry if the event can't come here."""
        if (self.history.opened is None) != isinstance(event, e.Opened):
            raise ImpossibleEntry("a ledger is opened once, by its first entry")
        rule = self._RULES.get(type(event))
        if rule is None:
            raise ImpossibleEntry(f"this version can't judge a {event.kind!r} entry")
        rule(self, number, event)

    def _open(self, number: int, event: e.Opened) -> None:
        said = (event.silo, event.population)
        if said != (self.history.silo, self.population):
            what = f"it opens the ledger of {event.silo!r} for {event.population!r}"
            raise ImpossibleEntry(what, "entry-of-another")
        self.history.opened, self.history.identity = event, event.identity
        self.history.caps.append((number, event.cap_epsilon))
        self.fingerprints = event.fingerprints

    def _intend(self, number: int, event: e.Intent) -> None:
        opened, charter = self.history.opened, event.charter
        assert opened is not None
        key, terms = (charter, event.round), Terms.of(event)
        known = self.terms.setdefault(charter, terms)
        if terms != known:
            raise ImpossibleEntry("its charter's charges were on other terms before")
        if event.unit != opened.unit:
            raise ImpossibleEntry(
                f"it is per {event.unit} in a ledger per {opened.unit}"
            )
        if event.sizes == "public" and opened.adjacency != "zero-out":
            raise ImpossibleEntry("sizes are public, and the ledger hides them")
        if event.round < self.last.get(charter, 1):
            raise ImpossibleEntry(f"round {event.round} was over before")
        if self._over(key):
            raise ImpossibleEntry(f"round {event.round} had ended already")
        if self.counts[charter] >= event.charges:
            what = f"its charter plans {event.charges} charges, and they are made"
            raise ImpossibleEntry(what, "plan-overrun")
        self.last[charter] = event.round
        self.charged[key] += 1
        self.counts[charter] += 1
        charge = Charge(number, charter, event.round, event.state_digest, known)
        self.history.charges.append(charge)

    def _commit(self, number: int, event: e.Committed) -> None:
        key = (event.charter, event.round)
        if self.committed[key] >= self.charged[key]:
            raise ImpossibleEntry(f"round {event.round} has no charge for this update")
        if self._over(key):
            raise ImpossibleEntry(f"round {event.round} had ended already")
        if self.update == key and self.state != "free":
            raise ImpossibleEntry("this round's update is masked, and may be in a sum")
        self.committed[key] += 1
        self.update, self.state, self.attempt = key, "free", ""
        self.history.commits[key] = number

    def _mask(self, number: int, event: e.Masked) -> None:
        if self.update is None:
            raise ImpossibleEntry("there is no update to mask")
        if self.state != "free":
            raise ImpossibleEntry("the update is masked already, in another attempt")
        if event.ctx in self.history.masks or event.ctx in self.closed:
            raise ImpossibleEntry("nothing can be masked in this attempt any more")
        self.state, self.attempt = "masked", event.ctx
        self.history.masks[event.ctx] = number

    def _reveal(self, _: int, event: e.Revealed) -> None:
        if self.state != "masked" or event.ctx != self.attempt:
            raise ImpossibleEntry("nothing of this silo is masked in this attempt")
        if event.ctx in self.closed:
            raise ImpossibleEntry("it had voided this attempt")
        self.state = "revealed"

    def _void(self, _: int, event: e.Voided) -> None:
        if self.state == "revealed" and event.ctx == self.attempt:
            raise ImpossibleEntry("it had revealed shares in this attempt")
        self.closed.add(event.ctx)
        self.history.voids.add(event.ctx)

    def _renew(self, _: int, event: e.Renewed) -> None:
        if self.state != "masked" or event.ctx != self.attempt:
            raise ImpossibleEntry("no update is masked in this attempt")
        self.closed.add(event.ctx)
        self.history.renewed.add(event.ctx)
        self.state, self.attempt = "free", ""

    def _release(self, number: int, event: e.Released) -> None:
        key, names = self._ended(event), event.contributors
        # Mostly the same silos, round by round: one tuple for all of them.
        kept = None if names is None else self.sets.setdefault(names, names)
        said = (event.release_digest, event.state_digest, kept, event.sum_digest)
        self.history.releases[key] = Release(number, *said)

    def _abort(self, _: int, event: e.Aborted) -> None:
        self.history.aborted.add(self._ended(event))

    def _ended(self, event: e.Released | e.Aborted) -> Key:
        key = (event.charter, event.round)
        if not self.charged[key]:
            raise ImpossibleEntry(f"it charged nothing for round {event.round}")
        if self._over(key):
            raise ImpossibleEntry(f"round {event.round} had ended already")
        if self.update == key:
            self.update, self.state, self.attempt = None, "free", ""
        return key

    def _version(self, _: int, event: e.DataVersion) -> None:
        if event.old != self.fingerprints:
            raise ImpossibleEntry("the records that it replaces weren't the ones there")
        self.fingerprints = event.new

    def _cap(self, number: int, event: e.CapChanged) -> None:
        old, new = self.history.caps[-1][1], event.cap_epsilon
        change = CapChange(
            self.population,
            number,
            self.history.hashes[number - 1],
            math.inf if old is None else old,
            new,
            event.reason,
        )
        try:
            key = bytes.fromhex(self.history.identity)
            verify(key, change.digest(), bytes.fromhex(event.signature))
        except BadSignature:
            self.history.unsigned.append(number)
        else:
            self.history.caps.append((number, new))

    def _rotate(self, number: int, event: e.KeyRotated) -> None:
        # Believed unsigned, it would make anybody the operator who signs the caps.
        self._signed(number, event)
        if event.old != self.history.identity:
            raise ImpossibleEntry("the key that it rotates isn't this silo's")
        self.history.identity = event.new

    def _lose(self, number: int, event: Lost) -> None:
        self._signed(number, event)
        if event.epsilon != self.history.caps[-1][1]:
            raise ImpossibleEntry("what is lost counts as the whole cap in force")
        lost = math.inf if event.epsilon is None else event.epsilon
        self.history.carried.append(Carried(number, "", lost))

    def _inherit(self, number: int, event: Inherited) -> None:
        self._signed(number, event)
        opened = self.history.opened
        assert opened is not None
        if event.source == self.population or event.unit != opened.unit:
            raise ImpossibleEntry("a population inherits from others of its unit")
        before = self.inherited.get(event.source)
        if before is not None and (
            event.sequence < before.sequence
            or event.filter_order != before.filter_order
            or not event.covers(before)
        ):
            raise ImpossibleEntry("it takes back what was inherited from there before")
        self.inherited[event.source] = event
        steps = tuple(
            (c.sample_rate, c.noise_multiplier, c.steps * c.times)
            for c in event.charges
        )
        lost = math.inf if event.lost is None else event.lost
        carried = Carried(number, event.source, lost, steps, event.filter_order)
        self.history.carried.append(carried)

    def _signed(self, number: int, event: SignedEvent) -> None:
        key, before = (
            bytes.fromhex(self.history.identity),
            self.history.hashes[number - 1],
        )
        try:
            check_entry(key, self.population, number - 1, before, event)
        except BadSignature:
            what = f"its {event.kind!r} isn't signed by the silo's key"
            raise ImpossibleEntry(what, "entry-unsigned") from None

    def _audit(self, *_: object) -> None:
        """A canary audit costs the records nothing."""

    def _over(self, key: Key) -> bool:
        return key in self.history.releases or key in self.history.aborted

    _RULES: ClassVar[dict[type[e.Event], Callable[..., None]]] = {
        e.Opened: _open,
        e.Intent: _intend,
        e.Committed: _commit,
        e.Masked: _mask,
        e.Revealed: _reveal,
        e.Voided: _void,
        e.Renewed: _renew,
        e.Released: _release,
        e.Aborted: _abort,
        e.DataVersion: _version,
        e.CapChanged: _cap,
        e.KeyRotated: _rotate,
        e.AuditRun: _audit,
        Lost: _lose,
        Inherited: _inherit,
    }
