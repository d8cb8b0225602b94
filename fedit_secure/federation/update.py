"""The server update rule, run by the aggregator and by every silo to the same bits.

The federation's state is int64 on a grid of step 2^-f, so that its digest is equal on
every machine: the adapter, and behind it what the server rule remembers. The mean update
is X*k with k = ((S*2^f)*w_max)/(M*sum w), evaluated in that order in float64: IEEE 754
fixes the result of every one of those operations, one ufunc a step, and nothing is summed
in floating point. What a rule makes of it is in `server_rules`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.errors import ConfigError, MalformedMessage, ProtocolError
from fedit_secure.federation.aggregation import length_of
from fedit_secure.federation.server_rules import MOMENTS, FedAvg, ServerRule
from fedit_secure.secagg.keystream import Scratch, in_pieces
from fedit_secure.secagg.params import SecAggParams
from fedit_secure.secagg.transcript import digest, join, u64

FRACTION_BITS = 24
Layout = tuple[tuple[str, tuple[int, ...]], ...]

_MAGIC = b"fedit/state/v1\n"
_HEADER_LIMIT = 16 << 20
# Integers below this convert to float64 exactly, and the sum of two of them can't wrap.
_LARGEST = 1 << 53
MOST_DIMENSIONS = 8  # of one tensor


@dataclass(frozen=True, slots=True, eq=False)
class GridState:
    """Named tensors, flattened in order into one int64 vector on a grid of
    2^-fraction_bits.

    `values` has shape (m,), m the sum of the shapes' sizes; it is made read-only.
    Raises ValueError where names, shapes and values don't fit together or a value is
    2^53 or more.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    values: NDArray[np.int64]
    fraction_bits: int = FRACTION_BITS
    _digest: list[bytes] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(
            self.names
        ):
            raise ValueError("a state needs one shape for each of its distinct names")
        # 1.0 and True equal 1, but have other bytes in the header.
        if any(type(name) is not str for name in self.names):
            raise ValueError("a state's names are text")
        if any(len(shape) > MOST_DIMENSIONS for shape in self.shapes):
            raise ValueError(f"a state's shapes have {MOST_DIMENSIONS} sides at most")
        sides = (side for shape in self.shapes for side in shape)
        if not all(type(side) is int and 0 <= side < _LARGEST for side in sides):
            raise ValueError("a state's shapes are integers from 0 on, below 2^53")
        if type(self.fraction_bits) is not int or not 0 <= self.fraction_bits <= 52:
            raise ValueError("a state's fraction bits are an integer in [0, 52]")
        for name in self.names:
            name.encode()  # a lone surrogate has no bytes for the digest
        if self.values.dtype != np.int64 or self.values.shape != (self.length,):
            raise ValueError(
                f"a state of {self.length} coordinates got {self.values.dtype} values "
                f"of shape {self.values.shape}"
            )
        if _leaves_grid(self.values):
            raise ValueError("a state's value is 2^53 grid steps or more")
        frozen = self.values.view()
        frozen.setflags(write=False)
        object.__setattr__(self, "values", frozen)

    @property
    def length(self) -> int:
        """The number of coordinates m."""
        return layout_length(self.layout)

    @property
    def layout(self) -> Layout:
        """The ordered (name, shape) pairs."""
        return tuple(zip(self.names, self.shapes, strict=True))

    @property
    def adapter_layout(self) -> Layout:
        """The (name, shape) pairs of the adapter, without a server rule's moments."""
        return tuple(pair for pair in self.layout if pair[0] not in MOMENTS)

    def digest(self) -> bytes:
        """32 bytes over the ordered names, the shapes and the little-endian
        integers. They are hashed once: `values` never change.
        """
        if not self._digest:
            made = digest(
                "fedit/state/v1",
                u64(self.fraction_bits),
                join(*(name.encode() for name in self.names)),
                join(*(join(*(u64(side) for side in shape)) for shape in self.shapes)),
                _little_endian(self.values),
            )
            self._digest.append(made)
        return self._digest[0]

    def parts(self) -> tuple[bytes, memoryview]:
        """The one serialisation of this state in two parts, of which the second, the
        values, is its own memory: magic, header length, JSON header; values.
        """
        header = _header(self)
        head = _MAGIC + u64(len(header)) + header
        return head, _little_endian(self.values).cast("B")

    def to_bytes(self) -> bytes:
        """The one serialisation of this state."""
        return b"".join(self.parts())

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> GridState:
        """Reads `to_bytes`, whose memory the values go on to use; raises MalformedMessage
        on any byte that it wouldn't write.
        """
        view = memoryview(data)
        start = len(_MAGIC) + 8
        if len(view) < start or bytes(view[: len(_MAGIC)]) != _MAGIC:
            raise MalformedMessage("this is not a federation state of format v1")
        size = int.from_bytes(view[len(_MAGIC) : start], "little")
        if size > min(_HEADER_LIMIT, len(view) - start):
            raise MalformedMessage("the state's header is longer than the state")
        header, body = bytes(view[start : start + size]), view[start + size :]
        if len(body) % 8:
            raise MalformedMessage("the state's values aren't whole integers")
        try:
            fields: Any = json.loads(header)
            layout = [(name, tuple(shape)) for name, shape in fields["layout"]]
            state = cls(
                names=tuple(name for name, _ in layout),
                shapes=tuple(shape for _, shape in layout),
                values=np.frombuffer(body, "<i8").astype(np.int64, copy=False),
                fraction_bits=fields["fraction_bits"],
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MalformedMessage(f"the state can't be read: {error}") from error
        if _header(state) != header:
            raise MalformedMessage("the state's header isn't in its canonical form")
        return state


def layout_length(layout: Layout) -> int:
    """The number of coordinates of a state of this layout."""
    return sum(math.prod(shape) for _, shape in layout)


def from_float32(
    layout: Sequence[tuple[str, Sequence[int]]],
    values: NDArray[np.float32],
    fraction_bits: int = FRACTION_BITS,
) -> GridState:
    """The state nearest to a float32 vector of shape (m,). Raises ValueError:
    non-finite.
    """
    scaled = np.multiply(values, float(1 << fraction_bits), dtype=np.float64)
    if _leaves_grid(scaled):
        raise ValueError("a value is not finite, or too large for the grid")
    return GridState(
        names=tuple(name for name, _ in layout),
        shapes=tuple(tuple(int(side) for side in shape) for _, shape in layout),
        values=np.rint(scaled).astype(np.int64),
        fraction_bits=fraction_bits,
    )


def to_float32(state: GridState) -> NDArray[np.float32]:
    """The state's adapter as float32, shape (m,): exact in float64, then rounded once."""
    adapter = state.values[: layout_length(state.adapter_layout)]
    exact = np.multiply(adapter, 1.0 / (1 << state.fraction_bits), dtype=np.float64)
    return exact.astype(np.float32)


def with_moments(state: GridState, rule: ServerRule) -> GridState:
    """An adapter's state as the rule begins with it: its moments come after the adapter.

    Moments of an earlier run are left behind. Shape (m,) becomes (m * (1 + moments),).
    """
    length = layout_length(state.adapter_layout)
    begun = [np.full(length, value) for value in rule.first(state.fraction_bits)]
    names, shapes = zip(*state.adapter_layout, strict=True)
    return GridState(
        names=(*names, *rule.moments),
        shapes=(*shapes, *((length,) for _ in rule.moments)),
        values=np.concatenate([state.values[:length], *begun], dtype=np.int64),
        fraction_bits=state.fraction_bits,
    )


def apply_update(
    state: GridState,
    total: NDArray[np.int32],
    params: SecAggParams,
    contributors: Sequence[int],
    rule: ServerRule = FedAvg(),  # noqa: B008 (frozen)
    released: Sequence[slice] | None = None,
) -> GridState:
    """The state after the verified sum X over `contributors`.

    Args:
        state: the one before.
        total: X, int32 (params.length,): what was released, in order; what follows it up
            to the release's length is ignored.
        params: of the release.
        contributors: roster indices, each once.
        rule: the charter's.
        released: where in the adapter's m coordinates X belongs; None: all of them.
            Others, and their moments, stay as they are.

    Raises:
        ProtocolError: the sum or the rule doesn't fit the state, or leaves the grid.
        ConfigError: this process flushes subnormal numbers to zero.
    """
    adapter = layout_length(state.adapter_layout)
    parts = [slice(0, adapter)] if released is None else list(released)
    length = length_of(parts)
    if total.dtype != np.int32 or total.shape != (params.length,):
        raise ProtocolError(
            f"a sum of {total.shape} {total.dtype} isn't of this release"
        )
    if length > params.length or (released is None and length != params.length):
        raise ProtocolError(
            f"a sum of {params.length} coordinates doesn't fit {length} of the state"
        )
    expected = tuple((name, (adapter,)) for name in rule.moments)
    if state.layout != (*state.adapter_layout, *expected):
        raise ProtocolError(f"the state isn't one of the rule {rule.name}")
    if not contributors or len(set(contributors)) != len(contributors):
        raise ProtocolError("a sum needs distinct contributors")
    weight = sum(params.weights[silo] for silo in contributors)
    # The order of these four operations is part of the rule: every party rounds alike.
    scale = (params.bound * float(1 << state.fraction_bits)) * float(
        max(params.weights)
    )
    factor = scale / float(params.magnitude * weight)
    # A row of the adapter, and one of each moment.
    rows = state.values.reshape(1 + len(expected), adapter)
    whole = parts == [slice(0, adapter)]
    before = rows if whole else np.concatenate([rows[:, p] for p in parts], axis=1)
    values = np.empty_like(before)

    def work(here: slice, _: object, rooms: Scratch) -> None:
        check_float_mode()  # of this thread
        delta, steps = (room[: here.stop - here.start] for room in rooms)
        np.multiply(total[here], factor, out=delta, dtype=np.float64)
        moved, moments = rule.step(delta, list(before[1:, here]), state.fraction_bits)
        # Whole numbers of less than 2^53 steps each: exact, and their sum can't wrap.
        if any(_leaves_grid(each) for each in (moved, *moments)):
            raise ProtocolError("the mean update leaves the state's grid")
        steps.view(np.int64)[:] = moved
        np.add(before[0, here], steps.view(np.int64), out=values[0, here])
        for row, moment in zip(values[1:], moments, strict=True):
            row[here] = moment
        if _leaves_grid(values[0, here]):
            raise ProtocolError("the updated state leaves its grid")

    in_pieces(length, work)
    if not whole:
        values = _put_back(rows, values, parts)
    return GridState(state.names, state.shapes, values.reshape(-1), state.fraction_bits)


def _put_back(
    rows: NDArray[np.int64], values: NDArray[np.int64], parts: Sequence[slice]
) -> NDArray[np.int64]:
    after, start = rows.copy(), 0
    for part in parts:
        stop = start + part.stop - part.start
        after[:, part] = values[:, start:stop]
        start = stop
    return after


def check_float_mode() -> None:
    """Refuses a thread that flushes subnormals to zero or doesn't round to nearest
    even.

    Some libraries set those processor flags for speed; a digest computed under them
    could differ from every other party's. Raises ConfigError.
    """
    for kind in (np.float32, np.float64):
        smallest = np.array([np.finfo(kind).smallest_subnormal])
        normal = np.array([np.finfo(kind).smallest_normal])
        if not (smallest * kind(1)).any() or not (normal * kind(0.5)).any():
            raise ConfigError(
                "this process flushes subnormal numbers to zero, so its state could "
                "differ from the other parties' (-ffast-math or set_flush_denormal)"
            )
    halves = np.rint(np.array([0.5, 1.5, 2.5, -0.5, -1.5]))
    epsilon = np.array([2.0**-53])
    if halves.tolist() != [0, 2, 2, 0, -2] or (np.float64(1) + epsilon)[0] != 1:
        raise ConfigError("this process doesn't round to nearest, ties to even")


def _leaves_grid(values: NDArray[np.int64] | NDArray[np.float64]) -> bool:
    if not values.size:
        return False
    # Written so that a NaN, which compares false with everything, leaves the grid too.
    return not (values.max() < _LARGEST and values.min() > -_LARGEST)


def _little_endian(values: NDArray[np.int64]) -> memoryview:
    return np.ascontiguousarray(values, dtype="<i8").data


def _header(state: GridState) -> bytes:
    fields = {
        "fraction_bits": state.fraction_bits,
        "layout": [[name, list(shape)] for name, shape in state.layout],
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
