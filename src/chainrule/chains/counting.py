"""Context mixing: adaptive counts under several contexts (Mahoney 2005), the strongest small baseline of texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chainrule.engine.mixing import SIZE, Mixer, memories, plan_of
from chainrule.model import CARRIED, Chain

CHUNK = 4096  # positions between two looks at Ctrl-C, and of logits held at a time


class ContextMixing(Chain):
    """Counts of what followed the last symbols and words, mixed by weights that are learned online.

    It has no parameters: what it has learned is its memory, a table of counts. Within an event it goes on learning:
    each event begins with the memory that `fit` left, and its conditionals follow from that and the event so far.
    `chainrule.engine.mixing` has the arithmetic, in whole numbers, and its sources.

    Args:
        symbols: K, up to 256.
        bits: the table has 2^bits counts of 4 bytes; with the rest of the memory half as much again.
        orders: how many symbols each context remembers, rising. Long ones pay where texts repeat themselves.
        words: contexts of the last word (1), and of the last two (2). Only bytes have letters.

    Example:
        >>> chain = ContextMixing(symbols=4, bits=10)
        >>> x = torch.tensor([[0, 1, 2, 3] * 20])
        >>> bits = -chain.log_probs(x)[0] / torch.log(torch.tensor(2.0).double())
        >>> bool(bits[:4].mean() > 2), bool(bits[-4:].mean() < 0.1)
        (True, True)
    """

    SIZES = {
        "tiny": {"bits": 10, "orders": (1, 2, 3), "words": 1},
        "laptop": {},
        # lpaq1 (Mahoney 2007) mixes orders 1-4, 6 and a word, in 2^24 slots and more; its match model is not here.
        "paper": {"bits": 24, "orders": (1, 2, 3, 4, 6), "words": 1},
    }
    KINDS = ("text", "array")
    PASSAGE = 1 << 15
    ADAPTS = True
    counts: Tensor
    unit: Tensor

    def __init__(
        self,
        symbols: int = 256,
        bits: int = 22,
        orders: tuple[int, ...] = (1, 2, 3, 4, 6, 9),
        words: int = 2,
    ):
        super().__init__()
        self.plan = plan_of(symbols, bits, words, orders)
        self.symbols, self.bits, self.orders, self.words = symbols, bits, tuple(orders), words
        self.register_buffer("counts", torch.zeros(int(self.plan[SIZE]), dtype=torch.int32))
        # Logits are as precise as this: PyTorch's `double()` and `float()` change it.
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> ln p (B, *event, K)."""
        out = torch.empty(*x.shape, self.symbols, dtype=self.unit.dtype)
        rows = out.view(len(x), -1, self.symbols)
        for i, row in enumerate(rows):  # one memory at a time
            for stretch, part in zip(row.split(CHUNK), self.stretches(x[i : i + 1]), strict=True):
                stretch[:] = part[0]
        return out

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """ln p (B, size, K) of one stretch after another; the memory of every event is kept between them."""
        if x.is_meta:
            yield from torch.empty(*x.flatten(1).shape, self.symbols).split(size, 1)
            return
        mixer = self._mixer(symbols_of(x))
        length = mixer.symbols.shape[1]
        for i in range(0, length, size):
            yield torch.from_numpy(mixer.logits(i, min(i + size, length), self._dtype()))

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """ln p of every symbol (B, *event), float64: along its path only, without the other symbols."""
        out = torch.empty(x.shape, dtype=torch.float64)
        for row, symbols in zip(out.view(len(x), -1), symbols_of(x), strict=True):
            mixer = self._mixer(symbols[None])
            for i in range(0, len(symbols), CHUNK):
                row[i : i + CHUNK] = -torch.from_numpy(mixer.learn(i, min(i + CHUNK, len(symbols))))
        return out

    def context_rule(self) -> str:
        """The counts go on learning to the end of the event; they begin with what `fit` left."""
        return CARRIED

    def learn(self, x: Tensor, begin: Tensor, rate: float) -> Tensor:
        """Take the symbols x (1, N) from `begin` on into the memory for good; gives what they cost, in nats each.

        The symbols before `begin` are only what the first contexts need. The counts have rates of their own.
        """
        mixer = Mixer(self.plan, self.counts.numpy(), symbols_of(x))
        return torch.tensor(mixer.learn(int(begin), x.shape[1]).mean())

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        return State(self._mixer(np.zeros((batch, int(np.prod(event))), np.int32)))

    def step(self, state, symbol: Tensor | None = None):
        """Learn the symbol and predict the next one: every lane has a memory of its own."""
        if symbol is not None:
            state.mixer.symbols[:, state.i] = symbol.numpy()
            state.i += 1
        logits = state.mixer.logits(state.i, state.i + 1, self._dtype())
        return torch.from_numpy(logits[:, 0]), state

    def program(self, p):
        """The mixer is an operation of the engine; it begins with what was learned."""
        primed = self.counts if bool(self.counts.any()) else None
        return [p.mix(self.bits, self.words, self.orders, primed)]

    def _mixer(self, symbols: np.ndarray) -> Mixer:
        """Lanes that begin with what has been learned."""
        return Mixer(self.plan, memories(self.counts.numpy(), len(symbols)), symbols)

    def _dtype(self):
        return np.float64 if self.unit.dtype == torch.float64 else np.float32


@dataclass
class State:
    """The lanes, and the position that they have reached."""

    mixer: Mixer
    i: int = 0


def symbols_of(x: Tensor) -> np.ndarray:
    """x (B, *event) -> (B, N) int32."""
    return np.ascontiguousarray(x.reshape(len(x), x[0].numel() if len(x) else 0).numpy(), np.int32)
