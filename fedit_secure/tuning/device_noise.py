"""The noise of a sum that lies on an accelerator: keystream from the host, the rest there.

The sum never leaves the device. What crosses is 12 bytes of keystream for a coordinate,
made by AES in tiles and copied while the device transforms the tile before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedit_secure.privacy.box_muller import HALF_A_CELL, SCALES, WORDS
from fedit_secure.privacy.noise import PAIRS, TILE, CryptoNoise, grid_noise


def add_grid_noise_on_device(
    noise: CryptoNoise, total: Tensor, step: int, sigma: float, clip: float
) -> Tensor:
    """`CryptoNoise.add_grid_noise`, with its arithmetic on the sum's own device.

    The operations are the same, one for one, on the same bits. The device's logarithm
    and tangent may differ from numpy's in the last bits. Where that decides which way to
    round, a coordinate is one step of the grid apart: on torch's CPU device in none of
    1.6 * 10^9 coordinates, whose normals were within 2e-9 of a step (sigma 1.1).

    Args:
        noise: of this attempt.
        total: float64, shape (d,): the sum of rows of norm at most `clip`.
        step: as in `CryptoNoise.keystream`.
        sigma: noise multiplier, positive.
        clip: the sum's sensitivity C, positive.

    Returns:
        float64, shape (d,), multiples of the grid, on the device of `total`. Beside it
        the device holds a few tiles, each of 3 MiB, however large d is.

    Raises:
        ValueError: an argument out of range, or a sum that isn't finite.
    """
    if total.ndim != 1 or total.dtype != torch.float64:
        raise ValueError("the sum must be a float64 vector")
    grid, deviation = grid_noise(total.numel(), sigma, clip)
    per_grid = 1.0 / grid
    released = torch.empty_like(total)
    finite = torch.ones((), dtype=torch.bool, device=total.device)
    host = _HostTiles(total.device)
    for at in range(0, total.numel(), TILE):
        words = host.copy(noise, step, at // TILE)
        here = released[at : at + TILE]
        torch.mul(total[at : at + TILE], per_grid, out=here).round_()
        here += _box_muller(words, deviation).round_()[: here.numel()]
        finite &= here.isfinite().all()
        here *= grid
    if not finite:
        raise ValueError("the sum isn't finite")
    return released


class _HostTiles:
    """Two tiles of memory on the host, in turn: one is filled while one is copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        shape = (WORDS, PAIRS)
        self._tiles = [
            torch.empty(shape, dtype=torch.int64, pin_memory=self._cuda)
            for _ in range(2)
        ]
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def copy(self, noise: CryptoNoise, step: int, tile: int) -> Tensor:
        turn = tile % 2
        # The copy out of this memory runs on its own: a keystream written into it too
        # early would be another tile's, and the noise of two tiles the same.
        if (copied := self._copied[turn]) is not None:
            copied.synchronize()
        host = self._tiles[turn]
        noise.keystream(step, tile, host.numpy())
        if not self._cuda:
            return host.to(self._device)
        with torch.cuda.device(self._device):
            words = host.to(self._device, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._copied[turn] = event
        return words


def _box_muller(words: Tensor, deviation: float) -> Tensor:
    """`box_muller` of privacy/, operation by operation; float64, shape (2 * n,).

    Cosines first, then sines, as a tile has them.
    """
    spare, x, y = torch.unbind(words.double())
    spare *= SCALES[0]
    spare += HALF_A_CELL
    x *= SCALES[1]
    x += spare
    x.abs_().log_().mul_(-2.0 * deviation * deviation).sqrt_()
    y.mul_(SCALES[2]).tan_()
    torch.square(y, out=spare)
    spare += 1.0
    torch.div(x, spare, out=spare)
    spare += spare
    return torch.cat((spare - x, y * spare))
