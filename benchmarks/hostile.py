"""What does the command line do with input that is broken, enormous, or made to harm?

    python benchmarks/hostile.py

Every row of a table is tried as a process of its own, with little memory and 20 seconds. It must end with exit
code 1 or 2 and one printable line that begins with "error: "; a few rows, marked so, are strange and right, and
must succeed. A traceback, a second line, a hanging or a killed process breaks the rule. Prints the table; exit
code 1 when a row breaks the rule.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CHAINRULE = Path(sys.executable).with_name("chainrule")
MEMORY = 6 << 30  # bytes of address space, of which PyTorch takes half for its code
SECONDS = 20.0
RIGHT = " (must succeed)"  # ends the name of a row that is strange and right
Row = tuple[str, list[str | bytes]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    options = parser.parse_args()
    broken = count = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        for name, words in rows(root):
            if options.only in name:
                verdict = attempt(root, name, words)
                count, broken = count + 1, broken + bool(verdict)
    print(f"{count} rows, {broken} of them break the rule")
    print("FAIL" if broken else "PASS")
    return 1 if broken else 0


def attempt(root: Path, name: str, words: list[str | bytes]) -> str:
    """Run one row and print it; gives what is wrong with how it ended."""
    began = time.monotonic()
    try:
        result = chainrule(root, *words, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        verdict, code, line = f"not ended after {SECONDS:.0f} s", "-", ""
    else:
        code, line = str(result.returncode), result.stderr.decode(errors="backslashreplace")
        verdict = wrong(result.returncode, line, name.endswith(RIGHT))
    told = " ".join(line.split())[:150]
    print(f"{name:48} {code:>3} {time.monotonic() - began:5.1f} s  {told}", flush=True)
    if verdict:
        print(f"{'':48} RULE BROKEN: {verdict}\n{line[-2000:]}", flush=True)
    return verdict


def wrong(code: int, told: str, right: bool) -> str:
    """What is wrong with an exit code and what stands on standard error; nothing when all is well."""
    if "Traceback" in told:
        return "a traceback"
    if right:
        return "" if code == 0 else "it is right and was refused"
    if code not in (1, 2):
        return f"exit code {code}"
    if not told.startswith("error: ") or len(told.splitlines()) != 1:
        return "not one line that begins with error:"
    if not told.rstrip("\n").isprintable() or len(told) > 1000:
        return "a line that is not printable, or too long"
    return ""


def chainrule(root: Path, *words: object, timeout: float | None = None) -> subprocess.CompletedProcess:
    """The real command line, with one thread and little memory."""
    line = [str(CHAINRULE), *(word if isinstance(word, bytes) else str(word) for word in words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CHAINRULE_DATA": str(root)}
    return subprocess.run(
        line,
        cwd=root,
        env=environment,
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


# ---- what there is before: models, an archive, good files ---------------------------------------------------


def prepare(root: Path) -> None:
    """Fit three small models and write an archive."""
    (root / "story.txt").write_text("Once upon a time there was a file. " * 100)
    few = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1), np.uint8)
    np.save(root / "few.npy", few)
    Image.fromarray(few[0, ..., 0]).save(root / "photo.png")
    tiny = ["--steps", "3", "--size", "tiny", "--threads", "1"]
    for words in (
        ["fit", "digits", *tiny, "-o", "images"],
        ["fit", "story.txt", *tiny, "-o", "words"],
        ["fit", "digits", "--model", "pca", "--size", "tiny", "-o", "axes"],
        ["compress", "images", "few.npy", "-o", "good.chain", "--threads", "1"],
        ["encode", "axes", "digits", "-o", "codes.npy"],
    ):
        result = chainrule(root, *words)
        if result.returncode:
            sys.exit(f"cannot begin: {words} ended with {result.stderr.decode()}")


def rows(root: Path) -> Iterator[Row]:
    yield from options()
    yield from names()
    yield from data(root)
    yield from arrays(root)
    yield from sounds(root)
    yield from archives(root)
    yield from model_files(root)
    yield from run_folders(root)
    yield from pictures_and_codes(root)


# ---- the table ----------------------------------------------------------------------------------------------


def options() -> Iterator[Row]:
    """Numbers that there cannot be."""
    for value in ("nan", "inf", "-1", "1e400", "0"):
        yield f"--minutes {value}", ["fit", "digits", "--minutes", value]
    for name, value in [
        ("--steps", "-1"),
        ("--steps", "9" * 30),
        ("--batch", "0"),
        ("--lr", "inf"),
        ("--lr", "0"),
    ]:
        yield f"{name} {value}", ["fit", "digits", name, value]
    for name, value in [
        ("--holdout", "nan"),
        ("--seed", "-1"),
        ("--seed", "9" * 30),
        ("--threads", "1000000"),
    ]:
        yield f"{name} {value}", ["fit", "digits", name, value]
    for value in (
        "width=-1",
        "width=1e9",
        "width=1000000000",
        "width=nan",
        "width=[8]",
        "width=0",
        "kernel=2",
    ):
        yield f"--set {value}", ["fit", "digits", "--steps", "1", "--size", "tiny", "--set", value]
    for value in ("dropout=2", "dropout=NaN", "symbols=0", "channels=0", "channels=3", "=3", "classes=-4"):
        yield f"--set {value}", ["fit", "digits", "--steps", "1", "--size", "tiny", "--set", value]
    for value in ("layers=0", "layers=-1", "dropout=-1", "width=" + "9" * 400, "layers=" + "[" * 5000):
        words: list[str | bytes] = ["fit", "story.txt", "--steps", "1", "--size", "tiny", "--set", value]
        yield f"--set {value[:16]} of a text", words
    for value in ("nan", "inf", "-1"):
        yield f"--temperature {value}", ["sample", "images", "--event", "8x8", "--temperature", value]
    for value in ("99999999x99999999", "65536x65536", "0x8", "8", "8x8x8x8", "²x2", "-8x-8", "x"):
        yield f"--event {value}", ["sample", "images", "-o", "s.png", "--event", value]
    yield "--top-p nan", ["sample", "images", "--event", "8x8", "--top-p", "nan"]
    yield "--length of a terabyte", ["sample", "words", "--length", str(1 << 40)]
    yield (
        "--prompt of no characters" + RIGHT,
        ["sample", "words", "--length", "5", "--prompt", b"\xed\xa0\x80\xff"],
    )


def names() -> Iterator[Row]:
    """Names that are too long, or commands to a terminal."""
    evil = "a\x1b]0;owned\x07\x1b[31m\nb"
    for verb in ("fit", "inspect", "score", "sample"):
        rest = ["digits"] if verb == "score" else []
        yield f"{verb}: a name of 5000 letters", [verb, "x" * 5000, *rest]
        yield f"{verb}: a name with escape codes", [verb, evil, *rest]
    yield "fit: a name that is no text", ["fit", b"\xff\xfe\xfd"]
    yield "fit: a model with escape codes", ["fit", "digits", "--model", evil]
    yield "fit: a setting with escape codes", ["fit", "digits", "--set", f"{evil}=1"]
    yield "fit: an option with escape codes", ["fit", "digits", f"--{evil}"]
    yield "fit: an empty name", ["fit", ""]
    yield "compress: an archive of 5000 letters", ["compress", "images", "few.npy", "-o", "x" * 5000]
    yield "fit: a run of 5000 letters", ["fit", "digits", "--steps", "1", "--size", "tiny", "-o", "x" * 5000]
    yield "sample: a file of 5000 letters", ["sample", "images", "--event", "8x8", "-o", "x" * 5000 + ".png"]


def data(root: Path) -> Iterator[Row]:
    """Files and folders that are not what they seem."""
    for name in ("broken", "empty", "hidden", "zeros", "pipes", "loops"):
        (root / name).mkdir()
    for i, content in enumerate([b"", b"text", b"\x89PNG\r\n\x1a\n", os.urandom(999), png(4, 4)[:-30]]):
        (root / "broken" / f"{i}.png").write_bytes(content)
    (root / "hidden" / ".nothing.png").write_bytes(png(4, 4))
    (root / "zeros" / "a.txt").write_bytes(bytes(5000))
    os.mkfifo(root / "pipe")
    os.mkfifo(root / "pipes" / "a.png")
    (root / "loop").symlink_to("loop")
    (root / "loops" / "again").symlink_to(root / "loops")
    (root / "loops" / "a.png").symlink_to("a.png")
    (root / "bomb.png").write_bytes(png(60000, 60000))
    (root / "large.png").write_bytes(png(8192, 8192))
    (root / "notes.png").write_bytes(png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28)))))
    for name in (
        "broken",
        "empty",
        "hidden",
        "zeros",
        "pipes",
        "loops",
        "pipe",
        "loop",
        "bomb.png",
        "/dev/zero",
    ):
        yield f"fit {name}", ["fit", name, "--steps", "1"]
    yield "score notes.png", ["score", "images", "notes.png"]
    for name in ("pipe", "/dev/zero", "/dev/null", "loop", "/"):
        yield f"sample {name}", ["sample", name]
        yield f"inspect {name}", ["inspect", name]
    yield "sample into /dev/full", ["sample", "images", "--event", "8x8", "-n", "1", "-o", "/dev/full/a.png"]


def arrays(root: Path) -> Iterator[Row]:
    """Arrays that lie, and numbers that are no symbols."""
    np.save(root / "nan.npy", np.full((4, 4), np.nan))
    np.save(root / "negative.npy", np.full((4, 4), -1))
    np.save(root / "huge.npy", np.full((4, 4), 1 << 60))
    np.save(root / "scalar.npy", np.int64(3))
    np.save(root / "none.npy", np.zeros((0, 8, 8), np.uint8))
    np.save(root / "object.npy", np.array([{"a": 1}, print], dtype=object), allow_pickle=True)
    header = npy_header("(1000000000000,)", "|u1")
    (root / "lying.npy").write_bytes(header + bytes(100))
    (root / "negative shape.npy").write_bytes(npy_header("(-1, 4)", "|u1") + bytes(4))
    (root / "code.npy").write_bytes(npy_header("__import__('os')", "|u1") + bytes(4))
    (root / "truncated.npy").write_bytes(header[:40])
    with zipfile.ZipFile(root / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header("(100000000,)", "|u1") + bytes(100_000_000))
    packed = (root / "bomb.npz").read_bytes()
    told = struct.pack("<I", 100_000_128)
    (root / "lying.npz").write_bytes(packed.replace(told, struct.pack("<I", 0xFFFFFFF0)))
    (root / "broken.npz").write_bytes(packed[: len(packed) // 2])
    for name in ("nan.npy", "negative.npy", "huge.npy", "scalar.npy", "none.npy", "object.npy", "lying.npy"):
        yield f"fit {name}", ["fit", name, "--steps", "1"]
    for name in ("negative shape.npy", "code.npy", "truncated.npy", "bomb.npz", "lying.npz", "broken.npz"):
        yield f"fit {name}", ["fit", name, "--steps", "1", "--size", "tiny"]
    for name in (
        "nan.npy",
        "object.npy",
        "lying.npy",
        "few.npy",
        "pipe",
        "/dev/zero",
        "story.txt",
        "scalar.npy",
    ):
        yield f"decode {name}", ["decode", "axes", name, "-o", "decoded.npy"]
    for name in ("none.npy", "huge.npy", "few.npy:test"):
        yield f"score {name}", ["score", "images", name]


def sounds(root: Path) -> Iterator[Row]:
    """Sound files that are broken, lie, or are of several rates; and options that are not for them."""
    few = struct.pack("<4h", 1, -1, 2, -2)
    files = {
        "empty": b"",
        "no samples": wav(b""),
        "noise": os.urandom(5000),
        "a page": b"<html>" * 99,
        "truncated": wav(bytes(9000))[:5000],
        "lying": wav(few, told=0x7FFF0000 - 1),
        "no channels": wav(few, channels=0),
        "many channels": wav(few, channels=65535),
        "too fast": wav(few, rate=2**31 - 1),
        "no rate": wav(few, rate=0),
        "nan": wav(struct.pack("<2f", 0.5, float("nan")), tag=3, bits=32),
        "infinite": wav(struct.pack("<2f", float("inf"), 1), tag=3, bits=32),
        "no such coding": wav(few, tag=999),
    }
    (root / "recordings").mkdir()
    for name, content in files.items():
        (root / "recordings" / f"{name}.wav").write_bytes(content)
        yield f"fit {name}.wav", ["fit", f"recordings/{name}.wav", "--steps", "1"]
    yield "fit recordings", ["fit", "recordings", "--steps", "1"]
    (root / "rates").mkdir()
    for rate in (8000, 16000):
        (root / "rates" / f"{rate}.wav").write_bytes(wav(few * 50, rate=rate))
    tiny = ["--steps", "1", "--size", "tiny", "--threads", "1"]
    yield "fit sounds of two rates", ["fit", "rates", *tiny]
    yield "fit sounds of two rates at one" + RIGHT, ["fit", "rates", "--rate", "8000", *tiny, "-o", "heard"]
    yield "score images by a model of sounds", ["score", "heard", "few.npy"]
    yield "score sounds by a model of images", ["score", "images", "rates/8000.wav"]
    os.mkfifo(root / "pipe.wav")
    yield "score pipe.wav", ["score", "heard", "pipe.wav"]
    for rate in ("0", "1", "768001", "9" * 30):
        yield f"--rate {rate}", ["fit", "rates", "--rate", rate, *tiny]
    yield "--rate 8000 of a text", ["fit", "story.txt", "--rate", "8000"]
    yield "--bits 12", ["fit", "rates", "--rate", "8000", "--bits", "12"]


def archives(root: Path) -> Iterator[Row]:
    """Archives that were damaged, spliced, or come from the future."""
    good = (root / "good.chain").read_bytes()
    middle = len(good) // 2
    future = good[:8] + struct.pack("<H", 99) + good[10:]
    header_size = struct.unpack("<I", good[12:16])[0]
    start = future[:16]
    future = (
        start + struct.pack("<I", zlib.crc32(future[20 : 20 + header_size], zlib.crc32(start))) + future[20:]
    )
    files = {
        "truncated": good[:-1],
        "halved": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "flipped header": good[:40] + bytes([good[40] ^ 1]) + good[41:],
        "spliced": good[:middle] + good[middle + 100 :] + bytes(100),
        "followed": good + b"more",
        "twice": good + good,
        "wrong magic": b"PK\x03\x04" + good[4:],
        "future": future,
        "magic alone": good[:8],
        "empty": b"",
        "lying header": good[:12] + struct.pack("<I", 0xFFFFFFFF) + good[16:],
        "lying index": good[:-40] + struct.pack("<Q", 1 << 62) + good[-32:],
    }
    for name, content in files.items():
        path = root / f"{name}.chain"
        path.write_bytes(content)
        yield f"verify {name}", ["verify", path.name]
        yield f"decompress {name}", ["decompress", path.name, "-o", "out"]
    yield "decompress into a file", ["decompress", "good.chain", "-o", "story.txt"]


def model_files(root: Path) -> Iterator[Row]:
    """Model files that claim what they are not."""
    good = (root / "images" / "model.safetensors").read_bytes()
    text = (root / "words" / "model.safetensors").read_bytes()

    def with_header(data: bytes, change: Callable[[dict], object]) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        outer = json.loads(data[8 : 8 + size])
        header = json.loads(outer["__metadata__"]["chainrule"])
        change(header)
        outer["__metadata__"]["chainrule"] = json.dumps(header)
        packed = json.dumps(outer).encode()
        return struct.pack("<Q", len(packed)) + packed + data[8 + size :]

    files = {
        "lying header": struct.pack("<Q", 1 << 60) + good[8:],
        "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "truncated": good[:-1],
        "garbage": os.urandom(5000),
        "pickle": pickle.dumps({"weights": [1.0]}),
        "torch zip": torch_zip(),
        "format": with_header(good, lambda h: h.update(format=99)),
        "deep facts": with_header(good, lambda h: h.update(args=json.loads("[" * 900 + "]" * 900))),
        "no such model": with_header(good, lambda h: h.update(model="os:system")),
        "another model": with_header(good, lambda h: h.update(model="char-lstm")),
        "model of a text": with_header(text, lambda h: h.update(model="gated-pixelcnn")),
    }
    arguments = [
        ("layers", 10**6),
        ("layers", 60000),
        ("width", 10**9),
        ("width", -1),
        ("width", "8"),
        ("width", None),
    ]
    arguments += [("symbols", 10**9), ("symbols", 0), ("kernel", 10**5), ("dropout", "NaN"), ("nonsense", 1)]
    for key, value in arguments:
        files[f"{key} {value}"] = with_header(good, lambda h, k=key, v=value: h["args"].update({k: v}))
    for key, value in [("layers", 10**6), ("layers", 60000), ("width", 10**9)]:
        files[f"{key} {value} of a text"] = with_header(
            text, lambda h, k=key, v=value: h["args"].update({k: v})
        )
    facts = [("levels", "many"), ("levels", 10**9), ("event", "8x8"), ("event", [8, -8, 1]), ("classes", 7)]
    facts += [("classes", ["a"]), ("kind", ["image"]), ("held_out", 3), ("trained", []), ("data", 3)]
    for key, value in facts:
        files[f"fact {key} {value}"] = with_header(good, lambda h, k=key, v=value: h.update({k: v}))
    for name, content in files.items():
        path = root / f"{name}.safetensors"
        path.write_bytes(content)
        yield f"model: {name}", ["sample", path.name, "--event", "8x8", "-n", "1", "-o", "s.png"]
    (root / "report").mkdir()
    (root / "report" / "model.safetensors").write_bytes(files["fact held_out 3"])
    yield "report of a damaged run", ["report", "report"]


def run_folders(root: Path) -> Iterator[Row]:
    """Unfinished runs whose files are damaged."""
    good = json.loads((root / "images" / "run.json").read_text())
    changes = {
        "list": [],
        "seed": {**good, "seed": "seven"},
        "negative seed": {**good, "seed": -5},
        "threads": {**good, "threads": 10**9},
        "args": {**good, "args": [1]},
        "width": {**good, "args": {**good["args"], "width": "wide"}},
        "budget": {**good, "budget": {"minutes": "five", "steps": None}},
        "no budget": {**good, "budget": {"minutes": None, "steps": None}},
        "infinite budget": {**good, "budget": {"minutes": float("inf"), "steps": None}},
        "training": {**good, "training": None},
        "batch": {**good, "training": {**good["training"], "batch": -1}},
        "window": {**good, "training": {**good["training"], "window": "all"}},
        "reading": {**good, "reading": {"split": 3}},
        "model": {**good, "model": "os:system"},
        "data": {**good, "data": "/dev/zero"},
        "data in a pipe": {**good, "data": "pipe"},
        "holdout": {**good, "holdout": 1e300},
        "classes": {**good, "args": {**good["args"], "classes": 5}},
        "nothing": {},
    }
    contents = {name: json.dumps(info).encode() for name, info in changes.items()}
    contents |= {"garbage": os.urandom(999), "deep": b"[" * 200_000, "cut": json.dumps(good).encode()[:99]}
    for name, content in contents.items():
        run = root / f"run {name}"
        run.mkdir()
        (run / "run.json").write_bytes(content)
        yield f"resume with run.json: {name}", ["fit", "--resume", "-o", run.name]
    state = (root / "images" / "state.safetensors").read_bytes()
    for name, content in {
        "garbage": os.urandom(999),
        "cut": state[:-9],
        "text": b"state",
        "empty": b"",
    }.items():
        run = root / f"state {name}"
        run.mkdir()
        (run / "run.json").write_text(json.dumps(good))
        (run / "state.safetensors").write_bytes(content)
        yield f"resume with state: {name}", ["fit", "--resume", "-o", run.name]
    run = root / "metrics"
    run.mkdir()
    for name in ("run.json", "state.safetensors", "model.safetensors"):
        (run / name).write_bytes((root / "images" / name).read_bytes())
    (run / "metrics.jsonl").write_bytes(
        b'[[[\n{"step": "x"}\n\xff\xfe\n{"step": 3, "loss_bits": NaN}\n{"step": 1'
    )
    yield "report with garbage metrics" + RIGHT, ["report", "metrics", "--threads", "1"]
    yield (
        "resume with garbage metrics" + RIGHT,
        ["fit", "--resume", "--steps", "4", "-o", "metrics", "--json"],
    )


def pictures_and_codes(root: Path) -> Iterator[Row]:
    """What `complete` is given beside a model."""
    yield "mask large.png", ["complete", "images", "photo.png", "--mask", "large.png", "-o", "c.png"]
    for name in ("bomb.png", "pipe", "/dev/zero", "story.txt", "few.npy", "broken", "loop", "nan.npy"):
        yield f"mask {name}", ["complete", "images", "photo.png", "--mask", name, "-o", "c.png"]
        yield f"complete {name}", ["complete", "images", name, "-o", "c.png"]
    for value in ("top:nan", "top:-1", "top:2", "left:0.5", "", "top:" + "9" * 500):
        yield (
            f"--keep {value[:20]}",
            ["complete", "images", "photo.png", "--keep", value or ":", "-o", "c.png"],
        )


# ---- files made by hand -------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(height: int, width: int, *more: bytes) -> bytes:
    """A gray PNG of zeros; the pixels of a large one are packed as tightly as they can be."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(min(height, 8192))) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def npy_header(shape: str, descr: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def wav(
    data: bytes, told: int | None = None, channels: int = 1, rate: int = 8000, tag: int = 1, bits: int = 16
) -> bytes:
    """A wav file whose header may say anything; `told` bytes of samples are promised."""
    told = len(data) if told is None else told
    size = bits // 8 * channels
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * size & 0xFFFFFFFF, size & 0xFFFF, bits)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", told)
    return b"RIFF" + struct.pack("<I", len(head) + told) + head + data


def torch_zip() -> bytes:
    """A pickled checkpoint as torch.save writes it: it must not be loaded."""
    import torch

    file = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, file)
    return file.getvalue()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
