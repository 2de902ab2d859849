"""Character-level language modelling with deeper self-attention (Al-Rfou et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.attention import (
    attended,
    attended_program,
    check_heads,
    dense_program,
    norm_program,
    plus_class,
    plus_class_program,
    start_small,
)
from chainrule.layers.blocks import InBlocks, joined, within_texts
from chainrule.layers.carried import before_each
from chainrule.layers.dropout import dropped
from chainrule.model import check_sizes

FURTHER = 0.5  # weight of the loss of a symbol after the next one
NONE = -100  # stands for a target that there is not


class DeepAttention(InBlocks):
    """Texts of any length by many layers of self-attention, in blocks of `window` symbols, with auxiliary losses.

    With E the table of symbols, P_l the positions of layer l, s_t the symbol before position t, n a layer
    normalisation with gains and biases, n₀ one without, and biases left out:

        input          u_t = E[s_t]
        layer l        u <- u + P_l[t mod window]
                       q, k, v = n(u) W of each head,  a_t = Σ_{j ∈ S_t} softmax_j(q_t · k_j / √d) v_j
                       u <- u + [a of each head] W_o
                       u <- u + W_b max(0, W_a n(u))                            4 `width` hidden units
        classifiers    log p_lk(x_{t+k} | ...) = log softmax(n₀(u) C_lk)        k = 0 .. targets - 1

    S_t = {j ≤ t in the block of t}: see `chainrule.layers.blocks`. Scores, samples and the step program are those of
    the last layer L and k = 0. The rest helps training, which minimises

        Σ_l [l = L, or done < l / (2 L)] Σ_k w_k mean_t(−log p_lk)              w_0 = 1, the other w_k = 1/2

    with done the share of the training that is over: a layer l < L predicts until l / (2 L) of it is. Every position
    counts; a target beyond the symbols of a step, or in another text, does not.

    From the publication: positions for every layer, the auxiliary losses with their weights and schedule, ReLU. Not
    verified against it here: the dropout and where it falls. Inferred: that targets and intermediate layers have
    classifiers of their own (with 256 symbols they make the difference between the published 235 million parameters in
    training and 219 million at inference), and two heads (Devlin et al. 2018, section 5.2, quote them). The publication
    does not say in which order it normalises; here a layer normalises what it is given, which trains at any depth.

    Args:
        symbols: K, 256 for bytes.
        width: D, numbers a position between the layers.
        layers: L, of attention, each followed by a feed-forward layer.
        heads: of attention; they share the D numbers.
        window: positions, and symbols of a block.
        dropout: share dropped in training, of attention and of the hidden units.
        targets: symbols that each position predicts: the next one, the one after it, ...
        intermediate: whether the layers before the last one predict, too.
        classes: number of classes in `context` (an embedding is added to every input); 0: none.

    Example:
        >>> chain = DeepAttention(symbols=5, **DeepAttention.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 8, "layers": 2, "heads": 2, "window": 4},
        "laptop": {"width": 128, "layers": 8, "heads": 4, "window": 128},
        "paper": {"width": 512, "layers": 64, "heads": 2, "window": 512, "dropout": 0.55},
    }
    KINDS = ("text", "array")
    SCHEDULED = True
    TRAINING = {"batch": 8, "lr": 3e-3, "window": "window", "bfloat16": True, "carry": True, "muon": True}

    def __init__(
        self,
        symbols: int = 256,
        width: int = 128,
        layers: int = 8,
        heads: int = 4,
        window: int = 128,
        dropout: float = 0.0,
        targets: int = 2,
        intermediate: bool = True,
        classes: int = 0,
    ):
        super().__init__()
        sizes = {"symbols": symbols, "width": width, "layers": layers, "heads": heads, "window": window}
        check_sizes(dropout, **sizes, targets=targets)
        check_heads(width, heads)
        self.symbols, self.window, self.classes, self.nothing = symbols, window, classes, symbols
        self.embed = nn.Embedding(symbols + 1, width)
        self.condition = nn.Embedding(classes, width) if classes else None
        self.layers = nn.ModuleList(Layer(width, heads, window, dropout) for _ in range(layers))
        self.classifiers = nn.ModuleList(  # of the last layers, or of the last one only
            nn.ModuleList(nn.Linear(width, symbols) for _ in range(targets))
            for _ in range(layers if intermediate else 1)
        )
        # Positions as large as symbols, and added once a layer, would drown them.
        start_small(self, adds=3 * layers, adding=("positions", "answer", "down"))

    def program(self, p):
        """The same for one position; keys and values of a block are kept."""
        u = p.embed(self.embed.weight, columns=-1, outside=self.nothing)
        u = plus_class_program(p, u, self.condition)
        for layer in self.layers:
            u = layer.program(p, u, self.window)  # type: ignore[operator]
        width = self.args["width"]
        return [dense_program(p, p.norm(u, torch.ones(width), torch.zeros(width)), self._last)]

    @property
    def _last(self) -> nn.Linear:
        """The classifier of the next symbol after the last layer."""
        return self.classifiers[-1][0]  # type: ignore[index]

    def loss(self, x: Tensor, context: Tensor | None = None, done: Tensor | float = 0.0) -> Tensor:
        """(2,): the mean −log p of x (B, *event) in nats, and the sum of the weighted auxiliary losses.

        Args:
            done: the share of the training that is over.
        """
        flat = x.flatten(1).long()
        begins = torch.zeros_like(flat, dtype=torch.bool)
        states = self._states(self._blocks(before_each(flat, self.nothing)), context)
        return self._losses(
            [joined(u, flat) for u in states], targets_of(flat, begins, self.args["targets"]), done
        )

    def loss_from(
        self,
        state: Tensor,
        x: Tensor,
        before: Tensor,
        context: Tensor | None = None,
        done: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """`loss` of windows x (B, T), each a block, or several; and the state, which stays empty: see `InBlocks`."""
        states = self._states(*self._windows(before, context))
        targets = targets_of(x.long(), before < 0, self.args["targets"])
        return self._losses([joined(u, x) for u in states], targets, done), state

    def _losses(self, states: list[Tensor], targets: list[Tensor], done: Tensor | float) -> Tensor:
        """(2,): `loss` from what is known after each layer (B, T, D) and targets (B, T)."""
        first, further = losses_of(states[-1], self.classifiers[-1], targets)
        if len(self.classifiers) > 1:
            further = self._intermediate(further, states, targets, done)
        return torch.stack([first, further])

    @torch.compiler.disable  # how many layers predict changes in the course of a training
    def _intermediate(
        self, total: Tensor, states: list[Tensor], targets: list[Tensor], done: Tensor | float
    ) -> Tensor:
        """`total`, and what the layers before the last one still add to it."""
        over, count = float(done), len(states)
        for i, (u, classifiers) in enumerate(zip(states[:-1], self.classifiers, strict=False)):
            if over < (i + 1) / (2 * count):
                total = total + sum(losses_of(u, classifiers, targets))
        return total

    def _states(
        self, before: Tensor, context: Tensor | None, begins: Tensor | None = None
    ) -> Iterator[Tensor]:
        """What is known after each layer, (R, S, D); the arguments are those of `_run`."""
        place, mask = torch.arange(before.shape[1], device=before.device), None
        if begins is not None:
            place, mask = within_texts(begins)
        u = self.embed(before)
        u = plus_class(u, self.condition, context)
        for layer in self.layers:
            u = layer(u, place, mask)
            yield u

    def _run(self, before: Tensor, context: Tensor | None, begins: Tensor | None = None) -> Tensor:
        *_, u = self._states(before, context, begins)
        return u

    def _head(self, u: Tensor) -> Tensor:
        return self._last(normalised(u))


class Layer(nn.Module):
    """Positions, attention over those of a block, and a feed-forward layer of ReLUs: (R, S, D) -> the same."""

    def __init__(self, width: int, heads: int, window: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.positions = nn.Embedding(window, width)
        self.ask_norm, self.up_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)  # queries, keys, values
        self.answer = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, u: Tensor, place: Tensor, mask: Tensor | None = None) -> Tensor:
        """`place`: (S,) or (R, S) positions; `mask`: (R, 1, S, S) where they may look; None: at all before, too."""
        u = u + self.positions(place)
        dropout = self.dropout if self.training else 0.0
        u = u + self.answer(attended(self.ask(self.ask_norm(u)), self.heads, mask, dropout))
        hidden = dropped(F.relu(self.up(self.up_norm(u))), dropout)
        return u + self.down(hidden)

    def program(self, p, u, window: int):
        u = p.add(u, p.constant_cycle(self.positions.weight))
        seen = attended_program(p, norm_program(p, u, self.ask_norm), self.ask, self.heads, window)
        u = p.add(u, dense_program(p, seen, self.answer))
        hidden = p.pointwise("relu", dense_program(p, norm_program(p, u, self.up_norm), self.up))
        return p.add(u, dense_program(p, hidden, self.down))


def targets_of(x: Tensor, begins: Tensor, count: int) -> list[Tensor]:
    """The symbols (B, T) that each position of x (B, T) predicts: its own, the one after it, ... of the same text.

    Args:
        begins: (B, T) where a text begins.

    >>> targets_of(torch.tensor([[1, 2, 3]]), torch.tensor([[True, False, True]]), 2)[1].tolist()
    [[2, -100, -100]]
    """
    targets = [x]
    for _ in range(count - 1):
        further = targets[-1][:, 1:].masked_fill(begins[:, 1:], NONE)
        targets.append(F.pad(further, (0, 1), value=NONE))
    return targets


def losses_of(u: Tensor, classifiers: Any, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the classifiers of a layer lose with u (B, T, D): the mean −log p of the next symbol; of others, weighed.

    A mean is over the positions that have such a target.
    """
    z, found = normalised(u), []
    for classify, target in zip(classifiers, targets, strict=True):
        logits = classify(z).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # from bfloat16
        total = F.cross_entropy(logits, target.flatten(), ignore_index=NONE, reduction="sum")
        found.append(total / (target != NONE).sum().clamp(min=1))
    return found[0], sum((FURTHER * loss for loss in found[1:]), torch.zeros_like(found[0]))


def normalised(u: Tensor) -> Tensor:
    """n₀: mean 0 and variance 1 of the D numbers of each position; classifiers have the gains."""
    return F.layer_norm(u, u.shape[-1:])
