"""A text's end after some minutes of training on its beginning: a network, its mixture with counts, nanoGPT.

    python benchmarks/text_minutes.py --folder DIR [--model mlstm] [--minutes 2 10 30] [--peer PATH] [--json]
    python benchmarks/text_minutes.py --folder DIR --model transformer-xl --minutes 30 --also DIR/mlstm-30-0
    python benchmarks/text_minutes.py --folder DIR --data stacks

A network (a multiplicative LSTM; with --model gpt and so on one of self-attention) is trained by `chainrule fit` on
the training part (of Shakespeare nine tenths, of the Stacks Project all but the last million bytes), in one thread,
and scores all of the rest exactly: a state is carried from the first character to the last, blocks follow one another.
Its sizes are in `SETTINGS`; they were chosen by trainings of 2 and 6 minutes on the first 903,000 characters of the
training part of Shakespeare, scored on the next 100,854. `counting` is context mixing that has read the training part
once, `mixture` the network and it as one; the seconds of that reading are not counted.

Minutes are of processor time of one thread, on all sides: other work that shares the machine does not count. DIR keeps
a run folder for each budget; a training that was stopped goes on from there.

PATH is a checkout of github.com/karpathy/nanoGPT. Its train.py is run with the settings that its README gives for a
processor (4 layers, 4 heads, width 128, 64 characters of context, 12 rows, 2,000 steps), in one thread. Its model then
scores the same characters in two ways: in blocks of 64, whose first character knows nothing but the one before; and
with the 64 characters before each.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Row, show
from torch.nn import functional as F

import chainrule.train
from chainrule import fit, load, open_run, score
from chainrule.chains.mixture import Mixture
from chainrule.data import Dataset
from chainrule.model import Chain
from chainrule.models import INFO, MODEL

Settings = dict[float, dict[str, Any]]  # minutes -> arguments of the network
SETTINGS: dict[str, dict[str, Settings]] = {
    "shakespeare": {
        "mlstm": {
            2: {"width": 320, "dropout": 0.1},
            10: {"width": 512, "dropout": 0.4, "recurrent_dropout": 0.4},
            30: {"width": 512, "dropout": 0.4, "recurrent_dropout": 0.4},
        },
        "transformer-xl": {
            2: {"width": 192, "inner": 768, "memory": 64, "window": 64},
            10: {"width": 192, "inner": 768, "memory": 128, "window": 64},
            30: {"width": 192, "inner": 768, "memory": 128, "window": 64, "dropout": 0.05},
        },
        "bytenet": {
            2: {"width": 192, "sets": 1},
            5: {"width": 192, "sets": 1, "dropout": 0.3},
        },
        "gpt": {113 / 60: {"width": 128, "layers": 4, "heads": 4, "window": 64}},  # the sizes of the peer
    },
    "stacks": {
        "mlstm": {40: {"width": 512, "dropout": 0.0}},
        "bytenet": {40: {"width": 256, "sets": 2}},
    },
}
BATCH: dict[str, int] = {"gpt": 12}  # rows of a step, where they are not what the model suggests
COUNTS: dict[str, dict[str, Any]] = {  # data -> arguments of context mixing
    "shakespeare": {},
    "stacks": {"bits": 24, "orders": (1, 2, 3, 4, 6, 9, 14)},
}
CONTEXT, ROWS = 64, 256  # of the peer, and how many contexts it is given at a time
README = {
    **{"device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 100, "block_size": CONTEXT},
    **{"batch_size": 12, "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": 2000, "lr_decay_iters": 2000},
    **{"dropout": 0.0, "always_save_checkpoint": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=list(SETTINGS), default="shakespeare")
    parser.add_argument("--model", default="mlstm")
    parser.add_argument("--minutes", nargs="*", type=float, help="by default those that have settings")
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--also", type=Path, help="a run that is one more part of another mixture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chainrule.train.time.perf_counter = time.process_time  # the budget is of processor time
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of ours, then those of the peer."""
    learn, test = load(options.data, split="train"), load(options.data, split="test")
    known = SETTINGS[options.data][options.model]
    minutes = sorted(known) if options.minutes is None else options.minutes
    settings = COUNTS[options.data]
    counting = fit(learn, "counting", out=folder_of(options, "counting"), settings=settings, holdout=0).chain
    yield row("counting", counting, test, 0)
    for budget in minutes:
        network = trained(options, budget)
        yield row(options.model, network, test, budget)
        yield row("mixture", Mixture((network, counting)), test, budget)
        if options.also is not None:
            also = open_run(options.also)
            yield row(f"and {also.info['model']}", Mixture((network, also.chain, counting)), test, budget)
    if options.peer is not None:
        yield from peer_rows(options, learn, test)


def folder_of(options: argparse.Namespace, name: str) -> Path:
    """A new folder of that name in DIR."""
    folder = options.folder / name
    for path in folder.glob("*"):
        path.unlink()
    return folder


def trained(options: argparse.Namespace, minutes: float) -> Chain:
    """The network that was trained for so long; now, unless DIR holds it."""
    model = options.model
    folder = options.folder / f"{model}-{minutes:g}-{options.seed}"
    if not (folder / MODEL).exists():
        resume = (folder / INFO).exists()
        known = SETTINGS[options.data][model]
        settings = known[min(known, key=lambda other: abs(other - minutes))]
        new = {"data": options.data, "model": model, "settings": settings, "minutes": minutes, "holdout": 0}
        new["batch"] = BATCH.get(model)
        fit(**({"data": None} if resume else new), out=folder, seed=options.seed, resume=resume)
    return open_run(folder).chain


def row(name: str, chain: Chain, test: Dataset, minutes: float) -> Row:
    """How well a chain predicts the text, exactly, and how fast."""
    began = time.process_time()
    nats = float(score(chain, test).nats.sum()) / test.symbols_total
    seconds = time.process_time() - began
    parameters = sum(p.numel() for p in chain.parameters())
    return facts(name, minutes, chain.context_rule().split(":")[0], nats, parameters, test, seconds)


def facts(
    name: str, minutes: float, context: str, nats: float, parameters: int, test: Dataset, seconds: float
) -> Row:
    """A row of the table."""
    return {
        "model": name,
        "minutes": minutes,
        "context": context,
        "nats_per_char": nats,
        "bits_per_char": nats / math.log(2),
        "parameters": parameters,
        "scored_kB_per_s": test.symbols_total / 1000 / seconds,
    }


# ---------------------------------------------------------------------------------------------------- the peer


def peer_rows(options: argparse.Namespace, learn: Dataset, test: Dataset) -> Iterator[Row]:
    """nanoGPT after its own training, in blocks and with a sliding context."""
    characters = np.unique(np.concatenate([np.asarray(data.x[0]) for data in (learn, test)]))
    train, val = (np.searchsorted(characters, np.asarray(data.x[0])) for data in (learn, test))
    out = options.folder / "nanogpt"
    if not (out / "ckpt.pt").exists():
        train_peer(options, out, train, val, len(characters))
    model, seconds = peer_model(options.peer, out), float((out / "seconds").read_text())
    parameters = sum(p.numel() for p in model.parameters())
    text = torch.from_numpy(np.concatenate([train[-CONTEXT:], val]).astype(np.int64))
    for context, scored in (("blocks of 64", by_blocks), ("the 64 before", sliding)):
        began = time.process_time()
        with torch.inference_mode():
            nats = scored(model, text) / len(val)
        took = time.process_time() - began
        yield facts("nanoGPT", seconds / 60, context, nats, parameters, test, took)


def train_peer(options, out: Path, train: np.ndarray, val: np.ndarray, characters: int) -> None:
    """Run its train.py, in one thread, and note the processor time that it took."""
    data = options.folder / "nanogpt-data"
    data.mkdir(parents=True, exist_ok=True)
    train.astype(np.uint16).tofile(data / "train.bin")
    val.astype(np.uint16).tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": characters}))
    settings = {**README, "out_dir": out.resolve(), "dataset": data.resolve()}
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py"]
    command += [f"--{key}={value}" for key, value in settings.items()]
    before = os.times()
    subprocess.run(
        command,
        cwd=options.peer,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    (out / "seconds").write_text(f"{took}")


def peer_model(peer: Path, out: Path) -> Any:
    """The network of a checkpoint of the peer; its own file, written in this very run."""
    sys.path.insert(0, str(peer.resolve()))
    code = importlib.import_module("model")
    kept = torch.load(out / "ckpt.pt", map_location="cpu", weights_only=True)
    model = code.GPT(code.GPTConfig(**kept["model_args"]))
    model.load_state_dict(kept["model"])
    return model.eval()


def by_blocks(model: Any, text: torch.Tensor) -> float:
    """−log p of all after the first 64 characters, in blocks of 64 that know nothing of each other."""
    starts = range(CONTEXT - 1, len(text) - 1, CONTEXT)
    blocks = [(text[i : i + CONTEXT], text[i + 1 : i + 1 + CONTEXT]) for i in starts]
    full = [block for block in blocks if len(block[1]) == CONTEXT]
    groups = [full[i : i + ROWS] for i in range(0, len(full), ROWS)] + [
        [b] for b in blocks if len(b[1]) < CONTEXT
    ]
    total = 0.0
    for group in groups:
        x, y = (torch.stack([block[k][: len(group[0][1])] for block in group]) for k in (0, 1))
        logits, _ = model(x, y)
        total += float(F.cross_entropy(logits.flatten(0, 1).double(), y.flatten(), reduction="sum"))
    return total


def sliding(model: Any, text: torch.Tensor) -> float:
    """−log p of all after the first 64 characters, each given the 64 before it."""
    windows, total = text.unfold(0, CONTEXT, 1), 0.0
    for i in range(0, len(text) - CONTEXT, ROWS):
        y = text[CONTEXT + i : CONTEXT + i + ROWS]
        logits, _ = model(windows[i : i + len(y)])
        total += float(F.cross_entropy(logits[:, -1].double(), y, reduction="sum"))
    return total


if __name__ == "__main__":
    main()
