"""Tokens a second of one GPT with one set of random weights, at batch 1: the strict engine and its peers.

    python benchmarks/gpt_speed.py [--peer PATH] [--threads 1 2] [--json]

Every side draws the same number of tokens from nothing but a first one, without filters, in turn; the median counts.
`tokens/s` is by the clock on the wall, `tokens/s cpu` by the processor time of the process, which other work on the
machine touches less; with two threads both of them count. `start` are seconds before the first token that a model needs
once. One lane of the engine is computed by one thread, so it is measured with one only. The sides:

    engine        the step program in the strict executor: `sample` of chainrule
    llama.cpp     its decoder and its sampler by way of llama-cpp-python; weights (a GGUF file) and cache in float32
    transformers  GPT2LMHeadModel.generate with its cache, float32, the same weights by way of `save_pretrained`
    nanoGPT       `generate` of a checkout of github.com/karpathy/nanoGPT at PATH: a full pass for every token
    floor         bytes of the weights of all products / the rate at which numpy's dot product reads memory here: what a
                  large model needs at least; a small one stays in the cache, and may be faster

A peer that is not installed, or not given, is left out. Its logits must be those of chainrule up to AGREE, or ROUGH for
llama.cpp, which takes its GELU from a table of half precision.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Row, show

from chainrule.chains.gpt import GPT
from chainrule.engine import program_of
from chainrule.engine.strict import Strict

MODELS: dict[str, dict[str, Any]] = {
    "4 x 128": {"symbols": 65, "width": 128, "layers": 4, "heads": 4, "window": 1024, "begin": 0},
    "12 x 768": {"symbols": 50257, "width": 768, "layers": 12, "heads": 12, "window": 1024, "begin": 50256},
}
AGREE = 1e-3  # largest difference of logits between the sides
ROUGH = 5e-3  # where functions are looked up in tables of half precision
Side = Callable[[int], object]
NANOGPT = {  # its names for the parts of ours
    **{
        "ask_norm": "ln_1",
        "ask": "attn.c_attn",
        "answer": "attn.c_proj",
        "up_norm": "ln_2",
        "up": "mlp.c_fc",
    },
    **{"down": "mlp.c_proj", "embed": "wte", "positions": "wpe", "norm": "ln_f", "layers": "h"},
}
GGUF = {  # those of a GGUF file
    **{
        "ask_norm": "attn_norm",
        "ask": "attn_qkv",
        "answer": "attn_output",
        "up_norm": "ffn_norm",
        "up": "ffn_up",
    },
    **{"down": "ffn_down", "embed": "token_embd", "positions": "position_embd", "norm": "output_norm"},
    **{"layers": "blk"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tokens", type=int, nargs="+", default=[200, 100], help="to draw, of each model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    for name, tokens in zip(options.models, options.tokens, strict=False):
        torch.manual_seed(0)
        chain = GPT(**MODELS[name]).eval()
        for threads in options.threads:
            torch.set_num_threads(threads)
            for row in one(chain, tokens, threads, options):
                yield {"model": name, "tokens": tokens, "threads": threads, **row}


def one(chain: GPT, tokens: int, threads: int, options: argparse.Namespace) -> Iterator[Row]:
    """All sides for one model, in turn."""
    sides, starts, size = {}, {}, 0
    makers = {"llama.cpp": llama_side, "transformers": transformers_side}
    makers["nanoGPT"] = lambda chain: nanogpt_side(chain, options.peer)
    if threads == 1:
        began = time.process_time()
        sides["engine"], size = engine_side(chain, tokens)
        starts["engine"] = time.process_time() - began
    for name, make in makers.items():
        began = time.process_time()
        side = make(chain)
        if side is not None:
            sides[name], starts[name] = side, time.process_time() - began
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    reads = []
    for _ in range(options.runs):
        for name, side in sides.items():
            found[name].append(timed(lambda side=side: side(tokens)))
        reads.append(bandwidth() if size else 0)
    for name, times in found.items():
        wall, cpu = (tokens / statistics.median(column) for column in zip(*times, strict=True))
        yield {"side": name, "tokens/s": wall, "tokens/s cpu": cpu, "start": starts[name]}
    if size:
        rate = statistics.median(reads)
        yield {"side": "floor", "tokens/s cpu": rate / size, "MB a token": size / 1e6, "GB/s": rate / 1e9}


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def bandwidth(size: int = 1 << 26) -> float:
    """Bytes that a dot product reads in a second of processor time."""
    x, y = np.ones((2, size), np.float32)
    return 2 * x.nbytes / min(timed(lambda: x @ y)[1] for _ in range(3))


def engine_side(chain: GPT, tokens: int) -> tuple[Side, int]:
    """The strict engine, ready to draw; and the bytes of the weights of its products."""
    program = program_of(chain)
    assert program is not None
    run = Strict(program, (tokens,), 1)
    uniforms = 1 - np.random.default_rng(0).random((1, tokens))

    def side(count: int) -> object:
        return run.copy().fill(np.zeros((1, count), np.int64), np.zeros(count, bool), uniforms)

    return side, 4 * sum(program.multiply_adds().values())


def llama_side(chain: GPT) -> Side | None:
    """The decoder and the sampler of llama.cpp, with the same weights."""
    try:
        llama, gguf = (importlib.import_module(name) for name in ("llama_cpp", "gguf"))
    except ImportError:
        return None
    llama.silent = llama.llama_log_callback(
        lambda level, text, data: None
    )  # must live as long as the library
    llama.llama_log_set(llama.silent, None)
    sizes = llama.llama_context_default_params()
    sizes.n_ctx = sizes.n_batch = chain.window
    sizes.n_threads = sizes.n_threads_batch = torch.get_num_threads()
    sizes.type_k = sizes.type_v = sizes.flash_attn_type = 0  # float32; plain attention
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(gguf, chain, Path(folder) / "model.gguf")
        path = str(Path(folder) / "model.gguf").encode()
        model = llama.llama_model_load_from_file(path, llama.llama_model_default_params())
        context = llama.llama_init_from_model(model, sizes)
    sampler, past = llama.llama_sampler_init_dist(0), llama.llama_get_memory(context)

    def decode(token: int) -> None:
        assert llama.llama_decode(context, llama.llama_batch_get_one((llama.llama_token * 1)(token), 1)) == 0

    def logits(ids: torch.Tensor) -> torch.Tensor:
        llama.llama_memory_clear(past, True)
        rows = []
        for token in ids[0].tolist():
            decode(token)
            rows.append(
                np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (chain.symbols,)).copy()
            )
        return torch.from_numpy(np.stack(rows))[None]

    def side(count: int) -> object:
        llama.llama_memory_clear(past, True)
        token = chain.nothing
        for _ in range(count):
            decode(token)
            token = llama.llama_sampler_sample(sampler, context, -1)
        return token

    agree(chain, logits, ROUGH)
    return side


def write_gguf(gguf: Any, chain: GPT, path: Path) -> None:
    """The chain as a file for llama.cpp, without a vocabulary."""
    writer, width = gguf.GGUFWriter(path, "gpt2"), chain.args["width"]
    writer.add_context_length(chain.window)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(4 * width)
    writer.add_block_count(chain.args["layers"])
    writer.add_head_count(chain.args["heads"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(chain.symbols)
    for name, weight in named(chain, GGUF).items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def transformers_side(chain: GPT) -> Side | None:
    """`generate` of transformers, with the same weights."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        chain.save_pretrained(folder)
        peer = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    agree(chain, lambda ids: peer(ids).logits)
    how = {"do_sample": True, "top_k": 0, "temperature": 1.0, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.full((1, 1), chain.nothing)

    @torch.inference_mode()
    def side(count: int) -> object:
        out = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **how)
        assert out.shape == (1, count + 1)
        return out

    return side


def nanogpt_side(chain: GPT, path: Path | None) -> Side | None:
    """`generate` of nanoGPT, with the same weights."""
    if path is None:
        return None
    sys.path.insert(0, str(path))
    model = importlib.import_module("model")
    sys.path.remove(str(path))
    sizes = {"vocab_size": chain.symbols, "block_size": chain.window, "dropout": 0.0, "bias": True}
    sizes |= {"n_layer": chain.args["layers"], "n_head": chain.args["heads"], "n_embd": chain.args["width"]}
    peer = model.GPT(model.GPTConfig(**sizes)).eval()
    weights = {f"transformer.{name}": weight for name, weight in named(chain, NANOGPT).items()}
    peer.load_state_dict({**weights, "lm_head.weight": chain.embed.weight.detach()}, strict=True)
    agree(chain, lambda ids: peer(ids, ids)[0])
    ids = torch.full((1, 1), chain.nothing)

    @torch.inference_mode()
    def side(count: int) -> object:
        return peer.generate(ids, count)

    return side


def named(chain: GPT, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The weights under other names of their parts; dense layers stand as they do here."""
    weights = chain.state_dict().items()
    return {".".join(names.get(part, part) for part in name.split(".")): weight for name, weight in weights}


@torch.inference_mode()
def agree(chain: GPT, logits: Callable[[torch.Tensor], torch.Tensor], most: float = AGREE) -> None:
    """Raise an error when another side does not compute the same model."""
    x = torch.arange(16)[None] * 7 % chain.symbols
    ids = torch.cat([torch.full((1, 1), chain.nothing), x[:, :-1]], 1)
    apart = float((chain.logits(x) - logits(ids)).abs().max())
    assert apart < most, f"the logits are {apart:.2g} apart"


if __name__ == "__main__":
    main()
