"""How a silo opens its privacy ledger: it believes the file only as far as it must.

What is stored has to be a whole ledger of this population, and to reach the last head
that the aggregator countersigned. What others know of it is asked for before anything is
written: a silo that lost its disk would otherwise begin anew as if nothing were spent.
"""

from __future__ import annotations

from pathlib import Path

from fedit_secure import __version__
from fedit_secure.errors import (
    ConfigError,
    LedgerBehind,
    PolicyRefusal,
    ProtocolError,
    StorageError,
)
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import make_folder, write_durably
from fedit_secure.federation.heads import check_head
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import identity_of, verified_ledger
from fedit_secure.privacy.ledger import Ledger, LedgerCorrupt, Opened
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.accounting import Ask, Question, answer
from fedit_secure.storage.journal import Journal
from fedit_secure.wire.codec import decode, encode
from fedit_secure.wire.frames import HeadReceipt
from fedit_secure.wire.limits import Limits

DELTA_WITHOUT_DP = 1e-6  # of a ledger whose policy sets no budget; nothing is claimed
ORDER_WITHOUT_DP = 32.0


def missing_journal(path: Path) -> LedgerBehind:
    """Of a journal that was there once: an empty one instead would forget everything."""
    return LedgerBehind(
        f"the ledger {path} is missing; put the aggregator's copy of it back with "
        "`fedit budget restore`"
    )


def open_journal(state: Path) -> Journal:
    """The journal of a state folder, made at the first start and never again.

    Raises LedgerBehind if it was there once and is gone: an empty one in its place would
    forget what was spent.
    """
    make_folder(state)
    path, made = state / "journal.sqlite", state / "journal.made"
    if made.exists() and not path.exists():
        raise missing_journal(path)
    journal = Journal.open(path, create=not made.exists())
    if not made.exists():
        write_durably(made, b"the journal beside this file was made once\n")
    return journal


def stored_ledger(journal: Journal, charter: Charter, name: str) -> Ledger | None:
    """The ledger of this silo's population in its journal, None if there is none.

    Raises StorageError unless its chain, order and signatures are right, LedgerBehind if
    it doesn't reach, or isn't on, the head that the aggregator has countersigned, and
    ConfigError if it has come to another key than the charter pins.
    """
    population = charter.row(name).population
    entries = journal.ledger(population)
    ledger = verified_ledger(population, entries) if entries else None
    if ledger is not None and identity_of(ledger) != charter.row(name).identity:
        raise ConfigError(
            f"the ledger of {population!r} is under the key {identity_of(ledger)[:16]}..., "
            f"and the charter pins {charter.row(name).identity[:16]}... for this silo: only "
            "the old key can hand a ledger over, with fedit silo rotate"
        )
    require_known(ledger, population, name, receipted(journal, charter, name))
    return ledger


def new_ledger(
    charter: Charter,
    name: str,
    key: SigningKey,
    policy: Policy,
    fingerprints: bytes,
    ask: Ask = answer,
) -> Ledger:
    """A ledger with its opening alone, at the terms of the population's first charter.

    `fingerprints`, 32 bytes, commits to the records. `ask` chooses the filter's order.
    """
    public, plan = charter.dp.sizes == "public", charter.plan_for(name)
    delta = policy.delta or DELTA_WITHOUT_DP
    bounded = plan.kind != "none" and policy.epsilon is not None
    return Ledger.open(
        Opened(
            silo=name,
            identity=key.public.hex(),
            population=charter.row(name).population,
            unit=charter.dp.unit,
            adjacency="zero-out" if public else "add-or-remove",
            delta=delta,
            cap_epsilon=policy.epsilon,
            filter_order=(
                float(ask(Question("order", charter, name, policy)))
                if bounded
                else ORDER_WITHOUT_DP
            ),
            fingerprints=fingerprints.hex(),
            software=f"fedit-secure {__version__}",
        )
    )


def require_known(
    ledger: Ledger | None, population: str, name: str, head: LedgerHead | None
) -> None:
    """Raises LedgerBehind unless the ledger is at, or goes on from, a head that the
    aggregator has signed. None: it has signed none.
    """
    if head is None:
        return
    here = "is missing"
    try:
        if ledger is not None:
            here = f"ends after {ledger.sequence} entries"
            if head.sequence <= ledger.sequence:
                here = f"is another from entry {head.sequence} on, or before"
            ledger.require_head(head.sequence, head.hash)
            if head.population == population:
                return
    except LedgerCorrupt:
        pass
    raise LedgerBehind(
        f"the ledger of {population!r} here {here}, and the aggregator has signed that it "
        f"holds {head.sequence} entries: this state folder is new, an old backup or "
        "another silo's; nothing is charged or sampled; put the aggregator's copy, "
        f"ledgers/{name}.jsonl in its run folder, back with `fedit budget restore`"
    )


def keep_receipt(
    journal: Journal, charter: Charter, head: LedgerHead, signature: bytes
) -> None:
    """Keep the aggregator's receipt for a head, and with which key it was signed: the
    next charter may be another aggregator's.
    """
    journal.commit(
        population=head.population,
        receipt=encode(HeadReceipt(head, signature)),
        notes={_signer(head.population): bytes.fromhex(charter.aggregator.identity)},
    )


def receipted(journal: Journal, charter: Charter, name: str) -> LedgerHead | None:
    """The head of the journal's last receipt, None if it has none.

    Raises StorageError if it isn't one, or isn't signed by its aggregator.
    """
    population = charter.row(name).population
    data = journal.receipt(population)
    if data is None:
        return None
    ours = bytes.fromhex(charter.aggregator.identity)
    key = journal.note(_signer(population)) or ours
    try:
        frame = decode(data, Limits.of(charter.secagg_params()))
        if not isinstance(frame, HeadReceipt):
            raise StorageError(f"the receipt in {journal.path} is something else")
        check_head(name, key, frame.head, frame.signature)
    except ProtocolError as wrong:
        raise StorageError(
            f"the aggregator's receipt for the ledger of {population!r} in {journal.path} "
            "isn't signed by it"
        ) from wrong
    return frame.head


def closed_charters(ledger: Ledger, charter: Charter) -> dict[str, bytes]:
    """The records that close, for good, every charter that the ledger was charged under
    and this one: the silo's fuses under them are lost.
    """
    digests = {charge.charter for charge in ledger.charges().own}
    return {_closed(each): b"fuses lost" for each in digests | {charter.digest().hex()}}


def require_open_charter(journal: Journal, charter: Charter) -> None:
    """Raises PolicyRefusal if this silo's fuses under the charter are lost."""
    if journal.record(_closed(charter.digest().hex())) is not None:
        raise PolicyRefusal(
            f"this silo's ledger was restored, and what it had signed in epoch "
            f"{charter.epoch} of {charter.federation!r} is lost with its disk: it takes "
            "part again from the next charter epoch on"
        )


def _closed(charter: str) -> str:
    return f"{charter}/closed"


def _signer(population: str) -> str:
    return f"receipt-key/{population}"
