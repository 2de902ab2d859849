"""Pictures of events and of numbers: grids of images, curves, histograms, bars, sounds, text coloured by surprise.

Everything is drawn to be read on a light and on a dark page: grids have transparent gaps, figures a
transparent ground and ink that follows the reader's setting.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from chainrule.errors import ChainruleError

# Middle tones: at least 3:1 in contrast against white and against near-black, and told apart by people who
# do not see red or green as others do.
BLUE, ORANGE, GREEN, VIOLET, RED = "#3d85c8", "#d9772b", "#2f9e77", "#9a70cf", "#d3505f"
PALETTE = (BLUE, ORANGE, GREEN, VIOLET, RED)
# Ten classes at once, told apart by as many people as can be: Petroff 2021, "Accessible color sequences".
CLASSES = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)

GAP = 2  # pixels between images of a grid
SIDE = 64  # pixels at which a small image is comfortable to look at
ATOM = 48  # the same for an atom, of which there are many
MASKED = (128, 136, 150, 72)  # RGBA of a pixel that is not given
COVER = (217, 119, 43, 255)  # the same where that is what a picture is about
MOST_POINTS = 500  # points drawn of a curve
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
INK = "#010203"  # stands for the reader's own ink while matplotlib draws


# ---- events -> images ----------------------------------------------------------------------------------


def pixels(event: np.ndarray, levels: int) -> np.ndarray:
    """An image (H, W, C) of symbols 0..levels-1 as 8-bit RGB (H, W, 3); 0 is black, levels-1 is white.

    Real numbers (a reconstruction) are clipped and rounded. C is 1 (gray), 3 (RGB) or 4 (RGB and alpha, which
    is left out).
    """
    event = np.asarray(event)
    if event.ndim != 3 or event.shape[2] not in (1, 3, 4):
        raise ChainruleError(f"an event of shape {event.shape} is no image: (height, width, 1 or 3) is")
    scaled = np.clip(event[:, :, :3].astype(np.float64) * (255 / max(levels - 1, 1)), 0, 255)
    return np.broadcast_to(np.rint(scaled).astype(np.uint8), (*event.shape[:2], 3))


def image_grid(
    events: Sequence[np.ndarray] | np.ndarray,
    levels: int,
    columns: int | None = None,
    scale: int | None = None,
    known: Sequence[np.ndarray | None] | np.ndarray | None = None,
    veil: tuple[int, int, int, int] = MASKED,
) -> Image.Image:
    """Images (N, H, W, C), or of several sizes, side by side in a transparent RGBA picture, row by row.

    Args:
        levels: K, the number of symbols: symbol K-1 is white.
        columns: images a row; by default the grid is about square.
        scale: every pixel becomes scale × scale; by default small images are enlarged to about 64 pixels.
        known: for every event, or None, where it is given (bool, its shape): elsewhere a veil is drawn.
        veil: its colour, RGBA.

    Example:
        >>> image_grid(np.zeros((6, 8, 8, 1), int), levels=17, columns=3, scale=2).size
        (52, 34)
    """
    if not len(events):
        raise ChainruleError("there are 0 images to show: a grid needs at least 1")
    height, width = np.max([np.shape(e)[:2] for e in events], axis=0).tolist()
    columns = columns or math.ceil(math.sqrt(len(events)))
    scale = scale or max(1, round(SIDE / max(height, width, 1)))
    rows = math.ceil(len(events) / columns)
    across, down = width * scale + GAP, height * scale + GAP
    grid = np.zeros((rows * down - GAP, columns * across - GAP, 4), np.uint8)
    for i, event in enumerate(events):
        cell = with_alpha(event, levels, None if known is None else known[i], veil)
        cell = cell.repeat(scale, axis=0).repeat(scale, axis=1)
        # a smaller image stands in the middle of its cell
        y = i // columns * down + (height * scale - cell.shape[0]) // 2
        x = i % columns * across + (width * scale - cell.shape[1]) // 2
        grid[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return Image.fromarray(grid)


def with_alpha(
    event: np.ndarray, levels: int, known: np.ndarray | None, veil: tuple[int, int, int, int] = MASKED
) -> np.ndarray:
    """An image as RGBA (H, W, 4), with a veil over the pixels of which nothing is known."""
    rgb = pixels(event, levels)
    cell = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    if known is not None:
        cell[~np.asarray(known).any(axis=2)] = veil
    return cell


def atoms_sheet(
    atoms: np.ndarray,
    order: Sequence[int] | np.ndarray | None = None,
    columns: int | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Atoms (K, h, w) or (K, h, w, C), C 1 or 3, side by side with transparent gaps of one pixel, RGBA.

    Every atom is scaled by its own largest magnitude: 0 is middle gray, ±1 of that is white or black.

    Args:
        order: which atoms, in what order, such as np.argsort(-usage); by default all as they come.
        columns: atoms a row; by default the sheet is about square.
        scale: every pixel becomes scale × scale; by default small atoms are enlarged to about 48 pixels.

    Example:
        >>> atoms_sheet(np.zeros((6, 12, 12)), columns=3, scale=2).size
        (74, 49)
    """
    chosen = np.asarray(atoms) if order is None else np.asarray(atoms)[np.asarray(order, int)]
    if not len(chosen):
        raise ChainruleError("there are 0 atoms to show: a sheet needs at least 1")
    tones = [toned(atom) for atom in chosen]
    height, width = tones[0].shape[:2]
    columns = columns or math.ceil(math.sqrt(len(tones)))
    scale = scale or max(1, round(ATOM / max(height, width)))
    across, down = width * scale + 1, height * scale + 1
    sheet = np.zeros((math.ceil(len(tones) / columns) * down - 1, columns * across - 1, 4), np.uint8)
    for i, tone in enumerate(tones):
        y, x = i // columns * down, i % columns * across
        cell = sheet[y : y + height * scale, x : x + width * scale]
        cell[:, :, :3] = tone.repeat(scale, axis=0).repeat(scale, axis=1)
        cell[:, :, 3] = 255
    return Image.fromarray(sheet)


def toned(atom: np.ndarray) -> np.ndarray:
    """Signed numbers (h, w) or (h, w, C) as RGB (h, w, 3): 0 is middle gray, the largest magnitude white or black."""
    atom = np.asarray(atom, np.float64)
    atom = atom[:, :, None] if atom.ndim == 2 else atom
    if atom.ndim != 3 or atom.shape[2] not in (1, 3):
        raise ChainruleError(
            f"an atom of shape {atom.shape} is no picture: (height, width) or (…, 1 or 3) is"
        )
    largest = np.abs(atom).max(initial=0) or 1.0
    tone = np.rint(127.5 + 127.5 * (atom / largest)).astype(np.uint8)
    return np.broadcast_to(tone, (*atom.shape[:2], 3))


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# ---- numbers -> figures --------------------------------------------------------------------------------


# A drawing function makes a matplotlib figure; its argument `form` says what becomes of that: `svg` or `raster`.
Form = Callable[[Any], Any]


def svg(figure) -> str:
    """A matplotlib figure as the text of an SVG picture whose ink follows the reader's dark setting."""
    import matplotlib

    buffer = io.StringIO()
    # text stays text; identifiers and dates do not change from run to run
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "chainrule", "font.family": "sans-serif"}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "var(--ink)")
    ink = "svg{--ink:#26303c;font-family:system-ui,sans-serif}"
    dark = "@media (prefers-color-scheme:dark){svg{--ink:#dde3ea}}"
    return text.replace("<defs>", f"<defs><style>{ink}{dark}</style>", 1)


def raster(figure) -> Image.Image:
    """A matplotlib figure as dark ink on white, two pixels where a screen would have one."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return Image.open(buffer).convert("RGB")


def curve(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, top: float = 0.98
) -> str:
    """Named lines (x, y) as an SVG picture. A series of fewer than 30 points has its points marked.

    The vertical axis ends at the quantile `top` of the values: a steep beginning must not flatten the rest.
    """
    figure, axes = blank(xlabel, ylabel)
    for (name, (x, y)), colour in zip(series.items(), PALETTE, strict=False):
        few = len(x) < 30
        style: Any = {"lw": 2 if few else 1.4, "marker": "o" if few else "", "ms": 4, "color": colour}
        axes.plot(thinned(np.asarray(x, float)), thinned(np.asarray(y, float)), label=plain(name), **style)
    values = np.concatenate([np.asarray(y, float) for _, y in series.values()] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if len(values) > 1 and values.max() > values.min():
        low, high = values.min(), np.quantile(values, top)
        room = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, loc="best")
    return svg(figure)


def histogram(
    series: Mapping[str, Sequence[float] | np.ndarray],
    xlabel: str,
    ylabel: str = "items",
    mark: float | None = None,
    form: Form = svg,
) -> Any:
    """Named lists of numbers as overlaid histograms with common bins, an SVG picture; a line at `mark`."""
    figure, axes = blank(xlabel, ylabel)
    values = {name: np.asarray(v, float)[np.isfinite(v)] for name, v in series.items()}
    together = np.concatenate([*values.values(), np.zeros(0)])
    axes.yaxis.get_major_locator().set_params(integer=True)
    bins = np.histogram_bin_edges(together, bins=int(np.clip(math.sqrt(len(together)) * 1.5, 8, 40)))
    for (name, v), colour in zip(values.items(), PALETTE, strict=False):
        axes.hist(v, bins=bins, color=colour, alpha=0.8, label=plain(name), rwidth=0.92)
    if mark is not None:
        axes.axvline(mark, color=INK, lw=1, alpha=0.6, ls="--")
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return form(figure)


def equation(
    image: np.ndarray,
    weights: np.ndarray,
    atoms: np.ndarray,
    most: int = 7,
    columns: int = 4,
    form: Form = svg,
) -> Any:
    """An image (h, w[, C]) written as weights (K,) times atoms (K, h, w[, C]), an SVG picture.

    `0.8 φ₃₆ + 0.3 φ₄₂ + 0.5 φ₆₅`, every φ drawn, numbered from 0 and in the order of their numbers; of more than
    `most` weights that are not 0 the largest are shown, and how many are left out is said. Image and atoms are
    each scaled by their own largest magnitude: 0 is middle gray.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or len(weights) != len(atoms):
        raise ChainruleError(f"weights of shape {weights.shape} for {len(atoms)} atoms: give each atom one")
    shown = terms(weights, most)
    pictures = [("", image, "x" if shown else "x ≈ 0")]
    pictures += [("≈ " * (i == 0) + term, atoms[k], phi(k)) for i, (term, k) in enumerate(shown)]
    left = np.count_nonzero(weights) - len(shown)
    return form(row_of(pictures, f"+ {left} smaller" if left else "", columns))


def in_words(weights: np.ndarray, most: int = 7) -> str:
    """The same as `equation` in a line of text.

    >>> in_words(np.array([0.0, 0.83, -0.5]))
    'x ≈ 0.83 φ₁ − 0.5 φ₂'
    """
    shown = terms(np.asarray(weights, np.float64), most)
    left = np.count_nonzero(weights) - len(shown)
    words = [f"{term} {phi(k)}" for term, k in shown] or ["0"]
    return " ".join(["x ≈", *words, *([f"+ {left} smaller"] if left else [])])


def terms(weights: np.ndarray, most: int) -> list[tuple[str, int]]:
    """(sign and magnitude, place) of the `most` largest weights (K,) that are not 0, in the order of their places."""
    used = np.flatnonzero(weights)
    shown = np.sort(used[np.argsort(-np.abs(weights[used]), kind="stable")][:most])
    minus, plus = ["−", *["− "] * (most - 1)], ["", *["+ "] * (most - 1)]
    signs = [(minus if weights[k] < 0 else plus)[i] for i, k in enumerate(shown)]
    return [(sign + rounded(abs(weights[k])), int(k)) for sign, k in zip(signs, shown, strict=True)]


def phi(k: int) -> str:
    """φ₃₆."""
    return f"φ{k}".translate(SUBSCRIPTS)


def rounded(number: float) -> str:
    """A number to two digits, without an exponent: 0.8, 0.031, 12."""
    return np.format_float_positional(number, precision=2, fractional=False, trim="-")


def row_of(pictures: Sequence[tuple[str, np.ndarray, str]], end: str, columns: int):
    """Pictures with a text before and a text below each, and a text at the end: a figure."""
    from matplotlib.figure import Figure

    cell, high, side = 1.6, 1.05, 0.75  # inches
    lines = math.ceil(len(pictures) / columns) + (0.25 if end else 0)
    figure = Figure(figsize=(columns * cell, lines * high))
    width, height = figure.get_size_inches()
    for i, (before, picture, below) in enumerate(pictures):
        tone = toned(picture)
        enlarged = tone.repeat(8, axis=0).repeat(8, axis=1)  # viewers smooth what they enlarge themselves
        left, bottom = i % columns * cell + cell - side, height - i // columns * high - side - 0.05
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.imshow(enlarged, interpolation="none")
        axes.set_axis_off()
        middle = (bottom + side / 2) / height
        figure.text((left - 0.06) / width, middle, before, color=INK, ha="right", va="center", size=10.5)
        figure.text(
            (left + side / 2) / width, (bottom - 0.12) / height, below, color=INK, ha="center", va="center"
        )
    if end:
        figure.text(0.98, 0.12 / height, end, color=INK, ha="right", va="center", size=10)
    return figure


def image_rows(rows: Mapping[str, np.ndarray], levels: int, form: Form = svg) -> Any:
    """Rows of images (n, H, W, C), each with its name before it, an SVG picture. Images as `image_grid` takes them."""
    from matplotlib.figure import Figure

    sheets = [image_grid(events, levels, columns=len(events)) for events in rows.values()]
    gap, across = 6, max(sheet.width for sheet in sheets)  # pixels
    high = sum(sheet.height + gap for sheet in sheets) - gap
    figure, y = Figure(figsize=(across / 100, high / 100)), 0
    for name, sheet in zip(rows, sheets, strict=True):
        place = 0, 1 - (y + sheet.height) / high, sheet.width / across, sheet.height / high
        axes = figure.add_axes(place)
        axes.imshow(sheet.resize((2 * sheet.width, 2 * sheet.height), 0), interpolation="none")
        axes.set_axis_off()
        middle = place[1] + place[3] / 2
        figure.text(
            -8 / across, middle, plain(name), color=INK, ha="right", va="center", ma="right", size=8.5
        )
        y += sheet.height + gap
    return form(figure)


def image_columns(
    groups: Mapping[str, np.ndarray],
    levels: int,
    known: Mapping[str, np.ndarray] | None = None,
    form: Form = svg,
) -> Any:
    """Groups of columns of images (rows, n, H, W, C), each with its name above it, an SVG picture.

    Args:
        known: for some groups where their images are given (bool, H, W, C): elsewhere they are covered in colour.
    """
    from matplotlib.figure import Figure

    sheets = {}
    for name, events in groups.items():
        count, columns, *event = events.shape
        given = None if known is None or name not in known else [known[name]] * (count * columns)
        sheets[name] = image_grid(events.reshape(-1, *event), levels, columns, known=given, veil=COVER)
    gap, top = 14, 22  # pixels
    across = sum(sheet.width + gap for sheet in sheets.values()) - gap
    high = max(sheet.height for sheet in sheets.values()) + top
    figure, x = Figure(figsize=(across / 100, high / 100)), 0
    for name, sheet in sheets.items():
        axes = figure.add_axes((x / across, 0, sheet.width / across, sheet.height / high))
        axes.imshow(sheet.resize((2 * sheet.width, 2 * sheet.height), 0), interpolation="none")
        axes.set_axis_off()
        middle = (x + sheet.width / 2) / across
        figure.text(middle, 1 - 6 / high, plain(name), color=INK, ha="center", va="top", size=9)
        x += sheet.width + gap
    return form(figure)


def class_maps(maps: Mapping[str, np.ndarray], labels: np.ndarray, form: Form = svg) -> Any:
    """Points (n, 2) in the colours of their labels (n,) 0..9, a map beside the other, an SVG picture.

    The label of a class stands at its median, or beside it where two would stand in one place. Axes end where 99.5 %
    of the points do.
    """
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    side = 3.4  # inches
    figure = Figure(figsize=(side * len(maps), side + 0.3), layout="constrained")
    for i, (name, points) in enumerate(maps.items()):
        axes = figure.add_subplot(1, len(maps), i + 1)
        low, high = np.percentile(points, (0.25, 99.75), axis=0)
        low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
        colours = [CLASSES[label % len(CLASSES)] for label in labels]
        axes.scatter(points[:, 0], points[:, 1], s=3, c=colours, lw=0, alpha=0.7, rasterized=True)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
        axes.set_title(plain(name), color=INK, size=11)
        classes = np.unique(labels)
        medians = np.stack([np.median(points[labels == label], axis=0) for label in classes])
        for label, (x, y) in zip(classes, apart((medians - low) / (high - low)), strict=True):
            around = [withStroke(linewidth=3, foreground="white")]
            style: Any = {"size": 13, "weight": "bold", "color": "black", "path_effects": around}
            axes.text(x, y, str(label), transform=axes.transAxes, ha="center", va="center", **style)
        for spine in axes.spines.values():
            spine.set(color=INK, alpha=0.4)
    return form(figure)


def apart(places: np.ndarray, least: float = 0.08) -> np.ndarray:
    """Places (n, 2) in the unit square, moved as little as it takes for any two to be `least` apart, or nearly.

    >>> apart(np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.9]])).round(2).tolist()
    [[0.46, 0.5], [0.54, 0.5], [0.9, 0.9]]
    """
    found = np.array(places, float)
    found[:, 0] += 1e-6 * np.arange(len(found))  # those in the same place have a way to go
    for _ in range(200):
        way = found[:, None] - found[None]  # (n, n, 2)
        far = np.sqrt(np.square(way).sum(2)) + np.eye(len(found))
        short = (least * 1.01 - far).clip(min=0) * (1 - np.eye(len(found)))
        if not short.any():
            break
        found += (way * (short / far)[:, :, None]).sum(1) / 2
    return found


def gabor_plot(fits: Any, side: int, form: Form = svg) -> Any:
    """Gabor functions fitted to atoms of side × side pixels (a `GaborFits`), an SVG picture.

    Left: where they are and how their stripes run in the square of the atom, each a line as long as a standard
    deviation of its window, but no longer than a quarter of the square. Right: the same orientations against the
    frequency in cycles/pixel.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    place = figure.add_subplot(1, 2, 1)
    place.add_collection(LineCollection(list(segments(fits, side)), colors=BLUE, lw=1.4, alpha=0.8))
    place.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    place.set_xlabel(f"position in {side} × {side} pixels", color=INK)
    turn = figure.add_subplot(1, 2, 2, projection="polar")
    turn.plot(fits.orientation, fits.frequency, ls="", marker="o", ms=3.5, mew=0, color=ORANGE, alpha=0.8)
    turn.set(thetamin=0, thetamax=180, ylim=(0, max([0.5, *fits.frequency])), yticks=[0.25, 0.5])
    turn.set_xlabel("orientation, cycles/pixel", color=INK)
    turn.grid(color=INK, alpha=0.14, lw=0.8)
    for axes in (place, turn):
        axes.tick_params(colors=INK, length=0, labelsize=9)
        for spine in axes.spines.values():
            spine.set(color=INK, alpha=0.4)
    return form(figure)


def segments(fits: Any, side: int) -> np.ndarray:
    """The ends (K, 2, 2) of the lines of `gabor_plot`: x and y in pixels, y downwards."""
    half = np.stack([np.cos(fits.orientation), -np.sin(fits.orientation)], 1)
    half *= np.minimum(fits.width_along, side / 4)[:, None] / 2
    centre = np.stack([fits.x, fits.y], 1)
    return np.stack([centre - half, centre + half], 1)


def valued_texts(
    titles: Sequence[str],
    texts: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    ends: tuple[str, str],
    columns: int = 72,
    form: Form = svg,
) -> Any:
    """Texts of bytes (T,) whose characters lie on the colours of their values (T,), an SVG picture.

    A character of several bytes has the value of its last. The ground is orange below 0 and blue above, the deeper the
    farther from it; the deepest belongs to the 98th percentile of all distances.

    Args:
        ends: what it means to lie far below 0, and far above.
        columns: characters a line; lines are broken between words.
    """
    from matplotlib.figure import Figure

    most = float(np.percentile(np.abs(np.concatenate([np.zeros(1), *values])), 98)) or 1.0
    blocks = [signs_of(text, own, columns) for text, own in zip(texts, values, strict=True)]
    lines = [1 + max([y for _, y, _, _ in block], default=0) for block in blocks]
    tops = np.cumsum([0.0, *(TITLE + n + SPACE for n in lines)])
    figure = Figure(figsize=(columns * WIDE * TYPE / 72, (tops[-1] + 1) * HIGH * TYPE / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns), ylim=(tops[-1] + 1, 0))
    axes.set_axis_off()
    for title, block, top in zip(titles, blocks, tops, strict=False):
        small(axes, 0, top + TITLE / 2, title)
        for sign, y, x, value in block:
            ground_at(axes, x, top + TITLE + y, value / most)
            style: Any = {"family": "monospace", "size": TYPE, "color": INK, "ha": "center", "va": "center"}
            axes.text(x + 0.5, top + TITLE + y + 0.52, plain(sign), **style)
    key(axes, tops[-1], ends)
    return form(figure)


TYPE, WIDE, HIGH = 10.0, 0.602, 1.5  # points of the type; a character and a line of it in units of them
TITLE, SPACE, KEY = 1.1, 0.5, 9  # lines of a title and after a text; squares of the scale of colours


def signs_of(text: np.ndarray, values: np.ndarray, columns: int) -> list[tuple[str, int, int, float]]:
    """(character, line, column, value) of each character of a text of bytes."""
    found = characters(np.asarray(text, np.uint8).tobytes(), np.ones(len(text)))
    signs = [" " if sign in "\n\t" else sign for sign, _ in found]
    last = np.cumsum([size for _, size in found]).astype(int) - 1
    places = laid_out(signs, columns)
    return [(sign, y, x, float(values[i])) for sign, (y, x), i in zip(signs, places, last, strict=True)]


def small(axes, x: float, y: float, text: str) -> None:
    """Words beside the texts."""
    axes.text(x, y, plain(text), color=INK, size=0.9 * TYPE, alpha=0.7, va="center")


def ground_at(axes, x: float, y: float, share: float) -> None:
    """The ground of a character at (x, y), from −1 to 1."""
    from matplotlib.patches import Rectangle

    depth = 0.8 * min(abs(share), 1.0)
    axes.add_patch(Rectangle((x, y), 1, 1, color=BLUE if share > 0 else ORANGE, alpha=depth, lw=0))


def key(axes, y: float, ends: tuple[str, str]) -> None:
    """What the grounds of `valued_texts` mean."""
    start = len(ends[0]) + 1
    small(axes, 0, y + 0.5, ends[0])
    for i, share in enumerate(np.linspace(-1, 1, KEY)):
        ground_at(axes, start + i, y, float(share))
    small(axes, start + KEY + 1, y + 0.5, ends[1])


def laid_out(signs: Sequence[str], columns: int) -> list[tuple[int, int]]:
    """(line, column) of each character, lines broken between words, or within one that is longer than a line.

    A space begins no line: it may stand beyond the end of one.

    >>> laid_out("so long", 5)
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    """
    places: list[tuple[int, int]] = []
    row = column = 0
    for i, sign in enumerate(signs):
        begins = sign != " " and i > 0 and signs[i - 1] == " "
        length = (
            next((n for n, other in enumerate(signs[i:]) if other == " "), len(signs) - i) if begins else 1
        )
        if sign != " " and column and column + min(length, columns) > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += 1
    return places


# ---- sounds -> figures ---------------------------------------------------------------------------------

WINDOW = 0.03  # seconds that a column of a spectrogram looks at, about
ROWS, COLUMNS = 129, 320  # of a spectrogram, at most
DEEP = 70.0  # dB from the loudest place of a spectrogram to the clear ground
FAINT = -60.0  # dB of full scale: what is nowhere louder is not drawn as if it were loud
SHADES = 24  # of a spectrogram
SHORT = 0.005  # seconds over which surprise is averaged, at least
TONES = (BLUE, VIOLET, ORANGE)  # of a spectrogram, from soft to loud


def sound_plot(
    samples: np.ndarray,
    rate: int,
    bits: np.ndarray | None = None,
    given: int = 0,
    start: float = 0.0,
    most: float | None = None,
    form: Form = svg,
) -> Any:
    """A sound, from top to bottom: its waveform, its spectrogram, and how it surprised; an SVG picture.

    Args:
        samples: (T,) int16.
        rate: samples a second.
        bits: (T,) what each sample needed, drawn as means of short windows; None: nothing is drawn.
        given: so many samples at the beginning were given to who made the others: their waveform is gray.
        start: the second at which the axis of time begins.
        most: bits at the top of the lowest axis, for pictures that are to be compared.
    """
    from matplotlib.figure import Figure

    heights = (1.0, 1.5) if bits is None else (1.0, 1.5, 0.9)  # inches
    high = sum(heights) + 0.6
    figure = Figure(figsize=(5.2, high))  # with fixed margins, so that pictures beside each other are alike
    room = {"left": 0.145, "right": 0.965, "top": 1 - 0.08 / high, "bottom": 0.48 / high, "hspace": 0.12}
    every = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights, **room})
    end = start + max(len(samples), 1) / rate
    waveform(every[0], samples, start, end, given)
    spectrogram(every[1], samples, rate, start, end)
    if bits is not None:
        surprise(every[2], bits, rate, start, end, most)
    for axes in every:
        quiet(axes)
        axes.set_xlim(start, end)
        if 0 < given < len(samples):
            axes.axvline(start + given / rate, color=INK, lw=1, ls="--", alpha=0.7)
        axes.yaxis.set_label_coords(-0.14, 0.5)
    every[-1].tick_params(axis="x", pad=7)  # clear of the 0 beside them
    every[-1].set_xlabel("seconds", color=INK)
    return form(figure)


def waveform(axes, samples: np.ndarray, start: float, end: float, given: int = 0) -> None:
    """Samples (T,) against time: of many what lies between the least and the greatest of each stretch."""
    y = np.asarray(samples, np.float64) / 32768
    edges = np.linspace(0, len(y), min(len(y), COLUMNS) + 1).astype(int)
    low, high = (ufunc.reduceat(y, edges[:-1]) if len(y) else y for ufunc in (np.minimum, np.maximum))
    x = np.linspace(start, end, len(low), endpoint=False) + (end - start) / max(1, 2 * len(low))
    known = edges[:-1] < given
    for part, colour, alpha in ((known, INK, 0.45), (~known, BLUE, 1.0)):
        if part.any():
            axes.fill_between(x[part], low[part], high[part], color=colour, alpha=alpha, lw=0.6)
    peak = 1.1 * float(np.abs(y).max(initial=0)) or 1.0
    axes.set_ylim(-peak, peak)
    axes.set_ylabel("amplitude", color=INK)


def spectrogram(axes, samples: np.ndarray, rate: int, start: float, end: float) -> None:
    """How loud each frequency is at each time: clear where it is soft, deep and warm where it is loud."""
    axes.imshow(
        shaded(decibels(samples, rate)), extent=(start, end, 0, rate / 2000), origin="lower", aspect="auto",
        interpolation="none",
    )  # fmt: skip
    axes.set_ylabel("kHz", color=INK)


def decibels(samples: np.ndarray, rate: int) -> np.ndarray:
    """The spectrogram (frequencies, times) of samples (T,) int16, in dB: a sine of full amplitude has 0.

    Short-time Fourier transforms under Hann windows whose middles lie in the sound, evenly; frequencies from 0 to half
    the rate, evenly. Of more than `ROWS` or `COLUMNS` the mean power of neighbours is taken.

    >>> tone = 32767 * np.sin(2 * np.pi * 1000 / 8000 * np.arange(8000))
    >>> found = decibels(tone, rate=8000)
    >>> found.shape, int(found[:, 200].argmax()), abs(round(float(found.max()), 1))
    ((129, 320), 32, 0.0)
    """
    y = np.asarray(samples, np.float64) / 32768
    size = max(16, 2 ** round(math.log2(WINDOW * rate)))
    step = max(1, min(size // 2, len(y) // COLUMNS))
    window = np.hanning(size + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(y, size // 2), size)[::step]
    power = np.square(np.abs(np.fft.rfft(frames * window))) * (2 / window.sum()) ** 2
    few = thinned(thinned(power, COLUMNS).T, ROWS)
    return 10 * np.log10(np.maximum(few, 1e-20))


def shaded(levels: np.ndarray) -> np.ndarray:
    """Levels (F, T) in dB as RGBA (F, T, 4): clear `DEEP` below the loudest one, then blue, violet, orange."""
    loudest = max(float(levels.max(initial=FAINT)), FAINT)
    share = np.rint(SHADES * np.clip(1 + (levels - loudest) / DEEP, 0, 1)) / SHADES
    stops = np.linspace(0.3, 1, len(TONES))
    colours = np.array([[int(tone[i : i + 2], 16) for i in (1, 3, 5)] for tone in TONES])
    rgb = [np.interp(share, stops, colours[:, i]) for i in range(3)]
    return np.rint(np.stack([*rgb, 255 * np.minimum(1, 1.6 * share)], -1)).astype(np.uint8)


def surprise(axes, bits: np.ndarray, rate: int, start: float, end: float, most: float | None = None) -> None:
    """What samples (T,) needed, averaged as by `in_windows`; `most` is the top of the axis."""
    mean = in_windows(bits, rate)
    x = np.linspace(start, end, len(mean), endpoint=False) + (end - start) / max(1, 2 * len(mean))
    axes.fill_between(x, 0, mean, color=ORANGE, alpha=0.25, lw=0)
    axes.plot(x, mean, color=ORANGE, lw=1.2)
    axes.set_ylim(0, 1.05 * (most or float(mean.max(initial=0)) or 1.0))
    axes.set_ylabel("bits/sample", color=INK)


def in_windows(bits: np.ndarray, rate: int) -> np.ndarray:
    """The means of windows of `SHORT` seconds of samples (T,); of longer ones where there are more than `COLUMNS`.

    >>> len(in_windows(np.zeros(8000), rate=8000)), len(in_windows(np.zeros(100_000), rate=8000))
    (200, 320)
    """
    windows = round(len(bits) / max(1, round(SHORT * rate)))
    return thinned(np.asarray(bits, np.float64), max(1, min(windows, COLUMNS)))


def quiet(axes) -> None:
    """Axes of a sound in the house style."""
    axes.yaxis.get_major_locator().set_params(nbins=4)
    axes.tick_params(colors=INK, length=0, labelsize=9, pad=4)
    axes.yaxis.label.set_size(9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=INK, alpha=0.4)


def blank(xlabel: str, ylabel: str):
    """An empty matplotlib figure in the house style: (figure, axes)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(plain(xlabel), color=INK)
    axes.set_ylabel(plain(ylabel), color=INK)
    axes.grid(axis="y", color=INK, alpha=0.14, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=10, pad=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=INK, alpha=0.4)
    return figure, axes


def thinned(values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """At most so many values, or rows: the means of equal runs of neighbours."""
    if len(values) <= most:
        return values
    edges = np.linspace(0, len(values), most + 1).astype(int)
    return (np.add.reduceat(values, edges[:-1]).T / np.diff(edges)).T


def plain(text: str) -> str:
    """Text that matplotlib draws as it stands: a dollar sign starts no formula."""
    return str(text).replace("$", r"\$")


# ---- numbers and text -> HTML --------------------------------------------------------------------------


def bars(rows: Sequence[tuple[str, float]], unit: str, own: Sequence[str] = ()) -> str:
    """Rows (name, number) as horizontal bars with their numbers, HTML. The names in `own` are set off.

    The bars start at 0. Width, colour and type are in the elements, so that no style sheet is needed.
    """
    longest = max([value for _, value in rows if math.isfinite(value)], default=0) or 1
    drawn = (bar(name, value, 100 * value / longest, unit, name in own) for name, value in rows)
    return f'<div class="bars">{"".join(drawn)}</div>'


def bar(name: str, value: float, percent: float, unit: str, own: bool) -> str:
    """One row of `bars`: name and number above, the bar below, so that it fits a phone."""
    colour, weight = (ORANGE, 600) if own else (BLUE, 400)
    line = f"display:flex;justify-content:space-between;gap:1em;font-weight:{weight};margin-top:.5em"
    fill = f"height:.6em;border-radius:3px;background:{colour};width:{min(max(percent, 0.5), 100):.2f}%"
    number = f'<span style="font-variant-numeric:tabular-nums">{value:.3f}&nbsp;{escape(unit)}</span>'
    return f'<div style="{line}"><span>{escape(name)}</span>{number}</div><div style="{fill}"></div>'


def surprise_text(text: np.ndarray, bits: np.ndarray, most: float = 8.0) -> str:
    """A text (T,) of bytes as HTML; the ground of a character is the deeper, the more bits (T,) it needed.

    A character of several bytes has the sum of theirs. `most` bits or more have the deepest ground. Bytes
    that are no UTF-8 are shown as �, control characters as their pictures.
    """
    parts: list[tuple[int, str]] = []
    for character, surprise in characters(bytes(np.asarray(text, np.uint8)), np.asarray(bits, float)):
        depth = round(8 * min(max(surprise, 0.0), most) / most)
        if parts and parts[-1][0] == depth:
            parts[-1] = depth, parts[-1][1] + character
        else:
            parts.append((depth, character))
    spans = "".join(ground(depth, escape(run)) for depth, run in parts)
    return f'<pre class="surprise" style="white-space:pre-wrap;overflow-wrap:anywhere">{spans}</pre>'


def ground(depth: int, html: str) -> str:
    """Some HTML on a ground of depth 0 (none) to 8."""
    red, green, blue = (int(ORANGE[i : i + 2], 16) for i in (1, 3, 5))
    return f'<span style="background:rgb({red} {green} {blue}/{depth * 9}%)">{html}</span>' if depth else html


def characters(text: bytes, bits: np.ndarray) -> list[tuple[str, float]]:
    """(character, its bits) of a text in UTF-8."""
    found, start = [], 0
    while start < len(text):
        length = next((n for n in range(1, 5) if decodes(text[start : start + n])), 0)
        character = text[start : start + length].decode() if length else "\ufffd"
        length = length or 1
        found.append((picture(character), float(bits[start : start + length].sum())))
        start += length
    return found


def decodes(some: bytes) -> bool:
    """Whether the bytes are one character of UTF-8."""
    try:
        return len(some.decode()) == 1
    except UnicodeDecodeError:
        return False


def picture(character: str) -> str:
    """A character of a text as it can be shown: line breaks and tabs stay, other controls are pictured."""
    code = ord(character)
    if character in "\n\t" or visible(character):
        return character
    return chr(0x2400 + code) if code < 32 else "\ufffd"


def visible(character: str) -> bool:
    """Whether a character is one to see, or a joiner of emoji; none that controls, hides or turns text."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return character in "\u200c\u200d" or unicodedata.category(character) not in hidden


def show_text(text: np.ndarray) -> str:
    """A text (T,) of bytes as HTML, without colours."""
    return surprise_text(text, np.zeros(len(text)))
