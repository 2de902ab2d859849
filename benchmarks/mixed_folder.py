"""Does a folder such as people have come back from an archive, every pixel and every byte?

    python benchmarks/mixed_folder.py

Makes 200 small images of mixed sizes and formats, with spaces and accents in their names and in sub-folders;
five of them are broken in different ways, one is gray, a few hold more than pixels. Then runs the real command
line on them: fit, score, compress, inspect, verify, decompress; and compares what came back with the originals.
Exit code 1 when anything differs.
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
from PIL import Image

CHAINRULE = Path(sys.executable).with_name("chainrule")
FORMATS = {
    "png": {},
    "bmp": {},
    "webp": {"lossless": True},
    "gif": {},
    "tiff": {},
    "ppm": {},
    "jpg": {"quality": 90},
}
SHAPES = [(6, 6), (6, 12), (7, 9), (8, 8), (9, 11), (10, 7), (12, 6), (12, 12)]  # height, width
FOLDERS = ["", "été à la mer", "Über uns/Größe 9", "two  spaces"]
KINDS = ["plain", "accents é ü ñ", "日本", "semi;colon & 'quotes'"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        flaws = journey(Path(folder), options.steps)
    for flaw in flaws:
        print(f"wrong: {flaw}")
    print(f"{time.monotonic() - began:.0f} s")
    print("FAIL" if flaws else "PASS")
    return 1 if flaws else 0


def journey(root: Path, steps: int) -> list[str]:
    """Make the folder, send it through every command, and compare; gives what is wrong, a line each."""
    photos, run, archive, out = root / "my photos", root / "run", root / "a.chain", root / "out"
    good, broken = make(photos)
    setting = ["--size", "tiny", "--set", "width=8", "--threads", "1"]
    chainrule("fit", photos, "--steps", steps, *setting, "--lr", 0.02, "-o", run)
    total = chainrule("score", run, photos, "--threads", "1")[0]["total"]
    packed = chainrule("compress", run, photos, "-o", archive, "--threads", "1")[0]
    entries = chainrule("inspect", archive)[0]["entries"]
    chainrule("verify", archive)
    chainrule("decompress", archive, "-o", out)
    whole = {entry["name"] for entry in entries if entry["form"] == "file"}
    print(
        f"{total['items']} images scored at {total['bits_per_dim']:.4f} bits/dim, {len(total['skipped'])} files "
        f"left out\narchive: {packed['archive_bytes']:,} bytes for {packed['raw_bytes']:,}, "
        f"{len(whole)} files kept whole, blocks {packed['blocks']}"
    )
    flaws = [f"{name} was scored" for name in broken - {name for name, _ in total["skipped"]}]
    flaws += [f"{name} was left out" for name in {name for name, _ in total["skipped"]} - broken]
    flaws += [f"{name} is not in the archive" for name in good - {entry["name"] for entry in entries}]
    flaws += ["no block was coded with the model"] * (not packed["blocks"]["model"])
    return flaws + compare(photos, out, good, whole)


def compare(photos: Path, out: Path, good: set[str], whole: set[str]) -> list[str]:
    """Every pixel, and every byte of the files that were stored whole."""
    expected = {name: name if name in whole else str(Path(name).with_suffix(".png")) for name in good}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    flaws = [f"{name} did not come back" for name, restored in expected.items() if restored not in found]
    flaws += [f"{name} came back and never went in" for name in found - set(expected.values())]
    numbers = 0
    for name in sorted(good):
        if name in whole:
            same = (photos / name).read_bytes() == (out / name).read_bytes()
        else:
            one, other = pixels(photos / name), pixels(out / expected[name])
            same = one.shape == other.shape and bool((one == other).all())
            numbers += one.size
        flaws += [] if same else [f"{name} came back different"]
    print(f"{len(good)} files compared: {numbers:,} numbers of pixels, {len(whole)} files byte for byte")
    return flaws


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def chainrule(*words: object) -> list[dict]:
    """Run the real command line with --json; gives its lines."""
    line = [str(CHAINRULE), *map(str, words), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    result = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    print(f"{words[0]:>10}  {time.monotonic() - began:5.1f} s", flush=True)
    if result.returncode:
        sys.exit(f"FAIL: {' '.join(line)} ended with {result.returncode}: {result.stderr}")
    return [json.loads(row) for row in result.stdout.splitlines()]


def make(root: Path) -> tuple[set[str], set[str]]:
    """The folder; the names of the images in it, and of the broken files."""
    draw = np.random.default_rng(0)
    names = []
    for i in range(190):
        ending = list(FORMATS)[i % len(FORMATS)]
        names.append(f"{FOLDERS[i // 8 % len(FOLDERS)]}/{KINDS[i % len(KINDS)]} {i}.{ending}".lstrip("/"))
        path = root / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(draw, *SHAPES[i % len(SHAPES)])).save(path, **FORMATS[ending])
    return {*names, *more_than_pixels(root, draw)}, damaged(root, root / names[0])


def picture(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A colour gradient with some noise (H, W, 3): something to learn."""
    slope = np.add.outer(np.arange(height), np.arange(width))[..., None] * draw.integers(1, 4, 3)
    return (slope + draw.integers(40, 60, 3) + draw.integers(0, 8, (height, width, 3))).astype(np.uint8)


def more_than_pixels(root: Path, draw: np.random.Generator) -> set[str]:
    """A gray image, and four whose pixels are not all there is to them."""
    colours = [picture(draw, 8, 8) for _ in range(3)]
    Image.fromarray(colours[0][..., 0]).save(root / "gray.png")
    Image.fromarray(np.dstack([colours[0], colours[1][..., :1] * 3])).save(root / "see through.png")
    Image.fromarray(colours[0][..., 0].astype(np.uint16) * 255).save(root / "16 bits.png")
    frames = [Image.fromarray(c) for c in colours]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    frames[0].save(root / "turned.jpg", exif=turned)
    return {"gray.png", "see through.png", "16 bits.png", "moving.gif", "turned.jpg"}


def damaged(root: Path, image: Path) -> set[str]:
    """Five files that are no images, each in its own way."""
    data = image.read_bytes()
    files = {
        "truncated.png": data[: len(data) // 2],
        "a text.png": b"This is a text that somebody renamed.\n",
        "empty.bmp": b"",
        "garbage.jpg": np.random.default_rng(1).bytes(500),
        "wrong magic.png": b"\x88" + data[1:],
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    return set(files)


if __name__ == "__main__":
    sys.exit(main())
