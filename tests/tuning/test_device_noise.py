"""Noise that is made where the sum lies is the noise that the host would have added."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedit_secure.privacy.noise import GRID, TILE, CryptoNoise
from fedit_secure.tuning import device_noise, local_round
from fedit_secure.tuning.device_noise import add_grid_noise_on_device

KEY = bytes(range(32))
SIGMA, CLIP = 1.1, 0.37
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="This machine has no CUDA device."
        ),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 1000, TILE, 5 * TILE + 3])
def test_the_device_adds_the_noise_that_the_host_would(device: str, size: int) -> None:
    total = np.random.default_rng(1).normal(size=size)
    host = CryptoNoise(KEY).add_grid_noise(total, 3, SIGMA, CLIP)
    there = torch.from_numpy(total).to(device)
    released = add_grid_noise_on_device(CryptoNoise(KEY), there, 3, SIGMA, CLIP)
    assert released.device == there.device
    assert released.dtype == torch.float64
    assert np.array_equal(there.cpu().numpy(), total)
    apart = np.rint((released.cpu().numpy() - host) / (GRID * CLIP))
    # At most one step of the grid, where the last bit of a logarithm or a tangent decides
    # which way to round. On the CPU that was seen in none of 1.6 * 10^9 coordinates.
    assert np.abs(apart).max() <= 1
    assert np.count_nonzero(apart) <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_device_releases_lies_on_the_grid(device: str) -> None:
    total = torch.linspace(-3, 3, 5000, dtype=torch.float64, device=device)
    released = add_grid_noise_on_device(CryptoNoise(KEY), total, 0, SIGMA, CLIP)
    steps = released / (GRID * CLIP)
    assert torch.equal(steps.round() * (GRID * CLIP), released)


@pytest.mark.parametrize("device", DEVICES)
def test_every_tile_and_step_has_its_own_noise_on_the_device(device: str) -> None:
    zeros = torch.zeros(4 * TILE, dtype=torch.float64, device=device)
    drawn = [
        add_grid_noise_on_device(CryptoNoise(KEY), zeros, step, SIGMA, CLIP).cpu()
        for step in (0, 1)
    ]
    rows = torch.cat(drawn).reshape(-1, TILE).numpy()
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(TILE)


@pytest.mark.parametrize(
    ("total", "sigma", "text"),
    [
        (torch.zeros(3, dtype=torch.float64), 0.0, "sigma"),
        (torch.zeros(3), 1.0, "float64"),
        (torch.zeros(3, 1, dtype=torch.float64), 1.0, "float64"),
        (torch.full((3,), torch.nan, dtype=torch.float64), 1.0, "finite"),
        (torch.full((3,), torch.inf, dtype=torch.float64), 1.0, "finite"),
    ],
)
def test_arguments_out_of_range_are_refused(
    total: torch.Tensor, sigma: float, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        add_grid_noise_on_device(CryptoNoise(KEY), total, 0, sigma, CLIP)


def test_one_value_that_is_not_finite_in_any_tile_is_refused() -> None:
    total = torch.zeros(3 * TILE, dtype=torch.float64)
    total[TILE + 5] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        add_grid_noise_on_device(CryptoNoise(KEY), total, 0, SIGMA, CLIP)


def test_a_step_outside_the_range_is_refused() -> None:
    total = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="step"):
        add_grid_noise_on_device(CryptoNoise(KEY), total, 1 << 32, SIGMA, CLIP)


class Event:
    """CUDA's event, as far as the host's memory is concerned."""

    def __init__(self, log: list[str], tile: int) -> None:
        self._log, self._tile = log, tile

    def synchronize(self) -> None:
        self._log.append(f"waited for {self._tile}")


def test_host_memory_is_not_overwritten_before_it_was_copied() -> None:
    log: list[str] = []
    host = device_noise._HostTiles(torch.device("cpu"))

    class Witness(CryptoNoise):
        def keystream(self, step: int, tile: int, out: object = None) -> object:  # type: ignore[override]
            log.append(f"wrote {tile}")
            return super().keystream(step, tile, out)  # type: ignore[arg-type]

    noise = Witness(KEY)
    for tile in range(4):
        host.copy(noise, 0, tile)
        host._copied[tile % 2] = Event(log, tile)  # type: ignore[call-overload]
    assert log == [
        "wrote 0",
        "wrote 1",
        *("waited for 0", "wrote 2"),
        *("waited for 1", "wrote 3"),
    ]


def test_a_round_noises_on_the_device_where_the_sum_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(
        local_round, "add_grid_noise_on_device", lambda *a: asked.append(a) or a[1]
    )
    noise = CryptoNoise(KEY)
    total = torch.zeros(3, dtype=torch.float64, device="meta")
    assert local_round.add_noise(noise, total, 4, SIGMA, CLIP) is total
    assert asked == [(noise, total, 4, SIGMA, CLIP)]
    on_host = local_round.add_noise(noise, torch.zeros(3).double(), 4, SIGMA, CLIP)
    expected = noise.add_grid_noise(np.zeros(3), 4, SIGMA, CLIP)
    assert np.array_equal(on_host.numpy(), expected)
    assert len(asked) == 1
