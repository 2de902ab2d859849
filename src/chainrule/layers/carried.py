"""Chains that go through a sequence in segments, and carry what they know of it from one to the next.

B batch, T time, K symbols
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chainrule.model import CARRIED, Chain, pick

CHUNK = 2048  # symbols scored at a time: what a long text needs would not fit into memory at once
LOGITS = 1 << 22  # numbers held at a time: what so many symbols of an alphabet of 2048 have


class Carried(Chain):
    """A chain over events of any shape, symbol by symbol, that a state sums up (abstract).

    A concrete one states `rest(batch)`, the state before the first symbol, and

        _run(before (B, T), state, context, kept (B, T) or None) -> logits (B, T, K), state

    where a symbol of `before` is K when nothing came before, and what the state says of earlier symbols counts for
    nothing from where `kept` is not. However a sequence is cut into segments, its logits are the same.

    Attributes:
        shortest: the fewest symbols of a segment that pay.
    """

    shortest: int = 1

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        return torch.cat(list(self.stretches(x, context, self._segment(x))), 1).reshape(
            *x.shape, self.symbols
        )

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; the state is carried from segment to segment."""
        flat, size = x.flatten(1).long(), self._segment(x)
        stretches = zip(self.stretches(x, context, size), flat.split(size, 1), strict=True)
        return torch.cat([pick(logits, part) for logits, part in stretches], 1).reshape(x.shape)

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another; the state is carried on."""
        state, weights = None, self._weights()
        for before in before_each(x.flatten(1).long(), self.symbols).split(size, 1):
            logits, state = self._run(before, state, context, weights=weights)
            yield logits

    def _segment(self, x: Tensor) -> int:
        """How many symbols of each event are scored at a time."""
        return max(self.shortest, min(CHUNK, LOGITS // self.symbols) // max(1, len(x)))

    def _weights(self) -> Any:
        """What `_run` makes of the parameters and does not change from stretch to stretch, if anything."""
        return None

    def context_rule(self) -> str:
        """The state goes on from segment to segment, to the end of the event."""
        return CARRIED

    @abstractmethod
    def rest(self, batch: int) -> Tensor:
        """The state before the first symbol."""

    @abstractmethod
    def _run(
        self,
        before: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ) -> tuple[Tensor, Tensor]: ...

    def loss_from(
        self, state: Tensor, x: Tensor, before: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean −log p of x (B, T) in nats, going on from `state`; and the state after it, without its gradient.

        Args:
            before: (B, T) what came before each symbol, −1 where nothing did: there nothing is known.
            context: (B, T) classes.
        """
        begins = before < 0
        logits, state = self._run(before.masked_fill(begins, self.symbols), state, context, ~begins)
        return F.cross_entropy(logits.flatten(0, 1), x.flatten().long()), state.detach()


def before_each(x: Tensor, nothing: int) -> Tensor:
    """The symbol before each of x (B, T), `nothing` before the first.

    >>> before_each(torch.tensor([[1, 2, 3]]), nothing=9).tolist()
    [[9, 1, 2]]
    """
    return torch.cat([torch.full_like(x[:, :1], nothing), x[:, :-1]], 1)
