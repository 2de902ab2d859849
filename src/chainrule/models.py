"""The models there are, and the run folders they live in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule import store
from chainrule.chains import CHAINS
from chainrule.codes import CODES
from chainrule.errors import ChainruleError
from chainrule.model import Chain, Code

TABLE = {**CHAINS, **CODES}
MODEL, STATE, INFO, METRICS = "model.safetensors", "state.safetensors", "run.json", "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """A fitted model and how it came about.

    Attributes:
        path: the run folder, or the single model file.
        model: a `Chain` or a `Code`, ready to use.
        info: run.json: model, args, data, kind, levels, event, classes, seed, budget, versions, results.
    """

    path: Path
    model: Chain | Code
    info: dict[str, Any]

    @property
    def chain(self) -> Chain:
        """The model, when it is a chain; one clear line when it is a code."""
        if not isinstance(self.model, Chain):
            raise ChainruleError(
                f"{self.path} holds {self.info['model']}, a code: this verb needs a chain, such as {', '.join(CHAINS)}"
            )
        return self.model

    @property
    def code(self) -> Code:
        """The model, when it is a code; one clear line when it is a chain."""
        if not isinstance(self.model, Code):
            raise ChainruleError(
                f"{self.path} holds {self.info['model']}, a chain: this verb needs a code, such as {', '.join(CODES)}"
            )
        return self.model

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def open_run(path: str | Path) -> Run:
    """Open a run folder, or a model file by itself.

    Raises:
        ChainruleError: there is no run at `path`, it is not finished, or its model is damaged.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    if path.is_dir() and not file.exists():
        if (path / STATE).exists():
            raise ChainruleError(
                f"{path} holds an unfinished training: finish it with chainrule fit --resume -o {path}"
            )
        raise ChainruleError(f"{path} is not a run: it has no {MODEL}")
    if not file.exists():
        raise ChainruleError(f"there is no run at {path}: make one with chainrule fit DATA -o {path}")
    model, header = store.parse(store.read_bytes(file), TABLE, str(file))
    return Run(path, model, header)


def parse_model(data: bytes, origin: str = "the model") -> Chain | Code:
    """The model in the bytes of a model file."""
    return store.parse(data, TABLE, origin)[0]
