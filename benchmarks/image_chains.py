"""Every image chain after the same minutes of training on `binarized-mnist`, beside pytorch-generative's models.

    python benchmarks/image_chains.py --folder DIR [--minutes 3] [--threads 1] [--clock wall] [--peer PATH] [--json]
    python benchmarks/image_chains.py --folder DIR --chains nade made           # some rows; --chains: none of ours
    python benchmarks/image_chains.py --folder DIR --chains nade --again nade   # trained and measured anew

A chain is trained by `chainrule fit` at size "laptop", with what its class suggests (batch, rate, bfloat16 where the
processor multiplies such numbers), on all 60,000 training images: nothing is held out. PATH is a checkout of
github.com/EugenHotaj/pytorch-generative (its optional parts `datasets`, `trainer` and `debug` need packages that the
models do not, and are left out). Its models are trained as their `reproduce()` says: sizes, batch, Adam and the decay
of its rate, the loss summed over pixels; in single precision, on the same images, binarised by the same random
numbers. Some have a second row with a smaller batch or network, since in a few minutes on a processor their own
setting takes few steps; the better row counts. The peer's NADE gives probabilities, and its own loss would take the
sigmoid of them once more: here it is trained with the cross-entropy of the probabilities, logarithms clamped at -100
as PyTorch does.

Minutes are those of the training steps, drawing the batches included; nothing else counts. `--clock processor` counts
the seconds that the processor was given, here and in all columns, instead of those that passed: the same for one
thread that is alone, and fair where other work shares the machine. DIR keeps a run folder and a row for each model:
what is complete is neither trained nor measured again, and a training that was killed, the peer's too, goes on from
its last checkpoint, at most 20 seconds back. The columns:

    parameters    numbers that are learned; masked weights count
    test_nats     the mean of -log p(x) over all 10,000 test images, exact
    images_per_s  in training
    cores         processor seconds a second of wall clock while it was trained (after it was last taken up): on a
                  machine without other work the number of threads
    us_64, us_1   microseconds a sampled pixel and lane, 64 lanes or 1 at a time: of a chain with a step program in
                  the step engine, one thread; of another the mean of its own first steps. The peer samples
                  with a full pass a pixel, its NADE with one for all pixels: EXTRAPOLATED from a few passes
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import table
import torch
from table import Row, in_turn, show
from torch import Tensor, nn
from torch.nn import functional as F

import chainrule.train
from chainrule import store
from chainrule.data import Dataset, batches, load
from chainrule.engine import Program, program_of
from chainrule.engine.strict import Strict
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.models import INFO, METRICS, MODEL, TABLE, open_run
from chainrule.train import Plan, Training
from chainrule.verbs.fit import SAVE_EVERY, fit, run_training
from chainrule.verbs.run_folder import Log, restore
from chainrule.verbs.score import score
from chainrule.verbs.walk import draw, walk

DATA = "binarized-mnist"
CHAINS = (
    "fvbn",
    "nade",
    "made",
    "ride",
    "pixelcnn",
    "row-lstm",
    "diagonal-bilstm",
    "gated-pixelcnn",
    "pixelcnn-pp",
    "pixelsnail",
    "image-transformer",
)
CLOCKS = {"wall": "perf_counter", "processor": "process_time"}
LANES = (64, 1)
OWN_STEPS = 8  # of a chain without a program that are timed
AT_ONCE = 32  # test images of a peer: more are slower


@dataclass(frozen=True)
class Setting:
    """A model of the peer and how it is trained; the rate is multiplied by `decay` after every step."""

    model: str
    args: dict[str, Any]
    batch: int
    decay: float = 1.0
    lr: float = 1e-3


PIXELCNN = {
    "in_channels": 1,
    "out_channels": 1,
    "n_residual": 15,
    "residual_channels": 16,
    "head_channels": 32,
}
GATED = {"in_channels": 1, "out_channels": 1, "n_gated": 10, "gated_channels": 128, "head_channels": 32}
NADE = {"input_dim": 784, "hidden_dim": 500}
SNAIL = {
    "in_channels": 1,
    "out_channels": 1,
    "n_channels": 64,
    "n_pixel_snail_blocks": 8,
    "n_residual_blocks": 2,
    "attention_value_channels": 32,
    "attention_key_channels": 4,
}
GPT = {
    "in_channels": 1,
    "out_channels": 1,
    "in_size": 28,
    "n_transformer_blocks": 8,
    "n_attention_heads": 2,
    "n_embedding_channels": 64,
}
PEERS = {
    "pixelcnn": Setting("PixelCNN", PIXELCNN, 256, 0.999977),
    "pixelcnn-batch-64": Setting("PixelCNN", PIXELCNN, 64, 0.999977),
    "gated-pixelcnn": Setting("GatedPixelCNN", GATED, 128, 0.9999),
    "gated-pixelcnn-8x32": Setting(
        "GatedPixelCNN", {**GATED, "n_gated": 8, "gated_channels": 32}, 64, 0.9999
    ),
    "made": Setting("MADE", {"input_dim": 784, "hidden_dims": [8000], "n_masks": 1}, 64),
    "nade": Setting("NADE", NADE, 512),
    "nade-batch-64": Setting("NADE", NADE, 64),
    "pixelsnail": Setting("PixelSNAIL", SNAIL, 128, 0.999977),
    "pixelsnail-batch-16": Setting("PixelSNAIL", SNAIL, 16, 0.999977),
    "image-gpt": Setting("ImageGPT", GPT, 64, 0.999977, lr=5e-3),
    "image-gpt-batch-16": Setting("ImageGPT", GPT, 16, 0.999977, lr=5e-3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where runs and rows are kept")
    parser.add_argument("--chains", nargs="*", choices=CHAINS, default=list(CHAINS), metavar="NAME")
    parser.add_argument("--peer", help="a checkout of pytorch-generative")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), metavar="NAME", help="by default all")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="a name as in the table")
    parser.add_argument("--minutes", type=float, default=3, help="of training, for each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="what minutes are of")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    if options.peers is None:
        options.peers = list(PEERS) if options.peer else []
    if options.clock == "processor" and options.threads > 1:
        parser.error("--clock processor is for one thread: the seconds of several add up")
    if options.peers and not options.peer:
        parser.error("--peers needs --peer PATH")
    try:
        show(measured(options), options.json)
    except ChainruleError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped: the same command goes on") from None


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each chain and each model of the peer; all names are checked before anything is trained."""
    rows = dict.fromkeys(options.chains, chain_row) | {f"peer-{name}": peer_row for name in options.peers}
    for name in options.chains:
        store.resolve(name, TABLE)
    if unknown := set(options.again) - rows.keys():
        raise ChainruleError(f"--again {' '.join(sorted(unknown))}: choose from {', '.join(rows)}")
    same_folder(options)
    for name in options.again:
        (options.folder / f"{name}.json").unlink(missing_ok=True)
        shutil.rmtree(options.folder / name, ignore_errors=True)
    for name, make in rows.items():
        kept = options.folder / f"{name}.json"
        if not kept.exists():
            torch.set_num_threads(options.threads)
            with told_time_by(options.clock):
                row = {"model": name, **make(name, options)}
            row |= settings(options)
            store.write_atomic(kept, f"{json.dumps(row)}\n".encode())
        yield json.loads(kept.read_text())


def settings(options: argparse.Namespace) -> Row:
    """What all rows of a folder share."""
    return {"minutes": options.minutes, "threads": options.threads, "clock": options.clock}


def same_folder(options: argparse.Namespace) -> None:
    """One clear line when a folder has other settings."""
    path, asked = options.folder / "settings.json", settings(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        store.write_atomic(path, json.dumps(asked).encode())
    if (found := json.loads(path.read_text())) != asked:
        raise ChainruleError(f"{options.folder} is of {found}, {asked} is asked for: take another --folder")


@contextmanager
def told_time_by(clock: str) -> Iterator[None]:
    """Within, trainings and measurements tell their seconds by this clock."""
    told = types.SimpleNamespace(perf_counter=getattr(time, CLOCKS[clock]))
    with mock.patch.object(chainrule.train, "time", told), mock.patch.object(table, "time", told):
        yield


def images(split: str) -> Dataset:
    """Training images, binarised at every draw, or the fixed test images."""
    return load(DATA, split=split)


def cores(train: Callable[[], object]) -> float:
    """Processor seconds a second of wall clock."""
    wall, processor = time.perf_counter(), time.process_time()
    train()
    return (time.process_time() - processor) / (time.perf_counter() - wall)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ------------------------------------------------------------------------------------------------------ chains


def chain_row(name: str, options: argparse.Namespace) -> Row:
    """A chain: trained, or what is left of its training, and measured."""
    folder, test = options.folder / name, images("test")
    share: float | str = "-"  # it was trained before
    if not (folder / MODEL).exists():
        budget = {"minutes": options.minutes, "resume": (folder / INFO).exists()}
        share = cores(lambda: fit(images("train"), name, out=folder, holdout=0, **budget))
    run = open_run(folder)
    chain, trained, batch = run.chain, run.info["trained"], run.info["training"]["batch"]
    program = program_of(chain)
    row: Row = {"parameters": parameters(chain), "test_nats": score(chain, test).nats_per_item}
    row |= {"images_per_s": trained["steps"] * batch / trained["seconds"], "batch": batch}
    row |= {"steps": trained["steps"], "cores": share}
    for lanes in LANES:
        row[f"us_{lanes}"] = 1e6 * step_seconds(chain, program, test.x[0].shape, lanes)
    return row | {"program": "no" if program is None else "yes"}


def step_seconds(chain: Chain, program: Program | None, event: tuple[int, ...], lanes: int) -> float:
    """Seconds of sampling one symbol of one lane, so many lanes at a time."""
    if program is None:
        return own_step_seconds(chain, event, lanes)
    run, count = Strict(program, event, lanes), int(np.prod(event))
    symbols, known = np.zeros((lanes, count), np.int64), np.zeros(count, bool)
    uniforms = 1 - np.random.default_rng(0).random((lanes, count))

    def fill() -> None:
        run.t, run.memory[:] = 0, 0
        run.fill(symbols, known, uniforms)

    return in_turn({"fill": fill}, runs=5, least=0.1)["fill"] / symbols.size


def own_step_seconds(chain: Chain, event: tuple[int, ...], lanes: int) -> float:
    """`step_seconds` of a chain without a program."""
    half, few = torch.full((lanes,), 0.5), min(OWN_STEPS, int(np.prod(event)))

    def first() -> None:
        for _ in islice(walk(chain, lambda i, logits: draw(logits, half), event, lanes), few):
            pass

    return in_turn({"first": first}, runs=3)["first"] / (few * lanes)


# ---------------------------------------------------------------------------------------------------- the peer


@dataclass(frozen=True)
class PeerPlan(Plan):
    """The rates of the peer's trainer: no warming up, no average of the weights, no clipping."""

    lr: float = 1e-3
    average: float = 0.0
    weight_decay: float = 0.0
    clip: float = float("inf")
    compile: bool | None = False
    decay: float = 1.0

    def rate(self, step: int, seconds: float) -> float:
        return self.lr * self.decay**step


class Likelihood(nn.Module):
    """A network of the peer with its loss; `probabilities`: it gives these, not logits."""

    def __init__(self, net: nn.Module, event: tuple[int, ...], probabilities: bool):
        super().__init__()
        self.net, self.probabilities = net, probabilities
        self.nats(torch.zeros(1, *event))  # the peer registers buffers when it first sees an image

    def nats(self, x: Tensor) -> Tensor:
        """-log p(x) (B,) of black and white images (B, H, W, 1)."""
        pixels = x.reshape(len(x), 1, *x.shape[1:3]).float()
        entropy = F.binary_cross_entropy if self.probabilities else F.binary_cross_entropy_with_logits
        return entropy(self.net(pixels), pixels, reduction="none").flatten(1).sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """As the peer has it: summed over the pixels, averaged over the batch."""
        return self.nats(x).mean()


def peer_row(name: str, options: argparse.Namespace) -> Row:
    """A model of the peer: trained, or what is left of its training, and measured."""
    setting, folder = PEERS[name.removeprefix("peer-")], options.folder / name
    test = images("test")
    event = test.x[0].shape
    torch.manual_seed(0)
    model = Likelihood(peer_model(options.peer, setting), event, setting.model == "NADE")
    training = peer_training(model, images("train"), setting, options.minutes)
    folder.mkdir(exist_ok=True)
    restore(training, folder)
    done = training.plan.done(training.step, training.seconds) >= 1
    share = "-" if done else cores(lambda: train(training, folder))
    row: Row = {"parameters": parameters(model), "test_nats": mean_nats(model, test)}
    row |= {"images_per_s": training.step * setting.batch / training.seconds, "batch": setting.batch}
    row |= {"steps": training.step, "cores": share}
    passes = 1 if setting.model == "NADE" else int(np.prod(event))  # of the peer's own `sample`
    for lanes in LANES:
        row[f"us_{lanes}"] = 1e6 * pass_seconds(model, event, lanes) * passes / (lanes * int(np.prod(event)))
    return row | {"program": "no"}


def train(training: Training, folder: Path) -> None:
    """To the end of its budget, with checkpoints."""
    log = Log(folder / METRICS, training.step, bits=True)
    run_training(training, log, folder, SAVE_EVERY, lambda event: None)


def peer_model(path: str, setting: Setting) -> nn.Module:
    """A model of the peer with new weights."""
    if path not in sys.path:
        sys.path.insert(0, path)
    for name in ("datasets", "trainer", "debug"):
        sys.modules.setdefault(f"pytorch_generative.{name}", types.ModuleType(name))
    models = importlib.import_module("pytorch_generative.models")
    return getattr(models, setting.model)(**setting.args)


def peer_training(model: Likelihood, learn: Dataset, setting: Setting, minutes: float) -> Training:
    """The peer's steps in chainrule's loop: AdamW without decay of the weights is Adam, here with its usual moments."""

    def batch_at(step: int) -> tuple[Tensor, ...]:
        return (torch.from_numpy(batches(learn, setting.batch, 0, step)[0]),)

    training = Training(model, batch_at, PeerPlan(minutes=minutes, decay=setting.decay, lr=setting.lr))
    for group in training.optimizer.param_groups:
        group["betas"] = (0.9, 0.999)
    return training


@torch.no_grad()
def mean_nats(model: Likelihood, test: Dataset) -> float:
    """The mean over all images, the last short batch included."""
    x = torch.from_numpy(np.asarray(test.x))
    return float(torch.cat([model.nats(part).double() for part in x.split(AT_ONCE)]).mean())


def pass_seconds(model: Likelihood, event: tuple[int, ...], lanes: int) -> float:
    """The median seconds of a full pass."""
    x = torch.zeros(lanes, *event)
    with torch.no_grad():
        return in_turn({"pass": lambda: model.nats(x)}, runs=5)["pass"]


if __name__ == "__main__":
    main()
