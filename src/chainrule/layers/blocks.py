"""Chains over texts that look back within blocks of consecutive symbols, and no further.

B batch, T time, S symbols of a block, R blocks of all items, D width, K symbols
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chainrule.layers.carried import CHUNK, LOGITS, before_each
from chainrule.layers.ordered import check_shape
from chainrule.model import Chain, pick


class InBlocks(Chain):
    """A chain over events of any shape, or of one, in blocks of `window` symbols (abstract).

    Blocks are the positions 0..window - 1, window..2 window - 1, ...: the first position of a block knows the symbol
    before it and no other, the last one all of its block. So the parallel pass and the step agree on texts of any
    length, and no cache grows stale. A score of a long text is that of consecutive blocks, none overlapping.

    Trained on streams of one window each (`loss_from`): a window begins with the symbol before it, as a block does.
    Where a text ends and another begins within a window, positions begin anew, and nothing looks back over the end.

    A concrete one states `window`, `nothing` (the symbol that stands for "nothing yet"), and

        _run(before (R, S), context, begins (R, S) or None) -> (R, S, D)      _head((..., D)) -> logits (..., K)
    """

    window: int
    nothing: int

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def context_rule(self) -> str:
        """Blocks; the first symbol of each knows one symbol only."""
        return f"blocks of {self.window:,}: the symbols of its block before it, and the last one before the block"

    @abstractmethod
    def _run(self, before: Tensor, context: Tensor | None, begins: Tensor | None = None) -> Tensor:
        """What is known of each position of blocks: symbols before it (R, S) -> (R, S, D).

        Args:
            context: classes of the items (B,), each of which has R / B blocks, or of the positions (R, S).
            begins: (R, S) where another text begins, if any does within a block.
        """

    @abstractmethod
    def _head(self, u: Tensor) -> Tensor:
        """(..., D) -> logits (..., K)."""

    def order(self, event: tuple[int, ...]) -> np.ndarray:
        """C order; one clear line for an event of another shape than a chain takes that knows one."""
        if self.event is not None:
            check_shape(event, self.event)
        return super().order(event)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        flat = self._flat(x)
        u = self._run(self._blocks(before_each(flat, self.nothing)), context)
        return self._head(joined(u, flat)).reshape(*x.shape, self.symbols)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; some blocks at a time."""
        flat = self._flat(x)
        if not flat.numel():
            return x.double()
        before, symbols = (self._blocks(z) for z in (before_each(flat, self.nothing), flat))
        classes = () if context is None else of_rows(context, len(before))
        found, count = [], max(1, CHUNK // symbols.shape[1])
        for i in range(0, len(symbols), count):
            part = slice(i, i + count)
            u = self._run(before[part], None if context is None else classes[part]).flatten(0, 1)
            some = max(1, LOGITS // self.symbols)  # positions: all of the part, unless the alphabet is large
            each = zip(u.split(some), symbols[part].flatten().split(some), strict=True)
            found.append(torch.cat([pick(self._head(v), s) for v, s in each]).reshape(symbols[part].shape))
        return joined(torch.cat(found), flat).reshape(x.shape)

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another, each from the blocks that it lies in."""
        before = before_each(self._flat(x), self.nothing)
        for first in range(0, before.shape[1], size):
            begin = first - first % self.window
            part = before[:, begin : first + size]
            yield self._head(joined(self._run(self._blocks(part), context), part)[:, first - begin :])

    def rest(self, batch: int) -> Tensor:
        """What is carried from window to window: nothing."""
        return next(self.parameters()).new_zeros(batch, 0)

    def loss_from(
        self, state: Tensor, x: Tensor, before: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean −log p of x (B, T) in nats, each row a block, or several; and the state, which stays empty.

        Args:
            before: (B, T) what came before each symbol, −1 where nothing did: there positions begin anew.
            context: (B, T) classes.
        """
        logits = self._head(joined(self._run(*self._windows(before, context)), x))
        return F.cross_entropy(logits.flatten(0, 1).float(), x.flatten().long()), state

    def _windows(self, before: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `_run` is given of the windows (B, T) of a training, as `loss_from` is given them."""
        begins = before < 0
        symbols = self._blocks(before.masked_fill(begins, self.nothing))
        classes = None if context is None else self._blocks(context)
        return symbols, classes, self._blocks(begins) if begins[:, 1:].any() else None

    def _flat(self, x: Tensor) -> Tensor:
        """(B, *event) -> (B, N), checked as by `order`."""
        if self.event is not None:
            check_shape(tuple(x.shape[1:]), self.event)
        return x.flatten(1).long()

    def _blocks(self, z: Tensor) -> Tensor:
        """(B, T) -> (B · blocks, S): consecutive positions; what the last block of a row lacks is 0."""
        size = max(1, min(self.window, z.shape[1]))
        return F.pad(z, (0, -z.shape[1] % size)).reshape(-1, size)


def joined(z: Tensor, like: Tensor) -> Tensor:
    """Blocks (B · blocks, S, ...) of rows `like` (B, T) -> (B, T, ...)."""
    batch, length = like.shape
    return z.reshape(batch, -1, *z.shape[2:])[:, :length] if batch else z.new_zeros(0, length, *z.shape[2:])


def of_rows(context: Tensor, rows: int) -> Tensor:
    """Classes of items (B,) -> of their blocks (R,); those of positions stay as they are."""
    return context.repeat_interleave(rows // max(1, len(context))) if context.ndim == 1 else context


def within_texts(begins: Tensor) -> tuple[Tensor, Tensor]:
    """Places (R, S) counted from where a text begins, and where each may look (R, 1, S, S): at its own text only.

    >>> place, mask = within_texts(torch.tensor([[False, False, True]]))
    >>> place.tolist(), mask.int().tolist()
    ([[0, 1, 0]], [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]])
    """
    count, text = torch.arange(begins.shape[1], device=begins.device), begins.cumsum(1)
    mask = (text[:, :, None] == text[:, None]) & (count[:, None] >= count)
    return places_in_texts(begins), mask[:, None]


def places_in_texts(begins: Tensor) -> Tensor:
    """Places (R, S) counted from where a text begins, or a row."""
    count = torch.arange(begins.shape[1], device=begins.device)
    return count - torch.where(begins, count, 0).cummax(1).values
