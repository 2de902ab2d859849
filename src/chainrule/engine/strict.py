"""The strict executor: programs on processors, fast, with the same bits on every machine."""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numpy as np

from chainrule.coding import check_count, finished, new_decoder, new_encoder, words_of
from chainrule.engine import kernels
from chainrule.engine.builder import Builder
from chainrule.engine.layout import LIMIT, aligned, apart, layout, place, place_sums, rounded, striped
from chainrule.engine.mixing import SIZE, memories, plan_of
from chainrule.engine.program import Program
from chainrule.errors import ChainruleError
from chainrule.jit import announce, ieee

ARITHMETIC = "strict1"
GROUP = 32  # lanes that are computed side by side: what they need stays in the processor's cache
MIXED = 50_000  # multiply-adds that take as long as a mixer at a symbol
CHUNK = 3e8  # multiply-adds between two looks at the clock and at Ctrl-C: some hundredths of a second
GLIMPSE = 3e7  # the same where somebody watches
ANSWER = "118d0a5a2c208ee8715182995bb116a6ad66b628ee2b1ccaa19301b3227a328f"

Tick = Callable[[int], object]


class Strict:
    """A program, walked along by some lanes side by side.

    Args:
        program: what to run.
        event: the shape of the events.
        lanes: how many events (or parts of texts) at a time.
        classes: (lanes,) the class of each, for a program that has classes.
        features: (lanes, pixels, features), for a program that has features.
        group: lanes that are computed side by side; it changes the speed, never the bits.

    Example:
        >>> p = Builder(symbols=2, axes="line")
        >>> program = p.finish([p.embed(np.eye(2), columns=-1, clock="pixel")])
        >>> run = Strict(program, event=(3,), lanes=1)
        >>> run.logits(), run.tell(np.array([1])), run.logits()
        (array([[0., 0.]], dtype=float32), None, array([[0., 1.]], dtype=float32))
    """

    def __init__(
        self,
        program: Program,
        event: tuple[int, ...],
        lanes: int,
        classes: np.ndarray | None = None,
        features: np.ndarray | None = None,
        group: int | None = None,
    ):
        check_machine()
        self._start(program, event, lanes, classes, features, group)

    def _start(self, program, event, lanes, classes, features, group) -> None:
        check_count(program.symbols)
        self.program, self.event, self.lanes, self.t = program, tuple(event), lanes, 0
        groups = max(1, -(-lanes // (group or GROUP)))
        each = max(1, -(-lanes // groups))
        self.tables = tables = layout(program, event, each)
        self.scratch = kernels.scratch_for(len(tables.reads), program.symbols)
        self.length = int(np.prod(event, dtype=np.int64))
        self.everybody = np.full(self.length, lanes, np.int64)  # the lanes that go on at each step: all
        size = groups * (int(self.tables.dims[-1]) + each * len(tables.primed))
        if size > LIMIT:
            raise ChainruleError(
                f"{lanes} lanes take {size / 2**28:.1f} GiB, {LIMIT >> 28} GiB are allowed: take fewer at a time"
            )
        self.memory = aligned(groups * int(self.tables.dims[-1]))
        pixels = int(np.prod(self.tables.dims[:3])) if program.features else 0
        self.context = kernels.Context(
            np.zeros((groups * each, self.length), np.int32),
            np.zeros(groups * each, np.int64),
            np.zeros((groups * each, pixels, program.features), np.float32),
            memories(tables.primed, groups * each),
        )
        self._take(self.context.classes, classes, "classes", program.classes)
        self._take(self.context.features, features, "features", program.features)
        found = self.context.classes
        if program.classes and not ((found >= 0) & (found < program.classes)).all():
            raise ChainruleError(f"the classes must be 0 to {program.classes - 1}")

    def _take(self, room: np.ndarray, given: Any, name: str, needed: int) -> None:
        """Context, checked against what the program needs."""
        if not needed:
            return
        shape = (self.lanes, *room.shape[1:])
        found = None if given is None else np.asarray(given).shape
        if found != shape:
            raise ChainruleError(f"the model needs {name} of shape {shape}, {found} was given")
        room[: self.lanes] = given

    def logits(self) -> np.ndarray:
        """The logits (lanes, K) of the next position; once a position."""
        out = np.empty((self.lanes, self.program.symbols), np.float32)
        self._walk(kernels.PEEK, self.everybody, self.t, self.t + 1, logits=out)
        return out

    def tell(self, symbols: Any) -> None:
        """The symbols (lanes,) at this position; the walk goes on to the next one."""
        self.context.symbols[: self.lanes, self.t] = self._known(np.asarray(symbols))
        self._walk(kernels.TELL, self.everybody, self.t, self.t + 1)
        self.t += 1

    def _known(self, symbols: np.ndarray) -> np.ndarray:
        """The symbols, if there is a row in every table for each."""
        most = self.program.symbols - 1
        if symbols.size and not 0 <= symbols.min() <= symbols.max() <= most:
            raise ChainruleError(
                f"symbols {symbols.min()} to {symbols.max()} were given, the model has 0 to {most}"
            )
        return symbols

    def copy(self) -> Strict:
        """A branch point: both go on from here on their own."""
        other = copy.copy(self)
        other.memory = aligned(len(self.memory))
        other.memory[:] = self.memory
        other.scratch = kernels.scratch_for(len(self.tables.reads), self.program.symbols)
        own = {"symbols": self.context.symbols.copy(), "counts": self.context.counts.copy()}
        other.context = self.context._replace(**own)
        other.tables = self.tables._replace(places=self.tables.places.copy())
        return other

    def reorder(self, parents: Any) -> None:
        """Lane i goes on as what lane parents[i] was: what it has been told, and all that was made of it.

        At any place of the walk, before or after the symbols of a position are told. All lanes must have the same
        context, which stays where it is, and be computed side by side (`group=lanes`).
        """
        each = int(self.tables.dims[kernels.LANES])
        if len(self.context.symbols) != each:
            raise ChainruleError(f"lanes in groups of {each} cannot be exchanged: make them one, group=lanes")
        parents = np.asarray(parents, np.int64)
        if len(parents) != self.lanes or not ((parents >= 0) & (parents < self.lanes)).all():
            raise ChainruleError(f"{parents.tolist()} does not name one of {self.lanes} lanes for each")
        to = np.flatnonzero(parents != np.arange(self.lanes))
        source, stores = parents[to], self._apart.copy()
        if self.program.axes == "line":  # further on nothing has been written yet
            along = stores[:, 3] + self.t // self.program.channels + 1
            stores[:, 1] = np.where(stores[:, 4] == 1, np.minimum(stores[:, 1], along), stores[:, 1])
        room = np.empty(len(to) * int(stores[:, 2].max(initial=0)), np.float32)
        kernels.rearrange(self.memory, np.ascontiguousarray(stores[:, :3]), each, to, source, room)
        self.context.symbols[to, : self.t + 1] = self.context.symbols[source, : self.t + 1]
        counts = self.context.counts.reshape(each, -1)
        counts[to] = counts[source]

    @cached_property
    def _apart(self) -> np.ndarray:
        """What `reorder` moves, (m, 5): the first number, places, numbers a lane, columns before the event, rows."""
        dims = self.program.geometry(self.event)
        each = int(self.tables.dims[kernels.LANES])
        stores, size = place(self.program, dims, each)
        found = [stores[i] for i in apart(self.program, stores, dims)]
        rows = [(s.base, s.frames * s.rows * s.columns, s.line, s.left, s.frames * s.rows) for s in found]
        sums = place_sums(self.program, each, size)[0].values()  # of columns to come, too
        rows += [(s.base, s.columns, s.line, s.columns, 1) for s in sums]
        return np.array(rows, np.int64).reshape(-1, 5)

    def fill(
        self,
        symbols: np.ndarray,
        known: np.ndarray,
        uniforms: np.ndarray,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        tick: Tick | None = None,
    ) -> np.ndarray:
        """Walk to the end: symbols (lanes, N) stay where `known` (N,), and are drawn elsewhere.

        `uniforms` (lanes, N) in (0, 1] are what they are drawn with.
        """
        for begin, end in self._filling(symbols, known, uniforms, temperature, top_p, top_k, CHUNK):
            if tick is not None:
                tick(self.lanes * (end - begin))
        return self.context.symbols[: self.lanes]

    def stream(
        self,
        symbols: np.ndarray,
        known: np.ndarray,
        uniforms: np.ndarray,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> Iterator[np.ndarray]:
        """As `fill`, bit for bit; yields the symbols (lanes, n) as they come, some hundredths of a second at a time."""
        for begin, end in self._filling(symbols, known, uniforms, temperature, top_p, top_k, GLIMPSE):
            yield self.context.symbols[: self.lanes, begin:end].copy()

    def _filling(
        self, symbols, known, uniforms, temperature, top_p, top_k, work
    ) -> Iterator[tuple[int, int]]:
        """Fill in a stretch at a time; yields where it begins and ends."""
        self._known(symbols[:, known])
        self.context.symbols[: self.lanes] = symbols
        needs = {"known": known, "uniforms": uniforms, "settings": np.array([temperature, top_p, top_k])}
        yield from self._stretches(kernels.FILL_IN, self.everybody, work, **needs)

    def encode(
        self, symbols: np.ndarray, active: np.ndarray, tick: Tick | None = None
    ) -> tuple[bytes, np.ndarray]:
        """One stream of the symbols (lanes, N) in the order (step, lane), and the bits (lanes,) of each lane.

        Of step t the first active[t] lanes are coded.
        """
        self.context.symbols[: self.lanes] = self._known(symbols)
        state, bits = new_encoder(), np.zeros(self.lanes)
        words = np.zeros(int(active.sum()) + 4, np.uint32)
        self._walk_all(kernels.ENCODE, active, tick, state=state, words=words, bits=bits)
        return finished(state, words), bits

    def decode(self, stream: bytes, active: np.ndarray, tick: Tick | None = None) -> np.ndarray:
        """The symbols (lanes, N) that `encode` was given; zeros where a lane is not active."""
        words = words_of(stream)
        self._walk_all(kernels.DECODE, active, tick, state=new_decoder(words), words=words)
        return self.context.symbols[: self.lanes]

    def _walk_all(self, way: int, active: np.ndarray, tick: Tick | None, **needs: Any) -> None:
        """To the end, in stretches; `tick` is told the symbols of each."""
        for begin, end in self._stretches(way, active, CHUNK, **needs):
            if tick is not None:
                tick(int(active[begin:end].sum()))

    def _stretches(
        self, way: int, active: np.ndarray, work: float, **needs: Any
    ) -> Iterator[tuple[int, int]]:
        """To the end, so many multiply-adds at a time; yields where each stretch that was walked begins and ends."""
        for begin, end in self._chunks(work):
            self._walk(way, active, begin, end, **needs)
            self.t = end
            yield begin, end

    def _walk(self, way: int, active: np.ndarray, begin: int, end: int, **needs: Any) -> None:
        choice = NOBODY._replace(way=way, **needs)
        with ieee():
            good = kernels.walk(
                self.tables, self.context, self.memory, self.scratch, active, begin, end, choice
            )
        if not good:
            raise ChainruleError(DAMAGED if way == kernels.DECODE else NAN)

    def _chunks(self, work: float) -> Iterator[tuple[int, int]]:
        """Stretches of steps that take about so many multiply-adds."""
        step = sum(self.program.multiply_adds().values()) / self.program.channels + 1000
        step += MIXED * len(self.tables.mixers)
        each = max(1, int(work / (step * max(1, self.lanes))))
        for begin in range(self.t, self.length, each):
            yield begin, min(begin + each, self.length)


NOBODY = kernels.Choice(
    kernels.PEEK,
    *(np.zeros(0, bool), np.zeros((0, 0)), np.zeros(3)),
    *(np.zeros(4, np.uint64), np.zeros(0, np.uint32), np.zeros(0), np.zeros((0, 0), np.float32)),
)
DAMAGED = "the coded stream is damaged: no symbol has this code"
NAN = "the model gives logits that are not numbers: did training diverge? Fit it anew with a lower --lr"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln p (lanes, K) of every symbol, in float32: the same bits on every machine.

    >>> log_softmax(np.zeros((1, 2), np.float32))
    array([[-0.6931472, -0.6931472]], dtype=float32)

    Raises:
        ChainruleError: the logits are not numbers.
    """
    found = np.array(logits, np.float32)
    with ieee():
        kernels.take_totals(found.reshape(-1), found.shape[-1])
    if np.isnan(found).any():
        raise ChainruleError(NAN)
    return found


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left (r, k) @ right (k, n) in float32, each sum in order: the same bits on every machine."""
    check_machine()
    return _product(left, right)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    (rows, _), (inner, columns) = left.shape, right.shape
    width = rounded(columns)
    memory = aligned(rows * (inner + width))
    memory[: rows * inner] = np.asarray(left, np.float32).ravel()
    with ieee():
        kernels.multiply(memory, kernels.scratch_for(1, 1), rows, inner, striped(right, inner).ravel(), width)
    return np.ascontiguousarray(memory[rows * inner :].reshape(rows, width)[:, :columns])


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """function(item) of each item, in their order, by so many threads; the kernels run without Python's lock.

    No more than twice as many results as there are threads wait to be taken.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(threads), deque[Any]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------ known answer


@cache
def check_machine() -> None:
    """Run a program whose answer is known.

    Raises:
        ChainruleError: this machine computes something else. Then nothing is ever coded with it.
    """
    announce()
    answer = known_answer()
    if answer != ANSWER:
        raise ChainruleError(
            f"this machine's arithmetic gives {answer[:8]}, {ANSWER[:8]} is right: archives cannot be written or "
            "read here"
        )


def known_answer() -> str:
    """SHA-256 of the logits of programs with every operation, numbers below 1e-38 included."""
    digest = hashlib.sha256()
    features = np.ones((3, 12, 2), np.float32) / 3
    grid, line = Strict.__new__(Strict), Strict.__new__(Strict)
    grid._start(known_program(), (3, 4, 2), 3, np.arange(3), features, 2)
    line._start(known_line(), (24,), 3, None, None, 2)
    for run in (grid, line):
        for t in range(24):
            digest.update(run.logits().tobytes())
            run.tell(np.arange(3) + t & 3)
    return digest.hexdigest()


def known_line() -> Program:
    """A blend, which only a line of symbols can have; attention in windows and in rings; cycles, filters, bins."""
    weight, p = weights_of_integers(), Builder(symbols=4)
    x = p.embed(weight(5, 112), columns=-1, outside=4, onto=p.constant_cycle(weight(7, 112)), clock="pixel")
    keys = p.norm(x, weight(112), weight(112))
    values = p.dense(keys, weight=weight(112, 112), bias=weight(112))
    looks = [p.attend(x, keys, values, heads, how, n) for heads, how, n in [(1, "block", 5), (7, "local", 3)]]
    copies = p.concat(keys), p.concat(values)  # in longer rings
    patterns = ("full", 1, 0), ("local", 4, 0), ("strided", 3, 0), ("fixed", 4, 1), ("spread", 5, 2)
    looks += [p.attend(x, *copies, 7, how, n, c, window=11) for how, n, c in patterns]
    looks.append(p.attend_near(x, p.norm(x, weight(112), weight(112)), keys, values, weight(6, 112), 2))
    heard, small = p.adaptive(x[:1], 5, 0.25, 1e-3), np.arange(-3, 3, dtype=np.float32) / 4
    said = p.dense(*looks, heard, weight=weight(900, 4), onto=p.bins(x[1:2], small, weight(7, 4)))
    last = p.embed(
        np.arange(-10, 10, dtype=np.float32).reshape(5, 4) / 4, columns=-1, outside=4, clock="pixel"
    )
    return p.finish([p.blend([last, p.mix(8, 1, (1, 2)), p.constant(np.arange(4) / 8), said], rate=0.125)])


def weights_of_integers() -> Callable[..., np.ndarray]:
    """A function that gives float32 of any shape, other ones at each call, and the same on every machine."""
    count = 0

    def weight(*shape: int) -> np.ndarray:
        nonlocal count
        n = int(np.prod(shape))
        integers = (np.arange(count, count + n, dtype=np.int64) * 7919 + 104729) % 65537
        count += n
        return ((integers - 32768) / np.float64(1 << 15)).astype(np.float32).reshape(shape)

    return weight


def known_program(pixels: int = 12) -> Program:
    """Every clock, and every operation but those of `known_line`."""
    weight = weights_of_integers()
    p = Builder(symbols=4, channels=2, classes=3, features=2, axes="grid")
    tiny = p.constant(np.array([1e-39, -2e-40, 1e-45], np.float32))
    subnormal = p.dense(tiny, weight=weight(3, 5), bias=np.full(5, 1e-39, np.float32))
    large = p.multiply(subnormal, p.constant(np.full(5, 2.0**100, np.float32)))
    given = p.dense(p.given_features(), p.add(p.one_of_classes(weight(3, 2)), large[:2]), weight=weight(4, 6))
    image = p.concat(p.levels(0.5, -0.75), p.position("done"))
    back = [p.memory(8, "back") for _ in range(2)]
    sides = (p.at(image, rows=-1), p.at(back[1], columns=1), given)
    gates = p.dense(*sides, weight=weight(18, 32), clock="back")
    right = p.lstm(gates, back[0], back[1], before=p.at(back[0], rows=-1, columns=1))
    rows = p.dense(*p.taps(image, (-2, -1), (-1, 0, 1)), given, right, weight=weight(38, 40), clock="row")
    rows = p.norm(p.gate(rows), weight(20), weight(20))
    coarse = p.dense(p.at(image, columns=-1), rows, weight=weight(24, 12), clock="pixel", every=2)
    fine = p.select(*(p.dense(coarse, weight=weight(12, 16)) for _ in range(4)), clock="pixel")
    cell, hidden = p.memory(8), p.memory(8)
    gates = p.embed(weight(5, 32), columns=-1, channel=1, outside=4, clock="pixel")
    p.lstm(p.dense(fine, p.at(hidden, columns=-1), weight=weight(24, 32), onto=gates), cell, hidden)
    state = [p.memory(8, carried=True) for _ in range(2)]
    p.multiplicative_lstm(
        fine, *state, to_x=weight(16, 8), to_h=weight(8, 8), mixed=weight(8, 32), direct=gates
    )
    query = p.concat(hidden, state[1])
    looks = [p.attend(query, fine, query, 2, how, 3, 1) for how in ("full", "local", "strided", "fixed")]
    kinds = ("relu", "elu", "tanh", "sigmoid", "exp", "gelu")
    mixed = p.concat(*looks, *(p.pointwise(kind, p.dense(query, weight=weight(16, 17))) for kind in kinds))
    total = p.memory(8, "done", carried=True)
    p.dense_here(image, hidden, weight=weight(pixels, 12, 8), onto=total, into=total)
    start = p.add(p.constant_here(weight(pixels, 4)), p.here(p.constant(weight(pixels * 4)), pixels))
    said = p.norm(total, weight(8), weight(8), clock="pixel")
    start = p.dense_here(said, rows, weight=weight(pixels, 28, 4), onto=start)
    first = p.dense(mixed, weight=weight(166, 4), onto=start, clock="channel 0")
    three = p.concat(hidden, p.norm(said, 8 * weight(8), weight(8))[:1], clock="channel 0")
    first = p.add(first, p.logistics(three))
    second = p.embed(weight(4, 4), channel=0, onto=first, clock="channel 1")
    posterior = p.concat(p.logistic_of(three, 0, clock="channel 1"), three[3:])
    second = p.add(second, p.logistics(posterior))
    fine = p.concat(
        three[:6], p.multiply(three[6:], p.constant(np.full(3, -2.5, np.float32))), clock="channel 1"
    )
    second = p.add(second, p.logistics(fine, within=True))
    second = p.add(second, p.mix(8, 2, (1, 2, 5)), clock="channel 1")
    counted = ((np.arange(plan_of(4, 8, 1, (1, 3))[SIZE]) * 7919 + 104729) % 65537 << 7).astype(np.int32)
    second = p.add(second, p.mix(8, 1, (1, 3), counts=counted), clock="channel 1")
    return p.finish([first, p.copy(second, query[:2], [(-1, 1, 0), (0, 0, 0)])])
