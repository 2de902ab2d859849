"""English to German, character by character: ByteNet and LSTMs after the same minutes of training on Multi30k.

    python benchmarks/translation.py --folder DIR [--minutes 50] [--models bytenet seq2seq] [--beam 8] [--json]
    python benchmarks/translation.py --folder DIR --show 10 [--json]

The 29,000 pairs of `multi30k` are learned by `chainrule fit` in one thread; minutes are of processor time, so what
others do does not count, though it makes every step slower. `bits_per_char` is exact, of all 1,014 validation pairs:
the bits of a target line with its end, by its characters (bytes are a few more: ä is two). The 1,000 sentences of the
test set of 2016 are translated greedily and by a beam, and judged by sacrebleu (corpus BLEU, cased, tokens "13a");
`signature` is its own. `s` is the processor time of all 1,000. DIR keeps a run folder for each model and budget; a
training that was stopped goes on from there.

With --show the rows are translations as they are: of so many test sentences, evenly spread, by beam search.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Row, show

import chainrule.train
from chainrule import fit, load, open_run, score, translate
from chainrule.data import Dataset
from chainrule.model import Chain
from chainrule.models import INFO, MODEL

MODELS = ("bytenet", "seq2seq")
END = ord("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", default="multi30k")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--size", default="laptop")
    parser.add_argument("--beam", type=int, default=8)
    parser.add_argument("--show", type=int, default=0, help="translations to show instead of scores")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chainrule.train.time.perf_counter = time.process_time  # the budget is of processor time
    show(shown(options) if options.show else measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row a model."""
    held, test = load(f"{options.data}:validation"), load(f"{options.data}:test")
    for name in options.models:
        run = trained(options, name)
        chain: Chain = run.chain
        facts = {"model": name, "minutes": options.minutes, "steps": run.info["trained"]["steps"]}
        facts |= {"parameters": sum(p.numel() for p in chain.parameters())}
        bits = float(score(chain, held).nats.sum()) / math.log(2)
        facts["bits_per_char"] = bits / sum(len(text_of(x)) + 1 for x in held.x)
        yield {**facts, **judged(chain, test, options.beam)}


def judged(chain: Chain, test: Dataset, beam: int) -> Row:
    """BLEU of all translations, greedy and by the beam, and the processor time that they took."""
    from sacrebleu.metrics import BLEU

    found: Row = {}
    references = [[text_of(x) for x in test.x]]
    for way, width in (("greedy", 0), (f"beam_{beam}", beam)):
        began = time.process_time()
        said = translate(chain, test.sources, end=END, beam=width)
        seconds = time.process_time() - began
        metric = BLEU()
        bleu = metric.corpus_score([text_of(x) for x in said], references).score
        found |= {f"bleu_{way}": bleu, f"s_{way}": seconds, "signature": str(metric.get_signature())}
    return {**found, "signature": found.pop("signature")}


def shown(options: argparse.Namespace) -> Iterator[Row]:
    """A row a sentence: the source, the reference, and what each model says."""
    test = load(f"{options.data}:test")
    few = test.select(np.linspace(0, len(test) - 1, options.show).astype(int))
    said = {
        name: translate(trained(options, name).chain, few.sources, end=END, beam=options.beam)
        for name in options.models
    }
    for i, (source, reference) in enumerate(zip(few.sources, few.x, strict=True)):
        row = {"number": few.names[i], "source": text_of(source), "reference": text_of(reference)}
        yield {**row, **{name: text_of(texts[i]) for name, texts in said.items()}}


def trained(options: argparse.Namespace, name: str) -> Any:
    """The run that was trained for so long; now, unless DIR holds it."""
    folder = options.folder / f"{name}-{options.minutes:g}"
    if not (folder / MODEL).exists():
        resume = (folder / INFO).exists()
        new = {
            "data": options.data,
            "model": name,
            "minutes": options.minutes,
            "holdout": 0,
            "size": options.size,
        }
        fit(**({"data": None} if resume else new), out=folder, resume=resume)
    return open_run(folder)


def text_of(symbols: Any) -> str:
    """A line without its end."""
    return bytes(np.asarray(symbols).astype(np.uint8)).decode(errors="replace").rstrip("\n")


if __name__ == "__main__":
    main()
