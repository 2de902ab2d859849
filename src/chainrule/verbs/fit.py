"""`fit`: from data to a run folder."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule import __version__, store
from chainrule.data import Alphabet, Dataset, batches, load
from chainrule.data.parallel import Sources
from chainrule.data.patches import COUNT
from chainrule.errors import ChainruleError
from chainrule.model import Chain, Code
from chainrule.models import INFO, METRICS, MODEL, STATE, TABLE, Run, alphabet_of
from chainrule.stages import Stages
from chainrule.train import Learner, Plan, Training
from chainrule.verbs.alphabet import alphabet_for, divided, facts_of, keep
from chainrule.verbs.run_folder import (
    Log,
    check_options,
    check_same_data,
    checkpoint,
    new_folder,
    reopen,
    restore,
    same_data,
    write_info,
)
from chainrule.verbs.score import check_symbols, score
from chainrule.verbs.training import (
    check_one_pass,
    learns_in_one_pass,
    options_of_all,
    started,
    take_over,
    take_start,
    training_of,
    with_parts,
)

DEFAULT_MODEL = {"image": "gated-pixelcnn", "text": "char-lstm", "sound": "wavenet", "array": "char-lstm"}
TRANSLATOR = "bytenet"  # for texts with sources
DEFAULT_MINUTES = 10.0
SAVE_EVERY = 20.0  # seconds between checkpoints, unless told otherwise
LOOK_EVERY = 60.0  # seconds between estimates on held-out items
LOOK_AT = 1 << 17  # symbols at most in such an estimate
HEARD = 8  # bits of a sample of sound, unless told otherwise
GENTLE = 0.1  # of the learning rate of a new model, for one that has learned already

Listener = Callable[[dict[str, Any]], object]


def fit(
    data: str | os.PathLike[str] | np.ndarray | Dataset | None,
    model: str | None = None,
    *,
    out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    size: str = "laptop",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    conditional: bool = False,
    patches: int | None = None,
    count: int | None = None,
    gray: bool = False,
    tokens: int | str | Path | None = None,
    sources: Sources | None = None,
    bits: int | None = None,
    rate: int | None = None,
    frames: bool = False,
    start: str | Path | None = None,
    holdout: float = 0.05,
    batch: int | None = None,
    lr: float | None = None,
    compile: bool | None = None,
    bfloat16: bool | None = None,
    resume: bool = False,
    save_every: float | None = None,
    listen: Listener | None = None,
) -> Run:
    """Learn a model of `data` and leave it in a run folder.

    Args:
        data: a path, a name such as "mnist", an array with one item a row, or a Dataset. To resume, None: the
            same as before (an array or a Dataset must be given again).
        model: a name from the tables; by default a chain that suits the kind of data.
        out: the run folder; by default runs/DATA-MODEL.
        minutes, steps: the budget, one of them. Without either a chain takes ten minutes, and a code that learns
            in steps as many as suit it; other codes need no budget.
        size, settings: a named size of the model, and constructor arguments that override it.
        conditional: condition on the classes that the data come with.
        patches: learn from random patches of the images, so many pixels across and down; the images may have
            several sizes. `count` of them (by default 100,000) are drawn by the seed.
        gray: colour images become their luminance.
        tokens: how many byte-pair tokens the alphabet of texts has, learned from what is not held out; or the
            tokenizer.json to take them from. By default symbols are bytes.
        sources: of texts that are each conditioned on another, as translations are: the file whose lines are the
            sources of the lines of `data`, or the column of sources, 1 or 2, of a table of two (see `load`). A named
            set of such texts, or a Dataset, has its own; a model without an argument `source` does not look at them.
        bits, rate: of a sample of sound, 8 (mu-law, the default) or 16, and samples a second (see `load`).
        frames: condition on what a synthesiser of speech knows of a sound, every 10 ms (`chainrule.data.vocoder`).
        start: a run, or a folder of GPT-2, to begin from: its chain with all that it has learned, and its alphabet. The
            learning rate is then a tenth of what suits a new model, unless `lr` says otherwise.
        holdout: share of the items kept from training to score it with (at most 1,000 items).
        batch, lr: of a chain: items a step and the highest learning rate; by default what suits the model.
        compile, bfloat16: see `Plan`; without `bfloat16` the model's suggestion is followed.
        resume: go on with the training in `out`; everything else is read from there, but a new budget may be given.
        save_every: seconds between checkpoints, which are all that a killed training loses; 20 by default.
        listen: called with a dict: {"event": "data" | "start" | "step" | "end", ...}.

    Raises:
        ChainruleError: data or options that do not fit; a run folder that is in use.
        KeyboardInterrupt: after Ctrl-C, when the state has been saved.
    """
    listen = listen or (lambda event: None)
    save_every = SAVE_EVERY if save_every is None else save_every
    check_options(minutes, steps, seed, lr, batch, holdout, save_every)
    if resume:
        info, folder = reopen(out)
        dataset = load(info["data"] if data is None else data, **info["reading"])
        dataset = as_taken(dataset, info["model"])
        check_same_data(dataset, info)
        alphabet = alphabet_of(info, folder)
        check_one_pass(info, minutes=minutes, steps=steps)
        if minutes is not None or steps is not None:
            info["budget"] = {"minutes": minutes, "steps": steps}
            write_info(folder, info)
    elif data is None:
        raise ChainruleError("say what to learn from: a path, or a name that chainrule data lists")
    else:
        reading = how_to_read(conditional, patches, count, gray, seed, sources, bits, rate, frames)
        dataset = load(data, **reading)
        if dataset.sound is not None and bits is None:
            dataset = load(dataset, bits=HEARD)
            reading["bits"] = HEARD
        begun = None if start is None else started(start, model, tokens)
        name = begun.info["model"] if begun else model or default_model(dataset)
        dataset = as_taken(dataset, name)
        alphabet = alphabet_for(dataset, tokens, holdout) if begun is None else begun.alphabet
        info = describe(dataset, alphabet, name, size, settings or {}, seed, conditional, holdout, begun)
        info |= {"reading": reading, **facts_of(alphabet, tokens)}
        info["budget"] = {"minutes": minutes, "steps": steps}
        rates = {"batch": batch, "lr": lr, "compile": compile, "bfloat16": bfloat16}
        info["training"] = options_of_all(info, **rates)
        if begun is not None and lr is None:
            info["training"]["lr"] *= GENTLE
        if issubclass(store.resolve(info["model"], TABLE), Code):
            check_for_chains(info["model"], **rates, tokens=tokens)
        elif learns_in_one_pass(info):
            check_one_pass(info, minutes=minutes, steps=steps, **rates)
        elif minutes is steps is None:
            info["budget"]["minutes"] = DEFAULT_MINUTES
    if not info["conditional"]:
        dataset = replace(dataset, context=None, classes=())
    built = store.build(info["model"], info["args"], TABLE, info["seed"])
    if not getattr(built, "source", 0) and not getattr(built, "frames", 0):
        check_no_sources(info)
        dataset = replace(dataset, sources=None)
    learn, held = divided(dataset, info["holdout"])
    if alphabet is not dataset.alphabet:
        learn, held = learn.in_alphabet(alphabet), held and held.in_alphabet(alphabet)
    if isinstance(built, Chain):
        check_symbols(built, learn)
        take_over(built, info)
        if "start" in info and not (resume and (folder / STATE).exists()):
            take_start(built, info)
    if not resume:  # what cannot be learned leaves no folder behind
        folder = new_folder(out, info)
        if isinstance(built, Chain) or hasattr(
            built, "learner"
        ):  # of what is fitted at once nothing is resumed
            keep(alphabet, folder)
            write_info(folder, info)
    listen({"event": "data", "data": dataset})
    if isinstance(built, Code):
        with left_nothing(folder, new=not resume):
            fitting = begin(built, learn, info)
        return fit_code(built, fitting, folder, info, save_every, listen)
    return fit_chain(built, learn, held, folder, info, save_every, listen)


def default_model(data: Dataset) -> str:
    """The chain that suits the kind of data."""
    translates = data.sources is not None and data.kind == "text"
    return TRANSLATOR if translates else DEFAULT_MODEL[data.kind]


def as_taken(data: Dataset, name: str) -> Dataset:
    """The data as a model of that name takes them: without sources, when it has no argument `source`."""
    if data.sources is None or {"source", "frames"} & set(store.options(store.resolve(name, TABLE))):
        return data
    return replace(data, sources=None)


def check_no_sources(info: dict[str, Any]) -> None:
    """One clear line when sources were asked for, and the model that is to be learned is not conditioned on any."""
    if (asked := info["reading"].get("sources")) is not None:
        raise ChainruleError(
            f"--source {asked}: {info['model']}, as it is to be learned, is not conditioned on a source text: leave it "
            f"out, or take a model that is, such as {TRANSLATOR}"
        )


def how_to_read(
    conditional: bool,
    patches: int | None,
    count: int | None,
    gray: bool,
    seed: int,
    sources: Sources | None,
    bits: int | None,
    rate: int | None,
    frames: bool = False,
) -> dict[str, Any]:
    """The arguments of `load` for data to learn from; a run keeps them, so that it always sees the same items."""
    if count is not None and patches is None:
        raise ChainruleError(f"--count {count} is of patches: say with --patches how large they are")
    reading: dict[str, Any] = {"split": "train", "classes": conditional}
    if gray:
        reading["gray"] = True
    if sources is not None:
        reading["sources"] = sources if isinstance(sources, int) else os.fsdecode(sources)
    reading |= {key: value for key, value in (("bits", bits), ("rate", rate)) if value is not None}
    if frames:
        reading["frames"] = True
    if patches is not None:
        reading |= {"patches": patches, "count": COUNT if count is None else count, "seed": seed}
    return reading


def describe(
    data: Dataset,
    alphabet: Alphabet,
    name,
    size,
    settings,
    seed,
    conditional,
    holdout,
    begun: Run | None = None,
) -> dict[str, Any]:
    """The facts of a new run: what will be learned, from what, and with which arguments."""
    cls = store.resolve(name, TABLE)
    if size not in cls.SIZES:
        raise ChainruleError(f"{name} has no size {size!r}: choose from {', '.join(cls.SIZES)}")
    if issubclass(cls, Chain) and data.kind not in cls.KINDS:
        raise ChainruleError(
            f"{name} learns from {' and '.join(cls.KINDS)} data, {data.source or 'this'} is {data.kind}"
        )
    if conditional and data.context is None:
        raise ChainruleError(
            f"{data.source} has no classes: put the files of each class into a folder of its own"
        )
    seen = data if alphabet is data.alphabet else replace(data, levels=alphabet.symbols, alphabet=alphabet)
    seen = seen if conditional else replace(seen, context=None, classes=())
    settings = {key: store.plain(value, cls, TABLE) for key, value in settings.items()}
    args = {**(begun.info["args"] if begun else {**cls.SIZES[size], **cls.configure(seen)}), **settings}
    seeded = {"random_state": seed} if "random_state" in store.options(cls) else {}
    return {
        "model": name,
        "args": with_parts({**seeded, **args}, size),
        "size": size,
        "settings": settings,
        **({"start": {"from": str(begun.path), "sha256": store.sha256(begun.model, TABLE)}} if begun else {}),
        "data": data.source,
        **same_data(data),
        **({} if data.sound is None else {"sound": asdict(data.sound), "length": median_length(data)}),
        "classes": list(seen.classes),
        "conditional": conditional,
        "holdout": holdout
        if data.kind == "text" and data.sources is None
        else min(holdout, 1000 / max(len(data), 1)),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {
            "chainrule": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def median_length(data: Dataset) -> int:
    """Samples of a recording in the middle of all, from the shortest to the longest."""
    return int(np.median(data.dims())) if len(data) else 0


def check_for_chains(name: str, **given: Any) -> None:
    """One clear line for an option that a code has no use for."""
    for option, value in given.items():
        if value is not None:
            own = ", ".join(store.options(store.resolve(name, TABLE)))
            raise ChainruleError(f"--{option} is for chains: {name} has its own options for --set: {own}")


def fit_chain(
    chain: Chain,
    learn: Dataset,
    held: Dataset | None,
    folder: Path,
    info: dict,
    save_every: float,
    listen: Listener,
) -> Run:
    """Train a chain within its budget; checkpoints, estimates on held-out items, and exact scores at the end."""
    training = training_of(chain, learn, info)
    if training is not None:
        restore(training, folder)
        listen({"event": "start", "training": training, "info": info, "folder": folder})
        log = Log(
            folder / METRICS, training.step, bits=True, dims=learn.dims().sum() / max(1, learn.symbols_total)
        )
        run_training(training, log, folder, save_every, listen, lambda: look(training, held))
        last = training.training if isinstance(training, Stages) else training
        last.model.load_state_dict(last.averaged())
    chain.eval()
    facts = {k: v for k, v in info.items() if k not in ("model", "args")}
    if held is not None and len(held) and not held.binarise:
        facts["held_out"] = {"items": len(held), "bits_per_dim": score(chain, held).bits_per_dim}
    if training is not None:
        facts["trained"] = trained(training)
    return finish(chain, folder, info, facts, listen)


def trained(learner: Learner) -> dict[str, Any]:
    """What to remember about a training that has ended."""
    facts: dict[str, Any] = {"steps": learner.step, "seconds": round(learner.seconds, 3)}
    return facts | ({"note": learner.note} if learner.note else {})


def finish(model: Chain | Code, folder: Path, info: dict, facts: dict, listen: Listener) -> Run:
    """Write the model and the last word about the run."""
    store.write_atomic(folder / MODEL, store.dump(model, TABLE, **facts))
    info = {"model": info["model"], "args": store.arguments(model, TABLE), **facts}
    write_info(folder, info)
    listen({"event": "end", "info": info, "folder": folder})
    return Run(folder, model, info, alphabet_of(info, folder, model))


def run_training(
    training: Learner,
    log: Log,
    folder: Path,
    save_every: float,
    listen: Listener,
    look: Callable[[], dict[str, float]] = dict,
) -> None:
    """The loop with its checkpoints. Ctrl-C or SIGTERM: the step is finished, the state saved, then it stops.

    `look` gives what else there is to log, now and then.
    """
    saved = looked = time.monotonic()
    with interruption() as stopped:
        for state in training:
            now, last = time.monotonic(), training.done >= 1
            stop = bool(stopped)  # looked at once: what arrives during this round stops the next, which saves
            if now - looked >= LOOK_EVERY or last:
                log.write(training, look())
                looked = time.monotonic()
            elif state.step % 20 == 0:
                log.write(training, {})
            if now - saved >= save_every or last or stop:
                log.flush()
                checkpoint(training, folder)
                saved = time.monotonic()
            listen({"event": "step", "training": training, "log": log.last})
            if stop and not last:
                raise KeyboardInterrupt(
                    f"saved after {training.step} steps: go on with chainrule fit --resume -o {folder}"
                )


def look(training: Training | Stages, held: Dataset | None) -> dict[str, float]:
    """Bits/dim of the averaged weights on the first held-out items: an estimate on part of them."""
    if held is None or not len(held):
        return {}
    model: Any = training.training.model if isinstance(training, Stages) else training.model
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(training.averaged())
    try:
        return {"val_bits": score(model, first_symbols(held, LOOK_AT)).bits_per_dim}
    finally:
        model.load_state_dict(kept)


def first_symbols(data: Dataset, most: int) -> Dataset:
    """About the first `most` symbols of a dataset, binarised once if need be."""
    sizes = np.cumsum([np.asarray(data.x[i]).size for i in range(min(len(data), 256))])
    few = data.select(slice(0, max(1, int(np.searchsorted(sizes, most)))))
    if data.kind in ("text", "sound"):
        return replace(few, x=[np.asarray(x)[: most // data.per_sample] for x in few.x])
    if not data.binarise:
        return few
    fixed, _ = batches(replace(few, context=None), len(few), 0, 0)
    return replace(few, x=fixed, binarise=False)


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; a second Ctrl-C is not caught. Only the main thread can listen."""
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def take(number, frame):
        got.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, take)
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def begin(code: Code, learn: Dataset, info: dict) -> Learner | float:
    """The learner of a code that learns in steps; any other code is fitted now: the seconds that it took."""
    if learn.event is None:
        raise ChainruleError(
            f"{info['model']} needs events of one shape, {learn.source} has several: crop or resize them"
        )
    x, budget = np.asarray(learn.x, dtype=np.float32), info["budget"]
    own = all(limit is None for limit in budget.values())
    began = time.perf_counter()
    try:
        if hasattr(code, "learner"):
            return code.learner(x, None if own else Plan(**budget, seed=info["seed"]))
        code.fit(x)
    except (TypeError, ValueError) as error:  # scikit-learn's own complaints about numbers and shapes
        raise ChainruleError(
            f"{info['model']} cannot learn {info['data']}: {store.one_line(error)}"
        ) from error
    return time.perf_counter() - began


def fit_code(
    code: Any, fitting: Learner | float, folder: Path, info: dict, save_every: float, listen: Listener
) -> Run:
    """Run the learner of a code like the training of a chain; write down what has been learned."""
    facts = {k: v for k, v in info.items() if k not in ("model", "args")}
    if isinstance(fitting, float):
        facts["trained"] = {"seconds": round(fitting, 3)}
        return finish(code, folder, info, facts, listen)
    restore(fitting, folder)
    listen({"event": "start", "training": fitting, "info": info, "folder": folder})
    run_training(fitting, Log(folder / METRICS, fitting.step, bits=False), folder, save_every, listen)
    facts["trained"] = trained(fitting)
    return finish(code.learned(fitting), folder, info, facts, listen)


@contextmanager
def left_nothing(folder: Path, new: bool) -> Iterator[None]:
    """A new folder is removed again when it turns out within that there is nothing to put into it."""
    try:
        yield
    except BaseException:  # too little memory, or Ctrl-C, too
        if new:
            (folder / INFO).unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something else there
                folder.rmdir()
        raise
