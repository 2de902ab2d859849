"""What chains share that are conditioned on a source text: p(target | source).

B batch, S symbols of a source, T of a target, K symbols; -1 stands beyond the end of a shorter text
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.model import pick


def for_pairs(data: Any) -> dict[str, Any]:
    """Constructor arguments that texts with sources imply. Pairs are few: some dropout, or they are known by heart."""
    return {"symbols": data.levels, "source": data.levels, "dropout": 0.1}


def check_condition(source: int, classes: int) -> None:
    """One clear line for a chain that is conditioned on less than nothing, or on two things."""
    if source < 0 or (source and classes):
        raise ChainruleError(f"source is {source}, classes {classes}: take 0 or more, and one of them")


def check_source(source: int, context: Tensor | None) -> None:
    """One clear line when a chain with so many source symbols is given no texts of these."""
    if context is None or context.ndim != 2:
        found = "nothing" if context is None else f"an array of shape {tuple(context.shape)}"
        raise ChainruleError(f"the model needs a source text for each item, (B, S): {found} was given")
    if context.numel() and not -1 <= int(context.min()) <= int(context.max()) < source:
        found = f"{int(context.min())} to {int(context.max())}"
        raise ChainruleError(f"the sources have symbols {found}, the model knows 0 to {source - 1}")


def lengths_of(texts: Tensor) -> Tensor:
    """The symbols of each of texts (B, S) with -1 beyond their ends, (B,).

    >>> lengths_of(torch.tensor([[4, 0, 2], [7, -1, -1]])).tolist()
    [3, 1]
    """
    return (texts >= 0).sum(1)


def loss_of(logits: Tensor, x: Tensor) -> Tensor:
    """The mean -log p of targets x (B, T) in nats, given logits (B, T, K); beyond an end nothing counts."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), x.flatten().long(), ignore_index=-1)


def log_probs_of(logits: Tensor, x: Tensor) -> Tensor:
    """log p of the symbols of targets x (B, ...) in nats, float64; 0 beyond an end."""
    x = x.long()
    return pick(logits, x.clamp(min=0)).masked_fill(x < 0, 0)
