"""A whole federation in this process, of which everything that leaves a silo is kept.

The daemons are started as `fedit silo serve` starts them, each from its configuration, and
the aggregator is the real one; links are in memory, with the codec's bytes. Two things are
taken from chance, so that two runs can be compared to the byte: random bytes come from
streams of their own for every party and purpose, and time is a number that jumps to the
next thing that is due. Loading and tuning take as much of that time as the records have
bytes: what depends on it shows.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.fixed_chance import PARTY, Chance, Clock, Loop
from attacks.seen import VICTIM, Ear, Fetch, Listener, Passed, Seen
from numpy.typing import NDArray

from fedit_secure import log_fields
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.cli.output import OutputFormat, show, show_event
from fedit_secure.config import load_silo_config
from fedit_secure.errors import ConnectError
from fedit_secure.secagg import fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.silo import attempts, books, serve
from fedit_secure.silo.accounting import Question, answer
from fedit_secure.simulation.parties import LocalFederation
from fedit_secure.tuning import worker
from fedit_secure.tuning.job import OnFigure, OnProgress, OwnFigure, Progress, TuneJob
from fedit_secure.tuning.kept_part import Tuned
from fedit_secure.wire import frames as f
from fedit_secure.wire import link
from fedit_secure.wire.codec import decode, encode
from fedit_secure.wire.limits import Limits

AWAY_SECONDS = 5.0  # until a silo that died is started again


class Killed(Exception):
    """This silo's process is gone."""


@dataclass(frozen=True)
class Kill:
    """The silo dies instead of sending its n-th message (from 1) of this type."""

    silo: str
    kind: type
    count: int


@dataclass
class Tapped:
    """A silo's end of its link, at which it may die."""

    inner: link.SiloLink
    silo: str
    seen: Seen
    kills: dict[tuple[str, type], set[int]]
    sent: Counter[tuple[str, type]]

    async def send(self, frame: f.Frame) -> None:
        where = (self.silo, type(frame))
        self.sent[where] += 1
        if self.sent[where] in self.kills.get(where, ()):
            raise Killed
        await self.inner.send(frame)

    async def receive(self) -> f.Frame:
        return await self.inner.receive()

    async def upload(self, upload: m.MaskedUpload) -> None:
        await self.inner.upload(upload)

    async def fetch(self, address: bytes, *rest: Any) -> m.Blob:
        return await self.inner.fetch(address, *rest)

    async def close(self) -> None:
        await self.inner.close()


def seconds_of(path: str) -> tuple[float, float]:
    """How long these records take to load, and to tune on: less than a slot."""
    size = Path(path).stat().st_size
    return 1 + size / 1e6, 2 + size / 1e5


class Run:
    """One run of a copy of a founded federation; see `watch`."""

    def __init__(
        self,
        federation: LocalFederation,
        folder: Path,
        kills: tuple[Kill, ...],
        cut: float,
    ) -> None:
        self.seen, self.clock, self.chance = Seen(), Clock(), Chance()
        self._federation, self._folder = federation, folder
        self._limits = Limits.of(federation.charter.secagg_params())
        self._cut = self.clock.now + cut
        self._kills: dict[tuple[str, type], set[int]] = {}
        for kill in kills:
            self._kills.setdefault((kill.silo, kill.kind), set()).add(kill.count)
        self._sent: Counter[tuple[str, type]] = Counter()
        self.encoded: NDArray[np.int32]
        self._published: link.Published
        self._hub: Aggregator
        self._serving: list[asyncio.Task[None]] = []

    async def whole(self) -> None:
        """All rounds."""
        federation, folder = self._federation, self._folder / "run"
        self._hub = Aggregator(
            federation.charter,
            federation.approvals,
            federation.aggregator.signing,
            RunFolder(folder, federation.charter, federation.initial),
            base_model=str(federation.base_model),
            on_event=lambda e: show_event(e.round, e.silo, e.phase, OutputFormat.JSON),
        )
        self._published = link.Published(self._hub)
        async with asyncio.TaskGroup() as group:
            for name in federation.silos:
                group.create_task(self._silo(name))
            group.create_task(self._aggregator())
        await asyncio.gather(*self._serving)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                self.seen.files[name] = path.read_bytes()
        status = self._folder / VICTIM / "state" / "status.json"
        self.seen.status = status.read_bytes()

    async def _aggregator(self) -> None:
        PARTY.set("aggregator")
        log_fields.begin(run=self._federation.charter.run)
        await self._hub.run()
        self.seen.ended.append(("aggregator", "0"))

    async def _silo(self, name: str) -> None:
        """`fedit silo serve --format json`, started again whenever it died."""
        PARTY.set(name)
        config = load_silo_config(self._folder / name / "silo.yaml", {})

        def tell(round: int, phase: str) -> None:
            show_event(round, config.name, phase, OutputFormat.JSON)

        while True:
            try:
                state = await serve.serve(config, tell)
            except Killed:
                self.seen.ended.append((name, "killed"))
                await asyncio.sleep(AWAY_SECONDS)
            else:
                end = {"run": "ended", "state": state.digest().hex()}
                show(end, OutputFormat.JSON, one_line=True)
                self.seen.ended.append((name, "0"))
                return

    # ------------------------------------------------------------- in place of the network

    async def connect(self, *_: Any, **__: Any) -> link.SiloLink:
        """A link in memory, both mailboxes of which are watched."""
        name = PARTY.get()
        index = self._federation.charter.silo_index(name)
        own, peer = link.memory_pair(index, name, self._published, self._limits)
        up, down = own._up, own._down  # type: ignore[attr-defined]
        up.put = self._watched(name, up.put, up=True)
        down.put = self._watched(name, down.put, up=False)
        if name == VICTIM and self.clock.now < self._cut:
            for box in (up, down):
                loop = asyncio.get_running_loop()
                loop.call_at(self._cut, box.close, "the cable was cut")
        fetch = own.fetch

        async def fetched(address: bytes, *rest: Any) -> m.Blob:
            self._note(name, True, Fetch(address), address)
            blob = await fetch(address, *rest)
            self._note(name, False, Fetch(address), bytes(blob))
            return blob

        own.fetch = fetched  # type: ignore[method-assign]

        async def serve_peer() -> None:
            PARTY.set("aggregator")
            log_fields.begin(run=self._federation.charter.run)
            log_fields.about_silo(name)
            try:
                await self._hub.on_connect(peer, await peer.receive())  # type: ignore[arg-type]
            except ConnectError:
                return

        self._serving.append(asyncio.create_task(serve_peer()))
        return Tapped(own, name, self.seen, self._kills, self._sent)

    def _watched(self, silo: str, put: Callable[[Any], Any], *, up: bool) -> Any:
        async def watched(item: bytes | m.MaskedUpload) -> None:
            if isinstance(item, m.MaskedUpload):
                raw = encode_header(item.header) + bytes(item.payload)
                self._note(silo, up, item, raw)
                if silo == VICTIM:
                    self.seen.uploads.append((item, self.encoded))
            else:
                self._note(silo, up, decode(item, self._limits), item)
            await put(item)

        return watched

    def _note(self, silo: str, up: bool, frame: Any, raw: bytes) -> None:
        now = round(self.clock.now, 6)
        self.seen.passed.append(Passed(now, silo, up, len(raw), frame, raw))

    # ------------------------------------------------------ in place of the child process

    async def tune(
        self,
        job: TuneJob,
        on_phase: OnProgress | None = None,
        *,
        before_sampling: Callable[[], Any] | None = None,
        on_figure: OnFigure = lambda figure: None,
        keep: Callable[[NDArray[np.float32]], Any] | None = None,
    ) -> NDArray[np.float32]:
        """As `tune_in_child`, whose standard error goes nowhere: the victim's update is
        tuned, the others' are drawn."""
        name, gate, lines = PARTY.get(), Gate(), []
        loading, tuning = seconds_of(job.data.path)
        work = self._tuned if name == VICTIM else self._drawn
        done: list[Any] = []

        def target() -> None:
            try:
                done.append(work(job, lambda **said: lines.append(said), gate))
            except BaseException as failure:  # noqa: BLE001 - raised again below
                done.append(failure)
            gate.turn.set()

        def relay() -> None:
            for said in lines:
                self.seen.workers.append((name, json.dumps(said)))
                if said["phase"] == "evaluated":
                    on_figure(OwnFigure(said["nll"], said["units"], said["unscored"]))
                elif on_phase is not None and said["phase"] not in ("done", "kept"):
                    step, of = said.get("step", 0), said.get("of", 0)
                    on_phase(Progress(said["phase"], step, of))
            lines.clear()

        thread = threading.Thread(target=contextvars.copy_context().run, args=[target])
        try:
            with _to_nobody():
                thread.start()
                gate.turn.wait()
            await asyncio.sleep(loading)
            relay()
            if before_sampling is not None and not done:
                await before_sampling()
        finally:
            gate.cancelled = sys.exc_info()[0] is not None
            with _to_nobody():
                gate.go.set()
                thread.join()
        await asyncio.sleep(tuning)
        if isinstance(done[0], BaseException):
            raise done[0]
        tuned: Tuned = done[0]
        for phase, values in (("done", tuned.update), ("kept", tuned.kept)):
            if phase == "done" or job.kept:
                sha256 = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
                lines.append({"phase": phase, "length": values.size, "sha256": sha256})
        relay()
        if keep is not None:
            await keep(tuned.kept)
        return tuned.update

    def _tuned(self, job: TuneJob, tell: Any, gate: Gate) -> Tuned:
        return worker.tune(job, tell, gate)  # type: ignore[arg-type]

    def _drawn(self, job: TuneJob, tell: Any, gate: Gate) -> Tuned:
        steps = job.plan["local_steps"]
        tell(phase="loading")
        tell(phase="ready")
        gate.wait()
        for step in range(1, steps + 1):
            tell(phase="tuning", step=step, of=steps)
        seed = int.from_bytes(self.chance.bytes("drawn", 8), "little")
        length = job.update_length + job.kept_length
        drawn = np.random.default_rng(seed).normal(0, 1e-4, length).astype(np.float32)
        return Tuned(*np.split(drawn, [job.update_length]))


class Gate:
    """The worker's event: its thread and the event loop take turns."""

    def __init__(self) -> None:
        self.turn, self.go, self.cancelled = threading.Event(), threading.Event(), False

    def wait(self) -> None:
        """All checks passed; wait for the word."""
        self.turn.set()
        self.go.wait()
        if self.cancelled:
            raise SystemExit


class AtHand:
    """The accountants, in this process: another one's time isn't in our hand."""

    def __call__(self, question: Question) -> str:
        return answer(question)

    def close(self) -> None:
        """There is nothing to end."""


@contextmanager
def _to_nobody() -> Iterator[None]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def encode_header(header: m.UploadHeader) -> bytes:
    """The bytes of a header, as in the first message of an upload."""
    return encode(m.SurvivorSet(ctx=bytes(32), headers=(header,), signature=bytes(64)))


@contextmanager
def _in(run: Run, patch: pytest.MonkeyPatch, *, ideal: bool) -> Iterator[None]:
    async def at_once(work: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return work(*args, **named)

    def encoded(*args: Any) -> fixed_point.Encoded:
        made = fixed_point.encode(*args)
        if PARTY.get() == VICTIM:
            run.encoded = made.values
        return made

    class Encoding:
        encode = staticmethod(encoded)

    def drawn_name(label: str, *parts: m.Blob) -> bytes:
        if ideal and label == "fedit/update-name/v1":
            return run.chance.bytes(label, 32)
        return digest(label, *parts)

    patch.setattr(time, "monotonic", lambda: run.clock.now)
    patch.setattr(os, "urandom", run.chance)
    patch.setattr(asyncio, "to_thread", at_once)
    patch.setattr(serve, "connect", run.connect)
    patch.setattr(serve, "tune_in_child", run.tune)
    patch.setattr(serve, "Accountants", AtHand)
    patch.setattr(attempts, "fixed_point", Encoding)
    patch.setattr(books, "digest", drawn_name)
    if ideal:
        drawn = lambda *_: run.chance.bytes("fedit/fingerprints/v1", 32)  # noqa: E731
        patch.setattr(serve, "commitment", drawn)
    listener, root = Listener(run.seen), logging.getLogger()
    before = root.level
    root.addHandler(listener)
    root.setLevel(logging.INFO)
    try:
        with redirect_stdout(Ear(run.seen)), redirect_stderr(Ear(run.seen)):
            yield
    finally:
        root.removeHandler(listener)
        root.setLevel(before)


def watch(
    federation: LocalFederation,
    data: Path,
    folder: Path,
    *,
    kills: tuple[Kill, ...] = (),
    cut: float = 0.0,
    ideal: bool = True,
    patches: Mapping[str, Any] | None = None,
) -> Seen:
    """Run the federation on these records of the victim, and keep what leaves.

    Args:
        federation: founded elsewhere; a copy of its folder is run, in `folder`.
        kills: who dies where.
        cut: when the victim's first link breaks, in seconds from the start.
        ideal: two keyed digests in the ledger, which nobody without the silo's key can
            tell from random ones, are random: then all that rests on them can be
            compared as well.
        patches: by dotted name, for the run alone.
    """
    shutil.copytree(federation.folder, folder)
    path = folder / VICTIM / "silo.yaml"
    text = path.read_text(encoding="utf-8")
    own = federation.data[VICTIM].path
    assert own in text
    path.write_text(text.replace(own, str(data)), encoding="utf-8")
    run = Run(federation, folder, kills, cut)
    with pytest.MonkeyPatch.context() as patch, _in(run, patch, ideal=ideal):
        for name, value in (patches or {}).items():
            patch.setattr(name, value)
        parties = list(federation.silos)
        loop = partial(Loop, run.clock, parties)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(run.whole())
    return run.seen
