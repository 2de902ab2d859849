"""Stacked autoencoders: layer on layer, each learned on the codes of the one below, then fine-tuned with a few labels.

Bengio, Lamblin, Popovici & Larochelle 2007; Vincent et al. 2008 and 2010 (denoising); Masci, Meier, Cireşan &
Schmidhuber 2011 (convolutional). Layer i learns to reconstruct the clean codes of layer i − 1, which stays as it is;
`to_classifier` then leaves the decoders out, puts a softmax on top and trains all layers on labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.atoms import RandomBatches
from chainrule.layers.coder import (
    ACTIVATIONS,
    Coder,
    Convolutional,
    Denoiser,
    Map,
    Span,
    check_layers,
    decoded,
    dense,
    encoded,
    encoder_of,
    learned_by,
)
from chainrule.layers.corruption import CORRUPTIONS, Corruption
from chainrule.layers.images import image_shape
from chainrule.layers.units import UNITS, Bernoulli, Gaussian
from chainrule.model import Code, at_least_zero, check_part, check_sizes, told_of
from chainrule.stages import Stage, Stages
from chainrule.train import Plan, Training, plan_of


@dataclass(frozen=True)
class Convolution:
    """Layers are convolutions, each followed by the maximum over squares.

    Attributes:
        kernel: pixels across and down, odd.
        pool: the side of the squares; 1: none.
    """

    kernel: int = 5
    pool: int = 2

    def check(self) -> None:
        check_sizes(kernel=self.kernel, pool=self.pool)
        if self.kernel % 2 == 0:
            raise ChainruleError(f"kernel is {self.kernel}: take an odd number, which has a middle")


class StackedAutoencoder(Code):
    """Codes of a stack of autoencoders, greedily learned, denoising where a corruption is given.

    Args:
        layers: the width of every layer; with a convolution, its channels.
        units: g of every layer: "relu", "sigmoid", "tanh", "gelu" or "linear".
        convolution: `Convolution()`: layers of images; None: dense layers.
        tied: decoders have the weights of the encoders; of dense layers only.
        output: what the first layer reconstructs: `Gaussian()` (None), or `Bernoulli()` for numbers between the
            smallest and largest of the data. Layers above reconstruct Bernoulli codes when these are σ, else
            Gaussian ones.
        corruption: of the input of every layer while it learns: `Masking`, `SaltAndPepper` or `Noise`; None: none.
        epochs: passes over the data for every layer of a training without a budget; a budget is shared equally.
        batch: events a step.
        learning_rate: the highest.
        weight_decay: every step takes learning_rate · weight_decay of each weight away.
        random_state: of the first weights, the batches and the corruption.

    Attributes:
        encoder_, encoder_bias_: weights and bias of every layer, in single precision.
        decoder_, decoder_bias_: of every layer from the code on; the weights are not there when tied.
        shift_, scale_: the network sees (x − shift_) / scale_, (d,) and a number.
        code_shape_: the code as an image (H, W, channels), or (k,); `transform` gives it as a row.
        n_steps_: optimizer steps that were taken.

    While a layer learns, the codes of the layer below are held in memory, 4 bytes a number.

    Example:
        >>> images = np.random.default_rng(0).random(size=(50, 8, 6, 1))
        >>> code = StackedAutoencoder((4, 3), convolution=Convolution(3), epochs=2).fit(images)
        >>> code.transform(images).shape, code.code_shape_
        ((50, 12), (2, 2, 3))
        >>> code.to_classifier(2).fit(images, images[:, 0, 0, 0] > 0.5).predict(images).shape
        (50,)
    """

    # Vincent et al. 2010: three layers, on MNIST of up to 3,000 units; 25 % masked.
    SIZES = {
        "tiny": {"layers": [8, 6], "units": "sigmoid", "corruption": {"kind": "masking"}, "epochs": 2},
        "laptop": {},
        "paper": {
            "layers": [2000, 2000, 2000],
            "units": "sigmoid",
            "tied": True,
            "corruption": {"kind": "masking", "share": 0.25},
        },
    }
    PARTS: ClassVar[dict[str, type]] = {"convolution": Convolution} | UNITS | CORRUPTIONS
    TYPES: ClassVar[tuple] = (np.float64, np.float32)
    SPATIAL = True

    def __init__(
        self,
        layers: Sequence[int] = (500, 250),
        units: str = "relu",
        convolution: Convolution | None = None,
        tied: bool = False,
        output: Bernoulli | Gaussian | None = None,
        corruption: Corruption | None = None,
        epochs: int = 10,
        batch: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        random_state: int = 0,
    ):
        self.layers = layers
        self.units = units
        self.convolution = convolution
        self.tied = tied
        self.output = output
        self.corruption = corruption
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    # ---- learning ----------------------------------------------------------------------------------------

    def learner(self, X, plan: Plan | None = None) -> Stages:
        """The trainings on X (n, *event), a layer each; of `plan` the budget is taken, the rates are our own."""
        self._check()
        rows = self.rows(X, reset=True, fewest=1)
        self.shift_, self.scale_ = self._output(0).scaling(rows)
        span = Span(rows, self.shift_, self.scale_, centred=self.convolution is None)
        x = span.seen(rows)
        stages = [Stage(1.0, self._layer(x, span, i)) for i in range(len(self.layers))]
        steps = self.epochs * math.ceil(len(rows) / self.batch) * len(stages)
        return Stages(stages, plan or Plan(steps=steps))

    def _layer(self, x: Tensor, first: Span, i: int) -> Callable[[Plan, list[nn.Module]], Training]:
        # What begins the training of layer i on the codes of the layers below
        def begin(plan: Plan, below: list[nn.Module]) -> Training:
            data, span, seed = x, first, self.random_state + i
            for layer in cast(list[Denoiser], below):
                data = layer.encode(data)
            if below:
                width = data.shape[1]
                span = Span(data.numpy(), np.zeros(width), 1.0, centred=self.convolution is None)
            coder = Coder(self._maps()[i : i + 1], [self.units], self._output(i), self.tied, seed)
            more = {"weight_decay": self.weight_decay, "bfloat16": True}
            plan = plan_of(plan, 0, self.learning_rate, seed, **more)
            model = Denoiser(coder, span, self.corruption).begin()
            return Training(model, RandomBatches(data, self.batch, seed), plan)

        return begin

    def learned(self, learner: Stages):
        """Take over what `learner` has reached; gives self."""
        self.__dict__.pop("decoder_", None)  # of an earlier fit that was not tied
        layers = [learned_by(cast(Denoiser, m)) for m in (*learner.models, learner.training.model)]
        for name in layers[0]:
            order = layers[::-1] if name.startswith("decoder") else layers
            setattr(self, name, tuple(array for layer in order for array in layer[name]))
        self.code_shape_ = getattr(self._maps()[-1], "image_above", (self.layers[-1],))
        self.n_steps_ = learner.step
        return self

    # ---- use -----------------------------------------------------------------------------------------------

    def transform(self, X):
        """X (n, *event) -> codes (n, k), in the precision of X."""
        return encoded(self, self.rows(X), self._maps(), self._units())

    def inverse_transform(self, Z):
        """Codes (n, k) -> events (n, *event), through all decoders."""
        check_is_fitted(self)
        maps = self._maps()
        back = ["sigmoid" if isinstance(self._output(i), Bernoulli) else "linear" for i in range(len(maps))]
        codes = self.codes(Z, maps[-1].above)
        return self.events(decoded(self, codes, maps, [*back[:0:-1], "linear"], self._output(0)))

    def to_classifier(self, n_classes: int | None = None, **options: Any) -> StackedClassifier:
        """A classifier that begins with these layers, without their decoders; its `fit` fine-tunes all of them.

        Args:
            n_classes: how many classes the labels will have; None: as many as there are.
            options: of `StackedClassifier`.
        """
        return StackedClassifier(self, n_classes=n_classes, **options)

    def filters(self) -> np.ndarray:
        """What every unit of the first layer looks for: its weights, (units, *event), or (units, kernel, kernel, C)."""
        check_is_fitted(self)
        first = self.encoder_[0]
        return self.events(first.T) if self.convolution is None else first.transpose(0, 2, 3, 1)

    def _maps(self) -> list[Map]:
        if self.convolution is None:
            return dense([len(self.shift_), *self.layers])
        maps: list[Convolutional] = []
        for channels in self.layers:
            image = maps[-1].image_above if maps else image_shape(self.event_)
            maps.append(Convolutional(image, channels, self.convolution.kernel, self.convolution.pool))
        return [*maps]

    def _units(self) -> list[str]:
        return [self.units] * len(self.layers)

    def _output(self, layer: int) -> Bernoulli | Gaussian:
        if layer == 0:
            return self.output or Gaussian()
        return Bernoulli() if self.units == "sigmoid" else Gaussian()

    def _check(self) -> None:
        check_layers(self.layers, units=self.units)
        check_part("output", self._output(0), *UNITS.values())
        for name, kinds in (("corruption", CORRUPTIONS.values()), ("convolution", [Convolution])):
            if getattr(self, name) is not None:
                check_part(name, getattr(self, name), *kinds)
        if self.tied and self.convolution is not None:
            raise ChainruleError("tied=True is for dense layers: leave it out, or the convolution")
        check_sizes(epochs=self.epochs, batch=self.batch)
        at_least_zero(learning_rate=self.learning_rate, weight_decay=self.weight_decay)


# ---- fine-tuning ---------------------------------------------------------------------------------------


class Tuned(nn.Module):
    """The encoder with a softmax on top; its loss is the mean cross-entropy of labels in nats."""

    def __init__(
        self,
        code: StackedAutoencoder,
        span: Span,
        classes: int,
        dropout: float,
        corruption: Corruption | None,
    ):
        super().__init__()
        self.maps, self.units = code._maps(), code._units()
        self.dropout, self.corruption = dropout, corruption
        weights, biases = encoder_of(code, self.maps, np.float32)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.head = nn.Parameter(torch.zeros(self.maps[-1].above, classes))
        self.head_bias = nn.Parameter(torch.zeros(classes))
        self.span = span

    def logits(self, x: Tensor) -> Tensor:
        """x (B, d) as the network sees it -> (B, classes)."""
        for m, w, b, name in zip(self.maps, self.weights, self.biases, self.units, strict=True):
            x = nn.functional.dropout(ACTIVATIONS[name].g(m.up(x, w, b)), self.dropout, self.training)
        return torch.addmm(self.head_bias, x, self.head)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        given = x if self.corruption is None else self.corruption(x, self.span.zero, self.span.ends)
        return nn.functional.cross_entropy(self.logits(given).float(), y)


class StackedClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that begins with the layers of a `StackedAutoencoder` and trains all of them on labels.

    Args:
        code: the stack; it is taken as it is when it is fitted (and not changed), else fitted first, to the same X.
            None: `StackedAutoencoder()`.
        n_classes: how many classes there are; None: as many as the labels have.
        epochs: passes over the labelled events.
        batch: events a step.
        learning_rate: the highest, of Adam, falling to 0.
        weight_decay: every step takes learning_rate · weight_decay of each weight away.
        dropout: share of the units of every layer that are left out of a step.
        corruption: of the input while training, as for the stack.
        random_state: of the batches, dropout and corruption.

    Attributes:
        classes_: the labels.
        code_: the fitted stack with fine-tuned encoders (its decoders belong to the encoders of before).
        head_, head_bias_: (k, classes) and (classes,), of the softmax.

    Example: see `StackedAutoencoder`.
    """

    def __init__(
        self,
        code: StackedAutoencoder | None = None,
        n_classes: int | None = None,
        epochs: int = 30,
        batch: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        dropout: float = 0.0,
        corruption: Corruption | None = None,
        random_state: int = 0,
    ):
        self.code = code
        self.n_classes = n_classes
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.corruption = corruption
        self.random_state = random_state

    def fit(self, X, y):
        """Fine-tune on X (n, *event) with labels y (n,)."""
        learner = self.learner(X, y)
        for _ in learner:
            pass
        return self.learned(learner)

    def learner(self, X, y, plan: Plan | None = None) -> Training:
        """The training on X (n, *event) with labels y (n,), not yet begun; of `plan` the budget is taken."""
        self._check()
        flat = flattened(X)
        with told_of("X", flat):
            flat, y = validate_data(self, flat, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) != (self.n_classes or max(2, len(self.classes_))):
            raise ChainruleError(
                f"the labels have {len(self.classes_)} class{'es' * (len(self.classes_) != 1)}, and "
                f"{self.n_classes or 'at least 2'} were asked for: leave out n_classes, or give other labels"
            )
        code = self.code or StackedAutoencoder()
        self.code_ = deepcopy(code) if hasattr(code, "encoder_") else clone(code).fit(X)
        rows = self.code_.rows(as_given(X, flat))
        span = Span(rows, self.code_.shift_, self.code_.scale_)
        x = span.seen(rows)
        model = Tuned(self.code_, span, len(self.classes_), self.dropout, self.corruption)
        steps = self.epochs * math.ceil(len(x) / self.batch)
        more = {"weight_decay": self.weight_decay, "bfloat16": True}
        plan = plan_of(plan, steps, self.learning_rate, self.random_state, **more)
        return Training(
            model, RandomBatches(x, self.batch, self.random_state, torch.from_numpy(labels)), plan
        )

    def learned(self, learner: Training):
        """Take over what `learner` has reached; gives self."""
        model = cast(Tuned, learner.model)
        for name, tensors in (("encoder_", model.weights), ("encoder_bias_", model.biases)):
            setattr(self.code_, name, tuple(t.detach().numpy().copy() for t in tensors))
        self.head_, self.head_bias_ = (t.detach().numpy().copy() for t in (model.head, model.head_bias))
        return self

    def decision_function(self, X) -> np.ndarray:
        """The logits of X (n, *event), (n, classes); of two classes those of the second less the first, (n,)."""
        check_is_fitted(self)
        flat = flattened(X)
        with told_of("X", flat):
            flat = validate_data(self, flat, dtype=[np.float64, np.float32], reset=False)
        codes = self.code_.transform(as_given(X, flat))
        logits = codes @ self.head_.astype(codes.dtype) + self.head_bias_.astype(codes.dtype)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X) -> np.ndarray:
        """p(class | x) of X (n, *event), (n, classes)."""
        logits = self.decision_function(X)
        logits = np.stack([np.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        return softmax(logits, axis=1)

    def predict(self, X) -> np.ndarray:
        """The most probable class of X (n, *event), (n,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _check(self) -> None:
        if self.code is not None and not isinstance(self.code, StackedAutoencoder):
            raise ChainruleError(f"code is {self.code!r}: take a StackedAutoencoder")
        if self.corruption is not None:
            check_part("corruption", self.corruption, *CORRUPTIONS.values())
        check_sizes(epochs=self.epochs, batch=self.batch, dropout=self.dropout)
        at_least_zero(learning_rate=self.learning_rate, weight_decay=self.weight_decay)


def flattened(X):
    """Events (n, *event) as rows (n, d); what has at most two axes as it is."""
    return np.asarray(X).reshape(len(X), -1) if getattr(X, "ndim", 2) > 2 else X


def as_given(X, flat: np.ndarray) -> np.ndarray:
    """The checked rows (n, d) of X in the shape of X, so that a code can tell whether it is the one it knows."""
    return flat.reshape(X.shape) if getattr(X, "ndim", 2) > 2 else flat
