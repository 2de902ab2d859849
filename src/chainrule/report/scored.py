"""`chainrule score RUN DATA --page FILE.html`: where a model was surprised, symbol by symbol, on one page.

`Watch` listens to the scoring and keeps what the page will show, however much is scored; `surprise_page` draws it.
"""

from __future__ import annotations

import heapq
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from chainrule import plots, store
from chainrule.console import COUNTED
from chainrule.data import BYTES, Dataset
from chainrule.models import TABLE, Run
from chainrule.report import heard, sections
from chainrule.report.page import (
    BLUE,
    DEPTHS,
    GREEN,
    RED,
    drawing,
    half,
    page,
    paragraph,
    picture,
    section,
    table,
    text,
)
from chainrule.verbs.score import Scores

ROOM = 1 << 15  # bytes of text that are shown of beginnings, all texts together
TEXTS = 8  # whose beginnings are shown, at most
PASSAGES, PASSAGE = 12, 240  # the most surprising passages of all texts, and the bytes of each
SOUNDS = 4  # most surprising recordings (of a single one: passages) that are shown, and as many least surprising ones
IMAGES, PIXELS = 12, 1 << 20  # images shown with their maps, at most, and their pixels together
ITEM = 144  # pixels across at which a small image is shown
SIDE = 512  # pixels: larger images and maps are shown smaller
LISTED = 20  # items in the table
STRETCHES = 160  # of a text whose means are drawn as a curve
MANY = 8  # items of which a histogram says something
SMALL = 128  # pixels: of images up to this size the least surprising are shown, too


@dataclass(frozen=True)
class Excerpt:
    """A part of an item: which, from which symbol on, and the bits of its symbols."""

    item: int
    start: int
    bits: np.ndarray


class Watch:
    """Hears what the symbols of every item cost (see `score`), and keeps what the page shows; the rest is let go.

    >>> data = Dataset([np.frombuffer(b"ab", np.uint8)], 256, "text", ["a.txt"])
    >>> watch = Watch(data)
    >>> watch(0, np.log([2.0, 8.0]))
    >>> [excerpt.bits.tolist() for excerpt in watch.beginnings()]
    [[1.0, 3.0]]
    """

    def __init__(self, data: Dataset):
        self.data, self._coded = data.in_alphabet(BYTES), data  # texts in tokens are shown as bytes
        self.most = shown_at_most(data)
        self.fewest = min(SOUNDS, len(data) // 2)  # least surprising sounds
        self._items: list[
            tuple[float, int, int, Excerpt]
        ] = []  # a heap: the least surprising that is kept comes first
        self._passages: list[tuple[float, int, int, Excerpt]] = []
        self._least: list[tuple[float, int, int, Excerpt]] = []  # the same of the least surprising sounds
        self.course: np.ndarray | None = (
            None  # bits along the only text or sound, as means of equal stretches
        )

    def __call__(self, i: int, nats: np.ndarray) -> None:
        bits = nats / math.log(2)
        if self.data.kind == "text":
            self._hear_text(
                i, np.asarray(self.data.x[i]), self._coded.alphabet.shared(self._coded.x[i], bits)
            )
        elif self.data.sound is not None:
            self._hear_sound(i, bits if bits.ndim == 1 else bits.sum(1))
        elif self.data.kind == "image":
            self._keep(i, bits, Excerpt(i, 0, bits.sum(2)))  # bits a pixel (H, W)

    def _hear_text(self, i: int, symbols: np.ndarray, bits: np.ndarray) -> None:
        start, end = whole_characters(symbols, 0, ROOM // max(1, self.most))
        self._keep(i, bits, Excerpt(i, 0, bits[start:end].copy()))
        if len(self.data) == 1:
            self.course = plots.thinned(bits, STRETCHES)
        for first in surprising(bits):
            start, end = whole_characters(symbols, first, first + PASSAGE)
            passage = Excerpt(i, start, bits[start:end].copy())
            push(self._passages, (float(passage.bits.mean()), -i, -start, passage), PASSAGES)

    def _hear_sound(self, i: int, bits: np.ndarray) -> None:
        """bits (T,) of samples: of a long recording the part is kept that is as surprising as it is."""
        room = heard.room_of(self.data.sound.rate)  # type: ignore[union-attr]
        if len(self.data) == 1 and len(bits) > room:
            self.course, size = plots.thinned(bits, STRETCHES), max(1, room // 3)
            for first in surprising(bits, self.most, size):
                passage = Excerpt(i, first, bits[first : first + size].copy())
                self._keep(i, passage.bits, passage)
            return
        for sign, heap, most in ((1.0, self._items, self.most), (-1.0, self._least, self.fewest)):
            (first,) = surprising(sign * bits, 1, room)
            part = Excerpt(i, first, bits[first : first + room].copy())
            mean = float(bits.mean()) if len(bits) else 0.0
            push(heap, (sign * mean, -int(sign) * i, -first, part), most)  # one order, from both ends

    def _keep(self, i: int, bits: np.ndarray, excerpt: Excerpt) -> None:
        entry = float(bits.sum() / max(1, bits.size)), -i, -excerpt.start, excerpt
        push(self._items, entry, self.most)

    def beginnings(self) -> list[Excerpt]:
        """Of the most surprising items, these first: beginnings of texts, maps of images, parts of sounds."""
        return in_order(self._items)

    def least(self) -> list[Excerpt]:
        """Parts of the least surprising sounds, these first."""
        return in_order(self._least)

    def passages(self) -> list[Excerpt]:
        """The most surprising passages of all texts, these first; no two of them overlap."""
        return in_order(self._passages)


def in_order(heap: list[tuple[float, int, int, Excerpt]]) -> list[Excerpt]:
    """What a heap holds, the largest first."""
    return [excerpt for *_, excerpt in sorted(heap, key=lambda kept: kept[:3], reverse=True)]


def push(heap: list, entry: tuple, most: int) -> None:
    """Add an entry, of which the largest `most` stay."""
    heapq.heappush(heap, entry)
    if len(heap) > most:
        heapq.heappop(heap)


def shown_at_most(data: Dataset) -> int:
    """How many items are shown symbol by symbol."""
    if data.sound is not None:
        return SOUNDS if len(data) == 1 else min(SOUNDS, (len(data) + 1) // 2)
    return min(len(data), TEXTS if data.kind == "text" else shown_images(data))


def shown_images(data: Dataset) -> int:
    """How many images are shown with their maps: of large ones fewer, but one."""
    pixels = max(
        (min(shape[0], SIDE) * min(shape[1], SIDE) for shape in data.buckets if len(shape) == 3), default=1
    )
    return max(1, min(IMAGES, PIXELS // max(1, pixels)))


def surprising(bits: np.ndarray, most: int = PASSAGES, size: int = PASSAGE) -> list[int]:
    """Where the passages of `size` symbols begin that need most bits (T,), at multiples of size / 2, without overlap.

    >>> bits = np.zeros(100)
    >>> bits[[31, 32, 77]] = 9
    >>> surprising(bits, most=2, size=10)
    [25, 70]
    """
    step = max(1, size // 2)
    starts = np.arange(0, max(1, len(bits) - size + 1), step)
    total = np.concatenate([[0.0], np.cumsum(bits)])
    sums = total[np.minimum(starts + size, len(bits))] - total[starts]
    found: list[int] = []
    for i in np.argsort(-sums, kind="stable").tolist():
        if len(found) == most:
            break
        if all(abs(starts[i] - other) >= size for other in found):
            found.append(int(starts[i]))
    return found


def whole_characters(symbols: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """A stretch of a text of bytes, longer where it would cut characters of UTF-8: by 3 bytes at most on either side.

    >>> whole_characters(np.frombuffer("aéb".encode(), np.uint8), 2, 3)
    (1, 3)
    """

    def inside(i: int) -> bool:
        return 0 < i < len(symbols) and 0x80 <= int(symbols[i]) < 0xC0

    start, end = (
        next((i for i in range(start, start - 4, -1) if not inside(i)), start),
        min(end, len(symbols)),
    )
    return start, next((i for i in range(end, end + 4) if not inside(i)), end)


# ---- the page ------------------------------------------------------------------------------------------


def surprise_page(run: Run, data: Dataset, scores: Scores, watch: Watch, command: Sequence[str]) -> str:
    """The page, HTML. `watch` has heard the scoring that gave `scores`; `command` is what was typed."""
    unit = scores.unit
    title = f"{data.source or 'Data'}, as {run.info['model']} sees it"
    data = watch.data
    lead = (
        f"Every number is −log₂ p(symbol | what comes before it), {exactness(scores)}, by one pass over the data. "
        f"Context rule: {run.chain.context_rule()}."
    )
    if scores.tokens is not None:
        lead += " The bits of a token are divided evenly among its bytes."
    cards = {"text": text_cards, "image": image_cards, "sound": sound_cards}.get(data.kind, other_cards)
    every = [*cards(data, scores, watch), *common_cards(run, data, scores, unit, command)]
    return page(title, every, lead, numbers(data, scores, unit))


def exactness(scores: Scores) -> str:
    """What kind of number a score is."""
    return "exact" if scores.tokens is None else "exact for these tokens (so an upper bound for the text)"


def numbers(data: Dataset, scores: Scores, unit: str) -> dict[str, str]:
    """What stands large at the top."""
    bits, symbols = scores.nats.sum() / math.log(2), int(scores.symbols.sum())
    what = COUNTED.get(unit, "symbols")
    kind = {"text": "text", "image": "image", "sound": "recording"}.get(data.kind, "item")
    found = {
        "the whole": f"{scores.bits_per_dim:.4f} {unit}, {exactness(scores)}",
        "scored": f"{symbols:,} {what} in {len(data):,} {kind}{'s' * (len(data) != 1)}",
        "all together": f"{bits / 8:,.0f} bytes of −log₂ p",
    }
    return found | (
        {f"an {kind}, on average": f"{scores.nats_per_item:,.2f} nats"} if kind == "image" else {}
    )


def text_cards(data: Dataset, scores: Scores, watch: Watch) -> Iterator[str]:
    """The scale, the course of one text, passages, beginnings."""
    along = watch.course is not None and len(watch.course) == STRETCHES
    yield (half if along else section)(
        "How to read the colours",
        paragraph(
            "The deeper the ground, the more bits a letter needed: what surprised the model. Point at a letter to read "
            "its bits. A letter of several bytes has the sum of theirs; ↵ is a line break that was not expected."
        ),
        scale(),
    )
    if along and watch.course is not None:
        yield course_section(watch.course, int(scores.symbols[0]))
    passages = watch.passages()
    if int(scores.symbols.sum()) > 2 * PASSAGES * PASSAGE:
        yield passages_section(data, scores, passages)
    for excerpt in watch.beginnings():
        yield beginning_section(data, scores, excerpt)
    left = len(data) - len(watch.beginnings())
    if left:
        yield sections.note_section("Left out", f"{left:,} less surprising texts are not shown.")


def scale(most: int = DEPTHS) -> str:
    """The legend of grounds: a swatch a bit."""
    swatches = "".join(f"<i{f' class=s{d}' if d else ''}>{d}{'+' * (d == most)}</i>" for d in range(most + 1))
    uniform = f"{most} bits: as if all {2**most} bytes were equally likely"
    return f'<div class="scale">bits {swatches} <span>{text(uniform)}</span></div>'


def course_section(course: np.ndarray, length: int) -> str:
    """How surprise runs along a text of so many bytes: the means of equal stretches."""
    middle = (np.arange(len(course)) + 0.5) * length / len(course)
    return half(
        "Along the text",
        drawing(
            plots.curve({"surprise": (middle.tolist(), course.tolist())}, "byte", "bits/byte", top=1),
            f"Bits/byte along {length:,} bytes",
        ),
        paragraph(f"The means of stretches of {length / len(course):,.0f} bytes.", "note"),
    )


def passages_section(data: Dataset, scores: Scores, passages: Sequence[Excerpt]) -> str:
    """The passages that needed most bits."""
    shown = []
    for passage in passages:
        name = f"{scores.names[passage.item]}, " if len(data) > 1 else ""
        where = f"{name}byte {passage.start:,}: {float(passage.bits.mean()):.3f} bits/byte"
        shown.append(f"<div><h3>{text(where)}</h3>\n{coloured(data, passage)}</div>")
    return section(
        "Most surprising passages",
        paragraph(
            f"The {len(passages)} stretches of {PASSAGE} bytes that needed most bits, looked for every "
            f"{PASSAGE // 2} bytes of all that was scored."
        ),
        f'<div class="passages">{"".join(shown)}</div>',
    )


def beginning_section(data: Dataset, scores: Scores, excerpt: Excerpt) -> str:
    """A text, or its beginning, coloured."""
    size, shown = int(scores.symbols[excerpt.item]), len(excerpt.bits)
    bits = float(scores.each()[excerpt.item])
    note = f"{size:,} bytes at {bits:.4f} bits/byte."
    if shown < size:
        begun = float(excerpt.bits.mean())
        note += f" Shown are the first {shown:,}, at {begun:.4f} bits/byte; the other {size - shown:,} are left out."
    heading = "The text" if len(data) == 1 else str(scores.names[excerpt.item])
    return section(heading, paragraph(note, "note"), coloured(data, excerpt))


def coloured(data: Dataset, excerpt: Excerpt) -> str:
    """A part of a text, each character on the ground of its bits, which it also tells when it is pointed at."""
    stop = excerpt.start + len(excerpt.bits)
    some = np.asarray(data.x[excerpt.item])[excerpt.start : stop].astype(np.uint8).tobytes()
    letters = "".join(letter(*one) for one in plots.characters(some, excerpt.bits))
    return f'<pre class="surprise">{letters}</pre>'


def letter(character: str, bits: float) -> str:
    """A character of a text.

    >>> letter("<", 2.7)
    '<i class=s3 title=2.70>&lt;</i>'
    """
    depth = min(DEPTHS, round(max(bits, 0.0)))
    kind = f"s{depth}" if depth else ""
    if character == "\n" and depth:
        kind = f'"{kind} n"'
    named = f" class={kind}" if kind else ""
    return f"<i{named} title={max(bits, 0.0):.2f}>{escape(character)}</i>"


def image_cards(data: Dataset, scores: Scores, watch: Watch) -> Iterator[str]:
    """Maps of the most surprising images, then the least surprising ones."""
    yield maps_section(data, scores, watch.beginnings())
    sizes = [max(shape[:2]) for shape in data.buckets]
    if len(data) > watch.most and max(sizes, default=0) <= SMALL:
        yield least_section(data, scores)


def maps_section(data: Dataset, scores: Scores, shown: Sequence[Excerpt]) -> str:
    """Images, each beside the map of its bits a pixel; the scale is the same for all."""
    everything = np.concatenate([excerpt.bits.ravel() for excerpt in shown] or [np.zeros(1)])
    most = max(float(np.quantile(everything, 0.995)), 1e-9) if everything.size else 1.0
    pairs, large = [], any(max(e.bits.shape) > SMALL for e in shown)
    for excerpt in shown:
        name, bits = scores.names[excerpt.item], float(scores.each()[excerpt.item])
        caption = f"<figcaption><b>{bits:.4f}</b> {text(name)}</figcaption>"
        both = both_pictures(np.asarray(data.x[excerpt.item]), excerpt.bits, data.levels, most, str(name))
        pairs.append(f"<figure><div>{both}</div>{caption}</figure>")
    left = len(data) - len(shown)
    smaller = " Large ones are shown smaller." if any(max(e.bits.shape) > SIDE for e in shown) else ""
    rest = f" {left:,} less surprising images are not shown here." if left else ""
    ramp = f'<div class="scale"><span>0</span><i class="ramp"></i><span>{most:.2f} bits a pixel or more</span></div>'
    return section(
        "Where the model was surprised",
        paragraph(
            "The images that needed most bits, each beside its map: the deeper a pixel, the more bits it needed (all "
            f"its channels together). Under each image its bits/dim and its name.{smaller}{rest}"
        ),
        ramp,
        f'<div class="maps{" large" * large}">{"".join(pairs)}</div>',
    )


def least_section(data: Dataset, scores: Scores, most: int = 16) -> str:
    """The images that needed fewest bits, with their bits/dim and names."""
    order = np.argsort(scores.each(), kind="stable")[:most]
    return section(
        "Least surprising",
        sections.items(data.x, scores.each(), scores.names, data.levels, order),
    )


def both_pictures(event: np.ndarray, bits: np.ndarray, levels: int, most: float, name: str) -> str:
    """An image (H, W, C), and the map of its bits (H, W), small ones enlarged and large ones reduced."""
    shrink = max(1, math.ceil(max(bits.shape) / SIDE))
    scale = max(1, round(ITEM / max(bits.shape)))
    image = plots.image_grid([event], levels, scale=scale)
    heat = Image.fromarray(heat_map(bits, most).repeat(scale, 0).repeat(scale, 1))
    if shrink > 1:
        image, heat = image.reduce(shrink), heat.reduce(shrink)
    shown = picture(image, f"item {name}")
    return shown + picture(heat, f"bits a pixel of {name}", "pixels map")


def heat_map(bits: np.ndarray, most: float) -> np.ndarray:
    """Bits (H, W) as RGBA (H, W, 4): the colour of surprise, clear at 0, opaque at `most` and above."""
    heat = np.empty((*bits.shape, 4), np.uint8)
    heat[..., :3] = RED, GREEN, BLUE
    heat[..., 3] = np.rint(255 * np.clip(bits / most, 0, 1))
    return heat


def sound_cards(data: Dataset, scores: Scores, watch: Watch) -> Iterator[str]:
    """The most and the least surprising recordings; of a long one alone its course and passages."""
    if data.sound is None:
        return
    yield section("How to read the pictures", heard.legend(data.sound.rate, surprise=True))
    if watch.course is not None:
        yield course_of_sound(watch.course, int(scores.symbols[0]), data.sound.rate)
    yield from surprising_sounds(data, scores, watch)


def surprising_sounds(data: Dataset, scores: Scores, watch: Watch) -> Iterator[str]:
    """Cards of the most and the least surprising recordings; the scale of their bits over time is the same for all."""
    heading, number = "Most surprising" if len(data) > 1 else "The recording", "the whole recording"
    if watch.course is not None:
        heading, number = "Most surprising passages", "the passage"
    most, least = (
        [sound_of(data, scores, part) for part in parts] for parts in (watch.beginnings(), watch.least())
    )
    top = heard.greatest([*most, *least])
    yield heard.sounds_section(heading, f"The large number: bits/sample of {number}.", most, top)
    if least:
        yield heard.sounds_section("Least surprising", "", least, top)
    if (left := len(data) - len(most) - len(least)) > 0:
        yield sections.note_section("Left out", f"{left:,} recordings between these are not shown.")


def sound_of(data: Dataset, scores: Scores, part: Excerpt) -> heard.Heard:
    """A recording, or a part of it, with the bits of its samples."""
    assert data.sound is not None
    whole, count = np.asarray(data.x[part.item]), len(part.bits)
    samples = data.sound.samples(whole[part.start : part.start + count])
    rate, start = data.sound.rate, part.start / data.sound.rate
    name, bits, left = str(scores.names[part.item]), scores.each()[part.item], (len(whole) - count) / rate
    if len(data) == 1 and left:  # a passage of the only recording
        name, bits, left = f"second {start:.1f} to {start + count / rate:.1f}", part.bits.mean(), 0.0
    return heard.Heard(samples, rate, name, f"{bits:.3f}", part.bits, 0, start, left)


def course_of_sound(course: np.ndarray, length: int, rate: int) -> str:
    """How surprise runs along a long recording of so many samples."""
    middle = (np.arange(len(course)) + 0.5) * length / rate / len(course)
    return section(
        "Along the recording",
        drawing(
            plots.curve({"surprise": (middle.tolist(), course.tolist())}, "second", "bits/sample", top=1),
            f"Bits/sample along {length / rate:,.0f} seconds",
        ),
        paragraph(f"The means of stretches of {length / rate / len(course):,.2f} seconds.", "note"),
    )


def other_cards(data: Dataset, scores: Scores, watch: Watch) -> Iterator[str]:
    """Arrays have no picture."""
    yield from ()


def common_cards(run: Run, data: Dataset, scores: Scores, unit: str, command: Sequence[str]) -> Iterator[str]:
    """Every item's score, and the facts."""
    if len(data) > 1:
        yield items_section(data, scores, unit)
    if len(data) >= MANY:
        what = f"{len(data):,} items of {data.source or 'the data'}"
        yield sections.scores_section(scores.each(), scores.bits_per_dim, what, unit, exactness(scores))
    facts = {
        "model": run.info["model"],
        "fitted to": run.info.get("data"),
        "scored": data.source or None,
        "context rule": run.chain.context_rule(),
        "files left out": f"{len(data.skipped):,}" if data.skipped else None,
        "identity (SHA-256)": store.sha256(run.model, TABLE),
    }
    yield sections.facts_section({k: v for k, v in facts.items() if v}, [shlex.join(command)])


def items_section(data: Dataset, scores: Scores, unit: str) -> str:
    """The most surprising items as a table."""
    each = scores.each()
    order = np.argsort(-each, kind="stable")[:LISTED]
    rows = [
        (scores.names[i], f"{scores.symbols[i]:,}", f"{each[i]:.4f}", f"{scores.nats[i] / math.log(2):,.1f}")
        for i in order.tolist()
    ]
    more = f" of {len(data):,}; --json lists all" if len(data) > len(rows) else ""
    return (half if len(data) >= MANY else section)(
        "Most surprising items",
        paragraph(f"{len(rows):,} items{more}.", "note"),
        table(rows, ["item", COUNTED.get(unit, "symbols"), unit, "bits"]),
    )
