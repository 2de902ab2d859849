"""The sections of a page about a model, from arrays and numbers alone: they know no model and no run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from chainrule import plots
from chainrule.report.codecs import Codec
from chainrule.report.page import (
    commands,
    drawing,
    figure,
    half,
    paragraph,
    picture,
    row,
    section,
    table,
    text,
)

DIM = "bits/dim"
ITEM = 96  # pixels at which a single image is shown

Events = Sequence[np.ndarray] | np.ndarray


def samples_section(samples: Events, real: Events, levels: int) -> str:
    """New images, and as many real ones beside them when there are any."""
    shown = [figure(sheet(samples, levels), f"{len(samples)} sampled images", "drawn by the model")]
    if len(real):
        shown.append(figure(sheet(real, levels), f"{len(real)} real images", "real"))
    return section(
        "Samples beside real data" if len(real) else "Samples",
        paragraph("Drawn by the model, one symbol after the other."),
        row(*shown),
    )


def classes_section(samples: Events, classes: Sequence[str], levels: int) -> str:
    """Samples (classes × m) of each class, in the order of `classes`."""
    each = len(samples) // len(classes)
    rows = "".join(
        figure(
            sheet(samples[i * each : (i + 1) * each], levels, columns=each),
            f"{each} samples of class {name}",
            name,
        )
        for i, name in enumerate(classes)
    )
    return section(
        "Samples of each class",
        paragraph("The model was given the class and drew the image."),
        f'<div class="classes">{rows}</div>',
    )


def sheet(
    events: Events, levels: int, columns: int | None = None, known=None, width: int = 480
) -> Image.Image:
    """A grid of images, enlarged by a whole number to at most `width` pixels, as half a wide page holds."""
    columns = columns or math.ceil(math.sqrt(len(events)))
    side = max(max(np.shape(e)[:2]) for e in events)
    room = (width // columns - plots.GAP) // side
    return plots.image_grid(events, levels, columns, max(1, min(room, round(plots.SIDE / side))), known)


def completions_section(
    original: Events, known: np.ndarray, completions: Sequence[Events], levels: int
) -> str:
    """A row for each original: original | what was given of it | its completions."""
    events: list[np.ndarray] = []
    shown: list[np.ndarray | None] = []
    for event, found in zip(original, completions, strict=True):
        events += [event, event, *found]
        shown += [None, known, *[None] * len(found)]
    columns = 2 + len(completions[0])
    return section(
        "Completions",
        paragraph("The model is given a part and draws the rest, several times."),
        figure(
            sheet(events, levels, columns, shown, width=640),
            f"{len(original)} rows of images: original, the given part, {columns - 2} completions",
            "First column: original. Second: what was given. Then what the model made of it.",
        ),
    )


def surprise_section(
    events: Events, bits: np.ndarray, names: Sequence[str], levels: int, show: int = 16
) -> str:
    """The most and the least surprising images with their names and bits/dim (N,)."""
    order = np.argsort(-np.asarray(bits), kind="stable")
    show = min(show, (len(order) + 1) // 2)
    return section(
        "Most and least surprising",
        paragraph(
            "Under each image: the bits/dim that the model needs for it, and its name. Many bits mean that "
            "the model expected something else: look there for outliers, wrong labels and damaged files."
        ),
        "<h3>Most surprising</h3>",
        items(events, bits, names, levels, order[:show]),
        "<h3>Least surprising</h3>",
        items(events, bits, names, levels, order[::-1][:show]),
    )


def items(events: Events, bits: np.ndarray, names: Sequence[str], levels: int, index: np.ndarray) -> str:
    """Images with their bits/dim and names under them."""
    cells = []
    for i in index:
        enlarged = max(1, round(ITEM / max(np.shape(events[i])[:2])))
        image = picture(plots.image_grid([events[i]], levels, scale=enlarged), f"item {names[i]}")
        caption = f"<figcaption><b>{bits[i]:.3f}</b>{text(names[i])}</figcaption>"
        cells.append(f"<figure>{image}{caption}</figure>")
    return f'<div class="items">{"".join(cells)}</div>'


def scores_section(bits: np.ndarray, total: float, what: str, unit: str = DIM, kind: str = "exact") -> str:
    """How the bits (N,) of items, in `unit`, are spread. `total` is that of all together, `what` says which items."""
    return half(
        f"{unit.capitalize()} of each item",
        paragraph(f"{what}: {total:.4f} {unit} all together, {kind}, every item counted once."),
        drawing(plots.histogram({"items": bits}, unit), f"Histogram of the {unit} of {len(bits)} items"),
    )


def codecs_section(codecs: Sequence[Codec], model: float, levels: int, what: str, unit: str = DIM) -> str:
    """The model's bits/dim beside those of codecs on the same items, as bars with numbers."""
    ours, thing = "chainrule, this model", "sample" if unit == "bits/sample" else "symbol"
    rows = sorted([(ours, model), *[(c.name, c.bits_per_dim) for c in codecs]], key=lambda r: r[1])
    uniform = float(np.log2(levels))
    return section(
        "Beside other codecs",
        paragraph(
            f"Lossless, bits a {thing} on the same data: {what}. The codecs' numbers are whole files with "
            f"their headers. The model's number is −log₂ p(x), which an archive needs but for its container "
            f"and the model itself. A {thing} has {levels:,} levels: {uniform:.3f} bits if all are equally "
            f"likely. The codecs store it in {max(8, math.ceil(uniform))} bits or, where that was smaller, in fewer."
        ),
        plots.bars(rows, unit, own=[ours]),
        paragraph("Forms: " + "; ".join(f"{c.name}: {c.best}" for c in codecs) + ".", "note"),
    )


def training_section(metrics: Sequence[Mapping[str, Any]], unit: str = DIM) -> str:
    """The training curve, from the lines of metrics.jsonl: of a chain in bits, of a code its loss.

    Trainings that follow each other have losses of their own, and each a curve of its own.
    """
    stages = sorted({m["stage"] for m in metrics if "stage" in m})
    if len(stages) > 1:
        return stages_section(metrics, stages)
    kinds = {"training": "loss_bits", "held out": "val_bits"}
    if any("loss" in m for m in metrics):
        kinds, unit = {"training": "loss"}, "loss"
    series = {}
    for name, key in kinds.items():
        points = [(m["seconds"], m[key]) for m in metrics if key in m]
        if points:
            series[name] = [x for x, _ in points], [y for _, y in points]
    if not series:
        return ""
    last, held = metrics[-1], "held out" in series
    ended = f" The loss of the last batch was {last['loss']:.4g}." if "loss" in last else ""
    return half(
        "Training",
        paragraph(f"{last['step']:,} steps in {duration(last['seconds'])}.{ended}"),
        drawing(
            plots.curve(series, "seconds of training", unit),
            f"{unit.capitalize()} of batches in training{' and of held-out items' * held}, falling with time",
            "Training: a batch each."
            + " Held out: an estimate on part of the items that are kept from training." * held,
        ),
    )


def stages_section(metrics: Sequence[Mapping[str, Any]], stages: Sequence[float]) -> str:
    """A training curve for each of the `stages` that lines of metrics.jsonl tell of."""
    drawn = []
    for stage in stages:
        own = [m for m in metrics if m.get("stage") == stage and "loss" in m]
        points = [m["seconds"] for m in own], [m["loss"] for m in own]
        what = f"Stage {stage:g} of {stages[-1]:g}"
        curve = plots.curve({what: points}, "seconds of training", "loss")
        drawn.append(drawing(curve, f"Loss of batches in stage {stage:g} against time", what))
    last = metrics[-1]
    return section(
        "Training",
        paragraph(
            f"{last['step']:,} steps in {duration(last['seconds'])}, in {len(stages)} stages, each of which measures "
            "a loss of its own; one that compares data with samples need not fall. "
            f"The loss of the last batch was {last['loss']:.4g}."
        ),
        row(*drawn),
    )


def texts_section(samples: Sequence[np.ndarray], note: str = "") -> str:
    """Texts (T,) of bytes that the model wrote."""
    return section("Samples", paragraph(note), *[plots.show_text(sample) for sample in samples])


def surprising_text_section(x: np.ndarray, bits: np.ndarray) -> str:
    """A text (T,) of bytes, coloured by the bits (T,) that each byte needed."""
    return section(
        "Where the model was surprised",
        paragraph("Real text: the deeper the ground, the more bits a letter needed."),
        plots.surprise_text(x, bits),
        paragraph(f"{len(x):,} bytes at {float(np.mean(bits)):.3f} bits a byte.", "note"),
    )


def reconstructions_section(original: Events, decoded: Events, levels: int, error: float, width: int) -> str:
    """Images and what is left of them after a code of `width` numbers."""
    return section(
        "Originals and reconstructions",
        paragraph(
            f"Each image became {width} numbers, and these an image again: mean squared error {error:.4g}."
        ),
        row(
            figure(sheet(original, levels), f"{len(original)} images", "original"),
            figure(sheet(decoded, levels), f"{len(decoded)} reconstructions", "from its code"),
        ),
    )


def atoms_section(atoms: np.ndarray, usage: np.ndarray, most: int = 256) -> str:
    """Atoms (K, h, w, C), the `most` used first; `usage` (K,) is how much each is used."""
    order = np.argsort(-usage, kind="stable")[:most]
    which = "All" if len(order) == len(atoms) else f"The {len(order):,} most used of"
    idle = int((usage == 0).sum())
    unused = f" {idle:,} of them are in no code of these items." if idle else ""
    columns, scale = sheet_size(atoms, len(order))
    return section(
        "The atoms",
        paragraph(
            f"{which} {len(atoms):,} atoms, in falling order of the sum of their magnitudes in the codes.{unused} "
            "Each is scaled by its own largest magnitude; 0 is middle gray."
        ),
        figure(plots.atoms_sheet(atoms, order, columns, scale), f"{len(order)} atoms"),
    )


def filters_section(filters: np.ndarray, most: int = 256) -> str:
    """Filters (K, h, w, C) of the first layer, the `most` of largest norm first."""
    strength = np.square(filters, dtype=np.float64).sum((1, 2, 3))
    order = np.argsort(-strength, kind="stable")[:most]
    which = "All" if len(order) == len(filters) else f"The {len(order):,} strongest of"
    columns, scale = sheet_size(filters, len(order))
    return section(
        "What its units look for",
        paragraph(
            f"{which} {len(filters):,} filters of the first layer, in falling order of their norm. A unit answers to "
            "images that are bright where its filter is bright, and dark where it is dark. Each is scaled by its own "
            "largest magnitude; 0 is middle gray."
        ),
        figure(plots.atoms_sheet(filters, order, columns, scale), f"{len(order)} filters"),
    )


def sheet_size(atoms: np.ndarray, count: int) -> tuple[int, int]:
    """(columns, scale) of a sheet of `count` atoms (K, h, w, C) that fills a wide page."""
    columns = math.ceil(math.sqrt(1.6 * count))
    return columns, max(1, min(round(plots.ATOM / atoms.shape[1]), (960 // columns - 1) // atoms.shape[2]))


def sums_section(images: np.ndarray, weights: np.ndarray, atoms: np.ndarray, prepared: bool = False) -> str:
    """Images (n, h, w, C) as sums of atoms (K, h, w, C) with weights (n, K); `prepared`: as a code before made them."""
    x = "as it is prepared for the code" if prepared else "less what the code adds to every image"
    drawn = [
        drawing(plots.equation(image, row_, atoms), f"An image as a sum of {np.count_nonzero(row_)} atoms")
        for image, row_ in zip(images, weights, strict=True)
    ]
    return section(
        "Images as sums of atoms",
        paragraph(f"x is an image {x}. The largest weights are shown."),
        row(*drawn),
    )


def nonzeros_section(counts: np.ndarray, width: int, what: str) -> str:
    """How many of the `width` numbers of a code are not 0, (n,) counts; `what` says of which items."""
    return half(
        "How sparse the codes are",
        paragraph(
            f"{len(counts):,} {what}: {counts.mean():.1f} of {width:,} numbers are not 0 on average, "
            f"{counts.min():,} to {counts.max():,}."
        ),
        drawing(
            plots.histogram({"items": counts}, "numbers that are not 0"),
            f"Histogram of the non-zeros of {len(counts)} codes",
        ),
    )


def facts_section(facts: Mapping[str, Any], lines: Sequence[str] = (), heading: str = "Facts") -> str:
    """What was done, and the commands that do it again."""
    again = f"<h3>The commands</h3>\n{commands(lines)}" if lines else ""
    return section("Facts", table(facts.items()), again)


def note_section(heading: str, words: str) -> str:
    """A sentence in the place of what could not be shown."""
    return section(heading, paragraph(words))


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(7.26), duration(95), duration(7300)
    ('7.3 seconds', '1 min 35 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} seconds" if seconds >= 1 else f"{1000 * seconds:.0f} milliseconds"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
