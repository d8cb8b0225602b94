"""Keystream -> pairs of normals (Box and Muller 1958), without memory of its own.

Every step is one vectorised operation on rows that stay in cache. The directions come
from tan(theta/2) alone: numpy has a vectorised tangent where its sine and cosine are
scalar. Nothing is looked up in tables by a secret index.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Words = npt.NDArray[np.int64]

WORDS = 3
"""64-bit words of keystream that a pair takes: 128 bits of radius, 64 of angle."""

# To units of the uniform (its low and high word), and to half the angle.
SCALES = (2.0**-127, 2.0**-63, np.pi * 2.0**-64)
HALF_A_CELL = 2.0**-128


def box_muller(words: Words, deviation: float, rows: Float64) -> None:
    """Keystream -> two rows of normals.

    The radius is sqrt(-2 ln u), and u = |v + 1/2| / 2^127 for the signed integer
    v = high * 2^64 + low of 128 bits: v + 1/2 is never 0, and |v + 1/2| is as likely to be
    any half-integer (but for 2^-64 of them at u = 1). So u has its exponent from the
    leading zeros of 127 bits, and 53 bits of mantissa wherever they start. A 53-bit
    uniform has gaps near 0, that is in the tail of the normal, where a distinguisher
    looks first; ours goes on to a radius of 13.3. The angle is 2 pi * angle / 2^64.

    Args:
        words: int64, shape (3, n): low and high word of v, and angle; full keystream.
        deviation: what the normals are multiplied by.
        rows: float64, shape (3, n): overwritten. The normals are rows 1 (cosines) and 2
            (sines), and row 0 is room to work in. Row k may be the memory of word k + 1.
    """
    spare, x, y = rows
    for k in (2, 1, 0):  # from the last on, since row k may be word k + 1
        np.multiply(words[k], SCALES[k], out=rows[k])
    spare += HALF_A_CELL
    x += spare
    np.abs(x, out=x)
    np.log(x, out=x)
    x *= -2.0 * deviation * deviation
    np.sqrt(x, out=x)  # the radius r
    np.tan(y, out=y)  # t = tan(theta/2), finite: no float is pi/2
    np.square(y, out=spare)
    spare += 1.0
    np.divide(x, spare, out=spare)
    spare += spare  # 2r / (1 + t^2) = r (1 + cos theta)
    y *= spare  # r sin theta = 2rt / (1 + t^2)
    np.subtract(spare, x, out=x)
