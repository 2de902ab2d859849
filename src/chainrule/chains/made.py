"""MADE (Germain, Gregor, Murray & Larochelle 2015, "Masked Autoencoder for Distribution Estimation")."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.ordered import Line, check_given, here, one_shape
from chainrule.model import Chain, check_sizes

Places = tuple[Tensor, int]  # where numbers go in a longer vector, and how long that is


class MADE(Chain):
    """Events of one fixed shape, all conditionals at once from a network whose masks keep their order.

    In the order of the chain, with ψ(k) and φ(k) (F,) the numbers that stand for a level (see `Line`), unit u of H
    in a layer has the degree d(u) = ⌊u N / H⌋ and sees the first d(u) symbols, and

        h¹ = relu(c¹ + C_y + (M¹ ⊙ W¹) ψ(x))          M¹_uj = [j < d(u)]                     (H,)
        hˡ = relu(cˡ + (Mˡ ⊙ Wˡ) hˡ⁻¹)                Mˡ_uv = [d(v) ≤ d(u)]                  (H,)
        s  = b + B_y + (M ⊙ V) hᴸ + (A ⊙ D) ψ(x)      M_iu = [d(u) ≤ i], A_ij = [j < i]      (N, F)
        logits_i[k] = φ(k)·s_i                                                               (K,)

    with the class y where there is one. The paper has binary symbols and draws its degrees, from 1. Degrees that
    rise in even steps make the masks staircases, and a unit is final as soon as the symbols that it sees are known:
    an event takes about as many operations in sampling as in training.

    Args:
        symbols: K levels.
        event: the shape.
        classes: number of classes in `context`; 0 is unconditional.
        hidden: H, units of each hidden layer; below N the first symbols after a unit's are seen through `direct`.
        layers: L, hidden layers.
        direct: whether there is D.
        features: the most numbers that stand for a level; fewer than K − 1 restrict the conditionals to
            distributions that are smooth over the levels.
        stripes: each matrix is kept as so many stripes of columns, without the rows that no unit of a stripe sees;
            1 is the whole matrix and its mask, as published.
        order: "raster", the seed of a random order, or all flat positions in the order of the chain.

    Example:
        >>> chain = MADE(symbols=2, event=(3, 3, 1), hidden=18)
        >>> chain.logits(torch.zeros(5, 3, 3, 1, dtype=torch.long)).shape
        torch.Size([5, 3, 3, 1, 2])
    """

    SIZES = {
        "tiny": {"hidden": 50, "stripes": 3},
        "laptop": {"hidden": 1568, "layers": 1},
        # Section 6: the best result for binarised MNIST comes from 2 layers of 8000 units.
        "paper": {"hidden": 8000, "layers": 2, "stripes": 1},
    }
    KINDS = ("image", "array")
    TRAINING = {"batch": 256, "lr": 5e-3, "bfloat16": True}

    stairs: Any

    def __init__(
        self,
        symbols: int = 2,
        event: tuple = (28, 28, 1),
        classes: int = 0,
        hidden: int = 1568,
        layers: int = 1,
        direct: bool = True,
        features: int = 16,
        stripes: int = 4,
        order: str | int | list = "raster",
    ):
        super().__init__()
        check_sizes(symbols=symbols, hidden=hidden, layers=layers, features=features, stripes=stripes)
        self.symbols, self.event, self.classes, self.hidden = symbols, tuple(event), classes, hidden
        self.line = Line(self.event, order, symbols, features)
        n, f = self.line.size, self.line.width
        place = np.repeat(np.arange(n), f)  # of every number that enters or leaves
        self.degrees = np.arange(hidden) * n // hidden
        counts = [np.searchsorted(place, self.degrees)]  # of the inputs that each unit sees
        counts += [np.searchsorted(self.degrees, self.degrees, "right")] * (layers - 1)
        counts += [np.searchsorted(self.degrees, place, "right")]
        inputs = [n * f] + [hidden] * layers
        self.stairs = nn.ModuleList(Stairs(*shape, stripes) for shape in zip(inputs, counts, strict=True))
        self.direct = Stairs(n * f, np.searchsorted(place, place), stripes) if direct else None
        self.bias = nn.ParameterList(torch.zeros(hidden) for _ in range(layers))  # c
        self.out_bias = nn.Parameter(torch.zeros(n * f))  # b
        self.condition = nn.Embedding(classes, hidden + n * f) if classes else None  # C and B

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return one_shape(data, "made")

    def order(self, event: tuple[int, ...]):
        """The rank of every position."""
        return self.line.ranks(event)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        psi = self.line.enter(x)  # (B, N, F)
        h, sums = psi.flatten(1), self._before(len(x), context)
        direct = 0 if self.direct is None else self.direct(h)
        for before, stairs in zip(sums[:-1], self.stairs[:-1], strict=True):
            h = F.relu(before + stairs(h))
        return self.line.leave((sums[-1] + self.stairs[-1](h) + direct).view_as(psi))

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        """The sums of every layer, (B, H) and (B, N F), so far, and how many symbols are known."""
        return {"sums": [before.clone() for before in self._before(batch, context)], "known": 0}

    def step(self, state, symbol: Tensor | None = None):
        """A new symbol is added to what it goes to; the units that saw the last of theirs become final."""
        sums, f = state["sums"], self.line.width
        if symbol is not None:
            psi, rows = self.line.psi[symbol.long()], slice(state["known"] * f, (state["known"] + 1) * f)
            self.stairs[0].add(sums[0], psi, rows)
            if self.direct is not None:
                self.direct.add(sums[-1], psi, rows)
            state["known"] += 1
        t = state["known"]
        due = slice(*np.searchsorted(self.degrees, [t, t + 1]).tolist())
        for below, above, stairs in zip(sums[:-1], sums[1:], self.stairs[1:], strict=True):
            stairs.add(above, F.relu(below[:, due]), due)
        return sums[-1][:, t * f : (t + 1) * f] @ self.line.phi.T, state

    def program(self, p):
        """The same recurrence; the units of a degree are padded with zeros to as many as the most have."""
        if not self.line.raster:
            return None
        first, *biases, last = [*self.bias, self.out_bias]
        if self.condition is not None:
            of_hidden, of_ends = self.condition.weight.split([len(first), len(last)], 1)
            first, last = first + of_hidden, last + of_ends
        units, ends = self._places()
        symbol = p.embed(self.line.psi, clock="done")
        due = self._told(p, symbol, self.stairs[0], ends, units, "done", begin=first)
        for stairs, bias in zip(self.stairs[1:-1], biases, strict=True):
            due = self._told(p, p.pointwise("relu", due), stairs, units, units, "pixel", begin=bias)
        said = self._told(p, p.pointwise("relu", due), self.stairs[-1], units, ends, "pixel", begin=last)
        if self.direct is not None:
            zero = torch.zeros_like(self.out_bias)
            said = p.add(said, self._told(p, symbol, self.direct, ends, ends, "done", begin=zero))
        return [p.dense(said, weight=self.line.phi.T)]

    def _places(self) -> tuple[Places, Places]:
        """Where the units of a layer, and the numbers of all symbols, stand in sums of a step program."""
        n, f = self.line.size, self.line.width
        most = int(np.bincount(self.degrees).max())
        nth = np.arange(self.hidden) - np.searchsorted(self.degrees, self.degrees)  # of its degree
        return (torch.from_numpy(self.degrees * most + nth), n * most), (torch.arange(n * f), n * f)

    def _told(self, p, x, stairs: Stairs, rows: Places, columns: Places, clock: str, begin: Tensor):
        """The part that is due here of what every place, at its `clock`, has told by its x, and began with."""
        n, whole = self.line.size, begin.new_zeros(rows[1], columns[1])
        whole[rows[0][:, None], columns[0]] = stairs.matrix(begin)
        told = p.memory(columns[1], clock, carried=True)
        p.dense_here(x, weight=whole.view(n, -1, columns[1]), onto=told, into=told)
        before = begin.new_zeros(*begin.shape[:-1], columns[1])
        before[..., columns[0]] = begin  # (n · part,), or for every class (classes, n · part)
        of_classes = begin.ndim > 1
        start = p.here(p.one_of_classes(before), n) if of_classes else p.constant_here(before.view(n, -1))
        return p.add(p.here(told, n, clock="pixel"), start)

    def _before(self, batch: int, context: Tensor | None) -> list[Tensor]:
        """The sums of every layer when no symbol is known: (B, H) each, and at last (B, N F)."""
        check_given(self.classes, context)
        sums = [bias.expand(batch, -1) for bias in [*self.bias, self.out_bias]]
        if self.condition is not None:
            first, last = self.condition(context).split([self.hidden, len(self.out_bias)], 1)
            sums[0], sums[-1] = sums[0] + first, sums[-1] + last
        return sums


class Stairs(nn.Module):
    """x (B, n) -> (B, m): output o = Σ_{i < counts[o]} x_i W_io, with counts (m,) that never fall.

    The matrix is cut into stripes of outputs, each with as many rows as its last output needs; a single stripe is
    the whole matrix.
    """

    def __init__(self, inputs: int, counts: np.ndarray, stripes: int):
        super().__init__()
        self.inputs, self.outputs, whole = inputs, len(counts), stripes == 1
        self.none = 0 if whole else int((counts == 0).sum())  # the first outputs see nothing
        cuts = np.linspace(self.none, self.outputs, stripes + 1).astype(int).tolist()
        self.ends = [slice(a, b) for a, b in pairwise(cuts) if a < b]
        self.rows = [inputs if whole else int(counts[end.stop - 1]) for end in self.ends]
        self.weight = nn.ParameterList()
        for i, (rows, end) in enumerate(zip(self.rows, self.ends, strict=True)):
            seen = torch.arange(rows)[:, None] < here(counts[end])
            self.register_buffer(f"seen_{i}", seen.float(), persistent=False)
            self.weight.append(inputs**-0.5 * torch.randn(seen.shape))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, :rows] @ w for rows, w in zip(self.rows, self._masked(), strict=True)]
        return F.pad(torch.cat(parts or [x[:, :0]], 1), (self.none, 0))

    def add(self, sums: Tensor, x: Tensor, rows: slice) -> None:
        """Add to the `sums` (B, m) what the inputs `rows` are found to be, x (B, rows).

        Outputs that do not see them may change, too: they belong to a past in which nobody reads them any more.
        """
        for most, end, w in zip(self.rows, self.ends, self.weight, strict=True):
            part = w[rows.start : min(rows.stop, most)]
            sums[:, end] += x[:, : len(part)] @ part

    def matrix(self, like: Tensor) -> Tensor:
        """The matrix (n, m), zeros where nothing is seen, of the type of `like`."""
        whole = like.new_zeros(self.inputs, self.outputs)
        for rows, end, w in zip(self.rows, self.ends, self._masked(), strict=True):
            whole[:rows, end] = w
        return whole

    def _masked(self) -> list[Tensor]:
        return [w * getattr(self, f"seen_{i}") for i, w in enumerate(self.weight)]
