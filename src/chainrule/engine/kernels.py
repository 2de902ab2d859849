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
from chainrule.engine import program
from chainrule.engine.layout import CODES
from chainrule.engine.mixing import learn, predict, working_room
from chainrule.engine.program import FIXED, LOCAL, SPREAD, STRIDED
from chainrule.engine.simd import dot_16, dot_16_with, tile_1x1, tile_1x2, tile_1x4, tile_4x1
from chainrule.jit import bits_of_single, called, compiled, inlined, single_of_bits

F, U = np.float32, np.uint64
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)
LOG2_E, ROUND, ROUND_BITS = F(1.44269504), F(12582912.0), np.int32(0x4B400000)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # their sum is ln 2; n · LN2_HIGH is exact
# e^r on |r| <= ½ ln 2, a minimax polynomial of degree 7 (Cephes, expf): 1 + r + r² (P5 + r (P4 + ...))
P0, P1, P2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
P3, P4, P5 = F(4.1665795894e-2), F(1.6666665459e-1), F(5.0000001201e-1)
LOWEST, HIGHEST = F(-87.0), F(88.0)  # e^x is a normal number in between
FLAT = F(20.0)  # beyond it tanh and σ are constant in what follows
# log(1 + f) = f - f²/2 + f³ (Q0 f⁸ + ... + Q8) for √½ <= 1 + f <= √2 (Cephes, logf)
ROOT, MANTISSA, EXPONENT_0 = F(1.41421356), np.int32(0x007FFFFF), np.int32(0x3F800000)
Q0, Q1, Q2 = F(7.0376836292e-2), F(-1.1514610310e-1), F(1.1676998740e-1)
Q3, Q4, Q5 = F(-1.2420140846e-1), F(1.4249322787e-1), F(-1.6668057665e-1)
Q6, Q7, Q8 = F(2.0000714765e-1), F(-2.4999993993e-1), F(3.3333331174e-1)
WIDEST = F(7.0)  # the log scale of a logistic is taken within -7..7
FINEST = F(16.0)  # that of a logistic whose levels have no mass beyond their edges within -16..16
TOGETHER = 32  # rows that a stripe of weights is kept in the cache for
GELU, CUBE, TINY = F(1.5957691216), F(0.044715), F(1e-5)
LEAST, HEAVIEST = F(program.LEAST), F(program.HEAVIEST)

FILL, COPY, DENSE, EMBED, CLASS = (CODES[k] for k in ("fill", "copy", "dense", "embed", "class"))
LEVELS, POSITION, FEATURES, SELECT = (CODES[k] for k in ("levels", "position", "features", "select"))
ADD, MULTIPLY, RELU, ELU, TANH = (CODES[k] for k in ("add", "multiply", "relu", "elu", "tanh"))
SIGMOID, EXP, GELU_, GATE = (CODES[k] for k in ("sigmoid", "exp", "gelu", "gate"))
CELL, HIDDEN, NORM, ATTEND, POINT = (CODES[k] for k in ("cell", "hidden", "norm", "attend", "point"))
FILL_HERE, COPY_HERE, DENSE_HERE = (CODES[k] for k in ("fill here", "copy here", "dense here"))
FILL_CYCLE = CODES["fill cycle"]
LOGISTICS, LOGISTIC_OF, MIX = CODES["logistics"], CODES["logistic of"], CODES["mix"]
ATTEND_NEAR = CODES["attend near"]
LOGISTICS_WITHIN, BINS, ADAPT = CODES["logistics within"], CODES["bins"], CODES["adapt"]
LOG_SOFTMAX, REWEIGH, BLEND = CODES["log softmax"], CODES["reweigh"], CODES["blend"]
AHEAD = CODES["ahead"]
ONCE, FRAME, BACK, ROW, PIXEL, CHANNEL = range(6)  # the clocks; then one more a channel, and "done"
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
def log(x):
    """log x of a normal number to 1e-7."""
    bits = bits_of_single(x)
    m = single_of_bits((bits & MANTISSA) | EXPONENT_0)  # 1..2
    e = F((bits >> np.int32(23)) - np.int32(127))
    large = m > ROOT
    m, e = m * HALF if large else m, e + ONE if large else e
    f = m - ONE
    z = f * f
    p = (((((((Q0 * f + Q1) * f + Q2) * f + Q3) * f + Q4) * f + Q5) * f + Q6) * f + Q7) * f + Q8
    return f + ((p * f * z + e * LN2_LOW) - HALF * z) + e * LN2_HIGH


@inlined
def softplus(x):
    """log(1 + e^x)."""
    size = x if x > ZERO else -x
    return (x if x > ZERO else ZERO) + log(ONE + exp(-size))


@inlined
def log_add(x, y):
    """log(e^x + e^y)."""
    high, low = (x, y) if x > y else (y, x)
    return high + log(ONE + exp(low - high))


@inlined
def log_one_less(d):
    """log(1 - e^-d) for d > 0, by a series where the difference would cancel."""
    p = ONE - d / F(3) * (ONE - d / F(4) * (ONE - d / F(5) * (ONE - d / F(6) * (ONE - d / F(7)))))
    return log(d * (ONE - d * HALF * p) if d < HALF else ONE - exp(-d))


# Compiled code takes part of an array as a view, and counts its users: too slow for 32 numbers. So these work on
# all of the memory, from places in it; places are unsigned, or every access would look for a negative one.


@inlined
def fill(memory, weights, w, y, ldy, rows, n):
    """y[r] = weights[w:] in every row; n numbers a row."""
    for r in range(rows):
        y_r, w_r = U(y + r * ldy), U(w)
        for i in range(U(n)):
            memory[y_r + i] = weights[w_r + i]


@inlined
def duplicate(memory, x, ldx, y, ldy, rows, n):
    """y = x."""
    for r in range(rows):
        x_r, y_r = U(x + r * ldx), U(y + r * ldy)
        for i in range(U(n)):
            memory[y_r + i] = memory[x_r + i]


@inlined
def pointwise(kind, memory, x, y, n):
    """y[i] = f(x[i]) for i < n; one loop a function, so that each is compiled to vectors."""
    x, y, n = U(x), U(y), U(n)
    if kind == RELU:
        for i in range(n):
            z = memory[x + i]
            memory[y + i] = z if z > ZERO else ZERO
    elif kind == ELU:
        for i in range(n):
            z = memory[x + i]
            memory[y + i] = z if z > ZERO else exp(z) - ONE
    elif kind == TANH:
        for i in range(n):
            memory[y + i] = tanh(memory[x + i])
    elif kind == SIGMOID:
        for i in range(n):
            memory[y + i] = sigmoid(memory[x + i])
    elif kind == EXP:
        for i in range(n):
            memory[y + i] = exp(memory[x + i])
    else:
        for i in range(n):
            z = memory[x + i]
            memory[y + i] = z * sigmoid(GELU * (z + CUBE * ((z * z) * z)))


@inlined
def pairwise(kind, memory, x, y, z, n):
    """z[i] = f(x[i], y[i]) for i < n; x is four times as wide for the two halves of an LSTM."""
    x, y, z, n = U(x), U(y), U(z), U(n)
    if kind == ADD:
        for i in range(n):
            memory[z + i] = memory[x + i] + memory[y + i]
    elif kind == MULTIPLY:
        for i in range(n):
            memory[z + i] = memory[x + i] * memory[y + i]
    elif kind == CELL:
        for i in range(n):
            kept = sigmoid(memory[x + n + i]) * memory[y + i]
            memory[z + i] = kept + gated(memory[x + n + n + i], memory[x + i])
    else:
        for i in range(n):
            memory[z + i] = gated(memory[y + i], memory[x + n + n + n + i])


@inlined
def gate(memory, x, ldx, y, ldy, rows, n):
    for r in range(rows):
        f, g, y_r = U(x + r * ldx), U(x + r * ldx + n), U(y + r * ldy)
        for i in range(U(n)):
            memory[y_r + i] = gated(memory[f + i], memory[g + i])


@called
def normalise(memory, weights, x, y, n, w, b):
    """Layer normalisation; both sums run in sequence."""
    x, y, w, b = U(x), U(y), U(w), U(b)
    mean, variance = ZERO, ZERO
    for i in range(U(n)):
        mean += memory[x + i]
    mean /= F(n)
    for i in range(U(n)):
        variance += (memory[x + i] - mean) * (memory[x + i] - mean)
    scale = ONE / np.sqrt(variance / F(n) + TINY)
    for i in range(U(n)):
        memory[y + i] = ((memory[x + i] - mean) * scale) * weights[w + i] + weights[b + i]


@inlined
def logistic(memory, x, j, count, step, most):
    """Log weight, mean, 1/scale, and log(1 - e^-width) of the j-th of `count` logistics, width that of a level.

    The log scale is taken within -most..most.
    """
    scale = memory[x + count + count + j]
    scale = scale if scale > -most else -most
    scale = scale if scale < most else most
    steep = exp(-scale)
    return memory[x + j], memory[x + count + j], steep, log_one_less((step + step) * steep)


@inlined
def log_mass(k, most, mean, steep, gap, step):
    """The log of the mass of level k of 0..most under a logistic: σ(a) - σ(b), a and b at the level's two edges."""
    a = (F(k + k + 1) * step - ONE - mean) * steep
    b = (F(k + k - 1) * step - ONE - mean) * steep
    above = (
        softplus(-a) if k < most else ZERO
    )  # -log σ(a); everything above the last edge belongs to the last level
    below = softplus(b) if k > 0 else ZERO
    return (gap if k > 0 and k < most else ZERO) - above - below


@called
def logistics(memory, x, y, count, levels):
    """y[k] = log Σ_j e^(w_j) · mass of level k under logistic j; the sum in order."""
    most, step = levels - 1, ONE / F(max(levels - 1, 1))
    for k in range(levels):
        memory[y + k] = F(-np.inf)
    for j in range(count):
        w, mean, steep, gap = logistic(memory, x, j, count, step, WIDEST)
        for k in range(0, levels, max(most, 1)):  # the ends; the others are computed side by side
            memory[y + k] = log_add(memory[y + k], w + log_mass(k, most, mean, steep, gap, step))
        for k in range(1, most):
            a = (F(k + k + 1) * step - ONE - mean) * steep
            b = (F(k + k - 1) * step - ONE - mean) * steep
            memory[y + k] = log_add(memory[y + k], w + ((gap - softplus(-a)) - softplus(b)))


@called
def logistics_within(memory, x, y, count, levels):
    """The same, but no level has the mass beyond its edges."""
    step = ONE / F(max(levels - 1, 1))
    for k in range(levels):
        memory[y + k] = F(-np.inf)
    for j in range(count):
        w, mean, steep, gap = logistic(memory, x, j, count, step, FINEST)
        for k in range(levels):
            a = (F(k + k + 1) * step - ONE - mean) * steep
            b = (F(k + k - 1) * step - ONE - mean) * steep
            memory[y + k] = log_add(memory[y + k], w + ((gap - softplus(-a)) - softplus(b)))


@called
def logistic_of(memory, x, y, count, levels, k):
    """y[j] = w_j + the log of the mass of level k under logistic j."""
    step = ONE / F(max(levels - 1, 1))
    for j in range(count):
        w, mean, steep, gap = logistic(memory, x, j, count, step, WIDEST)
        memory[y + j] = w + log_mass(k, levels - 1, mean, steep, gap, step)


@called
def bins(memory, weights, x, y, n, table, stride, edges, count):
    """y = the row of the table with the number of edges that are at most x."""
    row = 0
    for k in range(count):
        row += 1 if weights[edges + k] <= memory[x] else 0
    for i in range(U(n)):
        memory[y + i] = weights[table + row * stride + i]


@called
def adapt(memory, x, d, y, taps, rate, small):
    """y = w, h, p, e, r, ln r of a filter once the number at d came, x what they were; x may be y. Sums in order."""
    energy, w, h, p = ZERO, y, y + taps, y + 2 * taps
    for i in range(2 * taps + 4):
        memory[y + i] = memory[x + i]
    for i in range(taps):
        energy += memory[h + i] * memory[h + i]
    error = memory[d] - memory[p]
    pull = (rate * error) / (small + energy)
    for i in range(U(taps)):
        memory[w + i] += pull * memory[h + i]
    for i in range(taps - 1, 0, -1):
        memory[h + i] = memory[h + i - 1]
    memory[h] = memory[d]
    expected, energy = ZERO, ZERO
    for i in range(taps):
        expected += memory[w + i] * memory[h + i]
        energy += memory[h + i] * memory[h + i]
    memory[p], memory[p + 1] = expected, error
    memory[p + 2] = ONE / np.sqrt(small + energy / F(taps))
    memory[p + 3] = log(memory[p + 2])


@inlined
def log_total(memory, x, n):
    """log Σ e^x; the sum in order."""
    top, total = memory[U(x)], ZERO
    for i in range(U(n)):
        top = memory[U(x) + i] if memory[U(x) + i] > top else top
    for i in range(U(n)):
        total += exp(memory[U(x) + i] - top)
    return top + log(total)


@called
def log_softmax(memory, x, y, n):
    """y = x - log Σ e^x, not below LEAST; NaN stays NaN."""
    total = log_total(memory, x, n)
    for i in range(U(n)):
        z = memory[U(x) + i] - total
        memory[U(y) + i] = LEAST if z < LEAST else z


@called
def blend(memory, tables, first, count, column, group, i, last, y, n):
    """y = Σ_j (1/J + the weights for all symbols + those after the last one) · ln p of part j, in order."""
    w = row_of(tables, first, column, group, i)
    for k in range(U(n)):
        memory[U(y) + k] = ZERO
    for j in range(count):
        x = U(row_of(tables, first + 1 + j, column, group, i))
        weight = ONE / F(count) + memory[U(w + j)] + memory[U(w + (1 + last) * count + j)]
        for k in range(U(n)):
            memory[U(y) + k] += weight * memory[x + k]


@called
def reweigh(memory, tables, first, count, column, group, i, symbol, last, rate, n):
    """Move the weights of a blend by rate · (ln p of the symbol - what was expected of it), for each part.

    `symbol` came, after `last`; the parts' ln p and the blend of n symbols are those before it came.
    """
    w, z = row_of(tables, first, column, group, i), U(row_of(tables, first + 1 + count, column, group, i))
    total = log_total(memory, z, n)
    for j in range(count):
        x, expected = U(row_of(tables, first + 1 + j, column, group, i)), ZERO
        for k in range(U(n)):
            expected += exp(memory[z + k] - total) * memory[x + k]
        step = rate * (memory[x + U(symbol)] - expected)
        for at_weight in (w + j, w + (1 + last) * count + j):
            moved = memory[U(at_weight)] + step
            moved = moved if moved > -HEAVIEST else -HEAVIEST
            memory[U(at_weight)] = moved if moved < HEAVIEST else HEAVIEST


@inlined
def row_of(tables, read, column, group, i):
    """Where a read begins in lane i of a group."""
    return find(tables, read, column) + group + i * tables.reads[read, at.LINE]


@inlined
def runs_of(pattern, length, summary, now):
    """How many runs of pixels at one distance the pixel `now` looks at, counted from the first of its window."""
    return now // length + 1 if pattern >= FIXED and 0 < summary < length else 1


@inlined
def run_of(pattern, length, summary, head, now, i):
    """(the first pixel, how many there are, the distance from one to the next) of the i-th of them, in order."""
    first = 0
    if pattern == STRIDED:
        return now % length, now // length + 1, length
    if pattern == LOCAL:
        first = max(0, now + 1 - length)
    elif pattern >= FIXED and summary < length:
        if i < now // length and summary > 0:
            before = head % (length // summary) if pattern == SPREAD else 0
            return (i + 1) * length - summary * (before + 1), summary, 1
        first = now - now % length
    return first, now + 1 - first, 1


@called
def attend(
    memory, q, keys, values, step, rings, y, n, now, scores, pattern, length, summary, window, heads, spots
):
    """One lane: q (n,), keys and values a `step` apart -> y (n,), head by head; sums in the order of time.

    rings: the masks of the places of keys and of values.
    """
    width = n // heads
    scale = ONE / np.sqrt(F(width))
    begin = now - now % window if window > 0 else 0
    runs = runs_of(pattern, length, summary, now - begin)
    for head in range(heads):
        first = head * width
        top, count = F(-np.inf), 0
        for i in range(runs):
            start, many, apart = run_of(pattern, length, summary, head, now - begin, i)
            for then in range(begin + start, begin + start + many * apart, apart):
                score = dot_16(memory, q + first, keys + (then & rings[0]) * step + first, width) * scale
                memory[scores + count] = score
                top = score if score > top else top
                count += 1
        total = ZERO
        for i in range(U(count)):
            memory[U(scores) + i] = exp(memory[U(scores) + i] - top)
        for i in range(U(count)):
            total += memory[U(scores) + i]
        to = U(y + first)
        for i in range(U(width)):
            memory[to + i] = ZERO
        done = 0
        for i in range(runs):
            start, left, apart = run_of(pattern, length, summary, head, now - begin, i)
            then = begin + start
            while left > 0:
                alike = left  # whose values lie at one distance
                if rings[1] != -1:
                    alike = min(left, (rings[1] - (then & rings[1])) // apart + 1)
                value = values + (then & rings[1]) * step + first
                add_rows(memory, scores + done, alike, value, step * apart, y + first, width, spots)
                then, done, left = then + alike * apart, done + alike, left - alike
        for i in range(U(width)):
            memory[to + i] /= total


@called
def attend_near(
    memory, weights, q, far, keys, values, step, rings, y, n, now, scores, table, line, length, heads, spots
):
    """As `attend` over the last `length` pixels, with far · the row of the distance in each score.

    table: where the row of distance 0 begins in the weights, the others a `line` apart.
    """
    width = n // heads
    scale = ONE / np.sqrt(F(width))
    begin = max(0, now + 1 - length)
    count = now + 1 - begin
    for first in range(0, n, width):
        top = F(-np.inf)
        for i in range(count):
            then = begin + i
            by_key = dot_16(memory, q + first, keys + (then & rings[0]) * step + first, width)
            by_distance = dot_16_with(
                memory, far + first, weights, table + (now - then) * line + first, width
            )
            score = (by_key + by_distance) * scale
            memory[scores + i] = score
            top = score if score > top else top
        total, to = ZERO, U(y + first)
        for i in range(U(count)):
            memory[U(scores) + i] = exp(memory[U(scores) + i] - top)
        for i in range(U(count)):
            total += memory[U(scores) + i]
        for i in range(U(width)):
            memory[to + i] = ZERO
        done = 0
        while done < count:
            then, alike = begin + done, count - done  # whose values lie one after another
            if rings[1] != -1:
                alike = min(alike, rings[1] + 1 - (then & rings[1]))
            value = values + (then & rings[1]) * step + first
            add_rows(memory, scores + done, alike, value, step, y + first, width, spots)
            done += alike
        for i in range(U(width)):
            memory[to + i] /= total


@inlined
def add_rows(memory, shares, count, x, ldx, y, n, spots):
    """y (n,) += Σ_j shares[j] · row j of x, `ldx` apart, in order."""
    spots[0] = shares
    column = 0
    while column + 64 <= n:
        tile_1x4(memory, spots, 1, count, 0, memory, x + column, ldx, 16, y + column, 0)
        column += 64
    if column + 32 <= n:
        tile_1x2(memory, spots, 1, count, 0, memory, x + column, ldx, 16, y + column, 0)
        column += 32
    if column + 16 <= n:
        tile_1x1(memory, spots, 1, count, 0, memory, x + column, ldx, 16, y + column, 0)
        column += 16
    for j in range(count if column < n else 0):
        for i in range(U(column), U(n)):
            memory[U(y) + i] += memory[U(shares + j)] * memory[U(x + j * ldx) + i]


@inlined
def dense(memory, places, count, k, ldx, rows, weights, w, apart, n, y, ldy, moved):
    """y (rows, n) += Σ_s x_s W_s, x_s (rows, k) at memory[places[s]]; n a multiple of 16.

    W lies in stripes of 16 columns, `apart` from each other: each is read from the first number to the last, by some
    rows after another while it is in the cache. The rows that four do not divide take four stripes at a time.
    """
    for begin in range(0, rows, TOGETHER):
        end = min(begin + TOGETHER, rows)
        fours = end - (end - begin) % 4
        for column in range(0, n if fours > begin else 0, 16):
            stripe = w + column // 16 * apart
            for row in range(begin, fours, 4):
                for s in range(count):
                    moved[s] = places[s] + row * ldx
                at_y = y + row * ldy + column
                tile_4x1(memory, moved, count, k, ldx, weights, stripe, 16, apart, at_y, ldy)
        for column in range(0, n if end > fours else 0, 64):
            stripe, left = w + column // 16 * apart, n - column
            for row in range(fours, end):
                for s in range(count):
                    moved[s] = places[s] + row * ldx
                at_y = y + row * ldy + column
                if left >= 64:
                    tile_1x4(memory, moved, count, k, ldx, weights, stripe, 16, apart, at_y, ldy)
                elif left >= 32:
                    tile_1x2(memory, moved, count, k, ldx, weights, stripe, 16, apart, at_y, ldy)
                if left == 16 or left == 48:
                    last = left // 32 * 2
                    tile_1x1(
                        memory,
                        moved,
                        count,
                        k,
                        ldx,
                        weights,
                        stripe + last * apart,
                        16,
                        apart,
                        at_y + last * 16,
                        ldy,
                    )


# ------------------------------------------------------------------------------------------------- operations


@inlined
def find(tables, read, column):
    """Where a read begins at this column of the event."""
    reads = tables.reads
    shifted = (column >> reads[read, at.HALF]) + reads[read, at.COLUMN]
    return tables.places[read] + (shifted & reads[read, at.MASK]) * reads[read, at.STEP]


@inlined
def index(tables, frame, row, column):
    """The index of a pixel in the event."""
    return (frame * tables.dims[ROWS] + row) * tables.dims[COLUMNS] + column


@inlined
def run(tables, context, memory, group, o, rows, lane, frame, row, column, scratch):
    """Operation `o` at one place (or, when `rows` counts columns too, in a whole row)."""
    ops, reads, weights = tables.ops, tables.reads, tables.weights
    kind, n, out, first, count = (
        ops[o, at.KIND],
        ops[o, at.N],
        ops[o, at.OUT],
        ops[o, at.IN],
        ops[o, at.COUNT],
    )
    y, ldy = find(tables, out, column) + group, reads[out, at.LINE]
    if kind == DENSE or kind == DENSE_HERE:
        for s in range(count):
            scratch.spots[s] = find(tables, first + s, column) + group
        ldx, w = reads[first, at.LINE], ops[o, at.WEIGHT]
        if kind == DENSE_HERE:
            w += ops[o, at.A] * index(tables, frame, row, column)
        k, apart = ops[o, at.K], ops[o, at.B]
        begin(tables, memory, group, o, column, rows, y, ldy)
        dense(memory, scratch.spots, count, k, ldx, rows, weights, w, apart, n, y, ldy, scratch.moved)
        return
    if kind == AHEAD:
        if column % ops[o, at.A] == 0:
            ahead(tables, memory, group, o, column, scratch)
        return
    x, ldx, z, ldz = 0, 0, 0, 0
    if count > 0:
        x, ldx = find(tables, first, column) + group, reads[first, at.LINE]
    if count > 1:
        z, ldz = find(tables, first + 1, column) + group, reads[first + 1, at.LINE]
    if kind == GATE:
        gate(memory, x, ldx, y, ldy, rows, n)
    elif kind == FILL:
        fill(memory, weights, ops[o, at.WEIGHT], y, ldy, rows, n)
    elif kind == COPY:
        duplicate(memory, x, ldx, y, ldy, rows, n)
    elif kind == SELECT:
        side = np.int64(np.sqrt(np.float64(count)))
        chosen = first + row % side * side + column % side
        duplicate(memory, find(tables, chosen, column) + group, reads[chosen, at.LINE], y, ldy, rows, n)
    elif kind >= RELU and kind <= GELU_:
        for i in range(rows):
            pointwise(kind, memory, x + i * ldx, y + i * ldy, n)
    elif kind == ADD or kind == MULTIPLY or kind == CELL or kind == HIDDEN:
        for i in range(rows):
            pairwise(kind, memory, x + i * ldx, z + i * ldz, y + i * ldy, n)
    elif kind == EMBED:
        embed(tables, context, memory, o, rows, lane, frame, row, column, y, ldy, n)
    elif kind == POINT:
        point(tables, context, memory, o, rows, lane, frame, row, column, x, ldx, y, ldy)
    elif kind == FILL_HERE or kind == COPY_HERE or kind == FILL_CYCLE:
        run_here(tables, memory, o, rows, index(tables, frame, row, column), x, ldx, y, ldy)
    else:
        run_rare(
            tables, context, memory, group, o, rows, lane, frame, row, column, x, ldx, z, ldz, y, ldy, scratch
        )


@inlined
def begin(tables, memory, group, o, column, rows, y, ldy):
    """What a product begins with, where it is not what is there: the bias, or a value."""
    how, where, n = tables.ops[o, at.C], tables.ops[o, at.D], tables.ops[o, at.E]
    if how == at.FROM_BIAS:
        fill(memory, tables.weights, where, y, ldy, rows, n)
    elif how == at.FROM_VALUE:
        duplicate(memory, find(tables, where, column) + group, tables.reads[where, at.LINE], y, ldy, rows, n)


@called
def ahead(tables, memory, group, o, column, scratch):
    """A product of what is known early, for some columns from this one on, in all lanes: they lie one after another."""
    ops, reads, lanes = tables.ops, tables.reads, tables.dims[LANES]
    first, count, k, n = ops[o, at.IN], ops[o, at.COUNT], ops[o, at.K], ops[o, at.N]
    y, line = find(tables, ops[o, at.OUT], column) + group, reads[ops[o, at.OUT], at.LINE]
    ldx, w, apart = reads[first, at.LINE], ops[o, at.WEIGHT], ops[o, at.B]
    columns, done = min(ops[o, at.A], tables.dims[COLUMNS] - column), 0
    for i in range(columns):
        begin(tables, memory, group, o, column + i, lanes, y + i * lanes * line, line)
    while done < columns:
        alike = columns - done  # until one of the inputs is at the end of its ring
        for s in range(count):
            scratch.spots[s] = find(tables, first + s, column + done) + group
            shifted, mask = column + done + reads[first + s, at.COLUMN], reads[first + s, at.MASK]
            if mask != -1:
                alike = min(alike, mask + 1 - (shifted & mask))
        to, rows = y + done * lanes * line, alike * lanes
        dense(
            memory, scratch.spots, count, k, ldx, rows, tables.weights, w, apart, n, to, line, scratch.moved
        )
        done += alike


@called
def run_here(tables, memory, o, rows, pixel, x, ldx, y, ldy):
    """What belongs to the pixel: a row of the weights, or a part of a value."""
    n, kind = tables.ops[o, at.N], tables.ops[o, at.KIND]
    if kind == FILL_CYCLE:
        pixel %= tables.ops[o, at.B]
    if kind != COPY_HERE:
        fill(memory, tables.weights, tables.ops[o, at.WEIGHT] + pixel * tables.ops[o, at.A], y, ldy, rows, n)
    else:
        duplicate(memory, x + pixel * n, ldx, y, ldy, rows, n)


@called
def run_rare(
    tables, context, memory, group, o, rows, lane, frame, row, column, x, ldx, z, ldz, y, ldy, scratch
):
    """The operations that a model has few of."""
    ops, weights, dims = tables.ops, tables.weights, tables.dims
    kind, n, w, b = ops[o, at.KIND], ops[o, at.N], ops[o, at.WEIGHT], ops[o, at.BIAS]
    pixel = index(tables, frame, row, column)
    for i in range(rows):
        to = y + i * ldy
        if kind == NORM:
            normalise(memory, weights, x + i * ldx, to, n, w, b)
        elif kind == LOGISTICS:
            logistics(memory, x + i * ldx, to, ops[o, at.K], n)
        elif kind == LOGISTICS_WITHIN:
            logistics_within(memory, x + i * ldx, to, ops[o, at.K], n)
        elif kind == BINS:
            bins(memory, weights, x + i * ldx, to, n, w, ops[o, at.A], b, ops[o, at.K])
        elif kind == ADAPT:
            adapt(memory, x + i * ldx, z + i * ldz, to, (n - 4) // 2, weights[w], weights[w + 1])
        elif kind == LOGISTIC_OF:
            k = np.int64(context.symbols[lane + i, pixel * dims[CHANNELS] + ops[o, at.D]])
            logistic_of(memory, x + i * ldx, to, n, dims[SYMBOLS], k)
        elif kind == MIX:
            mix(tables, context, memory, o, lane + i, pixel, to, scratch)
        elif kind == LOG_SOFTMAX:
            log_softmax(memory, x + i * ldx, to, n)
        elif kind == BLEND or kind == REWEIGH:
            run_blend(tables, context, memory, group, o, lane, i, pixel, column, to)
        elif kind == ATTEND_NEAR:
            run_near(tables, memory, group, o, i, pixel, column, to, scratch.moved)
        elif kind == LEVELS:
            for c in range(n):
                level = F(context.symbols[lane + i, pixel * dims[CHANNELS] + c])
                memory[to + c] = level * weights[w] + weights[w + 1]
        elif kind == POSITION:
            memory[to], memory[to + 1] = along(row, dims[ROWS]), along(column, dims[COLUMNS])
        elif kind == CLASS:
            fill(memory, weights, w + context.classes[lane + i] * ldy, to, ldy, 1, n)
        elif kind == FEATURES:
            for c in range(n):
                memory[to + c] = context.features[lane + i, pixel, c]
        elif kind == ATTEND:
            keys, values = ops[o, at.IN] + 1, ops[o, at.IN] + 2
            step, rings = (
                tables.reads[keys, at.STEP],
                (tables.reads[keys, at.MASK], tables.reads[values, at.MASK]),
            )
            back = pixel - column  # `places` are those of this row
            first_key = tables.places[keys] + group + i * ldz - back * step
            first_value = tables.places[values] + group + i * ldz - back * step
            how = ops[o, at.B], ops[o, at.C], ops[o, at.D], ops[o, at.K], ops[o, at.A]
            where = step, rings, to, n, pixel, ops[o, at.E] + group
            attend(memory, x + i * ldx, first_key, first_value, *where, *how, scratch.moved)


@called
def run_near(tables, memory, group, o, i, pixel, column, y, spots):
    """Attention that knows the distance, in lane i of a group at a pixel."""
    ops, reads, first = tables.ops, tables.reads, tables.ops[o, at.IN]
    step, rings = reads[first + 2, at.STEP], (reads[first + 2, at.MASK], reads[first + 3, at.MASK])
    asks = row_of(tables, first, column, group, i), row_of(tables, first + 1, column, group, i)
    lane = group + i * reads[first + 2, at.LINE] - (pixel - column) * step  # `places` are those of this row
    held = tables.places[first + 2] + lane, tables.places[first + 3] + lane
    how = pixel, ops[o, at.E] + group, ops[o, at.WEIGHT], ops[o, at.B], ops[o, at.C], ops[o, at.A]
    attend_near(memory, tables.weights, *asks, *held, step, rings, y, ops[o, at.N], *how, spots)


@called
def run_blend(tables, context, memory, group, o, lane, i, pixel, column, y):
    """A blend in lane i of a group at a pixel, or what its weights learn of the pixel before."""
    ops, first, n = tables.ops, tables.ops[o, at.IN], tables.dims[SYMBOLS]
    last = np.int64(context.symbols[lane + i, pixel - 1]) if pixel > 0 else 0
    if ops[o, at.KIND] == BLEND:
        blend(memory, tables, first, ops[o, at.COUNT] - 1, column, group, i, last, y, n)
    elif pixel > 0:
        older = np.int64(context.symbols[lane + i, pixel - 2]) if pixel > 1 else 0
        rate = tables.weights[ops[o, at.WEIGHT]]
        reweigh(memory, tables, first, ops[o, at.COUNT] - 2, column, group, i, last, older, rate, n)


@called
def mix(tables, context, memory, o, lane, pixel, y, scratch):
    """Learn the last pixel of a lane, then y = ln p of every symbol."""
    ops, channels = tables.ops, tables.dims[CHANNELS]
    plan, at_lane = tables.mixers[ops[o, at.A]], lane * len(tables.primed) + ops[o, at.B]
    first, work = pixel * channels, scratch.work
    for t in range(max(first - channels, 0), first):
        learn(context.counts, at_lane, plan, tables.curves, work, context.symbols, lane, t)
    predict(context.counts, at_lane, plan, tables.curves, work, context.symbols, lane, first, memory, y)


@inlined
def along(place, count):
    """From -1 at the first place to 1 at the last."""
    return TWO * F(place) / F(max(count - 1, 1)) - ONE


@inlined
def embed(tables, context, memory, o, rows, lane, frame, row, column, y, ldy, n):
    """y += the row of the table that belongs to the symbol at an earlier place."""
    ops, dims, weights = tables.ops, tables.dims, tables.weights
    f, r, c = frame + ops[o, at.A], row + ops[o, at.B], column + ops[o, at.C]
    inside = f >= 0 and r >= 0 and c >= 0 and c < dims[COLUMNS]
    where = ((f * dims[ROWS] + r) * dims[COLUMNS] + c) * dims[CHANNELS] + ops[o, at.D]
    width = -(-n // 16) * 16
    for lane_of in range(rows):
        entry = np.int64(context.symbols[lane + lane_of, where]) if inside else ops[o, at.E]
        if entry >= 0:
            to, w = U(y + lane_of * ldy), U(ops[o, at.WEIGHT] + entry * width)
            for i in range(U(n)):
                memory[to + i] += weights[w + i]


@inlined
def point(tables, context, memory, o, rows, lane, frame, row, column, x, ldx, y, ldy):
    """y[the symbol at an earlier place] += x, one number."""
    ops, dims = tables.ops, tables.dims
    f, r, c = frame + ops[o, at.A], row + ops[o, at.B], column + ops[o, at.C]
    if f >= 0 and r >= 0 and c >= 0 and c < dims[COLUMNS]:
        where = ((f * dims[ROWS] + r) * dims[COLUMNS] + c) * dims[CHANNELS] + ops[o, at.D]
        for i in range(rows):
            memory[y + i * ldy + context.symbols[lane + i, where]] += memory[x + i * ldx]


@inlined
def run_ops(tables, context, memory, group, one, after, rows, lane, frame, row, begin, end, scratch):
    """The operations from `one` to `after` in a row, from column `begin` to `end`: at once where they can."""
    for i in range(one, after):
        every = tables.ops[i, at.EVERY]
        if every > 1 and row % every != 0:
            continue
        count, stop = rows, end
        if tables.ops[i, at.WHOLE] and end - begin == tables.dims[COLUMNS] and rows == tables.dims[LANES]:
            count, stop = rows * tables.dims[COLUMNS], begin + 1
        for column in range(begin, stop):
            if every == 1 or column % every == 0:
                run(tables, context, memory, group, i, count, lane, frame, row, column, scratch)


@called
def find_rows(tables, frame, row):
    """Where this row of every read begins."""
    reads = tables.reads
    for i in range(len(reads)):
        f = (frame + reads[i, at.FRAME]) % reads[i, at.FRAMES]
        r = ((row >> reads[i, at.HALF]) + reads[i, at.ROW]) % reads[i, at.ROWS]
        tables.places[i] = reads[i, at.BASE] + f * reads[i, at.FRAME_STEP] + r * reads[i, at.ROW_STEP]


@inlined
def run_clocks(tables, context, memory, group, rows, lane, t, after, scratch):
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
    done = CHANNEL + dims[CHANNELS]
    for section in range(done if after else ONCE if begins_row else PIXEL, done + after):
        first, last, begin, end = row, row + 1, column, column + 1
        if section == ONCE:
            due = t == 0
        elif section == FRAME:
            due = begins_frame and tables.starts[section + 1] > tables.starts[section]
            first, last, begin, end = 0, dims[ROWS], 0, dims[COLUMNS]
        elif section == BACK:
            due = tables.starts[section + 1] > tables.starts[section]
        elif section == ROW:
            due, begin, end = True, 0, dims[COLUMNS]
        elif section == PIXEL:
            due = channel == 0
        elif section == done:
            due = channel == dims[CHANNELS] - 1
        else:
            due = section - CHANNEL == channel
        if due:
            start, stop = tables.starts[section], tables.starts[section + 1]
            apart = section == FRAME  # each operation in all rows before the next: it may read rows below
            leftwards = section == BACK  # all operations at a column before the next one to the left
            for i in range(stop - start if apart else dims[COLUMNS] if leftwards else 1):
                one, end_op = (start + i, start + i + 1) if apart else (start, stop)
                if leftwards:
                    begin, end = dims[COLUMNS] - 1 - i, dims[COLUMNS] - i
                for r in range(first, last):
                    if section < PIXEL and (i == 0 or apart):
                        find_rows(tables, frame, r)
                    run_ops(
                        *(tables, context, memory, group, one, end_op),
                        *(rows, lane, frame, r, begin, end, scratch),
                    )
    return find(tables, tables.logits[channel], column) + group


# -------------------------------------------------------------------------------------- the walk along a chain


class Context(NamedTuple):
    """What belongs to the lanes: symbols (lanes, N) int32, classes (lanes,) int64, features (lanes, pixels, d).

    counts: what mixers have learned, one lane after another, int32.
    """

    symbols: np.ndarray
    classes: np.ndarray
    features: np.ndarray
    counts: np.ndarray


class Scratch(NamedTuple):
    """Room for what is computed on the way: compiled code takes no memory of its own.

    spots, moved: where the reads of an operation begin; weights, kept, table (K,): of a distribution; work: of a mixer.
    """

    spots: np.ndarray
    moved: np.ndarray
    weights: np.ndarray
    kept: np.ndarray
    table: np.ndarray
    work: np.ndarray


def scratch_for(reads: int, symbols: int) -> Scratch:
    """Room for a program of so many reads and symbols."""
    spots, moved = np.zeros((2, max(1, reads)), np.int64)
    weights, kept = np.zeros((2, symbols))
    return Scratch(spots, moved, weights, kept, np.zeros(symbols, np.int32), working_room())


class Choice(NamedTuple):
    """Who chooses the next symbol, and what they need: what a way does not need is empty.

    known (N,) bool, uniforms (lanes, N), settings (temperature, top_p, top_k) to FILL; state and words of the coder,
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


@called
def draw(logits, uniform, temperature, top_p, top_k, scratch):
    """A symbol of softmax(logits / temperature), by inverting the distribution at `uniform`; -1 for NaN.

    top_k: take only the most probable ones, so many; 0: all. top_p: of these as few as have that share of them.
    """
    top, best = largest(logits)
    if top != top:
        return -1
    if temperature == 0:
        return best
    weights = scratch.weights
    total = weigh(logits, top, min(1.0 / temperature, 1e300), weights)
    if top_p < 1 or top_k > 0:
        total = nucleus(weights, scratch.kept, scratch.table, total, top_p, top_k)
    target, below, symbol = uniform * total, weights[0], 0
    while below < target and symbol < len(logits) - 1:
        symbol += 1
        below += weights[symbol]
    return symbol


@called
def nucleus(weights, kept, heap, total, top_p, top_k):
    """Zero all but the largest weights, which are whole numbers; gives the sum of those that stay.

    At most `top_k` of them (0: any number), and of these the fewest that have the share `top_p`, at least one. Of equal
    ones the first is taken. Their places come from a heap of all places, one by one, so that few cost little.
    """
    count = len(weights)
    most, found = count if top_k <= 0 else min(count, top_k), 0  # the found ones lie at the end of the heap
    for i in range(count):
        heap[i] = i
    for i in range(count // 2 - 1, -1, -1):
        sink(heap, weights, i, count)
    if most < count:
        total = 0.0
        while found < most:
            total += weights[take_first(heap, weights, count - found)]
            found += 1
    used, enough, taken = 0.0, top_p * total, 0
    while taken < most and (used < enough or used == 0):
        if taken == found:
            take_first(heap, weights, count - found)
            found += 1
        if weights[heap[count - 1 - taken]] <= 0.0:
            break
        used += weights[heap[count - 1 - taken]]
        taken += 1
    kept[:] = 0.0
    for i in range(count - taken, count):
        kept[heap[i]] = weights[heap[i]]
    for k in range(count):
        weights[k] = kept[k]
    return used


@inlined
def comes_before(weights, a, b):
    """Whether place a has a larger weight than place b, or is the first of two equal ones."""
    return weights[a] > weights[b] or (weights[a] == weights[b] and a < b)


@called
def sink(heap, weights, i, count):
    """Move place i of a heap of `count` down to where it belongs."""
    while 2 * i + 1 < count:
        child = 2 * i + 1
        if child + 1 < count and comes_before(weights, heap[child + 1], heap[child]):
            child += 1
        if comes_before(weights, heap[i], heap[child]):
            break
        heap[i], heap[child] = heap[child], heap[i]
        i = child


@called
def take_first(heap, weights, count):
    """Move the first of `count` places behind the others, which are a heap again; gives it."""
    heap[0], heap[count - 1] = heap[count - 1], heap[0]
    sink(heap, weights, 0, count - 1)
    return heap[count - 1]


@inlined
def choose(choice, logits, lane, t, symbols, scratch):
    """Find the symbol of a lane at position t; False when there is none."""
    if choice.way == FILL_IN:
        if choice.known[t]:
            return True
        temperature, top_p, top_k = choice.settings[0], choice.settings[1], int(choice.settings[2])
        symbol = draw(logits, choice.uniforms[lane, t], temperature, top_p, top_k, scratch)
        symbols[lane, t] = symbol
        return symbol >= 0
    if choice.way == PEEK:
        for k in range(len(logits)):
            choice.logits[lane, k] = logits[k]
        return True
    table = scratch.table
    total, top = tabulate(logits, scratch.weights, table)
    if total == 0:
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
    choice.bits[lane] += information(logits[symbol], top, total)
    return True


@compiled
def walk(tables, context, memory, scratch, active, begin, end, choice):
    """Walk from step `begin` to `end` with the first active[t] lanes; False where no symbol can be chosen.

    Lanes are computed in groups of dims[LANES]; memory is that of all groups, one after another.
    """
    dims = tables.dims
    each, size, count = dims[LANES], dims[SIZE], dims[SYMBOLS]
    for t in range(begin, end):
        line = tables.reads[tables.logits[t % dims[CHANNELS]], at.LINE]
        for group in range(-(-active[t] // each)):
            lane, start = group * each, group * size
            rows = each if active[t] == active[0] else min(each, active[t] - lane)
            for after in range(choice.way == TELL, 1 + (choice.way != PEEK)):
                logits = run_clocks(tables, context, memory, start, rows, lane, t, after, scratch)
                for i in range(0 if after else min(each, active[t] - lane)):
                    where = logits + i * line
                    row = memory[where : where + count]
                    if not choose(choice, row, lane + i, t, context.symbols, scratch):
                        return False
    return True


@compiled
def rearrange(memory, stores, lanes, to, source, room):
    """In the stores (m, 3: first number, places, numbers a lane) lanes `to` become what lanes `source` were.

    room: for one place of as many lanes.
    """
    for s in range(len(stores)):
        first, places, line = stores[s, 0], stores[s, 1], stores[s, 2]
        for place in range(places):
            start = first + place * lanes * line
            for j in range(len(to)):
                x, y = U(start + source[j] * line), U(j * line)
                for i in range(U(line)):
                    room[y + i] = memory[x + i]
            for j in range(len(to)):
                x, y = U(j * line), U(start + to[j] * line)
                for i in range(U(line)):
                    memory[y + i] = room[x + i]


@compiled
def take_totals(logits, count):
    """Logits (lanes · K,), K = count, become ln p of every symbol."""
    for first in range(0, len(logits), count):
        total = log_total(logits, first, count)
        for i in range(first, first + count):
            logits[i] -= total


@compiled
def multiply(memory, scratch, rows, k, right, width):
    """memory[rows · k :] += left @ right, with left (rows, k) before it; `right` in stripes, the result is padded."""
    scratch.spots[0] = 0
    dense(memory, scratch.spots, 1, k, k, rows, right, 0, 16 * k, width, rows * k, width, scratch.moved)
