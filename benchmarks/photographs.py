"""A folder of twelve small photographs, one of them broken: learned, packed, and unpacked somewhere else.

    python benchmarks/photographs.py [--minutes 1]

The photographs are parts of the two that come with scikit-learn, about 40 × 50 pixels in RGB. The real command
line is used: fit, compress with the model inside, decompress in another folder from a process that knows nothing
but the archive. Every pixel is compared. Exit code 1 when one differs, or when packing and unpacking together
take more than two minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CHAINRULE = Path(sys.executable).with_name("chainrule")
LIMIT = 120  # seconds, after fitting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as elsewhere:
        row = journey(Path(here), Path(elsewhere), options.minutes)
    print(json.dumps(row))
    return int(row["pixels_wrong"] > 0 or row["files_back"] != 11 or row["seconds_after_fit"] > LIMIT)


def journey(here: Path, elsewhere: Path, minutes: float) -> dict[str, float]:
    """Make, learn, pack, move, unpack, compare; gives the figures."""
    photos = make(here / "my photos")
    broken = here / "my photos" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    chainrule("fit", here / "my photos", "--minutes", minutes, "-o", here / "run")
    began = time.monotonic()
    chainrule("compress", here / "run", here / "my photos", "-o", here / "photos.chain")
    shutil.move(here / "photos.chain", elsewhere / "photos.chain")
    shutil.rmtree(here / "run")
    chainrule("decompress", elsewhere / "photos.chain", "-o", elsewhere / "out")
    seconds = time.monotonic() - began
    facts = json.loads(chainrule("inspect", elsewhere / "photos.chain", "--json").splitlines()[0])
    back = sorted((elsewhere / "out").rglob("*.*"))
    wrong = sum(int((pixels(elsewhere / "out" / name) != x).sum()) for name, x in photos.items())
    return {
        "photographs": len(photos),
        "files_back": len(back),
        "pixel_numbers": sum(x.size for x in photos.values()),
        "pixels_wrong": wrong,
        "blocks": json.dumps(facts["blocks"]),
        "archive_bytes": facts["bytes"],
        "model_bytes": facts["model_bytes"],
        "seconds_after_fit": round(seconds, 1),
    }


def make(folder: Path) -> dict[str, np.ndarray]:
    """Eleven PNG files; gives their pixels by name."""
    folder.mkdir(parents=True)
    rng, made = np.random.default_rng(0), {}
    sources = load_sample_images().images
    for i in range(11):
        scene = Image.fromarray(sources[i % 2]).resize((160, 106), Image.Resampling.LANCZOS)
        height, width = rng.integers(38, 43), rng.integers(48, 53)
        top, left = rng.integers(0, 106 - height), rng.integers(0, 160 - width)
        x = np.asarray(scene)[top : top + height, left : left + width]
        made[f"photo {i}.png"] = x
        Image.fromarray(x).save(folder / f"photo {i}.png")
    return made


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def chainrule(*args: object) -> str:
    """What the command line prints; an error ends the benchmark."""
    done = subprocess.run(
        [str(CHAINRULE), *map(str, args)], capture_output=True, text=True, timeout=900, check=False
    )
    print(f"chainrule {args[0]}: exit {done.returncode} {done.stderr.strip()[-200:]}", file=sys.stderr)
    if done.returncode:
        raise SystemExit(1)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
