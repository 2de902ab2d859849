"""What the command line makes of scores, samples and completions: tables and pages, sheets, arrays, texts."""

from __future__ import annotations

import codecs
import io
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule import console
from chainrule.data import Alphabet, Dataset, load
from chainrule.data.reading import printable
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.models import Run
from chainrule.plots import image_grid
from chainrule.store import write_atomic
from chainrule.verbs.score import score
from chainrule.verbs.walk import complete, event_of, sample, stream

AT_ONCE = 64
BOUND = "exact for these tokens, so an upper bound for the text: other tokens spell the same bytes"
LARGEST = 1 << 26  # symbols of an event that is drawn


def score_data(run: Run, data: Dataset, named: str, page: Path | None, top: int, json_: bool) -> None:
    """`chainrule score`: the whole and every item; the page shows what the same pass over the data gave."""
    from chainrule.report.scored import Watch, surprise_page

    watch = None if page is None else Watch(data)
    with console.progress("scoring", len(data), json_) as tick:
        result = score(run.chain, data, tick, watch)
    each = result.each()
    items = [
        {"name": result.names[i], "nats": float(result.nats[i]), "bits_per_dim": float(each[i])}
        for i in (-each).argsort(kind="stable")
    ]
    total = {
        "data": data.source, "items": len(data), "symbols": int(result.symbols.sum()),
        "bits_per_dim": result.bits_per_dim, "unit": result.unit, "nats_per_item": result.nats_per_item,
        "exact": result.tokens is None,
        "context_rule": run.chain.context_rule(), "skipped": [list(s) for s in data.skipped],
    }  # fmt: skip
    if result.tokens is not None:
        count = int(result.tokens.sum())
        total |= {"tokens": count, "nats_per_token": float(result.nats.sum()) / max(1, count), "bound": BOUND}
    if page is not None and watch is not None:
        command = ["chainrule", "score", str(run.path), named, "--page", str(page)]
        write_atomic(page, surprise_page(run, data, result, watch, command).encode())
        total["page"] = str(page)
    console.scores(total, items if json_ or top == 0 else items[:top], json_)


def sample_events(run: Run, n, out, size, class_, temperature, top_p, top_k, seed, force, json_) -> None:
    """`chainrule sample` for images and arrays: a .png sheet, or a .npy array (n, *event)."""
    out = free(out or Path("samples.png"), (".png", ".npy"), force)
    event = parse_size(size, run) if size else run.info.get("event")
    if event is None:
        raise ChainruleError("the model was fitted on images of several sizes: say which with --event HxW")
    event = event_of(run.chain, tuple(event))
    context = classes_for(run, n, class_)
    with console.progress("sampling", n * int(np.prod(event)), json_) as tick:
        x = in_parts(
            run.chain, n, event, context, tick, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
        )
    write_events(out, x, run)
    console.record({"samples": n, "event": list(event), "file": str(out)}, json_)


def in_parts(chain: Chain, n: int, event, context, tick=None, **options: Any) -> np.ndarray:
    """`sample` in batches of 64; the items are the same as in one."""
    parts, size = [], int(np.prod(event))
    for first in range(0, n, AT_ONCE):
        count = min(AT_ONCE, n - first)
        part = None if context is None else context[first : first + count]
        done = None if tick is None else (lambda i, f=first, c=count: tick(f * size + i * c))
        parts.append(sample(chain, count, event, part, first=first, tick=done, **options))
    return np.concatenate(parts)


def sample_text(
    run: Run, n, out, prompt, length, class_, temperature, top_p, top_k, seed, force, json_
) -> None:
    """`chainrule sample` for texts: to the screen, a .txt file, or a .npy array."""
    if out is not None:
        out = free(out, (".txt", ".npy"), force)
    start = run.alphabet.encode(bytes_of(prompt))
    x = np.zeros(len(start) + length, np.int64)
    x[: len(start)] = start
    write_continuations(
        run, x, len(start), n, out, classes_for(run, n, class_), temperature, top_p, top_k, seed, json_
    )


def bytes_of(prompt: str) -> bytes:
    """The bytes that a command line gave, UTF-8 or not."""
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ChainruleError(f"the prompt holds {prompt[error.start]!r}, which is no character") from error


def write_continuations(
    run: Run, x, given: int, n: int, out, context, temperature, top_p, top_k, seed, json_
) -> None:
    """Texts that begin with the first `given` symbols of x (T,): one on the screen as it comes, else at the end."""
    if n == 1 and out is None and not json_:
        return show_as_it_comes(run, x, given, context, temperature, top_p, top_k, seed)
    return write_texts(
        continuations(run, x, given, n, context, temperature, top_p, top_k, seed, json_), run, out, json_
    )


def show_as_it_comes(run: Run, x, given: int, context, temperature, top_p, top_k, seed) -> None:
    """A text on the screen while it is written: what `write_texts` would show of it at the end."""
    known = np.arange(len(x)) < given
    parts = stream(run.chain, x, known, context, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    show_parts(run.alphabet, parts, len(x))


def show_parts(alphabet: Alphabet, parts: Iterable[np.ndarray], total: int | None) -> None:
    """Parts of a text of so many symbols (None: nobody knows) on the screen as they come, in whole characters.

    Ctrl-C ends it with what is there.
    """
    done, decode = 0, codecs.getincrementaldecoder("utf-8")("replace").decode
    quiet = total is None or sys.stdout.isatty()  # no bar where the text is
    with console.progress("writing", total or 0, quiet) as tick:
        try:
            for symbols in parts:
                print(legible(decode(alphabet.decode(symbols))), end="", flush=True)
                done += len(symbols)
                tick(done)
        except KeyboardInterrupt as stop:
            print(flush=True)
            of = "" if total is None else f" of {total:,}"
            raise KeyboardInterrupt(f"after {done:,}{of} {alphabet.unit}s") from stop
    print(legible(decode(b"", final=True)))


def continuations(
    run: Run, x, given: int, n: int, context, temperature, top_p, top_k, seed, json_
) -> np.ndarray:
    """(n, T) texts whose first `given` symbols are those of x (T,)."""
    with console.progress("writing", len(x), json_) as tick:
        known = np.arange(len(x)) < given
        return complete(
            run.chain, x, known, n, context, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, tick=tick
        )  # fmt: skip


def complete_file(
    run: Run, file, out, n, keep, mask, class_, length, temperature, top_p, top_k, seed, force, json_
) -> None:
    """`chainrule complete`: several completions of an image or a text."""
    if run.chain.source:
        raise ChainruleError(
            f"{run.path} translates: complete a translation by chainrule sample {run.path} --source TEXT --prompt ..."
        )
    context = classes_for(run, n, class_)
    x = one_event(file, run)
    if run.info.get("kind") == "text":
        if mask is not None:
            raise ChainruleError(f"--mask {mask} is for images: of a text the beginning is given, see --keep")
        out = free(out, (".txt", ".npy"), force) if out else None
        x = x[keep_top(keep or "top:1", x.shape)]
        given, x = len(x), np.concatenate([x, np.zeros(length, np.int64)])
        return write_continuations(run, x, given, n, out, context, temperature, top_p, top_k, seed, json_)
    x = as_channels(x, run)
    out = free(out or Path("completions.png"), (".png", ".npy"), force)
    known = read_mask(mask, x.shape) if mask else keep_top(keep or "top:0.5", x.shape)
    with console.progress("completing", x.size, json_) as tick:
        found = complete(
            run.chain, x, known, n, context, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, tick=tick
        )  # fmt: skip
    occluded = np.where(known, x, 0)[None]
    write_events(out, found if out.suffix == ".npy" else np.concatenate([x[None], occluded, found]), run)
    return console.record({"completions": n, "given": float(known.mean()), "file": str(out)}, json_)


def one_event(file: Path, run: Run) -> np.ndarray:
    """The one event (*event) int64 that a file holds, of the kind that the model knows, in symbols of its alphabet."""
    data = load(file, levels=run.info.get("levels"), alphabet=run.alphabet, **run.heard)
    kind = run.info.get("kind")
    if kind is not None and data.kind != kind:
        raise ChainruleError(f"{data.source} is {data.kind}, the model was fitted on {kind}: give it {kind}")
    if len(data) != 1:
        raise ChainruleError(f"{data.source} holds {len(data):,} items: give a file with one")
    return np.asarray(data.x[0]).astype(np.int64)


def as_channels(x: np.ndarray, run: Run) -> np.ndarray:
    """A gray image for a model of colour images, and a colourless colour image for a gray model."""
    wanted = getattr(run.chain, "channels", x.shape[-1])
    if x.shape[-1] == 1 and wanted == 3:
        return np.repeat(x, 3, axis=-1)
    if x.shape[-1] == 3 and wanted == 1 and (x == x[..., :1]).all():
        return x[..., :1]
    if x.shape[-1] != wanted:
        raise ChainruleError(f"the image has {x.shape[-1]} channels, the model {wanted}: convert it first")
    return x


def keep_top(keep: str, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of top:SHARE, bool of the event's shape: True is given."""
    name, _, share = keep.partition(":")
    try:
        part = float(share)
    except ValueError:
        part = -1.0
    if name != "top" or not 0 <= part <= 1:
        raise ChainruleError(f"--keep {keep}: write top:SHARE with a share from 0 to 1, such as top:0.5")
    rows = np.arange(shape[0]) < round(part * shape[0])
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An image as a mask: bright is given. In a .npy array True, or the upper half of the levels."""
    data = load(path)
    if len(data) != 1:
        raise ChainruleError(f"{data.source} holds {len(data):,} items: give a mask with one")
    mask = np.asarray(data.x[0])
    if mask.ndim != 3 or mask.shape[:2] != shape[:2]:
        found, wanted = " × ".join(map(str, mask.shape[:2])), " × ".join(map(str, shape[:2]))
        raise ChainruleError(f"the mask is {found} pixels, the image {wanted}: make them equal")
    return np.broadcast_to(mask.mean(-1, keepdims=True) >= data.levels / 2, shape).copy()


def classes_for(run: Run, n: int, class_: str | None) -> torch.Tensor | None:
    """(n,) classes: the one asked for, else all in turn; None for an unconditional model."""
    names = [str(c) for c in run.info.get("classes") or range(run.chain.classes)]
    if not run.chain.classes:
        if class_ is not None:
            raise ChainruleError(
                f"--class {class_}: the model is not conditional; fit one with --conditional"
            )
        return None
    if class_ is None:
        return torch.arange(n) % len(names)
    if class_ in names:
        return torch.full((n,), names.index(class_))
    if class_.isdecimal() and int(class_) < len(names):
        return torch.full((n,), int(class_))
    raise ChainruleError(f"there is no class {class_!r}: the model has {', '.join(names)}")


def parse_size(text: str, run: Run) -> tuple[int, ...]:
    """HxW of an image, or T of a sequence."""
    parts = text.lower().split("x")
    sizes = tuple(int(p) if p.isdecimal() and len(p) < 10 else 0 for p in parts)
    if not 0 < math.prod(sizes) <= LARGEST:
        raise ChainruleError(
            f"--event {text}: write it as HEIGHTxWIDTH, such as 32x32, of at most {LARGEST:,}"
        )
    return (*sizes, getattr(run.chain, "channels", 1)) if len(sizes) == 2 else sizes


def write_events(path: Path, x: np.ndarray, run: Run) -> None:
    """Events as they are (.npy), or a sheet to look at (.png)."""
    levels = run.info.get("levels") or run.chain.symbols
    if path.suffix == ".npy":
        write_array(path, x.astype(np.uint8 if levels <= 256 else np.int64))
        return
    if x.ndim != 4:
        raise ChainruleError(f"events of shape {x.shape[1:]} make no picture: write them to a .npy file")
    buffer = io.BytesIO()
    image_grid(x, levels).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def write_texts(texts: np.ndarray, run: Run, out: Path | None, json_: bool) -> None:
    """Texts (n, T) of symbols to a file or the screen."""
    raw = [run.alphabet.decode(symbols) for symbols in texts]
    if out is None:
        for text in raw:
            decoded = text.decode(errors="replace")
            console.emit({"text": decoded}) if json_ else print(
                legible(decoded), end="\n" * (1 + (len(raw) > 1))
            )
        return
    if out.suffix == ".npy":
        write_array(out, texts.astype(run.alphabet.encode(b"").dtype))
    else:
        write_atomic(out, b"\n\n".join(raw))
    console.record({"texts": len(raw), "file": str(out)}, json_)


def legible(text: str) -> str:
    """A text as it is; for a terminal, which would obey them, with control characters as escapes."""
    if not sys.stdout.isatty():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def write_array(path: Path, x: np.ndarray) -> None:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, x, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def free(path: Path, suffixes: tuple[str, ...], force: bool) -> Path:
    """The path, when it may be written: a known kind of file, in a folder that exists, not there yet."""
    path = Path(path)
    if path.suffix not in suffixes:
        raise ChainruleError(f"{path}: the file must end in {' or '.join(suffixes)}")
    if path.exists() and not force:
        raise ChainruleError(f"{path} exists: choose another name, or overwrite it with --force")
    if not path.parent.is_dir():
        raise ChainruleError(f"the folder {path.parent} does not exist: make it first")
    return path
