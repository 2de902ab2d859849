"""Sparse coding: a dictionary in which every event is the sum of a few atoms (Olshausen & Field 1996).

    min over D, z of  mean_n ½‖xₙ − zₙD‖² + λ‖zₙ‖₁   subject to ‖dₖ‖ ≤ 1

The codes of a dictionary are a Lasso (`chainrule.layers.lasso` states the convention and the conversions to
others); the dictionary of codes is a convex quadratic problem. Two ways to alternate between them:

- `Online` (Mairal, Bach, Ponce & Sapiro 2009, algorithm 1): a batch of events, their codes, one pass over the atoms.
- `Alternating`: all events, their codes, the best dictionary of these codes. The objective never rises.

    B batch, d numbers of an event, K atoms
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.layers.feature_sign import FeatureSign
from chainrule.layers.fista import FISTA
from chainrule.layers.lasso import Solver, objective
from chainrule.layers.pursuit import OMP, BatchOMP
from chainrule.layers.sparse import blas
from chainrule.model import Code, check_part, check_sizes
from chainrule.train import Plan

UNUSED = 1e-12  # of the largest mean square of a coefficient: below it an atom has no say
PATIENCE = 2_000  # events without a use after which an atom is drawn anew
PASSES = 50  # over the atoms at most, when the best dictionary of given codes is looked for
SETTLED = 1e-4  # of an atom's norm: smaller changes end that
CHUNK = 8_192  # events that are summed at a time


@dataclass(frozen=True)
class Online:
    """Learn from small batches; what earlier batches said fades.

    Attributes:
        batch: events a step, drawn at random.
        epochs: passes over the events (in number) of a training without a budget; 100 steps at least.
        forget: ρ; the statistics of t events weigh 1 − (1 − B/t)^ρ of them by the last batch. 1 forgets nothing.
    """

    batch: int = 512
    epochs: float = 10.0
    forget: float = 20.0

    def check(self) -> None:
        check_sizes(batch=self.batch)
        if not (self.epochs > 0 and self.forget >= 1):
            raise ChainruleError(
                f"epochs={self.epochs}, forget={self.forget}: take more than 0, and 1 or more"
            )

    def steps(self, n: int) -> int:
        return max(100, math.ceil(self.epochs * n / self.batch))


@dataclass(frozen=True)
class Alternating:
    """Learn from all events at every step: the objective of the training events falls monotonically.

    Attributes:
        rounds: steps of a training without a budget.
    """

    rounds: int = 20

    def check(self) -> None:
        check_sizes(rounds=self.rounds)

    def steps(self, n: int) -> int:
        return self.rounds


class SparseCoding(Code):
    """Codes with few non-zeros, exactly: transform(x) = argmin_z ½‖x − zD‖² + λ‖z‖₁.

    Args:
        n_components: K, the number of atoms.
        penalty: λ, in the units of the (prepared) data. Matching pursuit (`OMP`) stops by its own count instead.
        positive: no coefficient below 0.
        solver: how codes are computed: `CoordinateDescent()` (None), `FISTA`, `FeatureSign`, `BatchOMP`, `OMP`.
        training: how the dictionary is learned: `Online()` (None) or `Alternating()`.
        before: a code that is fitted and applied first, such as `Whitening()`; `inverse_transform` undoes it.
        sparse_output: codes as CSR instead of an array.
        random_state: of the first atoms and of the batches.

    Attributes:
        components_: (K, d) D; the rows have norms of at most 1.
        before_: the fitted `before`, when there is one.
        n_seen_: events that the dictionary was learned from, repetitions counted.
        inner_: (K, K) the weighted mean of z zᵀ, from which `partial_fit` goes on.
        outer_: (K, d) the weighted mean of z xᵀ.
        silent_: (K,) events since each atom was used.

    Example:
        >>> rows = np.random.default_rng(0).laplace(size=(300, 6))
        >>> code = SparseCoding(12, penalty=0.5).fit(rows)
        >>> code.transform(rows).shape, bool(code.objective(rows).mean() < code.objective(rows * 2).mean())
        ((300, 12), True)
    """

    # Olshausen & Field 1997 learned 192 atoms of 12 × 12 patches.
    SIZES = {"tiny": {"n_components": 16}, "laptop": {}, "paper": {"n_components": 192}}
    PARTS: ClassVar[dict[str, type]] = {
        "coordinate-descent": CoordinateDescent,
        "fista": FISTA,
        "feature-sign": FeatureSign,
        "batch-omp": BatchOMP,
        "omp": OMP,
        "online": Online,
        "alternating": Alternating,
    }
    TYPES: ClassVar[tuple] = (np.float64, np.float32)
    SPARSE: ClassVar[bool] = True

    def __init__(
        self,
        n_components: int = 256,
        penalty: float = 1.0,
        positive: bool = False,
        solver: Solver | None = None,
        training: Online | Alternating | None = None,
        before: Code | None = None,
        sparse_output: bool = False,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.penalty = penalty
        self.positive = positive
        self.solver = solver
        self.training = training
        self.before = before
        self.sparse_output = sparse_output
        self.random_state = random_state

    @classmethod
    def configure(cls, data: Any) -> dict[str, Any]:
        """Images are whitened first: their atoms are then edges, and λ does not depend on the range of the levels."""
        super().configure(data)
        return {"before": {"model": "whitening", "args": {}}} if data.kind == "image" else {}

    # ---- learning ----------------------------------------------------------------------------------------

    def learner(self, X, plan: Plan | None = None) -> Learner:
        """What learns the dictionary of X (n, *event); float32 and float64 arrays, mapped ones too, are not copied."""
        self._check()
        rows = self.rows(X, reset=True, fewest=1)
        if self.before is not None:
            self.before_ = clone(self.before).fit(self.events(rows))
        training = self.training or Online()
        plan = plan or Plan(steps=training.steps(len(rows)), seed=self.random_state)
        kind = OnlineLearner if isinstance(training, Online) else AlternatingLearner
        return kind(self, training, rows, plan)

    def learned(self, learner: Learner):
        """Take over the dictionary of a learner."""
        for name, value in learner.state.items():
            setattr(self, f"{name}_", value)
        self.n_seen_ = learner.seen
        return self

    def partial_fit(self, X, y=None):
        """One step of `Online` with X (n, *event) as the batch; the first call draws the first atoms from it."""
        first = not hasattr(self, "components_")
        if first:
            self._check()
        rows = self.rows(X, reset=first, fewest=1)
        if first and self.before is not None:
            self.before_ = clone(self.before).fit(self.events(rows))
        training = self.training if isinstance(self.training, Online) else Online()
        learner = OnlineLearner(self, training, rows, Plan(steps=1, seed=self.random_state))
        if not first:
            learner.state = {name: getattr(self, f"{name}_").copy() for name in learner.state}
            learner.seen = self.n_seen_
        learner.update(learner.prepared(slice(None)))
        return self.learned(learner)

    # ---- use -----------------------------------------------------------------------------------------------

    def transform(self, X):
        """X (n, *event) -> codes (n, K), an array or, with `sparse_output`, CSR."""
        codes = self.encode(self._prepare(self.rows(X)), self.components_)
        return codes if self.sparse_output else codes.toarray()

    def inverse_transform(self, Z):
        """Codes (n, K), dense or CSR -> events (n, *event): zD, and back through `before`."""
        check_is_fitted(self)
        rows = self.codes(Z, len(self.components_)) @ self.components_
        return self.events(rows if self.before is None else self.before_.inverse_transform(rows))

    def objective(self, X) -> np.ndarray:
        """½‖x − zD‖² + λ‖z‖₁ of every (prepared) event of X (n, *event) at its code, (n,) float64."""
        rows = self._prepare(self.rows(X))
        return objective(rows, self.components_, self.encode(rows, self.components_), self.penalty)

    def encode(self, rows: np.ndarray, atoms: np.ndarray, start: csr_array | None = None) -> csr_array:
        """Codes of prepared rows (n, d) in `atoms` (K, d), as CSR."""
        return (self.solver or CoordinateDescent())(rows, atoms, self.penalty, self.positive, start)

    def _prepare(self, rows: np.ndarray) -> np.ndarray:
        # (n, d) -> (n, width of what comes before), which may want to know which numbers are neighbours
        if self.before is None:
            return rows
        return self.before_.transform(self.events(rows)).reshape(len(rows), -1)

    def _check(self) -> None:
        check_sizes(n_components=self.n_components)
        if not 0 < self.penalty < math.inf:
            raise ChainruleError(f"the penalty is {self.penalty}: take a number above 0")
        check_part("training", self.training or Online(), Online, Alternating)
        if self.solver is not None and not callable(self.solver):
            raise ChainruleError(f"solver is {self.solver!r}: take an object such as CoordinateDescent()")


# ---- learners ------------------------------------------------------------------------------------------


class Learner(ABC):
    """What learns a dictionary step by step; see `chainrule.train.Learner`.

    Attributes:
        state: components (K, d), inner (K, K), outer (K, d), silent (K,), under these names.
        seen: events so far, repetitions counted.
    """

    def __init__(self, code: SparseCoding, training: Any, rows: np.ndarray, plan: Plan):
        self.code, self.training, self.raw, self.plan = code, training, rows, plan
        self.step, self.seconds, self.loss, self.note, self.seen = 0, 0.0, math.nan, "", 0
        atoms = first_atoms(self, code.n_components)
        K, d = atoms.shape
        inner, outer = np.zeros((K, K)), np.zeros((K, d))
        silent = np.zeros(K, np.int64)
        self.state = {"components": atoms, "inner": inner, "outer": outer, "silent": silent}

    @property
    def done(self) -> float:
        """The share of the budget that is spent."""
        return self.plan.done(self.step, self.seconds)

    def __iter__(self) -> Iterator[Learner]:
        """Learn to the end of the budget; yields itself after every step."""
        while self.done < 1:
            began = time.perf_counter()
            with blas().limit(limits=1, user_api="blas"):
                self.advance()
            self.step += 1
            self.seconds += time.perf_counter() - began
            yield self

    @abstractmethod
    def advance(self) -> None:
        """One step."""

    def prepared(self, which) -> np.ndarray:
        """The rows (B, d) at `which`, whitened or whatever comes before, in their own precision."""
        rows = np.ascontiguousarray(self.raw[which])
        return np.ascontiguousarray(self.code._prepare(rows), rows.dtype)

    def arrays(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, counters): the whole state."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in self.state.items()}
        before = self.code.before_.arrays() if self.code.before is not None else {}
        tensors |= {f"before/{name}": torch.from_numpy(value) for name, value in before.items()}
        return tensors, {"step": self.step, "seconds": self.seconds, "seen": self.seen}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, float]) -> None:
        """Go back to what `arrays` gave.

        Raises:
            ChainruleError: it is not the whole state of this learner. Then nothing has changed.
        """
        current, _ = Learner.arrays(self)
        for name in sorted(current.keys() | tensors.keys()):
            found, wanted = (described(some.get(name)) for some in (tensors, current))
            if found != wanted:
                raise ChainruleError(f"the state of the training has {found} for {name}, the model {wanted}")
        step, seconds, seen = (counters.get(name) for name in ("step", "seconds", "seen"))
        if not (type(step) is type(seen) is int and step >= 0 and seen >= 0):
            raise ChainruleError(
                f"the state of the training is of step {step!r} and {seen!r} events: it is damaged"
            )
        if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
            raise ChainruleError(f"the state of the training is of second {seconds!r}: it is damaged")
        self.state = {name: tensors[name].numpy().copy() for name in self.state}
        if self.code.before is not None:
            inner = {
                n.removeprefix("before/"): t.numpy() for n, t in tensors.items() if n.startswith("before/")
            }
            self.code.before_.set_arrays(inner)
        self.step, self.seconds, self.seen = step, float(seconds), seen

    def revive(self, rows: np.ndarray, codes: csr_array) -> None:
        """Draw atoms anew that nothing has used for long: from the events that are reconstructed worst.

        (Atoms drawn from noise would stay unused.) What the statistics knew of them is forgotten.
        """
        dead = np.flatnonzero(self.state["silent"] >= PATIENCE)
        if not len(dead):
            return
        residual = rows - codes @ self.state["components"]
        errors = np.einsum("nd,nd->n", residual, residual)
        worst = np.argsort(-errors, kind="stable")[: len(dead)]
        dead, worst = dead[: len(worst)], worst[errors[worst] > 0]
        dead = dead[: len(worst)]
        self.state["components"][dead] = unit(residual[worst])
        for name in ("inner", "outer"):
            self.state[name][dead] = 0
        self.state["inner"][:, dead] = 0
        self.state["silent"][dead] = 0


class OnlineLearner(Learner):
    """Mairal et al. 2009, algorithm 1, with batches and a memory that fades (section 3.4)."""

    def advance(self) -> None:
        n, batch = len(self.raw), self.training.batch
        rng = np.random.default_rng((self.plan.seed, self.step))
        chosen = np.sort(rng.integers(n, size=batch)) if n > batch else slice(None)
        self.update(self.prepared(chosen))

    def update(self, rows: np.ndarray) -> None:
        """One step with `rows` (B, d) as the batch, whatever its size."""
        state, B = self.state, len(rows)
        codes = self.code.encode(rows, state["components"])
        self.loss = float(objective(rows, state["components"], codes, self.code.penalty).mean())
        self.seen += B
        weight = 1 - (1 - B / self.seen) ** self.training.forget  # of this batch, beside all earlier ones
        inner, outer = moments(codes, rows)
        state["inner"] += weight * (inner - state["inner"])
        state["outer"] += weight * (outer - state["outer"])
        used = np.bincount(codes.indices, minlength=len(state["silent"])) > 0
        state["silent"] = np.where(used, 0, state["silent"] + B)
        descend_atoms(state["components"], state["inner"], state["outer"], passes=1)
        self.revive(rows, codes)


class AlternatingLearner(Learner):
    """All codes, then the best dictionary of these codes: neither step can raise the objective."""

    codes: csr_array | None = None

    def advance(self) -> None:
        state, n = self.state, len(self.raw)
        rows = self.prepared(slice(None))
        self.codes = self.code.encode(rows, state["components"], start=self.codes)
        self.loss = float(objective(rows, state["components"], self.codes, self.code.penalty).mean())
        state["inner"], state["outer"] = moments(self.codes, rows)
        self.seen += n
        used = np.bincount(self.codes.indices, minlength=len(state["silent"])) > 0
        state["silent"] = np.where(used, 0, state["silent"] + max(n, PATIENCE))
        descend_atoms(state["components"], state["inner"], state["outer"], passes=PASSES)
        self.revive(rows, self.codes)

    def arrays(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, counters): the whole state, and the codes, from which the next ones start."""
        tensors, counters = super().arrays()
        if self.codes is not None:
            for part in ("data", "indices", "indptr"):
                tensors[f"codes/{part}"] = torch.from_numpy(getattr(self.codes, part).copy())
        return tensors, counters

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, float]) -> None:
        """Go back to what `arrays` gave; a ChainruleError when it is not the whole state of this learner."""
        parts = [
            tensors[name].numpy()
            for name in ("codes/data", "codes/indices", "codes/indptr")
            if name in tensors
        ]
        super().restore({k: v for k, v in tensors.items() if not k.startswith("codes/")}, counters)
        self.codes = None
        if len(parts) == 3:
            try:
                self.codes = csr_array(tuple(parts), shape=(len(self.raw), self.code.n_components))
                self.codes.check_format(full_check=True)
            except ValueError as error:
                raise ChainruleError(
                    f"the codes in the state of the training are damaged: {error}"
                ) from error


def first_atoms(learner: Learner, count: int) -> np.ndarray:
    """`count` atoms of norm 1 (K, d): different random events, and noise where there are not enough of them."""
    rng = np.random.default_rng((learner.plan.seed, count))
    n = len(learner.raw)
    rows = learner.prepared(np.sort(rng.permutation(n)[: min(n, count)]))
    noise = rng.normal(size=(count, rows.shape[1])).astype(rows.dtype)
    noise[: len(rows)] = np.where((rows != 0).any(1, keepdims=True), rows, noise[: len(rows)])
    return unit(noise)


def unit(rows: np.ndarray) -> np.ndarray:
    """Every row divided by its norm."""
    largest = np.abs(rows).max(1, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1)  # so that no square underflows
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(norms > 0, norms, 1)


def moments(codes: csr_array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean of z zᵀ (K, K), mean of z xᵀ (K, d)) in double precision."""
    n, K = codes.shape
    inner, outer = np.zeros((K, K)), np.zeros((K, rows.shape[1]))
    for i in range(0, n, CHUNK):
        z = codes[i : i + CHUNK].toarray()
        inner += z.T @ z
        outer += z.T @ rows[i : i + CHUNK]
    return inner / n, outer / n


def descend_atoms(atoms: np.ndarray, inner: np.ndarray, outer: np.ndarray, passes: int) -> None:
    """min_D ½ tr(D inner Dᵀ) − tr(D outer), ‖dₖ‖ ≤ 1, by descent on one atom after the other, in place.

    Mairal et al. 2009, algorithm 2: each move is the exact minimum for its atom, so none raises the objective.
    """
    used = np.flatnonzero(np.diag(inner) > UNUSED * max(np.diag(inner).max(), np.finfo(float).tiny))
    A, B = inner.astype(atoms.dtype), outer.astype(atoms.dtype)
    for _ in range(passes):
        moved = 0.0
        for k in used:
            u = atoms[k] + (B[k] - A[k] @ atoms) / A[k, k]
            u /= max(1.0, float(np.linalg.norm(u)))
            moved = max(moved, float(np.abs(u - atoms[k]).max()))
            atoms[k] = u
        if moved < SETTLED:
            return


def described(tensor: Tensor | None) -> str:
    """Type and shape of an array in words."""
    return (
        "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    )
