"""A silo's own B under aggregation "fedsa": where it lies, and which one counts.

It is tuned on the records together with A, under one clip and one noise, and charged with
it. It never leaves the silo: no message, ledger entry or status has it. A file holds it,
and the journal names that file by its digest, in the transactions that make it count:

- with the update of a round it becomes the round's, `tuned`;
- with the end of that round, whatever it was, it becomes the silo's, `kept`. A round whose
  sum didn't come out, or came out without this silo, has been paid for all the same.

A file is on the disk before the journal names it, and is deleted after the journal names
another. So whatever a crash leaves, the journal names whole files, and what it doesn't
name is nobody's. docs/adr/0018 has the reasons.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.aggregation import is_of, kept_factors, places
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import Part, canonical
from fedit_secure.federation.durable import make_folder, write_durably
from fedit_secure.federation.update import GridState, Layout, to_float32
from fedit_secure.privacy.ledger import Committed, Ledger
from fedit_secure.silo.personal_file import Held, Origin, file_digest, packed, unpacked
from fedit_secure.storage.adapter_store import save_peft
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.kept_part import put

_log = logging.getLogger(__name__)
_FILES = "epoch-*-round-*.safetensors"


class Note(Part):
    """The journal's word, one for each federation: which files count."""

    kept: Held | None = None
    tuned: Held | None = None


class Personal:
    """See the module; for one silo under one charter.

    `base_model` is what the adapters that it saves name as theirs.
    """

    def __init__(
        self, journal: Journal, charter: Charter, name: str, base_model: str
    ) -> None:
        self._journal, self._charter, self._name = journal, charter, name
        self._base_model = base_model
        self._population = charter.row(name).population
        kept = kept_factors(charter.adapter.aggregation)
        layout = charter.adapter.layout
        self._parts = places(layout, kept)
        self._layout: Layout = tuple(each for each in layout if is_of(each[0], kept))
        self.folder = journal.path.parent / "personal" / charter.federation
        self._drawn: Held | None = None  # tuned here, and not yet named in the journal

    @classmethod
    def of(
        cls, journal: Journal, charter: Charter, name: str, base_model: str
    ) -> Self | None:
        """None where silos keep nothing of their own."""
        if not kept_factors(charter.adapter.aggregation):
            return None
        return cls(journal, charter, name, base_model)

    # ------------------------------------------------------------------ what there is

    @property
    def adapter(self) -> Path:
        """The folder of this silo's adapter, in PEFT's layout: the global A, its own B."""
        return self.folder / f"epoch-{self._charter.epoch}" / "adapter"

    @property
    def begins_with(self) -> Held | None:
        """The file that the next round begins with; None for the global state's own B."""
        note = self._note()
        if note is None:
            return None
        # What was tuned under an earlier charter waits for no end of a round any more.
        over = note.tuned if note.tuned and not self._ours(note.tuned) else None
        return next((h for h in (over, note.kept) if h and self._counts(h)), None)

    def path(self, held: Held) -> Path:
        """Where a file lies that the journal names."""
        return self.folder / held.name

    def is_whole(self, held: Held) -> bool:
        """Whether the file that the journal names is here, as it was written."""
        try:
            self._read(held)
        except StorageError:
            return False
        return True

    def check(self, ledger: Ledger | None) -> None:
        """Raises StorageError unless every file that counts is here, and is whole."""
        note = self._note()
        if note is None:
            self._require_new_here(ledger)
            return
        for held in (self.begins_with, note.tuned):
            if held is not None:
                self._read(held)

    def whole(self, state: GridState) -> NDArray[np.float32]:
        """This silo's adapter, float32 of shape (m,): the state's, with its own B.

        Raises StorageError if that is missing or damaged.
        """
        adapter, held = to_float32(state), self.begins_with
        if held is not None:
            put(adapter, self._parts, self._read(held))
        return adapter

    # ------------------------------------------------------------- what a round changes

    def keep(self, round: int, values: NDArray[np.float32]) -> None:
        """Have a round's B, float32 of shape (k,), on the disk, for `committed` to name."""
        origin = Origin(
            federation=self._charter.federation,
            epoch=self._charter.epoch,
            charter=self._charter.digest().hex(),
            silo=self._name,
            population=self._population,
            round=round,
        )
        data = packed(origin, self._layout, values)
        held = Held.of(origin, data)
        self._write(held, data)
        self._drawn = held

    def committed(self, round: int) -> Mapping[str, bytes]:
        """The note that goes into the transaction of a round's update."""
        drawn = self._drawn
        if drawn is None or drawn.round != round:
            raise StorageError(f"round {round} was tuned, and its B isn't on the disk")
        note = self._note() or Note()
        return self._noted(Note(kept=self.begins_with or note.kept, tuned=drawn))

    def closed(self, round: int) -> Mapping[str, bytes]:
        """The note that goes into the transaction of a round's end; nothing if this silo
        has tuned nothing since its B counted last."""
        note = self._note()
        if note is None or note.tuned is None:
            return {}
        if not self._ours(note.tuned) or note.tuned.round > round:
            return {}
        return self._noted(Note(kept=note.tuned))

    def settle(self, state: GridState) -> None:
        """After a round's end, and at a start: save the adapter that a user opens, delete
        files that don't count any more. Raises StorageError.
        """
        adapter = self._charter.adapter
        flat, start, arrays = self.whole(state), 0, {}
        for key, shape in adapter.layout:
            size = int(np.prod(shape))
            arrays[key] = flat[start : start + size].reshape(shape)
            start += size
        lora = adapter.model_dump(include={"rank", "alpha", "dropout", "targets"})
        make_folder(self.folder.parent, 0o700)
        make_folder(self.adapter.parent, 0o700)
        # Beside it, so that fedit merge holds the base model against the charter's digest.
        write_durably(
            self.adapter.parent / "charter.json", self._charter.to_bytes(), mode=0o600
        )
        save_peft(self.adapter, arrays, lora, self._base_model, mode=0o600)
        self._tidy()

    # ------------------------------------------------------------ what an operator orders

    def restore(self, source: Path, data: bytes) -> Held:
        """Take an earlier file of this silo's own B for the one that counts.

        Raises ConfigError that names `source` if it isn't this silo's, of this line of
        epochs and of this adapter.
        """
        origin, _ = unpacked(data, self._layout, source)
        whose = (origin.federation, origin.silo, origin.population)
        if whose != (self._charter.federation, self._name, self._population):
            raise ConfigError(
                f"{source}: it belongs to silo {origin.silo!r} of {origin.federation!r}, "
                f"population {origin.population!r}"
            )
        held = Held.of(origin, data)
        if not self._counts(held):
            raise ConfigError(
                f"{source}: it is of epoch {origin.epoch}, and the adapter of epoch "
                f"{self._charter.epoch} doesn't go on from that one's"
            )
        self._write(held, data)
        self._journal.commit(notes=self._noted(Note(kept=held)))
        return held

    def start_over(self) -> None:
        """Have no B count: the next round begins with the global state's own."""
        self._journal.commit(notes=self._noted(Note()))

    # --------------------------------------------------------------------------- details

    def _require_new_here(self, ledger: Ledger | None) -> None:
        """A journal that was restored from the aggregator's copy knows no B."""
        before = self._charter.predecessor
        events = () if ledger is None else ledger.events
        tuned = any(isinstance(e, Committed) and e.charter == before for e in events)
        if tuned and self._charter.adapter.personal_since is not None:
            raise StorageError(
                f"silo {self._name!r} has tuned in epoch {self._charter.epoch - 1}, and its "
                f"own B isn't in {self.folder}: {_CHOICE}"
            )

    def _ours(self, held: Held) -> bool:
        return held.charter == self._charter.digest().hex()

    def _counts(self, held: Held) -> bool:
        if held.population != self._population:
            return False
        since = self._charter.adapter.personal_since
        earlier = since is not None and since <= held.epoch < self._charter.epoch
        return earlier or self._ours(held)

    def _note(self) -> Note | None:
        data = self._journal.note(self._key)
        if data is None:
            return None
        try:
            return Note.model_validate_json(data, strict=True)
        except ValidationError:
            raise StorageError(
                f"the note {self._key!r} in {self._journal.path} isn't one"
            ) from None

    @property
    def _key(self) -> str:
        return f"personal/{self._charter.federation}"

    def _noted(self, note: Note) -> Mapping[str, bytes]:
        return {self._key: canonical(note.model_dump(mode="json"))}

    def _read(self, held: Held) -> NDArray[np.float32]:
        path = self.path(held)
        what = (
            f"{path}, this silo's own B after round {held.round} of epoch {held.epoch},"
        )
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise StorageError(f"{what} is missing: {_CHOICE}") from None
        except OSError as error:
            raise StorageError(f"{what} can't be read: {error.strerror}") from error
        if file_digest(data) != held.digest:
            raise StorageError(
                f"{what} isn't the file that was written: {_CHOICE}"
            ) from None
        return unpacked(data, self._layout, path)[1]

    def _write(self, held: Held, data: bytes) -> None:
        make_folder(self.folder.parent, 0o700)
        make_folder(self.folder, 0o700)
        write_durably(self.path(held), data, mode=0o600)

    def _tidy(self) -> None:
        note = self._note() or Note()
        named = {held.name for held in (note.kept, note.tuned) if held is not None}
        for path in self.folder.glob(_FILES):
            if path.name not in named:
                try:
                    path.unlink()
                except OSError as error:  # it does no harm but take room
                    _log.warning("%s can't be deleted: %s", path, error.strerror)


_CHOICE = (
    "put it back, take an earlier one with `fedit silo personal --restore FILE`, or begin "
    "anew with `fedit silo personal --start-over`"
)
