"""WaveNet (van den Oord et al. 2016, "WaveNet: a generative model for raw audio"): dilated convolutions over sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.data.vocoder import hop_of
from chainrule.errors import ChainruleError
from chainrule.layers.carried import CHUNK, Carried, before_each
from chainrule.layers.samples import Bytes, Levels, Tables, Waves
from chainrule.layers.waves import GatedLayer
from chainrule.model import check_sizes


class WaveNet(Carried):
    """Sound, sample by sample, by stacks of dilated causal convolutions with gates, residuals and skips.

    Of eight bits a sample is one symbol, of sixteen two: its high byte, then its low one. With s_t the sample before
    position t, and c_t what it is conditioned on,

        input      h_t = W_0 ∗ s                            (Waves, Tables)
        layers     z = tanh(W_f ∗ h + V_f c) ⊙ σ(W_g ∗ h + V_g c)       equation 5 of the paper, 2 without c
                   h <- h + W_r z,    skips <- skips + W_s z            figure 4
        end        v = relu(W_1 relu(skips) + b)
        output     the logits of 256 levels W_2 v + b, or a mixture of logistics over 65,536 (`Levels`, `Bytes`)

    where W ∗ h sees t, t - d, ..., t - (k - 1) d, and d runs through `dilations` in each stack. A position sees
    exactly the `reach` samples before it, 1 + Σ (k - 1) d over all convolutions, the first included. The samples are
    moved on by one once, before everything. Over a long recording what each kernel has seen is carried from segment to
    segment: a score does not depend on how it is cut.

    Args:
        symbols: K, levels of a symbol.
        channels: symbols of a sample: 1, or 2 for its high and its low byte.
        width: d, numbers between layers; the gates have as many.
        skip: numbers that the layers add up for the output.
        stacks: of layers; each has the dilations again.
        dilations: of the layers of a stack.
        kernel: k, taps of a kernel.
        classes: number of classes in `context`, such as speakers; 0: none.
        frames: numbers of each frame of `context` (B, frames, n), such as features of speech; 0: none.
        hop: samples of a frame.
        condition: numbers that a class, or the frames at a sample, become.
        mixtures: logistics of a sample of two bytes.
        order: how many samples a prediction of those is made of.
        filters: taps of linear predictions that learn as they go, at `rate`; with them all of the past is seen.

    Example:
        >>> chain = WaveNet(**WaveNet.SIZES["tiny"])
        >>> chain.log_prob(torch.full((2, 7), 128)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {
            "width": 10,
            "skip": 10,
            "stacks": 1,
            "dilations": [1, 2],
            "mixtures": 2,
            "order": 3,
            "filters": [2, 3],
        },
        "laptop": {"width": 96, "skip": 128, "stacks": 1},
        # Section 3 gives dilations 1 to 512, repeated; public configurations have 30 layers of 64 or 128 numbers.
        "paper": {"width": 128, "skip": 256, "stacks": 3},
    }
    KINDS = ("sound", "array")
    TRAINING = {
        "batch": 8,
        "lr": 1e-2,
        "window": 1024,
        "bfloat16": True,
        "carry": True,
        "muon": True,
        "compile": False,
    }

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        width: int = 64,
        skip: int = 64,
        stacks: int = 3,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        kernel: int = 2,
        classes: int = 0,
        frames: int = 0,
        hop: int = 80,
        condition: int = 16,
        mixtures: int = 5,
        order: int = 32,
        filters: Sequence[int] = (16, 32, 256),
        rate: float = 0.2,
    ):
        super().__init__()
        check_sizes(
            symbols=symbols, width=width, skip=skip, stacks=stacks, kernel=kernel, condition=condition
        )
        check_sizes(mixtures=mixtures, order=order, hop=hop)
        check_shape(channels, dilations, classes, frames, filters)
        self.symbols, self.channels, self.classes, self.width = symbols, channels, classes, width
        every = [d for _ in range(stacks) for d in dilations]
        wide = condition if classes or frames else 0
        self.frames, self.features = frames, condition if frames else 0
        self.first: Any = (
            Waves(symbols, width, order, filters, rate) if channels == 2 else Tables(symbols, width, kernel)
        )
        self.layers: Any = nn.ModuleList(GatedLayer(width, skip, kernel, d, wide, len(every)) for d in every)
        self.condition = nn.Embedding(classes, condition) if classes else None
        self.raise_: Any = Raised(frames, condition, hop) if frames else None
        self.begin, self.last = nn.Parameter(torch.zeros(skip)), nn.Linear(skip, skip)
        self.head: Any = (
            Bytes(skip, symbols, mixtures, order, len(filters)) if channels == 2 else Levels(skip, symbols)
        )

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        found = {**super().configure(data), "channels": data.per_sample}
        if data.sources is None or data.sound is None:
            return found
        return {**found, "classes": 0, "frames": data.sources[0].shape[1], "hop": hop_of(data.sound.rate)}

    @property
    def reach(self) -> int:
        """How many samples before it a position sees, the farthest included."""
        return 1 + self.first.past + sum(layer.past for layer in self.layers)

    def context_rule(self) -> str:
        """Only so many samples are seen, but for filters that have learned from all."""
        if self.channels == 2:
            return "the samples before it, all of them"
        return f"the {self.reach:,} samples before it"

    # ---- logits ------------------------------------------------------------------------------------------------

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another."""
        for v, seen, part in self._parts(x, context, max(1, size // self.channels)):
            yield self.head(v, seen, part).flatten(1, 2)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64."""
        size = max(1, self._segment(x) // self.channels)
        found = [self.head.log_probs(v, seen, part) for v, seen, part in self._parts(x, context, size)]
        return torch.cat(found, 1).reshape(x.shape) if found else x.double()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean -log p of a symbol in nats."""
        x = self._samples(x)
        c = self._conditions(context, x.shape[1])
        v, seen, _ = self._run(before_each(self._codes(x), self.nothing), None, c)
        return self.head.loss(v, seen, x)

    def loss_from(
        self, state: Tensor, x: Tensor, before: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean -log p of x (B, T) or (B, T, 2), going on from `state`; and the state after it.

        Args:
            before: the sample before each, of that shape, -1 where nothing came before: there nothing is known.
            context: (B, T) classes; or frames as `chainrule.data.frames_at` gives them.
        """
        x, before = self._samples(x), self._samples(before)
        begins = before[..., 0] < 0
        codes = self._codes(before).masked_fill(begins, self.nothing)
        c = self._conditions(context, x.shape[1]) if self.raise_ is None else self.raise_(*of_rows(context))
        v, seen, state = self._run(codes, state, c, ~begins)
        return self.head.loss(v, seen, x), state.detach()

    def rest(self, batch: int) -> Tensor:
        """What the kernels have seen before the first sample, (B, numbers of all of them): nothing."""
        like = self.begin.new_zeros(batch, 0)
        past = [layer.past * self.width for layer in self.layers]
        return torch.cat([self.first.rest(like), like.new_zeros(batch, sum(past))], 1)

    @property
    def nothing(self) -> int:
        """The code of a sample that is not there."""
        return self.symbols**self.channels

    def _samples(self, x: Tensor) -> Tensor:
        """Symbols (B, *event) as (B, T, channels)."""
        flat = x.flatten(1).long()
        if flat.shape[1] % self.channels:
            raise ChainruleError(
                f"an event has {flat.shape[1]} symbols, the model takes samples of {self.channels}: was it fitted on "
                "other bits?"
            )
        return flat.unflatten(1, (-1, self.channels))

    def _codes(self, x: Tensor) -> Tensor:
        """Samples (B, T, channels) as one number each."""
        return x[..., 0] if self.channels == 1 else x[..., 0] * self.symbols + x[..., 1]

    def _parts(self, x: Tensor, context: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What the head is given for one stretch of `size` samples after another, and these samples."""
        x, state = self._samples(x), None
        codes, every = before_each(self._codes(x), self.nothing), self._conditions(context, x.shape[1])
        for i, (before, part) in enumerate(zip(codes.split(size, 1), x.split(size, 1), strict=True)):
            c = None if every is None else every[:, i * size : (i + 1) * size]
            v, seen, state = self._run(before, state, c)
            yield v, seen, part

    def _run(self, before, state, c, kept=None, weights=None):
        """Codes before each position (B, T) -> v (B, T, skip), what a prediction is made of, the new state.

        Args:
            c: (B, T, condition), what each position is conditioned on, or None.
            kept: (B, T), false where a recording begins: there nothing is seen of what came before.
        """
        state = self.rest(len(before)) if state is None else state
        pasts = [self.first.held, *(layer.past * self.width for layer in self.layers)]
        first, *pasts = state.split(pasts, 1)
        texts = None if kept is None or bool(kept.all()) else (~kept).cumsum(1)
        h, seen, after = self.first(before, first, texts)
        hs = F.pad(h, (0, self.begin.shape[0]))
        states = [after]
        for layer, past in zip(self.layers, pasts, strict=True):
            hs, after = layer(hs, past.unflatten(1, (layer.past, self.width)), texts, c)
            states.append(after.flatten(1))
        v = torch.relu(hs[..., self.width :] + self.begin)
        return torch.relu(self.last(v)), seen, torch.cat(states, 1)

    def _conditions(self, context: Tensor | None, steps: int) -> Tensor | None:
        """What each position is conditioned on, (B, T, condition)."""
        if self.raise_ is not None:
            check_frames(self, context, steps)
            rows = self.told(context)[:, :steps]
            return self.raise_(rows, torch.arange(steps, device=rows.device) % self.args["hop"])
        if self.condition is None:
            return None
        if context is None:
            raise ChainruleError(f"the model is conditioned on one of {self.classes} classes: say which")
        c = self.condition(context)
        return c if context.ndim == 2 else c[:, None].expand(-1, steps, -1)

    # ---- step programs -----------------------------------------------------------------------------------------

    def told(self, context: Tensor | None) -> Tensor:
        """What the program of the encoder is given at each sample: the frame before, its own, the next, (B, T, 3 n)."""
        check_frames(self, context, 0)
        assert context is not None
        padded = F.pad(context.to(self.begin), (0, 0, 1, 1))
        return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1).repeat_interleave(
            self.args["hop"], 1
        )

    def encoder(self, p):
        """What all samples are conditioned on, as a step program whose logits it is."""
        return self.raise_.program(p, p.given_features())

    def program(self, p):
        """One sample: a column of each kernel, and the sums of all skips."""
        h, seen = self.first.program(p)
        c = None if self.condition is None else p.one_of_classes(self.condition.weight)
        c = p.given_features() if self.frames else c
        hs = p.concat(h, p.constant(self.begin))
        for layer in self.layers:
            hs = layer.program(p, hs, c)
        v = p.pointwise("relu", hs[self.width :])
        v = p.pointwise("relu", p.dense(v, weight=self.last.weight.T, bias=self.last.bias))
        return self.head.program(p, v, seen)


class Raised(nn.Module):
    """Frames f of n numbers -> e numbers for each of their `hop` samples: c_t = Σ_k w_{k, phase} ⊙ A f_{i + k}.

    i is the frame of t, and k is -1, 0, 1: a transposed convolution over frames, one for each of the e numbers. It
    begins as lines from the middle of one frame to that of the next.
    """

    def __init__(self, frames: int, condition: int, hop: int):
        super().__init__()
        self.mix = nn.Linear(frames, condition, bias=False)
        ago = (torch.arange(hop) + 0.5) / hop - 0.5  # from the middle of the frame
        lines = torch.stack([(-ago).clamp(min=0), 1 - ago.abs(), ago.clamp(min=0)], 1)  # (hop, 3)
        self.weight = nn.Parameter(lines[..., None].repeat(1, 1, condition))

    def forward(self, rows: Tensor, phase: Tensor) -> Tensor:
        """rows (B, T, 3 n), phase (T,) or (B, T) -> (B, T, e)."""
        return (self.mix(rows.unflatten(-1, (3, -1))) * self.weight[phase]).sum(-2)

    def program(self, p, rows):
        """The same in a step program."""
        n, found = rows.width // 3, None
        for k, weight in enumerate(self.weight.unbind(1)):
            mixed = p.dense(rows[k * n : (k + 1) * n], weight=self.mix.weight.T)
            part = p.multiply(mixed, p.constant_cycle(weight))
            found = part if found is None else p.add(found, part)
        return found


def of_rows(context: Any) -> tuple[Tensor, Tensor]:
    """Rows (B, T, 3 n) of frames, and the phase of each sample (B, T), from both together (B, T, 3 n + 1)."""
    return context[..., :-1], context[..., -1].long()


def check_frames(chain: WaveNet, context: Tensor | None, steps: int) -> None:
    """One clear line for frames that are not those of `steps` samples."""
    wanted, hop = chain.frames, chain.args["hop"]
    if context is None or context.ndim != 3 or context.shape[2] != wanted:
        found = "none" if context is None else f"{tuple(context.shape)}"
        raise ChainruleError(f"the model is conditioned on frames (B, frames, {wanted}), {found} were given")
    if context.shape[1] * hop < steps:
        raise ChainruleError(
            f"{context.shape[1]:,} frames of {hop} samples are given for {steps:,} samples: give one for each {hop}"
        )


def check_shape(
    channels: int, dilations: Sequence[int], classes: int, frames: int, filters: Sequence[int]
) -> None:
    """One clear line for a network that there cannot be."""
    if classes and frames:
        raise ChainruleError(f"{classes} classes and frames of {frames} numbers: take one of the two")
    if channels not in (1, 2):
        raise ChainruleError(f"a sample of {channels} symbols: take 1 (8 bits), or 2 (16 bits)")
    if not isinstance(dilations, list | tuple) or not dilations or any(type(d) is not int for d in dilations):
        raise ChainruleError(f"dilations is {dilations!r}: take a list of numbers, such as [1, 2, 4, 8, 16]")
    check_sizes(dilations=min(dilations))
    if not isinstance(filters, list | tuple) or not filters or any(type(n) is not int for n in filters):
        raise ChainruleError(f"filters is {filters!r}: take a list of numbers of taps, such as [16, 32, 256]")
    check_sizes(filters=min(filters))
