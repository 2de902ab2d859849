"""The step engine: a chain states its step once as a program, and executors run it symbol by symbol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.engine.builder import Builder, Handle
from chainrule.engine.program import Program, dump, identity, parse, validate

if TYPE_CHECKING:
    from chainrule.model import Chain

__all__ = [
    "Builder",
    "Handle",
    "Program",
    "dump",
    "encoder_of",
    "identity",
    "parse",
    "program_of",
    "validate",
]


def program_of(chain: Chain, dtype: Any = np.float32) -> Program | None:
    """The step program of a chain with its present weights, or None when it states none (as it is configured)."""
    state = getattr(chain, "program", None)
    if state is None:
        return None
    import torch  # archives can be decoded without it

    p = Builder(chain.symbols, chain.channels, chain.classes, chain.features, chain.AXES, dtype)
    with torch.no_grad():
        logits = state(p)
        return None if logits is None else p.finish(logits)


def encoder_of(chain: Any, given: int, dtype: Any = np.float32) -> Program:
    """What a chain makes of a source, a program whose logits are the encoding, from `given` numbers a place."""
    import torch

    p = Builder(chain.features, features=given, dtype=dtype)
    with torch.no_grad():
        return p.finish([chain.encoder(p)])
