"""One logical batch summed by several processes, to the same bits as by one.

Process 0 draws the coins, splits the logical batch into physical ones, and deals these
out. Each process sums the clipped gradients of its own; 0 adds these sums up in the order
in which it would have made them itself. A unit is in one physical batch whole, so its
records meet in one process before the clip.

No other process has the noise key or a coin. It has nothing to sample with: it works on
what it is dealt, and nothing is dealt before the charge, because nothing is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedit_secure.errors import TuningFailed
from fedit_secure.tuning.adapter import read_adapter, write_adapter
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.dp_step import BatchGradient, require_all
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.local_round import ReadyRound
from fedit_secure.tuning.ranks import Kind, Ranks, Sending, as_fields
from fedit_secure.tuning.sharding import is_sharded


class Dealer:
    """Process 0's sums: `BatchGradient.sum`, of which the others do their share.

    Args:
        ranks: all processes; the others are in `help_round`.
        ready: the round, as it was settled with them.
        gradients: of this process.
    """

    def __init__(
        self, ranks: Ranks, ready: ReadyRound, gradients: BatchGradient
    ) -> None:
        self._ranks, self._model, self._gradients = ranks, ready.model, gradients
        # It's made of the noise key, which can't be had back from it.
        ranks.send(ranks.others, Kind.BEGIN, gradients.dropout_key)

    def sum(self, units: Slots, step: int = 0) -> Tensor:
        """As `BatchGradient.sum`.

        Raises:
            TuningFailed: also if another process ended, failed, or has another adapter.
        """
        size, mine = self._ranks.size, self._gradients
        groups = mine.split(units)
        require_all([mine.unlabelled(units), *groups], units)
        adapter = read_adapter(self._model)
        for number in self._ranks.others:
            dealt = [group.tolist() for group in groups[number::size]]
            # With a sharded base all do as many passes, and the sums of some don't count.
            spare = is_sharded(self._model) and len(dealt) * size < len(groups)
            again = groups[0].tolist() if spare else None
            self._ranks.say(number, Kind.STEP, step=step, groups=dealt, again=again)
        self._ranks.send(self._ranks.others, Kind.ADAPTER, adapter)
        self._require_same(hashlib.sha256(adapter.data).digest())
        total = mine.zero()
        for at in range(0, len(groups), size):
            # In the order of the groups, whoever was done first: float64 sums depend on it.
            total += mine.sum(np.sort(groups[at]), step)
            for number in range(1, len(groups[at : at + size])):
                like = torch.empty_like(total, device="cpu")
                total += self._ranks.array(number, Kind.PART, like).to(total.device)
        return total

    def _require_same(self, digest: bytes) -> None:
        for number in self._ranks.others:
            body = self._ranks.receive(number, Kind.DIGEST)[1]
            if body.numpy().tobytes() != digest:
                name = self._ranks.name(number)
                raise TuningFailed(f"{name} doesn't have the adapter that it was given")


def help_round(
    ready: ReadyRound,
    examples: Sequence[Example],
    units: Sequence[Slots] | None,
    ranks: Ranks,
) -> None:
    """What every process but 0 does in place of `run_round`: its share, until it is let go.

    Args:
        ready: the round, as it was settled.
        examples: slot i is record i, as in process 0.
        units: as in process 0.
        ranks: all processes.

    Raises:
        LostRank: process 0 is gone.
        TuningFailed: a step failed; see `BatchGradient.sum`.
    """
    while (said := ranks.receive(0, Kind.WAIT, Kind.BEGIN))[0] == Kind.WAIT:
        pass
    gradients = BatchGradient(
        ready.model,
        examples,
        clip=ready.steps.clip,
        selective=ready.selective,
        packing=ready.packing,
        units=units,
        dropout_key=said[1].numpy().tobytes(),
    )
    like = torch.from_numpy(ready.initial)
    try:
        while (said := ranks.receive(0, Kind.STEP, Kind.END))[0] == Kind.STEP:
            step = as_fields(said[1])
            given = ranks.array(0, Kind.ADAPTER, like)
            write_adapter(ready.model, given.numpy())
            digest = hashlib.sha256(read_adapter(ready.model).data).digest()
            ranks.send(0, Kind.DIGEST, digest)
            sending: Sending | None = None
            for group in step["groups"]:
                slots = np.sort(np.array(group, np.int64))
                part = gradients.sum(slots, step["step"]).cpu()
                if sending is not None:
                    sending.wait()
                sending = ranks.post(0, Kind.PART, part)
            if step["again"] is not None:
                gradients.sum(np.sort(np.array(step["again"], np.int64)), step["step"])
            if sending is not None:
                sending.wait()
    finally:
        gradients.close()
