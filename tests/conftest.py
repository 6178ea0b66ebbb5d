"""Settings that must stand before nnkit or Numba is imported."""

import os

# At least two threads, so that "bitwise equal for 1 and 2 threads" says something on a machine with one core as well.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))

import pytest


@pytest.fixture
def gpu():
    """The GPU of this machine; without one, or without what drives it, the test is skipped."""
    pytest.importorskip("cuda.bindings", reason="needs nnkit[cuda]")
    from nnkit.runtime import driver

    try:
        return driver.device()
    except RuntimeError as error:
        pytest.skip(str(error))
