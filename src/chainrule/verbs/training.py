"""What trains a chain, and a chain made of chains part by part: options, batches, passages, stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chainrule import store
from chainrule.data import Dataset, batches, pairs, passage, passages, streams
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.models import TABLE, Run, open_run
from chainrule.stages import Stage, Stages
from chainrule.train import Batch, Plan, Training

Options = dict[str, Any]


def training_options(
    name: str, args: dict[str, Any], batch=None, lr=None, compile=None, bfloat16=None
) -> Options:
    """Items a step, rate, window and so on: what the model suggests, unless something else was asked for.

    A window that is a name is what that argument of the model is; events of one shape, and pairs of a text and its
    source, are learned from whole.
    """
    cls = store.resolve(name, TABLE)
    suggested = {
        "batch": 32,
        "lr": 3e-3,
        "window": None,
        "bfloat16": False,
        "carry": False,
        "muon": False,
        "compile": None,
        **getattr(cls, "TRAINING", {}),
    }
    if isinstance(suggested["window"], str):
        argument = suggested["window"]
        suggested["window"] = args.get(argument, signature(cls).parameters[argument].default)
    if args.get("event") is not None or args.get("source"):
        suggested |= {"window": None, "carry": False}
    given = {"batch": batch, "lr": lr, "compile": compile, "bfloat16": bfloat16}
    return {**suggested, **{k: v for k, v in given.items() if v is not None}}


def training_of(chain: Chain, learn: Dataset, info: dict) -> Training | Stages | None:
    """What trains a chain within the budget of a run, or its parts one after another; None: nothing can be."""
    plan = Plan(**info["budget"], seed=info["seed"])
    if "parts" not in info["training"]:
        begin = beginning(chain, learn, info["training"])
        return begin(plan, []) if begin else None
    stages = []
    parts: Any = chain.parts
    for part, options in zip(parts, info["training"]["parts"], strict=True):
        begin = None if "from" in options else beginning(part, learn, options)
        if begin is not None:
            stages.append(Stage(0.0 if part.PASSAGE else 1.0, begin))
    stages.sort(key=lambda stage: -stage.share)
    return Stages(stages, plan) if stages else None


def beginning(
    chain: Chain, learn: Dataset, options: Options
) -> Callable[[Plan, list[nn.Module]], Training] | None:
    """(budget, models trained before) -> the training of a chain that is made of no others; None: nothing to learn."""
    if chain.PASSAGE:
        return partial(by_passages, chain, learn, options)
    return partial(by_batches, chain, learn, options) if any(True for _ in chain.parameters()) else None


def by_passages(
    chain: Chain, learn: Dataset, options: Options, budget: Plan, before: list[nn.Module]
) -> Training:
    """All of the data once, passage after passage: the budget is not asked."""
    places = passages(learn, chain.PASSAGE)

    def passage_at(step: int) -> Batch:
        x, begin = passage(learn, *places[step], chain.PASSAGE)
        return torch.from_numpy(x), torch.tensor(begin)

    return Training(chain, passage_at, replace(budget, minutes=None, steps=len(places), **rates(options)))


def by_batches(
    chain: Chain, learn: Dataset, options: Options, budget: Plan, before: list[nn.Module]
) -> Training:
    """Random batches; of a chain whose state is carried streams that read on; of one with a source pairs."""
    carries = options.get("carry", False)  # runs of earlier versions say nothing about it
    rows: Any = partial(streams, each=chain.channels) if carries else batches

    def batch_at(step: int) -> Batch:
        if chain.source:
            return tuple(map(torch.from_numpy, pairs(learn, options["batch"], budget.seed, step)))
        arrays = rows(learn, options["batch"], budget.seed, step, options["window"])
        return tuple(torch.from_numpy(array) for array in arrays if array is not None)

    carried: Any = chain.rest(options["batch"]) if carries else None  # type: ignore[operator]
    return Training(chain, batch_at, replace(budget, **rates(options)), carried)


def rates(options: Options) -> Options:
    """What a plan takes of the options."""
    muon = options.get("muon", False)  # runs of earlier versions say nothing about it
    return {"muon": muon, **{key: options[key] for key in ("lr", "compile", "bfloat16")}}


# ---- chains made of chains -----------------------------------------------------------------------------------


def with_parts(args: dict[str, Any], size: str) -> dict[str, Any]:
    """The arguments of a model as JSON, the parts spelled out: a bare name takes the size of the whole.

    What is no name is a run, whose model becomes the part.
    """
    entries = args.get("parts")
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        return args
    return {**args, "parts": [spelled_out(entry, size) for entry in entries]}


def spelled_out(entry: str | dict[str, Any], size: str) -> dict[str, Any]:
    """A part as {"model": name, "args": {...}}, and for a run {"from": where it is}."""
    if isinstance(entry, dict):
        return entry
    if entry in TABLE:
        sizes = store.resolve(entry, TABLE).SIZES
        return {"model": entry, "args": dict(sizes[size])}
    chain = open_run(entry).chain
    return {"model": store.name_of(chain, TABLE), "args": store.arguments(chain, TABLE), "from": entry}


def options_of_all(info: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The training options of a model, or of each of its parts; takes "from" out of the arguments of parts."""
    parts = info["args"].get("parts")
    if not isinstance(parts, list):
        return training_options(info["model"], info["args"], **given)
    options = []
    for part in parts:
        source = part.pop("from", None)
        known = None if source is None else {"from": source, "sha256": identity(source)}
        options.append(known or training_options(part.get("model"), part.get("args", {}), **given))
    return {"parts": options}


def identity(run: str) -> str:
    """SHA-256 of the model of a run."""
    return store.sha256(open_run(run).chain, TABLE)


def take_over(chain: Chain, info: dict[str, Any]) -> None:
    """Give the parts that come from other runs what those have learned."""
    for part, options in zip(getattr(chain, "parts", ()), info["training"].get("parts", ()), strict=True):
        if "from" in options:
            found = open_run(options["from"]).chain
            if store.sha256(found, TABLE) != options["sha256"]:
                raise ChainruleError(
                    f"the model in {options['from']} is another one than when this run began"
                )
            part.load_state_dict(found.state_dict())


def started(start: str | Path, model: str | None, tokens: Any) -> Run:
    """The run that another one begins from: a chain, whose alphabet stays."""
    begun = open_run(start)
    if tokens is not None:
        raise ChainruleError(
            f"--tokens {tokens}: the model of --start {start} has its alphabet already, leave it out"
        )
    if (name := store.name_of(begun.chain, TABLE)) != (model or name):
        raise ChainruleError(f"--model {model}: --start {start} holds {name}, leave --model out")
    if isinstance(begun.info["args"].get("parts"), list) or begun.chain.PASSAGE:
        raise ChainruleError(
            f"--start {start} holds {name}, which does not learn in steps from what it has learned"
        )
    return begun


def take_start(chain: Chain, info: dict[str, Any]) -> None:
    """Give a chain what the run that it begins from has learned."""
    found = open_run(info["start"]["from"]).chain
    if store.sha256(found, TABLE) != info["start"]["sha256"]:
        raise ChainruleError(f"the model in {info['start']['from']} is another one than when this run began")
    try:
        chain.load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise ChainruleError(
            f"what {info['start']['from']} has learned does not fit these settings: leave out --set"
        ) from error


def named_options(info: dict[str, Any]) -> Iterator[tuple[str, Options]]:
    """(name, options) of the model of a run, or of each of its parts that is trained in it."""
    if "parts" not in info["training"]:
        yield info["model"], info["training"]
        return
    for part, options in zip(info["args"]["parts"], info["training"]["parts"], strict=True):
        if "from" not in options:
            yield part["model"], options


def learns_in_one_pass(info: dict[str, Any]) -> bool:
    """Whether all that a run trains are chains that read their data once, in order."""
    return all(getattr(store.resolve(name, TABLE), "PASSAGE", 0) for name, _ in named_options(info))


def check_one_pass(info: dict[str, Any], **given: Any) -> None:
    """One clear line for an option that a chain has no use for that reads its data once."""
    for option, value in given.items():
        if value is not None and learns_in_one_pass(info):
            raise ChainruleError(
                f"{info['model']} reads the data once, from beginning to end: leave out --{option}"
            )
