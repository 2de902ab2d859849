"""A mixture of chains, weighed online by what each was worth so far (Mattern 2012)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chainrule.coding import largest
from chainrule.engine.device import blend, log_softmax, reweighed
from chainrule.engine.program import HEAVIEST
from chainrule.errors import ChainruleError
from chainrule.jit import compiled
from chainrule.model import Chain, check_sizes, pick

CHUNK = 2048  # symbols whose logits are held at a time


class Mixture(Chain):
    """Several chains as one: a recurrent one, say, that knows the language, and a counting one that learns the text.

    With p_j the conditionals of J chains, and s the symbol before the one to come,

        p(x | before) ∝ Π_j p_j(x | before)^(1/J + u_j + v_sj)

    (a geometric mixture: Mattern, "Mixing strategies in data compression", 2012). The weights u, v begin at 0 with
    every event and follow the gradient of ln p of each symbol that comes: they are a state, not parameters.

    Args:
        parts: two or more chains over the same symbols, none of them a mixture.
        symbols: K, of every part.
        classes: number of classes in `context`; a part may be conditioned on them or have none.
        rate: how fast the weights learn.

    Example:
        >>> from chainrule.chains.uniform import Uniform
        >>> from chainrule.chains.counting import ContextMixing
        >>> chain = Mixture((Uniform(4), ContextMixing(4, bits=10)), symbols=4, rate=0.01)
        >>> bits = -chain.log_probs(torch.tensor([[0, 1, 2, 3] * 20]))[0] / torch.tensor(2.0).log()
        >>> bool(bits[:4].mean() > 2), bool(bits[-4:].mean() < 0.1)
        (True, True)
    """

    SIZES = {
        "tiny": {
            "parts": [
                {"model": "mlstm", "args": {"width": 8, "embed": 4}},
                {"model": "counting", "args": {"bits": 10, "orders": [1, 2, 3], "words": 1}},
            ]
        },
        "laptop": {
            "parts": [
                {"model": "mlstm", "args": {"width": 512, "dropout": 0.2}},
                {"model": "counting", "args": {}},
            ]
        },
        "paper": {
            "parts": [
                {"model": "mlstm", "args": {"width": 4096}},
                {"model": "counting", "args": {"bits": 24, "orders": [1, 2, 3, 4, 6], "words": 1}},
            ]
        },
    }
    KINDS = ("text", "array")
    ADAPTS = True

    def __init__(
        self,
        parts: tuple[Chain, ...] | None = None,
        symbols: int = 256,
        classes: int = 0,
        rate: float = 0.003,
    ):
        super().__init__()
        check_parts(parts or (), symbols, classes)
        if not 0 <= rate <= 1:
            raise ChainruleError(f"rate is {rate}: take 0 to 1")
        self.parts: Any = nn.ModuleList(parts or ())
        self.symbols, self.classes, self.rate = symbols, classes, rate

    @classmethod
    def configure(cls, data) -> dict[str, Any]:
        """Constructor arguments that the data imply; parts that do not say take them over."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        out = [logits for logits, _ in self._blended(x, context)]
        return torch.cat(out, 1).reshape(*x.shape, self.symbols) if out else self.parts[0].logits(x, context)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; no more than a stretch of logits is held."""
        found = [pick(logits, symbols) for logits, symbols in self._blended(x, context)]
        return torch.cat(found, 1).reshape(x.shape) if found else x.double()

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another."""
        for logits, _ in self._blended(x, context, size):
            yield logits

    def context_rule(self) -> str:
        """Those of the parts; the weights go on learning to the end of the event."""
        return "; ".join(dict.fromkeys(part.context_rule() for part in self.parts))

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        """The states of the parts, the weights, and what the last step said."""
        own = [part.start(batch, event, context if part.classes else None) for part in self.parts]
        return {"parts": own, "weights": None, "said": None, "last": torch.zeros(batch, dtype=torch.long)}

    def step(self, state, symbol: Tensor | None = None):
        """The weights learn of the symbol, the parts go on by a step, and are mixed anew."""
        if symbol is not None:
            symbol = symbol.long()
            known, logits = state["said"]
            learned = reweighed(state["weights"], known, logits, symbol, state["last"], self.rate)
            state["weights"], state["last"] = learned, symbol
        said = []
        for i, part in enumerate(self.parts):
            logits, state["parts"][i] = part.step(state["parts"][i], symbol)
            said.append(log_softmax(logits))
        known = torch.stack(said, 1)
        if state["weights"] is None:
            state["weights"] = known.new_zeros(len(known), self.symbols + 1, len(self.parts))
        logits = blend(state["weights"], known, state["last"])
        state["said"] = known, logits
        return logits, state

    def program(self, p):
        """The programs of the parts, and a blend of what they say."""
        said = [program(p) for part in self.parts if (program := getattr(part, "program", None))]
        if len(said) < len(self.parts) or None in said:
            return None
        return [p.blend([logits for (logits,) in said], self.rate)]

    def _blended(
        self, x: Tensor, context: Tensor | None, size: int = CHUNK
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(logits (B, T, K), symbols (B, T)) of one stretch after another."""
        flat = x.flatten(1).long()
        if not flat.shape[1]:
            return
        said = [part.stretches(x, context if part.classes else None, size) for part in self.parts]
        weights, last = torch.zeros(0), flat.new_zeros(len(x))
        for symbols, *logits in zip(flat.split(size, 1), *said, strict=True):
            known = torch.stack([log_softmax(one) for one in logits], 2)  # (B, T, J, K)
            if not weights.numel():
                weights = known.new_zeros(len(x), self.symbols + 1, len(self.parts))
            way = differentiably if known.requires_grad else at_once
            mixed, weights = way(known, symbols, last, weights, self.rate)
            last = symbols[:, -1]
            yield mixed, symbols


def differentiably(
    known: Tensor, symbols: Tensor, last: Tensor, weights: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """What `at_once` computes, as operations through which gradients flow."""
    mixed = []
    for t, symbol in enumerate(symbols.T):
        mixed.append(blend(weights, known[:, t], last))
        weights = reweighed(weights, known[:, t], mixed[-1], symbol, last, rate)
        last = symbol
    return torch.stack(mixed, 1), weights


def at_once(
    known: Tensor, symbols: Tensor, last: Tensor, weights: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """The blend (B, T, K) of a stretch, and the weights (B, K + 1, J) after it.

    Args:
        known: (B, T, J, K) ln p of the parts.
        symbols, last: (B, T) and (B,): what came, and the symbol before.
        weights: those before the stretch.
    """
    used, weights = known.new_empty(known.shape[:3]), weights.clone()
    if not known.is_meta:
        arrays = (table.numpy() for table in (known, symbols, last, weights, used))
        learn_weights(*arrays, np.empty(known.shape[-1]), rate)
    return (used[..., None] * known).sum(2), weights


@compiled
def learn_weights(known, symbols, last, weights, used, share, rate):
    """`blend` and `reweighed` after each symbol: fills used (B, T, J), what each part weighed; changes the weights.

    Precision is that of the arrays; share (K,) is room.
    """
    batch, steps, count, levels = known.shape
    for b in range(batch):
        before = last[b]
        for t in range(steps):
            symbol, rows = symbols[b, t], (0, 1 + before)
            for k in range(levels):
                share[k] = 0.0
            for j in range(count):
                used[b, t, j] = 1 / count + weights[b, rows[0], j] + weights[b, rows[1], j]
                for k in range(levels):
                    share[k] += used[b, t, j] * known[b, t, j, k]
            top, total = largest(share)[0], 0.0
            for k in range(levels):
                share[k] = np.exp(share[k] - top)
                total += share[k]
            for j in range(count):
                expected = 0.0
                for k in range(levels):
                    expected += share[k] * known[b, t, j, k]
                step = rate * (known[b, t, j, symbol] - expected / total)
                for row in rows:
                    weights[b, row, j] = min(max(weights[b, row, j] + step, -HEAVIEST), HEAVIEST)
            before = symbol


def check_parts(parts: Sequence[Any], symbols: int, classes: int) -> None:
    """One clear line for chains that cannot be mixed."""
    check_sizes(symbols=symbols)
    chains = sum(isinstance(part, Chain) for part in parts)
    if chains < max(2, len(parts)):
        raise ChainruleError(f"a mixture takes two chains or more, {chains} are given of {len(parts)} parts")
    for part in parts:
        name = type(part).__name__
        if isinstance(part, Mixture):
            raise ChainruleError("a part is a mixture itself: give its parts to this one")
        if part.AXES != "line" or part.channels > 1 or part.event is not None:
            raise ChainruleError(f"{name} is no chain over texts and other lines of symbols: leave it out")
        if part.symbols != symbols or part.classes not in (0, classes):
            raise ChainruleError(
                f"{name} has {part.symbols} symbols and {part.classes} classes, the mixture {symbols} and {classes}"
            )
