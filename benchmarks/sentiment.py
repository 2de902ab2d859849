"""The sentiment neuron on little text: what the cells of a chain over bytes know of a review, by how much it has read.

    python benchmarks/sentiment.py [--json] [--seconds 160] [--width 256] [--labels 10 100 1000] [--draws 5]
                                [--until letter] [--readings "1 of"]

A multiplicative LSTM learns the training sentences of sst2 without their classes: an eighth of them, a quarter, half
and all, with processor time in proportion (one thread; `--seconds` for all of them), so that each is read as often.
One reads Reuters newswire first (titles and stories, 18 MB, for as long again); one has the weights that it was drawn
with. Its cells after the last letter of a sentence are the features, or after its last byte (`--until byte`), which
mostly is a full stop: then the sentence is over, and nothing of it is worth keeping. Nothing is put before or after a
sentence, since the chain has a symbol of its own for "nothing yet". `regression_%` is the share of the 1,821 test
sentences that a logistic regression with an L1 penalty on all cells tells right, `unit_%` that of the one unit that is
best on the training sentences, at its best threshold there. Beside them stand words and pairs of words (TF-IDF, L2
penalty). Penalties are chosen on the 872 validation sentences. The second part has fewer labels, drawn evenly over the
classes; the vocabulary still is that of all training sentences, and penalties are chosen as before.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse, stats
from table import Row, show

from chainrule import score, store, train
from chainrule.data import Dataset
from chainrule.layers.sequence import Cells
from chainrule.lecture.sentiment_neuron import (
    BATCH,
    L1,
    L2,
    MODEL,
    SIZES,
    WINDOW,
    Reviews,
    best_unit,
    chosen,
    regression,
    reviews_of,
    share,
    sparse_regression,
    training_of,
    until_letter,
    words,
)
from chainrule.models import TABLE
from chainrule.train import Plan
from chainrule.verbs.probe import drawn

REUTERS = "reuters21578.jsonl.gz"
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
OWN = SIZES["laptop"]["sets"]["sst2"]  # rate and dropout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=160, help="of processor time, for all sentences")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--until", choices=["letter", "byte"], default="letter", help="where cells are read")
    parser.add_argument("--readings", default="", help="only those whose names begin so; no other rows then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train.time.perf_counter = time.process_time  # the budget is of processor time
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    reviews = reviews_of("sst2", options.seed)
    seen = reviews if options.until == "byte" else Reviews(*map(until_letter, reviews))
    cells = []
    for name, parts in readings(reviews.learn, options.seconds):
        if not name.startswith(options.readings):
            continue
        chain, told = read(parts, options.width, options.seed)
        cells = [Cells(chain).transform(part.x) for part in seen]
        bits = score(chain, reviews.test).bits_per_dim
        yield {
            "learned_from": name,
            "read_at": options.until,
            **told,
            "test_bits_per_byte": bits,
            **worth(cells, reviews),
        }
    if options.readings:
        return
    counted = words(reviews)
    found = chosen(regression, L2, counted, reviews)
    yield {
        "learned_from": "words and pairs, counted",
        "regression_%": 100 * found.accuracy,
        "weights": found.weights,
    }
    kinds = {
        "cells": (sparse_regression, L1, cells),
        "words and pairs": (regression, L2, counted),
        "both": (regression, L2, together(counted, cells)),
    }
    for name, how in kinds.items():
        for labels in (*options.labels, len(reviews.learn)):
            yield {"features": name, "labels": labels, **with_labels(*how, reviews, labels, options)}


def readings(learn: Dataset, seconds: float) -> Iterator[tuple[str, list[tuple[Dataset, float]]]]:
    """What the chains read: (name, texts and seconds of each)."""
    yield "nothing: random weights", []
    for part in SHARES:
        texts = learn.select(slice(0, round(part * len(learn))))
        yield f"{part:g} of the sentences", [(texts, part * seconds)]
    news = reuters()
    if news is not None:
        yield "Reuters, then all sentences", [(news, seconds), (learn, seconds)]


def reuters() -> Dataset | None:
    """Titles and stories of Reuters-21578 as one text, when they are in CHAINRULE_DATA."""
    path = Path(os.environ.get("CHAINRULE_DATA", ""), REUTERS)
    if not path.is_file():
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        stories = [json.loads(line) for line in file]
    text = "\n".join(f"{story['title']}\n{story['body']}" for story in stories).encode()
    return Dataset(np.frombuffer(text, np.uint8)[None], 256, "text")


def read(parts: list[tuple[Dataset, float]], width: int, seed: int) -> tuple[Any, Row]:
    """A chain that has read each of the texts for so many seconds, one after another; what there is to say of it."""
    chain: Any = store.build(MODEL, {"symbols": 256, "width": width, "dropout": OWN["dropout"]}, TABLE, seed)
    told: Row = {
        "bytes": sum(texts.symbols_total for texts, _ in parts),
        "processor_s": 0.0,
        "times_read": 0.0,
    }
    for texts, seconds in parts:
        plan = Plan(minutes=seconds / 60, lr=OWN["rate"], seed=seed, compile=False, bfloat16=True)
        training = training_of(chain, texts, plan)
        for _ in training:
            pass
        chain.load_state_dict(training.averaged())
        told["processor_s"] += training.seconds
        told["times_read"] = training.step * BATCH * WINDOW / texts.symbols_total  # the last one
    return chain.eval(), told


def worth(cells: list[np.ndarray], reviews: Reviews) -> Row:
    """What the best unit and all cells tell of the test sentences."""
    y, _, truth = (np.asarray(part.context) for part in reviews)
    unit = best_unit(cells[0], y)
    found = chosen(sparse_regression, L1, cells, reviews)
    return {
        "unit_training_%": 100 * unit.accuracy,
        "unit_%": 100 * share((unit.of(cells[2]) > 0) == truth),
        "regression_%": 100 * found.accuracy,
        "weights": found.weights,
    }


def together(counted: list[Any], cells: list[np.ndarray]) -> list[Any]:
    """Words beside cells: of each unit's deviation so little that all cells of a sentence have a length near 1."""
    mean, scale = cells[0].mean(0), cells[0].std(0) * cells[0].shape[1] ** 0.5
    return [
        sparse.csr_array(sparse.hstack([w, (c - mean) / scale])) for w, c in zip(counted, cells, strict=True)
    ]


def with_labels(make, grid, features, reviews: Reviews, labels: int, options: argparse.Namespace) -> Row:
    """The accuracy with so many labels: the mean over the draws, and half its 95 % t-interval."""
    y = np.asarray(reviews.learn.context)
    every = labels == len(y)
    draws = [np.arange(labels)] if every else [d for [d] in drawn(y, [labels], options.draws, options.seed)]
    found = []
    for index in draws:
        few = reviews._replace(learn=reviews.learn.select(index))
        found.append(100 * chosen(make, grid, [features[0][index], *features[1:]], few).accuracy)
    n = len(found)
    margin = float(stats.t.ppf(0.975, n - 1) * np.std(found, ddof=1) / n**0.5) if n > 1 else ""
    return {"test_%": float(np.mean(found)), "margin": margin, "draws": n}


if __name__ == "__main__":
    main()
