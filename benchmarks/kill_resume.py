"""Does a training that is killed again and again end with the same bits as one that is left alone?

    python benchmarks/kill_resume.py [--model deep-autoencoder]

One training of the real command line is killed (SIGKILL) at random moments, twenty times, and taken up with
--resume each time; another of the same seed runs through. Weights, averages, the saved model and the columns of
metrics.jsonl that hold losses must be equal bit for bit. The moments are drawn from --seed, but what the
training is doing then depends on the machine: each kill is told with the step that had been saved. Some come
before the first checkpoint, or before there is a run folder at all. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from chainrule import store

CHAINRULE = Path(sys.executable).with_name("chainrule")
LOSSES = ("loss_bits", "loss")
MODELS = {  # what is trained, and with which options
    "gated-pixelcnn": ["--set", "width=8", "--set", "dropout=0.1"],
    "deep-autoencoder": ["--set", 'corruption={"kind": "masking"}'],  # tiny: two machines, then fine-tuning
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gated-pixelcnn", choices=list(MODELS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        began = time.monotonic()
        start = undisturbed(alone, options)
        whole = time.monotonic() - began
        print(f"left alone: {whole:.1f} s, of which {start:.1f} s before the first steps", flush=True)
        tally = torment(killed, options, start, whole - start)
        differences = compare(alone, killed)
    print(json.dumps(tally))
    for line in differences:
        print(line)
    enough = tally["kills"] >= options.kills
    print(
        "PASS"
        if enough and not differences
        else "FAIL"
        if differences
        else "FAIL: too few kills landed, take more --steps"
    )
    return 0 if enough and not differences else 1


def command(run: Path, options: argparse.Namespace) -> list[str]:
    """The command line: --resume once there is something to resume."""
    line = [
        "fit",
        "-o",
        str(run),
        "--steps",
        str(options.steps),
        "--threads",
        "1",
        "--save-every",
        "0.3",
        "--json",
    ]
    first = ["digits", "--model", options.model, "--size", "tiny", *MODELS[options.model], "--seed", "7"]
    return [str(CHAINRULE), *line, *(["--resume"] if (run / "run.json").exists() else first)]


def spawn(run: Path, options: argparse.Namespace) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(run, options), stdout=subprocess.PIPE, text=True, env=environment)


def undisturbed(run: Path, options: argparse.Namespace) -> float:
    """Train without a break; gives the seconds until the first steps were made."""
    began = time.monotonic()
    with spawn(run, options) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.monotonic() - began
        process.stdout.read()
    if process.returncode:
        sys.exit(f"FAIL: the training that was left alone ended with {process.returncode}")
    return first


def torment(run: Path, options: argparse.Namespace, start: float, training: float) -> dict[str, int]:
    """Kill and resume until all kills have landed, then let it finish; gives how many landed where."""
    draw = np.random.default_rng(options.seed)
    tally = {"kills": 0, "before_the_folder": 0, "before_the_first_checkpoint": 0, "ended_before_its_kill": 0}
    while tally["kills"] < options.kills:
        early = tally["kills"] < options.kills / 5  # while it starts, when nothing has been saved
        moment = draw.uniform(0, start if early else start + 1.6 * training / options.kills)
        with spawn(run, options) as process:
            try:
                process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.returncode == 0:
            tally["ended_before_its_kill"] += 1
            break
        if process.returncode != -9:
            sys.exit(f"FAIL: a resumed training ended with {process.returncode}")
        tally["kills"] += 1
        step = saved_step(run)
        tally["before_the_folder"] += not (run / "run.json").exists()
        tally["before_the_first_checkpoint"] += step is None
        place = f"step {step:,} was saved" if step is not None else "before the first checkpoint"
        print(f"kill {tally['kills']:2} after {moment:5.2f} s: {place}", flush=True)
    with spawn(run, options) as process:
        process.communicate()
    if process.returncode:
        sys.exit(f"FAIL: the last training ended with {process.returncode}")
    return tally


def saved_step(run: Path) -> int | None:
    """The step of the last checkpoint, which must be whole whenever it is there."""
    path = run / "state.safetensors"
    return int(store.read_tensors(path.read_bytes(), str(path))[0]["step"]) if path.exists() else None


def compare(alone: Path, killed: Path) -> list[str]:
    """What differs between two runs, a line each."""
    lines = []
    for name in ("model.safetensors", "state.safetensors"):
        one, other = (store.read_tensors((run / name).read_bytes(), name)[1] for run in (alone, killed))
        if one.keys() != other.keys():
            lines.append(f"{name} has other arrays")
        lines += [f"{name}: {k} differs" for k in one.keys() & other.keys() if not same(one[k], other[k])]
        print(f"{name}: {len(one)} arrays, {sum(t.numel() for t in one.values()):,} numbers compared")
    rows, others = (losses(run) for run in (alone, killed))
    if rows.keys() != others.keys():
        lines.append(f"metrics.jsonl has {len(others)} rows, {len(rows)} are expected")
    lines += [f"metrics.jsonl: step {s} differs" for s in rows.keys() & others.keys() if rows[s] != others[s]]
    print(f"metrics.jsonl: {len(rows)} rows compared")
    return lines


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal type, shape and bytes."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy().tobytes() == other.numpy().tobytes()
    )


def losses(run: Path) -> dict[int, list[float]]:
    """The columns that hold losses, of every twentieth step. Looks at the held-out items come by the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {
        row["step"]: [row[name] for name in LOSSES if name in row] for row in rows if row["step"] % 20 == 0
    }
    if len(found) < len([row for row in rows if row["step"] % 20 == 0]):
        sys.exit(f"FAIL: {run.name} has a step twice in metrics.jsonl")
    return found


if __name__ == "__main__":
    sys.exit(main())
