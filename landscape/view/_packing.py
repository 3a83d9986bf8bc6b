"""How arrays travel in a page: exact, as base64 of gzip of their differenced and byte-shuffled values.

Neighbours of a landscape are alike, so their bit patterns differ by small integers; the bytes of one significance stand
together. Both steps are undone by the browser without loss, whatever the values are (NaN with its payload, infinity,
-0.0).
"""

import base64
import gzip
from typing import Any

import numpy as np

LEVEL = 6  # of gzip: higher ones take longer and save 1 %
EXACT_INTEGERS = 2**53  # the largest magnitude up to which a browser's numbers hold every integer


def pack(values: np.ndarray) -> dict[str, Any]:
    """An array as plain JSON data: `{"type": .., "shape": .., "data": ..}`.

    Args:
        values: real numbers or booleans of any shape. Small floats become float32, integers int32 or float64, all of
            which hold them exactly up to `EXACT_INTEGERS`.
    """
    portable = _portable(values)
    bits = np.ascontiguousarray(portable).reshape(-1).view(f"<u{portable.dtype.itemsize}")
    steps = np.diff(bits, prepend=bits.dtype.type(0))  # modulo 2**32 or 2**64, so nothing is lost
    shuffled = steps.view(np.uint8).reshape(-1, bits.dtype.itemsize).T
    data = gzip.compress(np.ascontiguousarray(shuffled).tobytes(), LEVEL, mtime=0)
    return {
        "type": portable.dtype.name,
        "shape": list(values.shape),
        "data": base64.b64encode(data).decode("ascii"),
    }


def _portable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that a browser has."""
    values = np.asarray(values)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind in "iu":
        return _integers(values)
    if values.dtype.kind == "f" and values.dtype.itemsize >= 8:
        return values.astype("<f8")
    return values.astype("<f4")


def _integers(values: np.ndarray) -> np.ndarray:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    small = low >= -(2**31) and high < 2**31
    return values.astype("<i4" if small else "<f8")
