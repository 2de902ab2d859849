"""FISTA: the codes of least ½‖x − zD‖² + λ‖z‖₁, of many samples at once, in PyTorch on any device.

Beck & Teboulle 2009 with the step 1/L, and the momentum of a sample restarted when it points uphill
(O'Donoghue & Candès 2015, section 3.2, the gradient scheme). It stops on what defines the solution: the largest
violation of the optimality (KKT) conditions of every sample, relative to λ, is at most `tol`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from chainrule.errors import ChainruleError
from chainrule.layers.sparse import by_chunks, problem, warm

CHECK = 5  # iterations from one look at the optimality conditions to the next


@dataclass(frozen=True)
class FISTA:
    """Accelerated proximal gradient descent for sparse codes.

    Attributes:
        tol: largest violation of the optimality conditions of a sample, in units of λ.
        max_iter: the most iterations; samples that are not done then are counted in a ConvergenceWarning.
        device: where PyTorch computes.
        chunk: samples at once; on a processor a few hundred, so that they stay in the cache, on a GPU as many
            as it has room for.

    Example:
        >>> import numpy as np
        >>> FISTA()(np.array([[3.0, 0.5]]), np.eye(2), penalty=1.0).toarray()
        array([[2., 0.]])
    """

    tol: float = 1e-3
    max_iter: int = 10_000
    device: str = "cpu"
    chunk: int = 512

    def __call__(self, rows, atoms, penalty, positive=False, start=None, threads=None) -> csr_array:
        """Codes (n, K) of rows (n, d) in atoms (K, d), in the dtype of the rows; see `fista`."""
        return fista(rows, atoms, penalty, positive, start, threads, **asdict(self))


def fista(
    rows,
    atoms,
    penalty: float,
    positive: bool = False,
    start=None,
    threads: int | None = None,
    *,
    tol: float = 1e-3,
    max_iter: int = 10_000,
    device: str = "cpu",
    chunk: int = 512,
) -> csr_array:
    """Codes (n, K): argmin_z ½‖x − zD‖² + λ‖z‖₁ for every row x (n, d), atoms D (K, d), λ the penalty.

    Args:
        rows: float32 or float64, the precision of all computations and of the codes. In float32 the conditions
            are known to about 1e-6 ‖x‖ ‖d‖: smaller tolerances need float64.
        penalty: λ > 0. scikit-learn's Lasso(alpha, fit_intercept=False) of Dᵀ has the same solution for
            λ = d · alpha, and its sparse_encode for λ = alpha.
        positive: codes are ≥ 0.
        start: codes (n, K), dense or sparse, to start from: they change the time and not the solution.
        threads: of chunks on a processor; None: as many as PyTorch has. Bits do not depend on it.
        tol, max_iter, device, chunk: as for `FISTA`.

    Raises:
        ChainruleError: shapes that do not fit, NaN, or options that are none.

    Warns:
        ConvergenceWarning: some samples were not done after `max_iter` iterations.
    """
    rows, atoms = problem(rows, atoms)
    check(penalty, tol, max_iter, chunk)
    start = warm(start, len(rows), len(atoms), rows.dtype)
    solver = Solver(torch.from_numpy(atoms).to(device), penalty, positive, tol, max_iter)
    unfinished: list[int] = []  # samples of each chunk

    def solve(part: slice) -> csr_array:
        x = torch.from_numpy(rows[part]).to(device)
        found, left = solver.solve(x, torch.from_numpy(start[part].toarray()).to(device))
        unfinished.append(left)
        return csr_array(found.cpu().numpy())

    if torch.device(device).type != "cpu":
        threads = 1  # the device has its own
    elif threads is None:
        threads = torch.get_num_threads()
    with one_thread_an_operation():
        codes = by_chunks(solve, len(rows), len(atoms), chunk, rows.dtype, threads)
    if sum(unfinished):
        warnings.warn(
            f"{sum(unfinished)} of {len(rows)} codes are not within tol={tol:g} of the optimality conditions "
            f"after max_iter={max_iter} iterations: allow more of either, or use float64",
            ConvergenceWarning,
            stacklevel=2,
        )
    return codes


def check(penalty: float, tol: float, max_iter: int, chunk: int) -> None:
    """The options are possible."""
    if not 0 < penalty < math.inf:
        raise ChainruleError(
            f"penalty={penalty}: λ is a number above 0; without it numpy.linalg.lstsq solves"
        )
    if not tol > 0:
        raise ChainruleError(f"tol={tol}: the tolerance is a number above 0, in units of the penalty")
    if max_iter < 1 or chunk < 1:
        raise ChainruleError(f"max_iter={max_iter}, chunk={chunk}: both are at least 1")


@contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Threads take chunks instead: faster for small operations, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Solver:
    """One dictionary and λ; solves chunks of samples, from several threads if wanted."""

    def __init__(self, atoms: Tensor, penalty: float, positive: bool, tol: float, max_iter: int):
        self.atoms, self.penalty, self.positive = atoms, penalty, positive
        self.allowed, self.max_iter = tol * penalty, max_iter
        self.gram = atoms @ atoms.T  # (K, K)
        self.step = 1 / (largest_eigenvalue(atoms) or 1.0)  # atoms that are all zero take any step

    @torch.inference_mode()
    def solve(self, x: Tensor, start: Tensor) -> tuple[Tensor, int]:
        """(codes (n, K) of x (n, d), number of samples that are not done)."""
        solution, where = start.clone(), torch.arange(len(x), device=x.device)  # where: samples not done
        products, z = x @ self.atoms.T, solution
        shadow = z @ self.gram  # z G, so that one product an iteration gives the gradients at z and at y
        y, y_shadow, t = z, shadow, x.new_ones(len(x), 1)
        for iteration in range(self.max_iter + 1):
            if iteration % CHECK == 0 or iteration == self.max_iter:
                going = self.violation(z, shadow - products) > self.allowed
                if not going.all():
                    solution[where[~going]] = z[~going]
                    state = (where, products, z, shadow, y, y_shadow, t)
                    where, products, z, shadow, y, y_shadow, t = (tensor[going] for tensor in state)
                if not len(where) or iteration == self.max_iter:
                    break
            new = self.shrink(y - self.step * (y_shadow - products))
            uphill = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
            t = torch.where(uphill, torch.ones_like(t), t)
            t_new = (1 + torch.sqrt(1 + 4 * t * t)) / 2
            momentum = (t - 1) / t_new  # none after a restart
            new_shadow = new @ self.gram
            y, y_shadow = new + momentum * (new - z), new_shadow + momentum * (new_shadow - shadow)
            z, shadow, t = new, new_shadow, t_new
        solution[where] = z
        return solution, len(where)

    def shrink(self, v: Tensor) -> Tensor:
        """The proximal step of λ‖z‖₁."""
        threshold = self.penalty * self.step
        return (v - threshold).clamp_min(0) if self.positive else nn.functional.softshrink(v, threshold)

    def violation(self, z: Tensor, gradient: Tensor) -> Tensor:
        """(n,) the largest |element| of the least subgradient of the objective at z (n, K)."""
        at_zero = -gradient if self.positive else gradient.abs()
        beyond = (at_zero - self.penalty).clamp_min(0)
        inside = (gradient + self.penalty * z.sign()).abs()
        return torch.where(z == 0, beyond, inside).amax(1)


def largest_eigenvalue(atoms: Tensor) -> float:
    """A number that is at least the largest eigenvalue of D Dᵀ, and hardly larger.

    The Frobenius norm of a symmetric matrix is at least its spectral norm and at most √K times that; of its
    128th power, the 128th root is at most K^(1/256) times too large: 3 % for K = 2048. Unlike power iteration
    from a random start it can never be too small, and it draws nothing.
    """
    atoms = atoms.double() if atoms.device.type == "cpu" else atoms
    power = atoms @ atoms.T if len(atoms) <= atoms.shape[1] else atoms.T @ atoms
    log, exponent = 0.0, 1  # of the matrix: (e^log · power)^(1 / exponent)
    for _ in range(7):
        size = float(torch.linalg.matrix_norm(power))
        if size == 0:
            return 0.0
        power = power / size
        power, log, exponent = power @ power, 2 * (log + math.log(size)), 2 * exponent
    bound = math.exp((log + math.log(float(torch.linalg.matrix_norm(power)))) / exponent)
    return bound * (1 + 1e-5)  # roundings of float32
