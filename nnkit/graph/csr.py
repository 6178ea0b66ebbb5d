"""The host arrays of one sparse matrix in compressed rows, and of its transpose.

R rows, C columns, E entries. The edge checks, the kernels trust: they follow these arrays on raw memory, and SciPy lets anyone assign broken ones.
So `CsrArrays.of` looks at all of them, and copies what it keeps.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, TypeAlias

import attrs
import numpy as np

from nnkit.training.feed import KINDS

__all__ = ["LIMIT", "CsrArrays", "as_members", "as_numbers", "locked", "refuse_flags", "refuse_outside"]

Triple: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]

LIMIT = 2**31                                            # rows, columns and entries are numbered by int32
BLOCK = 1 << 20                                          # entries looked at together: checks need no second copy in memory


def locked(array: np.ndarray) -> np.ndarray:
    """The same memory, not to be written."""
    view = array.view()
    view.flags.writeable = False
    return view


@attrs.frozen(eq=False, repr=False)
class CsrArrays:
    """A sparse matrix (R, C): the entries of row r are starts[r] to starts[r + 1] - 1. Make it by `of`; the constructor trusts what it is given.

    The arrays cannot be written: kernels follow them unchecked, and what has been made of them, such as the transpose, is kept.

    Fields:
        shape: (R, C).
        starts: int64 (R + 1,), rising from 0 to E.
        columns: int32 (E,), rising within a row, each once.
        values: float64 or float32 (E,), finite.

    columns and values may be longer than starts[R]: what lies behind is room, holds 0 and is never read as an entry.
    """

    shape: tuple[int, int]
    starts: np.ndarray = attrs.field(converter=locked)
    columns: np.ndarray = attrs.field(converter=locked)
    values: np.ndarray = attrs.field(converter=locked)
    _cast: dict[Any, np.ndarray] = attrs.field(init=False, factory=dict)

    @classmethod
    def of(cls, matrix: Any, what: str, dtype: Any = None) -> CsrArrays:
        """The arrays of a SciPy sparse matrix or array of any format, copied.

        Entries that are there more than once are summed, with a UserWarning; entries of 0 are kept.

        Args:
            matrix: (R, C) of real numbers.
            what: name of the matrix in messages.
            dtype: of the values, "float32" or "float64". Default: float32 for a float32 matrix, else float64.

        Raises:
            TypeError: no SciPy sparse matrix; entries that are no real numbers.
            ValueError: other than two axes; broken arrays: wrong lengths, indices out of range; NaN or infinite values; 2**31 rows, columns or
                entries, or more.
        """
        import scipy.sparse  # costs tens of ms, which `import nnkit` need not pay

        if not scipy.sparse.issparse(matrix):
            raise TypeError(f"{what} must be a SciPy sparse matrix, received {matrix!r}")
        if len(matrix.shape) != 2:
            raise ValueError(f"{what} must have 2 axes, received shape {matrix.shape}")
        _refuse_kind(matrix.dtype, what)
        target = np.dtype(dtype if dtype is not None else "float32" if matrix.dtype == np.float32 else "float64")
        shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        if max(shape) >= LIMIT:
            raise ValueError(f"{what} must have fewer than 2**31 rows and columns, received shape {shape}")
        csr, repeated = _compressed(matrix, shape, what)
        starts, columns, values = _checked(csr, *shape, what)
        starts, columns = starts.astype(np.int64), columns.astype(np.int32)
        values = _as_finite(values, target, starts, columns, what)
        if not _rising(starts, columns):
            merged = scipy.sparse.csr_matrix((values, columns, starts.astype(np.int32)), shape)
            merged.sum_duplicates()
            repeated += len(values) - int(merged.indptr[-1])
            starts, columns = merged.indptr.astype(np.int64), merged.indices[:merged.indptr[-1]].astype(np.int32)
            values = _as_finite(merged.data[:merged.indptr[-1]], target, starts, columns, what)
        if repeated:
            warnings.warn(f"{what} holds {repeated} repeated {'entry, which was' if repeated == 1 else 'entries, which were'} added to the first "
                          "of the same place", UserWarning, stacklevel=3)
        return cls(shape, starts, columns, values)

    @classmethod
    def of_parts(cls, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, shape: tuple[int, int], what: str) -> CsrArrays:
        """The same from the arrays of a CSR matrix, as a file holds them. Raises as `of`, and ValueError where SciPy takes no such arrays."""
        import scipy.sparse

        for name, array in (("indptr", indptr), ("indices", indices)):
            _refuse_array(array, f"the {name} of {what}")
        _refuse_kind(values.dtype, what)
        try:
            matrix = scipy.sparse.csr_matrix((values, indices, indptr), shape)
        except ValueError as error:
            raise ValueError(f"{what} must be a CSR matrix: {error}") from None
        return cls.of(matrix, what)

    def __repr__(self) -> str:
        return f"<CsrArrays of shape {self.shape}, {self.entries} entries of {self.values.dtype}>"

    @property
    def entries(self) -> int:
        """E, without the room behind."""
        return int(self.starts[-1])

    @property
    def rows(self) -> np.ndarray:
        """The row of each entry, int32 (E,), without the room behind."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.starts))

    @property
    def nbytes(self) -> int:
        """Bytes of starts, columns and values."""
        return int(self.starts.nbytes + self.columns.nbytes + self.values.nbytes)

    @property
    def matrix(self) -> Any:
        """A copy as a scipy.sparse.csr_matrix, without the room behind."""
        import scipy.sparse

        E = self.entries
        return scipy.sparse.csr_matrix((self.values[:E].copy(), self.columns[:E].copy(), self.starts.astype(np.int32)), self.shape)

    @functools.cached_property
    def transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The transpose: starts int64 (C + 1,), columns int32 (E,) and places int32 (E,), the position here of each of its entries.

        A matrix with entries in the same places as its transpose has its own starts and columns there. Behind the entries places[e] = e.
        """
        import scipy.sparse

        E = self.entries
        numbered = scipy.sparse.csr_matrix((np.arange(E, dtype=np.int32), self.columns[:E], self.starts.astype(np.int32)), self.shape).tocsc()
        starts, columns, places = numbered.indptr.astype(np.int64), _roomy(numbered.indices, len(self.columns)), numbered.data
        if len(self.columns) > E:
            places = np.concatenate([places, np.arange(E, len(self.columns), dtype=np.int32)])
        if np.array_equal(starts, self.starts) and np.array_equal(columns, self.columns):
            return self.starts, self.columns, locked(places)
        return locked(starts), locked(columns), locked(places)

    @functools.cached_property
    def symmetric(self) -> bool:
        """Whether the matrix equals its transpose, bit for bit."""
        starts, columns, places = self.transposed
        return starts is self.starts and columns is self.columns and all(
            np.array_equal(self.values[places[e:e + BLOCK]], self.values[e:e + BLOCK]) for e in range(0, len(places), BLOCK))

    def cast(self, dtype: Any) -> np.ndarray:
        """The values as dtype, always the same array. Raises ValueError where one is too large for dtype."""
        target = np.dtype(dtype)
        if target == self.values.dtype:
            return self.values
        if target not in self._cast:
            with np.errstate(over="ignore"):
                values = self.values.astype(target)
            if not np.isfinite(values).all():
                raise ValueError(f"the values of a sparse matrix must be finite in {target}, "
                                 f"received {self.values[np.isfinite(values).argmin()].item()!r}")
            self._cast[target] = locked(values)
        return self._cast[target]

    def transposed_values(self, dtype: Any) -> np.ndarray:
        """The values of the transpose as dtype, always the same array: that of `cast` where the matrix is symmetric."""
        values = self.cast(dtype)
        if self.symmetric:
            return values
        key = ("transposed", values.dtype)
        if key not in self._cast:
            self._cast[key] = locked(values[self.transposed[2]])
        return self._cast[key]

    def arrays(self, name: str, dtype: Any) -> dict[str, np.ndarray]:
        """The external arrays of a plan that takes this matrix, and its transpose, under that name."""
        starts, columns, places = self.transposed
        return {f"{name}/starts": self.starts, f"{name}/columns": self.columns, f"{name}/values": self.cast(dtype),
                f"{name}/transposed/starts": starts, f"{name}/transposed/columns": columns,
                f"{name}/transposed/values": self.transposed_values(dtype), f"{name}/transposed/places": places}

    def take_rows(self, rows: Any) -> CsrArrays:
        """The matrix of these rows, in their order: row numbers, repeated ones too, or a mask (R,).

        Raises:
            TypeError, ValueError: no whole numbers (rows,) from 0 to R - 1, and no mask of R booleans; 2**31 entries or more.
        """
        taken = as_numbers(rows, self.shape[0], "rows")
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.starts[taken + 1] - self.starts[taken])])
        if starts[-1] >= LIMIT:
            raise ValueError(f"rows must hold fewer than 2**31 entries together, received {starts[-1]}")
        entries = np.repeat(self.starts[taken] - starts[:-1], np.diff(starts)) + np.arange(starts[-1])
        return CsrArrays((len(taken), self.shape[1]), starts, self.columns[entries], self.values[entries])


def as_numbers(value: Any, limit: int, what: str) -> np.ndarray:
    """Numbers from 0 to limit - 1 as an int64 array (numbers,): given so, in any whole-number dtype, or as a mask of `limit` booleans.

    Raises:
        TypeError: no whole numbers or booleans.
        ValueError: other than one axis, a mask of another length, a number out of range (the first one is named, with its position).
    """
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{what} must have 1 axis, received shape {array.shape}")
    if array.dtype == bool:
        if len(array) != limit:
            raise ValueError(f"{what} must have {limit} booleans where it is a mask, received {len(array)}")
        return np.flatnonzero(array)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{what} must hold whole numbers, received dtype {array.dtype}")
    refuse_outside(array, limit, what)
    return array.astype(np.int64)


def as_members(value: Any, n: int, what: str) -> np.ndarray:
    """Numbers of some of n, as `as_numbers`. Raises ValueError for a mask of numbers, too."""
    refuse_flags(value, n, what)
    return as_numbers(value, n, what)


def refuse_flags(value: Any, n: int, what: str) -> None:
    """Raise ValueError for n zeros and ones: a mask of n booleans that is no longer one would be read as the numbers 0 and 1, over and over."""
    array = np.asarray(value)
    if array.dtype.kind in "iuf" and array.shape == (n,) and n > 2 and array.min() >= 0 and array.max() <= 1:
        raise ValueError(f"{what} must be booleans, or the numbers of those that are meant, received {n} zeros and ones: pass them as booleans, "
                         "array.astype(bool)")


def refuse_outside(array: np.ndarray, limit: int, what: str) -> None:
    """Raise ValueError where array holds a number below 0, or limit or more: names the first one, and its position."""
    if array.size and (array.min() < 0 or array.max() >= limit):
        first = int(((array < 0) | (array >= limit)).argmax())
        raise ValueError(f"{what} must hold whole numbers from 0 to {limit - 1}, received {array[first]} at position {first}")


def _refuse_kind(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "biuf":
        raise TypeError(f"{what} must hold real numbers, received {KINDS.get(dtype.kind, 'records')} (dtype {dtype})")


def _compressed(matrix: Any, shape: tuple[int, int], what: str) -> tuple[Any, int]:
    """The matrix in SciPy's CSR, and how many of its entries SciPy added to others on the way. What SciPy's loops follow is checked first."""
    import scipy.sparse

    R, C = shape
    if matrix.format == "csr":
        return matrix, 0
    if matrix.format == "csc":
        starts, rows, values = _checked(matrix, C, R, what)
        return scipy.sparse.csc_matrix((values, rows, starts), shape).tocsr(), 0
    if matrix.format == "bsr":
        height, width = matrix.blocksize if np.ndim(matrix.data) == 3 else (1, 1)
        if not (height and width) or R % height or C % width:
            raise ValueError(f"the blocks of {what} must fit its shape {shape}, received blocks of shape {(height, width)}")
        _checked(matrix, R // height, C // width, what)
    if matrix.format in ("dia", "lil"):
        (_check_diagonals if matrix.format == "dia" else _check_lists)(matrix, R, what)
    if matrix.format != "coo":
        return matrix.tocsr(), 0
    coordinates = [np.asarray(axis) for axis in (matrix.row, matrix.col)]
    values = np.asarray(matrix.data)
    _refuse_kind(values.dtype, what)
    for name, axis, limit in zip(("row", "col"), coordinates, shape, strict=True):
        _refuse_array(axis, f"the {name} of {what}")
        refuse_outside(axis, limit, f"the {name} of {what}")
        if len(axis) != len(values):
            raise ValueError(f"the {name} of {what} must have as many numbers as its data, received {len(axis)} and {len(values)}")
    _refuse_many(len(values), what)
    place = [axis.astype(np.int32) for axis in coordinates]
    # SciPy adds up what is there twice, in the dtype of the values: int8 would overflow.
    csr = scipy.sparse.coo_matrix((values if values.dtype.kind == "f" else values.astype(np.float64), place), shape).tocsr()
    return csr, len(values) - int(csr.indptr[-1])


def _check_diagonals(matrix: Any, R: int, what: str) -> None:
    """Raise ValueError where a matrix of diagonals has not an offset for each: SciPy would read what lies behind them."""
    offsets, values = np.asarray(matrix.offsets), np.asarray(matrix.data)
    _refuse_array(offsets, f"the offsets of {what}")
    if values.ndim != 2:
        raise ValueError(f"the data of {what} must have 2 axes, received shape {values.shape}")
    if len(offsets) != len(values):
        raise ValueError(f"the offsets of {what} must be as many as the rows of its data, received {len(offsets)} and {len(values)}")


def _check_lists(matrix: Any, R: int, what: str) -> None:
    """Raise ValueError where a matrix of lists has not R of columns and R of values, as long: SciPy would leave the rest to chance."""
    rows, values = matrix.rows, matrix.data
    if len(rows) != R or len(values) != R:
        raise ValueError(f"the rows and data of {what} must have {R} lists each, received {len(rows)} and {len(values)}")
    for r, (columns, own) in enumerate(zip(rows, values, strict=True)):
        if len(columns) != len(own):
            raise ValueError(f"the rows and data of {what} must have lists of one length, received {len(columns)} and {len(own)} numbers in row {r}")


def _checked(matrix: Any, R: int, C: int, what: str) -> Triple:
    """indptr, indices and data of a compressed matrix of R rows (of CSC: columns), as far as its entries reach. Raises where they are broken."""
    starts, columns, values = np.asarray(matrix.indptr), np.asarray(matrix.indices), np.asarray(matrix.data)
    for name, array in (("indptr", starts), ("indices", columns)):
        _refuse_array(array, f"the {name} of {what}")
    axes = 3 if matrix.format == "bsr" else 1
    if values.ndim != axes:
        raise ValueError(f"the data of {what} must have {axes} {'axis' if axes == 1 else 'axes'}, received shape {values.shape}")
    _refuse_kind(values.dtype, what)
    if len(starts) != R + 1:
        raise ValueError(f"the indptr of {what} must have {R + 1} numbers, received {len(starts)}")
    if starts[0] != 0:
        raise ValueError(f"the indptr of {what} must begin with 0, received {starts[0]}")
    if (starts[1:] < starts[:-1]).any():
        first = int((starts[1:] < starts[:-1]).argmax())
        raise ValueError(f"the indptr of {what} must never fall, received {starts[first]} and {starts[first + 1]} at position {first}")
    E = int(starts[-1])
    if len(columns) < E or len(values) < E:
        raise ValueError(f"the indices and data of {what} must have {E} entries, as its indptr says, received {len(columns)} and {len(values)}")
    _refuse_many(E, what)
    refuse_outside(columns[:E], C, f"the indices of {what}")
    return starts, columns[:E], values[:E]


def _refuse_array(array: np.ndarray, what: str) -> None:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{what} must be whole numbers on 1 axis, received {array.dtype} of shape {array.shape}")


def _refuse_many(entries: int, what: str) -> None:
    if entries >= LIMIT:
        raise ValueError(f"{what} must have fewer than 2**31 entries, received {entries}")


def _as_finite(values: np.ndarray, dtype: np.dtype, starts: np.ndarray, columns: np.ndarray, what: str) -> np.ndarray:
    """A copy of the values as dtype. Raises ValueError where one is not finite."""
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    for begin in range(0, len(cast), BLOCK):
        finite = np.isfinite(cast[begin:begin + BLOCK])
        if not finite.all():
            e = begin + int(finite.argmin())
            rule = f"finite in {dtype}" if np.isfinite(values[e]) else "finite"
            raise ValueError(f"{what} must be {rule}, received {values[e].item()!r} in row {np.searchsorted(starts, e, 'right') - 1}, "
                             f"column {columns[e]}")
    return cast


def _rising(starts: np.ndarray, columns: np.ndarray) -> bool:
    """Whether the columns of each row rise, none of them repeated."""
    falls = columns[1:] <= columns[:-1]
    ends = starts[1:-1] - 1                              # a row's last entry need not be below the next row's first
    falls[ends[(ends >= 0) & (ends < len(falls))]] = False
    return not falls.any()


def _roomy(array: np.ndarray, length: int) -> np.ndarray:
    """The array with zeros behind, up to that length."""
    return np.concatenate([array, np.zeros(length - len(array), array.dtype)]) if len(array) < length else array
