"""What a silo has said, held against what a disk would still know of it.

Whatever leaves the silo, and every record that is drawn, must have its fuse or its charge
where a power cut can't reach it: else the silo would say another thing later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faults.process_federation import VICTIM, Story
from faults.socket_link import frames_in
from faults.syscalls import Call, Kind
from faults.verdict import assert_charged_for_all

from fedit_secure.privacy.ledger import Ledger
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.journal import Journal
from fedit_secure.storage.life import FRESH, Life
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import encode
from fedit_secure.wire.limits import Limits


class Promises:
    """Fed with the calls of one or more lives, it knows what they sampled and said."""

    def __init__(self, story: Story) -> None:
        self._charter = story.federation.charter
        self._limits = Limits.of(self._charter.secagg_params())
        self._rest: dict[int, bytes] = {}
        self.sampled: list[tuple[int, int]] = []
        self.said: list[f.Frame] = []

    def restart(self) -> None:
        """The process is gone; what it said stays said."""
        self._rest = {}

    def take(self, call: Call) -> None:
        """One call."""
        if call.kind is Kind.MARK and call.one.startswith(b"sampled"):
            self.sampled.append((int(call.one.split()[1]), 0))
        elif call.kind is Kind.SEND:
            data = self._rest.get(call.fd, b"") + call.one
            frames, self._rest[call.fd] = frames_in(data, self._limits)
            self.said += frames

    def hold(self, state: Path) -> None:
        """Asserts that a silo that starts on this state folder stands by all of it. Its
        journal must open: that of a disk that lost power is never damaged."""
        digest = self._charter.digest()
        with open_journal(state) as journal:
            entries, kept = journal.ledger(VICTIM), journal.life(digest)
            assert_charged_for_all(entries, self.sampled)
            life = Life() if kept is None else Life.from_bytes(kept)
            for frame in self.said:
                self._hold(frame, entries, life, journal)

    def _hold(
        self, frame: f.Frame, entries: Sequence[bytes], life: Life, journal: Journal
    ) -> None:
        if isinstance(frame, f.LedgerEntries):
            head = frame.head
            ledger = Ledger.from_entries(VICTIM, entries)
            ledger.require_head(head.sequence, head.hash)
        elif isinstance(frame, m.Advert):
            assert life.ctx == frame.ctx or life.round > 0
        elif isinstance(frame, m.MaskedUpload):
            spent = life.state != FRESH and life.ctx == frame.header.ctx
            masked = f'"{frame.header.ctx.hex()}"'.encode()
            assert any(b'"masked"' in e and masked in e for e in entries)
            assert spent or life.ctx != frame.header.ctx or life.ctx in life.closed
        elif isinstance(frame, m.Reveal | m.VoidStatement):
            kind = "reveal" if isinstance(frame, m.Reveal) else "void"
            self._kept(journal, f"{kind}/{frame.ctx.hex()}", frame)
        elif isinstance(frame, m.Confirmation):
            self._kept(journal, f"confirm/{frame.round}", frame)

    def _kept(self, journal: Journal, key: str, frame: f.Frame) -> None:
        whole = f"{self._charter.digest().hex()}/{key}"
        assert journal.record(whole) == encode(frame), f"it said {key}, and forgot it"
