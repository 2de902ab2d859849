"""`chainrule lecture NAME`: the figures of the lecture, each a short module that learns and draws its own.

A module of the table has `SIZES`, a dict of options for each of "tiny" (tests), "laptop" (a first look, within a
minute, or ten where images or sounds are drawn symbol by symbol) and "paper", and

    draw(save, seed, **options) -> facts        save(name, image) keeps a picture as NAME.png, bytes as NAME

The facts are JSON; "rows" among them are a table. The first line of the module's documentation is what
`chainrule lecture` lists.
"""

from __future__ import annotations

import ast
import importlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError

FIGURES = {
    "sparse-dictionary": "chainrule.lecture.sparse_dictionary",
    "sparse-patch": "chainrule.lecture.sparse_patch",
    "sparse-gabors": "chainrule.lecture.sparse_gabors",
    "sparsity-error": "chainrule.lecture.sparsity_error",
    "sparse-inference": "chainrule.lecture.sparse_inference",
    "denoising-filters": "chainrule.lecture.denoising_filters",
    "deep-reconstructions": "chainrule.lecture.deep_reconstructions",
    "digits-map": "chainrule.lecture.digits_map",
    "code-traversals": "chainrule.lecture.code_traversals",
    "receptive-fields": "chainrule.lecture.receptive_fields",
    "occlusions": "chainrule.lecture.occlusions",
    "class-samples": "chainrule.lecture.class_samples",
    "next-pixel": "chainrule.lecture.next_pixel",
    "bits-a-byte": "chainrule.lecture.bits_a_byte",
    "sentiment-neuron": "chainrule.lecture.sentiment_neuron",
    "attention-patterns": "chainrule.lecture.attention_patterns",
    "dilated-convolutions": "chainrule.lecture.dilated_convolutions",
    "wavenet": "chainrule.lecture.wavenet",
}
FACTS = "facts.json"


def figures() -> list[dict[str, Any]]:
    """A row a figure: its name and what it shows; read from source text, so that the list is there at once."""
    return [{"figure": name, "shows": about(dotted)} for name, dotted in FIGURES.items()]


def about(dotted: str) -> str:
    """The first line of the documentation of a module."""
    spec = find_spec(dotted)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def lecture(
    name: str,
    out: str | Path | None = None,
    size: str = "laptop",
    seed: int = 0,
    listen: Callable[[str, int, int], None] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Learn and draw the figure `name`: PNG files and facts.json in `out`, by default lecture/NAME.

    `listen` is told of every training what it learns, the steps done, and of how many. `settings` are options of the
    figure that override those of its size.

    Returns:
        The facts: what was reached, the options, the seconds and the files.

    Raises:
        ChainruleError: there is no such figure or size, its data are not here, or the folder cannot be written.
    """
    if name not in FIGURES:
        raise ChainruleError(f"there is no figure {name!r} in the lecture: choose from {', '.join(FIGURES)}")
    from chainrule.plots import png

    module = importlib.import_module(FIGURES[name])
    if size not in module.SIZES:
        raise ChainruleError(f"{name} has no size {size!r}: choose from {', '.join(module.SIZES)}")
    options = {**module.SIZES[size], **(settings or {})}
    if unknown := options.keys() - module.SIZES[size].keys():
        known = ", ".join(module.SIZES[size])
        raise ChainruleError(f"{name} has no option {min(unknown)!r}: choose from {known}")
    folder, files, began = Path(out or Path("lecture") / name), list[str](), time.perf_counter()

    def save(stem: str, what: Any) -> None:
        file, content = (stem, what) if isinstance(what, bytes) else (f"{stem}.png", png(what))
        files.append(str(folder / file))
        written(folder, file, content)

    with told(listen):
        facts = module.draw(save, seed, **options)
    facts |= {"size": size, "seed": seed, **options, "seconds": time.perf_counter() - began}
    written(folder, FACTS, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    return {**facts, "files": [*files, str(folder / FACTS)]}


@contextmanager
def told(listen: Callable[[str, int, int], None] | None) -> Iterator[None]:
    """Within, trainings of figures tell `listen`."""
    from chainrule.lecture.learning import LISTENER

    token = LISTENER.set(listen) if listen is not None else None
    try:
        yield
    finally:
        if token is not None:
            LISTENER.reset(token)


def written(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a figure, atomically."""
    from chainrule import store

    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.write_atomic(folder / name, content)
    except OSError as error:
        raise ChainruleError(f"cannot write {name} into {folder}: {error.strerror or error}") from error
