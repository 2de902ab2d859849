"""Where everything lies: a program, the size of an event and the lanes, as the tables that the kernels run.

A value is an array (frames, rows, columns, lanes, width) of which only what is read again is kept: one place,
the last rows, the last columns, or all. Outside the event lie zeros, as padding that is never written. Lanes
are next to each other, so at a pixel an operation works on (lanes, width) and in a whole row on (columns ·
lanes, width), with one stride. Widths are rounded up to 16 numbers, what a vector register can hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from chainrule.engine.mixing import MOST_ORDERS, ORDER, SIZE, Curves, curves
from chainrule.engine.program import (
    ATTENDING,
    EARLY,
    MASSES,
    MIXING,
    Op,
    Program,
    Read,
    caches,
    clocks,
    look_back,
    looks_of,
    mixer_of,
)
from chainrule.errors import ChainruleError

VECTOR = 16
AHEAD = 32  # columns times lanes at most for which a product of what is known early is computed at once
LIMIT = 1 << 30  # numbers of float32 that the values of all lanes may take: 4 GiB

KINDS = (
    "fill", "copy", "dense", "embed", "class", "levels", "position", "features", "select", "add", "multiply",
    "relu", "elu", "tanh", "sigmoid", "exp", "gelu", "gate", "cell", "hidden", "norm", "attend", "point",
    "fill here", "fill cycle", "copy here", "dense here", "logistics", "logistic of", "mix", "log softmax",
    "reweigh", "blend", "attend near", "logistics within", "bins", "adapt", "ahead",
)  # fmt: skip
CODES = {kind: code for code, kind in enumerate(KINDS)}

# columns of the table of operations; A to E are the operation's own numbers. Of a product A is how far it is from the
# weights of one pixel to those of the next, or how many columns it is computed for; B how far its stripes are apart; C
# what it begins with, D where that is and E its width
KIND, OUT, IN, COUNT, N, K, WEIGHT, BIAS, EVERY, WHOLE, A, B, C, D, E = range(15)
FROM_BIAS, FROM_VALUE = 1, 2  # what a product begins with; 0: what is there
# columns of the table of reads
BASE, HALF, ROW, ROWS, ROW_STEP, FRAME, FRAMES, FRAME_STEP, COLUMN, MASK, STEP, LINE = range(12)


class Tables(NamedTuple):
    """What the kernels are given; all but `places` stays as it is.

    ops (n, 15) int64, reads (m, 12) int32; places (m,) int64, where the current row of each read begins; starts: the
    first operation of each clock; logits: the read of each channel's; wipe (w, 2): what a new frame clears;
    weights float32; dims: frames, rows, columns, channels, symbols, lanes, numbers a group; mixers (x, 25): the plan
    of each; primed int32: the counts that a lane begins with; curves: the functions of the mixers.
    """

    ops: np.ndarray
    reads: np.ndarray
    places: np.ndarray
    starts: np.ndarray
    logits: np.ndarray
    wipe: np.ndarray
    weights: np.ndarray
    dims: np.ndarray
    mixers: np.ndarray
    primed: np.ndarray
    curves: Curves


@dataclass(frozen=True)
class Store:
    """Where a value lies: its first number, how many places it has, and what lies around the event."""

    base: int
    line: int  # numbers a lane: the width rounded up
    half: int  # log2 of its stride
    frames: int
    rows: int
    columns: int
    top: int
    left: int
    mask: int  # of the column: -1, or the length of a ring - 1


def layout(program: Program, event: tuple[int, ...], lanes: int) -> Tables:
    """The tables of a program for events of this shape and groups of so many lanes.

    Raises:
        ChainruleError: the event does not fit the program, or the values would take too much memory.
    """
    dims = program.geometry(event)
    stores, size = place(program, dims, lanes)
    sums, size = place_sums(program, lanes, size)
    positions = dims[0] * dims[1] * dims[2]
    seen = [min(look_back(op) or positions, positions) for op in program.ops if op.kind in ATTENDING]
    scratch = size
    size += rounded(max(seen, default=0))  # the scores of one head
    if size > LIMIT:
        raise ChainruleError(
            f"events of shape {tuple(event)} take {size / 2**28:.1f} GiB in {lanes} lanes, {LIMIT >> 28} GiB are "
            "allowed: take smaller ones"
        )
    lowering = Lowering(program, stores, sums, lanes, scratch)
    starts = [0]
    for clock in clocks(program.channels):
        for op in program.sections[clock]:
            lowering.lower(op)
        starts.append(len(lowering.ops))
    logits = [lowering.read(read) for read in program.logits]
    ring = [
        (s.base, s.frames * s.rows * s.columns * lanes * s.line)
        for value, s in zip(program.values, stores, strict=True)
        if s.rows > 1 and s.frames == 1 and not value.carried and value.clock != "frame"
    ]
    return Tables(
        table(lowering.ops, 15),
        table(lowering.reads, 12).astype(np.int32),  # half as much to read at every step
        np.zeros(len(lowering.reads), np.int64),
        np.array(starts, np.int64),
        np.array(logits, np.int64),
        table(ring, 2),
        lowering.all_weights(),
        np.array([*dims, program.channels, program.symbols, lanes, size], np.int64),
        np.array(lowering.mixers, np.int64).reshape(-1, ORDER + MOST_ORDERS),
        np.concatenate([*lowering.primed, np.zeros(0, np.int32)]),
        curves(),
    )


def table(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, width)


def rounded(width: int) -> int:
    """The next multiple of 16."""
    return -(-width // VECTOR) * VECTOR


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows (m, n) float32, filled up with zeros to a multiple of 16 numbers."""
    out = np.zeros((len(rows), rounded(rows.shape[1])), np.float32)
    out[:, : rows.shape[1]] = rows
    return out


def striped(matrix: np.ndarray, rows: int) -> np.ndarray:
    """Matrices (m · rows, n), one below the other, each as stripes of 16 columns: what a product reads in order.

    >>> striped(np.arange(64).reshape(2, 32), 2)[:, 0]
    array([ 0., 32., 16., 48.], dtype=float32)
    """
    wide = padded(matrix)
    stripes = wide.reshape(-1, rows, wide.shape[1] // VECTOR, VECTOR)
    return stripes.swapaxes(1, 2).reshape(-1, VECTOR)


def place(program: Program, dims: tuple[int, int, int], lanes: int) -> tuple[list[Store], int]:
    """A place for every value, and how many numbers they take together."""
    reads: list[list[Read]] = [[] for _ in program.values]
    for read in program.reads():
        reads[read.value].append(read)
    cached = caches(program)
    stores, size = [], 0
    for i, value in enumerate(program.values):
        shape = extent(value, reads[i], dims, program.axes == "line", cached.get(i))
        store = Store(size, rounded(value.width), value.every.bit_length() - 1, *shape)
        stores.append(store)
        size += store.frames * store.rows * store.columns * lanes * store.line
    return stores, size


def extent(value, reads, dims, line, cached) -> tuple[int, int, int, int, int, int]:
    """(frames, rows, columns, top, left, mask) of a value: what of it is read again, and the zeros around.

    `cached`: of what is attended to, the pixels that have to be kept (0: all); None of other values.
    """
    _, height, width = dims
    height, width = -(-height // value.every), -(-width // value.every)
    up, down = max((-r.rows for r in reads), default=0), max((r.rows for r in reads), default=0)
    back, ahead = max((-r.columns for r in reads), default=0), max((r.columns for r in reads), default=0)
    before = max((-r.frames for r in reads), default=0)
    up, down, back, ahead = max(up, 0), max(down, 0), max(back, 0), max(ahead, 0)
    if cached is not None:
        ring = 1 << (cached - 1).bit_length() if line and cached else width
        return (1, 1, ring, 0, 0, ring - 1) if ring < width else (dims[0], height, width, 0, 0, -1)
    moves = up or down or back or ahead or before or value.clock in EARLY or value.every > 1
    if value.carried or value.clock == "once" or not moves:
        return 1, 1, 1, 0, 0, -1
    if value.clock == "frame" or before:
        return before + 1, height + up + down, width + back + ahead, up, back, -1
    if line and value.clock not in EARLY and not up:
        ring = 1 << back.bit_length()
        return 1, 1, ring, 0, 0, ring - 1
    return 1, up + 1, width + back + ahead, 0, back, -1


def place_sums(program: Program, lanes: int, size: int) -> tuple[dict[int, Store], int]:
    """After the values, of so many numbers: a place for sums ahead of each value that has some; and the new size."""
    stores = {}
    for op in program.ops:
        if (columns := ahead(program, op, lanes)[1]) > 1:
            line = rounded(program.values[op.output].width)
            stores[op.output] = Store(size, line, 0, 1, 1, columns, 0, 0, columns - 1)
            size += columns * lanes * line
    return stores, size


def ahead(program: Program, op: Op, lanes: int) -> tuple[int, int]:
    """(inputs, columns): a product of the first so many inputs is computed for so many columns of a line at once.

    What a WaveNet reads d samples back is known for the next d samples, so few lanes read those weights once for
    several columns and not at each: from the second level of the cache on, reading weights is what takes the time.
    """
    value = program.values[op.output]
    late = program.axes == "line" and program.clock(op) not in EARLY and value.every == 1
    if not late or op.kind not in ("dense", "dense onto"):
        return 0, 1
    start, inputs = op.reads[: op.kind == "dense onto"], op.reads[op.kind == "dense onto" :]
    known = [1 if program.values[read.value].clock == "once" else known_for(program, read) for read in inputs]
    count = next((i for i, columns in enumerate(known) if columns < 2), len(known))
    columns = min([AHEAD // lanes, *(known_for(program, read) for read in start), *known[:count]])
    return (count, 1 << columns.bit_length() - 1) if count and columns > 1 else (0, 1)


def known_for(program: Program, read: Read) -> int:
    """For how many columns of a line, from the present one on, the numbers that will be read are known already."""
    value = program.values[read.value]
    if read.frames or read.rows or value.every > 1 or value.carried:
        return 1
    return AHEAD if value.clock in EARLY else max(1, -read.columns)


def apart(program: Program, stores: Sequence[Store], dims: tuple[int, int, int]) -> list[int]:
    """The values that lanes with the same context have each for itself, and that are read again later.

    In the first row nothing that is computed for a whole row knows a symbol, nor in the first frame what is for all of
    it. What has one place and is not carried is written anew at every pixel before it is read: it is needed only while
    a pixel goes on, to another channel or to what is done at its end.
    """
    frames, rows, _ = dims
    alike = EARLY if frames == rows == 1 else EARLY[: 2 if frames == 1 else 1]
    over = program.channels == 1 and not program.sections["done"]

    def passing(i: int) -> bool:
        value, s = program.values[i], stores[i]
        single = s.frames == s.rows == s.columns == 1 and s.mask == -1
        return over and single and value.every == 1 and not value.carried

    return [i for i, value in enumerate(program.values) if value.clock not in alike and not passing(i)]


def aligned(size: int) -> np.ndarray:
    """Zeros (size,) float32 that begin where a line of the processor's cache does."""
    room = np.zeros(size + 16, np.float32)
    first = -room.ctypes.data % 64 // 4
    return room[first : first + size]


class Lowering:
    """Turns operations into rows of the kernels' tables."""

    def __init__(
        self, program: Program, stores: list[Store], sums: dict[int, Store], lanes: int, scratch: int
    ):
        self.program, self.stores, self.sums = program, stores, sums
        self.lanes, self.scratch = lanes, scratch
        self.ops: list[list[int]] = []
        self.reads: list[list[int]] = []
        self.weights: list[np.ndarray] = []
        self.used = 0
        self.mixers: list[np.ndarray] = []
        self.primed: list[np.ndarray] = []

    def read(self, read: Read) -> int:
        """A row of the table of reads; gives its number."""
        return self.read_from(self.stores[read.value], read)

    def read_from(self, store: Store, read: Read) -> int:
        """The same where the numbers of the value, or others of its width, lie in this store."""
        line = self.lanes * store.line
        single = store.frames == store.rows == store.columns == 1 and store.mask == -1
        self.reads.append(
            [
                *(store.base + read.first, store.half),
                *(read.rows + store.top, store.rows, store.columns * line),
                *(read.frames, store.frames, store.rows * store.columns * line),
                *(read.columns + store.left, store.mask, 0 if single else line, store.line),
            ]
        )
        return len(self.reads) - 1

    def keep(self, array: np.ndarray, stripes: int = 0) -> int:
        """Put weights (n,) or (m, n) into memory, row by row, or as stripes of so many rows; gives where they begin."""
        array = np.atleast_2d(array)
        size = len(array) * rounded(array.shape[1])
        if bool(self.sums) not in self.program.packed:
            self.weights.append((striped(array, stripes) if stripes else padded(array)).ravel())
        self.used += size
        return self.used - size

    def all_weights(self) -> np.ndarray:
        """All that was kept, where a line of the processor's cache begins; made once for a program, then shared."""
        packed, early = self.program.packed, bool(self.sums)
        if early not in packed:
            found, first = aligned(self.used + VECTOR), 0
            for part in self.weights:
                found[first : first + part.size] = part
                first += part.size
            packed[early] = found
        return packed[early]

    def emit(self, kind: str, out: Read, reads: Sequence[Read] = (), n: int = 0, **more: int) -> None:
        """A row of the table of operations."""
        self.emit_row(kind, out, [self.read(out), *(self.read(read) for read in reads)], reads, n, **more)

    def emit_row(
        self, kind: str, out: Read, numbers: list[int], reads: Sequence[Read], n: int = 0, **more: int
    ) -> None:
        """The same where the numbers of its reads, that of the output first, are known."""
        value = self.program.values[out.value]
        row = dict.fromkeys(range(15), 0)
        row |= {KIND: CODES[kind], OUT: numbers[0], IN: numbers[0] + 1, COUNT: len(reads)}
        row |= {N: n or out.width, EVERY: value.every, WHOLE: self.is_whole(kind, [out, *reads])}
        row |= {NAMES[key]: number for key, number in more.items()}
        self.ops.append(list(row.values()))

    def is_whole(self, kind: str, reads: list[Read]) -> int:
        """Whether an operation can do a row in one go: all its reads advance by one place a column."""
        stores = [self.stores[read.value] for read in reads]
        plain = kind not in (
            "embed",
            "point",
            "levels",
            "position",
            "features",
            "select",
            *ATTENDING,
            "logistic of",
            "mix",
            "reweigh",
            "blend",
            "ahead",
        )
        return int(plain and all(s.half == 0 and s.mask == -1 and s.columns > 1 for s in stores))

    def lower(self, op: Op) -> None:
        """One operation of the program, as one or more of the kernels'."""
        out = Read(op.output, width=self.program.values[op.output].width)
        weights = [self.program.weights[name] for name in op.weights]
        lines = {"dense": self.dense, "dense onto": self.dense, "dense here onto": self.dense}
        lines |= {"embed": self.embed, "embed onto": self.embed}
        if op.kind in lines:
            lines[op.kind](op, out, weights)
        elif op.kind == "constant":
            self.emit("fill", out, weight=self.keep(weights[0]))
        elif op.kind == "constant here":
            self.emit("fill here", out, weight=self.keep(weights[0]), a=rounded(out.width))
        elif op.kind == "constant cycle":
            rows = len(weights[0])
            self.emit("fill cycle", out, weight=self.keep(weights[0]), a=rounded(out.width), b=rows)
        elif op.kind == "here":
            self.emit("copy here", out, op.reads)
        elif op.kind == "concat":
            for i, read in enumerate(op.reads):
                first = sum(r.width for r in op.reads[:i])
                self.emit("copy", Read(op.output, first=first, width=read.width), [read])
        elif op.kind == "norm":
            self.emit("norm", out, op.reads, weight=self.keep(weights[0]), bias=self.keep(weights[1]))
        elif op.kind == "bins":
            edges, table = self.keep(weights[0]), self.keep(weights[1])
            self.emit(
                "bins", out, op.reads, weight=table, bias=edges, a=rounded(out.width), k=len(weights[0])
            )
        elif op.kind == "adapt":
            self.emit("adapt", out, op.reads, weight=self.keep(weights[0]))
        elif op.kind == "copy onto":
            self.emit("copy", out, op.reads[:1])
            for j, (rows, columns, channel) in enumerate(zip(*[iter(op.numbers)] * 3, strict=True)):
                gate = replace(op.reads[1], first=op.reads[1].first + j, width=1)
                self.emit("point", out, [gate], b=rows, c=columns, d=channel)
        elif op.kind in MASSES:
            self.emit(op.kind, out, op.reads, k=op.reads[0].width // 3)
        elif op.kind == "logistic of":
            self.emit("logistic of", out, op.reads, d=op.numbers[0])
        elif op.kind in MIXING:
            self.mix(op, out, weights)
        elif op.kind == "attend":
            a, b, c, d, k = looks_of(op)
            self.emit("attend", out, op.reads, a=a, b=b, c=c, d=d, k=k, e=self.scratch)
        elif op.kind == "attend near":
            heads, length = op.numbers
            weight = self.keep(weights[0])
            self.emit(
                op.kind, out, op.reads, weight=weight, a=heads, b=rounded(out.width), c=length, e=self.scratch
            )
        else:
            weight = self.keep(weights[0]) if weights else 0
            self.emit(op.kind, out, op.reads, weight=weight)

    def mix(self, op: Op, out: Read, weights: list[np.ndarray]) -> None:
        """A mixer: its plan, and where its memory begins in the counts of a lane."""
        plan, first = mixer_of(self.program, op), sum(map(len, self.primed))
        self.emit("mix", out, a=len(self.mixers), b=first)
        self.mixers.append(np.pad(plan, (0, ORDER + MOST_ORDERS - len(plan))))
        self.primed += weights or [np.zeros(int(plan[SIZE]), np.int32)]

    def dense(self, op: Op, out: Read, weights: list[np.ndarray]) -> None:
        """The start, then a product for each run of reads of one shape."""
        early, columns = ahead(self.program, op, self.lanes)
        start, inputs = (None, op.reads) if op.kind == "dense" else (op.reads[0], op.reads[1:])
        bias, begun = self.keep(weights[1]) if start is None else 0, len(self.ops)
        if early:
            self.products_ahead(out, start, inputs[:early], bias, weights[0], columns)
        elif start is None:
            self.emit("fill", out, weight=bias)
        elif start.value != op.output or not start.here:
            self.emit("copy", out, [start])
        joined = len(self.ops) > begun and self.program.clock(op) not in EARLY
        rows = sum(read.width for read in inputs[early:])
        kind, step = "dense", 0
        if op.kind == "dense here onto":
            kind, step = "dense here", rows * rounded(out.width)
        matrix = self.keep(weights[0][len(weights[0]) - rows :] if early else weights[0], rows) if rows else 0
        for run, first in self.runs(inputs[early:]):
            where = {"k": run[0].width, "weight": matrix + first * VECTOR, "a": step, "b": rows * VECTOR}
            self.emit(kind, out, run, n=rounded(out.width), **where)
            if joined and first == 0:
                self.join(self.ops.pop(-2), out)

    def join(self, start: list[int], out: Read) -> None:
        """The last operation begins with what another one would write: of a pixel there is little else to do."""
        filled = start[KIND] == CODES["fill"]
        self.begin(FROM_BIAS if filled else FROM_VALUE, start[WEIGHT if filled else IN], out)

    def begin(self, how: int, where: int, out: Read) -> None:
        """What the last operation begins with."""
        self.ops[-1][C], self.ops[-1][D], self.ops[-1][E] = how, where, out.width

    def products_ahead(self, out, start, inputs, bias, weight, columns) -> None:
        """The same of what is known early, for so many columns at once; then a copy of the present one."""
        rows, sums = sum(read.width for read in inputs), self.sums[out.value]
        matrix = self.keep(weight[:rows], rows)
        for run, first in self.runs(inputs):
            numbers = [self.read_from(sums, out), *(self.read(read) for read in run)]
            where = {"k": run[0].width, "weight": matrix + first * VECTOR, "b": rows * VECTOR}
            self.emit_row("ahead", out, numbers, run, rounded(out.width), a=columns, **where)
            if first == 0:
                self.begin(
                    FROM_BIAS if start is None else FROM_VALUE,
                    bias if start is None else self.read(start),
                    out,
                )
        self.emit_row("copy", out, [self.read(out), self.read_from(sums, out)], [out])

    def runs(self, inputs: Sequence[Read]) -> Iterator[tuple[list[Read], int]]:
        """Reads that can go through one product, and how many numbers of all lie before them."""
        run: list[Read] = []
        first = done = 0
        for read in inputs:
            if run and not self.alike(run[0], read):
                yield run, first
                run, first = [], done
            run.append(read)
            done += read.width
        if run:
            yield run, first

    def alike(self, a: Read, b: Read) -> bool:
        """Whether two reads can go through one product."""
        return a.width == b.width and self.stores[a.value].line == self.stores[b.value].line

    def embed(self, op: Op, out: Read, weights: list[np.ndarray]) -> None:
        """A look-up, onto zeros or onto a value."""
        if op.kind == "embed onto":
            self.emit("copy", out, op.reads)
        else:
            zero = self.keep(np.zeros(out.width, np.float32))
            self.emit("fill", out, weight=zero)
        frames, rows, columns, channel, outside = op.numbers
        weight = self.keep(weights[0])
        self.emit("embed", out, weight=weight, a=frames, b=rows, c=columns, d=channel, e=outside)


NAMES = {"k": K, "weight": WEIGHT, "bias": BIAS, "a": A, "b": B, "c": C, "d": D, "e": E}
