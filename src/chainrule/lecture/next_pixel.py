"""P(next pixel | pixels before): what a model expects at every pixel of a test image, and how it is surprised.

The conditionals of the chain rule, p(x) = ∏ p(xᵢ | x₁ … xᵢ₋₁), of a Gated PixelCNN. It is not told the class of the
image: every conditional is the mixture over classes, weighted by p(class | pixels before). Ink is a level of the upper
half. Maps show P(ink | pixels before) and −log₂ p(xᵢ | pixels before), whose sum, `bits`, is what the image costs.
Four pixels are marked: where ink is expected, and came; where a stroke is expected to end, and did; where the model
can tell least; and what surprises it most. Below are the pixels before each, and what is expected of the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrule import plots
from chainrule.data import load
from chainrule.lecture import pixelwise
from chainrule.lecture.natural import Save

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"sets": {"digits": {"width": 16, "layers": 2, "steps": 150}}},
    "laptop": {
        "sets": {
            "binarized-mnist": {"width": 32, "layers": 6, "steps": 1200},
            "mnist": {"width": 32, "layers": 6, "steps": 1200},
        }
    },
    "paper": {
        "sets": {
            "binarized-mnist": {"width": 64, "layers": 12, "steps": 40_000},
            "mnist": {"width": 64, "layers": 12, "steps": 40_000},
        }
    },
}
FEW = 32  # levels at most that are drawn as so many bars
LEAST = 1e-5  # where a logarithmic scale of probabilities begins
LATER = (195, 217, 238, 255)  # RGBA of pixels that come later
LETTERS = "ABCD"


class Mark(NamedTuple):
    """A pixel that is looked at.

    Attributes:
        why: in words.
        row, column: where it is.
    """

    why: str
    row: int
    column: int


def draw(save: Save, seed: int, sets: dict[str, dict[str, int]]) -> dict:
    """A picture for each set; every marked pixel is a row."""
    rows: list[dict[str, Any]] = []
    images = {}
    for data, options in sets.items():
        chain, test = pixelwise.learned(data, seed=seed, **options), load(data, split="test")
        which = int(np.random.default_rng(seed).integers(len(test)))
        x = np.asarray(test.x[which])
        view = pixelwise.expected(chain, x)
        levels, bits = view.levels[:, :, 0], view.bits[:, :, 0]  # (H, W, K), (H, W)
        marks = marked(x[:, :, 0], levels, bits)
        save(f"next-pixel-{data}", picture(x, levels, bits, marks))
        assert test.context is not None
        images[data] = {"image": which, "class": test.classes[test.context[which]], "bits": float(bits.sum())}
        for mark in marks:
            at = mark.row, mark.column
            facts = {"data": data, **mark._asdict(), "level": int(x[at][0]), "p": float(2.0 ** -bits[at])}
            rows.append({**facts, "p_ink": float(ink(levels)[at]), "bits": float(bits[at])})
    return {"rows": rows, "images": images}


def ink(levels: np.ndarray) -> np.ndarray:
    """p(level) (H, W, K) -> P(ink), (H, W)."""
    return levels[:, :, levels.shape[2] // 2 :].sum(2)


def marked(x: np.ndarray, levels: np.ndarray, bits: np.ndarray) -> list[Mark]:
    """The pixels of an image (H, W) that are looked at, in their order, from p(level) (H, W, K) and surprises."""
    k = levels.shape[2]
    dark, expects = x >= k // 2, ink(levels)
    beside = np.zeros_like(dark)
    beside[:, 1:] = dark[:, :-1]
    doubt = -(levels * np.log2(levels.clip(1e-300))).sum(2)
    reasons = {
        "most surprised": bits,
        "cannot tell": doubt,
        "expects ink": np.where(dark, expects, -1),
        "expects blank": np.where(beside & ~dark, 1 - expects, -1),
    }
    found: list[Mark] = []
    for why, value in reasons.items():
        order = np.argsort(-value, axis=None, kind="stable")
        order = order[value.flat[order] >= 0] if (value >= 0).any() else order
        best = [Mark(why, *divmod(int(i), x.shape[1])) for i in order]
        for room in (len(x) // 8, 0, -1):
            far = [mark for mark in best if all(apart(mark, other) > room for other in found)]
            if far:
                found.append(far[0])
                break
    return sorted(found, key=lambda mark: mark[1:])


def apart(one: Mark, other: Mark) -> int:
    """How many rows or columns lie between two pixels, whichever are more."""
    return max(abs(one.row - other.row), abs(one.column - other.column))


def picture(x: np.ndarray, levels: np.ndarray, bits: np.ndarray, marks: list[Mark]) -> Any:
    """The image (H, W, 1) and two maps; below them, for each mark, what is known and what is expected."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 6.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.5], hspace=0.04)
    above, below = halves
    k, seen, grid = (
        levels.shape[2],
        above.subplots(1, 3),
        below.subplots(2, len(marks), height_ratios=[1.25, 1]),
    )
    gray: dict[str, Any] = {"cmap": "gray", "interpolation": "none", "vmin": 0}
    seen[0].imshow(x[:, :, 0], vmax=k - 1, **gray)
    shades = seen[1].imshow(ink(levels), vmax=1, **gray)
    heat = seen[2].imshow(bits, **{**gray, "cmap": "YlOrBr"})
    for axes, shown in ((seen[1], shades), (seen[2], heat)):
        bar = above.colorbar(shown, ax=axes, shrink=0.85, aspect=16)
        bar.ax.tick_params(colors=plots.INK, length=0, labelsize=8)
        bar.outline.set_visible(False)
    titles = "test image", "P(ink | pixels before)", f"surprise: {bits.sum():.0f} bits in all"
    for axes, title, colour in zip(seen, titles, (plots.ORANGE, plots.ORANGE, plots.BLUE), strict=True):
        bare(axes, title)
        for letter, mark in zip(LETTERS, marks, strict=False):
            outline(axes, mark, colour, letter)
    for i, mark in enumerate(marks):
        at = mark.row, mark.column
        known = np.arange(x.size).reshape(x.shape) < mark.row * x.shape[1] + mark.column
        grid[0, i].imshow(plots.with_alpha(x, k, known, LATER), interpolation="none")
        bare(grid[0, i], f"{LETTERS[i]}: {mark.why}")
        outline(grid[0, i], mark, plots.ORANGE)
        chances(grid[1, i], levels[at], int(x[at][0]), float(bits[at]))
        if i and not 2 < k <= FEW:  # all on the same scale
            grid[1, i].tick_params(labelleft=False)
    for axes, label in zip(grid[:, 0], ("pixels before", "P(next pixel | before)"), strict=True):
        axes.set_ylabel(label, color=plots.INK, size=9)
    return plots.raster(figure)


def bare(axes, title: str) -> None:
    """Neither ticks nor frame, but a title."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=plots.INK, size=10)
    for spine in axes.spines.values():
        spine.set_visible(False)


def outline(axes, mark: Mark, colour: str, letter: str = "") -> None:
    """A frame around a pixel, a letter beside it."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    corner = mark.column - 0.5, mark.row - 0.5
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=colour, lw=1.6, clip_on=False))
    style: Any = {"color": colour, "size": 9.5, "weight": "bold", "ha": "left", "va": "bottom"}
    text = axes.annotate(
        letter, (mark.column + 0.5, mark.row - 0.5), (2, 1), textcoords="offset points", **style
    )
    text.set_path_effects(
        [withStroke(linewidth=2, foreground="black" if colour == plots.ORANGE else "white")]
    )


def chances(axes, p: np.ndarray, level: int, bits: float) -> None:
    """What is expected of a pixel, p (K,), and what it is. Many levels are on a logarithmic scale."""
    k, levels = len(p), np.arange(len(p))
    if k <= FEW:
        axes.bar(levels, p, color=[plots.ORANGE if i == level else plots.BLUE for i in levels], width=0.8)
        axes.set_ylim(0, 1 if k == 2 else 1.05 * p.max())
    else:
        axes.fill_between(levels, p, step="mid", color=plots.BLUE, lw=0)
        top = max(p[level], LEAST)  # of the level that is there
        axes.plot([level, level], [LEAST, top], color=plots.ORANGE, lw=1.6)
        axes.plot([level], [top], color=plots.ORANGE, marker="o", ms=5, clip_on=False)
        axes.set(yscale="log", ylim=(LEAST, 1.5))
        axes.set_yticks([1, 1e-2, 1e-4], ["1", "0.01", "0.0001"])
        axes.minorticks_off()
    room = 0.6 if k <= FEW else 0.02 * k
    axes.set_xlim(-room, k - 1 + room)
    axes.set_xticks([0, k - 1], ["blank", "ink"] if k == 2 else ["0", str(k - 1)])
    name = ("blank", "ink")[level] if k == 2 else str(level)
    axes.set_xlabel(f"it is {name}: {bits:.2f} bits", color=plots.ORANGE, size=9)
    axes.tick_params(colors=plots.INK, length=0, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=plots.INK, alpha=0.4)
