"""Random step programs, over all operations and clocks, for the tests of the engine."""

import math
import random

import numpy as np
from hypothesis import strategies as st

from chainrule.engine import Builder
from chainrule.engine.mixing import SIZE, plan_of
from chainrule.engine.program import EARLY, clocks, is_known, symbol_is_known

ONE = ("relu", "elu", "tanh", "sigmoid", "exp", "gelu")
KINDS = (
    *ONE,
    *("dense", "dense onto", "embed", "embed onto", "levels", "position", "select", "add", "multiply"),
    *("gate", "norm", "attend", "concat", "constant", "class", "features", "lstm", "mlstm", "memory", "part"),
    *(
        "copy",
        "constant here",
        "dense here onto",
        "here",
        "total",
        "logistics",
        "logistics within",
        "logistic of",
        "mix",
    ),
    *("log softmax", "blend", "constant cycle", "attend near", "bins", "adapt"),
)
# of an LSTM: its clock, and where the earlier hidden state and the earlier cell are (rows, columns), or carried
STATES = [("pixel",), ("pixel", (0, -1), (0, -1)), ("pixel", (-1, 1), (-1, 0))]
STATES += [("back", (0, 1), (0, 1)), ("back", (0, 1), (-1, 1))]


class Writer:
    """Adds one random operation after another to a program; only reads that are known are stated."""

    def __init__(self, rng, axes, channels, symbols, classes, features, pixels):
        self.rng, self.p = rng, Builder(symbols, channels, classes, features, axes)
        self.pixels = pixels
        self.clocks, self.weights = clocks(channels), np.random.default_rng(rng.randrange(1 << 30))
        self.pool, self.cached, self.fixed = [self.p.constant(self.weight(5))], set(), set()

    def weight(self, *shape):
        return self.weights.normal(size=shape).astype(np.float32) / np.sqrt(shape[0])

    def number(self, low, high):
        return self.rng.randint(low, high)

    def reading(self, clock, every=1, plain=False):
        """A handle that an operation of this clock may read."""
        ready = {x.read.value for x in self.pool}
        for _ in range(20):
            x = self.rng.choice(self.pool)
            value = self.p._values[x.read.value]
            here = value.carried or value.clock == "once" or plain or x.read.value in self.cached
            frames = 0 if here else self.rng.choice([0, 0, 0, -1])
            rows, columns = (0, 0) if here else (self.number(-2, 1), self.number(-3, 2))
            if self.rng.random() < 0.1 and columns < 0:
                columns *= 9
            read = self.p.at(x, frames=frames, rows=rows, columns=columns).read
            if value.carried or is_known(
                read, value.clock, clock, x.read.value in ready and self.before(x, clock)
            ):
                if not read.here:
                    self.fixed.add(read.value)
                return self.p.at(x, frames=frames, rows=rows, columns=columns)
        return self.pool[0]

    def before(self, x, clock):
        return self.clocks.index(self.p._values[x.read.value].clock) <= self.clocks.index(clock)

    def resized(self, x, width, clock, every=1):
        """A bounded vector of another width."""
        x = self.p.dense(
            x, weight=self.weight(x.width, width), bias=self.weight(width), clock=clock, every=every
        )
        return self.p.pointwise("tanh", x, clock=clock, every=every)

    def add(self, kind):
        clock = self.rng.choice(self.clocks)
        every = self.rng.choice([1, 1, 2, 4]) if clock in ("row", "pixel") else 1
        when = {"clock": clock, "every": every}
        made = self.make(kind, clock, when)
        if made is not None:
            self.pool.append(made)

    def make(self, kind, clock, when):
        p, n = self.p, self.rng.choice([1, 2, 5, 16, 17, 33])
        if kind == "constant":
            return p.constant(self.weight(n), clock=clock)
        if kind == "class":
            return p.one_of_classes(self.weight(p.classes, n)) if p.classes else None
        if kind == "features":
            return p.given_features() if p.features else None
        if kind == "levels":
            return p.levels(0.5, -0.75)
        if kind == "position":
            return p.position(clock) if p.axes == "grid" and clock != "once" else None
        if kind in ("embed", "embed onto"):
            return self.embed(n, clock, when, kind == "embed onto")
        if kind == "copy":
            return self.copy(clock, when)
        if kind == "memory":
            return self.memory(n)
        if kind == "lstm":
            return self.lstm(n)
        if kind == "mix":
            return self.mix()
        if kind == "log softmax":
            return p.pointwise(kind, self.resized(self.reading(clock), n, clock), clock=clock)
        if kind == "blend":
            return self.blend() if p.channels == 1 and p.axes == "line" else None
        if kind == "mlstm":
            return self.mlstm(n)
        if kind == "attend":
            return self.attend(n)
        if kind == "attend near":
            return self.attend_near(n)
        if kind in ("logistics", "logistics within", "logistic of"):
            return self.logistic(kind, clock)
        if kind == "bins":
            edges = np.sort(self.weight(self.number(1, 5)))
            return p.bins(self.reading(clock)[:1], edges, self.weight(len(edges) + 1, n), **when)
        if kind == "adapt":
            return self.bounded(p.adaptive(self.reading("pixel")[:1], self.number(1, 4), 0.5, 0.1), {})
        if kind == "constant cycle":
            clock = "pixel" if clock in EARLY else clock
            return p.constant_cycle(self.weight(self.number(1, 5), n), clock=clock)
        if kind in ("constant here", "dense here onto", "here", "total"):
            clock = "pixel" if clock in EARLY else clock
            return self.of_the_pixel(kind, n, clock, when | {"clock": clock})
        x = self.reading(clock)
        if kind == "part":
            first = self.number(0, x.width - 1)
            return p.concat(x[first : self.number(first + 1, x.width)], **when)
        if kind == "dense":
            xs = [x, *(self.reading(clock) for _ in range(self.number(0, 3)))]
            return self.bounded(
                p.dense(*xs, weight=self.weight(sum(x.width for x in xs), n), bias=self.weight(n), **when),
                when,
            )
        if kind == "dense onto":
            y = self.reading(clock)
            return self.bounded(p.dense(y, weight=self.weight(y.width, x.width), onto=x, **when), when)
        if kind == "concat":
            return p.concat(x, self.reading(clock), **when)
        if kind == "norm":
            return p.norm(x, self.weight(x.width), self.weight(x.width), **when)
        if kind in ONE:
            return p.pointwise(kind, self.resized(x, n, **when) if kind == "exp" else x, **when)
        if kind == "gate":
            return p.gate(self.resized(x, 2 * n, **when), **when)
        if kind == "select":
            xs = [p.dense(x, weight=self.weight(x.width, n), **when) for _ in range(self.rng.choice([4, 16]))]
            return p.select(*xs, **when)
        return getattr(p, kind)(x, self.resized(self.reading(clock), x.width, **when), **when)

    def bounded(self, x, when):
        return (
            self.p.pointwise("tanh", x, **when)
            if self.rng.random() < 0.5
            else self.p.norm(x, self.weight(x.width), self.weight(x.width), **when)
        )

    def embed(self, n, clock, when, onto):
        frames, rows = self.rng.choice([0, 0, -1]), self.number(-2, 0)
        columns, channel = self.number(-3, 2), self.number(0, self.p.channels - 1)
        if not symbol_is_known(clock, frames, rows, columns, channel):
            return None
        x = self.reading(clock) if onto else None
        outside, k = self.number(-1, self.p.symbols), self.p.symbols
        numbers = {"frames": frames, "rows": rows, "columns": columns, "channel": channel, "outside": outside}
        return self.p.embed(self.weight(k + 1, x.width if onto else n), onto=x, **numbers, **when)

    def copy(self, clock, when):
        places = [
            (self.number(-2, 0), self.number(-3, 2), self.number(0, self.p.channels - 1)) for _ in range(3)
        ]
        places = [place for place in places if symbol_is_known(clock, 0, *place)]
        if not places:
            return None
        logits = self.resized(self.reading(clock), self.p.symbols, **when)
        return self.p.copy(logits, self.resized(self.reading(clock), len(places), **when), places, **when)

    def logistic(self, kind, clock):
        """A mixture of logistics, or what its parts make of a symbol; their scales may be extreme."""
        clock, count = "pixel" if clock in EARLY else clock, self.number(1, 3)
        three = self.resized(self.reading(clock), 3 * count, clock)
        spread = self.p.constant(np.full(3 * count, self.rng.choice([1.0, 9.0])))
        three = self.p.multiply(three, spread, clock=clock)
        channel = self.number(0, self.p.channels - 1)
        if kind == "logistic of" and not symbol_is_known(clock, 0, 0, 0, channel):
            return None
        when = {"clock": clock}
        made = (
            self.p.logistic_of(three, channel, **when)
            if kind == "logistic of"
            else self.p.logistics(three, within=kind == "logistics within", **when)
        )
        return self.p.pointwise("tanh", made, **when)

    def blend(self):
        """Some distributions, blended; weights that learn slowly, or as fast as they can."""
        parts = [
            self.resized(self.reading("pixel"), self.p.symbols, "pixel") for _ in range(self.number(1, 3))
        ]
        return self.p.blend(parts, self.rng.choice([0.003, 0.1, 1.0]))

    def mix(self):
        """A mixer with an empty memory, or with one in which anything may stand."""
        bits, words = self.rng.choice([8, 9]), self.number(0, 2)
        orders = sorted(self.rng.sample(range(1, 9), self.number(2, 4)))
        counts = None
        if self.rng.random() < 0.5:
            size = int(plan_of(self.p.symbols, bits, words, orders)[SIZE])
            counts = self.weights.integers(-(2**31), 2**31, size, dtype=np.int32)
            few = 1 << self.number(0, 30)  # extreme weights, or such as mixers learn
            counts = counts // few
        return self.p.pointwise("tanh", self.p.mix(bits, words, orders, counts), clock="pixel")

    def of_the_pixel(self, kind, n, clock, when):
        """The operations whose weights, or what they read, belong to the pixel; a running sum of them."""
        if kind == "constant here":
            return self.p.constant_here(self.weight(self.pixels, n), clock=clock)
        x = self.reading(clock)
        if kind == "here":
            return self.p.here(self.resized(x, self.pixels * n, **when), self.pixels, **when)
        xs = [self.reading(clock) for _ in range(self.number(1, 3))]
        widths = sum(x.width for x in xs)
        if kind == "total":
            total = self.p.memory(n, clock, carried=True)
            return self.p.dense_here(*xs, weight=self.weight(self.pixels, widths, n), onto=total, into=total)
        y = self.p.dense_here(*xs, weight=self.weight(self.pixels, widths, x.width), onto=x, **when)
        return self.bounded(y, when)

    def memory(self, n):
        clock = self.rng.choice(["back", *self.clocks[len(EARLY) :]])
        carried, side = clock != "back" and self.rng.random() < 0.5, 1 if clock == "back" else -1
        memory = self.p.memory(n, clock, carried=carried)
        before = memory if carried else self.p.at(memory, columns=side)
        x = self.resized(self.reading(clock), n, clock)
        kept = self.p.multiply(before, self.p.constant(np.full(n, 0.7)), clock=clock)
        return self.p.write(memory, self.p.add(kept, x, clock=clock))

    def state(self, n):
        carried = self.rng.random() < 0.5
        return [self.p.memory(n, carried=carried) for _ in range(2)]

    def lstm(self, n):
        clock, *places = self.rng.choice(STATES)
        cell, hidden = (self.p.memory(n, clock, carried=not places) for _ in range(2))
        last, before = (hidden, None) if not places else map(self.away, (hidden, cell), places)
        x = self.reading(clock)
        gates = self.p.dense(
            x, last, weight=self.weight(x.width + n, 4 * n), bias=self.weight(4 * n), clock=clock
        )
        return self.p.lstm(gates, cell, hidden, before)

    def away(self, x, place):
        return self.p.at(x, rows=place[0], columns=place[1])

    def mlstm(self, n):
        x = self.resized(self.reading("pixel"), n, "pixel")
        to = {"to_x": self.weight(n, n), "to_h": self.weight(n, n), "mixed": self.weight(n, 4 * n)}
        direct = self.p.dense(x, weight=self.weight(n, 4 * n), clock="pixel")
        return self.p.multiplicative_lstm(x, *self.state(n), direct=direct, **to)

    def attend(self, n):
        heads = self.rng.choice([h for h in (1, 2, 3, 4) if n % h == 0])
        query, keys, values = self.looking(n)
        how = self.rng.choice(["full", "local", "strided", "fixed", "spread", "block"])
        numbers = self.number(1, 5), self.number(0, 3), self.rng.choice([0, self.number(1, 9)])
        return self.p.attend(query, keys, values, heads, how, *numbers)

    def attend_near(self, n):
        heads = self.rng.choice([h for h in (1, 2, 3, 4) if n % h == 0])
        far, table = self.resized(self.reading("pixel"), n, "pixel"), self.weight(self.number(1, 6), n)
        query, keys, values = self.looking(n)
        return self.p.attend_near(query, far, keys, values, table, heads)

    def looking(self, n):
        """A query, keys and values."""
        query, keys, values = (self.resized(self.reading("pixel"), n, "pixel") for _ in range(3))
        self.cached |= {keys.read.value, values.read.value}
        self.pool += [keys, values]
        return query, keys, values

    def finish(self):
        logits = []
        for c in range(self.p.channels):
            clock = f"channel {c}"
            xs = [self.reading(clock) for _ in range(3)] + [
                x for x in self.pool[-2:] if self.before(x, clock) and self.plain(x)
            ]
            logits.append(
                self.p.dense(*xs, weight=self.weight(sum(x.width for x in xs), self.p.symbols), clock=clock)
            )
        return self.p.finish(logits)

    def plain(self, x):
        value = self.p._values[x.read.value]
        return value.carried or is_known(x.read, value.clock, self.clocks[-2], True)


EVENTS = {"grid": [(3, 4), (1, 1), (4, 1), (1, 5), (2, 3, 3), (3, 2, 2)], "line": [(7,), (1,), (2, 5)]}


def random_case(seed, kinds=KINDS, most=12):
    """(program, event), the same for the same seed."""
    rng = random.Random(seed)
    axes, channels = rng.choice(["grid", "grid", "line"]), rng.randint(1, 3)
    classes, features = rng.choice([0, 2]), rng.choice([0, 3])
    event = rng.choice(EVENTS[axes])
    writer = Writer(rng, axes, channels, rng.choice([2, 3, 5]), classes, features, math.prod(event))
    for _ in range(rng.randint(1, most)):
        writer.add(rng.choice(kinds))
    event = (*event, channels) if axes == "grid" else (event[0] * channels, *event[1:])
    return writer.finish(), event


def seeds():
    """What hypothesis draws: a program as an argument would be printed with all its weights."""
    return st.integers(0, 2**32 - 1)
