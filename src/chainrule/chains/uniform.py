"""The uniform chain: every symbol is as probable as every other. What any model must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.model import Chain, check_sizes


class Uniform(Chain):
    """p(x) = K^-N: exactly log₂ K bits a symbol, 8 for bytes. It has no parameters and takes events of any shape.

    Example:
        >>> chain = Uniform(symbols=256)
        >>> x = torch.zeros(1, 4, 4, 3, dtype=torch.long)
        >>> float(-chain.log_prob(x) / x.numel() / torch.log(torch.tensor(2.0).double()))
        8.0
    """

    SIZES = {"tiny": {}, "laptop": {}, "paper": {}}
    KINDS = ("image", "text", "sound", "array")

    def __init__(self, symbols: int = 256):
        super().__init__()
        check_sizes(symbols=symbols)
        self.symbols = symbols

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.zeros(*x.shape, self.symbols)

    def program(self, p):
        """The same logits every time."""
        return [p.constant(torch.zeros(self.symbols), clock="pixel")]
