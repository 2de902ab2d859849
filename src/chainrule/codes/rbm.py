"""The restricted Boltzmann machine as a code: binary or Gaussian visible units, contrastive divergence, free energy.

Smolensky 1986; Hinton 2002 (contrastive divergence); Tieleman 2008 (persistent chains); Hinton & Salakhutdinov 2006
(Gaussian visible units; a stack of these machines initialises a deep autoencoder, see `DeepAutoencoder`).

    d numbers of an event, K hidden units
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.layers.atoms import RandomBatches
from chainrule.layers.boltzmann import ENUMERATED, Boltzmann, first_machine
from chainrule.layers.units import UNITS, Bernoulli, Gaussian, in_parts, scaled
from chainrule.model import Code, at_least_zero, check_part, check_sizes
from chainrule.randomness import random_numbers, seed_of
from chainrule.train import Plan, Training, plan_of


class RBM(Code):
    """p(v, h) ∝ exp(b v + v W h + c h): codes are the probabilities p(h = 1 | v) of the hidden units, σ(vW + c).

    Trained in single precision along the gradient of contrastive divergence: the data against what k steps of Gibbs
    sampling make of them (CD-k), or against chains that are never restarted (PCD-k).

    Args:
        n_components: K, the number of hidden units.
        visible: `Bernoulli()` (None): numbers between the smallest and the largest of the data are probabilities.
            `Gaussian()`: real numbers, v = (x − mean) / deviation of variance 1; takes a smaller learning rate.
        hidden: `Bernoulli()` (None), or `Gaussian()`: codes are then linear, vW + c. One of the layers is Bernoulli.
        gibbs: k, the steps of the chains.
        persistent: chains go on from batch to batch (PCD) instead of starting at the data (CD).
        epochs: passes over the data of a training without a budget.
        batch: events a step, and as many chains.
        learning_rate: the highest, of a descent with momentum 0.9. None: 0.05; 0.01 for chains that persist, which
            have to keep up; 0.002 with Gaussian units, whose steps are not bounded.
        weight_decay: every step takes learning_rate · weight_decay of each weight away.
        random_state: of the first weights, the batches and the chains.

    Attributes:
        components_: (K, d) Wᵀ, in single precision like all weights.
        visible_bias_: (d,) b.
        hidden_bias_: (K,) c.
        shift_, scale_: v = (x − shift_) / scale_, (d,) and a number.
        n_steps_: optimizer steps that were taken.

    Example:
        >>> rows = np.random.default_rng(0).integers(0, 2, size=(200, 6))
        >>> code = RBM(4, epochs=5).fit(rows)
        >>> code.transform(rows).shape, round(float(np.exp(code.log_likelihood(np.ones((1, 6))))[0]), 1)
        ((200, 4), 0.0)
    """

    # The published size is the first machine of Hinton & Salakhutdinov 2006 on MNIST.
    SIZES = {"tiny": {"n_components": 12, "epochs": 3}, "laptop": {}, "paper": {"n_components": 1000}}
    PARTS: ClassVar[dict[str, type]] = UNITS
    TYPES: ClassVar[tuple] = (np.float64, np.float32)

    def __init__(
        self,
        n_components: int = 256,
        visible: Bernoulli | Gaussian | None = None,
        hidden: Bernoulli | Gaussian | None = None,
        gibbs: int = 1,
        persistent: bool = False,
        epochs: int = 20,
        batch: int = 100,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.visible = visible
        self.hidden = hidden
        self.gibbs = gibbs
        self.persistent = persistent
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    # ---- learning ----------------------------------------------------------------------------------------

    def learner(self, X, plan: Plan | None = None) -> Training:
        """The training on X (n, *event), not yet begun; of `plan` the budget is taken, the rates are our own."""
        self._check()
        rows = self.rows(X, reset=True, fewest=1)
        self.shift_, self.scale_ = self._visible().scaling(rows)
        v = scaled(rows, self.shift_, self.scale_)
        layers = self.n_components, self._visible(), self._hidden()
        chains = self.batch if self.persistent else 0
        model = first_machine(v, *layers, self.random_state, self.gibbs, chains, self.weight_decay)
        steps = self.epochs * math.ceil(len(rows) / self.batch)
        plan = plan_of(plan, steps, self._rate(), self.random_state)
        return Training(model, RandomBatches(v, self.batch, self.random_state), plan)

    def learned(self, learner: Training):
        """Take over what `learner` has reached; gives self."""
        model = cast(Boltzmann, learner.model)
        self.components_ = model.weights.detach().numpy().T.copy()
        self.visible_bias_ = model.visible_bias.detach().numpy().copy()
        self.hidden_bias_ = model.hidden_bias.detach().numpy().copy()
        self.n_steps_ = learner.step
        return self

    # ---- use -----------------------------------------------------------------------------------------------

    def transform(self, X):
        """X (n, *event) -> the means of the hidden units (n, K), in the precision of X."""
        rows = self.rows(X)
        found = np.empty((len(rows), len(self.components_)), rows.dtype)
        model = self._machine(rows.dtype)
        for part, into in zip(in_parts(rows), in_parts(found), strict=True):
            into[:] = model.means(self._seen(part)).numpy()
        return found

    def inverse_transform(self, Z):
        """Codes (n, K) -> events (n, *event): the means of the visible units, in the units of the data."""
        check_is_fitted(self)
        codes = self.codes(Z, len(self.components_))
        model = self._machine(codes.dtype)
        return self._events(model.visible.mean(model.down(torch.from_numpy(np.array(codes, order="C")))))

    def free_energy(self, X) -> np.ndarray:
        """F(v) of every event of X (n, *event), (n,): p(v) = exp(−F(v)) / Z. The lower, the more probable."""
        rows = self.rows(X)
        model = self._machine(rows.dtype)
        parts = [model.free_energy(self._seen(part)).numpy() for part in in_parts(rows)]
        return np.concatenate(parts)

    def log_likelihood(self, X) -> np.ndarray:
        """log p(v) of every event of X (n, *event) in nats, (n,), exactly, when a layer has at most 20 binary units.

        Of Gaussian visible units it is the density of v, not of x.

        Raises:
            ChainruleError: the machine is too large for that.
        """
        rows = self.rows(X).astype(np.float64)
        (K, d), layers = self.components_.shape, (self._visible(), self._hidden())
        least = min(n for n, units in zip((d, K), layers, strict=True) if isinstance(units, Bernoulli))
        if least > ENUMERATED:
            raise ChainruleError(
                f"the smaller layer of binary units has {least}: the exact sum over their states takes at most "
                f"{ENUMERATED}; compare free energies instead"
            )
        gaussian = sum(
            n for n, units in zip((d, 0), layers, strict=True) if isinstance(units, Gaussian)
        )  # √2π of each visible unit; those of hidden units are in both F and Z
        log_z = float(self._machine(rows.dtype).log_normaliser()) + gaussian * math.log(2 * math.pi) / 2
        return -self.free_energy(rows) - log_z

    def sample(self, n: int, steps: int = 1000, random_state: int = 0) -> np.ndarray:
        """(n, *event) means of visible units after so many steps of Gibbs sampling from random hidden states."""
        check_is_fitted(self)
        check_sizes(n=n, steps=steps)
        model = self._machine(np.dtype(np.float32))
        with random_numbers(seed_of(random_state, 0)):
            h, _ = model.hidden.draw(torch.zeros(n, len(self.components_)))
            _, h = model.sample(h, steps)
        return self._events(model.visible.mean(model.down(h)))

    def filters(self) -> np.ndarray:
        """What every hidden unit looks for, (K, *event): its weights."""
        check_is_fitted(self)
        return self.events(self.components_)

    def _machine(self, dtype) -> Boltzmann:
        arrays = (self.components_.T, self.visible_bias_, self.hidden_bias_)
        weights, visible, hidden = (torch.from_numpy(a.astype(dtype)) for a in arrays)
        model = Boltzmann(weights, self._visible(), self._hidden(), visible).requires_grad_(False)
        model.hidden_bias.copy_(hidden)
        return model

    def _seen(self, rows: np.ndarray) -> Tensor:
        # (n, d) rows -> what the visible units are given, in their precision
        return torch.from_numpy(((rows - self.shift_) / self.scale_).astype(rows.dtype))

    def _events(self, v: Tensor) -> np.ndarray:
        rows = v.numpy()
        return self.events((rows * self.scale_ + self.shift_).astype(rows.dtype))

    def _visible(self) -> Bernoulli | Gaussian:
        return self.visible or Bernoulli()

    def _hidden(self) -> Bernoulli | Gaussian:
        return self.hidden or Bernoulli()

    def _rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        real = Gaussian in (type(self._visible()), type(self._hidden()))
        return 0.002 if real else 0.01 if self.persistent else 0.05

    def _check(self) -> None:
        check_part("visible", self._visible(), *UNITS.values())
        check_part("hidden", self._hidden(), *UNITS.values())
        if isinstance(self._visible(), Gaussian) and isinstance(self._hidden(), Gaussian):
            raise ChainruleError(
                "visible and hidden are Gaussian, which is PCA in disguise: make one of them Bernoulli"
            )
        sizes = {"n_components": self.n_components, "gibbs": self.gibbs, "epochs": self.epochs}
        check_sizes(**sizes, batch=self.batch)
        at_least_zero(learning_rate=self._rate(), weight_decay=self.weight_decay)
