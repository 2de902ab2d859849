"""Fully visible belief net (Neal 1992, "Connectionist learning of belief networks"; Frey 1998)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.layers.ordered import Line, check_given, one_shape
from chainrule.model import Chain, check_sizes


class FVBN(Chain):
    """Events of one fixed shape, every symbol by logistic regression on all symbols before it.

    In the order of the chain, with ψ(k) and φ(k) (F,) the numbers that stand for a level (see `Line`):

        logits_i[k] = φ(k)·(b_i + C_yi + Σ_{j<i} W_ij ψ(x_j))                                (K,)

    with the class y where there is one. Frey's "logistic autoregressive Bayesian network" has binary symbols.
    There are N (N − 1) / 2 matrices W_ij of F × F numbers: for large events keep `features` low.

    Args:
        symbols: K levels.
        event: the shape.
        classes: number of classes in `context`; 0 is unconditional.
        features: the most numbers that stand for a level; fewer than K − 1 restrict the conditionals to
            distributions that are smooth over the levels.
        order: "raster", the seed of a random order, or all flat positions in the order of the chain.

    Example:
        >>> chain = FVBN(symbols=2, event=(3, 3, 1))
        >>> chain.logits(torch.zeros(5, 3, 3, 1, dtype=torch.long)).shape
        torch.Size([5, 3, 3, 1, 2])
    """

    SIZES = {
        "tiny": {},
        "laptop": {},
        # A weight for every pair of pixels and a bias for every pixel: 307,720 for 28 × 28.
        "paper": {},
    }
    KINDS = ("image", "array")
    TRAINING = {"batch": 128, "lr": 3e-3}

    pairs: Tensor

    def __init__(
        self,
        symbols: int = 2,
        event: tuple = (28, 28, 1),
        classes: int = 0,
        features: int = 4,
        order: str | int | list = "raster",
    ):
        super().__init__()
        check_sizes(symbols=symbols, features=features)
        self.symbols, self.event, self.classes = symbols, tuple(event), classes
        self.line = Line(self.event, order, symbols, features)
        n, f = self.line.size, self.line.width
        earlier, later = torch.triu_indices(n, n, 1)
        self.register_buffer("pairs", earlier * n + later, persistent=False)  # of j and i: j's in a row
        self.weight = nn.Parameter(0.01 * torch.randn(len(self.pairs), f, f))  # W of these, transposed
        self.bias = nn.Parameter(torch.zeros(n, f))
        self.condition = nn.Embedding(classes, n * f) if classes else None

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return one_shape(data, "fvbn")

    def order(self, event: tuple[int, ...]):
        """The rank of every position."""
        return self.line.ranks(event)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        psi = self.line.enter(x)  # (B, N, F)
        said = psi.flatten(1) @ self._matrix()
        return self.line.leave(said.view_as(psi) + self._before(len(x), context))

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        """What is said of every symbol (B, N, F) so far, and how many are known."""
        return {"said": self._before(batch, context).clone(), "known": 0}

    def step(self, state, symbol: Tensor | None = None):
        """A new symbol is told to all that come after it."""
        said, j, n = state["said"], state["known"] - 1, self.line.size
        if symbol is not None:
            j += 1
            first = j * (n - 1) - j * (j - 1) // 2
            to_later = self.weight[first : first + n - 1 - j]
            said[:, j + 1 :] += torch.einsum("bf,nfg->bng", self.line.psi[symbol.long()], to_later)
            state["known"] = j + 1
        return said[:, j + 1] @ self.line.phi.T, state

    def program(self, p):
        """The same: sums that every symbol adds to."""
        if not self.line.raster:
            return None
        n, f = self.line.size, self.line.width
        said = p.memory(n * f, "done", carried=True)
        before = p.constant_here(self.bias)
        if self.condition is not None:
            before = p.here(p.one_of_classes(self.condition.weight + self.bias.flatten()), n)
        logits = p.dense(p.add(p.here(said, n, clock="pixel"), before), weight=self.line.phi.T)
        symbol = p.embed(self.line.psi, clock="done")
        p.dense_here(symbol, weight=self._matrix().view(n, f, n * f), onto=said, into=said)
        return [logits]

    def _matrix(self) -> Tensor:
        """All weights as a matrix (N F, N F) from earlier symbols to later ones, zeros elsewhere."""
        n, f = self.line.size, self.line.width
        blocks = self.weight.new_zeros(n * n, f, f).index_copy(0, self.pairs, self.weight)
        return blocks.view(n, n, f, f).transpose(1, 2).reshape(n * f, n * f)

    def _before(self, batch: int, context: Tensor | None) -> Tensor:
        """What is said of every symbol when none is known, (B, N, F)."""
        check_given(self.classes, context)
        said = self.bias.expand(batch, *self.bias.shape)
        return said if self.condition is None else said + self.condition(context).view_as(said)
