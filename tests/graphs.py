"""What the tests of graphs share: random matrices, what kernels rely on, the forms of an adjacency by their dense formula."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["assert_well_formed", "dense_form", "random_matrix"]


def random_matrix(R: int, C: int, density: float, seed: int, dtype: Any = np.float64) -> np.ndarray:
    """Standard normal numbers (R, C), of which that part is not 0."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(R, C)) * (rng.random((R, C)) < density)).astype(dtype)


def assert_well_formed(csr: Any) -> None:
    """What kernels rely on, entry by entry."""
    R, C = csr.shape
    assert (csr.starts.dtype, csr.columns.dtype) == (np.int64, np.int32)
    assert csr.starts.shape == (R + 1,)
    assert csr.starts[0] == 0
    assert len(csr.columns) == len(csr.values) >= csr.starts[-1]
    for r in range(R):
        columns = csr.columns[csr.starts[r]:csr.starts[r + 1]]
        assert (np.diff(columns) > 0).all()
        assert ((columns >= 0) & (columns < C)).all()
    assert not csr.columns[csr.starts[-1]:].any()
    assert not csr.values[csr.starts[-1]:].any()


def dense_form(A: np.ndarray, normalization: str | None, self_loops: bool) -> np.ndarray:
    """The normalized adjacency by Kipf and Welling's formula, in dense float64."""
    A = A + np.eye(len(A)) if self_loops else A
    D = A.sum(axis=1)
    with np.errstate(divide="ignore"):
        f = np.where(D == 0, 0.0, 1 / D if normalization == "row" else 1 / np.sqrt(D))
    return {"symmetric": np.diag(f) @ A @ np.diag(f), "row": np.diag(f) @ A, None: A}[normalization]
