"""What auxiliary losses are worth in deep self-attention, at equal processor time: the same layers with and without.

    python benchmarks/auxiliary_losses.py [--layers 8 12] [--losses all last next] [--seconds 120] [--json]

Trains on the first 903,000 characters of the training part of Shakespeare for so many seconds of processor time, in one
thread, and scores the next 100,854 exactly, in the blocks of the model: with the averaged weights, which `fit` keeps,
and with the last ones. What is not given is as in the size `laptop`, and as `fit` would take it. The losses:

    all     every layer predicts the next symbol and the one after it, layer l of L until l / (2 L) of the time is spent
    last    the last layer predicts both
    next    the last layer predicts the next symbol
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from table import Row, show

from chainrule import score, store, train
from chainrule.data import Dataset, load, streams
from chainrule.model import Chain
from chainrule.models import TABLE
from chainrule.train import Plan, Training
from chainrule.verbs.training import training_options

NAME = "deep-attention"
LEARN, CHECK = 903_000, 100_854  # characters of the training part
LOSSES: dict[str, dict[str, Any]] = {
    "all": {},
    "last": {"intermediate": False},
    "next": {"intermediate": False, "targets": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", nargs="+", type=int, default=[8, 12])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train.time.perf_counter = time.process_time  # the budget is of processor time
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for every number of layers and every set of losses."""
    for layers in options.layers:
        for losses in options.losses:
            yield trained(layers, losses, options)


def trained(layers: int, losses: str, options: argparse.Namespace) -> Row:
    """Train one chain for so long; how well it then predicts what follows in the text."""
    learn, check = parts()
    size = store.resolve(NAME, TABLE).SIZES["laptop"]
    width = {} if options.width is None else {"width": options.width}
    args = {**size, "layers": layers, **width, **LOSSES[losses], "symbols": learn.levels}
    own = training_options(NAME, args, batch=options.batch, lr=options.lr, compile=False)
    chain = store.build(NAME, args, TABLE, options.seed)

    def batch_at(step: int) -> tuple[torch.Tensor, ...]:
        arrays = streams(learn, own["batch"], options.seed, step, own["window"])
        return tuple(torch.from_numpy(array) for array in arrays if array is not None)

    rates = {key: own[key] for key in ("lr", "compile", "bfloat16")}
    plan = Plan(minutes=options.seconds / 60, seed=options.seed, **rates)
    training = Training(chain, batch_at, plan, chain.rest(own["batch"]))
    for _ in training:
        pass
    last = nats_of(chain, check)
    chain.load_state_dict(training.averaged())
    return {
        "layers": layers,
        "losses": losses,
        "width": args["width"],
        "window": args["window"],
        "batch": own["batch"],
        "lr": own["lr"],
        "cpu_seconds": options.seconds,
        "steps": training.step,
        "parameters": sum(p.numel() for p in chain.parameters()),
        "nats": nats_of(chain, check),
        "nats_without_averaging": last,
    }


def nats_of(chain: Chain, data: Dataset) -> float:
    """−log p a character, exact."""
    return float(score(chain.eval(), data).nats.sum()) / data.symbols_total


def parts() -> tuple[Dataset, Dataset]:
    """What is learned, and what it is checked with."""
    whole = load("shakespeare", split="train")
    text = whole.x[0]
    return replace(whole, x=[text[:LEARN]]), replace(whole, x=[text[LEARN : LEARN + CHECK]])


if __name__ == "__main__":
    main()
