"""Models as files: safetensors whose one metadata entry is sorted JSON. No pickle, nothing executed."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chainrule.archive import atomic
from chainrule.errors import ChainruleError
from chainrule.model import Chain, Code

FORMAT = 1
KEY = "chainrule"  # the one metadata key: safetensors writes several in a different order each time
HEADER_LIMIT = 1 << 24  # bytes; a real header holds a line a tensor

CALLS_A_MODEL, CALLS_A_TENSOR = 2000, 100  # of PyTorch, in a constructor; a layer takes about five a tensor

LARGEST = (1 << 31) - 1  # of the integers of a code: what is larger in a file is damage
DEEPEST = 8  # codes within codes, chains within chains
SHARED = ("symbols", "classes")  # what a chain says for the chains that it is made of, where they do not
ENTRY = {"model", "args"}  # what a model within a model is written as
PLAIN = {
    "int",
    "float",
    "bool",
    "str",
    "None",
    "list",
    "tuple",
    "dict",
}  # what JSON has; other names are objects

Table = dict[str, str]


def resolve(name: str, table: Table) -> type[Chain] | type[Code]:
    """The class that a table lists under `name`."""
    if name not in table:
        raise ChainruleError(
            f"there is no model {one_line(repr(name))}: choose from {', '.join(sorted(table))}"
        )
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(model: Chain | Code, table: Table) -> str:
    """The name under which a table lists the class of `model`."""
    here = f"{type(model).__module__}:{type(model).__name__}"
    for name, dotted in table.items():
        if dotted == here:
            return name
    raise ChainruleError(
        f"{type(model).__name__} is not in the table of models, so it could not be loaded again"
    )


def options(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters: the configuration."""
    return {k: p for k, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD}


def build(name: str, args: dict[str, Any], table: Table, seed: int = 0, depth: int = 0) -> Chain | Code:
    """A new model; its first weights are drawn from `seed` alone. `args` are JSON, parts and codes as objects."""
    cls = resolve(name, table)
    known = options(cls)
    made = {}
    for key, value in args.items():
        if key not in known:
            raise ChainruleError(f"{name} has no option {one_line(repr(key))}: it has {', '.join(known)}")
        kind = written(known[key].annotation)
        if not fits(value, kind):
            raise ChainruleError(f"{name} takes {kind} for {key}, not {one_line(repr(value))}")
        if takes_objects(cls, known[key]):
            shared = {k: args[k] for k in SHARED if k in args}
            value = instance(value, key, kind, name, cls, table, depth, seed, shared)
        elif isinstance(known[key].default, tuple) and isinstance(value, list):
            value = tuple(value)  # JSON has no tuples
        made[key] = value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return cls(**made)
        except (TypeError, RuntimeError, ValueError, OverflowError, ZeroDivisionError) as error:
            given = ", ".join(f"{k}={v}" for k, v in args.items())
            raise ChainruleError(
                f"{name} cannot be built with {one_line(given)}: {one_line(error)}"
            ) from error


def written(annotation: Any) -> str:
    """An annotation as it was written; "" where there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def fits(value: Any, annotation: str) -> bool:
    """Whether a value may be given for a parameter: int, float, bool, str and None are checked, others take all."""
    return any(fits_one(value, one) for one in annotation.split(" | "))


def fits_one(value: Any, annotation: str) -> bool:
    """`fits` for an annotation that is no union."""
    if annotation == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation == "float":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max  # no NaN, no infinity, no integer beyond them
    if annotation in ("bool", "str"):
        return type(value).__name__ == annotation
    return annotation != "None" or value is None


def takes_objects(cls: type, option: inspect.Parameter) -> bool:
    """Whether an argument is made of models or parts: its default is None, its annotation says more than JSON has."""
    if option.default is not None:
        return False
    names = set(re.findall(r"\w+", written(option.annotation)))
    return bool(names - PLAIN if names else getattr(cls, "PARTS", {}))


def instance(
    value: Any,
    key: str,
    kind: str,
    name: str,
    cls: type,
    table: Table,
    depth: int,
    seed: int,
    shared: dict[str, Any],
) -> Any:
    """The part, the code or the chains that JSON stands for: objects, or the bare name of a kind or of a model."""
    parts, words = getattr(cls, "PARTS", {}), re.findall(r"\w+", kind)
    if value is None or isinstance(value, (Code, *parts.values())):
        return value
    if "Chain" in words and isinstance(value, list | tuple):
        return tuple(
            item if isinstance(item, Chain) else inner(item, Chain, table, depth + 1, seed + i, shared)
            for i, item in enumerate(value)
        )
    of_codes = "Code" in words
    if isinstance(value, str) and (value in parts or not of_codes):
        value = {"kind": value}
    if isinstance(value, dict) and "kind" in value and parts:
        return part_of(value, key, name, parts)
    if of_codes and (isinstance(value, str) or (isinstance(value, dict) and value.keys() == ENTRY)):
        return inner(value, Code, table, depth + 1)
    choices = [*parts, *(['a code as {"model": ..., "args": {...}}'] if of_codes else [])]
    raise ChainruleError(f"{name} takes {key} from {', '.join(choices) or kind}, not {one_line(repr(value))}")


def part_of(given: dict[str, Any], key: str, name: str, parts: dict[str, type]) -> Any:
    """The frozen dataclass that {"kind": ..., ...fields} stands for."""
    kind = given["kind"]
    if not isinstance(kind, str) or kind not in parts:
        raise ChainruleError(
            f"{name} has no {key} of kind {one_line(repr(kind))}: choose from {', '.join(parts)}"
        )
    known = {field.name: written(field.type) for field in fields(parts[kind])}
    for field, value in given.items():
        if field == "kind":
            continue
        if field not in known:
            raise ChainruleError(
                f"{kind} has no option {one_line(repr(field))}: it has {', '.join(known) or 'none'}"
            )
        if not fits(value, known[field]):
            raise ChainruleError(f"{kind} takes {known[field]} for {field}, not {one_line(repr(value))}")
    try:
        part = parts[kind](**{k: v for k, v in given.items() if k != "kind"})
        getattr(part, "check", lambda: None)()
    except (TypeError, ValueError, OverflowError) as error:
        raise ChainruleError(f"{name} cannot take {key}={one_line(given)}: {one_line(error)}") from error
    return part


def inner(
    given: Any, wanted: type, table: Table, depth: int, seed: int = 0, shared: dict[str, Any] | None = None
) -> Any:
    """The model that is an argument of a model: by name, or as {"model": name, "args": {...}}."""
    entry = {"model": given, "args": {}} if isinstance(given, str) else given
    kind = wanted.__name__.lower()
    if not isinstance(entry, dict) or entry.keys() != ENTRY:
        raise ChainruleError(
            f'a {kind} is given as {{"model": ..., "args": {{...}}}}, not {one_line(repr(given))}'
        )
    name, args = entry["model"], entry["args"]
    if not isinstance(name, str) or not isinstance(args, dict):
        raise ChainruleError(f"a {kind} has a name and arguments, not {one_line(repr((name, args)))}")
    if depth > DEEPEST:
        raise ChainruleError(f"{kind}s stand within {kind}s {depth} deep: at most {DEEPEST} are read")
    cls = resolve(name, table)
    if not issubclass(cls, wanted):
        raise ChainruleError(f"{name} is no {kind}, and {kind}s are made of {kind}s")
    own = {k: v for k, v in (shared or {}).items() if k in options(cls)}
    return build(name, {**own, **args}, table, seed, depth)


def arguments(model: Chain | Code, table: Table) -> dict[str, Any]:
    """The constructor arguments of a model, defaults included, as JSON: `build` makes the same of them."""
    given = model.get_params(deep=False) if isinstance(model, Code) else model.args
    return {key: plain(value, type(model), table) for key, value in given.items()}


def plain(value: Any, cls: type, table: Table) -> Any:
    """An argument of `cls` as JSON: a part as {"kind": ..., ...fields}, a model as {"model": ..., "args": {...}}."""
    if isinstance(value, Code | Chain):
        return {"model": name_of(value, table), "args": arguments(value, table)}
    if isinstance(value, tuple) and any(isinstance(item, Chain) for item in value):
        return [plain(item, cls, table) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return list(value) if isinstance(value, tuple) else value  # as JSON gives it back
    for kind, part in getattr(cls, "PARTS", {}).items():
        if type(value) is part:
            return {"kind": kind, **{field.name: getattr(value, field.name) for field in fields(value)}}
    raise ChainruleError(
        f"{type(value).__name__} is no part of {cls.__name__}, so it could not be loaded again"
    )


def tensors_of(model: Chain | Code) -> dict[str, Tensor]:
    """The named arrays that make up a fitted model."""
    if isinstance(model, nn.Module):
        return dict(model.state_dict())
    return {k: torch.from_numpy(v) for k, v in model.arrays().items()}


def dump(model: Chain | Code, table: Table, tensors: dict[str, Tensor] | None = None, **facts: Any) -> bytes:
    """The model as the bytes of a safetensors file. `facts` (JSON) are kept beside the arguments."""
    header = {"format": FORMAT, "model": name_of(model, table), "args": arguments(model, table), **facts}
    tensors = tensors_of(model) if tensors is None else tensors
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    return safetensors.torch.save(plain, {KEY: json.dumps(header, sort_keys=True)})


def parse(data: bytes, table: Table, origin: str = "the model") -> tuple[Chain | Code, dict[str, Any]]:
    """(model, header) from the bytes that `dump` gave. Anything else is an error, never code that runs."""
    header, tensors = read_tensors(data, origin)
    if header.get("format") != FORMAT:
        raise ChainruleError(
            f"{origin} has format {one_line(header.get('format'))}, this version reads {FORMAT}: update chainrule"
        )
    name, args = header.get("model"), header.get("args")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise ChainruleError(f"{origin} names no model and arguments: it was not written by chainrule")
    check_size(name, args, tensors, table, origin)
    model = build(name, args, table)
    if isinstance(model, Code):
        try:
            model.set_arrays({k: v.numpy() for k, v in tensors.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ChainruleError(f"{origin} does not hold a {name}: {one_line(error)}") from error
        return model, header
    model.load_state_dict(tensors)
    return model.eval(), header


def check_size(name: str, args: dict, tensors: dict[str, Tensor], table: Table, origin: str) -> None:
    """Refuse arguments that do not belong to the tensors, before any memory is taken for them.

    A fitted code takes all its sizes from its arrays, and its constructor only stores: no memory depends on it.
    """
    code = issubclass(resolve(name, table), Code)
    most = LARGEST if code else max(65536, sum(t.numel() for t in tensors.values()))
    for key, value in integers(args):
        if abs(value) > most and not (code and key == "random_state"):
            why = "" if code else f", more than its {most} weights could hold"
            raise ChainruleError(f"{origin} says {one_line(key)}={one_line(value)}{why}: it is damaged")
    if code:
        return
    with torch.device("meta"), Patience(CALLS_A_MODEL + CALLS_A_TENSOR * len(tensors)):
        model = build(name, args, table)
    expected = {k: (str(v.dtype), *v.shape) for k, v in tensors_of(model).items()}
    found = {k: (str(v.dtype), *v.shape) for k, v in tensors.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ChainruleError(
                f"{origin} has {found.get(key, 'no array')} for {one_line(key)}, a {name} with its arguments "
                f"has {expected.get(key, 'none')}: it is damaged or from another version"
            )


def integers(args: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """(name, value) of every integer in arguments, and in the parts and codes among them."""
    left: list[tuple[str, Any]] = list(args.items())
    while left:  # no recursion: a file may nest as deep as it likes
        key, value = left.pop()
        if isinstance(value, int):
            yield key, value
        elif isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, item) for item in value]


class Patience(TorchFunctionMode):
    """Within it PyTorch can be called `calls` times: a damaged file may ask for a million layers."""

    def __init__(self, calls: int):
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls -= 1
        if self.calls < 0:
            raise ValueError("it would have many more arrays than its file")
        return func(*args, **(kwargs or {}))


def read_tensors(data: bytes, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON header and the tensors of a safetensors file that came from anywhere."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        if size > min(HEADER_LIMIT, len(data) - 8):
            raise ValueError(f"its header claims {size} bytes of {len(data)}")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        header = json.loads(metadata[KEY])
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")
        return header, safetensors.torch.load(data)
    except (struct.error, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ChainruleError(f"{origin} is not a chainrule model: {one_line(error)}") from error
    except safetensors.SafetensorError as error:
        raise ChainruleError(f"{origin} is damaged: {one_line(error)}") from error


def sha256(model: Chain | Code, table: Table) -> str:
    """The identity of a model: its class, arguments, and sorted (name, dtype, shape, bytes) of its arrays."""
    here = f"{type(model).__module__}:{type(model).__name__}"  # what stands for a class that no table lists
    name = next((name for name, dotted in table.items() if dotted == here), here)
    digest = hashlib.sha256(json.dumps([name, arguments(model, table)], sort_keys=True).encode())
    for name, tensor in sorted(tensors_of(model).items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whatever happens in between.

    Raises:
        ChainruleError: it cannot be written; then nothing has changed.
    """
    with atomic(path, force=True) as file:
        file.write(data)


def read_bytes(path: str | Path) -> bytes:
    """The contents of a file, or one clear line."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error


def one_line(thing: object) -> str:
    """The message of an error, or what somebody gave, without line breaks: at most 200 characters."""
    return " ".join(str(thing).split())[:200] or type(thing).__name__
