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
    first = warm(start, len(rows), len(atoms), np.float64)
    dense = np.zeros((len(rows), len(atoms))) if first is None else first.toarray()
    wide = atoms.astype(np.float64)
    gram, correlations = wide @ wide.T, rows.astype(np.float64) @ wide.T
    codes = [search(b, gram, penalty, positive, z) for b, z in zip(correlations, dense, strict=True)]
    return csr_array(np.array(codes, rows.dtype).reshape(dense.shape))


def search(b: np.ndarray, gram: np.ndarray, penalty: float, positive: bool, z: np.ndarray) -> np.ndarray:
    """The code z (K,) of one event with correlations b (K,)."""
    z = np.maximum(z, 0) if positive else z.copy()
    slack = ROUNDING * max(np.abs(b).max(initial=0.0), penalty)
    z = solve(b, gram, penalty, z, np.sign(z))
    while True:
        c = b - gram @ z
        beyond = np.where(z == 0, (c if positive else np.abs(c)) - penalty, -np.inf)
        worst = int(beyond.argmax())
        if beyond[worst] <= slack:
            return z
        signs = np.sign(z)
        signs[worst] = np.sign(c[worst])
        before, z = z, solve(b, gram, penalty, z, signs)
        if np.array_equal(z, before):  # rounding keeps it from going further
            return z


def solve(b: np.ndarray, gram: np.ndarray, penalty: float, z: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Follow the solution of the equations for `signs`, dropping coefficients that become 0, until none does."""

    def value(z):  # the objective, less ½‖x‖²
        return 0.5 * z @ gram @ z - b @ z + penalty * np.abs(z).sum()

    while signs.any():
        active = np.flatnonzero(signs)
        target = np.zeros_like(z)
        inner = gram[np.ix_(active, active)]
        target[active] = np.linalg.lstsq(inner, b[active] - penalty * signs[active], rcond=None)[0]
        crossing = active[target[active] * signs[active] <= 0]
        if not len(crossing):
            return target
        # The end points of the search: wherever a coefficient reaches 0 on the way to the target.
        shares = np.append(z[crossing] / (z[crossing] - target[crossing]), 1.0)
        points = [z + share * (target - z) for share in shares]
        for point, j in zip(points, crossing, strict=False):
            point[j] = 0.0
        z = min(points, key=value)
        signs = np.sign(z)
    return z
