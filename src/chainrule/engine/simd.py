"""The kernels that have to be fast, in LLVM's own vectors: a tile of a matrix product, and the products of attention.

The order of every sum is that of the text: y starts as it is, then x₀ w₀, x₁ w₁, ... are added one after
another, each product rounded and then each sum. Vectors run across outputs and rows, never along a sum, so
the bits do not depend on the tile, the number of rows, or what vectors a processor has.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 16
SINGLE, INDEX, INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
VECTOR = ir.VectorType(SINGLE, LANES)


def tile_of(rows: int, vectors: int) -> Callable:
    """A compiled function y[r, :] += Σ_s Σ_i x_s[r, i] w[s · k + i, :] for a tile of `rows` × 16 `vectors`.

    Its arguments: memory (float32), at (int64: where each x_s begins), count (of the x_s), k (numbers of
    each), ldx (from row to row of x), weights (float32), w (where they begin), down (from row to row of w), apart
    (from 16 columns of w to the next 16), y (where it begins), ldy.
    """

    @intrinsic
    def tile(typing, memory, at, count, k, ldx, weights, w, down, apart, y, ldy):
        index = types.intp
        arguments = (memory, at, index, index, index, weights, index, index, index, index, index)

        def generate(context, builder, signature, args):
            def data(i):
                return make_array(signature.args[i])(context, builder, args[i]).data

            Tile(builder, rows, vectors).write(data(0), data(1), data(5), *args[2:5], *args[6:])
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return tile


@intrinsic
def dot_16(typing, memory, x, y, n):
    """Σ xᵢ yᵢ of n numbers from places x and y on, in 16 sums side by side (i mod 16), joined in halves: 8, 4, 2, 1."""

    def generate(context, builder, signature, args):
        memory, x, y, n = args
        data = make_array(signature.args[0])(context, builder, memory).data
        return dot_of(builder, data, x, data, y, n)

    return types.float32(memory, types.intp, types.intp, types.intp), generate


@intrinsic
def dot_16_with(typing, memory, x, weights, y, n):
    """The same, the yᵢ from another array."""

    def generate(context, builder, signature, args):
        memory, x, weights, y, n = args
        left, right = (
            make_array(signature.args[i])(context, builder, array).data
            for i, array in ((0, memory), (2, weights))
        )
        return dot_of(builder, left, x, right, y, n)

    return types.float32(memory, types.intp, weights, types.intp, types.intp), generate


def dot_of(b: ir.IRBuilder, memory, x, other, y, n):
    """A loop over 16 products at a time; of the last ones those beyond n count as 0, whatever lies there."""
    zeros = ir.Constant(VECTOR, [0.0] * LANES)
    entry = b.block
    body, done = b.append_basic_block("body"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed(">", n, number(0)), body, done)

    b.position_at_end(body)
    i, sums = b.phi(INDEX), b.phi(VECTOR)
    left, right = (
        load_vector(b, b.gep(array, [b.add(place, i)])) for array, place in ((memory, x), (other, y))
    )
    rest = b.sub(n, i)
    rest = b.trunc(b.select(b.icmp_signed("<", rest, number(LANES)), rest, number(LANES)), INT)
    each = ir.Constant(ir.VectorType(INT, LANES), list(range(LANES)))
    counts = b.icmp_signed("<", each, spread_over(b, rest, INT))
    new = b.fadd(sums, b.select(counts, b.fmul(left, right), zeros))
    following = b.add(i, number(LANES))
    for phi, first, later in ((i, number(0), following), (sums, zeros, new)):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, body)
    b.cbranch(b.icmp_signed("<", following, n), body, done)

    b.position_at_end(done)
    total = b.phi(VECTOR)
    total.add_incoming(zeros, entry)
    total.add_incoming(new, body)
    half = LANES // 2
    while half:
        low, high = (
            b.shuffle_vector(
                total, total, ir.Constant(ir.VectorType(INT, half), list(range(start, start + half)))
            )
            for start in (0, half)
        )
        total, half = b.fadd(low, high), half // 2
    return b.extract_element(total, ir.Constant(INT, 0))


def load_vector(b: ir.IRBuilder, pointer):
    """16 numbers from here on, wherever that is."""
    load = b.load(b.bitcast(pointer, VECTOR.as_pointer()))
    load.align = 4
    return load


def spread_over(b: ir.IRBuilder, x, kind):
    """A vector with x everywhere."""
    nothing = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
    one = b.insert_element(nothing, x, ir.Constant(INT, 0))
    return b.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(INT, LANES), [0] * LANES))


class Tile:
    """Writes the tile's code: a loop over the segments x_s, in it a loop over their numbers."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int):
        self.b, self.rows, self.vectors = builder, rows, vectors

    def write(self, memory, at, weights, count, k, ldx, w, down, apart, y, ldy) -> None:
        b = self.b
        outputs = [
            b.gep(memory, [b.add(y, b.add(b.mul(ldy, number(r)), number(LANES * v)))])
            for r in range(self.rows)
            for v in range(self.vectors)
        ]
        start = [load_vector(b, pointer) for pointer in outputs]
        names = ("segment", "number", "next", "done")
        segment, body, following, done = (b.append_basic_block(name) for name in names)
        entry, first = b.block, b.gep(weights, [w])
        stripes = [b.mul(apart, number(v)) for v in range(self.vectors)]
        b.cbranch(b.icmp_signed(">", b.mul(count, k), number(0)), segment, done)

        b.position_at_end(segment)
        s, w_s, *sums = self.phis(number(0), first, start, entry)
        x = b.load(b.gep(at, [s]))
        rows = [b.gep(memory, [b.add(x, b.mul(ldx, number(r)))]) for r in range(self.rows)]
        b.branch(body)

        b.position_at_end(body)
        i, w_i, *acc = self.phis(number(0), w_s, sums, segment)
        row = [load_vector(b, b.gep(w_i, [stripe])) for stripe in stripes]
        new = []
        for r in range(self.rows):
            x_ri = spread_over(b, b.load(b.gep(rows[r], [i])), SINGLE)
            for v in range(self.vectors):
                new.append(b.fadd(acc[r * self.vectors + v], b.fmul(x_ri, row[v])))
        i_next, w_next = b.add(i, number(1)), b.gep(w_i, [down])
        self.close([i, w_i, *acc], [i_next, w_next, *new], body)
        b.cbranch(b.icmp_signed("<", i_next, k), body, following)

        b.position_at_end(following)
        s_next = b.add(s, number(1))
        self.close([s, w_s, *sums], [s_next, w_next, *new], following)
        b.cbranch(b.icmp_signed("<", s_next, count), segment, done)

        b.position_at_end(done)
        results = [b.phi(VECTOR) for _ in outputs]
        self.close(results, start, entry)
        self.close(results, new, following)
        for pointer, result in zip(outputs, results, strict=True):
            b.store(result, b.bitcast(pointer, VECTOR.as_pointer())).align = 4

    def phis(self, index, pointer, sums, block):
        """The variables of a loop with what they are at first."""
        values = [index, pointer, *sums]
        phis = [self.b.phi(value.type) for value in values]
        self.close(phis, values, block)
        return phis

    def close(self, phis, values, block) -> None:
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)


def number(n: int) -> ir.Constant:
    return ir.Constant(INDEX, n)


tile_4x1, tile_1x4, tile_1x2, tile_1x1 = tile_of(4, 1), tile_of(1, 4), tile_of(1, 2), tile_of(1, 1)
