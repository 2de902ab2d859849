"""The two contracts: `Chain` gives every symbol a distribution given those before it; `Code` maps and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor, nn


class Chain(nn.Module, ABC):
    """p(x) = ∏ p(xᵢ | x₍<ᵢ₎) over events of integer symbols (abstract; concrete chains are final).

    A concrete chain gives `symbols`, `event` and `logits`; everything else follows from those, and may be
    replaced where the system has something better. State belongs to the caller, never to the module.

    Attributes:
        symbols: K, the number of symbols.
        event: the shape of an event, or None when any shape of the right rank will do.
        classes: the number of classes it is conditioned on; 0 when it is unconditional.
        SIZES: named sets of constructor arguments: "tiny" for tests, "laptop", "paper".
        KINDS: the kinds of data it can be fitted to.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    KINDS: ClassVar[tuple[str, ...]] = ()
    symbols: int
    event: tuple[int, ...] | None = None
    classes: int = 0

    @abstractmethod
    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) integers -> (B, *event, K); the logits at position i depend on symbols before i only."""

    def order(self, event: tuple[int, ...]) -> np.ndarray:
        """The rank of every position of a flattened event, (N,). Equal ranks are independent given lower ones."""
        return np.arange(math.prod(event))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Exact log p(x) in nats, (B,) float64."""
        return self.log_probs(x, context).flatten(1).sum(1)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(xᵢ | x₍<ᵢ₎) of every symbol in nats, (B, *event) float64."""
        return pick(self.logits(x, context), x)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What training minimises: the mean negative log-likelihood a symbol in nats, a scalar."""
        logits = self.logits(x, context)
        return nn.functional.cross_entropy(logits.reshape(-1, self.symbols), x.reshape(-1).long())

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None) -> Any:
        """The state before the first symbol of `batch` events."""
        return FullPass(torch.zeros(batch, *event, dtype=torch.long), context, visit_order(self, event))

    def step(self, state: Any, symbol: Tensor | None = None) -> tuple[Tensor, Any]:
        """Take the symbol (B,) just chosen (None at the start); give the logits (B, K) of the next position.

        This general form recomputes `logits` of the whole event for every symbol: right for every chain,
        and as slow as that sounds. A recurrent chain states its own.
        """
        if symbol is not None:
            state.x.view(len(symbol), -1)[:, state.positions[state.i]] = symbol.long()
            state.i += 1
        full = self.logits(state.x, state.context)
        return full.reshape(len(full), -1, self.symbols)[:, state.positions[state.i]], state


@dataclass
class FullPass:
    """The state of the general `step`: the event so far, zeros where nothing is known yet."""

    x: Tensor  # (B, *event)
    context: Tensor | None
    positions: np.ndarray  # (N,) flat positions in the order of the chain
    i: int = 0


def visit_order(chain: Chain, event: tuple[int, ...]) -> np.ndarray:
    """Flat positions (N,) in the order in which `chain` predicts them."""
    return np.argsort(chain.order(event), kind="stable")


def pick(logits: Tensor, x: Tensor) -> Tensor:
    """log softmax of `logits` (..., K) at the symbols `x` (...), in float64."""
    logits = logits.double()
    return logits.gather(-1, x.long().unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


class Code(TransformerMixin, BaseEstimator):
    """A map from events to something smaller or sparser and back, with scikit-learn's contract (abstract).

    A concrete code states `fit`, `transform` and, where it can, `inverse_transform`. Two-dimensional `X`
    always works; images (n, H, W, C) are flattened and their shape is remembered as `event_`, so that
    `inverse_transform` gives images back.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
