"""What the command line makes of compressing: models in and out of archives, bars, reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainrule import console, store
from chainrule.data import Dataset
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.models import TABLE, Run, open_run, parse_model
from chainrule.verbs import compress as verb

BLOCKS = {"model": "coded with the model", "lzma": "packed without it", "stored": "stored as they are"}


def compress(run: Run, data: Dataset, source: Path, out: Path, embed: bool, force: bool, json_: bool) -> None:
    """`chainrule compress`."""
    blob = store.dump(
        run.chain, TABLE, **{k: run.info[k] for k in ("data", "kind", "levels") if k in run.info}
    )
    with bar(json_) as progress:
        result = verb.compress(
            run.chain,
            data,
            out,
            embed=blob if embed else None,
            model_sha=store.sha256(run.chain, TABLE),
            force=force,
            originals=originals(data, source),
            progress=progress,
        )
    if json_:
        console.emit({"archive": str(out), **asdict(result)})
        return
    console.record({"archive": str(out), **summary(result)}, json_)


def summary(report: verb.Report) -> dict[str, str]:
    """What compressing came to, for people."""
    ratio = report.coded_bits / max(report.ideal_bits, 1) - 1
    found = {
        "items": f"{report.items:,}"
        + (f", of which {report.files:,} as whole files" if report.files else ""),
        "raw": f"{report.raw_bytes:,} bytes, {report.symbols:,} symbols",
        "packed": f"{report.archive_bytes:,} bytes, of which {report.model_bytes:,} are the model",
        "bits/dim": f"{report.bits_per_dim:.4f} without the model, {report.with_model:.4f} with it",
        "coder": f"{ratio:.2%} above the {report.ideal_bits:,.0f} bits of −log₂ p (exact)"
        if report.coded_bits
        else "",
        "xz": f"{report.xz_bytes:,} bytes, {8 * report.xz_bytes / max(1, report.symbols):.4f} bits/dim",
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


def decompress(archive: Path, out: Path, run: Path | None, force: bool, json_: bool) -> None:
    """`chainrule decompress`."""
    with bar(json_) as progress:
        paths = verb.extract(archive, out, chain_of(run), force=force, progress=progress)
    console.record({"files": len(paths), "folder": str(out)}, json_)


def verify(archive: Path, run: Path | None, json_: bool) -> None:
    """`chainrule verify`."""
    with bar(json_) as progress:
        blocks = verb.verify(archive, chain_of(run), deep=True, progress=progress)
    console.record(
        {"archive": str(archive), "blocks": blocks, "verified": "every checksum and every symbol"}, json_
    )


def chain_of(run: Path | None) -> Callable[[bytes | None, str], Chain]:
    """The loader that an archive asks for its model: the embedded one, else that of `run`, if it is the same."""

    def load(embedded: bytes | None, sha: str) -> Chain:
        if embedded is None and run is None:
            raise ChainruleError(
                f"the archive does not hold its model: give it with --run RUN (SHA-256 {sha[:16]}...)"
            )
        model = parse_model(embedded, "the archive's model") if embedded is not None else open_run(run).chain  # type: ignore[arg-type]
        found = store.sha256(model, TABLE)
        if found != sha:
            raise ChainruleError(
                f"the archive needs the model {sha[:16]}..., this one is {found[:16]}...: give the run it was made with"
            )
        if not isinstance(model, Chain):
            raise ChainruleError("the archive's model is a code, not a chain: it is damaged")
        return model

    return load


@contextmanager
def bar(json_: bool) -> Iterator[Callable[[str, int, int, float], Any] | None]:
    """A listener for the progress of compressing: what, done, total, seconds left."""
    if json_ or not console.err().is_terminal:
        yield None
        return
    with console.steps() as show:
        yield lambda what, done, total, left: show(what, done, total)
