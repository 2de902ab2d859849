"""The models there are, and the run folders they live in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule import store, zoo
from chainrule.chains import CHAINS
from chainrule.codes import CODES
from chainrule.data import Sound, tokens
from chainrule.data.alphabets import BYTES, Alphabet, Tokens
from chainrule.data.reading import file_size, printable
from chainrule.errors import ChainruleError
from chainrule.layers import gpt2
from chainrule.layers.sequence import Cells, Recurrent
from chainrule.model import Chain, Code

TABLE = {**CHAINS, **CODES}
MAX_LEVELS = 1 << 16
LOSSES = {"loss_bits", "loss"}  # a chain's, a code's, in a line of metrics.jsonl
MODEL, STATE, INFO, METRICS = "model.safetensors", "state.safetensors", "run.json", "metrics.jsonl"
TOKENIZER = tokens.FILE


@dataclass(frozen=True)
class Run:
    """A fitted model and how it came about.

    Attributes:
        path: the run folder, or the single model file.
        model: a `Chain` or a `Code`, ready to use.
        info: run.json: model, args, data, kind, levels, event, classes, seed, budget, versions, results.
        alphabet: what the symbols of texts spell: give it to `load`.
    """

    path: Path
    model: Chain | Code
    info: dict[str, Any]
    alphabet: Alphabet = BYTES

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
        """The model, when it is a code, or the final cells of a recurrent chain; one clear line of any other chain."""
        if isinstance(self.model, Recurrent):
            return Cells(self.model)
        if not isinstance(self.model, Code):
            raise ChainruleError(
                f"{self.path} holds {self.info['model']}, a chain: this verb needs a code, such as {', '.join(CODES)}, "
                "or a chain that has cells, such as mlstm"
            )
        return self.model

    @property
    def sound(self) -> Sound | None:
        """What the symbols of sounds stand for."""
        return Sound(**self.info["sound"]) if "sound" in self.info else None

    @property
    def heard(self) -> dict[str, Any]:
        """The arguments of `load` that bring sounds to the rate and the coding of the model."""
        return {} if self.sound is None else {"sound": self.sound}

    @property
    def folder(self) -> Path:
        """Where things about the run go: its folder, that of the model file, for zoo:NAME and hub:NAME runs/NAME."""
        if zoo.is_name(self.path):
            return Path("runs") / zoo.name_in(self.path)
        if self.path.as_posix().startswith(gpt2.HUB):
            return Path("runs") / self.path.name.removeprefix(gpt2.HUB)
        return self.path if self.path.is_dir() else self.path.parent

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a torn one, as a killed training leaves it, is passed over."""
        path = self.path / METRICS
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return [row for line in lines if (row := metrics_row(line)) is not None]


def open_run(path: str | Path) -> Run:
    """Open a run folder, a model file by itself, a model of the zoo: `zoo:NAME`, a folder of GPT-2, or `hub:NAME`.

    Raises:
        ChainruleError: there is no run at `path`, it is not finished, or its model is damaged.
    """
    path = Path(path)
    if path.as_posix().startswith(gpt2.HUB):
        return open_gpt2(path, gpt2.fetched(path.as_posix().removeprefix(gpt2.HUB)))
    if not zoo.is_name(path) and gpt2.is_folder(path):
        return open_gpt2(path, path)
    file = zoo.model_file(path) if zoo.is_name(path) else path / MODEL if path.is_dir() else path
    if path.is_dir() and not file.exists():
        if (path / STATE).exists():
            raise ChainruleError(
                f"{path} holds an unfinished training: finish it with chainrule fit --resume -o {path}"
            )
        raise ChainruleError(f"{path} is not a run: it has no {MODEL}")
    if not file.exists():
        raise ChainruleError(f"there is no run at {path}: make one with chainrule fit DATA -o {path}")
    file_size(file, printable(str(file)))  # never a pipe or a device
    model, header = store.parse(store.read_bytes(file), TABLE, printable(str(file)))
    check_facts(header, model, printable(str(file)))
    return Run(path, model, header, alphabet_of(header, file.parent, model))


def open_gpt2(path: Path, folder: Path) -> Run:
    """The GPT-2 in a folder as a run, with the alphabet that lies beside it."""
    chain: Any = store.resolve("gpt", TABLE)
    chain = chain.from_pretrained(folder)
    info = {"model": "gpt", "args": store.arguments(chain, TABLE), "kind": "text", "levels": BYTES.symbols}
    if chain.symbols <= BYTES.symbols:
        return Run(path, chain, info)
    found = tokens.read(folder)
    known = {"given": printable(str(path)), "symbols": found.symbols, "sha256": identity_of(found)}
    return Run(path, chain, {**info, "tokens": known}, found.padded(chain.symbols))


def alphabet_of(info: dict[str, Any], folder: Path, model: Chain | Code | None = None) -> Alphabet:
    """The alphabet of a run: bytes, or that of the tokenizer.json in its folder, with as many symbols as the model."""
    if "tokens" not in info:
        return BYTES
    found = tokens.read(folder / TOKENIZER)
    if identity_of(found) != info["tokens"]["sha256"]:
        raise ChainruleError(
            f"{printable(str(folder / TOKENIZER))} is another alphabet than the model learned with: put its own there"
        )
    return found.padded(model.symbols) if isinstance(model, Chain) else found


def identity_of(alphabet: Tokens) -> str:
    """SHA-256 of an alphabet as a tokenizer.json."""
    return hashlib.sha256(tokens.dump(alphabet)).hexdigest()


def metrics_row(line: str) -> dict[str, Any] | None:
    """What a line of metrics.jsonl says: numbers by their names, among them step, seconds and the loss."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    told = isinstance(row, dict) and {"step", "seconds"} <= row.keys() and bool(LOSSES & row.keys())
    return row if told and all(is_number(value) for value in row.values()) else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


READING: dict[
    str, tuple[type, ...]
] = {  # what a run may say about how its data were read: arguments of `load`
    **dict.fromkeys(["classes", "gray", "frames"], (bool,)),
    **dict.fromkeys(["patches", "count", "seed", "bits", "rate"], (int,)),
    "split": (str,),
    "sources": (str, int),  # a file, or a column
}


def can_be_read(reading: Any) -> bool:
    """Whether `reading` is what a run says about how its data were read."""
    return isinstance(reading, dict) and all(
        type(value) in READING.get(key, ()) for key, value in reading.items()
    )


def check_facts(info: dict[str, Any], model: Chain | Code, origin: str) -> None:
    """Refuse what the header of a model file says about its run and what cannot be."""
    symbols = model.symbols if isinstance(model, Chain) else MAX_LEVELS
    classes = model.classes if isinstance(model, Chain) else 0
    possible: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("data", "size"), lambda v: isinstance(v, str)),
        **dict.fromkeys(("items", "seed", "threads"), lambda v: isinstance(v, int)),
        **dict.fromkeys(
            ("held_out", "trained"),
            lambda v: isinstance(v, dict) and all(k == "note" or is_number(n) for k, n in v.items()),
        ),
        **dict.fromkeys(("budget", "training", "settings", "versions"), lambda v: isinstance(v, dict)),
        "reading": can_be_read,
        "kind": lambda v: v in ("image", "text", "sound", "array"),
        "levels": lambda v: isinstance(v, int) and 1 <= v <= symbols,
        "event": lambda v: (
            v is None or (isinstance(v, list) and all(isinstance(n, int) and n >= 0 for n in v))
        ),
        "classes": lambda v: (
            isinstance(v, list) and all(isinstance(c, str) for c in v) and len(v) in (0, classes)
        ),
        "sound": is_sound,
        "length": lambda v: isinstance(v, int) and v >= 0,
        "holdout": lambda v: is_number(v) and 0 <= v <= 0.5,
        "tokens": lambda v: (
            isinstance(v, dict) and all(isinstance(v.get(k), str) for k in ("given", "sha256"))
        ),
        "start": lambda v: isinstance(v, dict) and all(isinstance(v.get(k), str) for k in ("from", "sha256")),
    }
    for key, can_be in possible.items():
        if key in info and not can_be(info[key]):
            raise ChainruleError(f"{origin} says {key} is {store.one_line(info[key])}: it is damaged")


def is_sound(value: Any) -> bool:
    """Whether a header says what the symbols of sounds stand for."""
    try:
        return isinstance(value, dict) and bool(Sound(**value))
    except (TypeError, ChainruleError):
        return False


def parse_model(data: bytes, origin: str = "the model") -> Chain | Code:
    """The model in the bytes of a model file."""
    return store.parse(data, TABLE, origin)[0]
