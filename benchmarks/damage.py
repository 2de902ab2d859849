"""Does a damaged archive ever decode to something else?

    python benchmarks/damage.py --count 100000 --seed 0

Writes a handful of small archives and damages them: flipped bits, pieces cut off, put in, taken out or from
another archive; and lies, with every length and checksum put right again so that they reach the checks behind:
fields of header, index and footer, versions and flags, bytes of a block, of the model and of its own header,
another archive's model. Half of the cases are drawn by hypothesis, half by numpy; both from the seed.

Every case must end, within a second of the processor's time and with little more memory than before, in one line
of a ChainruleError; or, where the damage means nothing, in exactly what went in. Those that mean nothing are
counted by the field that was changed, and each such field needs its reason in REASONS. Damage whose checksums
were not put right must be noticed by `verify` wherever it is. Prints a table; exit code 1 when a case misbehaves.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import numpy as np
from damage_kinds import KINDS, Base, Case, FromHypothesis, FromNumpy, Kind, Parts, Truth
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from PIL import Image

import chainrule
from chainrule import archive as container
from chainrule import packing
from chainrule.data import Dataset, Sound, wav
from chainrule.errors import ChainruleError

SECONDS = 1.0  # of the processor's time, for a case
MEMORY = 64 << 20  # bytes that a case may take beside what there was before
ADDRESSES = 2 << 30  # bytes of address space that it may ask for
REFUSED, HARMLESS, LATE = "refused", "harmless", "late"
TOLD = 20  # misbehaving cases that are told in full

# Fields that can change and leave everything as it was: why. Some are not even looked at in an archive of which no
# block was coded by a model (IDLE).
IDLE = "no block needs a model"
REASONS = {
    "header.writer": "the program that wrote it, for people",
    "header.source": "what was compressed, for messages",
    "header.block_items": "the most lanes of a block: any number that is enough, as long as no text is cut",
    "header.lane": "the least length of a piece of a text: any number, as long as no text is cut",
    "header.environment": "threads when all sums stay the same; entries that nobody knows; or " + IDLE,
    "header.arithmetic": IDLE,
    "header.coder": IDLE,
    "header.model_sha256": IDLE,
    "header.model_crc32": IDLE + ": decompress does not read it, verify does and refuses it",
    "header, written otherwise": "JSON that says the same: white space, escapes, order",
    "index, written otherwise": "JSON that says the same: white space, escapes, order, or packed otherwise",
    "index.names": "0, 1, 2 ... told by their number or one by one",
    "index.shapes": "equal shapes as one run or as several",
    "index.forms": "equal forms as one run or as several",
    "index.ends": "what stands around the samples of files, equal ones as one run or as several",
    "index.tokens": "how many tokens a text has that no model coded",
    "index.contexts": "no classes told once or for each item",
    "payload": "zeros behind packed bytes, or the last bits of a stream, which no symbol needs",
    "model": "a weight that these items never use, or by so little that no count changed; or " + IDLE,
    "model's header": "an entry that nobody reads, or its JSON written otherwise; or " + IDLE,
    "another model": IDLE,
    "table of tokens": "zeros behind packed bytes; tokens that these items do not have; or " + IDLE,
    "header.tokens_sha256": IDLE,
    "header.tokens_crc32": IDLE,
    "header.tokens_size": IDLE,
}


# ---- what is damaged ----------------------------------------------------------------------------------------


def bases(root: Path) -> list[Base]:
    """Archives of every kind, by the public verbs: models of a few steps are as good as any."""
    rng = np.random.default_rng(0)
    photos = chainrule.load(pictures(root / "photos", rng))
    letters = rng.choice(list(b"abcd"), 60).astype(np.uint8).tobytes()
    texts = chainrule.load(stories(root / "texts", [letters, b"aaabbbcccddd" * 2]))
    waves = chainrule.load(stories(root / "waves", [b"up and down " * 40, b"to and fro " * 30]))
    tiny = rng.integers(0, 17, (5, 3, 3, 1), np.uint8)
    digits = Dataset(tiny, 17, "image", list("01234"), np.arange(5) % 2, ("even", "odd"))
    shapes = {"w/a": (3, 2), "w/b": (7,), "c": (2, 3), "d": (3, 2), "e": ()}
    numbers = [rng.integers(0, 300, shape, np.uint16) for shape in shapes.values()]
    wide = Dataset(numbers, 300, "array", list(shapes))
    return [
        *written(root, "photos", photos, "gated-pixelcnn", [True], copies=0),  # of 256 levels: megabytes
        *written(root, "texts", texts, "char-lstm", [True, False]),
        *written(root, "waves", waves, "char-lstm", [True]),
        *written(root, "digits", digits, "gated-pixelcnn", [False]),
        *written(root, "wide", wide, "uniform", [True, False]),
        *written(
            root, "recordings", chainrule.load(recordings(root / "recordings")), "wavenet", [True, False]
        ),
        *written(root, "sounds", sounds(), "wavenet", [False]),
        *written(root, "tokens", texts, "char-lstm", [True, False], tokens=262),
    ]


def written(
    root: Path,
    name: str,
    data: Dataset,
    model: str,
    embeds: Sequence[bool],
    tokens: int | None = None,
    **settings: int,
) -> Iterator[Base]:
    """Fit, compress, with the model in the archive or elsewhere, and see what comes back."""
    place = root / f"{name} run"
    plan = {"steps": 20, "lr": 0.02, "size": "tiny", "holdout": 0.0, "compile": False}
    plan |= {"tokens": tokens, "conditional": bool(data.classes), "bits": data.sound and data.sound.bits}
    run = chainrule.fit(data, model, out=place, settings=settings, **plan)
    data = data.in_alphabet(run.alphabet)
    if data.sound is not None and Path(data.source).is_dir():
        data = packing.sounds(run, data.source)
    for embed in embeds:
        path = root / f"{name} {'with' if embed else 'without'} model.chain"
        with contextlib.redirect_stdout(io.StringIO()), short_pieces():
            packing.compress(run, data, Path(data.source), path, embed, force=False, json_=True)
        content, elsewhere = path.read_bytes(), None if embed else place
        assert Parts.of(content).joined() == content, f"{path}: taken apart and put together it is another"
        yield Base(path.stem, content, elsewhere, Truth(items_of(path, elsewhere), files_of(path, elsewhere)))


@contextlib.contextmanager
def short_pieces() -> Iterator[None]:
    """Within it even short recordings are cut into blocks, and these into lanes."""
    module = sys.modules["chainrule.verbs.compress"]
    lanes = patch.object(module, "SOUND_LANE", {2: 100, 1: 100}), patch.object(module, "SOUND_BLOCK", 400)
    with lanes[0], lanes[1], patch("chainrule.verbs.sounds.PIECE", 400):
        yield


def recordings(folder: Path) -> Path:
    """A recording of two channels that is cut into pieces, with something behind it; a short one; a file kept whole."""
    folder.mkdir()
    two = np.stack([tone(600, 9.0), tone(600, 7.0)], 1).astype("<i2").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 8000, 32000, 4, 16)
    body = b"WAVE" + fmt + struct.pack("<4sI", b"data", len(two)) + two + b"LIST\4\0\0\0INFO"
    (folder / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    one = tone(120, 8.0).astype("<i2").tobytes()
    (folder / "b.wav").write_bytes(wav.header("16 bit", 8000, 120) + one)
    (folder / "c.mp3").write_bytes(b"no sound")
    return folder


def tone(count: int, period: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 40, count)
    return 4000 * np.sin(np.arange(count) / period) + noise


def sounds() -> Dataset:
    """Codes of mu-law that never were in a file."""
    heard = Sound(8000, "mu-law")
    events = [heard.symbols(tone(count, 9.0).astype(np.int16)) for count in (230, 120, 110)]
    return Dataset(events, 256, "sound", ["x", "y", "z"], source="made", sound=heard)


def pictures(folder: Path, rng: np.random.Generator) -> Path:
    """Two small pictures of one shape, one of another, and one that is kept whole because it has alpha."""
    (folder / "été").mkdir(parents=True)
    for name, shape in (("a 1.bmp", (1, 2)), ("été/b.bmp", (1, 2)), ("c.bmp", (2, 1)), ("d.png", (2, 2))):
        mode = (4,) if name == "d.png" else (3,)
        Image.fromarray(rng.integers(100, 108, shape + mode, np.uint8)).save(folder / name)
    return folder


def stories(folder: Path, texts: Sequence[bytes]) -> Path:
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"story {i}.txt").write_bytes(text)
    return folder


# ---- what the verbs are asked -------------------------------------------------------------------------------


def items_of(path: Path, run: Path | None) -> tuple[Any, ...]:
    """What `decompress` gives, as plain values."""
    found = chainrule.decompress(path, **packing.known(run))
    return tuple((name, x.shape, x.dtype.str, x.tobytes(), context) for name, x, context in found)


def files_of(path: Path, run: Path | None) -> dict[str, bytes]:
    """What the command decompress leaves in a folder; an array is named after its archive: call it "array"."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        packing.decompress(path, Path(folder), run, None, force=False, json_=True)
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        named = {p: p.with_stem("array") if p.stem == path.stem else p for p in files}
        return {str(named[p].relative_to(folder)): p.read_bytes() for p in files}


# ---- judging ------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the cases of a kind."""

    cases: int = 0
    hypothesis: int = 0
    refused: int = 0
    harmless: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # decodes to something else, or no ChainruleError
    beyond: list[str] = field(default_factory=list)  # takes too long, or too much memory
    slowest: float = 0.0  # seconds of the processor's time
    memory: int = 0  # bytes beside what there was before
    seen: set[bytes] = field(default_factory=set)


class Late(BaseException):
    """A case has had its time. Not an Exception: what decodes must not take it for a fault of the model."""


class Judge:
    """Tries cases, one after another, in one file."""

    def __init__(self, root: Path, seconds: float = SECONDS) -> None:
        self._path, self._seconds = root / "case.chain", seconds

    def __call__(self, case: Case, tally: Tally) -> None:
        self._path.write_bytes(case.data)
        self._slowest, before = 0.0, peak(reset=True)
        try:
            verdict = self.verdict(case)
        except Late:
            signal.setitimer(signal.ITIMER_PROF, 0)
            verdict = LATE
        except BaseException as error:  # a traceback, or no memory: just what must not happen
            verdict = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        memory = peak() - before
        tally.cases += 1
        tally.seen.add(hashlib.blake2b(case.data, digest_size=8).digest())
        tally.slowest, tally.memory = max(tally.slowest, self._slowest), max(tally.memory, memory)
        what = " + ".join(case.what)
        about = f"{case.base.name}, {what or 'damage'}: {verdict}"
        if self._slowest > self._seconds or memory > MEMORY:
            tally.beyond.append(f"{about}, {self._slowest:.2f} s, {memory / 1e6:.0f} MB")
        if verdict == REFUSED:
            tally.refused += 1
        elif verdict == HARMLESS:
            tally.harmless[what] += 1
        elif verdict != LATE:
            tally.wrong.append(about)

    def verdict(self, case: Case) -> str:
        """REFUSED, HARMLESS, or what is wrong."""
        truth = case.base.truth
        try:
            with self.watch():
                items = items_of(self._path, case.run)
            if items != truth.items:
                return "decodes to other items"
            with self.watch():
                files = files_of(self._path, case.run)
            if files != truth.files:
                return "decodes to other files"
            with self.watch():
                found = case.sealed or container.verify(self._path)
        except ChainruleError as error:
            return REFUSED if len(str(error).splitlines()) == 1 else f"a message of several lines: {error!r}"
        if found is not True:
            return "is damaged, and nobody notices"
        why = case.what and all(what in REASONS for what in case.what)
        return HARMLESS if why else "decodes to the same, and nobody has told why"

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Whatever is done within it has so many seconds."""
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, self._seconds, 0.1)  # again: the first may be lost
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._slowest = max(self._slowest, time.process_time() - began)


def peak(reset: bool = False) -> int:
    """The most bytes that this process had in memory, since the last reset where Linux can do that."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def bounds() -> Iterator[None]:
    """Within it the alarm for late cases is set up, and memory for a monstrous one cannot be had."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGPROF, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    taken = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 1 << 40
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


Show = Callable[[str, Tally], object]


def nothing(name: str, tally: Tally) -> None:
    """Show nothing."""


def tried(kind: Kind, count: int, seed: int, all_: Sequence[Base], judge: Judge) -> Tally:
    """`count` cases of one kind: half by hypothesis, or as many different ones as it finds; the rest by numpy."""
    tally = Tally()
    if count > 1:
        by_hypothesis(kind, count // 2, seed, all_, lambda case: judge(case, tally))
    tally.hypothesis = tally.cases
    draw = FromNumpy(seed)
    while tally.cases < count:
        if (case := kind(draw, all_)) is not None:
            judge(case, tally)
    return tally


def by_hypothesis(
    kind: Kind, count: int, seed: int, all_: Sequence[Base], judge: Callable[[Case], None]
) -> None:
    """Without its database and without shrinking, so that a seed always gives the same cases."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(st.data())
    def draws(data: st.DataObject) -> None:
        case = kind(FromHypothesis(data), all_)
        hypothesis.assume(case is not None)
        judge(case)

    draws()


def run(all_: Sequence[Base], judge: Judge, count: int, seed: int, show: Show = nothing) -> dict[str, Tally]:
    """Try `count` cases; gives the tally of every kind."""
    shares = np.cumsum([share for share, _ in KINDS.values()])
    ends = [0, *(shares * count // shares[-1]).tolist()]
    tallies = {}
    with bounds():
        for n, (name, (_, kind)) in enumerate(KINDS.items()):
            tallies[name] = tried(kind, ends[n + 1] - ends[n], 1000 * seed + n, all_, judge)
            show(name, tallies[name])
    return tallies


# ---- telling ------------------------------------------------------------------------------------------------

COLUMNS = ("cases", "different", "hypothesis", "refused", "harmless", "wrong", "beyond", "slowest", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    began = time.monotonic()
    if not options.json:
        print(f"{'kind of damage':28}" + "".join(f"{column:>11}" for column in COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        all_, judge = bases(Path(folder)), Judge(Path(folder))
        tallies = run(all_, judge, options.count, options.seed, nothing if options.json else line)
    harmless = sum((tally.harmless for tally in tallies.values()), Counter())
    wrong = [f"{name}: {text}" for name, tally in tallies.items() for text in tally.wrong + tally.beyond]
    if options.json:
        kinds = {name: numbers(tally) for name, tally in tallies.items()}
        facts = {"count": options.count, "seed": options.seed, "seconds": round(time.monotonic() - began, 1)}
        limits = {"seconds": SECONDS, "memory": MEMORY}
        print(json.dumps({**facts, "limits": limits, "kinds": kinds, "harmless": harmless, "wrong": wrong}))
    else:
        line("all", total(tallies.values()))
        print(f"seed {options.seed}, {time.monotonic() - began:.0f} s; damage that means nothing:")
        for what, times in harmless.most_common():
            print(f"  {times:6,} {what}: {'; '.join(REASONS[field] for field in what.split(' + '))}")
        print("\n".join(f"wrong: {text}" for text in wrong[:TOLD]) or "no case misbehaved")
        print("FAIL" if wrong else "PASS")
    return 1 if wrong else 0


def numbers(tally: Tally) -> dict[str, float]:
    """The columns of the table."""
    values = [tally.cases, len(tally.seen), tally.hypothesis, tally.refused, tally.harmless.total()]
    values += [len(tally.wrong), len(tally.beyond), round(tally.slowest, 4), tally.memory]
    return dict(zip(COLUMNS, values, strict=True))


def line(name: str, tally: Tally) -> None:
    shown = {**numbers(tally), "slowest": f"{tally.slowest:.3f} s", "memory": f"{tally.memory / 1e6:.1f} MB"}
    cells = (f"{value:,}" if isinstance(value, int) else value for value in shown.values())
    print(f"{name:28}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def total(tallies: Any) -> Tally:
    """All kinds together."""
    everything = Tally()
    for tally in tallies:
        everything.cases += tally.cases
        everything.hypothesis += tally.hypothesis
        everything.refused += tally.refused
        everything.harmless += tally.harmless
        everything.wrong += tally.wrong
        everything.beyond += tally.beyond
        everything.seen |= tally.seen
        everything.slowest = max(everything.slowest, tally.slowest)
        everything.memory = max(everything.memory, tally.memory)
    return everything


if __name__ == "__main__":
    sys.exit(main())
