"""Products with a small matrix: NumPy's values, and no threads of BLAS left spinning."""

import subprocess
import sys

import numpy as np
import pytest

from mdkt_ros.products import times_small

MEASURE = """
import time
import numpy as np
from mdkt_ros.products import times_small
rows, matrix = np.ones((400_000, 16), np.float32), np.ones((16, 16), np.float32)

def of_others():
    # Of all threads but this one.
    return time.process_time() - time.thread_time()

time.sleep(0.3)  # new threads of BLAS spin, too
before = of_others()
for _ in range(3):
    times_small(rows, matrix)
time.sleep(0.1)
print(of_others() - before)
before = of_others()
for _ in range(3):
    rows @ matrix
time.sleep(0.1)
print(of_others() - before)
"""


@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 3, 3), (50_001, 3, 3), (10_374, 16, 16), (5, 700, 400)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_values_are_those_of_numpy(shape, dtype):
    n, k, m = shape
    rng = np.random.default_rng(0)
    rows, matrix = rng.standard_normal((n, k)).astype(dtype), rng.standard_normal((k, m))
    for small in (matrix, matrix.astype(np.float32), np.asfortranarray(matrix)):
        found, wanted = times_small(rows, small), rows @ small
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_values_that_are_not_finite_stay_in_their_row():
    rows = np.ones((100_000, 3))
    rows[7] = np.nan
    found = times_small(rows, np.eye(3))
    assert np.isnan(found[7]).all()
    assert np.isfinite(np.delete(found, 7, axis=0)).all()


def test_no_other_thread_works():
    """In a process of its own, whose other threads are BLAS's alone."""
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    own, numpys = map(float, run.stdout.split())
    if numpys < 0.02:
        pytest.skip(f"NumPy's own product starts no threads here ({1000 * numpys:.0f} ms of other threads)")
    assert own < numpys / 4
