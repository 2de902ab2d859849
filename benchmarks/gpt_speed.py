"""Tokens a second of one GPT with one set of random weights, at batch 1: the strict engine, transformers, nanoGPT.

    python benchmarks/gpt_speed.py [--peer PATH] [--threads 1 2] [--json]

Every side draws the same number of tokens from nothing but a first one, without filters, in turn; the median counts.
`tokens/s` is by the clock on the wall, `tokens/s cpu` by the processor time of the process, which other work on the
machine touches less; with two threads both of them count. `start` are seconds before the first token that a model needs
once. One lane of the engine is computed by one thread, so it is measured with one only. The sides:

    engine        the step program in the strict executor: `sample` of chainrule
    transformers  GPT2LMHeadModel.generate with its cache, float32, the same weights by way of `save_pretrained`
    nanoGPT       `generate` of a checkout of github.com/karpathy/nanoGPT at PATH: a full pass for every token
    floor         bytes of the weights of all products / the rate at which numpy's dot product reads memory here: what a
                  large model needs at least; a small one stays in the cache, and may be faster

What transformers and nanoGPT are not installed, or not given, is left out. Their logits are compared with chainrule's.
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
Side = Callable[[int], object]


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
    makers = {"transformers": transformers_side, "nanoGPT": lambda chain: nanogpt_side(chain, options.peer)}
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
    peer.load_state_dict(named_as_nanogpt(chain), strict=True)
    agree(chain, lambda ids: peer(ids, ids)[0])
    ids = torch.full((1, 1), chain.nothing)

    @torch.inference_mode()
    def side(count: int) -> object:
        return peer.generate(ids, count)

    return side


def named_as_nanogpt(chain: GPT) -> dict[str, torch.Tensor]:
    """The weights under nanoGPT's names; dense layers stand as they do here."""
    parts = {
        "ask_norm": "ln_1",
        "ask": "attn.c_attn",
        "answer": "attn.c_proj",
        "up_norm": "ln_2",
        "up": "mlp.c_fc",
    }
    parts |= {"down": "mlp.c_proj", "embed": "wte", "positions": "wpe", "norm": "ln_f", "layers": "h"}
    named = {}
    for name, weight in chain.state_dict().items():
        named["transformer." + ".".join(parts.get(part, part) for part in name.split("."))] = weight
    return {**named, "lm_head.weight": chain.embed.weight.detach()}


@torch.inference_mode()
def agree(chain: GPT, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Raise an error when another side does not compute the same model."""
    x = torch.arange(16)[None] * 7 % chain.symbols
    ids = torch.cat([torch.full((1, 1), chain.nothing), x[:, :-1]], 1)
    apart = float((chain.logits(x) - logits(ids)).abs().max())
    assert apart < AGREE, f"the logits are {apart:.2g} apart"


if __name__ == "__main__":
    main()
