"""Autoencoders of dense layers: tied or untied, of any depth, denoising where a corruption is given.

Rumelhart, Hinton & Williams 1986; Baldi & Hornik 1989 (linear units span the principal subspace); Vincent, Larochelle,
Bengio & Manzagol 2008 (denoising).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.layers.atoms import RandomBatches
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
from chainrule.layers.units import UNITS, Bernoulli, Gaussian
from chainrule.model import Code, at_least_zero, check_part, check_sizes
from chainrule.train import Plan, Training, plan_of


class Autoencoder(Code):
    """Codes h = g(xW + b), layer after layer, and back: x̂ = o(hW* + c), trained so that x̂ is like x.

    With a corruption x̂ is made of a corrupted x and compared with the clean one: what is learned is then not how to
    copy, but what belongs together. Trained in single precision by Adam on a schedule that falls to 0.

    Args:
        layers: the width of every layer of the encoder; the last is the length of a code.
        units: g of the layers: "sigmoid", "relu", "tanh", "gelu" or "linear".
        code_units: g of the last layer, the code itself; None: as the others.
        tied: the decoder has the weights of the encoder, W* = Wᵀ.
        output: `Gaussian()` (None): real numbers, linear output, squared error. `Bernoulli()`: numbers between the
            smallest and the largest of the data, σ as output, cross-entropy.
        corruption: `Masking`, `SaltAndPepper` or `Noise`; None: none.
        epochs: passes over the data of a training without a budget.
        batch: events a step.
        learning_rate: the highest.
        weight_decay: every step takes learning_rate · weight_decay of each weight away.
        random_state: of the first weights, the batches and the corruption.

    Attributes:
        encoder_: W of every layer, (a, b) each, in single precision like all weights.
        encoder_bias_: b of every layer, (b,) each.
        decoder_: W* of every layer from the code on; not there when tied.
        decoder_bias_: c of every layer from the code on.
        shift_, scale_: the network sees (x − shift_) / scale_, (d,) and a number.
        n_steps_: optimizer steps that were taken.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(200, 6))
        >>> from chainrule.layers.corruption import Masking
        >>> code = Autoencoder((4,), corruption=Masking(0.2), epochs=2).fit(rows)
        >>> code.transform(rows).shape, code.inverse_transform(code.transform(rows)).shape
        ((200, 4), (200, 6))
    """

    # Vincent et al. 2010 used layers of 1,000 to 3,000 units on MNIST.
    SIZES = {
        "tiny": {"layers": [16], "epochs": 2},
        "laptop": {},
        "paper": {"layers": [2000], "tied": True, "corruption": {"kind": "masking", "share": 0.25}},
    }
    PARTS: ClassVar[dict[str, type]] = UNITS | CORRUPTIONS
    TYPES: ClassVar[tuple] = (np.float64, np.float32)

    def __init__(
        self,
        layers: Sequence[int] = (256,),
        units: str = "sigmoid",
        code_units: str | None = None,
        tied: bool = False,
        output: Bernoulli | Gaussian | None = None,
        corruption: Corruption | None = None,
        epochs: int = 20,
        batch: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        random_state: int = 0,
    ):
        self.layers = layers
        self.units = units
        self.code_units = code_units
        self.tied = tied
        self.output = output
        self.corruption = corruption
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def learner(self, X, plan: Plan | None = None) -> Training:
        """The training on X (n, *event), not yet begun; of `plan` the budget is taken, the rates are our own."""
        self._check()
        rows = self.rows(X, reset=True, fewest=1)
        self.shift_, self.scale_ = self._output().scaling(rows)
        span = Span(rows, self.shift_, self.scale_)
        coder = Coder(self._maps(), self._units(), self._output(), self.tied, self.random_state)
        model = Denoiser(coder, span, self.corruption).begin()
        steps = self.epochs * math.ceil(len(rows) / self.batch)
        rates = {"weight_decay": self.weight_decay, "bfloat16": True}
        plan = plan_of(plan, steps, self.learning_rate, self.random_state, **rates)
        return Training(model, RandomBatches(span.seen(rows), self.batch, self.random_state), plan)

    def learned(self, learner: Training):
        """Take over what `learner` has reached; gives self."""
        self.__dict__.pop("decoder_", None)  # of an earlier fit that was not tied
        for name, value in learned_by(cast(Denoiser, learner.model)).items():
            setattr(self, name, value)
        self.n_steps_ = learner.step
        return self

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
        return [*[self.units] * (len(self.layers) - 1), self.code_units or self.units]

    def _output(self) -> Bernoulli | Gaussian:
        return self.output or Gaussian()

    def _check(self) -> None:
        check_layers(self.layers, units=self.units, code_units=self.code_units or self.units)
        check_part("output", self._output(), *UNITS.values())
        if self.corruption is not None:
            check_part("corruption", self.corruption, *CORRUPTIONS.values())
        check_sizes(epochs=self.epochs, batch=self.batch)
        at_least_zero(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
