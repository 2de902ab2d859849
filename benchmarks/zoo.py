"""Take a run into the zoo that travels with the package: its model, and a card with its exact score.

    python benchmarks/zoo.py RUN NAME       # writes src/chainrule/zoo/NAME
    python benchmarks/zoo.py --check        # scores every model of the zoo again: does its card tell the truth?

The run must have learned from the training split of a named set whose licence lets weights be shared. The score is
that of the whole test split. What is too large is refused: the package carries the zoo.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from chainrule import load, open_run, score, store, zoo
from chainrule.data.named import NAMED
from chainrule.errors import ChainruleError
from chainrule.models import Run
from chainrule.report import fit_command

SHARED = {"CC BY-SA 3.0", "CC BY-SA 4.0", "CC BY 4.0", "CC BY 2.0", "public domain"}
ONE, ALL = 3_000_000, 12_000_000  # bytes at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="a run folder")
    parser.add_argument("name", nargs="?", help="what the model is called in the zoo")
    parser.add_argument("--check", action="store_true", help="compare every card with its model")
    options = parser.parse_args()
    if options.check == bool(options.name):
        parser.error("give RUN NAME, or --check")
    try:
        if options.check:
            check()
        else:
            enter(Path(options.run), options.name)
    except ChainruleError as error:
        raise SystemExit(f"error: {error}") from error


def enter(path: Path, name: str) -> None:
    """Write the model and its card."""
    run, model = open_run(path), (path / zoo.MODEL).read_bytes()
    others = sum((zoo.HERE / other / zoo.MODEL).stat().st_size for other in zoo.names() if other != name)
    if len(model) > ONE or others + len(model) > ALL:
        raise ChainruleError(
            f"{path} has {len(model):,} bytes, others {others:,}: one model may have {ONE:,}, all of them {ALL:,}"
        )
    card, folder = card_of(run), zoo.HERE / name
    folder.mkdir(exist_ok=True)
    store.write_atomic(folder / zoo.MODEL, model)
    store.write_atomic(folder / zoo.CARD, f"{json.dumps(card, indent=1)}\n".encode())
    print(json.dumps(card, indent=1))


def check() -> None:
    """Score every model again."""
    for name in zoo.names():
        told, found = zoo.card(name), card_of(open_run(zoo.named(name)))
        row = {"name": zoo.named(name), "card_is_true": told == found, **found["score"], **found["training"]}
        print(json.dumps({**row, "parameters": found["parameters"], "command": found["command"]}), flush=True)
        if told != found:
            raise ChainruleError(f"the card of {name} says {told}, measured now: {found}")


def card_of(run: Run) -> dict[str, Any]:
    """What a card says; see `chainrule.zoo.card`."""
    data, trained = run.info["data"], run.info["trained"]
    if data not in NAMED or NAMED[data].licence not in SHARED:
        raise ChainruleError(f"weights learned from {data} cannot be shared: its licence does not say so")
    test = load(data, split="test", classes=run.info["classes"] or False)
    result = score(run.chain, test)
    words = shlex.split(fit_command(run))
    return {
        "model": run.info["model"],
        "data": data,
        "items": run.info["items"],
        "parameters": sum(p.numel() for p in run.chain.parameters()),
        "command": shlex.join(words[: words.index("-o")]),
        "training": {"seconds": round(trained["seconds"]), "steps": trained["steps"]},
        "score": {
            "items": len(test),
            "bits_per_dim": round(result.bits_per_dim, 4),
            "nats_per_item": round(result.nats_per_item, 2),
        },
        "licence": NAMED[data].licence,
    }


if __name__ == "__main__":
    main()
