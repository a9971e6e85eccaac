"""Products of many rows with a small matrix, on the calling thread alone.

From some half a million multiplications on OpenBLAS, NumPy's usual BLAS, hands a product to threads of its own, which
then wait for the next one by spinning: after a product of 0.3 ms a second core was measured busy for another 50 to
80 ms. At ten scans a second that is a core of the vehicle, and in a training step it was a tenth of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_MULTIPLICATIONS = 1 << 17
"""Of a block, well below where OpenBLAS 0.3 begins to think of threads."""


def times_small(rows: npt.NDArray[Any], matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`rows @ matrix` for rows (N, K) and a small matrix (K, M), block by block: (N, M) of NumPy's common type."""
    block = max(_MULTIPLICATIONS // max(matrix.size, 1), 1)
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.result_type(rows, matrix))
    for first in range(0, len(rows), block):
        np.matmul(rows[first : first + block], matrix, out=out[first : first + block])
    return out
