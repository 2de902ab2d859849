"""What one pass costs and what it gives up: predictive and sparse autoencoders beside exact Lasso codes.

    python benchmarks/amortisation.py [--json]

Whitened 12×12 patches of photographs, K = 256 units, each code trained on the same patches for its own number of
steps; everything reported is about other patches of the same photographs. "Exact" are the Lasso codes on the
dictionary that the code has learned itself, z ≥ 0 where the code has no negative numbers, at `penalty`: for the
sparse autoencoders the λ at which exact codes are as sparse (`l0_exact` beside `l0`), for the predictive code its
own λ, since its codes have no zeros. `given_up` is the amortisation gap as a share of the exact objective;
`explained` the share of variance that the codes explain, `refit_error` and `exact_error` the share of energy left
by least squares on the support of the codes and of the exact ones. `us` and `exact_us` are microseconds a patch,
float32, one thread, in one process and in turn; the median counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from natural_patches import whitened_patches
from table import Row, in_turn, show
from threadpoolctl import threadpool_limits

from chainrule.codes.predictive import PredictiveSparseDecomposition
from chainrule.codes.sparse_autoencoder import BatchTopK, JumpReLU, ReLUL1, SparseAutoencoder, TopK
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.model import Code
from chainrule.train import Plan

HELD_OUT = 10_000
PENALTY = (
    1.4  # λ at which codes of these patches have about ten non-zeros, as many as the others are told to have
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--steps", type=int, help="of training, instead of each code's own number")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    show(measured(options), options.json)


def codes(units: int) -> dict[str, Code]:
    """What is measured."""
    return {
        "PSD": PredictiveSparseDecomposition(units, penalty=PENALTY),
        "ReLU + l1": SparseAutoencoder(units, activation=ReLUL1(PENALTY)),
        "TopK": SparseAutoencoder(units, activation=TopK(10)),
        "BatchTopK": SparseAutoencoder(units, activation=BatchTopK(10)),
        "JumpReLU": SparseAutoencoder(units, activation=JumpReLU(target=10.0)),
    }


def measured(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    rows = whitened_patches(options.patches + HELD_OUT)
    learn, rest = rows[: options.patches], rows[options.patches :]
    for name, code in codes(options.units).items():
        began = time.perf_counter()
        fit(code, learn, options.steps)
        yield {"code": name, "fit_s": time.perf_counter() - began, **row(code, rest, options.runs)}


def fit(code, rows: np.ndarray, steps: int | None) -> None:
    """Train for `steps`, or for as many as suit the code."""
    learner = code.learner(rows, None if steps is None else Plan(steps=steps))
    for _ in learner:
        pass
    code.learned(learner)


def row(code, rows: np.ndarray, runs: int) -> Row:
    """The report on held-out patches, and both times."""
    solver = CoordinateDescent()
    report = code.report(rows, solver, samples=len(rows))
    offset = code.mean_ if isinstance(code, PredictiveSparseDecomposition) else code.decoder_bias_
    centred, positive = (rows - offset).astype(np.float32), isinstance(code, SparseAutoencoder)
    sides = {
        "pass": lambda: code.transform(rows),
        "exact": lambda: solver(centred, code.components_, report.penalty, positive=positive, threads=1),
    }
    with threadpool_limits(1):
        seconds = in_turn(sides, runs)
    return {
        "l0": report.l0,
        "l0_exact": report.l0_exact,
        "alive": report.alive,
        "explained": report.explained,
        "refit_error": report.error_refit,
        "exact_error": report.error_exact,
        "penalty": report.penalty,
        "given_up": report.gap_share,
        "us": 1e6 * seconds["pass"] / len(rows),
        "exact_us": 1e6 * seconds["exact"] / len(rows),
        "times_faster": seconds["exact"] / seconds["pass"],
    }


if __name__ == "__main__":
    main()
