"""Programs: the step of a chain as data. They can be printed, checked, stored, and run by any executor.

A program computes the logits of one symbol after another. Its *values* are vectors that belong to a place in
the event, its *operations* (`OPS`) make values of values. Each operation has a clock:

    once            at the beginning of an event: what depends on the context only
    frame           at the beginning of a frame, for all its pixels at once
    back            at the beginning of a row, at one pixel after another from the last to the first
    row             at the beginning of a row (after "back"), for all its pixels at once
    pixel           at every pixel
    channel 0, ...  before that channel of every pixel
    done            when all channels of a pixel are known

so work is done when its inputs change and not again. A *read* takes a value where it stands, or at an earlier
place, so many frames, rows and columns away; outside the event everything is zero.

An event of a "grid" program is an image (H, W, C) or a clip (F, H, W, C). An event of a "line" program has
any shape; its N symbols are taken for one row of N/C pixels with C channels each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from chainrule.engine import mixing
from chainrule.errors import ChainruleError

FORMAT = 1
DIVERGED = "did training diverge? Fit it anew with a lower --lr"
AXES = ("grid", "line")
MOST_SYMBOLS, MOST_CHANNELS, MOST_OPS, MOST_WIDTH, MOST_AWAY = 1 << 16, 64, 1 << 14, 1 << 20, 1 << 16
MOST_READS, MOST_TEXT = 1 << 16, 1 << 22
MOST_MASSES = 1 << 24  # of levels under logistics, at a pixel: no weights in the file stand for them


@dataclass(frozen=True)
class Value:
    """A vector of `width` numbers at every `every`-th row and column, written when `clock` ticks.

    A `carried` value has no place: there is one of it, it begins as zeros, and whoever reads it before it is
    written at a tick finds what it was before. (The state of a recurrence in the order of the symbols.)
    """

    width: int
    clock: str
    every: int = 1
    carried: bool = False


@dataclass(frozen=True)
class Read:
    """`width` numbers of a value from `first` on, so many places of the value's own grid away (<= 0: earlier)."""

    value: int
    frames: int = 0
    rows: int = 0
    columns: int = 0
    first: int = 0
    width: int = 0

    @property
    def here(self) -> bool:
        return not (self.frames or self.rows or self.columns)


@dataclass(frozen=True)
class Op:
    """One operation: what it is, the value it writes, from what, with which weights and numbers."""

    kind: str
    output: int
    reads: tuple[Read, ...] = ()
    weights: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


# The operations: how many reads, weights and numbers each has (None: any), and what it computes.
#   x, y: the reads in order; W, b: the weights in order; n: the numbers in order; σ the logistic function
OPS: dict[str, tuple[int | None, int, int | None, str]] = {
    "constant": (0, 1, 0, "b"),
    "dense": (None, 2, 0, "b + Σᵢ Wᵢ xᵢ, W (Σ widths, N) in rows, summed in that order"),
    "dense onto": (None, 1, 0, "x₀ + Σᵢ₌₁ Wᵢ xᵢ"),
    "constant here": (0, 1, 0, "W[t], t the index of the pixel in the event, W (P, N)"),
    "constant cycle": (0, 1, 0, "W[t mod P], t as above, W (P, N)"),
    "dense here onto": (None, 1, 0, "x₀ + Σᵢ₌₁ Wᵢ xᵢ with the t-th of the P blocks of W (P · Σ widths, N)"),
    "here": (1, 0, 0, "the numbers t · N to (t + 1) · N of x (P · N)"),
    "embed": (0, 1, 5, "W[symbol], n: frames, rows, columns, channel, and the row of W for outside (-1: 0)"),
    "embed onto": (1, 1, 5, "x + W[symbol]"),
    "copy onto": (
        2,
        0,
        None,
        "x, and yⱼ added at the symbol at (rows, columns, channel) = n₃ⱼ, n₃ⱼ₊₁, n₃ⱼ₊₂",
    ),
    "class": (0, 1, 0, "W[class of the lane]"),
    "levels": (0, 1, 0, "symbol · W₀ + W₁ of all channels of the pixel, W (2,)"),
    "position": (0, 0, 0, "the row and the column, each from -1 to 1"),
    "features": (0, 0, 0, "what the caller gives for every pixel"),
    "concat": (None, 0, 0, "the reads one after another"),
    "select": (None, 0, 0, "of s · s reads that of (row mod s, column mod s)"),
    "add": (2, 0, 0, "x + y"),
    "multiply": (2, 0, 0, "x · y"),
    "relu": (1, 0, 0, "max(x, 0)"),
    "elu": (1, 0, 0, "x, or eˣ - 1 below 0"),
    "tanh": (1, 0, 0, "tanh x"),
    "sigmoid": (1, 0, 0, "σ(x)"),
    "exp": (1, 0, 0, "eˣ"),
    "gelu": (1, 0, 0, "x σ(1.5957691216 (x + 0.044715 x³)), the tanh form"),
    "gate": (1, 0, 0, "tanh(f) · σ(g) of the halves f, g of x"),
    "cell": (2, 0, 0, "σ(f) c + σ(i) tanh(g) of the quarters i, f, g, o of x, c = y: an LSTM's cell"),
    "hidden": (2, 0, 0, "σ(o) tanh(c) of the last quarter o of x, c = y"),
    "logistics": (1, 0, 0, "log Σⱼ e^{wⱼ} (mass of level k under logistic j), x = w, means, log scales"),
    "logistics within": (
        1,
        0,
        0,
        "the same, no mass of a level beyond its edges, log scales taken within -16..16",
    ),
    "logistic of": (1, 0, 1, "wⱼ + log of the mass of the symbol of channel n under logistic j, x as above"),
    "mix": (
        0,
        0,
        None,
        "ln p of the next symbol by context mixing, n: bits, words, orders; begins with nothing counted",
    ),
    "mix from": (0, 1, None, "the same; begins with the memory W (int32)"),
    "log softmax": (1, 0, 0, "x - log Σ eˣ, no number below -20"),
    "reweigh": (
        None,
        1,
        0,
        "the weights x₀ (K + 1, J) of a blend, moved by W₀ times the gradient of its last ln p: see `blend`",
    ),
    "blend": (None, 0, 0, "Σⱼ (1/J + x₀[0, j] + x₀[1 + the last symbol, j]) xⱼ₊₁: ln p of J chains, weighed"),
    "bins": (1, 2, 0, "W₁[how many of the numbers W₀ are at most x], W₀ (M,), W₁ (M + 1, N)"),
    "adapt": (
        2,
        1,
        0,
        "what a filter of normalised least mean squares knows once y came, x what it knew: see `adaptive`",
    ),
    "norm": (1, 2, 0, "(x - mean) / √(variance + 10⁻⁵) · W + b"),
    "attend": (
        3,
        0,
        None,
        "softmax attention of x over keys y, values z: n heads, pattern, its two numbers, and a window if any",
    ),
    "attend near": (
        4,
        1,
        2,
        "the same of the last L pixels, n heads and L; scores are x₀ · x₂ⱼ + x₁ · W[t - j], values x₃ⱼ",
    ),
}

ELEMENTWISE = ("add", "multiply", "relu", "elu", "tanh", "sigmoid", "exp", "gelu", "cell", "hidden")
MIXING = ("mix", "mix from")
MASSES = ("logistics", "logistics within")
ATTENDING = {
    "attend": 1,
    "attend near": 2,
}  # and how many of their reads, the first ones, are no keys and values
ONTO = ("dense onto", "dense here onto")  # both begin with a copy of their first read
HERE = ("constant here", "dense here onto", "here")  # their weights, or what they read, belong to the pixel
EARLY = ("once", "frame", "back", "row")  # the clocks that tick for more than one pixel
LEAST, HEAVIEST = -20.0, 8.0  # in a blend: the smallest ln p, and the largest weight learned
FULL, LOCAL, STRIDED, FIXED, SPREAD = range(
    5
)  # patterns of attention: see `Builder.attend`; "block" is FIXED


@dataclass(frozen=True)
class Program:
    """A step program.

    Attributes:
        axes: "grid" or "line".
        channels: C symbols a pixel; symbols: K; classes: of the context, 0 without.
        features: numbers a pixel that the caller must give, 0 without.
        values, ops: in the order in which they were made.
        logits: what to read as the logits (K,) of each channel.
        weights: float32 arrays by name; those of `mix from` are int32.
    """

    axes: str
    channels: int
    symbols: int
    classes: int
    features: int
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    logits: tuple[Read, ...]
    weights: dict[str, np.ndarray] = field(repr=False)

    @cached_property
    def sections(self) -> dict[str, list[Op]]:
        """The operations by clock, in the order in which the clocks of a pixel tick."""
        found: dict[str, list[Op]] = {clock: [] for clock in clocks(self.channels)}
        for op in self.ops:
            found[self.clock(op)].append(op)
        return found

    @cached_property
    def packed(self) -> dict[bool, np.ndarray]:
        """Room for the weights as the strict executor wants them: `layout` puts them there for all that run it.

        What few lanes compute ahead has weights of its own: by whether there is such a thing.
        """
        return {}

    @cached_property
    def pixels(self) -> int:
        """P, how many pixels the events have to have; 0: any number."""
        return max((pixels_of(self, op) for op in self.ops), default=0)

    @cached_property
    def counts(self) -> int:
        """How many whole numbers a lane keeps to learn from what it has seen; 0: it does not learn."""
        return sum(int(mixer_of(self, op)[mixing.SIZE]) for op in self.ops if op.kind in MIXING)

    @property
    def adapts(self) -> bool:
        """Whether it goes on learning within an event."""
        return any(op.kind in (*MIXING, "reweigh") for op in self.ops)

    def clock(self, op: Op) -> str:
        """When an operation runs: when its output is to be written."""
        return self.values[op.output].clock

    def reads(self) -> Iterator[Read]:
        """Everything that is read anywhere."""
        for op in self.ops:
            yield from op.reads
        yield from self.logits

    def geometry(self, event: tuple[int, ...]) -> tuple[int, int, int]:
        """(frames, rows, columns) of an event.

        Raises:
            ChainruleError: the program does not take such events.
        """
        dims = self._geometry(event)
        if self.pixels and math.prod(dims) != self.pixels:
            raise ChainruleError(f"the event has {math.prod(dims)} pixels, the model takes {self.pixels}")
        return dims

    def _geometry(self, event: tuple[int, ...]) -> tuple[int, int, int]:
        """The same for a program that takes any number of pixels."""
        if self.axes == "line":
            if math.prod(event) % self.channels:
                raise ChainruleError(
                    f"the event has {math.prod(event)} symbols, the model takes them {self.channels} at a time"
                )
            return 1, 1, math.prod(event) // self.channels
        if len(event) not in (3, 4) or event[-1] != self.channels:
            raise ChainruleError(f"events have shape {tuple(event)}, the model takes (H, W, {self.channels})")
        return (1, *event[:2]) if len(event) == 3 else tuple(event[:3])  # type: ignore[return-value]

    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the dense operations by clock, for one pixel (attention not counted)."""
        dense = [op for op in self.ops if op.kind.startswith("dense")]
        one_of = [self.values[op.output].every ** 2 * max(1, pixels_of(self, op)) for op in dense]
        sizes = [
            (self.clock(op), self.weights[op.weights[0]].size // n)
            for op, n in zip(dense, one_of, strict=True)
        ]
        return {clock: sum(n for c, n in sizes if c == clock) for clock in clocks(self.channels)}

    def __str__(self) -> str:
        """The program as text, one operation a line."""
        kinds = f"{self.symbols} symbols, {self.channels} channels, {self.classes} classes"
        lines = [f"program over a {self.axes}: {kinds}"]
        for clock, ops in self.sections.items():
            lines += [f"{clock}:"] if ops else []
            lines += [f"  {self._line(op)}" for op in ops]
        lines += [f"logits of channel {c}: {read_text(r, self)}" for c, r in enumerate(self.logits)]
        return "\n".join(lines)

    def _line(self, op: Op) -> str:
        weights = [f"{name}{list(self.weights[name].shape)}" for name in op.weights]
        args = ", ".join([*(read_text(r, self) for r in op.reads), *weights, *map(str, op.numbers)])
        value = self.values[op.output]
        when = f"  at every {value.every} rows and columns" if value.every > 1 else ""
        return f"v{op.output}[{value.width}] = {op.kind}({args}){when}"


def pixels_of(program: Program, op: Op) -> int:
    """P of an operation of the kinds `HERE`, 0 of others."""
    if op.kind not in HERE:
        return 0
    if op.kind == "here":
        return op.reads[0].width // program.values[op.output].width
    rows = program.weights[op.weights[0]].shape[0]
    return rows // max(1, sum(read.width for read in op.reads[1:]))


def mixer_of(program: Program, op: Op) -> np.ndarray:
    """The plan of an operation of the kinds `MIXING`."""
    bits, words, *orders = op.numbers
    return mixing.plan_of(program.symbols, bits, words, orders)


def look_back(op: Op) -> int:
    """How many pixels, its own included, an attention may have to look back over; 0: all there are."""
    if op.kind == "attend near":
        return op.numbers[1]
    _, pattern, length, summary, window = looks_of(op)
    near = pattern == LOCAL or (pattern in (FIXED, SPREAD) and not summary)
    return min(length, window or length) if near else window


def looks_of(op: Op) -> tuple[int, ...]:
    """Heads, pattern, length, summary and window of an `attend`; window 0: the event."""
    return (*op.numbers, 0)[:5]


def caches(program: Program) -> dict[int, int]:
    """The values that are attended to, and how many pixels each has to be kept for; 0: all."""
    found: dict[int, list[int]] = {}
    for op in program.ops:
        for read in op.reads[ATTENDING[op.kind] :] if op.kind in ATTENDING else ():
            found.setdefault(read.value, []).append(look_back(op))
    return {value: max(backs) if all(backs) else 0 for value, backs in found.items()}


def read_text(read: Read, program: Program) -> str:
    """v3, v3[64:128], v3 at (0, -1, +1)."""
    whole = (read.first, read.width) == (0, program.values[read.value].width)
    part = "" if whole else f"[{read.first}:{read.first + read.width}]"
    place = "" if read.here else f" at ({read.frames}, {read.rows}, {read.columns:+d})"
    return f"v{read.value}{part}{place}"


def clocks(channels: int) -> list[str]:
    """The clocks of a program in the order in which they tick.

    >>> clocks(2)
    ['once', 'frame', 'back', 'row', 'pixel', 'channel 0', 'channel 1', 'done']
    """
    return [*EARLY, "pixel", *(f"channel {c}" for c in range(channels)), "done"]


# ------------------------------------------------------------------------------------------------- validation


def validate(program: Program) -> Program:
    """Check that a program can be run on any event: shapes, ranges, and that nothing is read too early.

    Raises:
        ChainruleError: the first thing that is wrong. A program may come from a file: nothing is trusted.
    """
    check_facts(program)
    numbers = {id(op): number for number, op in enumerate(program.ops)}
    written: set[int] = set()
    for clock, ops in program.sections.items():
        for op in ops:
            where = f"operation {numbers[id(op)]} ({op.kind})"
            for read in op.reads:
                check_read(program, read, clock, written, where)
            check_op(program, op, where)
            require(op.output not in written, f"{where} writes v{op.output}, which is written already")
            written.add(op.output)
        if clock.startswith("channel"):
            check_logits(program, int(clock.split()[1]), written)
    require(len(written) == len(program.values), "some value is never written")
    pixels = {pixels_of(program, op) for op in program.ops if op.kind in HERE} or {0}
    require(len(pixels) == 1, f"it is for events of {min(pixels)} pixels and for events of {max(pixels)}")
    masses = program.symbols * sum(op.reads[0].width // 3 for op in program.ops if op.kind in MASSES)
    require(masses <= MOST_MASSES, f"it adds up {masses} masses a pixel, {MOST_MASSES} are allowed")
    attended = caches(program)
    for read in program.reads():
        require(
            read.value not in attended or read.here,
            f"{read_text(read, program)} is read, and v{read.value} is attended to: attend to a copy",
        )
    return program


def check_logits(program: Program, channel: int, written: set[int]) -> None:
    """The logits of a channel stand at its place when it is due."""
    read, where = program.logits[channel], f"the logits of channel {channel}"
    require(read.width == program.symbols, f"{where} are {read.width}, the symbols {program.symbols}")
    check_read(program, read, f"channel {channel}", written, where)
    require(read.here and program.values[read.value].every == 1, f"{where} are not those of the place")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ChainruleError(f"the program cannot be run: {message}")


def check_facts(program: Program) -> None:
    """What holds for the program as a whole."""
    require(program.axes in AXES, f"its axes are {str(program.axes)[:40]!r}, not one of {', '.join(AXES)}")
    for name, low, high in (
        ("channels", 1, MOST_CHANNELS),
        ("symbols", 1, MOST_SYMBOLS),
        ("classes", 0, MOST_WIDTH),
        ("features", 0, MOST_WIDTH),
    ):
        within(getattr(program, name), low, high, name)
    require(len(program.ops) <= MOST_OPS, f"it has {len(program.ops)} operations, {MOST_OPS} are allowed")
    require(len(program.values) == len(program.ops), "it has not one operation a value")
    reads = sum(len(op.reads) for op in program.ops)
    require(reads <= MOST_READS, f"it has {reads} reads, {MOST_READS} are allowed")
    require(len(program.logits) == program.channels, "it has not one reading of logits a channel")
    names = clocks(program.channels)
    for value in program.values:
        within(value.width, 1, MOST_WIDTH, "the width of a value")
        require(value.clock in names, f"there is no clock {value.clock[:40]!r}")
        require(value.every in (1, 2, 4, 8), f"a value stands at every {value.every} rows: take 1, 2, 4 or 8")
        require(value.every == 1 or value.clock in ("row", "pixel"), "only rows and pixels can be skipped")
        require(not value.carried or (value.every == 1 and value.clock not in EARLY), "a row is carried")
    for op in program.ops:
        within(op.output, 0, len(program.values) - 1, "the output of an operation")
        require(op.kind in OPS, f"there is no operation {op.kind[:40]!r}")
    used = {name for op in program.ops for name in op.weights}
    require(used == program.weights.keys(), "the weights are not those that the operations name")
    for name, array in program.weights.items():
        require(array.ndim in (1, 2), f"the weights {name[:40]!r} have shape {array.shape}")
        require(bool(np.isfinite(array).all()), f"the weights {name[:40]!r} are not numbers: {DIVERGED}")


def within(number: Any, low: int, high: int, what: str) -> None:
    good = isinstance(number, int) and not isinstance(number, bool) and low <= number <= high
    require(good, f"{what} is {repr(number)[:20]}, it must be {low} to {high}")


def check_op(program: Program, op: Op, where: str) -> None:
    """Numbers of reads and weights, and their shapes."""
    reads, weights, numbers, _ = OPS[op.kind]
    require(reads in (None, len(op.reads)), f"{where} has {len(op.reads)} reads")
    require(weights == len(op.weights), f"{where} has {len(op.weights)} weights")
    require(numbers in (None, len(op.numbers)), f"{where} has {len(op.numbers)} numbers")
    value = program.values[op.output]
    for name in op.weights:
        require(name in program.weights, f"{where} has no weights {name[:40]!r}")
        whole = program.weights[name].dtype.kind == "i"
        require(whole == (op.kind == "mix from"), f"{where} has weights of the wrong type, {name[:40]!r}")
    shapes = [program.weights[name].shape for name in op.weights]
    wanted = SHAPES[op.kind](program, op, value.width, [read.width for read in op.reads])
    require(wanted is not None, f"{where}: its reads do not fit its output of {value.width}")
    require(shapes == wanted, f"{where}: its weights have shapes {shapes}, not {wanted}")
    itself = [i for i, read in enumerate(op.reads) if read.value == op.output and read.here]
    harmless = op.kind in ELEMENTWISE or (op.kind in (*ONTO, "reweigh", "adapt") and itself == [0])
    require(not itself or harmless, f"{where} reads v{op.output} while it writes it")


def _same(count):
    def shapes(program, op, n, widths):
        return [] if widths == [n] * count else None

    return shapes


def _dense(program, op, n, widths):
    return [(sum(widths), n), (n,)] if widths else None


def _dense_onto(program, op, n, widths):
    return [(sum(widths[1:]), n)] if len(widths) > 1 and widths[0] == n else None


def _pixels(program, op):
    """P of an operation whose weights, or what it reads, belong to the pixel."""
    clock, pixels = program.clock(op), pixels_of(program, op)
    require(clock not in EARLY, f"{op.kind!r} belongs to a pixel, the clock {clock!r} does not")
    within(pixels, 1, MOST_WIDTH, f"the number of pixels of {op.kind!r}")
    return pixels


def _constant_here(program, op, n, widths):
    return [(_pixels(program, op), n)]


def _constant_cycle(program, op, n, widths):
    clock, rows = program.clock(op), program.weights[op.weights[0]].shape[0]
    require(clock not in EARLY, f"{op.kind!r} belongs to a pixel, the clock {clock!r} does not")
    within(rows, 1, MOST_WIDTH, f"the number of rows of {op.kind!r}")
    return [(rows, n)]


def _dense_here(program, op, n, widths):
    shape = (_pixels(program, op) * sum(widths[1:]), n)
    return [shape] if len(widths) > 1 and widths[0] == n else None


def _part_here(program, op, n, widths):
    return [] if widths == [_pixels(program, op) * n] else None


def _embed(program, op, n, widths):
    frames, rows, columns, channel, outside = op.numbers
    for number in (frames, rows):
        within(number, -MOST_AWAY, 0, "the place of a symbol")
    within(columns, -MOST_AWAY, MOST_AWAY, "the place of a symbol")
    within(channel, 0, program.channels - 1, "the channel of a symbol")
    within(outside, -1, program.symbols, "the row of a table")
    require(
        symbol_is_known(program.clock(op), frames, rows, columns, channel),
        "a symbol is read before it is written",
    )
    table = program.weights[op.weights[0]].shape[0]
    require(program.symbols <= table <= program.symbols + 1 and outside < table, "a table is too short")
    return [(table, n)] if widths in ([], [n]) else None


def _copy(program, op, n, widths):
    require(len(op.numbers) == 3 * widths[1], "a copy has not three numbers for each place")
    for rows, columns, channel in zip(*[iter(op.numbers)] * 3, strict=True):
        within(rows, -MOST_AWAY, 0, "the place of a symbol")
        within(columns, -MOST_AWAY, MOST_AWAY, "the place of a symbol")
        within(channel, 0, program.channels - 1, "the channel of a symbol")
        known = symbol_is_known(program.clock(op), 0, rows, columns, channel)
        require(known, "a symbol is read before it is written")
    return [] if widths[0] == n == program.symbols else None


def symbol_is_known(clock: str, frames: int, rows: int, columns: int, channel: int) -> bool:
    """Whether an operation of this clock may read the symbol so far away."""
    if frames < 0:
        return clock != "once"
    if rows < 0:
        return clock not in ("once", "frame")
    if columns < 0:
        return clock not in EARLY
    if columns > 0 or clock in (*EARLY, "pixel"):
        return False
    return clock == "done" or channel < int(clock.split()[1])


def _levels(program, op, n, widths):
    return [(2,)] if program.clock(op) == "done" and n == program.channels else None


def _class(program, op, n, widths):
    return [(program.classes, n)] if program.clock(op) == "once" and program.classes else None


def _position(program, op, n, widths):
    return [] if n == 2 and program.clock(op) != "once" and program.axes == "grid" else None


def _features(program, op, n, widths):
    return [] if program.clock(op) == "frame" and n == program.features > 0 else None


def _concat(program, op, n, widths):
    return [] if sum(widths) == n else None


def _select(program, op, n, widths):
    return [] if widths in ([n] * 4, [n] * 16, [n] * 64) else None


def _gate(program, op, n, widths):
    return [] if widths == [2 * n] else None


def _cell(program, op, n, widths):
    return [] if widths == [4 * n, n] else None


def _logistics(program, op, n, widths):
    late = program.clock(op) not in EARLY
    return [] if late and n == program.symbols and widths[0] % 3 == 0 else None


def _logistic_of(program, op, n, widths):
    (channel,) = op.numbers
    within(channel, 0, program.channels - 1, "the channel of a symbol")
    require(symbol_is_known(program.clock(op), 0, 0, 0, channel), "a symbol is read before it is written")
    return [] if widths == [3 * n] else None


def _mix(program, op, n, widths):
    require(len(op.numbers) >= 2, "a mixer has not its numbers")
    plan = mixer_of(program, op)
    plain = program.clock(op) == "pixel" and program.values[op.output].every == 1
    shapes = [(int(plan[mixing.SIZE]),)] if op.weights else []
    return shapes if plain and n == program.symbols else None


def _blend_of(program, op, parts):
    """J, when these are the widths of the ln p of J chains, and the operation can know the last symbols."""
    plain = program.channels == 1 and program.axes == "line" and program.clock(op) == "pixel"
    return len(parts) if plain and parts and set(parts) == {program.symbols} else None


def _blend(program, op, n, widths):
    count = _blend_of(program, op, widths[1:])
    return [] if count and widths[0] == (program.symbols + 1) * count and n == program.symbols else None


def _reweigh(program, op, n, widths):
    count = _blend_of(program, op, widths[1:-1])
    size = (program.symbols + 1) * (count or 0)
    fits = count and widths[0] == n == size and widths[-1] == program.symbols
    fits = fits and program.values[op.output].carried and op.reads[0].value == op.output
    before = all((r.frames, r.rows, r.columns) == (0, 0, -1) for r in op.reads[1:])
    return [(1,)] if fits and before and op.reads[0].here else None


def _bins(program, op, n, widths):
    edges = len(program.weights[op.weights[0]])
    return [(edges,), (edges + 1, n)] if widths == [1] else None


def _adapt(program, op, n, widths):
    fits = program.values[op.output].carried and op.reads[0].value == op.output and op.reads[0].here
    return [(2,)] if fits and n >= 6 and n % 2 == 0 and widths == [n, 1] else None


def _norm(program, op, n, widths):
    return [(n,), (n,)] if widths == [n] else None


def _attend(program, op, n, widths):
    require(len(op.numbers) in (4, 5), f"an attention has {len(op.numbers)} numbers: it takes 4 or 5")
    heads, pattern, a, b = op.numbers[:4]
    within(heads, 1, n, "the number of heads")
    within(pattern, FULL, SPREAD, "the pattern of an attention")
    within(a, 1, MOST_AWAY, "the length of a pattern")
    within(b, 0, MOST_AWAY, "the length of a pattern")
    for window in op.numbers[4:]:
        within(window, 1, MOST_WIDTH, "the window of an attention")
    return [] if _attends(program, op, n, widths) and n % heads == 0 else None


def _attend_near(program, op, n, widths):
    heads, length = op.numbers
    within(heads, 1, n, "the number of heads")
    within(length, 1, MOST_AWAY, "the length of an attention")
    return [(length, n)] if _attends(program, op, n, widths) and n % heads == 0 else None


def _attends(program, op, n, widths):
    """Whether the last two reads can be keys and values, and what is read is as wide as what is written."""
    keys, values = op.reads[-2:]
    caches = program.values[keys.value], program.values[values.value]
    plain = all(v.every == 1 and v.clock == "pixel" and not v.carried for v in caches)
    whole = keys.first == 0 and values.first == 0
    fits = set(widths) == {n} and [v.width for v in caches] == [n, n]
    fits = fits and keys.here and values.here and program.values[op.output].every == 1
    return program.clock(op) == "pixel" and plain and whole and fits


SHAPES = {
    "constant": lambda program, op, n, widths: [(n,)],
    "dense": _dense,
    "dense onto": _dense_onto,
    "constant here": _constant_here,
    "constant cycle": _constant_cycle,
    "dense here onto": _dense_here,
    "here": _part_here,
    "embed": _embed,
    "embed onto": _embed,
    "copy onto": _copy,
    "class": _class,
    "levels": _levels,
    "position": _position,
    "features": _features,
    "concat": _concat,
    "select": _select,
    "add": _same(2),
    "multiply": _same(2),
    **{kind: _same(1) for kind in ("relu", "elu", "tanh", "sigmoid", "exp", "gelu")},
    "gate": _gate,
    "cell": _cell,
    "hidden": _cell,
    "logistics": _logistics,
    "logistics within": _logistics,
    "logistic of": _logistic_of,
    "mix": _mix,
    "mix from": _mix,
    "log softmax": _same(1),
    "reweigh": _reweigh,
    "blend": _blend,
    "bins": _bins,
    "adapt": _adapt,
    "norm": _norm,
    "attend": _attend,
    "attend near": _attend_near,
}


def check_read(program: Program, read: Read, clock: str, written: set[int], where: str) -> None:
    """A value may be read where it is written already, whatever the size of the event."""
    within(read.value, 0, len(program.values) - 1, f"a value read by {where}")
    value = program.values[read.value]
    within(read.first, 0, value.width - 1, f"a part read by {where}")
    within(read.width, 1, value.width - read.first, f"the width of a part read by {where}")
    for number in (read.frames, read.rows, read.columns):
        within(number, -MOST_AWAY, MOST_AWAY, f"a place read by {where}")
    known = read.here if value.carried else is_known(read, value.clock, clock, read.value in written)
    require(known, f"{where} reads {read_text(read, program)} before it is written")


def is_known(read: Read, writer: str, reader: str, written: bool) -> bool:
    """Whether a reader at its clock finds the value: `written` says so of the very place it stands at."""
    frames, rows, columns = read.frames, read.rows, read.columns
    if writer == "once":
        return read.here and written
    if reader == "once":
        return False
    if frames or writer == "frame":
        return frames < 0 or (frames == 0 and written)
    if reader == "frame" or rows > 0:
        return False
    if rows < 0:
        return True
    if writer == reader == "back":
        return columns > 0 or (columns == 0 and written)
    if writer in ("back", "row"):
        return written
    if reader in ("back", "row") or columns > 0:
        return False
    return columns < 0 or written


# ---------------------------------------------------------------------------------------------------- storing


def dump(program: Program) -> bytes:
    """The program as the bytes of a safetensors file; the same program gives the same bytes."""
    import safetensors.numpy

    return safetensors.numpy.save(program.weights, {"program": header_text(program)})


def header_text(program: Program) -> str:
    """All of a program but its weights, as sorted JSON."""
    header = {
        "format": FORMAT,
        "axes": program.axes,
        **{key: getattr(program, key) for key in ("channels", "symbols", "classes", "features")},
        "values": [list(asdict(value).values()) for value in program.values],
        "ops": [
            [op.kind, op.output, [list(asdict(r).values()) for r in op.reads], op.weights, op.numbers]
            for op in program.ops
        ],
        "logits": [list(asdict(read).values()) for read in program.logits],
    }
    return json.dumps(header, sort_keys=True, separators=(",", ":"))


def identity(program: Program) -> str:
    """SHA-256 of a program: its text, and sorted (name, shape, bytes) of its weights, little-endian."""
    digest = hashlib.sha256(header_text(program).encode())
    for name, array in sorted(program.weights.items()):
        digest.update(json.dumps([name, list(array.shape)]).encode())
        digest.update(array.astype("<i4" if array.dtype.kind == "i" else "<f4").tobytes())
    return digest.hexdigest()


def parse(data: bytes, origin: str = "the program") -> Program:
    """The program in the bytes that `dump` gave.

    Raises:
        ChainruleError: they are something else, or a program that cannot be run.
    """
    import safetensors
    import safetensors.numpy

    try:
        size = int.from_bytes(data[:8], "little")
        if size > min(MOST_TEXT, len(data) - 8):
            raise ValueError(f"its header claims {size} bytes of {len(data)}")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["program"])
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}, this version reads {FORMAT}")
        program = of_json(header, dict(safetensors.numpy.load(data)))
        if any(array.dtype not in (np.float32, np.int32) for array in program.weights.values()):
            raise ValueError("its weights are not all float32, or int32")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        safetensors.SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise ChainruleError(f"{origin} is damaged or no program: {reason}") from error
    return validate(program)


def of_json(header: dict[str, Any], weights: dict[str, np.ndarray]) -> Program:
    """A program of what JSON can hold; types are checked here, meaning by `validate`."""
    fields = ("axes", "channels", "symbols", "classes", "features")
    if sorted(header) != sorted([*fields, "format", "values", "ops", "logits"]):
        raise ValueError(f"its fields are {', '.join(sorted(header))[:80]}")
    facts = {key: header[key] for key in fields}
    values = tuple(Value(*typed(row, (int, str, int, bool))) for row in header["values"])
    ops = []
    for kind, output, reads, names, numbers in header["ops"]:
        typed([kind, output], (str, int))
        typed(names, (str,) * len(names))
        typed(numbers, (int,) * len(numbers))
        ops.append(Op(kind, output, tuple(map(read_of, reads)), tuple(names), tuple(numbers)))
    logits = tuple(map(read_of, header["logits"]))
    return Program(**facts, values=values, ops=tuple(ops), logits=logits, weights=weights)


def read_of(row: list[int]) -> Read:
    return Read(*typed(row, (int,) * 6))


def typed(row: Any, types: tuple[type, ...]) -> list[Any]:
    """The row, if it is a list of just these types (a bool is no int)."""
    if not isinstance(row, list) or [type(entry) for entry in row] != list(types):
        raise ValueError(f"{str(row)[:60]} is not what a program is made of")
    return row
