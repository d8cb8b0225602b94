"""An update's life: what one silo has irrevocably done under one charter.

FRESH -> MASKED(ctx) -> REVEALED(ctx), or MASKED(ctx) -> VOIDED(ctx) -> FRESH by certificate.
The journal keeps a `Life` per charter and replaces it by compare-and-swap: `burn`, a pure
function, says what the next one is, or raises. Everything that a malicious aggregator could
gain from a second answer, a second attempt or a restart is refused here, in one table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from fedit_secure.errors import FuseBlown, StorageError
from fedit_secure.secagg.messages import Fuse

FRESH, MASKED, REVEALED, VOIDED = "fresh", "masked", "revealed", "voided"


@dataclass(frozen=True, slots=True)
class Life:
    """`round` and `attempt`: the highest entered. `ctx`: the attempt that `state` speaks of.
    `closed`: contexts in which the silo never answers again. `revealed`: those in which it
    has. `confirmed`: the highest round that it stated the end of. `past`: the updates masked
    in earlier rounds."""

    round: int = 0
    attempt: int = 0
    state: str = FRESH
    ctx: bytes = b""
    update_digest: bytes = b""
    closed: frozenset[bytes] = frozenset()
    revealed: frozenset[bytes] = frozenset()
    confirmed: int = 0
    past: frozenset[bytes] = frozenset()

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal lives have equal bytes."""
        as_json = {
            name: value.hex()
            if isinstance(value, bytes)
            else sorted(c.hex() for c in value)
            if isinstance(value, frozenset)
            else value
            for name, value in asdict(self).items()
        }
        return json.dumps(as_json, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Life:
        """Raises StorageError for bytes that `to_bytes` never made."""
        try:
            fields = json.loads(data)
            life = cls(
                round=int(fields["round"]),
                attempt=int(fields["attempt"]),
                state=str(fields["state"]),
                ctx=bytes.fromhex(fields["ctx"]),
                update_digest=bytes.fromhex(fields["update_digest"]),
                closed=frozenset(bytes.fromhex(c) for c in fields["closed"]),
                revealed=frozenset(bytes.fromhex(c) for c in fields["revealed"]),
                confirmed=int(fields["confirmed"]),
                past=frozenset(bytes.fromhex(d) for d in fields["past"]),
            )
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise StorageError(
                f"the stored life of an update is damaged: {error}"
            ) from None
        if life.to_bytes() != data or life.state not in (
            FRESH,
            MASKED,
            REVEALED,
            VOIDED,
        ):
            raise StorageError("the stored life of an update isn't what was written")
        return life


def _advertise(life: Life, fuse: Fuse) -> Life:
    if (fuse.round, fuse.attempt) <= (life.round, life.attempt):
        raise FuseBlown(f"round {fuse.round} attempt {fuse.attempt} was entered before")
    if fuse.round <= life.confirmed:
        raise FuseBlown(f"round {fuse.round} is over for this silo")
    if fuse.ctx in life.closed:
        raise FuseBlown("this attempt was voided by this silo")
    if (
        fuse.round > life.round
    ):  # what happened to the last round's update stays its own
        return replace(
            life,
            round=fuse.round,
            attempt=fuse.attempt,
            state=FRESH,
            ctx=fuse.ctx,
            update_digest=b"",
            past=life.past | ({life.update_digest} if life.update_digest else set()),
        )
    if life.state != FRESH:
        raise FuseBlown(f"this round's update is {life.state}, so it enters no attempt")
    return replace(life, attempt=fuse.attempt, ctx=fuse.ctx)


def _mask(life: Life, fuse: Fuse) -> Life:
    _in_open_attempt(life, fuse, FRESH)
    if life.update_digest and life.update_digest != fuse.update_digest:
        raise FuseBlown("a round has one update: another was masked in it before")
    if fuse.update_digest in life.past:
        raise FuseBlown("this update was masked in an earlier round")
    return replace(life, state=MASKED, update_digest=fuse.update_digest)


def _reveal(life: Life, fuse: Fuse) -> Life:
    _in_open_attempt(life, fuse, MASKED)
    return replace(life, state=REVEALED, revealed=life.revealed | {fuse.ctx})


def _void(life: Life, fuse: Fuse) -> Life:
    if fuse.ctx in life.revealed:  # in an earlier round, too
        raise FuseBlown("this silo has revealed in this attempt, so it can't void it")
    voided = fuse.ctx == life.ctx and life.state == MASKED
    return replace(
        life, closed=life.closed | {fuse.ctx}, state=VOIDED if voided else life.state
    )


def _renew(life: Life, fuse: Fuse) -> Life:
    # The caller has verified t void statements: fewer than t silos can ever reveal in ctx,
    # so the upload stays noise and the update may enter another attempt of this round.
    if fuse.ctx != life.ctx or life.state not in (MASKED, VOIDED):
        raise FuseBlown(
            "only the masked or voided update of this attempt can be renewed"
        )
    return replace(life, state=FRESH, closed=life.closed | {fuse.ctx})


def _confirm(life: Life, fuse: Fuse) -> Life:
    if fuse.round <= life.confirmed:
        raise FuseBlown(f"this silo has stated the end of round {fuse.round} before")
    if fuse.round < life.round:
        raise FuseBlown(f"this silo has entered round {life.round} already")
    closed = life.closed | ({life.ctx} if life.round == fuse.round else set())
    return replace(life, confirmed=fuse.round, closed=closed)


def _in_open_attempt(life: Life, fuse: Fuse, state: str) -> None:
    if fuse.ctx != life.ctx or (fuse.round, fuse.attempt) != (life.round, life.attempt):
        raise FuseBlown("this silo is in another attempt")
    if fuse.ctx in life.closed or fuse.round <= life.confirmed:
        raise FuseBlown("this attempt is closed for this silo")
    if life.state != state:
        raise FuseBlown(f"the update is {life.state}, not {state}")


TRANSITIONS: dict[str, Callable[[Life, Fuse], Life]] = {
    "advertise": _advertise,
    "mask": _mask,
    "reveal": _reveal,
    "void": _void,
    "renew": _renew,
    "confirm": _confirm,
}


def burn(life: Life, fuse: Fuse) -> Life:
    """The life after this fuse. Raises FuseBlown if the step was done or was ruled out."""
    return TRANSITIONS[fuse.kind](life, fuse)
