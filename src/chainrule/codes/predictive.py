"""Predictive sparse decomposition: a dictionary, and an encoder that has learned to predict its sparse codes.

Kavukcuoglu, Ranzato & LeCun 2008, "Fast inference in sparse coding algorithms". The paper minimises
‖x − zD‖² + λ‖z‖₁ + α‖z − F(x)‖² with F(x) = g · tanh(x W + b) and λ = 0.5, α = 1. Here the first two terms are, as
everywhere in chainrule, ½‖x − zD‖² + `penalty` · ‖z‖₁: half of the paper's, so that penalty = λ/2 and the third is
½α‖z − F(x)‖² with the paper's α.

    B batch, d numbers of an event, K atoms
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.amortisation import COMPARED, Report, report_on
from chainrule.layers.atoms import RandomBatches, keep_unit_rows, random_atoms, standardised
from chainrule.layers.coordinate_descent import CoordinateDescent, coordinate_descent
from chainrule.layers.lasso import Solver
from chainrule.model import Code, at_least_zero, check_sizes
from chainrule.train import Plan, Training, plan_of

CHUNK = 1 << 12  # rows encoded at a time
TOLERANCE = 0.01  # of the KKT residual beside the penalty: where inference of a training batch stops


class Predictor(nn.Module):
    """What is trained, in units in which the data have mean 0 and variance 1; its loss is the energy / d."""

    mean: Tensor
    scale: Tensor

    def __init__(self, atoms: Tensor, mean: Tensor, scale: float, penalty: float, alpha: float):
        super().__init__()
        count, width = atoms.shape
        self.penalty, self.alpha = penalty / scale, alpha
        self.register_buffer("mean", mean)  # of the data, (d,), and their scale: both in double precision
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.decoder = nn.Parameter(atoms.clone())  # (K, d)
        # At first F(x) is about xDᵀ: a tanh is straight near 0, and events have norm √d.
        self.encoder = nn.Parameter(atoms.T.contiguous() / math.sqrt(width))  # (d, K)
        self.bias = nn.Parameter(torch.zeros(count))
        self.gain = nn.Parameter(torch.full((count,), math.sqrt(width)))

    def predict(self, x: Tensor) -> Tensor:
        """F(x) = g · tanh(x W + b), (B, d) -> (B, K)."""
        return self.gain * torch.tanh(torch.addmm(self.bias, x, self.encoder))

    def energy(self, x: Tensor, z: Tensor, predicted: Tensor) -> Tensor:
        """½‖x − zD‖² + penalty ‖z‖₁ + ½α‖z − predicted‖² of every event, (B,)."""
        error = (x - z @ self.decoder).square().sum(1) / 2
        return error + self.penalty * z.abs().sum(1) + self.alpha / 2 * (z - predicted).square().sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """The mean energy of the best codes; its gradient by the weights is the one at fixed codes."""
        predicted = self.predict(x)
        with torch.no_grad():
            best = infer(x, self.decoder, predicted, self.penalty, self.alpha)
        return self.energy(x, best, predicted).mean() / x.shape[1]


def infer(x: Tensor, atoms: Tensor, predicted: Tensor, penalty: float, alpha: float) -> Tensor:
    """argmin_z ½‖x − zD‖² + penalty ‖z‖₁ + ½α‖z − predicted‖², (B, K), to a hundredth of the penalty.

    A Lasso of longer events: ½‖x − zD‖² + ½α‖z − p‖² = ½‖[x, √α p] − z [D, √α I]‖².
    """
    root = math.sqrt(alpha)
    rows = torch.cat([x, root * predicted], 1).numpy(force=True)
    longer = torch.cat([atoms, root * torch.eye(len(atoms)).to(atoms)], 1).numpy(force=True)
    codes = coordinate_descent(rows, longer, penalty, tol=TOLERANCE)
    return torch.from_numpy(codes.toarray()).to(x)


class PredictiveSparseDecomposition(Code):
    """Codes F(x) = g · tanh((x − mean) W + b) in one pass, near the sparse codes on a dictionary of unit atoms.

    Each step of training infers the best codes z of a batch, then moves D, W, b
    and g by Adam along the gradient of ½‖x − zD‖² + penalty ‖z‖₁ + ½α‖z − F(x)‖² at these codes; atoms are
    divided by their norms after it. Predictions are small where sparse codes are 0, not exactly 0.

    Args:
        n_components: K, the number of atoms.
        penalty: λ of ½‖x − zD‖² + λ‖z‖₁, in the units of the data; half of the paper's 0.5.
        alpha: the weight of the prediction's error; 1 as in the paper.
        epochs: passes over the data of a training without a budget.
        batch: events a step.
        learning_rate: the highest, for data of variance 1 (to which the data are scaled within).
        random_state: of the first weights and of the batches.

    Attributes:
        components_: (K, d) D, rows of norm 1, in single precision like all weights.
        encoder_: (d, K) W.
        encoder_bias_: (K,) b.
        gain_: (K,) g, in the units of the data.
        mean_: (d,) the mean event, in double precision.
        n_steps_: optimizer steps that were taken.

    Example:
        >>> rows = np.random.default_rng(0).laplace(size=(200, 6))
        >>> code = PredictiveSparseDecomposition(12, epochs=5).fit(rows)
        >>> code.transform(rows).shape, code.exact_codes(rows).shape
        ((200, 12), (200, 12))
    """

    # The paper's largest: 256 units for 12 × 12 patches; that is the default here.
    SIZES = {"tiny": {"n_components": 16, "epochs": 3}, "laptop": {}, "paper": {"n_components": 256}}
    TYPES: ClassVar[tuple] = (np.float64, np.float32)
    SPARSE: ClassVar[bool] = True

    def __init__(
        self,
        n_components: int = 256,
        penalty: float = 0.25,
        alpha: float = 1.0,
        epochs: int = 10,
        batch: int = 256,
        learning_rate: float = 3e-3,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.penalty = penalty
        self.alpha = alpha
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.random_state = random_state

    def learner(self, X, plan: Plan | None = None) -> Training:
        """The training on X (n, *event), not yet begun; of `plan` the budget is taken, the rates are our own."""
        self._check()
        x, mean, scale = standardised(self.rows(X, reset=True, fewest=1))
        atoms = random_atoms(self.n_components, x.shape[1], self.random_state)
        model = Predictor(atoms, torch.from_numpy(mean), scale, self.penalty, self.alpha)
        steps = self.epochs * math.ceil(len(x) / self.batch)
        plan = plan_of(plan, steps, self.learning_rate, self.random_state)
        training = Training(model, RandomBatches(x, self.batch, self.random_state), plan)
        keep_unit_rows(model.decoder, training.optimizer)
        return training

    @torch.no_grad()
    def learned(self, learner: Training):
        """Take over what `learner` has reached, in the units of the data; gives self."""
        model = cast(Predictor, learner.model)
        scale = float(model.scale)
        self.components_ = model.decoder.numpy().copy()
        self.encoder_ = model.encoder.numpy() / np.float32(scale)
        self.encoder_bias_ = model.bias.numpy().copy()
        self.gain_ = np.float32(scale) * model.gain.numpy()
        self.mean_ = model.mean.numpy().copy()
        self.n_steps_ = learner.step
        return self

    def transform(self, X):
        """X (n, *event) -> predicted codes (n, K), one forward pass in the precision of X."""
        rows = self.rows(X)
        codes = np.empty((len(rows), len(self.components_)), rows.dtype)
        for i in range(0, len(rows), CHUNK):
            codes[i : i + CHUNK] = self._predict((rows[i : i + CHUNK] - self.mean_).astype(rows.dtype))
        return codes

    def exact_codes(self, X, solver: Solver | None = None) -> sparse.csr_array:
        """X (n, *event) -> the codes that are predicted, (n, K): argmin_z ½‖x − mean − zD‖² + penalty ‖z‖₁.

        `solver(rows, atoms, penalty)` finds them; by default `CoordinateDescent`.
        """
        rows = self.rows(X)
        centred = (rows - self.mean_).astype(rows.dtype)
        return (solver or CoordinateDescent())(centred, self.components_.astype(rows.dtype), self.penalty)

    def inverse_transform(self, Z):
        """Codes (n, K), dense or scipy.sparse -> events (n, *event): z D + mean."""
        check_is_fitted(self)
        codes = self.codes(Z, len(self.components_))
        rows = codes @ self.components_.astype(codes.dtype) + self.mean_
        return self.events(rows.astype(codes.dtype))

    def report(
        self, X, solver: Solver | None = None, penalty: float | None = None, samples: int = COMPARED
    ) -> Report:
        """How good the predicted codes of X (n, *event) are beside exact ones, at λ = `penalty`, or its own.

        At most `samples` events, evenly spaced in X, are coded exactly.
        """
        penalty = self.penalty if penalty is None else penalty
        return report_on(self.rows(X) - self.mean_, self.components_, self._predict, solver, penalty, samples)

    def _check(self) -> None:
        check_sizes(n_components=self.n_components, epochs=self.epochs, batch=self.batch)
        if not 0 < self.penalty < math.inf:
            raise ChainruleError(f"the penalty is {self.penalty}: take a number above 0")
        at_least_zero(alpha=self.alpha, learning_rate=self.learning_rate)

    def _predict(self, centred: np.ndarray) -> np.ndarray:
        """F of x − mean in its own precision, (n, d) -> (n, K)."""
        x = torch.from_numpy(centred)
        arrays = (self.encoder_bias_, self.encoder_, self.gain_)
        bias, weights, gain = (torch.from_numpy(a).to(x.dtype) for a in arrays)
        return torch.addmm(bias, x, weights).tanh_().mul_(gain).numpy()
