"""`chainrule tour`: the main job on data that is already there, every verb, ending in a page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from chainrule import console, store
from chainrule.data import Dataset, load
from chainrule.errors import ChainruleError
from chainrule.models import Run
from chainrule.report import Subject, cards, numbers, page, sections
from chainrule.report.codecs import codec_table
from chainrule.verbs.compress import Report, compress, extract
from chainrule.verbs.fit import fit
from chainrule.verbs.score import score
from chainrule.verbs.walk import sample

IMAGE_MINUTES, TEXT_MINUTES = 1.0, 0.75
TEXT_BYTES = 300_000
MADE = ("digits", "text", "python-manual.txt", "digits.chain", "restored", "index.html")  # what a tour leaves


def tour(out: Path, json_: bool = False) -> None:
    """Learn scikit-learn's digits and a text, use both with every verb, and write `out`/index.html.

    Raises:
        ChainruleError: `out` holds something that no tour has made, or an archive did not come back as it was.
    """
    began = time.monotonic()
    prepare(out)
    console.say(
        f"A tour of chainrule, in about three minutes. Everything goes to [bold]{console.plain(out)}[/bold].",
        json_,
    )
    test = load("digits", split="test")
    with step("1. fit: learn p(x) of 1,497 handwritten digits, given their class", json_):
        images = fit(
            "digits",
            conditional=True,
            minutes=IMAGE_MINUTES,
            holdout=0.0,
            settings={"dropout": 0.2},  # so few images are soon known by heart
            out=out / "digits",
            listen=listener(json_),
        )
    with step("2. score: how many bits do 300 digits need that it has not seen?", json_):
        exact = score(images.chain, test).bits_per_dim
        best = min(codec_table(list(test.x), test.levels), key=lambda c: c.bits_per_dim)
        told(json_, model_bits_per_dim=exact, best_codec=best.name, best_codec_bits_per_dim=best.bits_per_dim)
    with step("3. compress, verify, decompress: the same bits come back", json_):
        packed = pack(images, test, out)
        told(json_, **summary(packed))
    with step("4. fit a text: the reference manual of Python, byte by byte", json_):
        (out / "python-manual.txt").write_bytes(manual())
        texts = fit(
            out / "python-manual.txt", minutes=TEXT_MINUTES, settings={"width": 256}, out=out / "text",
            listen=listener(json_),
        )  # fmt: skip
        written = bytes(sample(texts.chain, 1, (300,), seed=1, temperature=0.8)[0].astype(np.uint8))
        told(json_, text_bits_per_byte=texts.info["held_out"]["bits_per_dim"])
        console.say(f"  [italic]{escape(written.decode(errors='replace'))}[/italic]", json_)
    with step("5. samples, completions, the strangest digits: a page", json_):
        store.write_atomic(out / "index.html", whole_page(images, texts, test, packed).encode())
    console.record({"page": str(out / "index.html"), "seconds": round(time.monotonic() - began, 1)}, json_)


def prepare(out: Path) -> None:
    """An empty folder for the tour; what an earlier tour left there is replaced."""
    out.mkdir(parents=True, exist_ok=True)
    foreign = sorted(p.name for p in out.iterdir() if p.name not in MADE)
    if foreign:
        raise ChainruleError(
            f"{out} holds {foreign[0]}, which no tour has made: choose another folder with -o"
        )
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def manual() -> bytes:
    """The first part of the reference manual that comes with every Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()[:TEXT_BYTES]


def pack(run: Run, test: Dataset, out: Path) -> Report:
    """Write an archive with its model inside, decode it, and compare every pixel."""
    archive = out / "digits.chain"
    result = compress(run.chain, test, archive)
    (path,) = extract(archive, out / "restored")
    if not np.array_equal(np.load(path), test.x):
        raise ChainruleError(f"{path} is not what went into {archive}: please report this")
    return result


def summary(packed: Report) -> dict[str, Any]:
    """The archive in a few numbers."""
    return {
        "raw_bytes": packed.raw_bytes,
        "archive_bytes_without_model": packed.archive_bytes - packed.model_bytes,
        "model_bytes": packed.model_bytes,
        "archive_bits_per_dim": packed.bits_per_dim,
        "model_pays_from_items": packed.break_even,
        "identical": True,
    }


def whole_page(images: Run, texts: Run, test: Dataset, packed: Report) -> str:
    """The page about both models: what `chainrule report` shows of either, and the archive."""
    digits = Subject(images, test, "test digits")
    written = Subject(texts, texts_held_out(texts), "the end of the manual, held out")
    return page(
        "A tour of chainrule",
        [*cards(digits, lambda name: None), archive_section(packed), *cards(written, lambda name: None)],
        "One model of handwritten digits and one of text, trained a minute each on this machine, and what they can do.",
        numbers(digits),
    )


def texts_held_out(run: Run) -> Dataset:
    """The part of the text that the training did not see."""
    from chainrule.data import train_holdout

    held = train_holdout(load(run.info["data"]), run.info["holdout"])[1]
    assert held is not None
    return held


def archive_section(packed: Report) -> str:
    """What compressing came to."""
    lines = [
        "chainrule compress tour/digits digits -o digits.chain",
        "chainrule decompress digits.chain -o restored",
    ]
    facts = {
        k.replace("_", " "): "yes" if v is True else v for k, v in summary(packed).items() if v is not None
    }
    return sections.facts_section(facts, lines, "The archive of 300 digits")


@contextmanager
def step(title: str, json_: bool) -> Iterator[None]:
    """A heading, and how long what follows it took."""
    console.say(f"\n[bold]{title}[/bold]", json_)
    began = time.monotonic()
    yield
    console.say(f"  [dim]{time.monotonic() - began:.1f} s[/dim]", json_)


def told(json_: bool, **facts: Any) -> None:
    """A few facts, indented."""
    if json_:
        console.emit(facts)
        return
    for key, value in facts.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        shown = f"{value:,}" if type(value) is int else shown
        console.say(f"  {key.replace('_', ' ')}: {shown}")


def listener(json_: bool):
    """A line every 200 steps, indented."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["training"].step % 200 == 0:
            console.say(f"  step {console.told(event['log'])}", json_)

    return listen
