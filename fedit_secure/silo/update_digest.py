"""An update's name in a silo's books."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.transcript import digest


def update_digest(update: NDArray[np.float32]) -> bytes:
    """The name of an update before encoding: what its life is keyed by."""
    data = np.ascontiguousarray(update, dtype="<f4").data.cast("B")
    return digest("fedit/update/v1", data)
