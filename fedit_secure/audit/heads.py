"""Whether all that anybody signed or saw of a ledger is one history.

A silo that shows another history to somebody must sign a head for it: in an advert, which
goes to every silo, or for the aggregator's countersignature. Two heads that don't lie on
one chain prove that it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedit_secure.audit.bundle import Bundle, SeenHeads, SignedHead
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import History
from fedit_secure.audit.rounds import Ended
from fedit_secure.errors import ConfigError, FaultySiloOrAggregator
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import check_head
from fedit_secure.secagg.messages import LedgerHead

_SMALL = 64 << 10


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last head that a silo signed, and whether its ledger in the bundle leads there.

    `sound` is False where the entries aren't the ones that were signed: then every other
    head would differ too, and says nothing new.
    """

    head: LedgerHead | None
    sound: bool
    faults: tuple[Fault, ...] = ()
    lacks: tuple[str, ...] = ()


def anchor(bundle: Bundle, charter: Charter, history: History) -> Anchor:
    """Hold a silo's ledger to the head that it and the aggregator signed last."""
    silo = history.silo
    where = f"heads/{silo}.json"
    data = bundle.read(where, _SMALL)
    if data is None:
        return Anchor(None, True, lacks=(where,))
    row = charter.row(silo)
    try:
        signed = SignedHead.from_bytes(data, where)
    except ConfigError as wrong:
        return _unsound("head-unsigned", where, str(wrong))
    head = LedgerHead(signed.population, signed.sequence, bytes.fromhex(signed.hash))
    if (signed.silo, signed.population) != (silo, row.population):
        return _unsound("head-unsigned", where, "it is another silo's or population's")
    try:
        key = bytes.fromhex(row.identity)
        check_head(silo, key, head, bytes.fromhex(signed.signature))
    except FaultySiloOrAggregator:
        return _unsound("head-unsigned", where, f"{silo} didn't sign it")
    faults: list[Fault] = []
    lacks: tuple[str, ...] = ()
    if signed.countersignature is None:
        lacks = (f"{where}: the aggregator's countersignature",)
    else:
        try:
            key = bytes.fromhex(charter.aggregator.identity)
            check_head(silo, key, head, bytes.fromhex(signed.countersignature))
        except FaultySiloOrAggregator:
            what = "the aggregator's signature under it is wrong"
            faults.append(Fault("head-uncountersigned", where, what))
    where = f"ledger of {silo}"
    if head.sequence > history.entries:
        what = f"it has {history.entries} entries, and its silo signed {head.sequence}"
        faults.append(Fault("ledger-cut", where, what))
        return Anchor(head, False, tuple(faults), lacks)
    if history.hashes[head.sequence] != head.hash:
        what = f"its first {head.sequence} entries aren't those that its silo signed"
        faults.append(Fault("ledger-altered", where, what))
        return Anchor(head, False, tuple(faults), lacks)
    if head.sequence < history.entries:
        beyond = history.entries - head.sequence
        what = f"its last {beyond} entries are under no signature"
        faults.append(Fault("ledger-altered", where, what))
    return Anchor(head, True, tuple(faults), lacks)


def check_adverts(
    charter: Charter, rounds: Sequence[Ended], histories: Mapping[str, History]
) -> Iterator[Fault]:
    """The heads in all adverts: on the ledger, of the population, and never going back.

    `histories` are the ledgers to hold them to, by silo.
    """
    last: dict[str, tuple[int, bytes]] = {}
    told: set[str] = set()
    for ended in rounds:
        for (index, sequence, hash), population in zip(
            ended.heads, ended.populations, strict=True
        ):
            row = charter.roster[index]
            history = histories.get(row.name)
            if history is None or row.name in told:
                continue
            seen = f"its advert of round {ended.round}"
            fault = _off(history, row.population, population, sequence, hash, seen)
            before = last.get(row.name, (0, b""))
            if fault is None and sequence < before[0]:
                what = f"{seen} is at entry {sequence}, after one at {before[0]}"
                fault = Fault("ledger-rolled-back", f"ledger of {row.name}", what)
            last[row.name] = (sequence, hash)
            if fault is not None:
                told.add(row.name)
                yield fault


def check_seen(
    bundle: Bundle, charter: Charter, histories: Mapping[str, History], *, own: bool
) -> Iterator[Fault]:
    """The heads that silos say they saw of their peers, in this bundle, its `own`, or in
    another one, which may have been made when the ledgers had gone on.
    """
    populations = {row.name: row.population for row in charter.roster}
    for witness in bundle.stems("seen", ".json"):
        where = f"seen/{witness}.json"
        try:
            heads = SeenHeads.from_bytes(bundle.read(where, 16 << 20) or b"", where)
        except ConfigError as wrong:
            raise ConfigError(f"{bundle.path}: {wrong}") from None
        for head in heads.heads:
            history, population = histories.get(head.silo), populations.get(head.silo)
            if history is None or population is None or head.sequence < 1:
                continue
            if not own and head.sequence > history.entries:
                continue
            if head.population != population:
                continue  # of an earlier charter
            what = (head.sequence, bytes.fromhex(head.hash), f"what {witness} saw")
            if fault := _off(history, population, head.population, *what):
                yield fault


def check_witness(
    witness: Bundle, charter: Charter, histories: Mapping[str, History]
) -> Iterator[Fault]:
    """The heads of the same silos' ledgers in another bundle, under their signatures."""
    for silo in witness.stems("heads", ".json"):
        history = histories.get(silo)
        data = witness.read(f"heads/{silo}.json", _SMALL)
        if history is None or data is None:
            continue
        row = charter.row(silo)
        signed = SignedHead.from_bytes(data, f"{witness.path}: heads/{silo}.json")
        head = LedgerHead(
            signed.population, signed.sequence, bytes.fromhex(signed.hash)
        )
        try:
            key = bytes.fromhex(row.identity)
            check_head(silo, key, head, bytes.fromhex(signed.signature))
        except FaultySiloOrAggregator:
            continue  # nobody's word
        if signed.population != row.population or signed.sequence > history.entries:
            continue  # another ledger, or one that went on since
        what = (head.sequence, head.hash, f"its head in {witness.path.name}")
        if fault := _off(history, row.population, signed.population, *what):
            yield fault


def _off(
    history: History, population: str, named: str, sequence: int, hash: bytes, seen: str
) -> Fault | None:
    where = f"ledger of {history.silo}"
    if named != population:
        what = f"{seen} is of the population {named!r}"
        return Fault("ledger-forked", where, what)
    if not 1 <= sequence <= history.entries:
        what = f"{seen} is at entry {sequence}, and it has {history.entries}"
        return Fault("ledger-cut", where, what)
    if history.hashes[sequence] != hash:
        what = f"{seen} is of another history of {sequence} entries"
        return Fault("ledger-forked", where, what)
    return None


def _unsound(code: str, where: str, what: str) -> Anchor:
    return Anchor(None, True, (Fault(code, where, what),))
