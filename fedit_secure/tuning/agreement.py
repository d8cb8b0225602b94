"""What all processes of a job have to agree on before it is ready to be charged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.local_round import ReadyRound
from fedit_secure.tuning.preflight import probe
from fedit_secure.tuning.ranks import Kind, Ranks

_APART = 1e-5
"""How far apart two processes' gradients of one record may be in float32, relative to
their norm. It's what `privacy.sensitivity` covers of the rounding of each."""


def settle(
    ranks: Ranks,
    ready: ReadyRound,
    examples: Sequence[Example],
    units: Sequence[Slots] | None,
    max_tokens: int,
) -> ReadyRound:
    """Called by all processes at once: what they all take, in the light of what each has.

    Where a record is summed depends on the other records. So it must be the same record
    in each process, and have the same gradient there: to rounding in float32, and to the
    bit where shapes are fixed because rounding moves too much (`batches.Packing`).

    Returns:
        `ready`, with the smallest of all budgets.

    Raises:
        ConfigError: in process 0; names the process that has other records, or computes
            otherwise.
        TuningFailed: a process ended or failed.
    """
    mine: dict[str, Any] = {
        "records": records_digest(examples, units),
        "fixed": bool(ready.packing.lengths),
        "selective": ready.selective,
        "token_budget": ready.packing.token_budget,
    }
    if ranks.number:
        ranks.say(0, Kind.READY, **mine)
        settled = _with(ready, ranks.hear(0, Kind.SETTLED))
        ranks.send(0, Kind.PROBE, _probe(settled, max_tokens))
        return settled
    found = [mine]
    for number in ranks.others:
        found.append(ranks.hear(number, Kind.READY))
        if found[-1]["records"] != mine["records"]:
            raise ConfigError(
                f"{ranks.name(number)} doesn't have the same records as process 0: all "
                "need the same 'data.path' and the same base model"
            )
    common = {
        "selective": all(each["selective"] for each in found),
        "token_budget": min(each["token_budget"] for each in found),
    }
    ranks.say(ranks.others, Kind.SETTLED, **common)
    settled = _with(ready, common)
    probe = _probe(settled, max_tokens)
    for number in ranks.others:
        theirs = ranks.array(number, Kind.PROBE, probe)
        alike = found[number]["fixed"] == mine["fixed"]
        if not alike or not _same(probe, theirs, exactly=mine["fixed"]):
            raise ConfigError(
                f"{ranks.name(number)} doesn't compute the same gradients as process 0: "
                "all need the same base model, the same kind of device and the same torch"
            )
    return settled


def records_digest(examples: Sequence[Example], units: Sequence[Slots] | None) -> str:
    """SHA-256, in hexadecimal, of all tokens, first labels and units, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_bytes([len(example.tokens), example.first_label]))
        digest.update(_bytes(example.tokens))
    for unit in [] if units is None else units:
        digest.update(_bytes([len(unit)]))
        digest.update(_bytes(unit))
    return digest.hexdigest()


def _bytes(numbers: npt.ArrayLike) -> bytes:
    return np.asarray(numbers, "<i8").tobytes()


def _with(ready: ReadyRound, common: dict[str, Any]) -> ReadyRound:
    packing = replace(ready.packing, token_budget=common["token_budget"])
    return replace(ready, selective=common["selective"], packing=packing)


def _probe(ready: ReadyRound, max_tokens: int) -> Tensor:
    return probe(ready.model, ready.initial, ready.packing, max_tokens)


def _same(mine: Tensor, theirs: Tensor, *, exactly: bool) -> bool:
    if exactly:
        return torch.equal(mine, theirs)
    # "<=" is false for a NaN.
    return bool((mine - theirs).norm() <= _APART * mine.norm())
