"""An operator's signature under a charter, and the memory of what it has signed.

A round starts only when every rostered silo has approved. A silo durably keeps the
highest epoch that it approved, before the signature leaves it, and never signs a lower
one or another charter of the same epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedit_secure.errors import ConfigError, PolicyRefusal, StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import Document, Hex32, Hex64, Name
from fedit_secure.federation.durable import make_folder, write_durably
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.transcript import digest, u64


class Approval(Document):
    """One silo's signature under one charter; `digest` is R in hex."""

    federation: Name
    epoch: Annotated[int, Field(ge=1, lt=2**32)]
    digest: Hex32
    name: Name
    signature: Hex64


class ApprovedEpoch(Document):
    """The highest epoch of a federation that this silo has approved."""

    federation: Name
    epoch: Annotated[int, Field(ge=1, lt=2**32)]
    digest: Hex32


def signed_digest(charter: Charter, name: str) -> bytes:
    """The 32 bytes that silo `name` signs to approve `charter`."""
    return _covered(charter, charter.digest(), name)


def approve(charter: Charter, name: str, key: SigningKey) -> Approval:
    """Silo `name`'s approval. Raises PolicyRefusal if the roster lacks this name and
    key.

    Call `remember` first: what was signed can't be unsigned.
    """
    if bytes.fromhex(charter.row(name).identity) != key.public:
        raise PolicyRefusal(f"the charter pins another identity for silo {name!r}")
    return Approval(
        federation=charter.federation,
        epoch=charter.epoch,
        digest=charter.digest().hex(),
        name=name,
        signature=key.sign(signed_digest(charter, name)).hex(),
    )


def verify_approval(
    charter: Charter, approval: Approval, charter_digest: bytes | None = None
) -> None:
    """Raises PolicyRefusal unless this rostered silo approved exactly this charter.

    `charter_digest`: R, where the caller has computed it: it takes as long as the roster.
    """
    _verify(charter, charter_digest or charter.digest(), approval)


def _verify(charter: Charter, charter_digest: bytes, approval: Approval) -> None:
    row = charter.row(approval.name)
    if (approval.federation, approval.epoch, approval.digest) != (
        charter.federation,
        charter.epoch,
        charter_digest.hex(),
    ):
        raise PolicyRefusal(
            f"the approval of silo {approval.name!r} is for another charter"
        )
    try:
        verify(
            bytes.fromhex(row.identity),
            _covered(charter, charter_digest, approval.name),
            bytes.fromhex(approval.signature),
        )
    except BadSignature as error:
        raise PolicyRefusal(
            f"the approval of silo {approval.name!r} isn't signed by its identity"
        ) from error


def verify_approvals(charter: Charter, approvals: Iterable[Approval]) -> None:
    """Raises PolicyRefusal unless every rostered silo approved this charter once."""
    found: set[str] = set()
    charter_digest = charter.digest()  # once: it has a row for each of them
    for approval in approvals:
        _verify(charter, charter_digest, approval)
        if approval.name in found:
            raise PolicyRefusal(f"silo {approval.name!r} has approved twice")
        found.add(approval.name)
    missing = [row.name for row in charter.roster if row.name not in found]
    if missing:
        raise PolicyRefusal(
            f"{len(missing)} of {len(charter.roster)} silos haven't approved the "
            f"charter: {', '.join(missing)}"
        )


def load_approvals(paths: Sequence[Path]) -> tuple[Approval, ...]:
    """Reads approval files; a folder stands for its *.approval files, by name.

    Raises ConfigError.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.approval")) if path.is_dir() else [path]
    return tuple(Approval.load(file) for file in files)


def highest_approved(state: Path, federation: str) -> ApprovedEpoch | None:
    """What this silo approved last; raises StorageError if the record is damaged."""
    path = _record(state, federation)
    if not path.exists():
        return None
    try:
        record = ApprovedEpoch.load(path)
    except ConfigError as error:
        # Guessing low here would let an old charter come back.
        raise StorageError(
            f"the record of approved epochs is damaged: {error}"
        ) from error
    if record.federation != federation:
        raise StorageError(f"{path} is the record of another federation")
    return record


def check_epoch(state: Path, charter: Charter) -> None:
    """Raises PolicyRefusal if this silo may not approve this epoch any more.

    Allowed are a higher epoch than the highest approved (the next one must also name it
    as its predecessor), and the very same charter again.
    """
    last = highest_approved(state, charter.federation)
    if last is None or last.digest == charter.digest().hex():
        return
    if charter.epoch < last.epoch:
        raise PolicyRefusal(
            f"epoch {charter.epoch} of {charter.federation!r} is lower than epoch "
            f"{last.epoch}, which this silo has approved"
        )
    if charter.epoch == last.epoch:
        raise PolicyRefusal(
            f"this silo has approved another charter for epoch {last.epoch} of "
            f"{charter.federation!r}"
        )
    if charter.epoch == last.epoch + 1 and charter.predecessor != last.digest:
        raise PolicyRefusal(
            f"epoch {charter.epoch} of {charter.federation!r} names another "
            f"predecessor than the epoch {last.epoch} that this silo has approved"
        )


def check_approved(state: Path, charter: Charter) -> None:
    """Raises PolicyRefusal unless this charter is the one that was approved last."""
    last = highest_approved(state, charter.federation)
    if last is None:
        raise PolicyRefusal(
            f"this silo has approved no charter of {charter.federation!r} yet"
        )
    if last.digest != charter.digest().hex():
        raise PolicyRefusal(
            f"this charter isn't epoch {last.epoch} of {charter.federation!r}, which "
            "this silo has approved last"
        )


def remember(state: Path, charter: Charter) -> None:
    """Durably records this epoch as the highest approved; checks it first.

    Raises PolicyRefusal as `check_epoch` does, StorageError if it can't be written.
    """
    check_epoch(state, charter)
    record = ApprovedEpoch(
        federation=charter.federation,
        epoch=charter.epoch,
        digest=charter.digest().hex(),
    )
    path = _record(state, charter.federation)
    make_folder(path.parent, 0o700)
    write_durably(path, record.to_bytes(), mode=0o600)


def _covered(charter: Charter, charter_digest: bytes, name: str) -> bytes:
    return digest(
        "fedit/approve/v1",
        charter.federation.encode(),
        u64(charter.epoch),
        charter_digest,
        name.encode(),
    )


def _record(state: Path, federation: str) -> Path:
    return state / "approvals" / f"{federation}.json"
