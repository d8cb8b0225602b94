"""Flower's SecAgg+ client mask path, as it ships, in a virtual environment of its own.

`FlowerMasking` starts a child in that environment and times one pass at a time, so that a
benchmark can take turns with it. The child calls flwr's own functions in the order of its
client mod's masking stage: multiply, quantise, own mask, one mask per peer, modulo.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

VERSION = "1.42.0"
# Those of its requirements that its masking functions import, in its own ranges; the whole
# of flwr takes web servers and databases besides.
NEEDED = (
    "numpy>=1.26,<3",
    "cryptography>=50,<51",
    "grpcio>=1.70,<2",
    "protobuf>=5.28,<7",
    "pycryptodome>=3.18,<4",
    "iterators>=0.0.2,<0.0.3",
    "typer>=0.13,<0.21",
    "rich>=14,<15",
    "httpx>=0.28.1,<1",
)
ENVIRONMENT = Path(__file__).resolve().parents[1] / ".venv-flower"

_CHILD = """
import sys, time
import numpy as np
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine, parameters_addition, parameters_mod, parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

length, peers = int(sys.argv[1]), int(sys.argv[2])
clipping, target, modulus = 8.0, 1 << 22, 1 << 32  # the defaults of SecAggPlusWorkflow
rng = np.random.default_rng(1)
update = [rng.normal(0, 0.01, length).astype(np.float32)]
seeds = [rng.bytes(32) for _ in range(peers + 1)]
print("ready", flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    vector = quantize(parameters_multiply(update, 1.0), clipping, target)
    vector = factor_combine(target, vector)
    shapes = [a.shape for a in vector]
    vector = parameters_addition(vector, pseudo_rand_gen(seeds[0], modulus, shapes))
    for i, seed in enumerate(seeds[1:]):
        combine = parameters_subtraction if i % 2 else parameters_addition
        vector = combine(vector, pseudo_rand_gen(seed, modulus, shapes))
    vector = parameters_mod(vector, modulus)
    print(time.perf_counter() - begin, sum(a.nbytes for a in vector), flush=True)
"""


def interpreter() -> Path:
    """The environment's Python; makes the environment at first use (minutes)."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".installed").exists():
        print(f"installing flwr {VERSION} into {ENVIRONMENT.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--no-warn-conflicts"]
        subprocess.run([*pip, *NEEDED], check=True)
        subprocess.run([*pip, "--no-deps", f"flwr=={VERSION}"], check=True)
        (ENVIRONMENT / ".installed").touch()
    return python


class FlowerMasking:
    """A child that masks `length` coordinates for `peers` peers on demand."""

    def __init__(self, length: int, peers: int) -> None:
        self._child = subprocess.Popen(
            [str(interpreter()), "-c", _CHILD, str(length), str(peers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdin, self._child.stdout
        if self._out.readline().strip() != "ready":
            raise RuntimeError(f"flwr's functions didn't load in {ENVIRONMENT}")

    def __enter__(self) -> FlowerMasking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in.close()
        self._child.wait(timeout=30)

    def seconds_and_bytes(self) -> tuple[float, int]:
        """The time of one pass, and the bytes of what it would send."""
        self._in.write("go\n")
        self._in.flush()
        seconds, size = self._out.readline().split()
        return float(seconds), int(size)
