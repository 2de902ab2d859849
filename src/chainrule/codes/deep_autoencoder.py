"""The deep autoencoder of Hinton & Salakhutdinov 2006: a stack of Boltzmann machines, unrolled and fine-tuned.

Each restricted Boltzmann machine learns from the hidden units of the one below by contrastive divergence; together
they are the first weights of an encoder and, transposed, of its decoder. Without pretraining the first weights are
drawn at random, in sizes that keep signals alive (Glorot & Bengio 2010; He et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.atoms import RandomBatches
from chainrule.layers.boltzmann import Boltzmann, first_machine
from chainrule.layers.coder import (
    Coder,
    Denoiser,
    Map,
    Span,
    check_layers,
    decoded,
    dense,
    encoded,
    learned_by,
    way_back,
)
from chainrule.layers.corruption import CORRUPTIONS, Corruption
from chainrule.layers.units import UNITS, Bernoulli, Gaussian, by_parts
from chainrule.model import Code, at_least_zero, check_part, check_sizes
from chainrule.stages import Stage, Stages
from chainrule.train import Plan, Training, plan_of


@dataclass(frozen=True)
class Machines:
    """Pretraining by a stack of restricted Boltzmann machines, each for the same share of the budget.

    Machines that have learned little are a worse start than random weights: give each some thousand steps.

    Attributes:
        share: of the budget, for all of them together.
        gibbs: k of contrastive divergence.
        batch: events a step.
        rate: the highest learning rate of machines of binary units.
        real_rate: of machines with Gaussian units, whose steps are not bounded.
    """

    share: float = 0.25
    gibbs: int = 1
    batch: int = 100
    rate: float = 0.05
    real_rate: float = 0.002

    def check(self) -> None:
        if not 0 < self.share < 1:
            raise ChainruleError(
                f"share is {self.share}: take a part of the budget between 0 and 1, such as 0.25"
            )
        check_sizes(gibbs=self.gibbs, batch=self.batch)
        at_least_zero(rate=self.rate, real_rate=self.real_rate)


class DeepAutoencoder(Code):
    """Codes of few numbers through many layers, and back: trained directly, or from pretrained machines on.

    Units of the code itself are linear. Trained in single precision by Adam on a schedule that falls to 0.

    Args:
        layers: the width of every layer of the encoder; the last is the length of a code.
        units: g of the hidden layers: "gelu", "relu", "tanh", "sigmoid" or "linear"; with pretraining "sigmoid" or
            "tanh", which is the same network in other weights: tanh(a/2) = 2σ(a) − 1.
        pretraining: `Machines()`, or None: random first weights.
        output: `Bernoulli()` (None): numbers between the smallest and the largest of the data, σ as output,
            cross-entropy. `Gaussian()`: real numbers, linear output, squared error.
        corruption: of the input while training: `Masking`, `SaltAndPepper` or `Noise`; None: none.
        epochs: of a training without a budget, as if all of it were passes over the data in batches of `batch`.
        batch: events a step.
        learning_rate: the highest.
        weight_decay: every step takes learning_rate · weight_decay of each weight away. Much of what a deep
            autoencoder gains on new events comes from it.
        random_state: of the first weights, the batches, the chains and the corruption.

    Attributes:
        encoder_, encoder_bias_: W (a, b) and b (b,) of every layer, in single precision like all weights.
        decoder_, decoder_bias_: of every layer from the code on.
        shift_, scale_: the network sees (x − shift_) / scale_, (d,) and a number.
        n_steps_: optimizer steps that were taken, those of pretraining included.

    Example:
        >>> rows = np.random.default_rng(0).random(size=(200, 8))
        >>> code = DeepAutoencoder((6, 2), units="sigmoid", pretraining=Machines(), epochs=2).fit(rows)
        >>> code.transform(rows).shape, code.inverse_transform(code.transform(rows)).shape
        ((200, 2), (200, 8))
    """

    SIZES = {
        "tiny": {"layers": [16, 3], "units": "tanh", "pretraining": {"kind": "machines"}, "epochs": 2},
        "laptop": {},
        "paper": {
            "layers": [1000, 500, 250, 30],
            "units": "tanh",
            "pretraining": {"kind": "machines"},
            "weight_decay": 0.1,
        },
    }
    PARTS: ClassVar[dict[str, type]] = {"machines": Machines} | UNITS | CORRUPTIONS
    TYPES: ClassVar[tuple] = (np.float64, np.float32)

    def __init__(
        self,
        layers: Sequence[int] = (1000, 500, 250, 30),
        units: str = "gelu",
        pretraining: Machines | None = None,
        output: Bernoulli | Gaussian | None = None,
        corruption: Corruption | None = None,
        epochs: int = 30,
        batch: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.3,
        random_state: int = 0,
    ):
        self.layers = layers
        self.units = units
        self.pretraining = pretraining
        self.output = output
        self.corruption = corruption
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    # ---- learning ----------------------------------------------------------------------------------------

    def learner(self, X, plan: Plan | None = None) -> Stages:
        """The trainings on X (n, *event), not yet begun; of `plan` the budget is taken, the rates are our own."""
        self._check()
        rows = self.rows(X, reset=True, fewest=1)
        self.shift_, self.scale_ = self._output().scaling(rows)
        span = Span(rows, self.shift_, self.scale_)
        x = span.seen(rows)
        machines = self.pretraining.share / len(self.layers) if self.pretraining else 0.0
        pretraining = [Stage(machines, self._machine(x, i)) for i in range(len(self.layers)) if machines]
        fine = Stage(1 - machines * len(pretraining), self._fine_tuning(x, span))
        steps = self.epochs * math.ceil(len(rows) / self.batch)
        return Stages([*pretraining, fine], plan or Plan(steps=steps))

    def _machine(self, x: Tensor, i: int):
        # What begins the pretraining of layer i, whose data are the mean hidden units of the machines below
        def begin(plan: Plan, below: list[nn.Module]) -> Training:
            own, real = cast(Machines, self.pretraining), Gaussian()
            visible = Bernoulli() if i else self._output()
            hidden = real if i == len(self.layers) - 1 else Bernoulli()
            v, seed = hidden_means(x, below), self.random_state + i
            model = first_machine(v, self.layers[i], visible, hidden, seed, own.gibbs)
            rate = own.real_rate if real in (visible, hidden) else own.rate
            return Training(model, RandomBatches(v, own.batch, seed), plan_of(plan, 0, rate, seed))

        return begin

    def _fine_tuning(self, x: Tensor, span: Span):
        # What begins the training of the whole network
        def begin(plan: Plan, machines: list[nn.Module]) -> Training:
            coder = Coder(self._maps(), self._units(), self._output(), tied=False, seed=self.random_state)
            model = Denoiser(coder, span, self.corruption)
            unroll(model, cast(list[Boltzmann], machines)) if machines else model.begin()
            more = {"weight_decay": self.weight_decay, "bfloat16": True}
            plan = plan_of(plan, 0, self.learning_rate, self.random_state, **more)
            return Training(model, RandomBatches(x, self.batch, self.random_state), plan)

        return begin

    def learned(self, learner: Stages):
        """Take over what `learner` has reached; gives self."""
        for name, value in learned_by(cast(Denoiser, learner.training.model)).items():
            setattr(self, name, value)
        self.n_steps_ = learner.step
        return self

    # ---- use -----------------------------------------------------------------------------------------------

    def transform(self, X):
        """X (n, *event) -> codes (n, k), in the precision of X."""
        return encoded(self, self.rows(X), self._maps(), self._units())

    def inverse_transform(self, Z):
        """Codes (n, k) -> events (n, *event), what the decoder makes of them."""
        check_is_fitted(self)
        codes = self.codes(Z, self.encoder_[-1].shape[1])
        return self.events(decoded(self, codes, self._maps(), way_back(self._units()), self._output()))

    def filters(self) -> np.ndarray:
        """What every unit of the first layer looks for, (units, *event): its weights."""
        check_is_fitted(self)
        return self.events(self.encoder_[0].T)

    def _maps(self) -> list[Map]:
        return dense([len(self.shift_), *self.layers])

    def _units(self) -> list[str]:
        return [*[self.units] * (len(self.layers) - 1), "linear"]

    def _output(self) -> Bernoulli | Gaussian:
        return self.output or Bernoulli()

    def _check(self) -> None:
        check_layers(self.layers, units=self.units)
        check_part("output", self._output(), *UNITS.values())
        for name, kinds in (("corruption", CORRUPTIONS.values()), ("pretraining", [Machines])):
            if getattr(self, name) is not None:
                check_part(name, getattr(self, name), *kinds)
        if self.pretraining is not None and self.units not in ("sigmoid", "tanh"):
            raise ChainruleError(
                f"units is {self.units!r}: hidden units of pretrained machines are binary, take 'sigmoid' or 'tanh'"
            )
        if self.pretraining is not None and len(self.layers) == 1 and isinstance(self._output(), Gaussian):
            raise ChainruleError(
                "one layer of linear units under Gaussian output is PCA: there is nothing to pretrain"
            )
        check_sizes(epochs=self.epochs, batch=self.batch)
        at_least_zero(learning_rate=self.learning_rate, weight_decay=self.weight_decay)


@torch.no_grad()
def hidden_means(x: Tensor, machines: list[nn.Module]) -> Tensor:
    """x (n, d) through a stack of machines: the means of the hidden units of the last, (n, K)."""
    for machine in cast(list[Boltzmann], machines):
        x = by_parts(machine.means, x, machine.weights.shape[1])
    return x


@torch.no_grad()
def unroll(model: Denoiser, machines: list[Boltzmann]) -> None:
    """Give a network the weights of a stack of machines, upwards and, transposed, downwards.

    The network's input is centred, which the first bias makes good.
    """
    coder = model.coder
    for i, machine in enumerate(machines):
        coder.encoder[i].copy_(machine.weights)
        coder.encoder_bias[i].copy_(machine.hidden_bias)
        coder.decoder[-1 - i].copy_(machine.weights.T)
        coder.decoder_bias[-1 - i].copy_(machine.visible_bias)
    coder.encoder_bias[0].add_(model.span.centre @ coder.encoder[0])
    if "tanh" in coder.units:
        for weights, biases in ((coder.encoder, coder.encoder_bias), (coder.decoder, coder.decoder_bias)):
            as_tanh(list(weights), list(biases))


def as_tanh(weights: list[Tensor], biases: list[Tensor]) -> None:
    """Turn layers with σ between them into the same function with tanh between them: σ(a) = (1 + tanh(a/2)) / 2."""
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if i:  # the input is (1 + t) / 2
            b.add_(w.sum(0) / 2)
            w.div_(2)
        if i < len(weights) - 1:  # the output is tanh(a/2)
            w.div_(2)
            b.div_(2)
