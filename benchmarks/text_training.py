"""What carrying the state from step to step is worth: the same model and processor time, with streams and with windows.

    python benchmarks/text_training.py --models char-lstm mlstm --seconds 120

Trains on the first 90 % of Shakespeare for so many seconds of processor time, in one thread, and scores all of the
rest exactly. Batch, window, rate and everything else are what `fit` would take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from table import Row, show

from chainrule import score, store, train
from chainrule.data import batches, load, streams
from chainrule.models import TABLE
from chainrule.train import Plan, Training
from chainrule.verbs.training import training_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["char-lstm", "mlstm"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train.time.perf_counter = time.process_time  # the budget is of processor time
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for every model and way to draw batches."""
    for model in options.models:
        for carried in (False, True):
            yield trained(model, carried, options.seconds, options.seed)


def trained(name: str, carried: bool, seconds: float, seed: int) -> Row:
    """Train a model for so long; how well it then predicts the rest of the text."""
    learn, test = (load("shakespeare", split=split) for split in ("train", "test"))
    args = {**store.resolve(name, TABLE).SIZES["laptop"], "symbols": learn.levels}
    own = training_options(name, args, compile=False)
    chain = store.build(name, args, TABLE, seed)
    rows = streams if carried else batches

    def batch_at(step: int) -> tuple[torch.Tensor, ...]:
        arrays = rows(learn, own["batch"], seed, step, own["window"])
        return tuple(torch.from_numpy(array) for array in arrays if array is not None)

    plan = Plan(minutes=seconds / 60, lr=own["lr"], seed=seed, compile=False, bfloat16=own["bfloat16"])
    training = Training(chain, batch_at, plan, chain.rest(own["batch"]) if carried else None)
    for _ in training:
        pass
    chain.load_state_dict(training.averaged())
    symbols = training.step * own["batch"] * own["window"]
    return {
        "model": name,
        "state": "carried" if carried else "zero",
        "steps": training.step,
        "symbols_per_s": round(symbols / training.seconds),
        "nats": float(score(chain, test).nats.sum()) / test.symbols_total,
    }


if __name__ == "__main__":
    main()
