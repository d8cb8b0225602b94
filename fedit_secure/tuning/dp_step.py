"""The sum of one logical batch: every record's gradient, clipped, before the noise.

Opacus's hooks give the gradient of every record; sampling, loss, clip, accumulation and
noise are ours, because the guarantee rests on them. Before the noise, the sum equals
that of Opacus's PrivacyEngine on the same batch, to float32 rounding (a test).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.batches import (
    PhysicalBatch,
    Slots,
    physical_batch,
    split_by_length,
)
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.record_gradients import RecordGradients, clip_rows
from fedit_secure.tuning.record_loss import summed_loss

Float64 = npt.NDArray[np.float64]

ROUNDING_SLACK = 1e-4


def sensitivity(clip: float, expected_batch: int) -> float:
    """How far one record can move the sum: its clipped norm, and float32 rounding.

    Another record in the batch changes the padding and the grouping of the others,
    which moves each one's float32 gradient by about 3e-7 of its norm (5e-6 of the clip
    for a batch of 256, measured). The noise covers 1e-6 for each of them, and never
    less than 1e-4, on top of the clip.
    """
    return clip * (1.0 + max(ROUNDING_SLACK, 1e-6 * expected_batch))


class BatchGradient:
    """Gradients of logical batches of `examples`, split to fit into memory.

    Args:
        model: a PeftModel with its adapter in float32. Used as it is; call `close`.
        examples: slot i is record i.
        clip: C; None for a run without differential privacy, which sums the records'
            gradients as they are, without hooks.
        selective: see `record_loss.label_logits`.
        token_budget: tokens of a physical batch with padding. Halved for good whenever
            memory runs out.

    Attributes:
        zeroed: records whose gradient wasn't finite so far; must not leave the silo.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        *,
        clip: float | None,
        selective: bool,
        token_budget: int,
    ) -> None:
        self.zeroed = 0
        self.token_budget = token_budget
        self._model = model
        self._examples = examples
        self._clip = clip
        self._selective = selective
        self._parameters = [p for _, p in adapter_parameters(model)]
        self._length = sum(p.numel() for p in self._parameters)
        self._lengths = np.array([len(e.tokens) for e in examples], np.int64)
        self._labels = np.array([e.labels for e in examples], np.int64)
        self._hooks = None if clip is None else RecordGradients(model)

    def close(self) -> None:
        """Take all hooks off the model."""
        if self._hooks is not None:
            self._hooks.close()

    def sum(self, slots: Slots) -> Float64:
        """The sum of the (clipped) gradients of the records in `slots`, before noise.

        A record without labels keeps its slot and contributes exactly zero. No record
        is ever skipped: a group that doesn't fit into memory is split and redone.

        Returns:
            float64, shape (d,): ordered as the flat adapter.

        Raises:
            TuningFailed: a single record doesn't fit into memory, or a pass failed for
                another reason.
            ConfigError: the model can't give a gradient per record.
        """
        total = np.zeros(self._length, np.float64)
        labelled = slots[self._labels[slots] > 0]
        groups = deque(split_by_length(self._lengths, labelled, self.token_budget))
        summed: list[Slots] = [slots[self._labels[slots] == 0]]
        while groups:
            group = groups.popleft()
            part = self._part(group)
            if part is None:
                groups = self._smaller_groups(np.concatenate([group, *groups]), group)
            elif self._clip is None and len(group) > 1 and not np.isfinite(part).all():
                groups.extendleft(group[k : k + 1] for k in range(len(group)))
            else:
                # Only now does the group count: its pass has succeeded as a whole.
                total += self._finite(part)
                summed.append(group)
        if not np.array_equal(np.sort(np.concatenate(summed)), slots):
            raise TuningFailed("the records summed aren't the ones that were drawn")
        return total

    def _part(self, group: Slots) -> Float64 | None:
        """The sum over one physical batch, or None when memory ran out."""
        try:
            return self._pass(physical_batch(self._examples, group))
        except FeditError:
            self._discard()
            raise
        # Whatever it was, the hooks are in an unknown state.
        except Exception as failure:
            self._discard()
            if not out_of_memory(failure):
                kind = type(failure).__name__
                raise TuningFailed(f"a tuning step failed ({kind})") from failure
            return None

    def _pass(self, batch: PhysicalBatch) -> Float64:
        loss = summed_loss(self._model, batch, selective=self._selective)
        if self._hooks is None or self._clip is None:
            return self._plain_sum(loss)
        rows = self._hooks.rows(loss, len(batch.slots))
        rows, zeroed = clip_rows(rows, self._clip)
        part = torch.cat([row.sum(dim=0, dtype=torch.float64) for row in rows]).numpy()
        self.zeroed += zeroed
        return part

    def _plain_sum(self, loss: torch.Tensor) -> Float64:
        gradients = torch.autograd.grad(loss, self._parameters)
        return torch.cat([g.reshape(-1) for g in gradients]).double().numpy()

    def _finite(self, part: Float64) -> Float64:
        if np.isfinite(part).all():
            return part
        self.zeroed += 1
        return np.zeros_like(part)

    def _discard(self) -> None:
        if self._hooks is not None:
            self._hooks.rebuild()

    def _smaller_groups(self, left: Slots, failed: Slots) -> deque[Slots]:
        if len(failed) == 1:
            raise TuningFailed("a single record doesn't fit into memory")
        tokens = len(failed) * int(self._lengths[failed].max())
        self.token_budget = max(1, min(self.token_budget, tokens) // 2)
        return deque(split_by_length(self._lengths, left, self.token_budget))


def out_of_memory(failure: Exception) -> bool:
    """Whether a pass failed for want of memory; torch says so in several ways."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and (
        "can't allocate memory" in text
        or "not enough memory" in text
        or "out of memory" in text
    )
