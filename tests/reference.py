"""What step programs mean, in plain numpy: an interpreter that keeps everything and knows no layout.

It fails on a read of what is not written yet and on a symbol that is not known yet. With `SINGLE` it computes
every operation in float32 in the order of the strict executor, so its bits must be the same; with `DOUBLE` it
computes the textbook's formulas in float64.
"""

import bisect
import math
from types import SimpleNamespace

import numpy as np
from scipy import special

from chainrule.engine.program import FIXED, LOCAL, SPREAD, STRIDED, Op

F = np.float32


def exp32(x):
    """Cephes' expf, clamped, an IEEE operation at a time."""
    x = np.minimum(np.where(x > F(-87), x, F(-87)), F(88))
    n = (x * F(1.44269504) + F(12582912)) - F(12582912)
    r = (x - n * F(0.693359375)) - n * F(-2.12194440e-4)
    p = F(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + F(c)
    return ((p * r) * r + r + F(1)) * np.ldexp(F(1), n.astype(int)).astype(F)


def sigmoid32(x):
    return F(1) / (F(1) + exp32(-x))


def tanh32(x):
    return F(2) / (F(1) + exp32(-(x + x))) - F(1)


def gated32(f, g):
    f, g = np.maximum(f, F(-20)), np.maximum(g, F(-40))
    a, b = exp32(-(f + f)), exp32(-g)
    return (F(1) - a) / ((F(1) + a) * (F(1) + b))


def gelu32(z):
    return z * sigmoid32(F(1.5957691216) * (z + F(0.044715) * ((z * z) * z)))


def log32(x):
    """Cephes' logf, an IEEE operation at a time."""
    m, e = np.frexp(x)  # x = m 2^e, ½ <= m < 1
    m, e = (m + m).astype(F), e - 1
    large = m > F(1.41421356)
    m, e = np.where(large, m * F(0.5), m), np.where(large, e + 1, e).astype(F)
    f = m - F(1)
    z, p = f * f, F(7.0376836292e-2)
    for c in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
              2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):  # fmt: skip
        p = p * f + F(c)
    return f + ((p * f * z + e * F(-2.12194440e-4)) - F(0.5) * z) + e * F(0.693359375)


def softplus32(x):
    return np.maximum(x, F(0)) + log32(F(1) + exp32(-abs(x)))


def log_one_less32(d):
    p, near = F(1), np.minimum(d, F(0.5))  # the polynomial is for d below 0.5, and has no end for large ones
    for n in (7, 6, 5, 4, 3):
        p = F(1) - near / F(n) * p
    return log32(np.where(d < F(0.5), near * (F(1) - near * F(0.5) * p), F(1) - exp32(-d)))


def log_add32(x, y):
    high, low = np.maximum(x, y), np.minimum(x, y)
    with np.errstate(invalid="ignore"):
        return high + log32(F(1) + exp32(low - high))


def in_order(terms):
    """The sum of an array's columns one after another, as a column."""
    total = np.zeros_like(terms[:, :1])
    for i in range(terms.shape[1]):
        total = total + terms[:, i : i + 1]
    return total


def dot32(x, y):
    """Sixteen sums side by side, joined in halves."""
    products = np.zeros((-(-len(x) // 16) * 16), F)
    products[: len(x)] = x * y
    sums = np.zeros(16, F)
    for block in products.reshape(-1, 16):
        sums = sums + block
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return sums[0]


SINGLE = SimpleNamespace(
    dtype=F, exp=exp32, sigmoid=sigmoid32, tanh=tanh32, gated=gated32, gelu=gelu32, dot=dot32,
    softplus=softplus32, log_one_less=log_one_less32, log_add=log_add32, log=log32,
)  # fmt: skip
DOUBLE = SimpleNamespace(
    dtype=np.float64,
    exp=np.exp,
    sigmoid=special.expit,
    tanh=np.tanh,
    gated=lambda f, g: np.tanh(f) * special.expit(g),
    gelu=lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    dot=np.dot,
    softplus=lambda x: np.logaddexp(0, x),
    log_one_less=lambda d: np.log(-np.expm1(-d)),
    log_add=np.logaddexp,
    log=np.log,
)


def squash(x):
    """A probability of 65536 from log-odds of 1/256."""
    return min(max(math.floor(65536 / (1 + math.exp(-x / 256)) + 0.5), 1), 65535)


SQUASH = [squash(x) for x in range(-3071, 3072)]
STRETCH = [bisect.bisect_left(SQUASH, 16 * i + 8) - 3071 for i in range(4096)]


def scrambled(h):
    h = h * 0x9E3779B1 % 2**32
    return h ^ h >> 15


class Mixer:
    """Context mixing of one lane in Python's whole numbers, as docs/step-programs.md says."""

    def __init__(self, symbols, bits, words, orders, memory=None):
        self.K, self.bits, self.words, self.orders = symbols, bits, words, orders
        self.depth = (symbols - 1).bit_length()
        self.J = 1 + len(orders) + words
        parts = [2**self.depth, 2**bits, self.J * 9 * (self.J + 1), 2**self.depth * (self.J + 1)]
        self.table, self.by_order, self.by_node, self.refined = np.cumsum(parts).tolist()
        size = -(-(self.refined + 34 * 2 ** (bits - 6)) // 16) * 16
        self.memory = np.zeros(size, int) if memory is None else memory.astype(int)

    def contexts(self, seen):
        """The numbers of the contexts 1, 2, ..."""
        h, found = 0, []
        for back in range(1, self.orders[-1] + 1):
            h = scrambled(h + (seen[-back] + 1 if back <= len(seen) else 0) + 1)
            if back in self.orders:
                found.append(scrambled(h + len(found) + 1))
        last = seen[-1] + 1 if seen else 0
        text, h = list(seen[-64:]), 0
        for _ in range(self.words):
            while text and self.letter(text[-1]):
                h = scrambled(h + (text.pop() | 32) + 1)
            found.append(scrambled(scrambled(h + last) + len(found) + 1))
            while text and not self.letter(text[-1]):
                text.pop()
            h = scrambled(h + 1)
        return found

    def letter(self, symbol):
        return symbol >= 128 or chr(symbol).isalpha()

    def decides(self, node, level):
        return (2 * node + 1 << self.depth - 1 - level) - 2**self.depth < self.K

    def look(self, contexts, node, level):
        """What is known at a node, and the probability of a 1 that follows."""
        head, inner = node >> level % 4, 1 << level % 4 | node % (1 << level % 4)
        slots, checks = [node], [0]
        for h in contexts:
            h = (h + head) * 0x85EBCA6B % 2**32
            h = scrambled(h ^ h >> 13)
            slots.append(self.table + (((h ^ h >> 17) % 2**self.bits) ^ inner))
            checks.append(h >> 24)
        held = [int(self.memory[slot]) for slot in slots]
        known = [j == 0 or v >> 22 & 255 == checks[j] for j, v in enumerate(held)]
        counts = [v % 64 * k for v, k in zip(held, known, strict=True)]
        chances = [(v >> 6) % 65536 if n else 32768 for v, n in zip(held, counts, strict=True)]
        node_facts = {"slots": slots, "checks": checks, "known": known, "counts": counts, "chances": chances}
        if not counts[0]:
            return node_facts | {"final": 32768}
        inputs = [STRETCH[p >> 4] if n else 0 for p, n in zip(chances, counts, strict=True)] + [256]
        longest = max(j for j in range(len(self.orders) + 1) if counts[j] or j == 0)
        first = self.by_order_of(longest, min(counts[longest], 8))
        second = self.by_node + node * (self.J + 1)
        start = [19661] * self.J + [0]
        odds = sum(
            x * int(self.memory[first + i] + self.memory[second + i] + start[i]) for i, x in enumerate(inputs)
        )
        odds = min(max(odds >> 16, -3071), 3071)
        mixed = SQUASH[odds + 3071]
        along = (odds + 3071) * 10923 >> 6
        share, places, said = along % 65536, [], []
        for which in (0, 1):
            row = scrambled((contexts[which] + node * 0x85EBCA6B) % 2**32) % 2 ** (self.bits - 6)
            place = self.refined + 17 * (row + which * 2 ** (self.bits - 6)) + (along >> 16)
            low, high = int(self.memory[place]), int(self.memory[place + 1])
            places.append(place)
            said.append(mixed + (low * (65536 - share) + high * share >> 16))
        final = min(max(2 * mixed + sum(said) + 2 >> 2, 1), 65535)
        mixer = {"inputs": inputs, "first": first, "second": second, "mixed": mixed}
        return node_facts | mixer | {"share": share, "places": places, "said": said, "final": final}

    def by_order_of(self, longest, surely):
        return self.by_order + (longest * 9 + surely) * (self.J + 1)

    def learn(self, seen, symbol):
        contexts, path = self.contexts(seen), symbol + 2**self.depth
        nodes = [(path >> self.depth - level, level) for level in range(self.depth)]
        nodes = [pair for pair in nodes if self.decides(*pair)]
        for (_, level), at in zip(nodes, [self.look(contexts, *pair) for pair in nodes], strict=True):
            bit = path >> self.depth - 1 - level & 1
            if "mixed" in at:
                self.correct(at, bit)
            self.count(at, bit)

    def correct(self, at, bit):
        error = ((bit << 16) - at["mixed"]) * 3
        for i, x in enumerate(at["inputs"]):
            for place in (at["first"] + i, at["second"] + i):
                self.move(place, x * error + 2**18 >> 19)
        for place, said in zip(at["places"], at["said"], strict=True):
            self.move(place + (at["share"] >> 15), (bit * 65535 - said) * 1300 >> 16)

    def move(self, place, step):
        self.memory[place] = min(max(int(self.memory[place]) + step, -(2**24)), 2**24)

    def count(self, at, bit):
        for j, (slot, check) in enumerate(zip(at["slots"], at["checks"], strict=True)):
            held, n, p = int(self.memory[slot]), at["counts"][j], at["chances"][j]
            if not at["known"][j] and held % 64 > 2:
                self.memory[slot] = held - 1
                continue
            p = min(max(p + ((bit * 65535 - p) * int(65536 / (n + 1.1)) >> 16), 16), 65519)
            self.memory[slot] = check << 22 | p << 6 | min(n + 1, 10)

    def predict(self, seen, dtype):
        """ln p of every symbol, added up from the root on."""
        contexts, out = self.contexts(seen), [dtype(0)] * self.K
        for symbol in range(self.K):
            path, unseen = symbol + 2**self.depth, False
            for level in range(self.depth):
                node = path >> self.depth - level
                if level % 4 == 0:
                    unseen = self.memory[node] % 64 == 0
                if self.decides(node, level):
                    p = 32768 if unseen else self.look(contexts, node, level)["final"]
                    bit = path >> self.depth - 1 - level & 1
                    out[symbol] = out[symbol] + dtype(math.log((p if bit else 65536 - p) / 65536))
        return out


class TooEarly(Exception):
    """A program read what was not there yet."""


class Reference:
    """logits (lanes, N, K) of the program on given symbols (lanes, N)."""

    def __init__(self, program, event, symbols, classes=None, features=None, math=SINGLE):
        self.p, self.math, self.classes, self.features = program, math, classes, features
        self.given, self.lanes = symbols, len(symbols)
        self.F, self.H, self.W = program.geometry(event)
        self.C = program.channels
        self.symbols = np.full(symbols.shape, -1)
        self.values = [self.room(value) for value in program.values]
        self.weights = {k: w.astype(math.dtype) for k, w in program.weights.items()}
        self.mixers = {op.output: self.mixers_of(op) for op in program.ops if op.kind in ("mix", "mix from")}

    def room(self, value):
        """Nothing is written; the state of a recurrence is zero."""
        if value.carried:
            return np.zeros((self.lanes, value.width), self.math.dtype)
        places = (
            (1, 1, 1)
            if value.clock == "once"
            else (self.F, -(-self.H // value.every), -(-self.W // value.every))
        )
        return np.full((*places, self.lanes, value.width), np.nan, self.math.dtype)

    def run(self):
        out = np.zeros((*self.given.shape, self.p.symbols), self.math.dtype)
        rows, columns = range(self.H), range(self.W)
        for f, r, c in np.ndindex(self.F, self.H, self.W):
            if f == r == c == 0:
                self.tick("once", 0, [0], [0])
            if r == c == 0:
                self.tick("frame", f, rows, columns)
            if c == 0:
                for column in reversed(columns):
                    self.tick("back", f, [r], [column])
                self.tick("row", f, [r], columns)
            self.tick("pixel", f, [r], [c])
            first = ((f * self.H + r) * self.W + c) * self.C
            for channel in range(self.C):
                self.tick(f"channel {channel}", f, [r], [c])
                out[:, first + channel] = self.read(self.p.logits[channel], f, r, c)
                self.symbols[:, first + channel] = self.given[:, first + channel]
            self.tick("done", f, [r], [c])
        return out

    def tick(self, clock, f, rows, columns):
        for op in self.p.ops:
            value = self.p.values[op.output]
            if value.clock != clock:
                continue
            for r in rows:
                for c in columns:
                    if r % value.every == c % value.every == 0:
                        found = self.compute(op, f, r, c)
                        assert found.dtype == self.math.dtype, op.kind
                        assert found.shape == (self.lanes, value.width), op.kind
                        if value.carried:
                            self.values[op.output] = found
                        elif value.clock == "once":
                            self.values[op.output][0, 0, 0] = found
                        else:
                            self.values[op.output][f, r // value.every, c // value.every] = found

    def read(self, read, f, r, c):
        value, kept = self.p.values[read.value], self.values[read.value]
        part = slice(read.first, read.first + read.width)
        if value.carried:
            return kept[:, part]
        f, r, c = f + read.frames, r // value.every + read.rows, c // value.every + read.columns
        if value.clock == "once":
            f, r, c = 0, 0, 0
        if min(f, r, c) < 0 or f >= kept.shape[0] or r >= kept.shape[1] or c >= kept.shape[2]:
            return np.zeros((self.lanes, read.width), self.math.dtype)
        if np.isnan(kept[f, r, c]).any():
            raise TooEarly(read)
        return kept[f, r, c][:, part]

    def compute(self, op, f, r, c):
        if op.kind == "select":
            s = round(len(op.reads) ** 0.5)
            return self.read(op.reads[r % s * s + c % s], f, r, c)
        if op.kind == "attend":
            return self.attend(op, f, r, c)
        if op.kind == "attend near":
            return self.attend_near(op, f, r, c)
        x, w, m = (
            [self.read(read, f, r, c) for read in op.reads],
            [self.weights[n] for n in op.weights],
            self.math,
        )
        pixel = (f * self.H + r) * self.W + c
        if op.kind in ("mix", "mix from"):
            return self.mix(self.mixers[op.output], pixel * self.C)
        if op.kind == "constant":
            return np.tile(w[0], (self.lanes, 1))
        if op.kind == "constant here":
            return np.tile(w[0][pixel], (self.lanes, 1))
        if op.kind == "constant cycle":
            return np.tile(w[0][pixel % len(w[0])], (self.lanes, 1))
        if op.kind == "here":
            n = self.p.values[op.output].width
            return x[0][:, pixel * n : (pixel + 1) * n]
        if op.kind in ("dense", "dense onto", "dense here onto"):
            y = np.tile(w[1], (self.lanes, 1)) if op.kind == "dense" else x.pop(0)
            x = np.concatenate(x, 1)
            first = pixel * x.shape[1] if op.kind == "dense here onto" else 0
            for i in range(x.shape[1]):
                y = y + x[:, i : i + 1] * w[0][first + i]
            return y
        if op.kind == "logistics":
            return self.logistics(x[0])
        if op.kind == "logistics within":
            return self.logistics(x[0], self.mass_within)
        if op.kind == "logistic of":
            return self.logistic_of(x[0], self.symbols[:, pixel * self.C + op.numbers[0]])
        if op.kind in ("embed", "embed onto"):
            return (x[0] if x else m.dtype(0)) + self.look_up(op, w[0], f, r, c)
        if op.kind == "copy onto":
            return self.copy(op, *x, f, r, c)
        if op.kind == "class":
            return w[0][self.classes]
        if op.kind == "levels":
            levels = self.symbols[:, pixel * self.C : (pixel + 1) * self.C]
            if (levels < 0).any():
                raise TooEarly(op)
            return levels.astype(m.dtype) * w[0][0] + w[0][1]
        if op.kind == "position":
            places = [
                m.dtype(2) * m.dtype(i) / m.dtype(max(n - 1, 1)) - m.dtype(1)
                for i, n in ((r, self.H), (c, self.W))
            ]
            return np.tile(np.array(places, m.dtype), (self.lanes, 1))
        if op.kind == "features":
            return self.features[:, pixel].astype(m.dtype)
        if op.kind == "norm":
            n = m.dtype(x[0].shape[1])
            mean = in_order(x[0]) / n
            scale = m.dtype(1) / np.sqrt(in_order((x[0] - mean) * (x[0] - mean)) / n + m.dtype(1e-5))
            return ((x[0] - mean) * scale) * w[0] + w[1]
        quarters = np.split(x[0], 4, 1) if op.kind in ("cell", "hidden") else None
        return {
            "concat": lambda: np.concatenate(x, 1),
            "add": lambda: x[0] + x[1],
            "multiply": lambda: x[0] * x[1],
            "relu": lambda: np.maximum(x[0], m.dtype(0)),
            "elu": lambda: np.where(x[0] > 0, x[0], m.exp(np.minimum(x[0], m.dtype(0))) - m.dtype(1)),
            "tanh": lambda: m.tanh(x[0]),
            "sigmoid": lambda: m.sigmoid(x[0]),
            "exp": lambda: m.exp(x[0]),
            "gelu": lambda: m.gelu(x[0]),
            "gate": lambda: m.gated(*np.split(x[0], 2, 1)),
            "cell": lambda: m.sigmoid(quarters[1]) * x[1] + m.gated(quarters[2], quarters[0]),
            "hidden": lambda: m.gated(x[1], quarters[3]),
            "log softmax": lambda: np.maximum(x[0] - self.log_total(x[0]), m.dtype(-20)),
            "blend": lambda: self.blend(x[0], x[1:], pixel),
            "bins": lambda: w[1][(w[0][None] <= x[0]).sum(1)],
            "adapt": lambda: self.adapt(*x, *w[0]),
            "reweigh": lambda: self.reweigh(x[0], x[1:-1], x[-1], w[0][0], pixel),
        }[op.kind]()

    def adapt(self, state, d, rate, small):
        """w, h, p, e, r, ln r of filters (lanes, 2 P + 4) once the numbers d (lanes, 1) came."""
        m, taps = self.math, state.shape[1] // 2 - 2
        w, h, p = state[:, :taps], state[:, taps : 2 * taps], state[:, 2 * taps : 2 * taps + 1]
        w = w + ((rate * (d - p)) / (small + in_order(h * h))) * h
        h = np.concatenate([d, h[:, :-1]], 1)
        r = m.dtype(1) / np.sqrt(small + in_order(h * h) / m.dtype(taps))
        return np.concatenate([w, h, in_order(w * h), d - p, r, m.log(r)], 1)

    def log_total(self, x):
        """log Σ eˣ, a column."""
        top = x.max(1, keepdims=True)
        return top + self.math.log(in_order(self.math.exp(x - top)))

    def came(self, t):
        """The symbols (lanes,) at position t; 0 before the first."""
        found = self.symbols[:, t] if t >= 0 else np.zeros(self.lanes, int)
        if (found < 0).any():
            raise TooEarly(t)
        return found

    def blend(self, weights, parts, t):
        """Σⱼ (1/J + u_j + v_sj) xⱼ, part after part."""
        lanes, count, y = range(self.lanes), len(parts), np.zeros_like(parts[0])
        table = weights.reshape(self.lanes, -1, count)
        for j, x in enumerate(parts):
            weight = (self.math.dtype(1) / self.math.dtype(count) + table[:, 0, j]) + table[
                lanes, 1 + self.came(t - 1), j
            ]
            y = y + weight[:, None] * x
        return y

    def reweigh(self, weights, parts, blended, rate, t):
        """What the weights learn of the symbol at t - 1."""
        if t == 0:
            return weights
        symbol, before, lanes = self.came(t - 1), self.came(t - 2), range(self.lanes)
        table = weights.reshape(self.lanes, -1, len(parts)).copy()
        share = self.math.exp(blended - self.log_total(blended))
        for j, x in enumerate(parts):
            step = rate * (x[lanes, symbol] - in_order(share * x)[:, 0])
            for row in (0, 1 + before):
                table[lanes, row, j] = np.clip(
                    table[lanes, row, j] + step, self.math.dtype(-8), self.math.dtype(8)
                )
        return table.reshape(weights.shape)

    def mixers_of(self, op):
        """A mixer for each lane."""
        bits, words, *orders = op.numbers
        memory = [self.p.weights[name] for name in op.weights] or [None]
        return [Mixer(self.p.symbols, bits, words, orders, memory[0]) for _ in range(self.lanes)]

    def mix(self, mixers, first):
        """Learn the last pixel, predict the next symbol."""
        seen = [lane[:first].tolist() for lane in self.symbols]
        if any(symbol < 0 for lane in seen for symbol in lane):
            raise TooEarly("mix")
        for lane, mixer in zip(seen, mixers, strict=True):
            for t in range(max(first - self.C, 0), first):
                mixer.learn(lane[:t], lane[t])
        rows = [mixer.predict(lane, self.math.dtype) for lane, mixer in zip(seen, mixers, strict=True)]
        return np.array(rows, self.math.dtype)

    def logistics(self, x, masses_of=None):
        """One logistic after another."""
        masses_of = masses_of or self.logistic_of
        found = np.full((self.lanes, self.p.symbols), -np.inf, self.math.dtype)
        for k in range(self.p.symbols):
            masses = masses_of(x, np.full(self.lanes, k))
            for j in range(masses.shape[1]):
                found[:, k] = self.math.log_add(found[:, k], masses[:, j])
        return found

    def logistic_of(self, x, k):
        """Log weight plus log mass of the levels k (lanes,) under each logistic."""
        m, most = self.math, self.p.symbols - 1
        if (k < 0).any():
            raise TooEarly("logistic of")
        (w, mean, scale), k = np.split(x, 3, 1), k[:, None]
        step, steep = m.dtype(1) / m.dtype(max(most, 1)), m.exp(-np.clip(scale, m.dtype(-7), m.dtype(7)))
        edges = (((2 * k + side).astype(m.dtype) * step - m.dtype(1) - mean) * steep for side in (1, -1))
        a, b = edges
        gap, above, below = m.log_one_less((step + step) * steep), m.softplus(-a), m.softplus(b)
        zero = m.dtype(0)
        gap = np.where((k > 0) & (k < most), gap, zero)
        return w + ((gap - np.where(k < most, above, zero)) - np.where(k > 0, below, zero))

    def mass_within(self, x, k):
        """Log weight plus log mass of the levels k (lanes,) between their own edges."""
        m = self.math
        (w, mean, scale), k = np.split(x, 3, 1), k[:, None]
        step, steep = (
            m.dtype(1) / m.dtype(max(self.p.symbols - 1, 1)),
            m.exp(-np.clip(scale, m.dtype(-16), m.dtype(16))),
        )
        a, b = (((2 * k + side).astype(m.dtype) * step - m.dtype(1) - mean) * steep for side in (1, -1))
        return w + ((m.log_one_less((step + step) * steep) - m.softplus(-a)) - m.softplus(b))

    def look_up(self, op, table, f, r, c):
        frames, rows, columns, channel, outside = op.numbers
        f, r, c = f + frames, r + rows, c + columns
        if min(f, r, c) < 0 or c >= self.W:
            row = table[outside] if outside >= 0 else np.zeros_like(table[0])
            return np.tile(row, (self.lanes, 1))
        symbol = self.symbols[:, ((f * self.H + r) * self.W + c) * self.C + channel]
        if (symbol < 0).any():
            raise TooEarly(op)
        return table[symbol]

    def copy(self, op, logits, gates, f, r, c):
        logits = logits.copy()
        for j, (rows, columns, channel) in enumerate(np.reshape(op.numbers, (-1, 3))):
            eye = np.eye(self.p.symbols, dtype=bool)
            where = self.look_up(Op("embed", 0, numbers=(0, rows, columns, channel, -1)), eye, f, r, c)
            logits = np.where(where, logits + gates[:, j : j + 1], logits)
        return logits

    def attend(self, op, f, r, c):
        now, m, q = (f * self.H + r) * self.W + c, self.math, self.read(op.reads[0], f, r, c)

        def seen(head):
            return [j for j in range(now + 1) if looks(op, head, now, j)]

        def score(lane, part, j, key):
            return m.dot(q[lane, part], key)

        return self.attended(op.numbers[0], op.reads[1:], seen, score)

    def attend_near(self, op, f, r, c):
        (heads, length), m = op.numbers, self.math
        now, table = (f * self.H + r) * self.W + c, self.weights[op.weights[0]]
        q, far = (self.read(read, f, r, c) for read in op.reads[:2])

        def score(lane, part, j, key):
            return m.dot(q[lane, part], key) + m.dot(far[lane, part], table[now - j, part])

        return self.attended(
            heads, op.reads[2:], lambda head: range(max(0, now - length + 1), now + 1), score
        )

    def attended(self, heads, reads, seen, score):
        """Softmax attention: seen(head) are pixels; score(lane, the numbers of a head, pixel, its key)."""
        m, heads_of = self.math, []
        for head in range(heads):
            places = [(j, np.unravel_index(j, (self.F, self.H, self.W))) for j in seen(head)]
            whole = [[self.read(read, *place) for _, place in places] for read in reads]
            d = whole[0][0].shape[1] // heads
            part, scale = slice(head * d, (head + 1) * d), m.dtype(1) / np.sqrt(m.dtype(d))
            out = np.zeros((self.lanes, d), m.dtype)
            for lane in range(self.lanes):
                k, v = ([x[lane, part] for x in several] for several in whole)
                scores = [score(lane, part, j, key) * scale for (j, _), key in zip(places, k, strict=True)]
                scores = np.array(scores, m.dtype)
                shares = m.exp(scores - scores.max())
                y, total = np.zeros(d, m.dtype), m.dtype(0)
                for share, value in zip(shares, v, strict=True):
                    total, y = total + share, y + share * value
                out[lane] = y / total
            heads_of.append(out)
        return np.concatenate(heads_of, 1)


def looks(op, head, now, j):
    """Whether a head of an `attend` looks from pixel `now` at pixel j <= now."""
    _, pattern, length, summary, *window = op.numbers
    if window:
        if now // window[0] != j // window[0]:
            return False
        now, j = now % window[0], j % window[0]
    end = length - summary * (head % max(1, length // max(1, summary)) if pattern == SPREAD else 0)
    return {
        LOCAL: now - j < length,
        STRIDED: (now - j) % length == 0,
        FIXED: now // length == j // length or j % length >= length - summary,
        SPREAD: now // length == j // length or end - summary <= j % length < end,
    }.get(pattern, True)
