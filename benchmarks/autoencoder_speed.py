"""An epoch of a Boltzmann machine and of autoencoders, beside scikit-learn's BernoulliRBM and MLPRegressor.

    python benchmarks/autoencoder_speed.py [--json] [--runs 7]

10,000 MNIST images in float32. Machines: 784-500, batches of 100; scikit-learn's has persistent chains, ours (CD-1,
and PCD-1) momentum besides. Autoencoders: the same layers, units, batches (200) and Adam on both sides, squared error,
images as targets; `bfloat16`: as with a budget in minutes, where the processor multiplies such numbers. All sides run
in turn in one process; the median counts. `seconds` are of an epoch, `speed` is how many times faster ours is than
scikit-learn's, `slowest_speed` the worst of the runs, `arithmetic_s` what the products of matrices alone take, and
`of_arithmetic` how many times longer the side takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import BernoulliRBM, MLPRegressor
from table import Row, show
from threadpoolctl import threadpool_limits

from chainrule.codes.autoencoder import Autoencoder
from chainrule.codes.rbm import RBM
from chainrule.data import load
from chainrule.train import Plan

IMAGES = 10_000
REST = 0.3  # seconds in which the threads of the side before stop waiting for work
HIDDEN, MACHINE_BATCH, BATCH = 500, 100, 200
LAYERS = {"784-500": (500,), "784-1000-500-250-30": (1000, 500, 250, 30)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    x = np.asarray(load("mnist").x[:IMAGES], np.float32).reshape(IMAGES, -1) / 255
    for threads in options.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            yield from compared("machine 784-500", threads, machines(x), options.runs)
            for name, layers in LAYERS.items():
                yield from compared(f"autoencoder {name}", threads, autoencoders(x, layers), options.runs)


def compared(what: str, threads: int, sides: dict[str, Callable[[], float]], runs: int) -> Iterator[Row]:
    """A row a side: the first is scikit-learn's, "arithmetic" the products alone."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(runs + 1):  # the first one warms up
        for name, side in sides.items():
            time.sleep(REST)
            took = side()
            if run:
                seconds[name].append(took)
    peer, least = seconds[next(iter(sides))], statistics.median(seconds.pop("arithmetic"))
    for name, times in seconds.items():
        row = {"what": what, "side": name, "threads": threads, "seconds": statistics.median(times)}
        if times is not peer:
            ratios = [theirs / ours for theirs, ours in zip(peer, times, strict=True)]
            row |= {"speed": statistics.median(ratios), "slowest_speed": min(ratios)}
        yield {**row, "arithmetic_s": least, "of_arithmetic": row["seconds"] / least}


def machines(x: np.ndarray) -> dict[str, Callable[[], float]]:
    """Sides that give the seconds of an epoch."""
    return {
        "scikit-learn": lambda: timed(
            lambda: BernoulliRBM(HIDDEN, batch_size=MACHINE_BATCH, n_iter=1).fit(x)
        ),
        "chainrule CD-1": epochs(RBM(HIDDEN, batch=MACHINE_BATCH), x, MACHINE_BATCH),
        "chainrule PCD-1": epochs(RBM(HIDDEN, batch=MACHINE_BATCH, persistent=True), x, MACHINE_BATCH),
        "arithmetic": products(MACHINE_BATCH, [(x.shape[1], HIDDEN)], 5),
    }


def autoencoders(x: np.ndarray, layers: tuple[int, ...]) -> dict[str, Callable[[], float]]:
    """Sides that give the seconds of an epoch."""
    widths = (x.shape[1], *layers)
    hidden = (*layers, *layers[-2::-1])
    peer = MLPRegressor(
        hidden_layer_sizes=hidden, activation="relu", solver="adam", alpha=0, batch_size=BATCH
    )
    ours = Autoencoder(layers, units="relu", batch=BATCH)
    return {
        "scikit-learn": lambda: timed(lambda: peer.partial_fit(x, x)),
        "chainrule": epochs(ours, x, BATCH),
        "chainrule, bfloat16": epochs(ours, x, BATCH, Plan(minutes=1e5)),
        "arithmetic": products(BATCH, list(pairwise(widths)), 6),
    }


def epochs(
    code: RBM | Autoencoder, x: np.ndarray, batch: int, plan: Plan | None = None
) -> Callable[[], float]:
    """A function that learns for another epoch and gives its seconds."""
    steps = iter(code.learner(x, plan or Plan(steps=1 << 30)))
    return lambda: timed(lambda: [next(steps) for _ in range(len(x) // batch)])


def products(batch: int, shapes: list[tuple[int, int]], times: int) -> Callable[[], float]:
    """A function that multiplies as an epoch has to (so many products of each shape a batch), and gives its seconds."""
    pairs = [(torch.rand(batch, a), torch.rand(a, b)) for a, b in shapes]

    def epoch() -> None:
        for _ in range(IMAGES // batch):
            for x, w in pairs:
                for _ in range(times):
                    x @ w

    return lambda: timed(epoch)


def timed(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
