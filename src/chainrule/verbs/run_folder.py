"""A run folder while it is being made: run.json, checkpoints, metrics.jsonl, and how a run is taken up again."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from chainrule import store
from chainrule.data import Dataset
from chainrule.errors import ChainruleError
from chainrule.model import Code
from chainrule.models import INFO, METRICS, MODEL, STATE, TABLE, TOKENIZER, can_be_read
from chainrule.train import Learner
from chainrule.verbs.training import learns_in_one_pass, named_options

NUMBER, MAYBE_NUMBER = (int, float), (int, float, type(None))
KEPT: dict[str, Any] = {  # what run.json must hold for a run to go on
    **dict.fromkeys(["model", "data", "kind"], str),
    **dict.fromkeys(["levels", "items", "crc32", "seed", "threads"], int),
    **dict.fromkeys(["args", "reading", "budget", "training"], dict),
    "holdout": NUMBER,
    "conditional": bool,
    "event": (list, type(None)),
}
KEPT_PARTS: dict[str, dict[str, Any]] = {
    "budget": {"minutes": MAYBE_NUMBER, "steps": (int, type(None))},
    "reading": {"split": str, "classes": bool},  # and what else `can_be_read`
}

OPTIONS: dict[str, Any] = {  # of a training
    **{"batch": int, "lr": NUMBER, "window": (int, type(None)), "compile": (bool, type(None))},
    "bfloat16": bool,
}


def new_folder(out: str | Path | None, info: dict) -> Path:
    """An empty run folder: the one asked for, or runs/DATA-MODEL with a number behind it when that is taken."""
    if out is not None:
        folder = Path(out)
        if (folder / INFO).exists():
            raise ChainruleError(f"{folder} holds a run already: go on with --resume, or choose another -o")
        sweep(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ChainruleError(f"{folder} exists and is not an empty folder: choose another -o")
    else:
        stem = (
            "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(info["data"] or "data").name)
            or "data"
        )
        first = Path("runs") / f"{stem}-{info['model']}"
        folder, number = first, 2
        while folder.exists():
            folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ChainruleError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def sweep(folder: Path) -> None:
    """Remove the half-written files that a killed training has left behind."""
    for name in (INFO, STATE, MODEL, METRICS, TOKENIZER):
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def reopen(out: str | Path | None) -> tuple[dict[str, Any], Path]:
    """run.json of a run to go on with, checked; the number of threads becomes that of the run."""
    if out is None:
        raise ChainruleError("--resume needs the run to go on with: -o RUN")
    folder = Path(out)
    sweep(folder)
    if not (folder / INFO).is_file():
        raise ChainruleError(f"there is no run to resume at {folder}")
    try:
        info = json.loads((folder / INFO).read_text())
        check_types(info, KEPT)
        for part, types in KEPT_PARTS.items():
            check_types(info[part], types)
        for name, options in named_options(info):
            check_kept_options(name, options)
        if not can_be_read(info["reading"]):
            raise ValueError(f"reading is {info['reading']}")
        budget = info["budget"]["minutes"], info["budget"]["steps"]
        check_options(*budget, info["seed"], None, None, info["holdout"], 0)
        free = issubclass(store.resolve(info["model"], TABLE), Code) or learns_in_one_pass(info)
        if budget == (None, None) and not free:
            raise ValueError("it has no budget")
        if not 1 <= info["threads"] <= 1024:
            raise ValueError(f"threads is {info['threads']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChainruleError(f"{folder / INFO} is damaged: {store.one_line(error)}") from error
    if info["threads"] != torch.get_num_threads():
        torch.set_num_threads(info["threads"])  # another number would give other bits
    return info, folder


def check_kept_options(name: str, options: dict[str, Any]) -> None:
    """Raise an error when these are no options with which a model of that name was trained."""
    check_types(options, OPTIONS)
    check_options(None, None, 0, options["lr"], options["batch"], 0, 0)
    carry, cls = options.get("carry", False), store.resolve(name, TABLE)
    if type(options.get("muon", False)) is not bool:
        raise ValueError(f"muon is {options['muon']!r}")
    if type(carry) is not bool or (carry and not (hasattr(cls, "rest") and options["window"])):
        raise ValueError(f"carry is {carry!r}")


def check_types(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a TypeError or KeyError when a JSON object lacks what `wanted` lists, or has it with another type."""
    for key, types in wanted.items():
        if not isinstance(found[key], types):
            raise TypeError(f"{key} is {found[key]!r}")


def check_options(minutes, steps, seed, lr, batch, holdout, save_every) -> None:
    """One clear line about a number that there cannot be."""
    check_budget(minutes, steps)
    if not 0 <= seed < 1 << 63:
        raise ChainruleError(f"--seed {seed}: take one from 0 to 2^63 - 1")
    if lr is not None and not 0 < lr < math.inf:
        raise ChainruleError(f"--lr {lr}: a learning rate is more than 0, such as 0.003")
    if not 0 <= holdout <= 0.5:
        raise ChainruleError(f"--holdout {holdout}: keep a share from 0 to 0.5 to score with")
    if batch is not None and batch < 1:
        raise ChainruleError(f"--batch {batch}: a step takes at least one item")
    if not 0 <= save_every < math.inf:
        raise ChainruleError(f"--save-every {save_every}: take 0 (after every step) or more seconds")


def check_budget(minutes: float | None, steps: int | None) -> None:
    """One clear line for a budget that there cannot be."""
    if minutes is not None and steps is not None:
        raise ChainruleError(f"a budget is --minutes {minutes} or --steps {steps}, not both")
    if minutes is not None and not 0 < minutes < 1e6:
        raise ChainruleError(f"--minutes {minutes}: a budget lies between 0 and 1,000,000 minutes")
    if steps is not None and not 0 <= steps < 1 << 40:
        raise ChainruleError(f"--steps {steps}: a budget lies between 0 and 2^40 steps")


def check_same_data(data: Dataset, info: dict[str, Any]) -> None:
    """One clear line when a run is to go on with other data than it began with."""
    for what, now in same_data(data).items():
        if info[what] != now:
            raise ChainruleError(
                f"the data have {what} {store.one_line(now)}, the run began with {store.one_line(info[what])}: "
                "go on with the same data, or begin a new run"
            )


def same_data(data: Dataset) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    return {
        "kind": data.kind,
        "levels": data.levels,
        "items": len(data),
        "event": list(data.event) if data.event else None,
        "crc32": crc32(data),
    }


def crc32(data: Dataset) -> int:
    """CRC-32 of at most 64 items and their sources, spread over the data, and at most a million symbols of each."""
    crc = 0
    for i in sorted(set(np.linspace(0, len(data) - 1, 64).astype(int).tolist())) if len(data) else []:
        for event in (data.x[i], *(() if data.sources is None else (data.sources[i],))):
            crc = zlib.crc32(np.asarray(event).reshape(-1)[:1_000_000].astype("<i8").tobytes(), crc)
    return crc


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write run.json."""
    store.write_atomic(folder / INFO, (json.dumps(info, indent=1, sort_keys=True) + "\n").encode())


def checkpoint(training: Learner, folder: Path) -> None:
    """Write the whole state of a training, atomically."""
    tensors, counters = training.arrays()
    plain = {k: v.contiguous().clone() for k, v in tensors.items()}
    store.write_atomic(
        folder / STATE, safetensors.torch.save(plain, {store.KEY: json.dumps(counters, sort_keys=True)})
    )


def restore(training: Learner, folder: Path) -> None:
    """Take the state that `checkpoint` wrote, if there is one."""
    path = folder / STATE
    if path.exists():
        counters, tensors = store.read_tensors(store.read_bytes(path), str(path))
        try:
            training.restore(tensors, counters)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ChainruleError(f"{path} does not belong to this run: {store.one_line(error)}") from error


class Log:
    """metrics.jsonl: a line every 20 steps. Lines beyond the checkpoint that is resumed are dropped.

    The loss of a chain is in nats a symbol and written in bits/dim; a symbol has `dims` of these on average, as a token
    has several bytes, and a byte of a sound of 16 bits is half a sample. That of a code is whatever the code minimises.
    Of trainings that follow each other a line says which of them it is about, from 1 on.
    """

    def __init__(self, path: Path, step: int, bits: bool, dims: float = 1.0):
        self.path = path
        self.name, self.unit = ("loss_bits", math.log(2) * float(dims)) if bits else ("loss", 1.0)
        self.pending: list[str] = []
        self.last: dict[str, float] = {}
        self.step, self.seconds = step, -1.0
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if step_of(line) <= step]
        store.write_atomic(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, training: Learner, more: dict[str, float]) -> None:
        """Add a line about the training as it stands."""
        speed: dict[str, float] = {}
        several = hasattr(training, "stage") and len(getattr(training, "stages", ())) != 1
        stage = {"stage": training.stage} if several else {}  # type: ignore[attr-defined]
        if 0 <= self.seconds < training.seconds:
            speed = {"steps_per_s": round((training.step - self.step) / (training.seconds - self.seconds), 3)}
        self.step, self.seconds = training.step, training.seconds
        self.last = {
            "step": training.step,
            "seconds": round(training.seconds, 3),
            **stage,
            self.name: training.loss / self.unit,
            **speed,
            **more,
        }
        self.pending.append(json.dumps(self.last))

    def flush(self) -> None:
        """Append what is pending to the file."""
        if self.pending:
            with self.path.open("a") as file:
                file.write("".join(f"{line}\n" for line in self.pending))
            self.pending = []


def step_of(line: str) -> float:
    """The step that a line of metrics.jsonl is about; infinite for the torn last line of a run that was killed."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf
