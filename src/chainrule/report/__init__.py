"""`chainrule report RUN`: one self-contained HTML page about a run.

`page` gives the frame, `sections` the cards (from arrays and numbers, they know no model), `codecs` the
comparison with everyday codecs; `report` fills them from a run and the items that it held out.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from chainrule import store
from chainrule.console import COUNTED
from chainrule.data import BYTES, Dataset, draw, load, train_holdout, unit_of
from chainrule.encoding import told_of
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.model import Chain, Code
from chainrule.models import TABLE, Run
from chainrule.report import heard, sections
from chainrule.report.codecs import codec_table
from chainrule.report.page import page
from chainrule.report.scored import Watch, exactness, surprising_sounds
from chainrule.verbs.score import Scores, context_of, score
from chainrule.verbs.walk import fill, sample

__all__ = ["page", "report", "sections"]

PATIENCE = 60.0  # seconds that the drawing for one section may take; a card says so when it would take more
ITEMS, SYMBOLS = 1000, 1 << 21  # scored at most
CODEC_SYMBOLS = 1 << 18  # given to the codecs at most: WebP at its best packs 50,000 a second
SHEETS = (64, 49, 36, 25, 16, 9, 4)  # images on a sheet, the most that there is patience for
SUMS = 4  # images written as sums of atoms
AUDIBLE = 3.0  # seconds of a sound that is drawn, at most
TRIED = 200  # samples that are drawn to see how long it takes
TEXT = 600  # bytes of a sampled text, and half of what is coloured by surprise

Listener = Callable[[str], object]


def report(run: Run, out: str | Path, data: Dataset | None = None, listen: Listener | None = None) -> Path:
    """Write `out`/index.html about a run; gives its path.

    Args:
        data: items to look at; by default those that the training held out, read again from their source.
        listen: called with the name of each section before it is made.

    Raises:
        ChainruleError: the folder cannot be written. Data that are gone are no error: the page says so.
    """
    folder = Path(out)
    subject = Subject(run, *items_of(run, data))
    damaged = (
        told_of(run.path) if isinstance(run.model, Code) else nullcontext()
    )  # a code may be, without a sign
    with damaged:
        html = page(title(run), cards(subject, listen or (lambda name: None)), lead(run), numbers(subject))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.write_atomic(folder / "index.html", html.encode())
    except OSError as error:
        raise ChainruleError(f"cannot write the page into {folder}: {error.strerror or error}") from error
    return folder / "index.html"


# ---- what the page is about ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A run and the items to show beside it.

    Attributes:
        data: the items, or None when there are none; at most ITEMS of them.
        what: which items they are, or why there are none; a phrase.
    """

    run: Run
    data: Dataset | None
    what: str

    @cached_property
    def scores(self) -> Scores | None:
        """The exact scores of all items, when the model is a chain."""
        chain = self.run.model
        heard = self.watch
        return (
            score(chain, self.data, hear=heard)
            if self.data is not None and isinstance(chain, Chain)
            else None
        )

    @cached_property
    def watch(self) -> Watch | None:
        """What the scoring of sounds is heard by."""
        return None if self.data is None or self.data.sound is None else Watch(self.data)

    @cached_property
    def codes(self) -> np.ndarray | None:
        """The codes of all items (n, *code), when the model is a code of images and the items fit it."""
        code = self.run.model
        if self.data is None or not isinstance(code, Code) or self.run.info.get("kind") != "image":
            return None
        if self.data.event != code.event_ or not hasattr(code, "inverse_transform"):
            return None
        found = code.transform(np.asarray(self.data.x, np.float32))
        return found.toarray() if issparse(found) else np.asarray(found)

    @property
    def atoms(self) -> np.ndarray | None:
        """The atoms (K, h, w, C) of a code whose numbers are weights of images."""
        atoms, codes = getattr(self.run.model, "components_", None), self.codes
        if codes is None or atoms is None or codes.shape[1:] != atoms.shape[:1]:
            return None
        event = self.run.code.event_
        turned = getattr(
            getattr(self.run.model, "before_", None), "rotate", False
        )  # then no number is a pixel
        drawable = (
            len(event) == 3 and event[2] in (1, 3) and atoms.shape[1] == math.prod(event) and not turned
        )
        return atoms.reshape(-1, *event) if drawable else None

    @property
    def filters(self) -> np.ndarray | None:
        """What the units of the first layer of a code look for, (K, h, w, C), when these are pictures."""
        of_code: Any = getattr(self.run.model, "filters", None)
        if of_code is None or self.run.info.get("kind") != "image":
            return None
        found = np.asarray(of_code())
        return found if found.ndim == 4 and found.shape[3] in (1, 3) else None

    def as_sums(self) -> np.ndarray:
        """All items as what codes times atoms approximate: as prepared by `before`, or less the code's offset."""
        code, x = self.run.code, np.asarray(self.data.x if self.data else (), np.float32)
        if hasattr(code, "before_"):
            return code.before_.transform(x).reshape(x.shape)
        nothing = np.zeros((1, len(code.components_)), np.float32)
        return x - code.inverse_transform(nothing)

    @property
    def levels(self) -> int:
        """K, as the data had it."""
        return int(self.run.info["levels"])

    @property
    def unit(self) -> str:
        """What bits are counted by."""
        return unit_of(self.run.info.get("kind"))

    @property
    def classes(self) -> list[str]:
        """The names of the classes of a conditional chain."""
        count = getattr(self.run.model, "classes", 0)
        return [str(c) for c in self.run.info.get("classes") or range(count)][:count]

    def events(self, n: int) -> list[np.ndarray]:
        """The first `n` items; texts as bytes."""
        if self.data is None:
            return []
        some = self.data.select(slice(0, n)).in_alphabet(BYTES)
        return [np.asarray(event) for event in some.x]

    def shape(self) -> tuple[int, ...] | None:
        """The shape of an event to draw: the one the data have, or that of the first item."""
        event = self.run.info.get("event")
        first = self.events(1)
        return tuple(event) if event else first[0].shape if first else None


def items_of(run: Run, data: Dataset | None) -> tuple[Dataset | None, str]:
    """The items to show, and which they are."""
    if data is not None:
        return for_model(run, data), f"the items of {data.source or 'the data'}"
    source, holdout = run.info.get("data"), run.info.get("holdout")
    try:
        if not source:
            raise ChainruleError("the run does not say where its data came from")
        whole = load(source, **run.info.get("reading", {}))
        if not run.info.get("conditional"):
            whole = replace(whole, context=None, classes=())
        held = train_holdout(whole, holdout)[1] if holdout else None
    except ChainruleError as error:
        return None, str(error)
    if held is None or not len(held):
        return for_model(run, whole), f"items of {source} that the model was fitted to: none were held out"
    return for_model(run, held), f"held-out items of {source}"


def for_model(run: Run, data: Dataset) -> Dataset:
    """The first of the data, in the symbols of the model."""
    return first_items(data).in_alphabet(run.alphabet)


def first_items(data: Dataset) -> Dataset:
    """The first ITEMS or SYMBOLS of the data, binarised once if need be."""
    sizes = np.cumsum([np.asarray(data.x[i]).size for i in range(min(len(data), ITEMS))])
    few = data.select(slice(0, max(1, int(np.searchsorted(sizes, SYMBOLS, side="right")))))
    if few.kind in ("text", "sound"):
        return replace(few, x=[np.asarray(event)[: SYMBOLS // few.per_sample] for event in few.x])
    if not few.binarise:
        return few
    return replace(few, x=draw(few, np.arange(len(few)), seed=0, step=0), binarise=False)


# ---- the top of the page -------------------------------------------------------------------------------


def title(run: Run) -> str:
    """`gated-pixelcnn on digits`."""
    return f"{run.info['model']} on {run.info.get('data') or 'your data'}"


def lead(run: Run) -> str:
    """The sentence under the title: how much of what."""
    items, event, kind, levels = (run.info.get(k) for k in ("items", "event", "kind", "levels"))
    shape = " × ".join(f"{n:,}" for n in event) if event else "several sizes"
    made = (
        f"an alphabet of {run.alphabet.symbols:,} tokens"
        if "tokens" in run.info
        else f"{levels} levels a symbol"
        if run.sound is None
        else heard.coded(run.sound)
    )
    return f"Fitted to {kind} data, {shape}, {made}{f'; {items:,} in all' if items else ''}."


def numbers(subject: Subject) -> dict[str, str]:
    """What stands large at the top."""
    found = {}
    if subject.scores is not None:
        found[subject.what] = f"{subject.scores.bits_per_dim:.4f} {subject.unit}, {exactness(subject.scores)}"
        if subject.run.info.get("kind") == "image":
            found["an image, on average"] = f"{subject.scores.nats_per_item:,.2f} nats"
    trained = subject.run.info.get("trained") or {}
    if "seconds" in trained:
        number, unit = sections.duration(trained["seconds"]).split(" ", 1)
        found["training"] = f"{number} {unit}" + (
            f", {trained['steps']:,} steps" if "steps" in trained else ""
        )
    size = sum(t.numel() for t in store.tensors_of(subject.run.model).values())
    return {**found, "learned numbers": f"{size:,}"}


# ---- the cards -----------------------------------------------------------------------------------------


def cards(subject: Subject, listen: Listener) -> Iterator[str]:
    """Every card of the page, in order."""
    chain = isinstance(subject.run.model, Chain)
    kind = str(subject.run.info.get("kind")) if chain else "code"
    if subject.data is None:
        yield sections.note_section("No data to show", f"The page has no real items: {subject.what}.")
    for name, card in CARDS.get(kind, CARDS["array"]):
        listen(name)
        yield card(subject)


def samples(subject: Subject) -> str:
    """New images beside real ones."""
    n, seconds = drawn_in_time(subject, SHEETS)
    if not n:
        return too_long("Samples", subject, seconds)
    drawn = sample(subject.run.chain, n, subject.shape(), classes_in_turn(subject, n))
    return sections.samples_section(drawn, subject.events(n), subject.levels)


def class_rows(subject: Subject) -> str:
    """A row of images for each class of a conditional chain."""
    classes = subject.classes[:10]
    n, seconds = drawn_in_time(subject, [m * len(classes) for m in (8, 6, 4, 2)]) if classes else (0, 0.0)
    if not n:
        return too_long("One row a class", subject, seconds) if classes else ""
    each = n // len(classes)
    context = torch.arange(len(classes)).repeat_interleave(each)
    drawn = sample(subject.run.chain, n, subject.shape(), context, seed=1)
    return sections.classes_section(drawn, classes, subject.levels)


def completions(subject: Subject) -> str:
    """Top halves of real images, and what the model makes of them."""
    shape, data = subject.shape(), subject.data
    index = [i for i, event in enumerate(subject.events(ITEMS)) if event.shape == shape]
    if shape is None or data is None or not index:
        return ""
    sheets = {min(r, len(index)) * m: (r, m) for r, m in ((6, 8), (5, 6), (4, 4), (3, 3), (2, 2))}
    n, seconds = drawn_in_time(subject, sheets)
    if not n:
        return too_long("Completions", subject, seconds)
    known = np.zeros(shape, bool)
    known[: (len(known) + 1) // 2] = True
    rows, each = sheets[n]
    index = index[:rows]
    events = np.stack([np.asarray(data.x[i]) for i in index]).astype(np.int64)
    context = None if data.context is None else torch.from_numpy(np.asarray(data.context)[index].repeat(each))
    # one walk for all rows: item i is drawn with the random numbers (2, i)
    drawn = fill(subject.run.chain, events.repeat(each, axis=0), known, context, 1.0, 1.0, 0, 2, 0, None)
    return sections.completions_section(events, known, list(drawn.reshape(-1, each, *shape)), subject.levels)


def surprise(subject: Subject) -> str:
    """The images that need most and fewest bits."""
    if subject.scores is None or subject.data is None or len(subject.data) < 2:
        return ""
    bits = subject.scores.each()
    return sections.surprise_section(subject.events(ITEMS), bits, subject.scores.names, subject.levels)


def spread(subject: Subject) -> str:
    """How the items' bits/dim are spread."""
    if subject.scores is None or len(subject.scores.nats) < 8:
        return ""
    what = f"{len(subject.scores.nats):,} {subject.what}"
    each, total = subject.scores.each(), subject.scores.bits_per_dim
    return sections.scores_section(each, total, what, subject.unit, exactness(subject.scores))


def codecs(subject: Subject) -> str:
    """The model beside the codecs, on the same items."""
    if subject.scores is None or not subject.scores.symbols.sum():
        return ""
    if subject.run.chain.source:
        return sections.note_section(
            "Beside other codecs", "No codec is told a source text, so none is compared."
        )
    sizes = subject.scores.symbols
    n = max(1, int(np.searchsorted(np.cumsum(sizes), CODEC_SYMBOLS, side="right")))
    bits = float(subject.scores.nats[:n].sum() / math.log(2) / sizes[:n].sum())
    counted = COUNTED.get(subject.unit, "symbols")
    what = f"the first {min(n, len(sizes)):,} of {len(sizes):,} {subject.what}, {sizes[:n].sum():,} {counted}"
    sound = subject.run.sound
    rows = codec_table(subject.events(n), subject.levels, sound=sound)
    levels = subject.levels if sound is None else 2**sound.bits
    return sections.codecs_section(rows, bits, levels, what, subject.unit)


def training(subject: Subject) -> str:
    """The training curve."""
    lines = subject.run.metrics() if subject.run.path.is_dir() else []
    return sections.training_section(lines, subject.unit)


def texts(subject: Subject) -> str:
    """Texts that the model writes."""
    if subject.run.chain.source:
        command = f"chainrule sample {shlex.quote(str(subject.run.path))} --source TEXT"
        return sections.note_section("Samples", f"What the model writes depends on a source text: {command}.")
    n, seconds = drawn_in_time(subject, (3, 1), (TEXT,))
    if not n:
        return too_long("Samples", subject, seconds)
    drawn = sample(subject.run.chain, n, (TEXT,), classes_in_turn(subject, n))
    alphabet = subject.run.alphabet
    texts = [np.frombuffer(alphabet.decode(symbols), np.uint8) for symbols in drawn]
    return sections.texts_section(
        texts, f"Written by the model, a {alphabet.unit} at a time, {TEXT} {alphabet.unit}s each."
    )


def sounds(subject: Subject) -> str:
    """Real recordings, each beside one that the model drew, of the same class where it knows classes."""
    sound, names = heard.sound_in(subject.run), subject.classes
    length = min(heard.usual_length(subject.run), round(AUDIBLE * sound.rate))
    n, seconds = sounds_in_time(subject, (3, 2, 1), length)
    if not n:
        return too_long("Samples", subject, seconds)
    chosen, chain = spread_over(subject.data, n), subject.run.chain
    real = [real_sound(subject, i, round(AUDIBLE * sound.rate)) for i in chosen]
    if chain.frames:
        return said_again(subject, chosen, real)
    context = classes_in_turn(subject, n) if len(chosen) < n else classes_at(subject, chosen)
    shown = []
    for i, symbols in enumerate(sample(chain, n, sound.shape(length), context)):
        as_ = "" if context is None else f", as {names[int(context[i])]}"
        shown += real[i : i + 1]
        shown.append(heard.Heard(sound.samples(symbols), sound.rate, f"drawn by the model{as_}"))
    heading = "Samples beside real recordings" if chosen else "Samples"
    return sections.section(heading, heard.legend(sound.rate, surprise=False), heard.gallery(shown))


def said_again(subject: Subject, chosen: list[int], real: list[heard.Heard]) -> str:
    """Recordings, and each as a model says it that is conditioned on frames of speech."""
    sound, chain, shown = heard.sound_in(subject.run), subject.run.chain, []
    if not real:
        command = f"chainrule sample {shlex.quote(str(subject.run.path))} --source-file FILE.wav"
        return sections.note_section("Samples", f"What the model says depends on a recording: {command}.")
    for i, one in zip(chosen, real, strict=True):
        (drawn,) = sample(chain, 1, sound.shape(len(one.samples)), told_at(subject, i, 1, one))
        shown += [one, replace(one, samples=sound.samples(drawn), name="drawn from its frames", left=0.0)]
    return sections.section(
        "Recordings, and the same said by the model",
        heard.legend(sound.rate, surprise=False),
        heard.gallery(shown),
    )


def sound_completions(subject: Subject) -> str:
    """The first halves of two real recordings, and what the model makes of them."""
    sound, chosen = heard.sound_in(subject.run), spread_over(subject.data, 2)
    wholes = [real_sound(subject, i, round(AUDIBLE * sound.rate)) for i in chosen]
    n, seconds = sounds_in_time(
        subject, (3, 1), max((len(w.samples) for w in wholes), default=0) * len(wholes)
    )
    if not n:
        return too_long("Completions", subject, seconds) if wholes else ""
    shown: list[heard.Heard] = []
    for i, whole in zip(chosen, wholes, strict=True):
        event = sound.symbols(whole.samples).astype(np.int64)
        known = np.zeros(event.shape, bool)
        known[: len(event) // 2] = True
        context = told_at(subject, i, n, whole)
        drawn = fill(
            subject.run.chain, event[None].repeat(n, 0), known, context, 1.0, 1.0, 0, 2, len(shown), None
        )
        whole = replace(whole, given=len(event) // 2)
        shown.append(whole)
        shown += [
            replace(whole, samples=sound.samples(one), name=f"completion {k}", left=0.0)
            for k, one in enumerate(drawn)
        ]
    return sections.section(
        "Completions",
        sections.paragraph(
            "The model is given the first half of a recording, gray and before the dashed line, and draws the rest."
        ),
        heard.gallery(shown),
    )


def spread_over(data: Dataset | None, n: int) -> list[int]:
    """At most `n` items, spread over the data evenly."""
    return [] if data is None else sorted(set(np.linspace(0, len(data) - 1, n).round().astype(int).tolist()))


def real_sound(subject: Subject, i: int, length: int) -> heard.Heard:
    """At most `length` samples from the middle of recording i."""
    assert subject.data is not None
    sound, event = heard.sound_in(subject.run), np.asarray(subject.data.x[i])
    left, hop = max(0, len(event) - length), hop_in(subject.run.chain)
    first = left // 2 // hop * hop
    samples = sound.samples(event[first : first + length])
    name = f"real: {subject.data.names[i]}"
    return heard.Heard(samples, sound.rate, name, start=first / sound.rate, left=left / sound.rate)


def hop_in(chain: Chain) -> int:
    """Samples of a frame, for a chain that is conditioned on frames; else 1."""
    return int(chain.args["hop"]) if chain.frames else 1


def told_at(subject: Subject, i: int, n: int, part: heard.Heard) -> torch.Tensor | None:
    """What `n` lanes are told that draw as a part of recording i is: its frames, or its class."""
    chain, data = subject.run.chain, subject.data
    if data is None or not chain.frames:
        return classes_at(subject, [i] * n)
    assert data.sources is not None
    first = round(part.start * part.rate) // hop_in(chain)
    return torch.from_numpy(np.asarray(data.sources[i])[first:])[None].repeat(n, 1, 1)


def surprising_recordings(subject: Subject) -> str:
    """The recordings that need most and fewest bits, and when they do."""
    if subject.scores is None or subject.data is None or subject.watch is None:
        return ""
    return "\n".join(surprising_sounds(subject.data, subject.scores, subject.watch))


def coloured_text(subject: Subject) -> str:
    """The beginning of a real text, coloured by surprise."""
    data, chain = subject.data, subject.run.chain
    first = next((i for i, event in enumerate(data.x if data else ()) if len(event)), None)
    if first is None or data is None:
        return ""
    x = torch.from_numpy(np.asarray(data.x[first])[: 2 * TEXT].astype(np.int64))[None]
    with torch.inference_mode():
        nats = -chain.log_probs(x, context_of(chain, data, [first]))[0]
    alphabet, symbols = data.alphabet, x[0].numpy()
    bits = alphabet.shared(symbols, nats.numpy() / math.log(2))
    return sections.surprising_text_section(BYTES.encode(alphabet.decode(symbols)), bits)


def reconstructions(subject: Subject) -> str:
    """Images beside what a code keeps of them."""
    code, codes = subject.run.model, subject.codes
    if codes is None or not isinstance(code, Code):
        return ""
    events = np.stack(subject.events(36))
    decoded = code.inverse_transform(codes[: len(events)])
    error = float(np.mean((decoded - events) ** 2))
    return sections.reconstructions_section(events, decoded, subject.levels, error, codes[0].size)


def atoms(subject: Subject) -> str:
    """The dictionary of a code."""
    if subject.atoms is None or subject.codes is None:
        return ""
    return sections.atoms_section(subject.atoms, np.abs(subject.codes).sum(0))


def filters(subject: Subject) -> str:
    """The filters of the first layer, when the page does not show them as atoms."""
    shown = subject.filters if subject.atoms is None else None
    return "" if shown is None else sections.filters_section(shown)


def sums(subject: Subject) -> str:
    """A few images as sums of atoms, when few atoms suffice."""
    weights = subject.codes
    if subject.atoms is None or weights is None or not is_sparse(weights):
        return ""
    images = subject.as_sums()
    # the most legible ones: of three to seven atoms, and well explained
    far = np.maximum(np.abs(np.count_nonzero(weights, axis=1) - 5), 2)
    left = images - np.einsum("nk,khwc->nhwc", weights, subject.atoms)
    energy, lost = (np.square(x).sum((1, 2, 3)) for x in (images, left))
    few = np.lexsort((lost / np.where(energy > 0, energy, 1), far))[:SUMS]
    prepared = getattr(subject.run.model, "before_", None) is not None
    return sections.sums_section(images[few], weights[few], subject.atoms, prepared)


def nonzeros(subject: Subject) -> str:
    """How many numbers of a sparse code are not 0."""
    codes = subject.codes
    if codes is None or codes.ndim != 2 or not is_sparse(codes):
        return ""
    return sections.nonzeros_section(np.count_nonzero(codes, axis=1), codes.shape[1], subject.what)


def is_sparse(codes: np.ndarray) -> bool:
    """Whether at least a quarter of all numbers are exactly 0: of a dense code hardly any is."""
    return bool(np.count_nonzero(codes) <= 0.75 * codes.size)


def facts(subject: Subject) -> str:
    """run.json as a table, and the commands."""
    info, run = subject.run.info, subject.run
    known: dict[str, Any] = {
        "model": info["model"],
        "its arguments": listed(info["args"]),
        "fitted to": info.get("data"),
        "seed": info.get("seed"),
        "threads": info.get("threads"),
        "items on this page": subject.what,
        "held out": held_out(info),
        "versions": listed(info.get("versions", {})),
        "identity (SHA-256)": store.sha256(run.model, TABLE),
    }
    lines = [fit_command(run)] if info.get("budget") else []
    lines += [f"chainrule report {shlex.quote(str(run.path))}"]
    return sections.facts_section({k: v for k, v in known.items() if v not in (None, "")}, lines)


CARDS: dict[str, list[tuple[str, Callable[[Subject], str]]]] = {
    "image": [
        ("samples", samples),
        ("classes", class_rows),
        ("completions", completions),
        ("surprise", surprise),
        ("scores", spread),
        ("training", training),
        ("codecs", codecs),
        ("facts", facts),
    ],
    "text": [
        ("samples", texts),
        ("surprise", coloured_text),
        ("scores", spread),
        ("training", training),
        ("codecs", codecs),
        ("facts", facts),
    ],
    "sound": [
        ("samples", sounds),
        ("completions", sound_completions),
        ("surprise", surprising_recordings),
        ("scores", spread),
        ("training", training),
        ("codecs", codecs),
        ("facts", facts),
    ],
    "array": [("scores", spread), ("training", training), ("codecs", codecs), ("facts", facts)],
    "code": [
        ("atoms", atoms),
        ("filters", filters),
        ("sums", sums),
        ("reconstructions", reconstructions),
        ("non-zeros", nonzeros),
        ("training", training),
        ("facts", facts),
    ],
}


# ---- helpers -------------------------------------------------------------------------------------------


def drawn_in_time(subject: Subject, counts, shape: tuple[int, ...] | None = None) -> tuple[int, float]:
    """(the largest count that PATIENCE allows, or 0; the seconds that the smallest would take)."""
    shape = shape or subject.shape()
    if shape is None:
        return 0, 0.0
    chain, least = subject.run.chain, min(counts)
    state, symbol = chain.start(least, shape, classes_in_turn(subject, least)), None
    taken = []
    with torch.inference_mode():
        for _ in range(min(5, math.prod(shape))):
            began = time.perf_counter()
            _, state = chain.step(state, symbol)
            symbol = torch.zeros(least, dtype=torch.long)
            taken.append(time.perf_counter() - began)
    seconds = min(taken) * math.prod(shape)  # the first step of a process is slow, and says nothing
    return max([n for n in counts if seconds * n / least <= PATIENCE], default=0), seconds


def sounds_in_time(subject: Subject, counts, length: int) -> tuple[int, float]:
    """As `drawn_in_time` for sounds of so many samples, by drawing some of them."""
    if not length:
        return 0, 0.0
    sound, least, tried = heard.sound_in(subject.run), min(counts), min(length, TRIED)
    if program_of(subject.run.chain) is None:
        return drawn_in_time(subject, counts, sound.shape(length))
    chain, context = subject.run.chain, classes_in_turn(subject, least)
    if chain.frames:
        context = torch.zeros(least, tried, chain.frames)
    for size in (1, tried):  # the first time compiled code is loaded, which says nothing
        began = time.perf_counter()
        sample(chain, least, sound.shape(size), context)
        taken = time.perf_counter() - began
    seconds = taken / tried * length
    return max([n for n in counts if seconds * n / least <= PATIENCE], default=0), seconds


def too_long(heading: str, subject: Subject, seconds: float) -> str:
    """The card in the place of samples that would take too long."""
    command = f"chainrule sample {shlex.quote(str(subject.run.path))}"
    if subject.shape() is None:
        return sections.note_section(heading, f"The model draws events of any shape: say which to {command}.")
    took = sections.duration(seconds)
    return sections.note_section(heading, f"Drawing these would take more than {took}: {command} does it.")


def classes_in_turn(subject: Subject, n: int) -> torch.Tensor | None:
    """(n,) classes 0, 1, ..., again and again; None for an unconditional chain."""
    return torch.arange(n) % subject.run.chain.classes if subject.run.chain.classes else None


def classes_at(subject: Subject, index: list[int]) -> torch.Tensor | None:
    """The classes of the items at `index`; None for an unconditional chain."""
    if subject.data is None or not subject.run.chain.classes:
        return None
    return torch.from_numpy(np.asarray(subject.data.context)[index].astype(np.int64))


def listed(pairs: dict[str, Any]) -> str:
    """`a=1, b=2`."""
    return ", ".join(f"{k}={v}" for k, v in sorted(pairs.items()))


def held_out(info: dict[str, Any]) -> str:
    """The score that the training ended with."""
    held, kind = info.get("held_out"), "exact for their tokens" if "tokens" in info else "exact"
    return (
        f"{held['items']:,} items, {held['bits_per_dim']:.4f} {unit_of(info.get('kind'))} ({kind}, all of them)"
        if held
        else ""
    )


def fit_command(run: Run) -> str:
    """The command line that makes this run again."""
    info, training, reading = run.info, run.info.get("training") or {}, run.info.get("reading") or {}
    chain = isinstance(run.model, Chain)
    options = {
        "model": info["model"],
        "size": info.get("size"),
        **(info.get("budget") or {}),
        **({k: training.get(k) for k in ("batch", "lr")} if chain else {}),
        **{k: info.get(k) for k in ("seed", "holdout", "threads")},
        **{k: reading.get(k) for k in ("patches", "count", "bits", "rate")},
        "source": reading.get("sources"),
        "start": (info.get("start") or {}).get("from"),
        "tokens": None if "start" in info else (info.get("tokens") or {}).get("given"),
    }
    words = ["chainrule", "fit", str(info.get("data") or "DATA")]
    for name, value in options.items():
        words += (
            [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
            if value is not None
            else []
        )
    for name, value in sorted((info.get("settings") or {}).items()):
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--conditional"] * bool(info.get("conditional")) + ["--gray"] * bool(reading.get("gray"))
    return shlex.join([*words, "-o", str(run.path)])
