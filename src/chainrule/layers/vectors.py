"""The loops that have to be fast, in LLVM's own vectors: sums, products, and a search.

They work on runs of numbers inside longer arrays (an array and where the run begins), whole vectors at a time:
what lies behind a run, up to the next multiple of LANES, is read, and where a run is written, written. The order of
every sum is fixed, products and sums are rounded one by one, so the bits are the same on every machine.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 8
INDEX, INT = ir.IntType(64), ir.IntType(32)
PLACE = types.uint64


class Loop:
    """A loop over whole vectors: `at` is where it stands, `carried` what it takes from one turn to the next."""

    def __init__(self, builder: ir.IRBuilder, element: ir.Type, count: ir.Value, start: list[ir.Value]):
        self.b, self.element, self.count = builder, element, count
        self.vector = ir.VectorType(element, LANES)
        self.entry, self.start = builder.block, start
        self.body, self.done = (builder.append_basic_block(name) for name in ("vectors", "done"))
        builder.cbranch(builder.icmp_unsigned(">", count, INDEX(0)), self.body, self.done)
        builder.position_at_end(self.body)
        self.at = builder.phi(INDEX)
        self.carried = [builder.phi(value.type) for value in start]

    def close(self, carried: list[ir.Value]) -> list[ir.Value]:
        """End the body; gives the carried values as they are after the loop."""
        b, last = self.b, self.b.block
        following = b.add(self.at, INDEX(LANES))
        for phi, first, later in zip(
            [self.at, *self.carried], [INDEX(0), *self.start], [following, *carried], strict=True
        ):
            phi.add_incoming(first, self.entry)
            phi.add_incoming(later, last)
        b.cbranch(b.icmp_unsigned("<", following, self.count), self.body, self.done)
        b.position_at_end(self.done)
        results = [b.phi(value.type) for value in carried]
        for phi, first, later in zip(results, self.start, carried, strict=True):
            phi.add_incoming(first, self.entry)
            phi.add_incoming(later, last)
        return results

    def place(self, array: ir.Value) -> ir.Value:
        """The vector of `array` at which the loop stands."""
        return self.b.bitcast(self.b.gep(array, [self.at]), self.vector.as_pointer())

    def load(self, array: ir.Value) -> ir.Value:
        load = self.b.load(self.place(array))
        load.align = size_of(self.element)
        return load

    def store(self, value: ir.Value, array: ir.Value) -> None:
        self.b.store(value, self.place(array)).align = size_of(self.element)


def size_of(element: ir.Type) -> int:
    return 4 if isinstance(element, ir.FloatType) else 8


def spread(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """A vector with x everywhere."""
    nothing = ir.Constant(ir.VectorType(x.type, LANES), ir.Undefined)
    one = b.insert_element(nothing, x, INT(0))
    return b.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(INT, LANES), [0] * LANES))


def runs(context, b: ir.IRBuilder, signature, args, which: tuple[int, ...]) -> list[ir.Value]:
    """Pointers to the runs whose arrays stand at `which` among the arguments, each before its place."""
    data = {i: make_array(signature.args[i])(context, b, args[i]).data for i in which}
    return [b.gep(data[i], [args[i + 1]]) for i in which]


@intrinsic
def axpy(typing, y, at_y, x, at_x, count, factor):
    """y[at_y : at_y + count] += factor · x[at_x : at_x + count]."""

    def generate(context, b, signature, args):
        y_run, x_run = runs(context, b, signature, args, (0, 2))
        a = spread(b, args[5])
        loop = Loop(b, args[5].type, args[4], [])
        loop.store(b.fadd(loop.load(y_run), b.fmul(a, loop.load(x_run))), y_run)
        loop.close([])
        return context.get_dummy_value()

    return types.void(y, PLACE, x, PLACE, PLACE, y.dtype), generate


@intrinsic
def xpay(typing, y, at_y, x, at_x, count, factor):
    """y[at_y : at_y + count] = x[at_x : at_x + count] + factor · y[at_y : at_y + count]."""

    def generate(context, b, signature, args):
        y_run, x_run = runs(context, b, signature, args, (0, 2))
        a = spread(b, args[5])
        loop = Loop(b, args[5].type, args[4], [])
        loop.store(b.fadd(loop.load(x_run), b.fmul(a, loop.load(y_run))), y_run)
        loop.close([])
        return context.get_dummy_value()

    return types.void(y, PLACE, x, PLACE, PLACE, y.dtype), generate


@intrinsic
def copy(typing, y, at_y, x, at_x, count):
    """y[at_y : at_y + count] = x[at_x : at_x + count]."""

    def generate(context, b, signature, args):
        y_run, x_run = runs(context, b, signature, args, (0, 2))
        loop = Loop(b, context.get_value_type(signature.args[0].dtype), args[4], [])
        loop.store(loop.load(x_run), y_run)
        loop.close([])
        return context.get_dummy_value()

    return types.void(y, PLACE, x, PLACE, PLACE), generate


@intrinsic
def times(typing, y, at_y, x, at_x, count):
    """y[at_y + i] *= x[at_x + i]"""

    def generate(context, b, signature, args):
        y_run, x_run = runs(context, b, signature, args, (0, 2))
        loop = Loop(b, context.get_value_type(signature.args[0].dtype), args[4], [])
        loop.store(b.fmul(loop.load(y_run), loop.load(x_run)), y_run)
        loop.close([])
        return context.get_dummy_value()

    return types.void(y, PLACE, x, PLACE, PLACE), generate


@intrinsic
def product(typing, y, at_y, x, at_x, matrix, at_matrix, count, stride):
    """y = x M: y[at_y + j] = Σ_i x[at_x + i] M[i, j] for a square M with `stride` from row to row.

    Two vectors of columns are summed side by side, the even rows and the odd ones, so that additions need not
    wait for each other. `count` is rounded up to 2 rows and 16 columns; x has to be 0 there, M finite.
    """

    def generate(context, b, signature, args):
        y_run, x_run, m_run = runs(context, b, signature, args, (0, 2, 4))
        count, stride = args[6], args[7]
        element = context.get_value_type(signature.args[0].dtype)
        vector, size = ir.VectorType(element, LANES), size_of(element)
        zero, pair = ir.Constant(vector, [0.0] * LANES), (0, 1)

        def at(pointer, offset, store=None):
            place = b.bitcast(b.gep(pointer, [offset]), vector.as_pointer())
            access = b.load(place) if store is None else b.store(store, place)
            access.align = size
            return access

        names = ("columns", "rows", "next", "done")
        columns, rows, following, done = (b.append_basic_block(name) for name in names)
        entry = b.block
        b.cbranch(b.icmp_unsigned(">", count, INDEX(0)), columns, done)
        b.position_at_end(columns)
        column = b.phi(INDEX)
        b.branch(rows)
        b.position_at_end(rows)
        row, sums = b.phi(INDEX), [b.phi(vector) for _ in range(4)]
        new = []
        for parity in pair:
            i = b.add(row, INDEX(parity))
            x_i = spread(b, b.load(b.gep(x_run, [i])))
            start = b.add(b.mul(i, stride), column)
            for v in pair:
                term = b.fmul(x_i, at(m_run, b.add(start, INDEX(v * LANES))))
                new.append(b.fadd(sums[2 * parity + v], term))
        next_row = b.add(row, INDEX(2))
        b.cbranch(b.icmp_unsigned("<", next_row, count), rows, following)
        for phi, first, later in zip([row, *sums], [INDEX(0), *[zero] * 4], [next_row, *new], strict=True):
            phi.add_incoming(first, columns)
            phi.add_incoming(later, rows)
        b.position_at_end(following)
        for v in pair:
            at(y_run, b.add(column, INDEX(v * LANES)), b.fadd(new[v], new[2 + v]))
        next_column = b.add(column, INDEX(2 * LANES))
        column.add_incoming(INDEX(0), entry)
        column.add_incoming(next_column, following)
        b.cbranch(b.icmp_unsigned("<", next_column, count), columns, done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(y, PLACE, x, PLACE, matrix, PLACE, PLACE, PLACE), generate


@intrinsic
def dot(typing, x, at_x, y, at_y, count):
    """Σ x[at_x + i] y[at_y + i]; the numbers behind both runs have to be finite, and 0 in one of them."""

    def generate(context, b, signature, args):
        x_run, y_run = runs(context, b, signature, args, (0, 2))
        element = context.get_value_type(signature.return_type)
        zero = ir.Constant(ir.VectorType(element, LANES), [0.0] * LANES)
        loop = Loop(b, element, args[4], [zero])
        (total,) = loop.close([b.fadd(loop.carried[0], b.fmul(loop.load(x_run), loop.load(y_run)))])
        parts = [b.extract_element(total, INT(i)) for i in range(LANES)]
        while len(parts) > 1:
            parts = [b.fadd(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
        return parts[0]

    return x.dtype(x, PLACE, y, PLACE, PLACE), generate


def larger(b: ir.IRBuilder, x: ir.Value, at_x: ir.Value, y: ir.Value, at_y: ir.Value) -> tuple:
    """The larger of x and y and its place; of equal ones the first."""
    earlier = b.and_(b.fcmp_ordered("==", y, x), b.icmp_signed("<", at_y, at_x))
    better = b.or_(b.fcmp_ordered(">", y, x), earlier)
    return b.select(better, y, x), b.select(better, at_y, at_x)


@intrinsic
def most_violated(typing, c, at_c, z, at_z, g, at_g, count, penalty, both):
    """The coordinate of a Lasso that a step of coordinate descent changes most.

    With c = D(x − zD), the scales gⱼ = ‖dⱼ‖², and S the soft threshold at λ, that step changes zⱼ by
    (S(cⱼ + gⱼzⱼ) − gⱼzⱼ)/gⱼ. This gives the first j with the largest |S(cⱼ + gⱼzⱼ) − gⱼzⱼ|, which where zⱼ = 0 is the
    violation of the optimality condition |cⱼ| ≤ λ. `both` is 1, or 0 where z ≥ 0 and S(u) = max(u − λ, 0).
    """

    def generate(context, b, signature, args):
        c_run, z_run, g_run = runs(context, b, signature, args, (0, 2, 4))
        element = args[7].type
        vector, whole = ir.VectorType(element, LANES), ir.VectorType(INT, LANES)
        zero, none = (ir.Constant(vector, [value] * LANES) for value in (0.0, -1.0))
        high, low, sides = spread(b, args[7]), spread(b, b.fneg(args[7])), spread(b, args[8])
        first, step = ir.Constant(whole, list(range(LANES))), ir.Constant(whole, [LANES] * LANES)
        loop = Loop(b, element, args[6], [first, none, first])
        number, most, where = loop.carried
        now = b.fmul(loop.load(g_run), loop.load(z_run))
        u = b.fadd(loop.load(c_run), now)
        above, below = b.fsub(u, high), b.fsub(u, low)
        above = b.select(b.fcmp_ordered(">", above, zero), above, zero)
        below = b.select(b.fcmp_ordered("<", below, zero), below, zero)
        change = b.fsub(b.fadd(above, b.fmul(below, sides)), now)
        size = b.select(b.fcmp_ordered("<", change, zero), b.fneg(change), change)
        more = b.fcmp_ordered(">", size, most)
        _, most, where = loop.close(
            [b.add(number, step), b.select(more, size, most), b.select(more, number, where)]
        )
        lanes = [(b.extract_element(most, INT(i)), b.extract_element(where, INT(i))) for i in range(LANES)]
        while len(lanes) > 1:
            lanes = [larger(b, *lanes[i], *lanes[i + 1]) for i in range(0, len(lanes), 2)]
        return b.zext(lanes[0][1], INDEX)

    return PLACE(c, PLACE, z, PLACE, g, PLACE, PLACE, c.dtype, c.dtype), generate
