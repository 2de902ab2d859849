"""The device executor: the same programs on PyTorch's tensors, where speed matters and bits do not.

For large models on accelerators, and in float64 as the mathematics that the strict executor is tested with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chainrule.engine.kernels import run_of, runs_of
from chainrule.engine.layout import apart, place
from chainrule.engine.mixing import SIZE, Mixer, memories
from chainrule.engine.program import (
    HEAVIEST,
    LEAST,
    MASSES,
    MIXING,
    Op,
    Program,
    Read,
    clocks,
    looks_of,
    mixer_of,
)


def gate(x: Tensor) -> Tensor:
    f, g = x.chunk(2, -1)
    return f.tanh() * g.sigmoid()


def cell(x: Tensor, c: Tensor) -> Tensor:
    i, f, g, _ = x.chunk(4, -1)
    return f.sigmoid() * c + i.sigmoid() * g.tanh()


def hidden(x: Tensor, c: Tensor) -> Tensor:
    return x.chunk(4, -1)[3].sigmoid() * c.tanh()


def log_mass(k: Tensor, mean: Tensor, scale: Tensor, symbols: int) -> Tensor:
    """log of the mass of level k of K under a logistic, `scale` its log scale (taken within -7..7).

    Levels lie at 2 k / (K - 1) - 1, their edges in the middle; what lies beyond the outermost edges belongs to the
    outermost levels (Salimans et al. 2017, equation 2). With a and b the edges of a level, less the mean and divided by
    the scale, σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)): as a sum of logarithms it is exact for any parameters.
    """
    k, most = k.long(), symbols - 1  # 2 k + 1 of a byte would wrap
    steep = torch.exp(-scale.clamp(-7, 7))
    a, b = (((2 * k + side).to(mean) / max(most, 1) - 1 - mean) * steep for side in (1, -1))
    above = torch.where(k < most, torch.logaddexp(-a, torch.zeros_like(a)), 0)  # F.softplus cuts off at 20
    below = torch.where(k > 0, torch.logaddexp(b, torch.zeros_like(b)), 0)
    gap = torch.where((k > 0) & (k < most), torch.log(-torch.expm1(-2 / max(most, 1) * steep)), 0)
    return gap - above - below


def log_mass_within(k: Tensor, mean: Tensor, scale: Tensor, symbols: int) -> Tensor:
    """The same with a log scale within -16..16, and no level reaches beyond its two edges."""
    most = max(symbols - 1, 1)
    low, high = (((2 * k.long() + side).to(mean) / most - 1) for side in (-1, 1))
    return log_mass_between(low, high, mean, scale, 2 / most)


def log_mass_between(
    low: Tensor | float, high: Tensor | float, mean: Tensor, scale: Tensor, width: float | None = None
) -> Tensor:
    """log of the mass from `low` to `high`, `width` apart, under a logistic; `scale` is taken within -16..16."""
    steep = torch.exp(-scale.clamp(-16, 16))
    a, b = (high - mean) * steep, (low - mean) * steep
    above, below = (torch.logaddexp(x, torch.zeros_like(x)) for x in (-a, b))  # F.softplus cuts off at 20
    return torch.log(-torch.expm1(-(high - low if width is None else width) * steep)) - above - below


def adapted(state: Tensor, d: Tensor, rate: Tensor, small: Tensor) -> Tensor:
    """w, h, p, e, r, ln r of a filter (lanes, 2 P + 4) once the number d (lanes, 1) came."""
    taps = state.shape[1] // 2 - 2
    w, h, p = state[:, :taps], state[:, taps : 2 * taps], state[:, 2 * taps, None]
    w = w + rate * (d - p) / (small + h.square().sum(1, keepdim=True)) * h
    h = torch.cat([d, h[:, :-1]], 1)
    r = 1 / torch.sqrt(small + h.square().mean(1, keepdim=True))
    return torch.cat([w, h, (w * h).sum(1, keepdim=True), d - p, r, r.log()], 1)


def log_softmax(x: Tensor) -> Tensor:
    """ln p as a blend takes it: not below -20."""
    return x.log_softmax(-1).clamp(min=LEAST)


def blend(weights: Tensor, parts: Tensor, last: Tensor) -> Tensor:
    """ln p (B, J, K) of J chains -> logits (B, K): each weighed, and the weights depend on the last symbol.

    weights (B, K + 1, J): those of all symbols, then those that hold after each; 1/J is added.
    """
    rows = torch.arange(len(weights), device=weights.device)
    of_part = 1 / parts.shape[1] + weights[:, 0] + weights[rows, 1 + last]
    return (of_part[..., None] * parts).sum(1)


def reweighed(
    weights: Tensor, parts: Tensor, mixed: Tensor, symbol: Tensor, last: Tensor, rate: float | Tensor
) -> Tensor:
    """The weights of `blend` after `symbol` (B,) came, which it gave the logits `mixed` (B, K) after `last` (B,).

    They move along the gradient of ln p of the symbol: its ln p less what was expected, of every chain.
    """
    rows = torch.arange(len(weights), device=weights.device)
    expected = (mixed.softmax(-1)[:, None] * parts).sum(-1)
    step = rate * (parts[rows, :, symbol] - expected)
    moved = weights.clone()
    for where in (torch.zeros_like(last), 1 + last):
        moved[rows, where] = (moved[rows, where] + step).clamp(-HEAVIEST, HEAVIEST)
    return moved


PLAIN: dict[str, Callable[..., Tensor]] = {
    "concat": lambda *x: torch.cat(x, -1),
    "add": torch.add,
    "multiply": torch.mul,
    "relu": torch.relu,
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gate": gate,
    "cell": cell,
    "hidden": hidden,
    "log softmax": log_softmax,
}


class Device:
    """A program, walked along by some lanes side by side: see `Strict`, whose arguments it takes.

    Args:
        device, dtype: of all tensors.
    """

    def __init__(
        self,
        program: Program,
        event: tuple[int, ...],
        lanes: int,
        classes: Any = None,
        features: Any = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.program, self.event, self.lanes, self.t = program, tuple(event), lanes, 0
        self.dims = program.geometry(event)
        self.clocks = clocks(program.channels)
        self.stores, _ = place(program, self.dims, lanes)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.values = [
            torch.zeros(s.frames, s.rows, s.columns, lanes, v.width, **options)
            for s, v in zip(self.stores, program.values, strict=True)
        ]
        self.weights = {k: torch.from_numpy(w).to(**options) for k, w in program.weights.items()}
        self.symbols = torch.zeros(lanes, int(np.prod(event)), dtype=torch.long, device=device)
        seen = np.zeros(tuple(self.symbols.shape), np.int32)
        self.mixers = {op.output: self._mixer(op, seen) for op in program.ops if op.kind in MIXING}
        self.classes = None if classes is None else torch.as_tensor(np.asarray(classes), device=device)
        self.features: Any = None if features is None else torch.as_tensor(np.asarray(features)).to(**options)

    def copy(self) -> Device:
        """A branch point: both go on from here on their own."""
        other = copy.copy(self)
        other.values, other.symbols = [v.clone() for v in self.values], self.symbols.clone()
        other.mixers = copy.deepcopy(self.mixers)
        return other

    def reorder(self, parents: Any) -> None:
        """Lane i goes on as what lane parents[i] was; all lanes must have the same context: see `Strict.reorder`."""
        lanes = torch.as_tensor(np.asarray(parents, np.int64), device=self.symbols.device)
        for i in apart(self.program, self.stores, self.dims):
            self.values[i] = self.values[i][:, :, :, lanes]
        self.symbols = self.symbols[lanes]
        for mixer in self.mixers.values():
            counts = mixer.counts.reshape(self.lanes, -1)
            counts[:] = counts[lanes.cpu().numpy()]
            mixer.symbols[:] = self.symbols.cpu().numpy()

    def logits(self) -> Tensor:
        """The logits (lanes, K) of the next position; once a position."""
        frame, row, column, channel = self._where()
        if channel == 0:
            if self.t == 0:
                self._run("once", 0, 0, [0])
            if column == 0 == row:
                if frame:
                    self._wipe()
                for op in self.program.sections["frame"]:  # it may read rows below
                    for r in range(self.dims[1]):
                        self._run_op(op, frame, r, range(self.dims[2]))
            if column == 0:
                for c in reversed(range(self.dims[2])):
                    self._run("back", frame, row, [c])
                self._run("row", frame, row, range(self.dims[2]))
            self._run("pixel", frame, row, [column])
        self._run(f"channel {channel}", frame, row, [column])
        return self._read(self.program.logits[channel], frame, row, column).clone()

    def tell(self, symbols: Tensor) -> None:
        """The symbols (lanes,) at this position; the walk goes on to the next one."""
        self.symbols[:, self.t] = torch.as_tensor(symbols, device=self.symbols.device)
        frame, row, column, channel = self._where()
        if channel == self.program.channels - 1:
            self._run("done", frame, row, [column])
        self.t += 1

    def _where(self) -> tuple[int, int, int, int]:
        pixel, channel = divmod(self.t, self.program.channels)
        line, column = divmod(pixel, self.dims[2])
        return *divmod(line, self.dims[1]), column, channel

    def _wipe(self) -> None:
        """At a new frame: what rings of rows hold of the last one."""
        for value, store, tensor in zip(self.program.values, self.stores, self.values, strict=True):
            if store.rows > 1 and store.frames == 1 and not value.carried and value.clock != "frame":
                tensor.zero_()

    def _run(self, clock: str, frame: int, row: int, columns: Sequence[int]) -> None:
        for op in self.program.sections[clock]:
            self._run_op(op, frame, row, columns)

    def _run_op(self, op: Op, frame: int, row: int, columns: Sequence[int]) -> None:
        every = self.program.values[op.output].every
        for column in columns if row % every == 0 else ():
            if column % every == 0:
                self._slot(Read(op.output), frame, row, column)[...] = self._compute(op, frame, row, column)

    def _slot(self, read: Read, frame: int, row: int, column: int) -> Tensor:
        """The value (lanes, width) at the place of a read."""
        s = self.stores[read.value]
        single = s.columns == 1 and s.mask == -1
        c = 0 if single else ((column >> s.half) + read.columns + s.left) & s.mask
        return self.values[read.value][
            (frame + read.frames) % s.frames, ((row >> s.half) + read.rows + s.top) % s.rows, c
        ]

    def _read(self, read: Read, frame: int, row: int, column: int) -> Tensor:
        return self._slot(read, frame, row, column)[:, read.first : read.first + read.width]

    def _compute(self, op: Op, frame: int, row: int, column: int) -> Tensor:
        """What an operation writes at a place, (lanes, width)."""
        if op.kind == "attend":
            return self._attend(op, frame, row, column)
        if op.kind == "attend near":
            return self._attend_near(op, frame, row, column)
        if op.kind == "select":
            side = round(len(op.reads) ** 0.5)
            return self._read(op.reads[row % side * side + column % side], frame, row, column)
        x = [self._read(read, frame, row, column) for read in op.reads]
        if op.kind in PLAIN:
            return PLAIN[op.kind](*x)
        if op.kind in ("blend", "reweigh"):
            return self._blend(op, x)
        w = [self.weights[name] for name in op.weights]
        if op.kind == "dense":
            return torch.cat(x, -1) @ w[0] + w[1]
        if op.kind == "dense onto":
            return x[0] + torch.cat(x[1:], -1) @ w[0]
        pixel = (frame * self.dims[1] + row) * self.dims[2] + column
        if op.kind in MIXING:
            return self._mix(self.mixers[op.output], pixel * self.program.channels, op)
        if op.kind == "dense here onto":
            return x[0] + torch.cat(x[1:], -1) @ w[0].unflatten(0, (self.program.pixels, -1))[pixel]
        if op.kind == "constant here":
            return w[0][pixel]
        if op.kind == "constant cycle":
            return w[0][pixel % len(w[0])]
        if op.kind == "here":
            return x[0].unflatten(-1, (self.program.pixels, -1))[:, pixel]
        if op.kind == "copy onto":
            return self._copy(op, x[0], x[1], frame, row, column)
        if op.kind == "norm":
            return F.layer_norm(x[0], x[0].shape[-1:], w[0], w[1], 1e-5)
        if op.kind in MASSES:
            mass = log_mass if op.kind == "logistics" else log_mass_within
            return self._masses(x[0], torch.arange(self.program.symbols), mass).logsumexp(1)
        if op.kind == "bins":
            return w[1][torch.searchsorted(w[0], x[0][:, 0].contiguous(), right=True)]
        if op.kind == "adapt":
            return adapted(x[0], x[1], *w[0])
        if op.kind == "constant":
            return w[0]
        if op.kind == "class":
            return w[0][self.classes]
        if op.kind.startswith("embed"):
            return self._embed(op, w[0], frame, row, column) + (x[0] if x else 0)
        if op.kind == "features":
            return self.features[:, pixel]
        if op.kind == "logistic of":
            symbol = self.symbols[:, pixel * self.program.channels + op.numbers[0]]
            return self._masses(x[0], symbol[:, None])[..., 0]
        if op.kind == "levels":
            c = self.program.channels
            return self.symbols[:, pixel * c : (pixel + 1) * c] * w[0][0] + w[0][1]
        places = [
            2 * at / max(count - 1, 1) - 1 for at, count in zip((row, column), self.dims[1:], strict=True)
        ]
        return torch.tensor(places, dtype=torch.float64).to(self.values[op.output])

    def _mixer(self, op: Op, seen: np.ndarray) -> Mixer:
        """The mixer of an operation: whole numbers one after another are work for the processor."""
        plan = mixer_of(self.program, op)
        primed = [self.program.weights[name] for name in op.weights] or [np.zeros(plan[SIZE], np.int32)]
        return Mixer(plan, memories(primed[0], self.lanes), seen)

    def _mix(self, mixer: Mixer, first: int, op: Op) -> Tensor:
        """ln p (lanes, K) of the symbol at position `first`."""
        mixer.symbols[:, mixer.known : first] = self.symbols[:, mixer.known : first].cpu().numpy()
        value = self.values[op.output]
        exact = np.float64 if value.dtype == torch.float64 else np.float32
        return torch.from_numpy(mixer.logits(first, first + 1, exact)[:, 0]).to(value)

    def _blend(self, op: Op, x: list[Tensor]) -> Tensor:
        """A blend, or the weights (lanes, (K + 1) J) with what they learn of the symbol before."""
        last, older = (
            self.symbols[:, self.t - back] if self.t >= back else torch.zeros_like(self.symbols[:, 0])
            for back in (1, 2)
        )
        weights = x[0].unflatten(1, (self.program.symbols + 1, -1))
        if op.kind == "blend":
            return blend(weights, torch.stack(x[1:], 1), last)
        if not self.t:
            return x[0]
        rate = self.weights[op.weights[0]]
        return reweighed(weights, torch.stack(x[1:-1], 1), x[-1], last, older, rate).flatten(1)

    def _masses(self, x: Tensor, levels: Tensor, mass: Callable[..., Tensor] = log_mass) -> Tensor:
        """Log weights plus log masses (lanes, J, levels) of logistics x (lanes, 3 J), as `mass` gives them."""
        w, means, scales = x.chunk(3, 1)
        levels = levels.to(x.device).expand(len(x), -1)[:, None]
        return w[..., None] + mass(levels, means[..., None], scales[..., None], self.program.symbols)

    def _embed(self, op: Op, table: Tensor, frame: int, row: int, column: int) -> Tensor:
        f, r, c, channel, outside = op.numbers
        f, r, c = frame + f, row + r, column + c
        if min(f, r, c) >= 0 and c < self.dims[2]:
            at = ((f * self.dims[1] + r) * self.dims[2] + c) * self.program.channels + channel
            return table[self.symbols[:, at]]
        return table[outside] if outside >= 0 else torch.zeros_like(table[0])

    def _copy(self, op: Op, logits: Tensor, gates: Tensor, frame: int, row: int, column: int) -> Tensor:
        logits = logits.clone()
        for j, (rows, columns, channel) in enumerate(zip(*[iter(op.numbers)] * 3, strict=True)):
            r, c = row + rows, column + columns
            if r >= 0 and 0 <= c < self.dims[2]:
                at = ((frame * self.dims[1] + r) * self.dims[2] + c) * self.program.channels + channel
                logits.scatter_add_(1, self.symbols[:, at, None], gates[:, j, None])
        return logits

    def _attend_near(self, op: Op, frame: int, row: int, column: int) -> Tensor:
        heads, length = op.numbers
        now = (frame * self.dims[1] + row) * self.dims[2] + column
        seen = np.arange(max(0, now + 1 - length), now + 1)
        k, v = (
            self.values[read.value].flatten(0, 2)[seen & self.stores[read.value].mask].transpose(0, 1)
            for read in op.reads[2:]
        )
        asks = [self._read(read, frame, row, column) for read in op.reads[:2]]
        table = self.weights[op.weights[0]][now - seen]
        q, far, k, v, table = (x.unflatten(-1, (heads, -1)) for x in (*asks, k, v, table))
        scores = torch.einsum("bhd,bthd->bth", q, k) + torch.einsum("bhd,thd->bth", far, table)
        share = torch.softmax(scores / q.shape[-1] ** 0.5, 1)
        return torch.einsum("bth,bthd->bhd", share, v).flatten(1)

    def _attend(self, op: Op, frame: int, row: int, column: int) -> Tensor:
        now, heads = (frame * self.dims[1] + row) * self.dims[2] + column, op.numbers[0]
        query = self._read(op.reads[0], frame, row, column).unflatten(-1, (heads, -1))  # (lanes, heads, d)
        keys, values = (self.values[read.value].flatten(0, 2) for read in op.reads[1:])  # (places, lanes, n)
        rings = [self.stores[read.value].mask for read in op.reads[1:]]
        told = []
        for head, q in enumerate(query.unbind(1)):
            seen, part = looked_at(op, head, now), slice(head * q.shape[-1], (head + 1) * q.shape[-1])
            k, v = (
                z[seen & ring, :, part] for z, ring in zip((keys, values), rings, strict=True)
            )  # (T, lanes, d)
            share = torch.softmax(torch.einsum("bd,tbd->bt", q, k) / q.shape[-1] ** 0.5, 1)
            told.append(torch.einsum("bt,tbd->bd", share, v))
        return torch.cat(told, 1)


def looked_at(op: Op, head: int, now: int) -> np.ndarray:
    """The pixels that a head of an `attend` looks at from the pixel `now`, in order."""
    _, pattern, length, summary, window = looks_of(op)
    begin = now - now % window if window else 0
    runs, run = (f.py_func for f in (runs_of, run_of))  # type: ignore[attr-defined]  # as the kernels do
    parts = [
        run(pattern, length, summary, head, now - begin, i)
        for i in range(runs(pattern, length, summary, now - begin))
    ]
    return np.concatenate([begin + first + np.arange(many) * apart for first, many, apart in parts])
