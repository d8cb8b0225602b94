"""What an aggregator keeps on disk, so that it restarts into the same run by itself.

progress.json        round and attempt entered last, and whether the attempt is open
states/              global states by digest
rounds/NNN/          adapter/ (PEFT layout), certificate, published sum, adverts
adapter/             the latest adapter, as `PeftModel.from_pretrained` opens it
approvals/           every silo's, as the run began with them
ledgers/             copies of the silos' privacy ledgers, and their signed heads
claims/              what each silo says that its charges cost, at the end
metrics.jsonl        one line per phase: round, phase, seconds; and one per evaluation
manifest.json        digests of the above, for the auditor
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fedit_secure.errors import StorageError
from fedit_secure.federation.approval import Approval
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import append_durably, make_folder, write_durably
from fedit_secure.federation.evaluation import Reading
from fedit_secure.federation.readings import reading_of
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg import messages as m
from fedit_secure.storage.adapter_store import StateStore, save_peft
from fedit_secure.storage.progress import Progress
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.frames import Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import whole_sum


class RunFolder:
    """One run of one charter. Raises StorageError for a folder of another charter."""

    def __init__(self, folder: Path, charter: Charter, initial: GridState) -> None:
        self.folder = folder
        self._charter = charter
        self._limits = Limits.of(charter.secagg_params())
        make_folder(folder)
        write_once(folder / "charter.json", charter.to_bytes())
        self.states = StateStore(folder / "states")
        if initial.digest().hex() != charter.adapter.initial_digest:
            raise StorageError("the initial state isn't the one that the charter names")
        self.states.put(initial)
        self.progress = Progress.load(folder) or Progress()

    def keep_approvals(self, approvals: Iterable[Approval]) -> None:
        """The signatures that allow this run: an auditor asks for them."""
        folder = self.folder / "approvals"
        folder.mkdir(exist_ok=True)
        for approval in approvals:
            write_once(folder / f"{approval.name}.approval", approval.to_bytes())

    def enter(self, progress: Progress) -> None:
        """Durable before any silo hears of it: a restarted aggregator never repeats."""
        progress.save(self.folder)
        self.progress = progress

    def certificate(self, round: int) -> m.RoundCertificate | None:
        """The certificate that closed a round; None for round 0, which the charter did."""
        if round < 1:
            return None
        frame = self._read(round, "certificate.frame")
        if not isinstance(frame, m.RoundCertificate):
            raise StorageError(f"round {round} has no certificate on disk")
        return frame

    def state(self) -> GridState:
        """The global state after the last certified round."""
        return self.state_after(self.progress.certified)

    def state_after(self, round: int) -> GridState:
        """The global state after a certified round; 0 is before the first."""
        last = self.certificate(round)
        digest = (
            last.confirmations[0].state_digest
            if last
            else bytes.fromhex(self._charter.adapter.initial_digest)
        )
        return self.states.get(digest)

    def record(self, round: int, name: str, frame: Frame) -> None:
        """Keep a frame of the transcript: exactly the bytes that silos were sent."""
        write_durably(self._round(round) / f"{name}.frame", encode(frame))

    def record_sum(self, round: int, published: m.PublishedSum) -> None:
        """Keep a published sum: its signed frame, and the integers as int32."""
        total = np.ascontiguousarray(published.total, dtype="<i4").data.cast("B")
        notice = PublishedNotice.of(published, published.release_digest)
        write_durably(self._round(round) / "sum.int32", total)
        write_durably(self._round(round) / "published.frame", encode(notice))

    def published(self, round: int) -> m.PublishedSum | None:
        """The sum that was recorded last in a round, whole again."""
        notice = self._read(round, "published.frame")
        if not isinstance(notice, PublishedNotice):
            return None
        total = (self._round(round) / "sum.int32").read_bytes()
        return whole_sum(notice, total, self._limits)

    def contributors(self, round: int) -> tuple[int, ...]:
        """The roster indices in the sum that was recorded last in a round."""
        notice = self._read(round, "published.frame")
        return notice.contributors if isinstance(notice, PublishedNotice) else ()

    def reading(self, round: int) -> Reading | None:
        """What the sum that was recorded last in a round says of the held-out units."""
        if self._charter.evaluation is None:
            return None
        integers = self._round(round) / "sum.int32"
        if not integers.exists():
            return None
        with integers.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            last = int.from_bytes(file.read(4), "little", signed=True)
        return reading_of(self._charter, last, self.contributors(round))

    def readings(self) -> dict[int, Reading]:
        """Of every certified round that has one."""
        found = {}
        for round in range(1, self.progress.certified + 1):
            proof = self.certificate(round)
            if proof is not None and proof.confirmations[0].release_digest:
                read = self.reading(round)
                found |= {} if read is None else {round: read}
        return found

    def adapter(self, round: int) -> Path:
        """Where the adapter after a certified round lies, once it is written."""
        return self._round(round) / "adapter"

    def certify(self, round: int, certificate: m.RoundCertificate) -> None:
        """Close a round: the certificate first, then the progress."""
        self.record(round, "certificate", certificate)
        self.enter(Progress(round=round + 1, certified=round))

    def save_adapter(
        self, round: int, state: GridState, base_model: str | None
    ) -> None:
        """Write the adapter after a certified round, and the manifest of the run."""
        for folder in (self.adapter(round), self.folder / "adapter"):
            self._save_adapter(folder, state, base_model)
        self._write_manifest()

    def metric(self, round: int, phase: str, seconds: float) -> None:
        """Append how long a phase took to metrics.jsonl: nothing derived from data."""
        line = {"round": round, "phase": phase, "seconds": seconds}
        path = self.folder / "metrics.jsonl"
        append_durably(path, json.dumps(line).encode() + b"\n")

    def evaluated(self, round: int) -> None:
        """Append what a certified sum says of the held-out units: noised, and charged."""
        if (found := self.reading(round)) is not None:
            line = {"round": round, "phase": "evaluation", **asdict(found)}
            path = self.folder / "metrics.jsonl"
            append_durably(path, json.dumps(line).encode() + b"\n")

    def _save_adapter(
        self, folder: Path, state: GridState, base_model: str | None
    ) -> None:
        flat, start = to_float32(state), 0
        arrays = {}
        for name, shape in state.adapter_layout:
            size = int(np.prod(shape))
            arrays[name] = flat[start : start + size].reshape(shape)
            start += size
        adapter = self._charter.adapter
        lora = {
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "dropout": adapter.dropout,
            "targets": adapter.targets,
        }
        name = base_model or self._charter.base_model.name
        save_peft(folder, arrays, lora, name)

    def _write_manifest(self) -> None:
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        digests = {
            str(path.relative_to(self.folder)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in files
            if path.name not in ("manifest.json", "progress.json", "serials.json")
            and not path.name.startswith(".")  # a draft, which is about to be renamed
            and "spool" not in path.parts
        }
        text = json.dumps(digests, indent=2, sort_keys=True).encode() + b"\n"
        write_durably(self.folder / "manifest.json", text)

    def _round(self, round: int) -> Path:
        folder = self.folder / "rounds" / f"{round:03d}"
        if not folder.is_dir():
            make_folder(folder)
        return folder

    def _read(self, round: int, name: str) -> Frame | None:
        path = self._round(round) / name
        return decode(path.read_bytes(), self._limits) if path.exists() else None


def write_once(path: Path, data: bytes) -> None:
    """Write a file that must never change. Raises StorageError if it holds other bytes."""
    if not path.exists():
        write_durably(path, data)
    elif path.read_bytes() != data:
        raise StorageError(
            f"{path} belongs to another charter; use a folder of its own"
        )
