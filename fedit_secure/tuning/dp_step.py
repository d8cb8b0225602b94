"""The sum of one logical batch: every unit's gradient, clipped, before the noise.

Opacus's samplers give the gradient of every record; sampling, loss, clip, accumulation
and noise are ours, because the guarantee rests on them. Before the noise, the sum equals
that of Opacus's PrivacyEngine on the same batch, to float32 rounding (a test).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.batches import (
    ROW_TOKENS,
    Packing,
    PhysicalBatch,
    Slots,
    physical_batch,
    split_by_length,
)
from fedit_secure.tuning.checkpointing import is_checkpointed
from fedit_secure.tuning.dropout import dropouts
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.fused_lora import FusedLora
from fedit_secure.tuning.record_gradients import (
    RecordGradients,
    clip_units,
    summed_gradient,
)
from fedit_secure.tuning.record_loss import device_of, summed_loss
from fedit_secure.tuning.sharding import is_sharded


class BatchGradient:
    """Gradients of logical batches of `examples`, split to fit into memory.

    Args:
        model: a PeftModel with its adapter in float32. Used as it is; call `close`.
        examples: slot i is record i.
        clip: C; None for a run without differential privacy, which sums the records'
            gradients as they are, without hooks.
        selective: see `record_loss.label_logits`.
        packing: how a logical batch is split. Its budget is halved for good whenever
            memory runs out. On a sharded base (`sharding`) running out ends the job:
            there, all processes have to do the same passes.
        units: the slots of every unit: what is drawn, clipped and protected together;
            None where each record is one.
        dropout_key: what masks are drawn from, if the adapter has dropout.

    Attributes:
        packing: the one in force.
        dropout_key: as given.
        zeroed: units whose gradient wasn't finite so far; must not leave the silo.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        *,
        clip: float | None,
        selective: bool,
        packing: Packing,
        units: Sequence[Slots] | None = None,
        dropout_key: bytes = b"",
    ) -> None:
        self.zeroed = 0
        self.packing = packing
        self._model = model
        self._examples = examples
        self._clip = clip
        self._selective = selective
        self.dropout_key, self._dropouts = dropout_key, dropouts(model)
        self._parameters = [p for _, p in adapter_parameters(model)]
        self._single = units is None
        # A record without labels has no gradient: it keeps its slot, and takes no row.
        each = units or [np.array([s], np.int64) for s in range(len(examples))]
        self._units = [slots[[examples[s].labels > 0 for s in slots]] for slots in each]
        self._sizes = np.array([len(slots) for slots in self._units], np.int64)
        self._lengths = np.array(
            [max((len(examples[s].tokens) for s in u), default=0) for u in self._units],
            np.int64,
        )
        self._checkpointed, self._sharded = is_checkpointed(model), is_sharded(model)
        self._hooks: RecordGradients | None = None
        self._fused: FusedLora | None = None
        if clip is None:
            self._fused = FusedLora(model, None)
        else:
            self._hooks = RecordGradients(model, checkpointed=self._checkpointed)

    def close(self) -> None:
        """Take all hooks off the model."""
        for open_still in (self._hooks, self._fused):
            if open_still is not None:
                open_still.close()
        for dropout in self._dropouts:
            dropout.drawn(())

    def sum(self, units: Slots, step: int = 0) -> Tensor:
        """The sum of the (clipped) gradients of these units, before noise.

        A unit without labels keeps its place and contributes exactly zero. Nobody is
        ever skipped: a group that doesn't fit into memory is split and redone.

        Args:
            units: int64, ascending: the logical batch.
            step: which masks of dropout to draw.

        Returns:
            float64, shape (d,), on the model's device: ordered as the flat adapter.

        Raises:
            TuningFailed: a single unit doesn't fit into memory, or a pass failed for
                another reason.
            ConfigError: the model can't give a gradient per record.
        """
        total = self.zero()
        groups = deque(self.split(units))
        summed: list[Slots] = [self.unlabelled(units)]
        retried = False
        while groups:
            group = groups.popleft()
            part = self._part(group, step)
            if part is None:
                if self.packing.lengths and not retried:
                    # Another shape would change how everybody is rounded. What else
                    # used the memory may be gone by now: the same once more.
                    groups.appendleft(group)
                    retried = True
                    continue
                groups = self._smaller_groups(np.concatenate([group, *groups]), group)
            elif self._clip is None and len(group) > 1 and not _finite(part):
                if self._sharded:
                    raise TuningFailed(
                        "a gradient isn't finite, and nothing is clipped"
                    )
                groups.extendleft(group[k : k + 1] for k in range(len(group)))
            else:
                # Only now does the group count: its pass has succeeded as a whole.
                if self._clip is None and not _finite(part):
                    self.zeroed += 1
                else:
                    total += part
                summed.append(group)
        require_all(summed, units)
        return total

    def zero(self) -> Tensor:
        """The sum over nobody."""
        length = sum(p.numel() for p in self._parameters)
        return torch.zeros(length, dtype=torch.float64, device=device_of(self._model))

    def split(self, units: Slots) -> list[Slots]:
        """The physical batches of a logical one, in the order in which they are summed."""
        sizes = None if self._single else self._sizes
        labelled = units[self._sizes[units] > 0]
        return split_by_length(self._lengths, labelled, self.packing, sizes)

    def unlabelled(self, units: Slots) -> Slots:
        """Those of `units` without a label, which are in no physical batch."""
        return units[self._sizes[units] == 0]

    def _part(self, group: Slots, step: int) -> Tensor | None:
        """The sum over one physical batch, or None when memory ran out."""
        try:
            return self._pass(group, step)
        except FeditError:
            self._discard()
            raise
        # Whatever it was, the pass ended somewhere in the middle.
        except Exception as failure:
            self._discard()
            if not out_of_memory(failure):
                kind = type(failure).__name__
                raise TuningFailed(f"a tuning step failed ({kind})") from failure
            if self._sharded:
                # Another pass would take the others' weights for those of its layers.
                raise TuningFailed(
                    "memory ran out in a pass through a sharded base model: lower "
                    "'token_budget'"
                ) from failure
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _pass(self, group: Slots, step: int) -> Tensor:
        slots = np.concatenate([self._units[unit] for unit in group])
        batch = physical_batch(self._examples, slots, self.packing)
        self._draw_dropout(batch, step)
        loss = summed_loss(self._model, batch, selective=self._selective)
        if self._hooks is None or self._clip is None:
            again = self._checkpointed
            return summed_gradient(loss, self._parameters, checkpointed=again).double()
        rows = self._hooks.rows(loss, len(batch.tokens))
        owners = None
        if not self._single:
            members = np.repeat(np.arange(len(group)), self._sizes[group])
            owners = torch.from_numpy(members).to(loss.device)
        part, zeroed = clip_units(rows, owners, len(group), self._clip)
        self.zeroed += zeroed
        return part

    def _draw_dropout(self, batch: PhysicalBatch, step: int) -> None:
        if not self._dropouts:
            return
        seeds = []
        for slot in batch.slots.tolist():
            place = step.to_bytes(8, "big") + slot.to_bytes(8, "big")
            seed = hashlib.sha256(b"fedit/dropout/v1" + self.dropout_key + place)
            seeds.append((seed.digest(), len(self._examples[slot].tokens)))
        for dropout in self._dropouts:
            dropout.drawn(seeds)

    def _discard(self) -> None:
        if self._hooks is not None:
            self._hooks.clear()

    def _smaller_groups(self, left: Slots, failed: Slots) -> deque[Slots]:
        if len(failed) == 1 or self.packing.lengths:
            what = "unit" if len(failed) == 1 else "physical batch"
            if self._single and len(failed) == 1:
                what = "record"
            raise TuningFailed(f"a single {what} doesn't fit into memory")
        rows, longest = int(self._sizes[failed].sum()), int(self._lengths[failed].max())
        self.packing = self.packing.halved(rows * max(longest, ROW_TOKENS))
        return deque(self.split(left))


def require_all(summed: Sequence[Slots], units: Slots) -> None:
    """Raises TuningFailed unless `summed` are together the logical batch `units`."""
    if not np.array_equal(np.sort(np.concatenate(summed)), units):
        raise TuningFailed("the records summed aren't the ones that were drawn")


def _finite(part: Tensor) -> bool:
    return bool(part.isfinite().all())


def out_of_memory(failure: BaseException) -> bool:
    """Whether a pass failed for want of memory; torch says so in several ways."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and (
        "can't allocate memory" in text
        or "not enough memory" in text
        or "out of memory" in text
    )
