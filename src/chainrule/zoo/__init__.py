"""Models that were learned already and travel with the package: `zoo:NAME` stands wherever a run does.

A model is a folder here: `model.safetensors`, as `chainrule fit` made it, and `card.json`, what `benchmarks/zoo.py`
measured of it and under which licence it is shared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError

HERE = Path(__file__).parent
PREFIX = "zoo:"
MODEL, CARD = "model.safetensors", "card.json"


def names() -> list[str]:
    """The models there are.

    >>> "binarized-mnist-gated-pixelcnn" in names()
    True
    """
    return sorted(path.parent.name for path in HERE.glob(f"*/{CARD}"))


def is_name(path: str | Path) -> bool:
    """Whether a path names a model of the zoo."""
    return str(path).startswith(PREFIX)


def model_file(path: str | Path) -> Path:
    """The model file that `zoo:NAME` stands for.

    Raises:
        ChainruleError: there is no such model.
    """
    name = name_in(path)
    if name not in names():
        raise ChainruleError(f"there is no model {PREFIX}{name[:80]}: take {', '.join(map(named, names()))}")
    return HERE / name / MODEL


def name_in(path: str | Path) -> str:
    """NAME of `zoo:NAME`."""
    return str(path).removeprefix(PREFIX)


def named(name: str) -> str:
    """How a model of the zoo is asked for."""
    return PREFIX + name


def card(name: str) -> dict[str, Any]:
    """What is known of a model.

    `model`, `data`, `items` learned from, `parameters`, the `command` that made it with its seed
    and budget, the `training` it took, the `score` on the test split of its data (exact, all of it), and the `licence`
    of the data, which the weights share.
    """
    return json.loads((HERE / name / CARD).read_text(encoding="utf-8"))
