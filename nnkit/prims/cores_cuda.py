"""Products by tiles on tensor cores: factors of float32 rounded to tf32 or bfloat16 as they leave shared memory, sums in float32.

A warp makes a part of the tile by products of 16 x 8 elements (PTX ISA: mma.sync.m16n8k8 of tf32, m16n8k16 of bfloat16). In such a product lane
4 g + t holds, of rows g and g + 8 of the left factor and column g of the right one, the elements of certain k, which depend on t; of the result rows
g and g + 8, columns 2 t and 2 t + 1. Which of a slice's numbers counts as which k is all the same as long as both factors agree: here lane 4 g + t
takes the numbers 4 t to 4 t + 3 of all DEPTH of a row. So

- of a factor that lies along k in memory a slice is [side, DEPTH], and a lane reads its four numbers at once: eight lanes, which shared memory serves
  at a time, read two rows of 16 numbers, all banks once;
- of a factor that lies along its rows a slice is [DEPTH, side], and row r of step k stands at r xor 8 (k / 4 mod 4): lanes of different t read
  different banks.

In both four neighbours in memory stay neighbours, so 16 bytes are copied at a time where addresses allow it.
"""

from __future__ import annotations

from typing import Any

from nnkit.cuda_jit import anew, bfloat16_pair, multiply_on_cores, quartet_at, registers, routine, tf32_bits
from nnkit.plan.launch import DEPTH, WARPS
from nnkit.prims.matmul_cuda import ARITHMETIC, FOUR, Product, Way

__all__ = ["WAYS"]

OPERATIONS = {"tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"}
WORDS = {"tf32": FOUR, "bfloat16": FOUR // 2}            # that a lane's four numbers take


def interleaved(side: int, along_k: bool) -> Any:
    """Where elements of a slice lie."""
    @routine
    def index(row, k):
        return row * DEPTH + k if along_k else k * side + (row ^ ((k & 12) << 1))
    return index


@routine
def put_tf32(words, at, a, b, c, d):
    """Four numbers, rounded, as words."""
    words[at], words[at + 1], words[at + 2], words[at + 3] = tf32_bits(a), tf32_bits(b), tf32_bits(c), tf32_bits(d)


@routine
def put_bfloat16(words, at, a, b, c, d):
    """The same in half as many words."""
    words[at], words[at + 1] = bfloat16_pair(a, b), bfloat16_pair(c, d)


def fragment(side: int, along_k: bool, put: Any) -> Any:
    """The routine that a lane reads its part of a row of a slice with."""
    index = interleaved(side, along_k)

    @routine
    def read(words, at, place, begin, row, k):
        """words[at], ... = the numbers k to k + 3 of the row, rounded."""
        if along_k:
            a, b, c, d = quartet_at(place, begin + index(row, k))
        else:
            at_row = begin + index(row, k)               # k is a multiple of 4: the four lie `side` apart
            a, b, c, d = place[at_row], place[at_row + side], place[at_row + 2 * side], place[at_row + 3 * side]
        put(words, at, a, b, c, d)
    return read


def on_cores(precision: str) -> Way:
    """Products whose factors are rounded to this precision."""
    multiply, put, words = multiply_on_cores(OPERATIONS[precision]), {"tf32": put_tf32, "bfloat16": put_bfloat16}[precision], WORDS[precision]

    def product(tall: int, wide: int, left_along_k: bool, right_along_k: bool) -> Product:
        """The block's warps stand in two rows, of a narrow tile in four."""
        down = 4 if wide < tall else 2
        high, broad = tall // down, wide * down // WARPS
        rows, columns = high // 8, broad // 4
        read_left, read_right = fragment(tall, left_along_k, put), fragment(wide, right_along_k, put)
        left_words, right_words = registers(2 * words, "int32"), registers(broad // 8 * words, "int32")

        @routine
        def line_and_column(t):
            """The first row of the thread's sums, and the first column."""
            warp, lane = t // 32, t % 32
            return warp % down * high + lane // 4, warp // down * broad + lane % 4 * 2

        @routine
        def row_of(line, i):
            return line + 8 * i

        @routine
        def column_of(column, j):
            return column + j // 2 * 8 + j % 2

        @routine
        def add_products(accumulators, place, now, line, column, like):
            left, right = left_words(like), right_words(like)
            line, column = anew(line), anew(column)      # or places of all rows would be kept in registers from slice to slice
            behind, k, lane_column = now + tall * DEPTH, (column & 6) << 1, (column & ~7) + (line & 7)
            for j in range(0, columns, 2):
                read_right(right, j // 2 * words, place, behind, lane_column + 4 * j, k)
            for i in range(0, rows, 2):
                read_left(left, 0, place, now, line + 8 * i, k)
                read_left(left, words, place, now, line + 8 * i + 8, k)
                for j in range(0, columns, 2):
                    for s in range(0, words, 2):
                        multiply(accumulators, i * columns + j, columns, left, s, words + s, s + 1, words + s + 1,
                                 right, j // 2 * words + s, j // 2 * words + s + 1)
        return Product(rows, columns, add_products, row_of, column_of, line_and_column)
    return Way(size=lambda side: DEPTH * side, index=interleaved, by_four=True, product=product)


# By the end of a kernel's name.
WAYS: dict[str, Way] = {"": ARITHMETIC, "_tf32": on_cores("tf32"), "_bfloat16": on_cores("bfloat16")}
