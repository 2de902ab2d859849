"""What the command line makes of compressing: models in and out of archives, bars, reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from chainrule import console
from chainrule.data import Dataset, load, unit_of
from chainrule.data.files import ARRAYS
from chainrule.data.wav import WaveFile, WholeFile, load_wavs
from chainrule.models import Run, open_run
from chainrule.verbs import compress as verb

BLOCKS = {"model": "coded with the model", "lzma": "packed without it", "stored": "stored as they are"}


def sounds(run: Run, source: str, **reading: Any) -> Dataset:
    """The sounds at a path or of a named set as they are: none is resampled, no channels are mixed.

    Args:
        run: its model is of sound.
        reading: further arguments of `load`, for a named set, of which the test split is taken.
    """
    assert run.sound is not None
    path = Path(source)
    if path.exists() and path.suffix.lower() not in ARRAYS:
        data = load_wavs(path, run.sound, run.info.get("classes") or ())
        whole = [
            (name, event.reason) for name, event in events_of(data).items() if isinstance(event, WholeFile)
        ]
        console.tell_of(data.skipped, "left out")
        console.tell_of(whole, "kept whole")
        return data
    given = load(source, split="test", **reading)
    data = given.heard(run.sound if given.sound is None else replace(given.sound, coding=run.sound.coding))
    if given.sound is not None and given.sound.bits > run.sound.bits:
        console.complain(
            f"{source} has 16 bits a sample, the model 8: what is kept are their {run.sound.coding} codes"
        )
    return data


def events_of(data: Dataset) -> dict[str, Any]:
    """The events by their names."""
    return dict(zip(data.names, data.x, strict=True)) if len(data.names) else {}


def compress(run: Run, data: Dataset, source: Path, out: Path, embed: bool, force: bool, json_: bool) -> None:
    """`chainrule compress`."""
    with bar(json_) as progress:
        files = originals(data, source)
        result = verb.compress(
            run.chain, data, out, embed=embed, force=force, originals=files, progress=progress
        )
    if json_:
        console.emit({"archive": str(out), **asdict(result)})
        return
    console.record({"archive": str(out), **summary(result), **other_rates(run, data)}, json_)


def other_rates(run: Run, data: Dataset) -> dict[str, str]:
    """A line when recordings have other rates than those that the model learned from: exact they are all the same."""
    known = run.sound.rate if run.sound else 0
    rates = [event.wav.rate for event in events_of(data).values() if isinstance(event, WaveFile)]
    if not (others := sorted({rate for rate in rates if rate != known})):
        return {}
    count, told = sum(rate != known for rate in rates), ", ".join(f"{rate:,}" for rate in others[:3])
    return {
        "rates": f"{count:,} of {len(rates):,} recordings have {told} samples a second, the model learned from "
        f"{known:,}: they come back exactly, and a model of their own rate would make them smaller"
    }


def summary(report: verb.Report) -> dict[str, str]:
    """What compressing came to, for people."""
    ratio, of_sound = report.coded_bits / max(report.ideal_bits, 1) - 1, report.unit == unit_of("sound")
    each = f", {8 * report.xz_bytes / max(1, report.symbols):.4f} {report.unit}"
    xz = "" if of_sound and report.files else each  # of these it has packed all bytes
    found = {
        "items": f"{report.items:,}"
        + (f", of which {report.files:,} as whole files" if report.files else ""),
        "raw": f"{report.raw_bytes:,} bytes, {report.symbols:,} {'samples' if of_sound else 'symbols'}",
        "packed": f"{report.archive_bytes:,} bytes, of which {report.model_bytes:,} are the model",
        report.unit: f"{report.bits_per_dim:.4f} without the model, {report.with_model:.4f} with it",
        "coder": f"{ratio:.2%} above the {report.ideal_bits:,.0f} bits of −log₂ p (exact)"
        if report.coded_bits
        else "",
        "context rule": report.context_rule if report.coded_bits else "",
        "xz": f"{report.xz_bytes:,} bytes{xz}",
        "break even": break_even(report),
        "blocks": ", ".join(
            f"{count:,} {BLOCKS[coding]}" for coding, count in report.blocks.items() if count
        ),
        "took": f"{report.seconds:,.1f} s",
    }
    return {key: value for key, value in found.items() if value}


def break_even(report: verb.Report) -> str:
    """From how many items on the model has paid for itself; nothing when it is not in the archive."""
    if not report.model_bytes:
        return ""
    if report.break_even is None:
        return "never on such items: xz is smaller"
    return f"with its model it is smaller than xz from {report.break_even:,} such items on"


def originals(data: Dataset, source: Path) -> dict[str, Path]:
    """The file of every picture, when the data came from an image or a folder of images."""
    if data.kind != "image" or not source.exists():
        return {}
    if source.is_dir():
        places = {name: source / name for name in data.names}
    else:
        places = {name: source for name in data.names if name == source.name}  # not the items of an array
    return {name: path for name, path in places.items() if path.is_file()}


def decompress(
    archive: Path, out: Path, run: Path | None, only: list[str] | None, force: bool, json_: bool
) -> None:
    """`chainrule decompress`."""
    with bar(json_) as progress:
        paths = verb.extract(archive, out, **known(run), only=only, force=force, progress=progress)
    console.record({"files": len(paths), "folder": str(out)}, json_)


def verify(archive: Path, run: Path | None, json_: bool) -> None:
    """`chainrule verify`."""
    with bar(json_) as progress:
        blocks = verb.verify(archive, **known(run), deep=True, progress=progress)
    console.record(
        {"archive": str(archive), "blocks": blocks, "verified": "every checksum and every symbol"}, json_
    )


def known(run: Path | None) -> dict[str, Any]:
    """The chain and the alphabet of a run, for an archive that does not hold its model."""
    if run is None:
        return {}
    opened = open_run(run)
    return {"chain": opened.chain, "alphabet": opened.alphabet}


@contextmanager
def bar(json_: bool) -> Iterator[Callable[[str, int, int, float], Any] | None]:
    """A listener for the progress of compressing: what, done, total, seconds left."""
    if json_ or not console.err().is_terminal:
        yield None
        return
    with console.steps() as show:
        yield lambda what, done, total, left: show(what, done, total)
