"""The processes of one tuning job, and what they say to each other over torch.distributed.

Number 0 is the one that the daemon talks to. It tells the others what to do, and they
answer it; they never speak among themselves, but for a sharded base model's weights. So a
process that is lost has a name, whoever waits for it.

What is said is JSON or plain arrays of numbers: nothing is unpickled. It isn't encrypted,
and much of it follows from the records: all processes are inside the silo.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fedit_secure.errors import ConfigError, FeditError, TuningFailed

_HEAD = 2  # int64: the kind of message, and the bytes that follow
_MOST_BYTES = 1 << 40
_SECONDS_TO_ANSWER_FOR = 30.0


class Kind(IntEnum):
    """What a message is."""

    JOB = 1  # 0 -> all: a `TuneJob` on one line of JSON
    STATE = 2  # 0 -> all: the adapter to start from, float32
    LOADED = 3  # all -> 0, then 0 -> all: a whole model, about to be split
    READY = 4  # all -> 0: what a process has found and loaded, JSON
    SETTLED = 5  # 0 -> all: what they all take, JSON
    PROBE = 6  # all -> 0: synthetic records' gradients, float32
    WAIT = 7  # 0 -> all: nothing yet, keep waiting
    BEGIN = 8  # 0 -> all: it's charged, and sampled; 32 bytes, of which masks are drawn
    STEP = 9  # 0 -> all: the units of one step that are theirs, JSON
    ADAPTER = 10  # 0 -> all: float32, the adapter to take their gradients at
    DIGEST = 11  # all -> 0: SHA-256 of the adapter that they have
    PART = 12  # all -> 0: the sum of one physical batch, float64
    END = 13  # 0 -> all: no more steps
    FAILED = 14  # all -> 0: a sentence and an exit status, JSON


class LostRank(TuningFailed):
    """A process of the job ended, or has been silent for too long."""


class SilentRank(LostRank):
    """Of the two, the latter."""


class Ranks:
    """This process's place among those of the default group.

    Args:
        patience: seconds that any other one may take to say something.

    Attributes:
        number: from 0.
        size: how many there are.
    """

    def __init__(self, patience: float) -> None:
        self.number, self.size = dist.get_rank(), dist.get_world_size()
        self._patience = patience
        # Of its own: what is said must not mix with the weights that layers gather.
        self._group = dist.new_group(backend="gloo")

    @property
    def others(self) -> range:
        """The numbers of all but 0."""
        return range(1, self.size)

    def post(self, to: int, kind: Kind, content: Any = b"") -> Sending:
        """Begin to send bytes, an array or a CPU tensor; what is given must stay as it is
        until `Sending.wait`.
        """
        body = _as_bytes(content)
        head = torch.tensor([kind, body.numel()], dtype=torch.int64)
        parts = (head, body) if body.numel() else (head,)
        try:
            works = [dist.isend(part, to, group=self._group) for part in parts]
        except RuntimeError as failure:
            raise self._lost(to, time.monotonic(), self._patience) from failure
        return Sending(self, to, works, (head, body))

    def send(self, to: int | Iterable[int], kind: Kind, content: Any = b"") -> None:
        """Send to one process, or to several at once.

        Raises:
            LostRank: names the process that isn't there any more, or doesn't listen.
        """
        everyone = (to,) if isinstance(to, int) else to
        for sending in [self.post(number, kind, content) for number in everyone]:
            sending.wait()

    def say(self, to: int | Iterable[int], kind: Kind, **fields: Any) -> None:
        """`send` as JSON."""
        self.send(to, kind, json.dumps(fields).encode())

    def receive(self, source: int, *kinds: Kind) -> tuple[Kind, Tensor]:
        """The next message of a process, which must be of one of `kinds`.

        Returns:
            Its kind, and its content as uint8, shape (bytes,).

        Raises:
            LostRank: that process ended, or said nothing.
            TuningFailed, ConfigError: that process failed; says with what.
        """
        head = torch.empty(_HEAD, dtype=torch.int64)
        self._take(source, head)
        kind, size = int(head[0]), int(head[1])
        if kind not in {*kinds, Kind.FAILED} or not 0 <= size <= _MOST_BYTES:
            raise TuningFailed(f"{self.name(source)} said what it wasn't asked for")
        body = torch.empty(size, dtype=torch.uint8)
        if size:
            self._take(source, body)
        if kind == Kind.FAILED:
            raise self._failure(source, body)
        return Kind(kind), body

    def hear(self, source: int, kind: Kind) -> dict[str, Any]:
        """`receive` of JSON."""
        return as_fields(self.receive(source, kind)[1])

    def array(self, source: int, kind: Kind, like: Tensor) -> Tensor:
        """`receive` of an array of the type and shape of `like`."""
        body = self.receive(source, kind)[1]
        if body.numel() != like.numel() * like.element_size():
            raise TuningFailed(
                f"{self.name(source)} said what isn't of the right length"
            )
        return body.view(like.dtype).view(like.shape)

    def name(self, number: int) -> str:
        """How errors call a process."""
        return f"process {number} of the {self.size} that tune"

    def tell_failure(self, failure: Exception, *, within: float | None = None) -> None:
        """Tell 0 why this process can't go on. What isn't ours may quote a record: of
        that, its kind alone.

        Args:
            failure: what it was.
            within: seconds that 0 has to listen; by default as many as anybody.
        """
        known = isinstance(failure, FeditError)
        status = getattr(failure, "exit_status", TuningFailed.exit_status)
        text = str(failure) if known else f"it failed ({type(failure).__name__})"
        said = json.dumps({"error": text, "exit_status": status}).encode()
        with suppress(LostRank):
            self.post(0, Kind.FAILED, said).wait(within)

    def meet(self) -> None:
        """Return when every process has come here, or raise what one failed with."""
        if self.number:
            self.send(0, Kind.LOADED)
            self.receive(0, Kind.LOADED)
            return
        for number in self.others:
            self.receive(number, Kind.LOADED)
        self.send(self.others, Kind.LOADED)

    def blame(self) -> None:
        """For 0, when what all do together has broken: raise LostRank for one that has
        ended, or else what another one says of it. Returns if they have nothing to say.
        """
        said: FeditError | None = None
        for number in self.others:
            head = torch.empty(_HEAD, dtype=torch.int64)
            try:
                self._take(number, head, _SECONDS_TO_ANSWER_FOR)
                if head[0] == Kind.FAILED:
                    body = torch.empty(int(head[1]), dtype=torch.uint8)
                    self._take(number, body, _SECONDS_TO_ANSWER_FOR)
                    said = said or self._failure(number, body)
            except SilentRank:
                continue
        if said is not None:
            raise said

    def await_end(self) -> None:
        """Wait until 0 is gone. Whoever leaves before it has torchrun end all others, 0
        among them, before it could say why.
        """
        try:
            self._take(0, torch.empty(_HEAD, dtype=torch.int64))
        except LostRank:
            return

    def _take(self, source: int, into: Tensor, within: float | None = None) -> None:
        begun, seconds = time.monotonic(), within or self._patience
        try:
            work = dist.irecv(into, source, group=self._group)
            assert work is not None
            work.wait(timedelta(seconds=seconds))
        except RuntimeError as failure:
            raise self._lost(source, begun, seconds) from failure

    def wait(self, to: int, work: dist.Work, within: float | None = None) -> None:
        """Until a message to a process is through. Raises LostRank."""
        begun, seconds = time.monotonic(), within or self._patience
        try:
            work.wait(timedelta(seconds=seconds))
        except RuntimeError as failure:
            raise self._lost(to, begun, seconds) from failure

    def _lost(self, number: int, begun: float, seconds: float) -> LostRank:
        if time.monotonic() - begun < seconds:
            return LostRank(f"{self.name(number)} ended early")
        return SilentRank(f"{self.name(number)} said nothing for {seconds:g} s")

    def _failure(self, number: int, body: Tensor) -> FeditError:
        said = as_fields(body)
        sentence = f"{self.name(number)}: {said['error']}"
        if said["exit_status"] == ConfigError.exit_status:
            return ConfigError(sentence)
        return TuningFailed(sentence)


class Sending:
    """A message on its way; it keeps what is sent."""

    def __init__(self, ranks: Ranks, to: int, works: list[Any], kept: Any) -> None:
        self._ranks, self._to, self._works, self._kept = ranks, to, works, kept

    def wait(self, within: float | None = None) -> None:
        """Until it is through, each of its parts within so many seconds. Raises LostRank."""
        for work in self._works:
            self._ranks.wait(self._to, work, within)
        self._kept = None


def as_fields(body: Tensor) -> dict[str, Any]:
    """The JSON object that a message holds."""
    fields: dict[str, Any] = json.loads(body.numpy().tobytes())
    return fields


def _as_bytes(content: Any) -> Tensor:
    if isinstance(content, bytes):
        return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    flat = torch.from_numpy(content) if isinstance(content, np.ndarray) else content
    return flat.contiguous().reshape(-1).view(torch.uint8)
