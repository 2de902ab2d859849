"""Sparse autoencoders: a dictionary whose codes come from one product and a nonlinearity instead of a Lasso.

z = act((x − b_d) W + b_e), x̂ = z D + b_d, the rows of D of norm 1, and z never negative. Four kinds of `act`:
ReLU with an l1 cost (Bricken et al. 2023), TopK (Gao et al. 2024), BatchTopK (Bussmann et al. 2024), JumpReLU
(Rajamanoharan et al. 2024). `SparseAutoencoder.report` says what the short cut costs: its codes are compared
with the exact Lasso codes on the same dictionary.

    B batch, d numbers of an event, K units
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.amortisation import COMPARED, Report, report_on, usage
from chainrule.layers.atoms import RandomBatches, keep_unit_rows, random_atoms, standardised, unit_rows
from chainrule.layers.lasso import Solver
from chainrule.model import Code, at_least_zero, check_part, check_sizes
from chainrule.randomness import REDRAW, seed_of
from chainrule.train import Plan, Training, plan_of

CHUNK = 1 << 12  # rows encoded at a time, so that their K numbers each do not fill the memory
AUX_WEIGHT = 1 / 32  # of the loss of dead units beside the others' (Gao et al. 2024)
REDRAWN_SIZE = 0.2  # of a redrawn unit's encoder beside those of living units (Bricken et al. 2023)
REDRAW_UNTIL = 0.75  # share of the budget: a new unit needs time to learn
CANDIDATES = 1 << 12  # rows among which a redrawn unit looks for a badly reconstructed one
THRESHOLD_ROWS = 1 << 14  # training events from which the threshold of BatchTopK is estimated


# ---- activations ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """What makes codes of pre-activations, and what codes cost in training (abstract; the kinds are final).

    AUX says how dead units come back: by the auxiliary loss, or by being redrawn from the data.
    """

    AUX: ClassVar[bool] = False

    def check(self) -> None:
        """One clear line for options that make no sense."""

    def first_threshold(self) -> float | None:
        """Where the learned threshold of every unit starts, in standard deviations; None: none is learned."""
        return None

    def scaled(self, scale: float, width: int) -> Activation:
        """The activation whose `cost` suits data divided by `scale` and errors that are means over `width`."""
        return self

    def train(self, pre: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pre-activations (B, K) of a batch -> (codes (B, K), what they cost, a scalar)."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def encode(self, pre: Tensor, threshold: Tensor) -> Tensor:
        """What inference makes of pre-activations, each event by itself: (n, K) -> (n, K)."""
        return pre * (pre > threshold)

    def threshold(self, pre: Tensor) -> float:
        """The threshold of inference where none is learned, from pre-activations of training events."""
        return 0.0


@dataclass(frozen=True)
class ReLUL1(Activation):
    """max(pre, 0), trained on ½‖x − x̂‖² + penalty · ‖z‖₁, the objective of the Lasso.

    Attributes:
        penalty: λ, in the units of the data.
    """

    penalty: float = 1.0

    def check(self) -> None:
        at_least_zero(penalty=self.penalty)

    def scaled(self, scale: float, width: int) -> ReLUL1:
        return replace(self, penalty=self.penalty / (scale * width))

    def train(self, pre, threshold):
        z = pre.relu()
        return z, self.penalty * z.sum(1).mean()


@dataclass(frozen=True)
class TopK(Activation):
    """The k largest positive pre-activations of every event; nothing shrinks them.

    Attributes:
        k: non-zeros of a code, at most.
    """

    k: int = 10
    AUX: ClassVar[bool] = True

    def check(self) -> None:
        check_sizes(k=self.k)

    def train(self, pre, threshold):
        return self.encode(pre, pre), pre.new_zeros(())

    def encode(self, pre: Tensor, threshold: Tensor) -> Tensor:
        if self.k >= pre.shape[1]:
            return pre.relu()
        values, places = pre.topk(self.k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter(1, places, values.relu())


@dataclass(frozen=True)
class BatchTopK(Activation):
    """The k · B largest positive pre-activations of a batch of B events; at inference a fixed threshold.

    The paper averages over batches the smallest activation that was kept. Here the threshold is the value
    above which lie k activations an event, over 16,384 training events: the mean number of non-zeros is k.

    Attributes:
        k: mean number of non-zeros of a code, at most.
    """

    k: int = 10
    AUX: ClassVar[bool] = True

    def check(self) -> None:
        check_sizes(k=self.k)

    def train(self, pre, threshold):
        flat = pre.flatten()
        values, places = flat.topk(min(self.k * len(pre), len(flat)), sorted=False)
        return torch.zeros_like(flat).scatter(0, places, values.relu()).view_as(pre), pre.new_zeros(())

    def threshold(self, pre: Tensor) -> float:
        flat, kept = pre.flatten(), self.k * len(pre)
        return max(0.0, float(flat.kthvalue(len(flat) - kept).values)) if kept < len(flat) else 0.0


@dataclass(frozen=True)
class JumpReLU(Activation):
    """pre where it is above the unit's threshold, else 0; thresholds are learned under a cost of non-zeros.

    Neither the jump nor the count of non-zeros has a useful derivative by the threshold θ. Training uses the
    estimates of Rajamanoharan et al. 2024, with the kernel K = 1 on (−½, ½), else 0:
    −(θ/ε) K((pre − θ)/ε) for the jump and −(1/ε) K((pre − θ)/ε) for the count.

    Attributes:
        bandwidth: ε, in standard deviations of the data. Narrow means exact but noisy.
        target: the mean number of non-zeros that is asked for, by a cost (count/target − 1)².
        penalty: instead of a target: what a non-zero costs beside ½‖x − x̂‖², in squared units of the data.
    """

    bandwidth: float = 0.1
    target: float | None = None
    penalty: float | None = None

    DEFAULT_TARGET: ClassVar[float] = 10.0
    PULL: ClassVar[float] = 1.0  # what a count of twice the target costs, as a share of the variance

    def check(self) -> None:
        if not 0 < self.bandwidth < math.inf:
            raise ChainruleError(f"bandwidth is {self.bandwidth}: take a number above 0, such as 0.1")
        if self.target is not None and self.penalty is not None:
            raise ChainruleError(f"target={self.target} and penalty={self.penalty}: give one of the two")
        if self.target is not None and not 0 < self.target < math.inf:
            raise ChainruleError(f"target is {self.target}: take a number of non-zeros above 0")
        at_least_zero(penalty=self.penalty or 0.0)

    def first_threshold(self) -> float:
        return 0.5

    def scaled(self, scale: float, width: int) -> JumpReLU:
        return self if self.penalty is None else replace(self, penalty=self.penalty / (scale**2 * width))

    def train(self, pre, threshold):
        assert threshold is not None
        still = threshold.detach()
        kernel = ((pre - still).abs() < self.bandwidth / 2) / self.bandwidth
        slide = kernel * (threshold - still)  # 0, with the kernel as its derivative by the threshold
        on = (pre > still).to(pre.dtype)
        return pre * on - still * slide, self.price((on - slide).sum(1).mean())

    def price(self, count: Tensor) -> Tensor:
        """What a mean number of non-zeros costs."""
        if self.penalty is not None:
            return self.penalty * count
        return self.PULL * (count / (self.target or self.DEFAULT_TARGET) - 1).square()


# ---- training ------------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """What is trained, in units in which the data have mean 0 and variance 1.

    Its loss is the mean over the d numbers of an event, so ½ is what the mean event alone reaches.
    """

    mean: Tensor
    scale: Tensor
    silent: Tensor
    log_threshold: nn.Parameter | None

    def __init__(self, activation: Activation, atoms: Tensor, mean: Tensor, scale: float, patience: int):
        super().__init__()
        count, width = atoms.shape
        self.activation, self.patience = activation.scaled(scale, width), patience
        self.register_buffer("mean", mean)  # of the data, (d,), and their scale: both in double precision
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.encoder = nn.Parameter(atoms.T.contiguous())  # (d, K), the decoder's transpose at the start
        self.encoder_bias = nn.Parameter(torch.zeros(count))
        self.decoder = nn.Parameter(atoms.clone())  # (K, d)
        self.decoder_bias = nn.Parameter(torch.zeros(width))
        first = activation.first_threshold()
        start = None if first is None else nn.Parameter(torch.full((count,), math.log(first)))
        self.register_parameter("log_threshold", start)  # the logarithm keeps it above 0
        self.register_buffer("silent", torch.zeros(count, dtype=torch.long))  # steps since each unit fired

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations, (B, d) -> (B, K)."""
        return torch.addmm(self.encoder_bias, x - self.decoder_bias, self.encoder)

    def threshold(self) -> Tensor | None:
        return None if self.log_threshold is None else self.log_threshold.exp()

    def loss(self, x: Tensor) -> Tensor:
        """½ mean (x − x̂)² + the cost of the codes + the auxiliary loss of dead units."""
        pre = self.pre(x)
        z, cost = self.activation.train(pre, self.threshold())
        self.silent.copy_(torch.where((z.detach() > 0).any(0), 0, self.silent + 1))
        error = x - torch.addmm(self.decoder_bias, z, self.decoder)
        loss = 0.5 * error.square().mean() + cost
        return loss + self.auxiliary(pre, error.detach()) if self.activation.AUX else loss

    def dead(self) -> Tensor:
        """The units (K,) that no event of the last `patience` batches woke."""
        return self.silent >= self.patience

    def auxiliary(self, pre: Tensor, error: Tensor) -> Tensor:
        """How badly the d/2 dead units with the largest pre-activations reconstruct what the others left over.

        Their pre-activations are taken as they are: a rectifier would keep gradients from those below 0.
        """
        dead = self.dead()
        count = min(int(dead.sum()), max(1, error.shape[1] // 2))
        if not count:
            return error.new_zeros(())
        values, places = pre.masked_fill(~dead, -math.inf).topk(count, dim=1, sorted=False)
        rest = error - torch.zeros_like(pre).scatter(1, places, values) @ self.decoder
        return AUX_WEIGHT * 0.5 * rest.square().mean()


@torch.no_grad()
def redraw(training: Training, batches: RandomBatches) -> None:
    """Point dead units at badly reconstructed events, as new ones: their moments are 0 again.

    An event is drawn with a probability that grows with the square of its error (Bricken et al. 2023).
    """
    model = cast(Autoencoder, training.model)
    dead = model.dead()
    spent = training.done
    if (training.step + 1) % model.patience or spent > REDRAW_UNTIL or not dead.any():
        return
    x = batches.some(CANDIDATES, training.step)
    z, _ = model.activation.train(model.pre(x), model.threshold())
    errors = (x - torch.addmm(model.decoder_bias, z, model.decoder)).square().sum(1).double()
    places = dead.nonzero().flatten()[: int((errors > 0).sum())]  # no event twice: equal units stay equal
    if not len(places):
        return
    generator = torch.Generator().manual_seed(seed_of(training.plan.seed, training.step, REDRAW))
    chosen = torch.multinomial(errors.square(), len(places), generator=generator)
    directions = unit_rows(x[chosen] - model.decoder_bias)
    living = model.encoder[:, ~dead].norm(dim=0)
    size = REDRAWN_SIZE * float(living.mean()) if len(living) else 1.0
    model.decoder[places] = directions
    model.encoder[:, places] = size * directions.T
    model.encoder_bias[places] = 0.0
    if model.log_threshold is not None:
        model.log_threshold[places] = math.log(model.activation.first_threshold() or 1.0)
    model.silent[places] = 0
    forget(training.optimizer, model, places)


def forget(optimizer: torch.optim.Optimizer, model: Autoencoder, units: Tensor) -> None:
    """Set the optimizer's moments of everything that belongs to `units` (K,) to 0."""
    for name, p in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if name == "encoder":
                optimizer.state[p][moment][:, units] = 0.0
            elif name != "decoder_bias":
                optimizer.state[p][moment][units] = 0.0


# ---- the code ------------------------------------------------------------------------------------------


class SparseAutoencoder(Code):
    """Sparse codes z = act((x − b_d) W + b_e) ≥ 0 of events x, and back: x̂ = z D + b_d with unit rows of D.

    Trained in single precision by Adam on a schedule that falls linearly to 0. The component of the gradient
    along each atom is removed, and atoms are divided by their norms after each step. Units that stay silent
    come back: for `TopK` and `BatchTopK` by an auxiliary loss, in which they reconstruct what the others left
    over, for `ReLUL1` and `JumpReLU` by being redrawn from badly reconstructed events.

    Args:
        n_components: K, the number of units.
        activation: a `ReLUL1`, `TopK`, `BatchTopK` or `JumpReLU`; None: `TopK()`, 10 non-zeros.
        epochs: passes over the data of a training without a budget.
        batch: events a step.
        learning_rate: the highest, for data of variance 1 (to which the data are scaled within).
        patience: a unit is dead that no event of so many batches woke.
        random_state: of the first weights and of the batches.

    Attributes:
        encoder_: (d, K) W, in single precision like all weights.
        encoder_bias_: (K,) b_e.
        threshold_: (K,) below it a pre-activation gives 0; learned, estimated, or 0.
        components_: (K, d) D, rows of norm 1.
        decoder_bias_: (d,) b_d, in double precision: data may be far from 0.
        n_steps_: optimizer steps that were taken.
        l0_: mean number of non-zeros of the codes of the training events.
        alive_: share of the units that at least one of them wakes.
        explained_: share of their variance that the reconstructions explain.

    Example:
        >>> rows = np.random.default_rng(0).laplace(size=(200, 6))
        >>> code = SparseAutoencoder(12, activation=TopK(3)).fit(rows)
        >>> int((code.transform(rows) > 0).sum(1).max())
        3
    """

    # The published size is the smallest of Gao et al. 2024 on GPT-2: 2,048 units, 32 of them at a time.
    SIZES = {"tiny": {"n_components": 16, "epochs": 3}, "laptop": {}, "paper": {"n_components": 2048}}
    PARTS: ClassVar[dict[str, type]] = {
        "relu-l1": ReLUL1,
        "top-k": TopK,
        "batch-top-k": BatchTopK,
        "jump-relu": JumpReLU,
    }
    TYPES: ClassVar[tuple] = (np.float64, np.float32)
    SPARSE: ClassVar[bool] = True

    def __init__(
        self,
        n_components: int = 256,
        activation: Activation | None = None,
        epochs: int = 30,
        batch: int = 256,
        learning_rate: float = 5e-3,
        patience: int = 200,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.activation = activation
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.patience = patience
        self.random_state = random_state

    def learner(self, X, plan: Plan | None = None) -> Training:
        """The training on X (n, *event), not yet begun; of `plan` the budget is taken, the rates are our own."""
        self._check()
        x, mean, scale = standardised(self.rows(X, reset=True, fewest=1))
        atoms = random_atoms(self.n_components, x.shape[1], self.random_state)
        model = Autoencoder(self._activation(), atoms, torch.from_numpy(mean), scale, self.patience)
        batches = RandomBatches(x, self.batch, self.random_state)
        steps = self.epochs * math.ceil(len(x) / self.batch)
        plan = plan_of(plan, steps, self.learning_rate, self.random_state)
        training = Training(model, batches, plan)
        keep_unit_rows(model.decoder, training.optimizer)
        if not model.activation.AUX:
            training.optimizer.register_step_post_hook(lambda *_: redraw(training, batches))
        return training

    @torch.no_grad()
    def learned(self, learner: Training):
        """Take over what `learner` has reached, in the units of the data; gives self."""
        model, batches = cast(Autoencoder, learner.model), cast(RandomBatches, learner.batch_at)
        mean, scale = model.mean.numpy(), float(model.scale)
        threshold, pre = model.threshold(), model.pre(batches.some(THRESHOLD_ROWS))
        if threshold is None:
            threshold = torch.full((self.n_components,), model.activation.threshold(pre))
        self.encoder_ = model.encoder.numpy().copy()
        self.encoder_bias_ = scale * model.encoder_bias.numpy()
        self.threshold_ = scale * threshold.numpy()
        self.components_ = model.decoder.numpy().copy()
        self.decoder_bias_ = mean + scale * model.decoder_bias.numpy()
        self.n_steps_ = learner.step
        centred = scale * (batches.x - model.decoder_bias)
        self.l0_, self.alive_, self.explained_ = usage(centred.numpy(), self.components_, self._encode)
        return self

    def transform(self, X):
        """X (n, *event) -> codes (n, K): one product and the activation, in the precision of X."""
        rows = self.rows(X)
        codes = np.empty((len(rows), len(self.components_)), rows.dtype)
        for i in range(0, len(rows), CHUNK):
            centred = (rows[i : i + CHUNK] - self.decoder_bias_).astype(rows.dtype)
            codes[i : i + CHUNK] = self._encode(centred)
        return codes

    def inverse_transform(self, Z):
        """Codes (n, K), dense or scipy.sparse -> events (n, *event): z D + b_d."""
        check_is_fitted(self)
        codes = self.codes(Z, len(self.components_))
        rows = codes @ self.components_.astype(codes.dtype) + self.decoder_bias_
        return self.events(rows.astype(codes.dtype))

    def report(
        self, X, solver: Solver | None = None, penalty: float | None = None, samples: int = COMPARED
    ) -> Report:
        """How sparse, how alive and how good the codes of X (n, *event) are, and how far from exact ones.

        Args:
            solver: gives exact Lasso codes: `solver(rows, atoms, penalty, positive=..., start=...)`.
            penalty: λ of the Lasso. By default the one at which the exact codes have as many non-zeros as ours
                on average: then the comparison means something for activations without a penalty too.
            samples: at most so many events, evenly spaced in X, are coded exactly.
        """
        centred = self.rows(X) - self.decoder_bias_
        return report_on(centred, self.components_, self._encode, solver, penalty, samples, positive=True)

    def _activation(self) -> Activation:
        return self.activation or TopK()

    def _check(self) -> None:
        check_part("activation", self._activation(), *self.PARTS.values())
        sizes = {"n_components": self.n_components, "epochs": self.epochs, "batch": self.batch}
        check_sizes(**sizes, patience=self.patience)
        at_least_zero(learning_rate=self.learning_rate)

    @torch.no_grad()
    def _encode(self, centred: np.ndarray) -> np.ndarray:
        """Codes of x − b_d in its own precision, (n, d) -> (n, K)."""
        x = torch.from_numpy(centred)
        arrays = (self.encoder_bias_, self.encoder_, self.threshold_)
        bias, weights, threshold = (torch.from_numpy(a).to(x.dtype) for a in arrays)
        return self._activation().encode(torch.addmm(bias, x, weights), threshold).numpy()
