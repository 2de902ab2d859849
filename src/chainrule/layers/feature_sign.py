"""Feature-sign search (Lee, Battle, Raina & Ng 2006, algorithm 1): the Lasso solved exactly, one event at a time.

Where the signs of a code are known, it solves linear equations. The search guesses the signs: it adds the atom that
violates the optimality conditions most, solves, and where a coefficient would change its sign on the way, takes the
best of the crossings. It ends, after finitely many steps, at the exact solution. This is the reference that the
fast solvers are held against: plain NumPy in double precision, a thousand times slower than they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from chainrule.layers.lasso import lasso_problem
from chainrule.layers.sparse import warm

ROUNDING = 1e-10  # of the largest correlation: what counts as no violation


@dataclass(frozen=True)
class FeatureSign:
    """Solve the Lasso exactly, slowly.

    Example:
        >>> FeatureSign()(np.array([[3.0, 0.5]]), np.eye(2), penalty=1.0).toarray()
        array([[2., 0.]])
    """

    def __call__(self, rows, atoms, penalty, positive=False, start=None, threads=None) -> csr_array:
        """Codes (n, K) of rows (n, d) in atoms (K, d); `threads` changes nothing."""
        return feature_sign(rows, atoms, penalty, positive, start)


def feature_sign(rows, atoms, penalty: float, positive: bool = False, start=None) -> csr_array:
    """codes (n, K): argmin_z ½‖x − zD‖² + λ‖z‖₁ of every row x; see `chainrule.layers.lasso.Solver`.

    Raises:
        ChainruleError: rows and atoms of different widths, or a penalty that is not above 0.
    """
    rows, atoms = lasso_problem(rows, atoms, penalty)
    dense = warm(start, len(rows), len(atoms), np.float64).toarray()
    wide = atoms.astype(np.float64)
    gram, correlations = wide @ wide.T, rows.astype(np.float64) @ wide.T
    codes = [search(b, gram, penalty, positive, z) for b, z in zip(correlations, dense, strict=True)]
    return csr_array(np.array(codes, rows.dtype).reshape(dense.shape))


def search(b: np.ndarray, gram: np.ndarray, penalty: float, positive: bool, z: np.ndarray) -> np.ndarray:
    """The code z (K,) of one event with correlations b (K,)."""
    z = np.maximum(z, 0) if positive else z.copy()
    slack = ROUNDING * max(np.abs(b).max(initial=0.0), penalty)
    z = solve(b, gram, penalty, z, np.sign(z), slack)
    while True:
        c = b - gram @ z
        beyond = np.where(z == 0, (c if positive else np.abs(c)) - penalty, -np.inf)
        worst = int(beyond.argmax())
        if beyond[worst] <= slack:
            return z
        signs = np.sign(z)
        signs[worst] = np.sign(c[worst])
        before, z = z, solve(b, gram, penalty, z, signs, slack)
        if value(b, gram, penalty, z) >= value(b, gram, penalty, before):  # all that rounding lets it reach
            return before


def value(b: np.ndarray, gram: np.ndarray, penalty: float, z: np.ndarray) -> float:
    """The objective, less ½‖x‖²."""
    return float(0.5 * z @ gram @ z - b @ z + penalty * np.abs(z).sum())


def solve(b, gram, penalty: float, z: np.ndarray, signs: np.ndarray, slack: float) -> np.ndarray:
    """Follow the solution of the equations for `signs`, dropping coefficients that become 0, until none does."""
    while signs.any():
        active = np.flatnonzero(signs)
        r = (b - gram @ z)[active] - penalty * signs[active]
        direction, share = newton(gram[np.ix_(active, active)], r, slack)
        back = active[direction * signs[active] < 0]
        step = np.zeros_like(z)
        step[active] = direction
        shares = -z[back] / step[back]  # of the step, at which these coefficients are 0
        share = shares.min(initial=share)
        z = z + share * step
        z[back[shares <= share]] = 0
        if not (shares <= share).any():
            return z
        signs = np.sign(z)
    return z


def newton(inner: np.ndarray, r: np.ndarray, slack: float) -> tuple[np.ndarray, float]:
    """(direction (A,), share of it to go): to the least ½ δ inner δ − r δ, or where it falls for ever, infinity.

    Where atoms depend on each other `inner` has directions without curvature. If r has a part along these, the
    objective falls along it in a straight line, until a coefficient becomes 0.
    """
    values, vectors = np.linalg.eigh(inner)
    along = vectors.T @ r
    flat = values <= ROUNDING * values[-1]
    if np.abs(along[flat]).max(initial=0.0) > slack:
        return vectors[:, flat] @ along[flat], np.inf
    return vectors[:, ~flat] @ (along[~flat] / values[~flat]), 1.0
