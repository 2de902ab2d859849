"""Bits a byte that lossless archives of the same images take: every image chain, and every codec that is installed.

The chains are those with a step program. Each learns for the same time, writes an archive of the test images and reads
it back; `bits_per_byte` is of the archive without the model, `exact_score` what the chain promised, `with_model` what
the archive takes when the model travels along, which pays when there are many images. A byte is a symbol of the images:
of MNIST and photographs a pixel, or a colour of one. Codecs are measured in every fair form of the images, on one sheet
and as a file each, headers included; those of the package imagecodecs are there when it is installed
(`pip install chainrule[codecs]`). `kB_per_s` is of writing the archive, on so many threads as PyTorch has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import plots, store
from chainrule.chains import CHAINS
from chainrule.data import Dataset, load
from chainrule.errors import ChainruleError
from chainrule.lecture.learning import LISTENER
from chainrule.lecture.natural import Save
from chainrule.model import Chain
from chainrule.report.codecs import codec_table
from chainrule.verbs.compress import compress
from chainrule.verbs.fit import fit
from chainrule.verbs.score import score
from chainrule.verbs.unpack import decompress

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "items": 60, "budget": {"steps": 3}, "efforts": [1]},
    "laptop": {"data": "mnist", "items": 500, "budget": {"minutes": 0.6}, "efforts": [7, 9]},
    "paper": {"data": "cifar10-first4000", "items": 500, "budget": {"minutes": 60.0}, "efforts": [7, 9, 10]},
}
COLUMNS = ("by", "bits_per_byte", "exact_score", "with_model", "kB_per_s", "how")
# What a chain is made smaller by where its weights belong to places, and there are 256 levels at each.
SMALLER: dict[str, dict[str, Any]] = {"made": {"hidden": 500}, "nade": {"hidden": 100}}


def draw(save: Save, seed: int, data: str, items: int, budget: dict, efforts: list[int]) -> dict:
    """A row for each chain and each codec, and a picture of all of them."""
    train, test = (unlabelled(load(data, split=split)) for split in ("train", "test"))
    test = test.select(slice(0, items))
    rows = list(by_chains(train, test, seed, budget))
    for codec in codec_table([np.asarray(x) for x in test.x], test.levels, efforts):
        rows.append({"by": codec.name, "bits_per_byte": codec.bits_per_dim, "how": codec.best})
    rows.sort(key=lambda row: row["bits_per_byte"])
    save("bits-a-byte", picture(rows))
    return {"rows": [{key: row.get(key) for key in COLUMNS} for row in rows], "images": len(test)}


def unlabelled(data: Dataset) -> Dataset:
    """The same events without their classes."""
    return replace(data, context=None, classes=())


def by_chains(train: Dataset, test: Dataset, seed: int, budget: dict) -> Iterator[dict[str, Any]]:
    """A row for each image chain that has a step program."""
    with tempfile.TemporaryDirectory() as folder:
        for name in CHAINS:
            if "image" in store.resolve(name, CHAINS).KINDS and name != "uniform":  # which learns nothing
                yield {"by": name, **row(name, train, test, seed, budget, Path(folder))}


def row(name: str, train: Dataset, test: Dataset, seed: int, budget: dict, folder: Path) -> dict[str, Any]:
    """A chain learned from `train`, and the archive of `test` that it writes."""
    size = "tiny" if train.levels < 256 else "laptop"
    settings = SMALLER.get(name, {}) if size == "laptop" else {}

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            LISTENER.get()(name, round(100 * event["training"].done), 100)

    run = fit(
        train,
        name,
        out=folder / name,
        size=size,
        settings=settings,
        seed=seed,
        holdout=0,
        listen=show,
        **budget,
    )
    path = folder / f"{name}.chain"
    report = compress(run.chain, test, path, verify=False)
    if not same(path, test):
        raise ChainruleError(f"the archive of {name} is not what went in")
    return {
        "bits_per_byte": report.bits_per_dim,
        "exact_score": score(run.chain, test).bits_per_dim,
        "with_model": report.with_model,
        "kB_per_s": report.raw_bytes / 1000 / report.seconds,
        "how": f"{parameters(run.chain):,} parameters, {run.info['trained']['steps']:,} steps",
    }


def same(path: Path, test: Dataset) -> bool:
    """Whether an archive gives back every image, under its name."""
    back = {name: x for name, x, _ in decompress(path)}
    return len(back) == len(test) and all(
        np.array_equal(back[name], x) for name, x in zip(test.names, test.x, strict=True)
    )


def parameters(chain: Chain) -> int:
    return sum(p.numel() for p in chain.parameters())


def picture(rows: list[dict[str, Any]]):
    """Bars, the smallest first; chains are set off."""
    figure, axes = plots.blank("bits a byte", "")
    figure.set_size_inches(6.4, 0.6 + 0.24 * len(rows))
    names, bits = [row["by"] for row in rows], [row["bits_per_byte"] for row in rows]
    own = ["exact_score" in row for row in rows]
    places = np.arange(len(rows))
    axes.barh(places, bits, 0.66, color=[plots.PALETTE[0] if mine else plots.PALETTE[1] for mine in own])
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlim(0, 1.12 * max(bits))
    for place, value in zip(places, bits, strict=True):
        axes.text(value, place, f" {value:.3f}", va="center", fontsize=8, color=plots.INK)
    return plots.raster(figure)
