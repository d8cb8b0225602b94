"""What one silo has committed to disk under one charter: ledger, rounds and fuses.

Every method that changes something returns only when it is durable, and changes the
privacy ledger and the update's life in one transaction. So a crash at any point leaves
the charge at or above what was spent, and no step is ever taken twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.errors import StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.update import GridState
from fedit_secure.privacy import ledger as pl
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import transcript
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest
from fedit_secure.silo.accounting import Ask, answer
from fedit_secure.silo.ledger_book import LedgerBook
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.turns import in_turn
from fedit_secure.silo.update_digest import update_digest
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal
from fedit_secure.storage.life import MASKED, REVEALED, VOIDED, Life, burn
from fedit_secure.wire.codec import decode, encode
from fedit_secure.wire.limits import Limits

__all__ = ["Books", "open_journal"]

Record = m.Reveal | m.VoidStatement | m.Confirmation

_EVENTS: dict[str, Callable[..., pl.Event]] = {
    "mask": pl.Masked,
    "reveal": pl.Revealed,
    "void": pl.Voided,
}


class Books(LedgerBook):
    """See the module. Also the driver's `FuseBox`."""

    def __init__(
        self,
        journal: Journal,
        states: StateStore,
        charter: Charter,
        name: str,
        key: SigningKey,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        *,
        ask: Ask = answer,
    ) -> None:
        super().__init__(journal, charter, name, key, policy, clock, ask=ask)
        self._states, self._digest = states, charter.digest()
        self._limits = Limits.of(charter.secagg_params())
        kept = journal.life(self._digest)
        self._kept_life = kept
        self._life = Life() if kept is None else Life.from_bytes(kept)

    # ------------------------------------------------------------------ rounds and states

    @property
    def certified(self) -> int:
        """The last round that t silos certified the end of; 0 before the first."""
        proof = self._certificate()
        return 0 if proof is None else proof.round

    @property
    def state_digest(self) -> bytes:
        """Names the global state after the last certified round, or the charter's."""
        proof = self._certificate()
        if proof is not None:
            return proof.confirmations[0].state_digest
        return bytes.fromhex(self._charter.adapter.initial_digest)

    def state(self) -> GridState:
        """The global state after the last certified round. StorageError if it isn't here."""
        return self._states.get(self.state_digest)

    def has_state(self, state_digest: bytes) -> bool:
        """Whether this state is on the disk."""
        return self._states.find(state_digest) is not None

    def keep_state(self, state: GridState) -> None:
        """Write a state under its digest."""
        self._states.put(state)

    @in_turn
    def reserve(self, round: int) -> None:
        """Charge one tuning of this round: durable before the first record is sampled.

        Raises PolicyRefusal or BudgetExhausted; nothing is written then.
        """
        self.charge(round, self.state_digest)

    @in_turn
    def close_round(
        self, proof: m.RoundCertificate, published: m.PublishedSum | None
    ) -> None:
        """Take a certificate that the caller has verified; its state must be kept.

        `published` is the sum, if this silo verified it itself.
        """
        state_digest, release = proof.confirmations[0].content()
        if not self.has_state(state_digest):
            raise StorageError(
                f"the state that round {proof.round} ended in isn't here"
            )
        before, here = self._open_ledger(), (self._digest.hex(), proof.round)
        after = before
        if before.has_intent(*here):
            where = {"charter": here[0], "round": here[1]}
            after = before.append(
                pl.Released(
                    **where,
                    release_digest=release.hex(),
                    state_digest=state_digest.hex(),
                    **self._seen(published),
                )
                if release
                else pl.Aborted(**where)
            )
        self._commit(
            after,
            notes={self._key_of("certificate"): encode(proof)},
            over=(self._digest, proof.round),
        )

    def _seen(self, published: m.PublishedSum | None) -> dict[str, Any]:
        if published is None:
            return {}
        total = np.ascontiguousarray(published.total, dtype="<i4").data.cast("B")
        names = (self._charter.roster[silo].name for silo in published.contributors)
        return {
            "contributors": tuple(sorted(names)),
            "sum_digest": digest("fedit/sum/v1", total).hex(),
        }

    def update(self, round: int) -> NDArray[np.float32] | None:
        """This round's noised update, float32 of shape (length,), once it is tuned."""
        kept = self._journal.load_update(self._digest, round)
        return None if kept is None else np.frombuffer(kept[1], dtype="<f4")

    @in_turn
    def commit_update(self, round: int, update: NDArray[np.float32]) -> None:
        """Keep the tuned update, and say in the ledger that it exists."""
        data = np.ascontiguousarray(update, dtype="<f4").tobytes()
        name = update_digest(update)
        # Salted with the signature key's own digest under this name: the ledger travels.
        salted = digest("fedit/update-name/v1", self._key.sign(name))
        event = pl.Committed(
            round=round, charter=self._digest.hex(), update_digest=salted.hex()
        )
        # Together: an update that the ledger doesn't know of could never be masked.
        self._commit(
            self._open_ledger().append(event), update=(self._digest, round, name, data)
        )

    def _certificate(self) -> m.RoundCertificate | None:
        data = self._journal.note(self._key_of("certificate"))
        if data is None:
            return None
        frame = decode(data, self._limits)
        assert isinstance(frame, m.RoundCertificate)
        return frame

    # --------------------------------------------------------------------------- the fuses

    @property
    def life(self) -> Life:
        """What became of this round's update."""
        return self._life

    @in_turn
    def burn(self, fuse: m.Fuse) -> None:
        """Commit a fuse: the life, the ledger's event and the record, or nothing."""
        if fuse.kind == "heads":
            names = self._charter.roster
            heads = {names[i].name: head for i, head in fuse.heads}
            self._journal.commit(peer_heads=heads)
            return
        ledger = self._open_ledger()
        if fuse.kind in _EVENTS:
            ledger = ledger.append(_EVENTS[fuse.kind](ctx=fuse.ctx.hex()))
        records = {}
        if fuse.record is not None:
            records[self._record_key(fuse)] = encode(fuse.record)
        self._commit_life(ledger, burn(self._life, fuse), records)

    @in_turn
    def renewed(self, fuse: m.Fuse, proof: m.VoidCertificate) -> None:
        """Free an update by t void statements, which the caller has verified."""
        certificate = digest("fedit/void-certificate/v1", transcript.encode(proof))
        event = pl.Renewed(ctx=fuse.ctx.hex(), certificate=certificate.hex())
        self._commit_life(
            self._open_ledger().append(event),
            burn(self._life, fuse),
            {self._key_of(f"renewed/{fuse.ctx.hex()}"): encode(proof)},
        )

    def peer_heads(self) -> dict[int, m.LedgerHead]:
        """The ledger heads last seen of the roster's populations, by roster index.

        Of a ledger that was never seen it is one before the first entry: its population
        is the charter's all the same, so no peer slips away by naming another.
        """
        known = self._journal.peer_heads()
        rows = enumerate(self._charter.roster)
        keys = {i: (row.name, row.population) for i, row in rows}
        unseen = {i: m.LedgerHead(of, -1, b"") for i, (_, of) in keys.items()}
        return {i: known.get(key, unseen[i]) for i, key in keys.items()}

    def record_of(self, ctx: bytes) -> Record | None:
        """What this silo has signed for good in an attempt: a reveal, or its void."""
        for kind in ("reveal", "void"):
            if (found := self._record(f"{kind}/{ctx.hex()}")) is not None:
                return found
        return None

    def records_to_resend(self) -> tuple[Record, ...]:
        """What a restarted silo says again, byte for byte."""
        found: list[Record] = []
        if self._life.state in (REVEALED, VOIDED, MASKED):
            record = self.record_of(self._life.ctx)
            found += [record] if record is not None else []
        if self._life.confirmed > self.certified:
            word = self._record(f"confirm/{self._life.confirmed}")
            found += [word] if word is not None else []
        return tuple(found)

    def _record(self, key: str) -> Record | None:
        data = self._journal.record(self._key_of(key))
        if data is None:
            return None
        frame = decode(data, self._limits)
        assert isinstance(frame, m.Reveal | m.VoidStatement | m.Confirmation)
        return frame

    def _record_key(self, fuse: m.Fuse) -> str:
        what = str(fuse.round) if fuse.kind == "confirm" else fuse.ctx.hex()
        return self._key_of(f"{fuse.kind}/{what}")

    def _key_of(self, name: str) -> str:
        return f"{self._digest.hex()}/{name}"

    def _commit_life(
        self, after: pl.Ledger, life: Life, records: Mapping[str, bytes]
    ) -> None:
        data = life.to_bytes()
        self._commit(after, life=(self._digest, self._kept_life, data), records=records)
        self._life, self._kept_life = life, data
