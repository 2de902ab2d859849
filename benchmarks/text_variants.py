"""What the parts of a training of self-attention are worth, at equal processor time: the same model with and without.

    python benchmarks/text_variants.py [--variants NAME ...] [--seconds 120] [--json]

Trains on the first 903,000 characters of the training part of Shakespeare for so many seconds of processor time, in one
thread, and scores the next 100,854 exactly, by the rule of the model. What a variant does not say is as in the size
`laptop`, and as `fit` would take it. In the names:

    Adam                   no Muon, and a lower rate, which Adam needs
    attention of PyTorch   not the one that is written out in `chainrule.layers.attention`
    norms last             a layer normalises the sum that it ends in, as Dai et al. 2019 publish it
    without intermediate   the last layer alone predicts, the next symbol and the one after it
    next symbol only       the last layer alone predicts, the next symbol alone
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
from chainrule.layers import attention
from chainrule.models import TABLE
from chainrule.train import Plan, Training
from chainrule.verbs.training import rates, training_options

LEARN, CHECK = 903_000, 100_854  # characters of the training part
Variant = tuple[str, dict[str, Any], dict[str, Any]]  # model, arguments, training options
PYTORCH = "gpt, attention of PyTorch"
VARIANTS: dict[str, Variant] = {
    "gpt": ("gpt", {}, {}),
    "gpt, Adam": ("gpt", {}, {"muon": False, "lr": 3e-3}),
    PYTORCH: ("gpt", {}, {}),
    "transformer-xl": ("transformer-xl", {}, {}),
    "transformer-xl, Adam": ("transformer-xl", {}, {"muon": False, "lr": 2e-3}),
    "transformer-xl, norms last": ("transformer-xl", {"norm_first": False}, {}),
    "transformer-xl, norms last, Adam": (
        "transformer-xl",
        {"norm_first": False},
        {"muon": False, "lr": 2e-3},
    ),
    "deep-attention": ("deep-attention", {}, {}),
    "deep-attention, without intermediate": ("deep-attention", {"intermediate": False}, {}),
    "deep-attention, next symbol only": ("deep-attention", {"intermediate": False, "targets": 1}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--size", default="laptop")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train.time.perf_counter = time.process_time  # the budget is of processor time
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for every variant."""
    longest = attention.LONGEST
    for name in options.variants:
        attention.LONGEST = 0 if name == PYTORCH else longest
        yield {"variant": name, **trained(*VARIANTS[name], options)}
    attention.LONGEST = longest


def trained(name: str, changed: dict[str, Any], other: dict[str, Any], options: argparse.Namespace) -> Row:
    """Train one chain for so long; how well it then predicts what follows in the text."""
    learn, check = parts()
    args = {**store.resolve(name, TABLE).SIZES[options.size], **changed, "symbols": learn.levels}
    own = {**training_options(name, args, compile=False), **other}
    chain = store.build(name, args, TABLE, options.seed)

    def batch_at(step: int) -> tuple[torch.Tensor, ...]:
        arrays = streams(learn, own["batch"], options.seed, step, own["window"])
        return tuple(torch.from_numpy(array) for array in arrays if array is not None)

    plan = Plan(minutes=options.seconds / 60, seed=options.seed, **rates(own))
    training = Training(chain, batch_at, plan, chain.rest(own["batch"]))
    for _ in training:
        pass
    chain.load_state_dict(training.averaged())
    return {
        "parameters": sum(p.numel() for p in chain.parameters()),
        "batch": own["batch"],
        "window": own["window"],
        "lr": own["lr"],
        "seconds": options.seconds,
        "steps": training.step,
        "nats_per_char": float(score(chain.eval(), check).nats.sum()) / check.symbols_total,
    }


def parts() -> tuple[Dataset, Dataset]:
    """What is learned, and what it is checked with."""
    whole = load("shakespeare", split="train")
    text = whole.x[0]
    return replace(whole, x=[text[:LEARN]]), replace(whole, x=[text[LEARN : LEARN + CHECK]])


if __name__ == "__main__":
    main()
