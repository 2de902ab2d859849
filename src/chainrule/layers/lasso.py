"""The Lasso that defines a sparse code, and the certificates that a code is its solution.

One convention throughout, for one event x (d,) and atoms D (K, d) as rows:

    z* = argmin_z ½‖x − zD‖² + λ‖z‖₁            (optionally z ≥ 0)

Others write it otherwise. Olshausen & Field 1996 and the lecture have ‖x − zD‖² + λ'‖z‖₁: λ' = 2λ. scikit-learn's
`Lasso` has ½‖x − zD‖²/d + α‖z‖₁: α = λ/d; its `sparse_encode` and SPAMS (mode 2) have λ itself.

z is optimal exactly when, with the correlations c = D(x − zD): cⱼ = λ sign(zⱼ) where zⱼ ≠ 0 and |cⱼ| ≤ λ elsewhere
(cⱼ ≤ λ under z ≥ 0). How far that is from true is the KKT residual; solvers stop on it and on nothing else.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from chainrule.errors import ChainruleError
from chainrule.layers.sparse import problem


class Solver(Protocol):
    """A way to compute codes: a frozen dataclass of options that is called.

    Args of the call: rows (n, d) and atoms (K, d), both float32 or both float64; penalty λ > 0; positive: z ≥ 0;
    start: codes (n, K) to begin from, which change only the time; threads: None for all.

    Returns:
        The codes as CSR (n, K) in the dtype of the rows.
    """

    def __call__(
        self,
        rows: np.ndarray,
        atoms: np.ndarray,
        penalty: float,
        positive: bool = False,
        start: csr_array | None = None,
        threads: int | None = None,
    ) -> csr_array: ...


def objective(rows: np.ndarray, atoms: np.ndarray, codes, penalty: float) -> np.ndarray:
    """½‖x − zD‖² + λ‖z‖₁ of every row, (n,) float64.

    >>> objective(np.array([[3.0, 0.0]]), np.eye(2), np.array([[2.0, 0.0]]), penalty=1.0)
    array([2.5])
    """
    residual, codes, _ = residuals(rows, atoms, codes)
    return 0.5 * (residual**2).sum(1) + penalty * absolute(codes)


def kkt_residual(
    rows: np.ndarray, atoms: np.ndarray, codes, penalty: float, positive: bool = False
) -> np.ndarray:
    """The largest violation of the optimality conditions of every row, (n,) float64, in the unit of λ.

    >>> kkt_residual(np.array([[3.0, 0.5]]), np.eye(2), np.array([[2.0, 0.0]]), penalty=1.0)
    array([0.])
    """
    residual, codes, atoms = residuals(rows, atoms, codes)
    dense = codes.toarray()
    correlations = residual @ atoms.T  # (n, K)
    beyond = (correlations if positive else np.abs(correlations)) - penalty
    violation = np.where(dense != 0, np.abs(correlations - penalty * np.sign(dense)), np.maximum(beyond, 0))
    if positive:
        violation = np.maximum(violation, -dense)
    return violation.max(1, initial=0.0)


def duality_gap(
    rows: np.ndarray, atoms: np.ndarray, codes, penalty: float, positive: bool = False
) -> np.ndarray:
    """An upper bound of objective(codes) − objective(optimum) of every row, (n,) float64.

    The dual of the Lasso is max_u ½‖x‖² − ½‖x − u‖² subject to |Du| ≤ λ; the residual, shrunk until it is
    feasible, is such a u.
    """
    residual, codes, atoms = residuals(rows, atoms, codes)
    correlations = residual @ atoms.T
    largest = (correlations if positive else np.abs(correlations)).max(1, initial=0.0)
    u = residual * np.minimum(1.0, penalty / np.maximum(largest, np.finfo(float).tiny))[:, None]
    x = np.asarray(rows, np.float64)
    primal = 0.5 * (residual**2).sum(1) + penalty * absolute(codes)
    return primal - (0.5 * (x**2).sum(1) - 0.5 * ((x - u) ** 2).sum(1))


def residuals(rows, atoms, codes) -> tuple[np.ndarray, csr_array, np.ndarray]:
    """x − zD (n, d), z as CSR and D, all in double precision whatever they were computed in."""
    codes, atoms = csr_array(codes, dtype=np.float64), np.asarray(atoms, np.float64)
    return np.asarray(rows, np.float64) - codes @ atoms, codes, atoms


def absolute(codes: csr_array) -> np.ndarray:
    """‖z‖₁ of every row, (n,)."""
    return np.asarray(abs(codes).sum(axis=1)).ravel()


def lasso_problem(rows, atoms, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """`chainrule.layers.sparse.problem`, with a penalty above 0."""
    if not 0 < penalty < np.inf:
        raise ChainruleError(f"the penalty is {penalty}: take a number above 0")
    return problem(rows, atoms)
