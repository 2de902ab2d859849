"""The one kernel that has to be fast, in LLVM's own vectors: a tile of a matrix product.

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
    each), ldx (from row to row of x), weights (float32), w (where they begin), apart (from each stripe of 16
    columns to the next), y (where it begins), ldy.
    """

    @intrinsic
    def tile(typing, memory, at, count, k, ldx, weights, w, apart, y, ldy):
        index = types.intp
        arguments = (memory, at, index, index, index, weights, index, index, index, index)

        def generate(context, builder, signature, args):
            def data(i):
                return make_array(signature.args[i])(context, builder, args[i]).data

            Tile(builder, rows, vectors).write(data(0), data(1), data(5), *args[2:5], *args[6:])
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return tile


class Tile:
    """Writes the tile's code: a loop over the segments x_s, in it a loop over their numbers."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int):
        self.b, self.rows, self.vectors = builder, rows, vectors

    def write(self, memory, at, weights, count, k, ldx, w, apart, y, ldy) -> None:
        b = self.b
        outputs = [
            b.gep(memory, [b.add(y, b.add(b.mul(ldy, number(r)), number(LANES * v)))])
            for r in range(self.rows)
            for v in range(self.vectors)
        ]
        start = [self.load(pointer) for pointer in outputs]
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
        row = [self.load(b.gep(w_i, [stripe])) for stripe in stripes]
        new = []
        for r in range(self.rows):
            x_ri = self.spread(b.load(b.gep(rows[r], [i])))
            for v in range(self.vectors):
                new.append(b.fadd(acc[r * self.vectors + v], b.fmul(x_ri, row[v])))
        i_next, w_next = b.add(i, number(1)), b.gep(w_i, [number(LANES)])
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

    def load(self, pointer):
        load = self.b.load(self.b.bitcast(pointer, VECTOR.as_pointer()))
        load.align = 4
        return load

    def spread(self, x):
        """A vector with x everywhere."""
        nothing = ir.Constant(VECTOR, ir.Undefined)
        one = self.b.insert_element(nothing, x, ir.Constant(INT, 0))
        return self.b.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(INT, LANES), [0] * LANES))

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
