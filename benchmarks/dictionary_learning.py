"""Dictionaries of natural patches: the held-out objective against wall-clock, beside SPAMS and scikit-learn.

    python benchmarks/dictionary_learning.py [--json]

100,000 whitened 12×12 patches of photographs in float32, 256 atoms, one λ for all, batches of 512, the same atoms to
begin with. Every side learns alone for so many seconds of wall-clock; then its dictionary is judged by the mean of
½‖x − zD‖² + λ‖z‖₁ over 10,000 patches that nobody learned from, with codes that are exact (`coordinate_descent` in
float64, KKT residual below 1e-3 λ); judging is not timed. SPAMS (`trainDL`, which takes a number of seconds) learns
from the beginning for every time; the others are looked at on their way. What compiles does so before.
SPAMS is left out where it is not installed, and a line says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from natural_patches import whitened_patches
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from table import Row, show
from threadpoolctl import threadpool_limits

from chainrule.codes.sparse_coding import Online, SparseCoding
from chainrule.layers.coordinate_descent import coordinate_descent
from chainrule.layers.lasso import objective
from chainrule.train import Plan

try:
    import spams
except ImportError:
    spams = None

Snapshots = Iterator[np.ndarray]  # atoms (K, d) after each of the times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--held", type=int, default=10_000)
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, nargs="+", default=[1, 2, 5, 10, 20, 40, 80])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for every side: its objective after each of the times."""
    rows = whitened_patches(options.patches + options.held)
    rows, held = rows[: options.patches], rows[options.patches :]
    first = SparseCoding(options.atoms).learner(rows).state["components"]
    with threadpool_limits(options.threads):
        for name in options.sides:
            if name.startswith("SPAMS") and spams is None:
                yield {"side": f"{name}: not installed (pip install spams-bin)"}
                continue
            row: Row = {"side": name, "threads": options.threads, "start": judged(held, first, options)}
            for seconds, atoms in zip(options.seconds, SIDES[name](rows, first, options), strict=True):
                row[f"{seconds} s"] = judged(held, atoms, options)
            yield row


def judged(held: np.ndarray, atoms: np.ndarray, options: argparse.Namespace) -> float:
    """The mean objective of exact codes, of atoms that are scaled to norms of at most 1."""
    atoms = atoms / np.maximum(1, np.linalg.norm(atoms, axis=1, keepdims=True))
    x, D = held.astype(np.float64), atoms.astype(np.float64)
    return float(objective(x, D, coordinate_descent(x, D, options.penalty), options.penalty).mean())


def ours(**more: float) -> Callable[..., Snapshots]:
    def snapshots(rows, first, options: argparse.Namespace) -> Snapshots:
        code = SparseCoding(options.atoms, options.penalty, training=Online(options.batch, **more))
        code.fit(rows[: options.batch])  # compiled
        learner = code.learner(rows, Plan(minutes=max(options.seconds) / 60, seed=0))
        learner.state["components"] = first.copy()
        yield from at_times(iter(learner).__next__, lambda: learner.state["components"], options.seconds)

    return snapshots


def of_scikit_learn(algorithm: str) -> Callable[..., Snapshots]:
    def snapshots(rows, first, options: argparse.Namespace) -> Snapshots:
        peer = MiniBatchDictionaryLearning(
            options.atoms,
            alpha=options.penalty,
            batch_size=options.batch,
            fit_algorithm=algorithm,
            dict_init=first.astype(np.float64),
            n_jobs=options.threads,
            random_state=0,
        )
        rows, rng = rows.astype(np.float64), np.random.default_rng(0)  # its coordinate descent needs doubles

        def step():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                peer.partial_fit(rows[rng.integers(len(rows), size=options.batch)])

        yield from at_times(step, lambda: peer.components_, options.seconds)

    return snapshots


def of_spams(kind: type) -> Callable[..., Snapshots]:
    def snapshots(rows, first, options: argparse.Namespace) -> Snapshots:
        columns, start = np.asfortranarray(rows.T, dtype=kind), np.asfortranarray(first.T, dtype=kind)
        more = {"mode": 2, "lambda1": options.penalty, "batchsize": options.batch, "verbose": False}
        for seconds in options.seconds:
            atoms = spams.trainDL(
                columns, D=start.copy(order="F"), iter=-seconds, numThreads=options.threads, **more
            )
            yield np.ascontiguousarray(atoms.T)

    return snapshots


def at_times(step: Callable[[], object], atoms: Callable[[], np.ndarray], times: list[int]) -> Snapshots:
    """Copies of the atoms when so many seconds of steps are over; what happens between steps is not counted."""
    spent = 0.0
    for limit in times:
        while spent < limit:
            began = time.perf_counter()
            try:
                step()
            except StopIteration:
                break
            spent += time.perf_counter() - began
        yield atoms().copy()


SIDES: dict[str, Callable[..., Snapshots]] = {
    "chainrule online": ours(),
    "chainrule online, forget=5": ours(forget=5.0),
    "SPAMS trainDL float32": of_spams(np.float32),
    "SPAMS trainDL float64": of_spams(np.float64),
    "scikit-learn cd": of_scikit_learn("cd"),
    "scikit-learn lars": of_scikit_learn("lars"),
}


if __name__ == "__main__":
    main()
