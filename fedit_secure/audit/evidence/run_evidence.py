"""What an aggregator's run folder holds for an auditor, as the pieces of a bundle.

The run may go on meanwhile. What is taken is what t silos have certified, and each ledger
up to a head that its silo and the aggregator have signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from fedit_secure.audit.bundle import AdapterDigests, SignedHead, round_name
from fedit_secure.audit.evidence.enclosures import card_pieces, claims_in
from fedit_secure.audit.evidence.export import Evidence, Piece
from fedit_secure.audit.evidence.ledger_file import below
from fedit_secure.errors import ConfigError, FeditError, StorageError
from fedit_secure.federation.adapter_digests import digest_of_file
from fedit_secure.federation.approval import load_approvals, verify_approvals
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim
from fedit_secure.secagg import messages as m
from fedit_secure.storage.progress import Progress
from fedit_secure.wire.codec import OnWire, PublishedNotice, decode
from fedit_secure.wire.limits import Limits

_TRIES: Final = 20
_Frame = TypeVar("_Frame", bound=OnWire)


def run_evidence(
    folder: Path,
    charter: Charter,
    *,
    cards: Sequence[Card] = (),
    claims: Path | None = None,
) -> Evidence:
    """All of a run folder, or the part of a running one that is certified.

    `cards`: those of the charter's parties; others are passed over. `claims`: a folder of
    *.claim files which replace those that the silos sent. Blocks: it reads every sum.

    Raises:
        ConfigError: it isn't this charter's run folder, or a card or claim is wrong.
        StorageError: something is missing or damaged that nobody could audit without.
    """
    _require_charter(folder, charter)
    approvals = _approvals(folder, charter)
    # Before the ledgers: no claim may be about entries that aren't exported.
    sent = claims_in(folder / "claims", charter)
    certified, heads = _settled(folder, charter)
    ledgers = list(_ledger_pieces(folder, heads))
    rounds = _Rounds(folder, charter, frozenset(heads))
    done = range(1, certified + 1)
    transcripts = [piece for round in done for piece in rounds.pieces(round)]
    found = {**sent, **(claims_in(claims, charter) if claims is not None else {})}
    for claim in found.values():
        _require_on_ledger(folder, claim, heads.get(claim.silo))
    pieces = [
        Piece("charter.json", charter.to_bytes()),
        Piece("initial.state", _initial(folder, charter)),
        *approvals,
        *card_pieces(cards),
        *ledgers,
        *(Piece(f"claims/{silo}.claim", c.to_bytes()) for silo, c in found.items()),
        *transcripts,
        Piece("adapters.json", rounds.adapters(certified).to_bytes()),
    ]
    names = [row.name for row in charter.roster]
    carded = {card.name for card in cards}
    parties = [*names, charter.aggregator.name]
    lacks = (
        _lack("the ledger", [name for name in names if name not in heads]),
        _lack("the claim", [name for name in names if name not in found]),
        _lack("the card", [name for name in parties if name not in carded]),
    )
    return Evidence(tuple(pieces), certified, tuple(text for text in lacks if text))


def _require_charter(folder: Path, charter: Charter) -> None:
    path = folder / "charter.json"
    if not path.is_file():
        raise ConfigError(f"there is no run of this charter in {folder} yet")
    if path.read_bytes() != charter.to_bytes():
        raise ConfigError(f"{folder} holds the run of another charter")


def _approvals(folder: Path, charter: Charter) -> list[Piece]:
    kept = folder / "approvals"
    found = load_approvals([kept])
    try:
        verify_approvals(charter, found)
    except FeditError as error:
        raise StorageError(f"{kept} isn't complete: {error}") from error
    return [Piece(f"approvals/{a.name}.approval", a.to_bytes()) for a in found]


def _initial(folder: Path, charter: Charter) -> Path:
    path = folder / "states" / f"{charter.adapter.initial_digest}.state"
    if not path.is_file():
        raise StorageError(f"the run's initial state, {path}, is missing")
    return path


# --------------------------------------------------------------------------- the ledgers


def _settled(folder: Path, charter: Charter) -> tuple[int, dict[str, SignedHead]]:
    """The last certified round, and heads of the same moment.

    No ledger may tell of a release that isn't exported, and no sum may be exported whose
    charges aren't: so both are read between two certificates.
    """
    for _ in range(_TRIES):
        before = _certified(folder)
        heads = dict(_heads(folder, charter))
        if _certified(folder) == before:
            return before, heads
    raise StorageError(f"the run in {folder} goes on too fast; export it again")


def _certified(folder: Path) -> int:
    progress = Progress.load(folder)
    return 0 if progress is None else progress.certified


def _heads(folder: Path, charter: Charter) -> Iterator[tuple[str, SignedHead]]:
    """Of the silos that have been there. A copy without one proves nothing."""
    for row in charter.roster:
        path = folder / "ledgers" / f"{row.name}.head"
        if path.is_file():
            yield row.name, SignedHead.load(path)


def _ledger_pieces(folder: Path, heads: Mapping[str, SignedHead]) -> Iterator[Piece]:
    for silo, signed in heads.items():
        path = folder / "ledgers" / f"{silo}.jsonl"
        size, last = below(path, signed.sequence)
        if last.hex() != signed.hash:
            raise StorageError(
                f"{path} isn't the ledger under the head that was signed"
            )
        yield Piece(f"ledgers/{silo}.jsonl", path, size)
        yield Piece(f"heads/{silo}.json", signed.to_bytes())


def _require_on_ledger(folder: Path, claim: Claim, signed: SignedHead | None) -> None:
    path = folder / "ledgers" / f"{claim.silo}.jsonl"
    held = 0 if signed is None else signed.sequence
    if claim.sequence > held or below(path, claim.sequence)[1].hex() != claim.hash:
        raise ConfigError(
            f"the claim of silo {claim.silo!r} is about a head after {claim.sequence} "
            f"entries, which isn't on the ledger in {path}"
        )


def _lack(what: str, of: Sequence[str]) -> str:
    return f"{what} of {', '.join(of)}" if of else ""


# ---------------------------------------------------------------------------- the rounds


class _Rounds:
    """The transcripts of certified rounds; `ledgers`: the silos whose ledger is here."""

    def __init__(self, folder: Path, charter: Charter, ledgers: frozenset[str]) -> None:
        self._folder, self._charter, self._ledgers = folder, charter, ledgers
        self._limits = Limits.of(charter.secagg_params())

    def pieces(self, round: int) -> Iterator[Piece]:
        """A round's certificate and, where it ended in a sum, the attempt that gave it.

        What an attempt left that ended in no certified sum stays out.
        """
        certificate = self._frame(round, "certificate.frame", m.RoundCertificate)
        yield self._piece(round, "certificate.frame")
        release = certificate.confirmations[0].release_digest
        if not release:
            return
        notice = self._frame(round, "published.frame", PublishedNotice)
        adverts = self._frame(round, "adverts.frame", m.AdvertSet)
        if notice.total_address != release or adverts.ctx != notice.ctx:
            raise StorageError(
                f"{self._path(round, 'published.frame')} is of another attempt than the "
                "one that was certified"
            )
        total = self._path(round, "sum.int32")
        if not total.is_file() or total.stat().st_size != 4 * self._limits.length:
            raise StorageError(f"{total} isn't a sum of {self._limits.length} integers")
        for silo in notice.contributors:
            name = self._charter.roster[silo].name
            if name not in self._ledgers:
                raise StorageError(
                    f"the sum of round {round} holds an update of silo {name!r}, whose "
                    "ledger isn't here with a signed head; both come when it connects"
                )
        for name in ("adverts.frame", "published.frame", "sum.int32"):
            yield self._piece(round, name)

    def adapters(self, last: int) -> AdapterDigests:
        """Of the adapters that are there: the last one may still be being written."""
        found = {}
        for round in range(1, last + 1):
            path = self._path(round, "adapter") / "adapter_model.safetensors"
            if path.is_file():
                found[str(round)] = digest_of_file(path)
        return AdapterDigests(by_round=found)

    def _frame(self, round: int, name: str, kind: type[_Frame]) -> _Frame:
        path = self._path(round, name)
        try:
            frame = decode(path.read_bytes(), self._limits)
        except FileNotFoundError:
            raise StorageError(
                f"round {round} is certified, but {path} is missing"
            ) from None
        except FeditError as error:
            raise StorageError(f"{path} is damaged: {error}") from error
        if not isinstance(frame, kind):
            raise StorageError(f"{path} isn't a {kind.__name__}")
        return frame

    def _piece(self, round: int, name: str) -> Piece:
        return Piece(round_name(round, name), self._path(round, name))

    def _path(self, round: int, name: str) -> Path:
        return self._folder / "rounds" / f"{round:03d}" / name
