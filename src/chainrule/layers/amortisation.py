"""What a code that takes one pass gives up against the exact Lasso codes on the same dictionary.

An encoder that was trained to predict sparse codes is fast because it amortises the search for them. The
amortisation gap is the price: the Lasso's objective ½‖x − zD‖² + λ‖z‖₁ of its codes less the least there is.

    n events, d numbers of an event, K atoms
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import sparse

from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.layers.lasso import Solver, objective

Encoder = Callable[[np.ndarray], np.ndarray]

CHUNK = 1 << 12  # rows encoded at a time
COMPARED = 1000  # events that a report codes exactly, unless told otherwise
HALVINGS = 16  # of the interval of ln λ in which λ is looked for: it is known to a factor 1.0002 then
LEAST_PENALTY = 1e-4  # the smallest λ looked at, as a share of the one that makes all codes zero


@dataclass(frozen=True)
class Report:
    """What the codes of an encoder are worth; `str` of it is a table.

    "Exact" are the Lasso codes argmin_z ½‖x − zD‖² + λ‖z‖₁ on the same dictionary, x less the decoder's
    offset, with z ≥ 0 where the encoder gives nothing else. Objectives are means over events, in squared units
    of the data; errors are Σ‖x − zD‖² / Σ‖x‖².

    Attributes:
        events: the number of events.
        l0: mean number of non-zeros.
        alive: share of the units that at least one event wakes.
        explained: share of the variance that is explained.
        compared: events that were coded exactly; what follows is about these.
        penalty: λ.
        l0_codes, l0_exact: mean number of non-zeros of both.
        objective, objective_exact: ½‖x − zD‖² + λ‖z‖₁ of both.
        gap: objective − objective_exact, the amortisation gap: not negative, since the exact one is the least.
        gap_share: gap / objective_exact.
        error: of the codes.
        error_refit: with the coefficients of least squares on the support of each code.
        error_exact: the same on the supports of the exact codes.
    """

    events: int
    l0: float
    alive: float
    explained: float
    compared: int
    penalty: float
    l0_codes: float
    l0_exact: float
    objective: float
    objective_exact: float
    gap: float
    gap_share: float
    error: float
    error_refit: float
    error_exact: float

    def __str__(self) -> str:
        lines = [
            ("", "codes", "exact"),
            ("non-zeros (L0)", f"{self.l0_codes:.2f}", f"{self.l0_exact:.2f}"),
            (f"objective at λ = {self.penalty:.4g}", f"{self.objective:.5g}", f"{self.objective_exact:.5g}"),
            ("squared error, share", f"{self.error:.4f}", ""),
            ("the same, coefficients refitted", f"{self.error_refit:.4f}", f"{self.error_exact:.4f}"),
            ("amortisation gap", f"{self.gap:.4g}", f"{self.gap_share:.2%}"),
            ("units alive", f"{self.alive:.1%}", ""),
            ("variance explained", f"{self.explained:.1%}", ""),
        ]
        return "\n".join(f"{name:<32}{codes:>12}{exact:>12}".rstrip() for name, codes, exact in lines)

    def facts(self) -> dict[str, Any]:
        """The same as a dict."""
        return asdict(self)


def report_on(
    rows: np.ndarray,
    atoms: np.ndarray,
    encode: Encoder,
    solver: Solver | None = None,
    penalty: float | None = None,
    samples: int = COMPARED,
    positive: bool = False,
) -> Report:
    """The report on an encoder (n, d) -> (n, K) for rows (n, d) less the decoder's offset.

    Args:
        solver: gives exact codes: `solver(rows, atoms, penalty, positive=..., start=...)`; by default
            coordinate descent.
        penalty: λ; by default the one at which exact codes have as many non-zeros, see `penalty_for`.
        samples: at most so many rows, evenly spaced, are coded exactly.
        positive: whether codes are never negative.
    """
    l0, alive, explained = usage(rows.astype(np.float32), atoms, encode)
    few = rows[:: math.ceil(len(rows) / samples)].astype(np.float64)
    compared = comparison(
        few, atoms.astype(np.float64), encode(few), solver or CoordinateDescent(), penalty, positive
    )
    return Report(len(rows), l0, alive, explained, **compared)


def usage(rows: np.ndarray, atoms: np.ndarray, encode: Encoder) -> tuple[float, float, float]:
    """(mean non-zeros, share of units that any row wakes, share of the variance explained); 0 of no variance."""
    fired, nonzeros, error = np.zeros(len(atoms), bool), 0, 0.0
    for i in range(0, len(rows), CHUNK):
        chunk = rows[i : i + CHUNK]
        codes = encode(chunk)
        fired |= (codes != 0).any(0)
        nonzeros += int(np.count_nonzero(codes))
        error += float(np.sum((chunk - codes @ atoms) ** 2, dtype=np.float64))
    total = float(len(rows) * rows.var(0, dtype=np.float64).sum())
    return nonzeros / len(rows), float(fired.mean()), 1 - error / total if total > 0 else 0.0


def comparison(
    rows: np.ndarray,
    atoms: np.ndarray,
    codes: np.ndarray,
    solver: Solver,
    penalty: float | None,
    positive: bool,
) -> dict[str, Any]:
    """The second part of a `Report`: codes (n, K) of rows (n, d) beside the exact ones."""
    l0 = np.count_nonzero(codes) / len(rows)
    if penalty is None:
        penalty = penalty_for(rows, atoms, l0, solver, positive)
    # From codes without zeros the descent would have to leave the wrong coordinates one after the other.
    start = sparse.csr_array(codes) if np.count_nonzero(codes) <= codes.size / 2 else None
    exact = solver(rows, atoms, penalty, positive=positive, start=start).toarray()
    ours, least = (float(objective(rows, atoms, z, penalty).mean()) for z in (codes, exact))
    power = float((rows**2).sum()) or 1.0
    return {
        "compared": len(rows),
        "penalty": penalty,
        "l0_codes": l0,
        "l0_exact": np.count_nonzero(exact) / len(rows),
        "objective": ours,
        "objective_exact": least,
        "gap": ours - least,
        "gap_share": (ours - least) / least if least else 0.0,
        "error": float(((rows - codes @ atoms) ** 2).sum()) / power,
        "error_refit": float(refitted_errors(rows, atoms, codes).sum()) / power,
        "error_exact": float(refitted_errors(rows, atoms, exact).sum()) / power,
    }


def penalty_for(rows: np.ndarray, atoms: np.ndarray, l0: float, solver: Solver, positive: bool) -> float:
    """λ at which exact codes have `l0` non-zeros on average, found by halving an interval of ln λ.

    So activations without a penalty, such as TopK, can be compared too: with the Lasso codes that are as sparse.
    """
    products = rows @ atoms.T
    most = float((products if positive else np.abs(products)).max(initial=0.0))  # from here on all is zero
    low, high, exact = math.log(LEAST_PENALTY), 0.0, None
    for _ in range(HALVINGS if most > 0 else 0):
        middle = (low + high) / 2
        exact = solver(rows, atoms, most * math.exp(middle), positive=positive, start=exact)
        low, high = (middle, high) if exact.nnz > l0 * len(rows) else (low, middle)
    return most * math.exp(high) or 1.0  # rows of zeros: codes are zero at any λ


def refitted_errors(rows: np.ndarray, atoms: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The least ‖x − zD‖² over all z with the support of each code, (n,)."""
    errors, full = np.empty(len(rows)), (codes != 0).all(1)
    if full.any():  # one system for all codes without a zero, such as predicted ones
        best = np.linalg.lstsq(atoms.T, rows[full].T)[0]
        errors[full] = ((rows[full] - best.T @ atoms) ** 2).sum(1)
    for i in np.flatnonzero(~full):
        chosen = atoms[codes[i] != 0]
        best = np.linalg.lstsq(chosen.T, rows[i])[0]
        errors[i] = ((rows[i] - best @ chosen) ** 2).sum()
    return errors
