"""Archives are the same bytes however they are written, and every setting decodes them.

    python benchmarks/same_bytes.py [--every] [--other PYTHON ...] [--json]

Three archives, each with its model embedded: MNIST test images and photographs in colour with a Gated PixelCNN,
a text with a character LSTM; the models are trained for a few steps, so that they code better than lzma does.
They are written and read with 1 and 2 threads, with 1, 7 and 64 lanes computed side by side, with flush-to-zero
on in the caller, and with code compiled for a generic processor (NUMBA_CPU_NAME=generic, no vector features), each
setting in a process of its own. Every process decodes the archives of the first one; their symbols are compared
with what went in. `--other` names further interpreters (of another machine, under emulation) that only decode.

Exit code 1 when any byte or symbol differs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from table import Row, show

from chainrule import Dataset, fit, load

PART = Path(__file__).with_name("same_bytes_part.py")
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
IMAGE = {"layers": 2, "width": 16, "head": 32, "mix": 16, "embedding": 4, "memory": 8, "copies": 4}

Events = list[np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument(
        "--every", action="store_true", help="every combination of the settings: 24 processes"
    )
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--other", nargs="+", default=[], help="interpreters that decode, too")
    parser.add_argument(
        "--keep", type=Path, help="an empty folder for the archives, to decode them elsewhere"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        truth = prepare(root, options.images)
        rows = show(results(root, truth, options), options.json)
    return 0 if all(row["same bytes"] in ("yes", "-") and row["same symbols"] == "yes" for row in rows) else 1


def results(root: Path, truth: dict[str, str], options: argparse.Namespace) -> Iterator[Row]:
    """A row a setting."""
    first: dict[str, str] = {}
    for threads, group, flush, generic in settings(options.every):
        arguments = ["--threads", str(threads), "--group", str(group), *(["--flush"] if flush else [])]
        with tempfile.TemporaryDirectory() as out:
            target = out if first else str(root)  # what the first one writes is what the others read
            found = part(
                sys.executable, [str(root), "--write", target, *arguments], GENERIC if generic else {}
            )
        first = first or found["written"]
        yield {
            "threads": threads,
            "lanes": group,
            "flush to zero": "on" if flush else "off",
            "target": "generic" if generic else "native",
            **outcome(found, first, truth),
        }
    for python in options.other:
        found = part(python, [str(root)], {"PYTHONPATH": str(source())})
        yield {"threads": 1, "lanes": 64, "flush to zero": "off", "target": found["machine"]} | outcome(
            found, {}, truth
        )


def settings(every: bool) -> Sequence[tuple[int, int, bool, bool]]:
    """(threads, lanes side by side, flush, generic)."""
    whole = list(itertools.product((1, 2), (1, 7, 64), (False, True), (False, True)))
    few = {(1, 7, True, False), (2, 64, True, False), (1, 64, False, True), (2, 7, True, True)}
    return [s for s in whole if every or s in few or not (s[2] or s[3])]


def outcome(found: dict, first: dict[str, str], truth: dict[str, str]) -> Row:
    """Whether a process wrote the same bytes as the first one, and read what went in."""
    bytes_same = "-" if not found["written"] else "yes" if found["written"] == first else "NO"
    row: Row = {"same bytes": bytes_same, "same symbols": "yes" if found["read"] == truth else "NO"}
    return row | {name: digest[:16] for name, digest in found["written"].items()} | {"s": found["seconds"]}


def part(python: str, arguments: Sequence[str], environment: dict[str, str]) -> dict:
    """Run one setting in a process of its own."""
    command = [python, str(PART), *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def source() -> Path:
    """The folder that holds the package, for interpreters in which it is not installed."""
    return Path(str(importlib.resources.files("chainrule"))).parent


def prepare(root: Path, images: int) -> dict[str, str]:
    """Write data and trained models; give the SHA-256 of the symbols of each set, as `same_bytes_part` does."""
    truth = {}
    for name, events, levels, kind, fitted in sets(images):
        arrays = {f"x{i}": event for i, event in enumerate(events)}
        np.savez(root / name, levels=np.array(levels), kind=np.array(kind), **arrays)
        names = tuple(map(str, range(len(events))))
        x = np.stack(events) if len({e.shape for e in events}) == 1 else events
        with tempfile.TemporaryDirectory() as folder:
            run = fit(
                Dataset(x, levels, kind, names, source=name), out=Path(folder) / "run", holdout=0, **fitted
            )
            (root / f"{name}.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
        digest = hashlib.sha256()
        for i, event in enumerate(events):
            digest.update(f"{i} {event.shape} ".encode() + event.astype("<i4").tobytes())
        truth[name] = digest.hexdigest()
    return truth


def sets(images: int) -> Iterator[tuple[str, Events, int, str, dict]]:
    """Name, events, levels, kind, and how a model is fitted to them."""
    fast = {"seed": 0, "compile": False}
    digits = np.asarray(load("mnist", split="test").x[:images])
    yield "digits", list(digits), 256, "image", {"steps": 40, "settings": IMAGE, **fast}
    photos = [p[r : r + 40, c : c + 50] for p in photographs() for r in (0, 200) for c in (0, 200, 400)]
    yield "photos", photos, 256, "image", {"steps": 60, "settings": IMAGE, "batch": 4, **fast}
    text = np.asarray(load("shakespeare", split="test").x[0])[:20000]
    units = {"width": 128, "embed": 64}
    lines = [text[i : i + 400 + i % 3] for i in range(0, 20000, 500)]  # forty lanes, of several lengths
    yield "text", lines, 256, "text", {"steps": 400, "settings": units, "lr": 5e-3, **fast}


def photographs() -> Events:
    """Two photographs in colour, each (427, 640, 3)."""
    from sklearn.datasets import load_sample_images

    return [np.ascontiguousarray(image) for image in load_sample_images().images]


if __name__ == "__main__":
    sys.exit(main())
