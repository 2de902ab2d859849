"""The strict executor's kernels: programs run in IEEE single precision, with the same bits on every machine.

Only add, subtract, multiply, divide, square root, comparisons and changes of bits are used: all of them are
correctly rounded by the standard. Exponentials are our own polynomial. Every sum has a stated order. What
these functions compute is "strict1"; change any of it and archives need another name.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chainrule.coding import get, information, largest, put, tabulate, weigh
from chainrule.engine import layout as at
from chainrule.engine.layout import CODES
from chainrule.engine.program import FIXED, LOCAL, STRIDED
from chainrule.engine.simd import tile_1x1, tile_1x2, tile_1x4, tile_4x1
from chainrule.jit import bits_of_single, compiled, inlined, single_of_bits

F = np.float32
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)
LOG2_E, ROUND, ROUND_BITS = F(1.44269504), F(12582912.0), np.int32(0x4B400000)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # their sum is ln 2; n · LN2_HIGH is exact
# e^r on |r| <= ½ ln 2, a minimax polynomial of degree 7 (Cephes, expf): 1 + r + r² (P5 + r (P4 + ...))
P0, P1, P2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
P3, P4, P5 = F(4.1665795894e-2), F(1.6666665459e-1), F(5.0000001201e-1)
LOWEST, HIGHEST = F(-87.0), F(88.0)  # e^x is a normal number in between
FLAT = F(20.0)  # beyond it tanh and σ are constant in what follows
GELU, CUBE, TINY = F(1.5957691216), F(0.044715), F(1e-5)

FILL, COPY, DENSE, EMBED, CLASS = (CODES[k] for k in ("fill", "copy", "dense", "embed", "class"))
LEVELS, POSITION, FEATURES, SELECT = (CODES[k] for k in ("levels", "position", "features", "select"))
ADD, MULTIPLY, RELU, ELU, TANH = (CODES[k] for k in ("add", "multiply", "relu", "elu", "tanh"))
SIGMOID, EXP, GELU_, GATE = (CODES[k] for k in ("sigmoid", "exp", "gelu", "gate"))
CELL, HIDDEN, NORM, ATTEND = (CODES[k] for k in ("cell", "hidden", "norm", "attend"))
ONCE, FRAME, ROW, PIXEL, CHANNEL = range(5)  # the clocks; then one more a channel, and "done"
FRAMES, ROWS, COLUMNS, CHANNELS, SYMBOLS, LANES, SIZE = range(7)  # Tables.dims


# -------------------------------------------------------------------------------------------------- functions


@inlined
def exp(x):
    """e^x to 1e-7, x clamped to -87..88 (NaN: -87)."""
    x = x if x > LOWEST else LOWEST
    x = x if x < HIGHEST else HIGHEST
    shifted = x * LOG2_E + ROUND  # rounds to an integer, which stands in the last bits
    n = shifted - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
    y = (p * r) * r + r + ONE
    return y * single_of_bits((bits_of_single(shifted) - ROUND_BITS + np.int32(127)) << np.int32(23))


@inlined
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@inlined
def tanh(x):
    """2 σ(2x) - 1."""
    return TWO / (ONE + exp(-(x + x))) - ONE


@inlined
def gated(f, g):
    """tanh(f) σ(g) with one division: (1 - a) / ((1 + a) (1 + b)), a = e^-2f, b = e^-g."""
    f = f if f > -FLAT else -FLAT
    g = g if g > -(FLAT + FLAT) else -(FLAT + FLAT)
    a, b = exp(-(f + f)), exp(-g)
    return (ONE - a) / ((ONE + a) * (ONE + b))


@inlined
def pointwise(kind, x, y, n):
    """y[i] = f(x[i]) for i < n; one loop a function, so that each is compiled to vectors."""
    if kind == RELU:
        for i in range(n):
            y[i] = x[i] if x[i] > ZERO else ZERO
    elif kind == ELU:
        for i in range(n):
            y[i] = x[i] if x[i] > ZERO else exp(x[i]) - ONE
    elif kind == TANH:
        for i in range(n):
            y[i] = tanh(x[i])
    elif kind == SIGMOID:
        for i in range(n):
            y[i] = sigmoid(x[i])
    elif kind == EXP:
        for i in range(n):
            y[i] = exp(x[i])
    else:
        for i in range(n):
            y[i] = x[i] * sigmoid(GELU * (x[i] + CUBE * ((x[i] * x[i]) * x[i])))


@inlined
def pairwise(kind, x, y, z, n):
    """z[i] = f(x, y)[i] for i < n."""
    if kind == ADD:
        for i in range(n):
            z[i] = x[i] + y[i]
    elif kind == MULTIPLY:
        for i in range(n):
            z[i] = x[i] * y[i]
    elif kind == CELL:
        for i in range(n):
            z[i] = sigmoid(x[n + i]) * y[i] + gated(x[2 * n + i], x[i])
    else:
        for i in range(n):
            z[i] = gated(y[i], x[3 * n + i])


@inlined
def gate(x, y, n):
    for i in range(n):
        y[i] = gated(x[i], x[n + i])


@inlined
def normalise(x, y, n, weight, bias):
    """Layer normalisation; both sums run in sequence."""
    mean = ZERO
    for i in range(n):
        mean += x[i]
    mean /= F(n)
    variance = ZERO
    for i in range(n):
        variance += (x[i] - mean) * (x[i] - mean)
    scale = ONE / np.sqrt(variance / F(n) + TINY)
    for i in range(n):
        y[i] = ((x[i] - mean) * scale) * weight[i] + bias[i]


@inlined
def dot(x, y, n):
    """Σ xᵢ yᵢ in 16 sums side by side (i mod 16), which are then joined in halves: 8, 4, 2, 1."""
    sums = np.zeros(16, np.float32)
    for start in range(0, n, 16):
        for i in range(start, min(n, start + 16)):
            sums[i - start] += x[i] * y[i]
    half = 8
    while half:
        for i in range(half):
            sums[i] += sums[i + half]
        half //= 2
    return sums[0]


@inlined
def attended(pattern, length, summary, now, then):
    """Whether the pixel `now` looks at the pixel `then`."""
    if pattern == LOCAL:
        return now - then < length
    if pattern == STRIDED:
        return (now - then) % length == 0
    if pattern == FIXED:
        return now // length == then // length or then % length >= length - summary
    return True


@inlined
def attend(memory, q, keys, values, step, y, n, op, now, scores):
    """One lane: q (n,), keys and values a `step` apart -> y (n,), head by head; sums in the order of time."""
    heads, pattern, length, summary = op[at.A], op[at.B], op[at.C], op[at.D]
    width = n // heads
    scale = ONE / np.sqrt(F(width))
    for head in range(heads):
        first = head * width
        top = F(-np.inf)
        for then in range(now + 1):
            if attended(pattern, length, summary, now, then):
                place = keys + then * step + first
                query = memory[q + first : q + first + width]
                scores[then] = dot(query, memory[place : place + width], width) * scale
                top = scores[then] if scores[then] > top else top
        total = ZERO
        out = memory[y + first : y + first + width]
        out[:] = ZERO
        for then in range(now + 1):
            if attended(pattern, length, summary, now, then):
                share = exp(scores[then] - top)
                total += share
                place = values + then * step + first
                value = memory[place : place + width]
                for i in range(width):
                    out[i] += share * value[i]
        for i in range(width):
            out[i] /= total


@inlined
def dense(memory, places, count, k, ldx, rows, weights, w, n, y, ldy, moved):
    """y (rows, n) += Σ_s x_s W_s, x_s (rows, k) at memory[places[s]]; n a multiple of 16."""
    row = 0
    while row + 4 <= rows:
        for s in range(count):
            moved[s] = places[s] + row * ldx
        for column in range(0, n, 16):
            tile_4x1(memory, moved, count, k, ldx, weights, w + column, n, y + row * ldy + column, ldy)
        row += 4
    while row < rows:
        for s in range(count):
            moved[s] = places[s] + row * ldx
        column = 0
        while column + 64 <= n:
            tile_1x4(memory, moved, count, k, ldx, weights, w + column, n, y + row * ldy + column, ldy)
            column += 64
        if column + 32 <= n:
            tile_1x2(memory, moved, count, k, ldx, weights, w + column, n, y + row * ldy + column, ldy)
            column += 32
        if column < n:
            tile_1x1(memory, moved, count, k, ldx, weights, w + column, n, y + row * ldy + column, ldy)
        row += 1


# ------------------------------------------------------------------------------------------------- operations


@inlined
def find(read, place, column):
    """Where a read begins at this column of the event."""
    return place + (((column >> read[at.HALF]) + read[at.COLUMN]) & read[at.MASK]) * read[at.STEP]


@inlined
def run(tables, context, memory, group, op, rows, lane, frame, row, column, spots, moved):
    """One operation at one place (or, when `rows` counts columns too, in a whole row)."""
    reads, places, dims = tables.reads, tables.places, tables.dims
    out = op[at.OUT]
    kind, n = op[at.KIND], op[at.N]
    y, ldy = find(reads[out], places[out], column) + group, reads[out, at.LINE]
    first = op[at.IN]
    if kind == DENSE:
        for s in range(op[at.COUNT]):
            spots[s] = find(reads[first + s], places[first + s], column) + group
        ldx = reads[first, at.LINE]
        dense(memory, spots, op[at.COUNT], op[at.K], ldx, rows, tables.weights, op[at.WEIGHT], n, y, ldy, moved)
        return
    x, ldx, z, ldz = 0, 0, 0, 0
    if op[at.COUNT] > 0:
        choice = first
        if kind == SELECT:
            side = np.int64(np.sqrt(np.float64(op[at.COUNT])))
            choice += (row % side) * side + column % side
        x, ldx = find(reads[choice], places[choice], column) + group, reads[choice, at.LINE]
    if op[at.COUNT] > 1:
        z, ldz = find(reads[first + 1], places[first + 1], column) + group, reads[first + 1, at.LINE]
    for i in range(rows):
        to = memory[y + i * ldy : y + i * ldy + n]
        if kind == GATE:
            gate(memory[x + i * ldx : x + i * ldx + 2 * n], to, n)
        elif kind == COPY or kind == SELECT:
            to[:] = memory[x + i * ldx : x + i * ldx + n]
        elif kind == FILL:
            to[:] = tables.weights[op[at.WEIGHT] : op[at.WEIGHT] + n]
        elif kind >= RELU and kind <= GELU_:
            pointwise(kind, memory[x + i * ldx : x + i * ldx + n], to, n)
        elif kind == ADD or kind == MULTIPLY or kind == CELL or kind == HIDDEN:
            wide = 4 * n if kind >= CELL else n
            a, b = x + i * ldx, z + i * ldz
            pairwise(kind, memory[a : a + wide], memory[b : b + n], to, n)
        elif kind == NORM:
            weight, bias = op[at.WEIGHT], op[at.BIAS]
            source = memory[x + i * ldx : x + i * ldx + n]
            normalise(source, to, n, tables.weights[weight : weight + n], tables.weights[bias : bias + n])
        elif kind == EMBED:
            embed(tables, op, frame, row, column, context.symbols[lane + i], to, n)
        elif kind == LEVELS:
            pixel = ((frame * dims[ROWS] + row) * dims[COLUMNS] + column) * dims[CHANNELS]
            for c in range(n):
                level = F(context.symbols[lane + i, pixel + c])
                to[c] = level * tables.weights[op[at.WEIGHT]] + tables.weights[op[at.WEIGHT] + 1]
        elif kind == POSITION:
            to[0], to[1] = along(row, dims[ROWS]), along(column, dims[COLUMNS])
        elif kind == CLASS:
            w = op[at.WEIGHT] + context.classes[lane + i] * ldy
            to[:] = tables.weights[w : w + n]
        elif kind == FEATURES:
            to[:] = context.features[lane + i, (frame * dims[ROWS] + row) * dims[COLUMNS] + column]
        elif kind == ATTEND:
            step = reads[first + 1, at.STEP]
            base = places[first + 1], places[first + 2]
            start = (frame * dims[ROWS] + row) * dims[COLUMNS]  # `places` are those of this row
            keys = base[0] + group + i * ldz - start * step
            values = base[1] + group + i * reads[first + 2, at.LINE] - start * step
            room = op[at.E] + group + i * (dims[FRAMES] * dims[ROWS] * dims[COLUMNS])
            scores = memory[room : room + start + column + 1]
            attend(memory, x + i * ldx, keys, values, step, y + i * ldy, n, op, start + column, scores)


@inlined
def along(place, count):
    """From -1 at the first place to 1 at the last."""
    return TWO * F(place) / F(max(count - 1, 1)) - ONE


@inlined
def embed(tables, op, frame, row, column, symbols, to, n):
    """to += the row of the table that belongs to the symbol at an earlier place."""
    dims = tables.dims
    f, r, c = frame + op[at.A], row + op[at.B], column + op[at.C]
    if f >= 0 and r >= 0 and c >= 0 and c < dims[COLUMNS]:
        entry = np.int64(symbols[((f * dims[ROWS] + r) * dims[COLUMNS] + c) * dims[CHANNELS] + op[at.D]])
    else:
        entry = op[at.E]
    if entry >= 0:
        w = op[at.WEIGHT] + entry * (-(-n // 16) * 16)
        row_of = tables.weights[w : w + n]
        for i in range(n):
            to[i] += row_of[i]


@inlined
def run_section(tables, context, memory, group, section, rows, lane, frame, row, begin, end, spots, moved):
    """All operations of a clock in a row, from column `begin` to `end`: at once where they can."""
    for i in range(tables.starts[section], tables.starts[section + 1]):
        op = tables.ops[i]
        every = op[at.EVERY]
        if row % every:
            continue
        count, stop = rows, end
        if op[at.WHOLE] and end - begin == tables.dims[COLUMNS] and rows == tables.dims[LANES]:
            count, stop = rows * tables.dims[COLUMNS], begin + 1
        for column in range(begin, stop):
            if column % every == 0:
                run(tables, context, memory, group, op, count, lane, frame, row, column, spots, moved)


@inlined
def find_rows(tables, frame, row):
    """Where this row of every read begins."""
    for i in range(len(tables.reads)):
        read = tables.reads[i]
        f = (frame + read[at.FRAME]) % read[at.FRAMES]
        r = ((row >> read[at.HALF]) + read[at.ROW]) % read[at.ROWS]
        tables.places[i] = read[at.BASE] + f * read[at.FRAME_STEP] + r * read[at.ROW_STEP]


@inlined
def run_clocks(tables, context, memory, group, rows, lane, t, after, spots, moved):
    """All that is computed before symbol t of `rows` lanes, or `after` it; gives where the logits are."""
    dims = tables.dims
    pixel, channel = t // dims[CHANNELS], t % dims[CHANNELS]
    column, line = pixel % dims[COLUMNS], pixel // dims[COLUMNS]
    row, frame = line % dims[ROWS], line // dims[ROWS]
    begins_row = channel == 0 and column == 0
    begins_frame = begins_row and row == 0
    if begins_frame and frame > 0 and not after:
        for i in range(len(tables.wipe)):
            memory[tables.wipe[i, 0] + group : tables.wipe[i, 0] + tables.wipe[i, 1] + group] = ZERO
    for section in range(len(tables.starts) - 1):
        first, last, begin, end = row, row + 1, column, column + 1
        if section == ONCE:
            due = t == 0
        elif section == FRAME:
            due = begins_frame and tables.starts[section + 1] > tables.starts[section]
            first, last, begin, end = 0, dims[ROWS], 0, dims[COLUMNS]
        elif section == ROW:
            due = begins_row
            begin, end = 0, dims[COLUMNS]
        elif section == PIXEL:
            due = channel == 0
        elif section == CHANNEL + dims[CHANNELS]:
            due = after and channel == dims[CHANNELS] - 1
        else:
            due = section - CHANNEL == channel
        if due and after == (section == CHANNEL + dims[CHANNELS]):
            for r in range(first, last):
                if section < PIXEL:
                    find_rows(tables, frame, r)
                run_section(tables, context, memory, group, section, rows, lane, frame, r, begin, end, spots, moved)
    logits = tables.logits[channel]
    return find(tables.reads[logits], tables.places[logits], column) + group


# -------------------------------------------------------------------------------------- the walk along a chain


class Context(NamedTuple):
    """What belongs to the lanes: symbols (lanes, N) int32, classes (lanes,) int64, features (lanes, pixels, d)."""

    symbols: np.ndarray
    classes: np.ndarray
    features: np.ndarray


class Choice(NamedTuple):
    """Who chooses the next symbol, and what they need: what a way does not need is empty.

    known (N,) bool, uniforms (lanes, N), settings (temperature, top_p) to FILL; state and words of the coder,
    bits (lanes,) to ENCODE and DECODE; logits (lanes, K) to PEEK.
    """

    way: int
    known: np.ndarray
    uniforms: np.ndarray
    settings: np.ndarray
    state: np.ndarray
    words: np.ndarray
    bits: np.ndarray
    logits: np.ndarray


PEEK, TELL, FILL_IN, ENCODE, DECODE = range(5)


@inlined
def draw(logits, uniform, temperature, top_p, weights):
    """A symbol of softmax(logits / temperature), by inverting the distribution at `uniform`; -1 for NaN."""
    top, best = largest(logits)
    if top != top:
        return -1
    if temperature == 0:
        return best
    total = weigh(logits, top, min(1.0 / temperature, 1e300), weights)
    if top_p < 1:
        total = nucleus(weights, top_p * total)
    target, below, symbol = uniform * total, weights[0], 0
    while below < target and symbol < len(logits) - 1:
        symbol += 1
        below += weights[symbol]
    return symbol


@inlined
def nucleus(weights, enough):
    """Zero all but the largest weights that together reach `enough` (at least one); gives their sum."""
    order = np.argsort(-weights, kind="mergesort")
    total = 0.0
    for k in order:
        if total < enough or total == 0:
            total += weights[k]
        else:
            weights[k] = 0.0
    return total


@inlined
def choose(choice, logits, lane, t, symbols, weights, table):
    """Find the symbol of a lane at position t; False when there is none."""
    if choice.way == FILL_IN:
        if choice.known[t]:
            return True
        temperature, top_p = choice.settings[0], choice.settings[1]
        symbol = draw(logits, choice.uniforms[lane, t], temperature, top_p, weights)
        symbols[lane, t] = symbol
        return symbol >= 0
    if choice.way == PEEK:
        choice.logits[lane] = logits
        return True
    if not tabulate(logits, weights, table):
        return False
    if choice.way == DECODE:
        symbol = 0 if len(logits) == 1 else get(choice.state, choice.words, table)
        symbols[lane, t] = symbol
        return symbol >= 0
    symbol, below = symbols[lane, t], np.int64(0)
    for k in range(symbol):
        below += table[k]
    if len(logits) > 1:
        put(choice.state, choice.words, below, table[symbol])
    choice.bits[lane] += information(table[symbol])
    return True


@compiled
def walk(tables, context, memory, active, begin, end, choice):
    """Walk from step `begin` to `end` with the first active[t] lanes; False where no symbol can be chosen.

    Lanes are computed in groups of dims[LANES]; memory is that of all groups, one after another.
    """
    dims = tables.dims
    each, size, count = dims[LANES], dims[SIZE], dims[SYMBOLS]
    spots, moved = np.empty(len(tables.reads), np.int64), np.empty(len(tables.reads), np.int64)
    weights, table = np.empty(count, np.float64), np.empty(count, np.int32)
    for t in range(begin, end):
        line = tables.reads[tables.logits[t % dims[CHANNELS]], at.LINE]
        for group in range(-(-active[t] // each)):
            lane, start = group * each, group * size
            rows = each if active[t] == active[0] else min(each, active[t] - lane)
            if choice.way != TELL:
                logits = run_clocks(tables, context, memory, start, rows, lane, t, False, spots, moved)
                for i in range(min(each, active[t] - lane)):
                    where = logits + i * line
                    row = memory[where : where + count]
                    if not choose(choice, row, lane + i, t, context.symbols, weights, table):
                        return False
            if choice.way != PEEK:
                run_clocks(tables, context, memory, start, rows, lane, t, True, spots, moved)
    return True


@compiled
def multiply(left, right, out, width):
    """out += left @ right; `right` and `out` have rows padded to a multiple of 16, `left` (r, k) is flat."""
    k = len(right) // width
    rows = len(left) // k
    memory = np.concatenate((left, out))
    spots, moved = np.zeros(1, np.int64), np.zeros(1, np.int64)
    dense(memory, spots, 1, k, k, rows, right, 0, width, len(left), width, moved)
    out[:] = memory[len(left) :]
