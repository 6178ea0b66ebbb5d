"""Settings that must stand before nnkit or Numba is imported."""

import os

# At least two threads, so that "bitwise equal for 1 and 2 threads" says something on a machine with one core as well.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))
