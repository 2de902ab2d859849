"""The builder that a chain is given to state its step: `chain.program(p)` calls these, one for each operation.

    p.symbols, p.channels, p.classes    of the chain
    x = p.dense(p.at(h, columns=-1), h, weight=w, bias=b)

A handle stands for (a part of) a value, here or at an earlier place; `h[8:16]` is a part of it. Every
operation takes `clock=` where it is not that of its latest input, and `into=` to write a `memory` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.engine import program as pr
from chainrule.engine.program import Op, Program, Read, Value, clocks
from chainrule.errors import ChainruleError


@dataclass(frozen=True)
class Handle:
    """A value, or a part of it, as an operation reads it."""

    read: Read
    clock: str

    @property
    def width(self) -> int:
        return self.read.width

    def __getitem__(self, part: slice) -> Handle:
        first, stop, _ = part.indices(self.width)
        return replace(self, read=replace(self.read, first=self.read.first + first, width=stop - first))


class Builder:
    """Collects the operations of a program; `finish` gives it, checked.

    Args:
        symbols, channels, classes, features: see `Program`.
        axes: "grid" or "line".
        dtype: of the weights; float32 unless a test wants the mathematics in float64.

    Example:
        >>> p = Builder(symbols=2, channels=1)
        >>> before = p.embed(np.eye(2), columns=-1, clock="pixel")  # repeat the last symbol
        >>> print(p.finish([before]))
        program over a line: 2 symbols, 1 channels, 0 classes
        pixel:
          v0[2] = embed(w0[2, 2], 0, 0, -1, 0, -1)
        logits of channel 0: v0
    """

    def __init__(
        self,
        symbols: int,
        channels: int = 1,
        classes: int = 0,
        features: int = 0,
        axes: str = "line",
        dtype: Any = np.float32,
    ):
        self.symbols, self.channels, self.classes, self.features = symbols, channels, classes, features
        self.axes, self.dtype = axes, dtype
        self._values: list[Value] = []
        self._ops: list[Op] = []
        self._weights: dict[str, np.ndarray] = {}
        self._clocks = clocks(channels)

    def finish(self, logits: Sequence[Handle]) -> Program:
        """The program whose logits (K,) of each channel are these.

        Raises:
            ChainruleError: it could not be run; the line says why.
        """
        facts = (self.axes, self.channels, self.symbols, self.classes, self.features)
        reads = tuple(handle.read for handle in logits)
        made = Program(*facts, tuple(self._values), tuple(self._ops), reads, self._weights)
        return pr.validate(made)

    # ------------------------------------------------------------------------------------------------ reading

    def at(self, handle: Handle, *, frames: int = 0, rows: int = 0, columns: int = 0) -> Handle:
        """The value so many frames, rows and columns away (negative: earlier); zeros outside the event."""
        place = {"frames": frames, "rows": rows, "columns": columns}
        return replace(handle, read=replace(handle.read, **place))

    def taps(self, handle: Handle, rows: Sequence[int], columns: Sequence[int]) -> list[Handle]:
        """A neighbourhood, row by row: what a convolution of these offsets reads."""
        return [self.at(handle, rows=r, columns=c) for r in rows for c in columns]

    # ------------------------------------------------------------------------------------------------- values

    def memory(self, width: int, clock: str = "pixel", *, every: int = 1, carried: bool = False) -> Handle:
        """A value that can be read (at earlier places) before the operation that writes it is stated."""
        self._values.append(Value(width, clock, every, carried))
        return Handle(Read(len(self._values) - 1, width=width), clock)

    def write(self, memory: Handle, handle: Handle) -> Handle:
        """State what a `memory` is: a copy of this."""
        self._ops.append(Op("concat", memory.read.value, (handle.read,)))
        return memory

    # --------------------------------------------------------------------------------------------- operations

    def constant(self, vector: Any, clock: str = "once") -> Handle:
        """The vector itself."""
        return self._op("constant", len(vector), (), [vector], clock=clock)

    def dense(
        self, *inputs: Handle, weight: Any, bias: Any = None, onto: Handle | None = None, **when: Any
    ) -> Handle:
        """bias (or `onto`) + x W, with x the inputs one after another and `weight` (in, out)."""
        if onto is not None:
            return self._op("dense onto", len(weight[0]), (onto, *inputs), [weight], **when)
        bias = np.zeros(len(weight[0])) if bias is None else bias
        return self._op("dense", len(weight[0]), inputs, [weight, bias], **when)

    def constant_here(self, table: Any, clock: str = "pixel") -> Handle:
        """The row of `table` (P, out) of the pixel: the first one's, the second one's, ..."""
        return self._op("constant here", len(table[0]), (), [table], clock=clock)

    def constant_cycle(self, table: Any, clock: str = "pixel") -> Handle:
        """The row t mod P of `table` (P, out) at the t-th pixel."""
        return self._op("constant cycle", len(table[0]), (), [table], clock=clock)

    def dense_here(self, *inputs: Handle, weight: Any, onto: Handle, **when: Any) -> Handle:
        """onto + x W[t], with x the inputs one after another and `weight` (P, in, out), at the t-th of P pixels."""
        flat = weight.reshape(-1, weight.shape[-1])
        return self._op("dense here onto", flat.shape[1], (onto, *inputs), [flat], **when)

    def here(self, x: Handle, places: int, **when: Any) -> Handle:
        """The t-th of so many parts of x, at the t-th of `places` pixels."""
        return self._op("here", x.width // places, (x,), **when)

    def embed(
        self,
        table: Any,
        *,
        frames: int = 0,
        rows: int = 0,
        columns: int = 0,
        channel: int = 0,
        outside: int = -1,
        onto: Handle | None = None,
        **when: Any,
    ) -> Handle:
        """The row of `table` (K or K + 1, out) of the symbol at an earlier place; `outside` the event that row."""
        kind, reads = ("embed", ()) if onto is None else ("embed onto", (onto,))
        numbers = (frames, rows, columns, channel, outside)
        return self._op(kind, len(table[0]), reads, [table], numbers, **when)

    def copy(
        self, logits: Handle, gates: Handle, places: Sequence[tuple[int, int, int]], **when: Any
    ) -> Handle:
        """The logits (K,), with gate j added at the symbol at the j-th place (rows, columns, channel)."""
        numbers = tuple(number for place in places for number in place)
        return self._op("copy onto", logits.width, (logits, gates), (), numbers, **when)

    def one_of_classes(self, table: Any) -> Handle:
        """The row of `table` (classes, out) of the lane's class."""
        return self._op("class", len(table[0]), (), [table], clock="once")

    def levels(self, scale: float, shift: float) -> Handle:
        """scale · symbol + shift of the channels of a pixel (C,): there when the pixel is done."""
        return self._op("levels", self.channels, (), [[scale, shift]], clock="done")

    def position(self, clock: str = "pixel") -> Handle:
        """The row and the column of the pixel (2,), from -1 to 1."""
        return self._op("position", 2, (), clock=clock)

    def given_features(self) -> Handle:
        """What the caller gives for every pixel (features,)."""
        return self._op("features", self.features, (), clock="frame")

    def concat(self, *inputs: Handle, **when: Any) -> Handle:
        """The inputs one after another."""
        return self._op("concat", sum(x.width for x in inputs), inputs, **when)

    def select(self, *inputs: Handle, **when: Any) -> Handle:
        """Of s · s inputs the one that belongs to (row mod s, column mod s): to come back to finer rows."""
        return self._op("select", inputs[0].width, inputs, **when)

    def add(self, x: Handle, y: Handle, **when: Any) -> Handle:
        return self._op("add", x.width, (x, y), **when)

    def multiply(self, x: Handle, y: Handle, **when: Any) -> Handle:
        return self._op("multiply", x.width, (x, y), **when)

    def pointwise(self, kind: str, x: Handle, **when: Any) -> Handle:
        """relu, elu, tanh, sigmoid, exp or gelu of every number; or "log softmax" of all of them."""
        return self._op(kind, x.width, (x,), **when)

    def gate(self, x: Handle, **when: Any) -> Handle:
        """tanh(f) σ(g) of the halves f, g of x."""
        return self._op("gate", x.width // 2, (x,), **when)

    def logistics(self, x: Handle, within: bool = False, **when: Any) -> Handle:
        """The logits (K,) of a mixture of discretised logistics: x is their log weights, means and log scales.

        The outermost levels also have what lies beyond them; `within`: they end like all others, and scales may be
        smaller.
        """
        return self._op("logistics within" if within else "logistics", self.symbols, (x,), **when)

    def logistic_of(self, x: Handle, channel: int, **when: Any) -> Handle:
        """The log weights and, added, the log mass that each logistic of x gives the symbol of a channel."""
        return self._op("logistic of", x.width // 3, (x,), (), (channel,), **when)

    def mix(self, bits: int, words: int, orders: Sequence[int], counts: Any = None) -> Handle:
        """ln p (K,) of the next symbol by context mixing (see `mixing`); `counts`: the memory it begins with."""
        kind, weights = ("mix", ()) if counts is None else ("mix from", (counts,))
        return self._op(kind, self.symbols, (), weights, (bits, words, *orders), clock="pixel")

    def blend(self, parts: Sequence[Handle], rate: float) -> Handle:
        """The logits (K,) that J distributions, given as logits (K,), make together, weighed by what they were worth.

        The weights of the last symbol and those of all symbols are learned on the way, at this rate.
        """
        known = [self._op("log softmax", self.symbols, (x,), clock="pixel") for x in parts]
        weights = self.memory((self.symbols + 1) * len(parts), carried=True)
        mixed = self.memory(self.symbols)
        before = [self.at(x, columns=-1) for x in (*known, mixed)]
        self._op("reweigh", weights.width, (weights, *before), [[rate]], into=weights)
        return self._op("blend", self.symbols, (weights, *known), into=mixed)

    def bins(self, x: Handle, edges: Any, table: Any, **when: Any) -> Handle:
        """The row of `table` (M + 1, out) of the interval that the number x lies in, between ascending `edges` (M,)."""
        return self._op("bins", len(table[0]), (x,), [edges, table], **when)

    def adaptive(self, d: Handle, taps: int, rate: float, small: float) -> Handle:
        """What a linear prediction that learns as it goes expects of the next number (of a sequence whose last is d).

        And more: (4,). With w weights and h the `taps` numbers before d, all zero at first, it was
        p = Σ w h; with e = d - p, w moves by rate · e h / (small + Σ h²). (Normalised least mean squares.) It gives the
        next p, e, r = 1 / √(small + Σ h² / taps), d now among h, and ln r.
        """
        state = self.memory(2 * taps + 4, clock="pixel", carried=True)  # w, h, p, e, r, ln r
        return self._op("adapt", state.width, (state, d), [[rate, small]], into=state)[2 * taps :]

    def norm(self, x: Handle, weight: Any, bias: Any, **when: Any) -> Handle:
        """Layer normalisation."""
        return self._op("norm", x.width, (x,), [weight, bias], **when)

    def lstm(self, gates: Handle, cell: Handle, hidden: Handle, before: Handle | None = None) -> Handle:
        """The cell of an LSTM: `gates` (4 n) = i, f, g, o before their functions; writes the memories.

        `before` is the earlier cell, where that is not the one a column to the left or the carried one.
        """
        if before is None:
            before = cell if self._values[cell.read.value].carried else self.at(cell, columns=-1)
        self._ops.append(Op("cell", cell.read.value, (gates.read, before.read)))
        self._ops.append(Op("hidden", hidden.read.value, (gates.read, cell.read)))
        return hidden

    def multiplicative_lstm(
        self, x: Handle, cell: Handle, hidden: Handle, *, to_x: Any, to_h: Any, mixed: Any, direct: Handle
    ) -> Handle:
        """Krause et al. 2016, equations 16-20: m = (x Wx) ⊙ (h Wh); gates = direct + m Wm."""
        before = hidden if self._values[hidden.read.value].carried else self.at(hidden, columns=-1)
        m = self.multiply(self.dense(x, weight=to_x), self.dense(before, weight=to_h, clock=x.clock))
        return self.lstm(self.dense(m, weight=mixed, onto=direct), cell, hidden)

    def attend(
        self,
        query: Handle,
        keys: Handle,
        values: Handle,
        heads: int = 1,
        pattern: str = "full",
        length: int = 1,
        summary: int = 0,
        window: int = 0,
    ) -> Handle:
        """Attention (Vaswani et al. 2017) of every pixel over the pixels j ≤ t before it and itself.

        Patterns (Child et al. 2019): "full": every j; "local": t - j < length; "strided": (t - j) % length
        == 0; "fixed": j in the same stretch of `length` pixels, or among the last `summary` of any; "spread": "fixed",
        and the summary of head s = 1, 2, ... is the `summary` before those of head s - 1, as often as that fits into
        `length`; "block": "fixed" without a summary. With a `window` W pixels 0..W - 1, W..2 W - 1, ... are like events
        of their own: t and j are counted from the first of them. Along a line no more is kept than a window, or what
        "local" or "block" can look back at.
        """
        patterns = {"full": pr.FULL, "local": pr.LOCAL, "strided": pr.STRIDED, "fixed": pr.FIXED}
        patterns |= {"block": pr.FIXED, "spread": pr.SPREAD}
        if pattern not in patterns:
            raise ChainruleError(f"there is no pattern {pattern!r}: choose from {', '.join(patterns)}")
        numbers = [heads, patterns[pattern], length, 0 if pattern == "block" else summary]
        numbers += [window] if window else []
        return self._op("attend", query.width, (query, keys, values), (), numbers)

    def attend_near(
        self, query: Handle, far: Handle, keys: Handle, values: Handle, table: Any, heads: int = 1
    ) -> Handle:
        """Attention of every pixel over itself and those before it whose distance has a row in `table` (L, out).

        Scores (Dai et al. 2019, section 3.3) are query · key + far · the row of the distance, divided by √d. Along a
        line keys and values of the last L pixels are kept.
        """
        numbers = (heads, len(table))
        return self._op("attend near", query.width, (query, far, keys, values), [table], numbers)

    def fold(self, left: Any, right: Any) -> np.ndarray:
        """The product of two weight matrices, in the engine's own arithmetic: the same bits everywhere."""
        from chainrule.engine.strict import product

        left, right = self._array(left), self._array(right)
        return product(left, right) if self.dtype == np.float32 else left @ right

    # ------------------------------------------------------------------------------------------------- inside

    def _op(self, kind, width, inputs, weights=(), numbers=(), clock=None, every=1, into=None) -> Handle:
        if clock is None and into is None:
            clock = max((x.clock for x in inputs), key=self._clocks.index, default="pixel")
            if clock == "done" and all(x.read.columns or x.read.rows or x.clock != "done" for x in inputs):
                clock = "pixel"
            if kind in pr.HERE:
                clock = max(clock, "pixel", key=self._clocks.index)
        names = tuple(self._weight(w) for w in weights)
        memory = self.memory(width, clock, every=every) if into is None else into
        reads = tuple(x.read for x in inputs)
        self._ops.append(Op(kind, memory.read.value, reads, names, tuple(numbers)))
        return memory

    def _weight(self, array: Any) -> str:
        name = f"w{len(self._weights)}"
        self._weights[name] = self._array(array)
        return name

    def _array(self, array: Any) -> np.ndarray:
        array = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
        return np.ascontiguousarray(array, np.int32 if array.dtype == np.int32 else self.dtype)
