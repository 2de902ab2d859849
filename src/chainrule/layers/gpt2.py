"""The files of GPT-2: a folder with config.json and model.safetensors, under the names that `transformers` gives.

Only shapes and numbers are read, never a pickle; a file is not trusted in anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from chainrule.errors import ChainruleError
from chainrule.store import one_line, read_bytes, write_atomic

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = [
    CONFIG,
    WEIGHTS,
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
]  # what is fetched of a model of the hub
HUB = "hub:"
MOST = 1 << 20  # of any size
PARTS = {"ask_norm": "ln_1", "ask": "attn.c_attn", "answer": "attn.c_proj"}
PARTS |= {"up_norm": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
# what must be as here, with what it is when a file does not say
FIXED: dict[str, tuple[Any, tuple]] = {
    "model_type": ("gpt2", ("gpt2",)),
    "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),
    "layer_norm_epsilon": (1e-5, (1e-5,)),
    "scale_attn_weights": (True, (True,)),
    "scale_attn_by_inverse_layer_idx": (False, (False,)),
    "add_cross_attention": (False, (False,)),
}
SIZES = {
    "symbols": "vocab_size",
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "window": "n_positions",
}


def located(folder: str | Path) -> Path:
    """The folder itself; of hub:NAME, or of a NAME that is no folder here, the one that is fetched."""
    name = str(folder)
    if name.startswith(HUB):
        return fetched(name.removeprefix(HUB))
    named = (
        isinstance(folder, str)
        and re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", folder)
        and not Path(folder).exists()
    )
    return fetched(name) if named else Path(folder)


def fetched(name: str) -> Path:
    """The folder of a model of the Hugging Face hub, in the cache of `huggingface_hub`; no pickle is ever fetched.

    Raises:
        ChainruleError: the package is missing, or there is no such model, or no network.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ChainruleError(
            f'{one_line(name)} is no folder here, and the hub needs a package: pip install "chainrule[hub]"'
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the network, the hub and its client raise many kinds
        raise ChainruleError(
            f"{one_line(name)} is no folder here, and cannot be fetched from the hub: {one_line(error)}"
        ) from error


def is_folder(path: Path) -> bool:
    """Whether GPT-2's files lie there."""
    return (path / CONFIG).is_file()


def read(folder: str | Path, begin: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(constructor arguments, float32 weights by their names in `chainrule.chains.gpt.GPT`) of a folder.

    Raises:
        ChainruleError: something is missing, damaged, or not GPT-2's architecture.
    """
    config = read_config(Path(folder) / CONFIG)
    args = arguments_of(config, Path(folder) / CONFIG, begin)
    return args, read_weights(Path(folder) / WEIGHTS, args)


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json."""
    try:
        config = json.loads(read_bytes(path))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise ChainruleError(f"{path} is damaged: {one_line(error)}") from error
    return config


def arguments_of(config: dict[str, Any], path: Path, begin: int | None) -> dict[str, Any]:
    """The constructor arguments that a config.json means."""
    for key, (default, allowed) in FIXED.items():
        if (found := config.get(key, default)) not in allowed:
            raise ChainruleError(f"{path}: {key} is {one_line(repr(found))}, a GPT has {allowed[0]!r}")
    sizes = {name: size_of(config, key, path) for name, key in SIZES.items()}
    if config.get("n_inner") not in (None, 4 * sizes["width"]):
        inner = one_line(repr(config["n_inner"]))
        raise ChainruleError(f"{path}: n_inner is {inner}, a GPT has 4 n_embd = {4 * sizes['width']}")
    if begin is None:
        begin = config.get("bos_token_id", config.get("eos_token_id"))
    if type(begin) is not int or not 0 <= begin < sizes["symbols"]:
        raise ChainruleError(
            f"{path}: its texts begin with symbol {one_line(repr(begin))} of {sizes['symbols']}: say with begin=N "
            "which one stands before the first"
        )
    tied, dropout = config.get("tie_word_embeddings", True), config.get("resid_pdrop", 0.1)
    if type(tied) is not bool or type(dropout) not in (int, float) or not 0 <= dropout < 1:
        found = f"tie_word_embeddings is {tied!r} and resid_pdrop {dropout!r}"
        raise ChainruleError(f"{path} is damaged: {one_line(found)}")
    return {**sizes, "dropout": float(dropout), "tied": tied, "begin": begin}


def size_of(config: dict[str, Any], key: str, path: Path) -> int:
    """A size that a config.json states."""
    found = config.get(key)
    if type(found) is not int or not 1 <= found <= MOST:
        raise ChainruleError(f"{path}: {key} is {one_line(repr(found))}, it must be 1 to {MOST}")
    return found


def read_weights(path: Path, args: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, checked against the shapes that the arguments ask for before they are read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ChainruleError(
            f"{path} is missing: weights are read from one file of safetensors, never from a pickle"
        )
    try:
        with safe_open(path, "pt") as file:
            found = {re.sub(r"^transformer\.", "", name): name for name in file.keys()}  # noqa: SIM118
            if args["layers"] > len(found):
                raise ChainruleError(
                    f"{path} has {len(found)} weights, {CONFIG} says {args['layers']} layers"
                )
            wanted = {theirs: (ours, shape) for ours, theirs, shape in names(args)}
            tensors = {}
            for theirs, (ours, shape) in wanted.items():
                stored = found.get(theirs)
                here = None if stored is None else tuple(file.get_slice(stored).get_shape())
                if here != shape:
                    raise ChainruleError(f"{path}: {theirs} is {here or 'missing'}, {CONFIG} means {shape}")
                tensors[ours] = weight_of(file.get_tensor(stored), theirs, path)
    except (SafetensorError, OSError) as error:
        raise ChainruleError(f"{path} is damaged: {one_line(error)}") from error
    extra = [name for name in found if name not in wanted and not ignored(name, args)]
    if extra:
        raise ChainruleError(f"{path} has {one_line(extra[0])!r}, which a GPT has not")
    return tensors


def weight_of(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor of a file in single precision and as a `Linear` has it; numbers only."""
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise ChainruleError(f"{path}: {name} holds what is not a number")
    return turned(tensor.float(), name)


def turned(tensor: Tensor, name: str) -> Tensor:
    """The weights of dense layers stand as (in, out) in a file, as (out, in) here."""
    return tensor.T.contiguous() if re.fullmatch(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight", name) else tensor


def ignored(name: str, args: dict[str, Any]) -> bool:
    """Masks that older files hold, and an output that is the table of symbols."""
    return bool(re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name)) or (
        name == "lm_head.weight" and args["tied"]
    )


def names(args: dict[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name here, name there, shape there) of every weight."""
    d, k = args["width"], args["symbols"]
    yield "embed.weight", "wte.weight", (k, d)
    yield "positions.weight", "wpe.weight", (args["window"], d)
    shapes = {"ask": (d, 3 * d), "answer": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    for i in range(args["layers"]):
        for ours, theirs in PARTS.items():
            shape = shapes.get(ours, (d,))
            yield f"layers.{i}.{ours}.weight", f"h.{i}.{theirs}.weight", shape
            yield f"layers.{i}.{ours}.bias", f"h.{i}.{theirs}.bias", shape[-1:]
    yield "norm.weight", "ln_f.weight", (d,)
    yield "norm.bias", "ln_f.bias", (d,)
    if not args["tied"]:
        yield "out.weight", "lm_head.weight", (k, d)


def write(folder: str | Path, args: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write the folder that `read` gives the arguments and the weights of; files of these names are replaced."""
    import safetensors.torch

    Path(folder).mkdir(parents=True, exist_ok=True)
    config = {key: default for key, (default, _) in FIXED.items()}
    config |= {theirs: args[ours] for ours, theirs in SIZES.items()}
    config |= {f"{part}_pdrop": args["dropout"] for part in ("resid", "embd", "attn")}
    config |= {
        "bos_token_id": args["begin"],
        "eos_token_id": args["begin"],
        "tie_word_embeddings": args["tied"],
    }
    config |= {"architectures": ["GPT2LMHeadModel"], "initializer_range": 0.02}
    tensors = {}
    for ours, theirs, _ in names(args):
        prefix = "" if theirs.startswith("lm_head") else "transformer."
        tensors[prefix + theirs] = turned(weights[ours].detach().float().cpu(), theirs).contiguous()
    data = safetensors.torch.save(tensors, {"format": "pt"})
    write_atomic(Path(folder) / WEIGHTS, data)
    write_atomic(Path(folder) / CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())
