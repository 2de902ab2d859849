"""NADE (Larochelle & Murray 2011, "The Neural Autoregressive Distribution Estimator"; Uria et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.layers.ordered import Line, check_given, one_shape
from chainrule.model import Chain, check_sizes

# Events computed at a time, and numbers of their hidden units: about what the cache of a core holds.
ROWS, AT_ONCE = 64, 1 << 17


class NADE(Chain):
    """Events of one fixed shape, every symbol from hidden units that share their weights with those before.

    In the order of the chain, with ψ(k) and φ(k) (F,) the numbers that stand for a level (see `Line`):

        h_i = σ(c + C_y + Σ_{j<i} W_j ψ(x_j))                                                (H,)
        logits_i[k] = φ(k)·(V_i h_i + b_i)                                                   (K,)

    with the class y where there is one; the papers have binary symbols. The sum grows by one term a symbol, so an
    event of N symbols takes O(N H) in sampling as in training.

    Args:
        symbols: K levels.
        event: the shape.
        classes: number of classes in `context`; 0 is unconditional.
        hidden: H, units.
        features: the most numbers that stand for a level; fewer than K − 1 restrict the conditionals to
            distributions that are smooth over the levels.
        order: "raster", the seed of a random order, or all flat positions in the order of the chain.

    Example:
        >>> chain = NADE(symbols=2, event=(3, 3, 1), hidden=4)
        >>> chain.logits(torch.zeros(5, 3, 3, 1, dtype=torch.long)).shape
        torch.Size([5, 3, 3, 1, 2])
    """

    SIZES = {
        "tiny": {"hidden": 6},
        "laptop": {"hidden": 500},
        # Larochelle & Murray 2011: 500 hidden units for binarised MNIST.
        "paper": {"hidden": 500},
    }
    KINDS = ("image", "array")
    TRAINING = {"batch": 32, "lr": 1e-2}

    def __init__(
        self,
        symbols: int = 2,
        event: tuple = (28, 28, 1),
        classes: int = 0,
        hidden: int = 500,
        features: int = 16,
        order: str | int | list = "raster",
    ):
        super().__init__()
        check_sizes(symbols=symbols, hidden=hidden, features=features)
        self.symbols, self.event, self.classes, self.hidden = symbols, tuple(event), classes, hidden
        self.line = Line(self.event, order, symbols, features)
        size, width = self.line.size, self.line.width
        self.enter = nn.Parameter(torch.randn(size, width, hidden) * size**-0.5)  # W
        self.bias = nn.Parameter(torch.zeros(hidden))  # c
        self.leave = nn.Parameter(torch.randn(size, width, hidden) * hidden**-0.5 * 0.1)  # V
        self.out_bias = nn.Parameter(torch.zeros(size, width))  # b
        self.condition = nn.Embedding(classes, hidden) if classes else None  # C

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return one_shape(data, "nade")

    def order(self, event: tuple[int, ...]):
        """The rank of every position."""
        return self.line.ranks(event)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        psi = self.line.enter(x)  # (B, N, F)
        start = self._before(len(x), context)
        said = [self._said(*some) for some in zip(psi.split(ROWS), start.split(ROWS), strict=True)]
        return self.line.leave(torch.cat(said) + self.out_bias)

    @torch.compiler.disable
    def _said(self, psi: Tensor, start: Tensor) -> Tensor:
        """ψ (B, N, F), what the sums begin with (B, H) -> V h (B, N, F)."""
        said = Autoregress.apply(psi.transpose(0, 1).contiguous(), start.contiguous(), self.enter, self.leave)
        return said.transpose(0, 1)

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        """What the hidden units sum up to (B, H), and how many symbols are known."""
        return {"total": self._before(batch, context).clone(), "known": 0}

    def step(self, state, symbol: Tensor | None = None):
        """A new symbol is one more term of the sum."""
        if symbol is not None:
            state["total"] += self.line.psi[symbol.long()] @ self.enter[state["known"]]
            state["known"] += 1
        t = state["known"]
        said = state["total"].sigmoid() @ self.leave[t].T + self.out_bias[t]
        return said @ self.line.phi.T, state

    def program(self, p):
        """The same: a sum that every symbol adds to."""
        if not self.line.raster:
            return None
        total = p.memory(self.hidden, "done", carried=True)
        before = p.constant(self.bias)
        if self.condition is not None:
            before = p.one_of_classes(self.condition.weight + self.bias)
        h = p.pointwise("sigmoid", p.add(total, before, clock="pixel"))
        said = p.dense_here(h, weight=self.leave.transpose(1, 2), onto=p.constant_here(self.out_bias))
        symbol = p.embed(self.line.psi, clock="done")
        p.dense_here(symbol, weight=self.enter, onto=total, into=total)
        return [p.dense(said, weight=self.line.phi.T)]

    def _before(self, batch: int, context: Tensor | None) -> Tensor:
        """What the hidden units sum up to before the first symbol, (B, H)."""
        check_given(self.classes, context)
        start = self.bias if self.condition is None else self.bias + self.condition(context)
        return start.expand(batch, -1)


class Autoregress(torch.autograd.Function):
    """(ψ (N, B, F), a_0 (B, H), W, V (N, F, H)) -> s_i = V_i σ(a_i), a_i = a_0 + Σ_{j<i} W_j ψ_j: (N, B, F).

    All hidden units at once would be N B H numbers. They are computed for a few positions at a time, in place,
    and again on the way back, from the sums before every few, which are kept.
    """

    @staticmethod
    def forward(ctx, psi, start, enter, leave):
        ctx.few = few = max(1, AT_ONCE // max(1, start.numel()))
        said, total = torch.empty_like(psi), start
        a, kept = start.new_empty(few + 1, *start.shape), start.new_empty(len(psi) // few + 1, *start.shape)
        for n, part in enumerate(parts(len(psi), few)):
            kept[n] = total
            h, total = hidden(a, total, psi[part], enter[part])
            torch.bmm(h, leave[part].transpose(1, 2), out=said[part])
        ctx.save_for_backward(psi, enter, leave, kept)
        return said

    @staticmethod
    def backward(ctx, grad):
        psi, enter, leave, kept = ctx.saved_tensors
        d_enter, d_leave = torch.empty_like(enter), torch.empty_like(leave)
        a, d = (kept.new_zeros(ctx.few + 1, *kept.shape[1:]) for _ in range(2))
        later = d[0]  # the gradient of the sums at all later positions together
        for n, part in reversed(list(enumerate(parts(len(psi), ctx.few)))):
            h, _ = hidden(a, kept[n], psi[part], enter[part])
            torch.bmm(grad[part].transpose(1, 2), h, out=d_leave[part])
            d[len(h)] = later
            torch.bmm(grad[part], leave[part], out=d[: len(h)])
            torch.ops.aten.sigmoid_backward.grad_input(d[: len(h)], h, grad_input=d[: len(h)])
            for j in reversed(range(len(h))):
                d[j].add_(d[j + 1])
            torch.bmm(psi[part].transpose(1, 2), d[1 : len(h) + 1], out=d_enter[part])
        return None, later, d_enter, d_leave


def parts(size: int, few: int) -> list[slice]:
    """0..size cut into stretches of `few`."""
    return [slice(first, min(first + few, size)) for first in range(0, size, few)]


def hidden(a: Tensor, total: Tensor, psi: Tensor, enter: Tensor) -> tuple[Tensor, Tensor]:
    """(h (T, B, H), the sum behind them (B, H)) of T positions from the sum `total` before them, both in `a`."""
    t = len(psi)
    a[0] = total
    torch.bmm(psi, enter, out=a[1 : t + 1])
    for j in range(t):
        a[j + 1].add_(a[j])
    return a[:t].sigmoid_(), a[t]
