"""What the command line makes of sounds: .wav files of samples and completions, and pages to hear them on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chainrule import console, output
from chainrule.data import Sound, load
from chainrule.errors import ChainruleError
from chainrule.models import Run
from chainrule.report.heard import Heard, sound_in, sounds_page, usual_length, wav
from chainrule.store import write_atomic
from chainrule.verbs.walk import complete, sample

DRAWN, CONTINUED = 4, 3  # sounds, unless told otherwise
ENDINGS = (".wav", ".npy")
USUALLY = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}


def sample_sounds(
    run: Run, n, out, length, seconds, class_, source: Path | None, page, draws: dict[str, Any], force, json_
) -> None:
    """`chainrule sample` for sounds: a .wav file each, or a .npy array of symbols (n, *event); a page to hear them.

    A model that is conditioned on frames says what was said in the file `source`.
    """
    sound, n = sound_in(run), n or DRAWN
    wanted, spoken = samples_for(sound, length, seconds), frames_in(run, source)
    usual = usual_length(run) if spoken is None else spoken_samples(run, spoken)
    size = usual if wanted is None else wanted
    check_room(n, size, sound)
    check_spoken(run, spoken, size)
    page = page and output.free(page, (".html",), force)
    files = places(out or Path("samples.wav"), n, force)
    context = told_to(run, n, class_, spoken)
    event = sound.shape(size)
    warm_up(run, None if context is None else context[:1])
    with console.progress("sampling", n * int(np.prod(event)), json_) as tick:
        x, took = timed(lambda: output.in_parts(run.chain, n, event, context, tick, **draws))
    write(files, x, sound)
    row = told(sound, n, size, took, files)
    if page is not None:
        names = class_names(run, n, context) or ["a sample" if spoken is None else "said by the model"] * n
        sounds = [Heard(sound.samples(one), sound.rate, name) for one, name in zip(x, names, strict=True)]
        options = {"n": n, "out": out, "length": length, "seconds": seconds, "class": class_}
        options |= {"source-file": source, "page": page}
        command = command_of(["sample", str(run.path)], options, draws)
        write_atomic(page, sounds_page(run, sounds, numbers(row), command).encode())
    tell("sounds", row, page, json_)


def complete_sound(
    run: Run, file: Path, out, n, keep, class_, length, seconds, page, draws: dict[str, Any], force, json_
) -> None:
    """`chainrule complete` for a sound: its beginning, then what the model makes of it, several times."""
    sound, n = sound_in(run), n or CONTINUED
    x = output.one_event(file, run)
    given = int(output.keep_top(keep or "top:0.5", x.shape[:1]).sum())
    wanted = samples_for(sound, length, seconds)
    more = (len(x) - given or usual_length(run)) if wanted is None else wanted
    check_room(n, given + more, sound)
    spoken = frames_in(run, file)
    check_spoken(run, spoken, given + more)
    page = page and output.free(page, (".html",), force)
    files = places(out or Path("completions.wav"), n, force)
    context = told_to(run, n, class_, spoken)
    begun = np.zeros(sound.shape(given + more), np.int64)
    begun[:given] = x[:given]
    known = output.keep_top(f"top:{given / max(1, len(begun))!r}", begun.shape)
    warm_up(run, None if context is None else context[:1])
    with console.progress("completing", begun.size, json_) as tick:
        found, took = timed(lambda: complete(run.chain, begun, known, n, context, tick=tick, **draws))
    write(files, found, sound)
    row = told(sound, n, given + more, took, files, given)
    if page is not None:
        as_ = [f", as {name}" for name in class_names(run, n, context)] or [""] * n
        names = [f"continuation {i}{name}" for i, name in enumerate(as_)]
        sounds = [
            Heard(sound.samples(one), sound.rate, name, given=given)
            for one, name in zip(found, names, strict=True)
        ]
        real = Heard(sound.samples(x), sound.rate, file.name, given=given)
        options = {
            "out": out,
            "n": n,
            "keep": keep,
            "class": class_,
            "length": length,
            "seconds": seconds,
            "page": page,
        }
        command = command_of(["complete", str(run.path), str(file)], options, draws)
        write_atomic(page, sounds_page(run, sounds, numbers(row), command, real).encode())
    tell("completions", row, page, json_)


# ---- what it says --------------------------------------------------------------------------------------------


def frames_in(run: Run, source: Path | None) -> np.ndarray | None:
    """The frames (F, n) of a recording, for a model that is conditioned on frames."""
    if not run.chain.frames:
        return None
    if source is None:
        raise ChainruleError(
            f"{run.path} says again what was said in a recording: give it one with --source-file FILE.wav"
        )
    data = load(source, frames=True, **run.heard)
    if data.sources is None or len(data) != 1:
        raise ChainruleError(f"{source} holds {len(data):,} recordings: give a file with one")
    return data.sources[0]


def spoken_samples(run: Run, frames: np.ndarray) -> int:
    """How many samples there are frames for."""
    return len(frames) * int(run.chain.args["hop"])


def check_spoken(run: Run, frames: np.ndarray | None, size: int) -> None:
    """One clear line when a sound is to be longer than what it is told."""
    if frames is not None and size > (most := spoken_samples(run, frames)):
        raise ChainruleError(
            f"a sound of {size:,} samples is longer than the recording that it says again: ask for at most {most:,}"
        )


def told_to(run: Run, n: int, class_: str | None, frames: np.ndarray | None) -> torch.Tensor | None:
    """What n lanes are conditioned on: frames (n, F, ·), classes (n,), or nothing."""
    classes = output.classes_for(run, n, class_)
    return classes if frames is None else torch.from_numpy(frames)[None].repeat(n, 1, 1)


# ---- how long, and where to ----------------------------------------------------------------------------------


def samples_for(sound: Sound, length: int | None, seconds: float | None) -> int | None:
    """The number of samples that was asked for, in samples or seconds; None: neither."""
    if length is not None and seconds is not None:
        raise ChainruleError(
            f"--length {length} and --seconds {seconds:g} both say how long: leave one of them out"
        )
    if seconds is None:
        return length
    if not 0 < seconds * sound.rate <= output.LARGEST:
        raise ChainruleError(
            f"--seconds {seconds:g}: take more than 0, and at most {output.LARGEST / sound.rate:,.0f}"
        )
    return max(1, round(seconds * sound.rate))


def check_room(n: int, length: int, sound: Sound) -> None:
    """One clear line when so many sounds are more than can be drawn at once."""
    if n * length * (sound.bits // 8) > output.LARGEST:
        most = output.LARGEST // (length * (sound.bits // 8))
        way = f"ask for at most {most:,}" if most else "ask for shorter ones"
        raise ChainruleError(f"-n {n}: {n:,} sounds of {length:,} samples are too much at once, {way}")


def places(out: Path, n: int, force: bool) -> list[Path]:
    """The files to write: the one that was asked for; for several .wav NAME-0.wav, NAME-1.wav, ...

    >>> [path.name for path in places(Path("a.wav"), 2, force=True)]
    ['a-0.wav', 'a-1.wav']
    """
    out = Path(out)
    if n == 1 or out.suffix != ".wav":
        return [output.free(out, ENDINGS, force)]
    digits = len(str(n - 1))
    return [output.free(out.with_stem(f"{out.stem}-{i:0{digits}}"), ENDINGS, force) for i in range(n)]


def write(files: Sequence[Path], x: np.ndarray, sound: Sound) -> None:
    """Sounds (n, *event): a .wav file each, or one array of symbols."""
    if files[0].suffix == ".npy":
        return output.write_array(files[0], x.astype(np.uint8))
    for path, one in zip(files, x, strict=True):
        write_atomic(path, wav(sound.samples(one), sound.rate))
    return None


# ---- what is told --------------------------------------------------------------------------------------------


def warm_up(run: Run, context) -> None:
    """Draw one sample, so that what compiled code takes to load is not counted as the time of drawing."""
    sample(run.chain, 1, sound_in(run).shape(1), context)


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What some work gives, and how many seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def told(
    sound: Sound, n: int, length: int, took: float, files: Sequence[Path], given: int = 0
) -> dict[str, Any]:
    """The facts about `n` sounds of `length` samples, of which `given` were not drawn; times in seconds."""
    drawn = n * (length - given) / sound.rate
    return {
        "count": n, "samples": length, "given": given, "rate": sound.rate, "seconds": drawn, "took": took,
        "real_time": drawn / max(took, 1e-9), "files": [str(path) for path in files],
    }  # fmt: skip


def tell(what: str, row: dict[str, Any], page: Path | None, json_: bool) -> None:
    """Facts for people or programs."""
    more = {"page": str(page)} if page else {}
    if json_:
        return console.emit({what: row["count"], **{k: v for k, v in row.items() if k != "count"}, **more})
    rate, (first, *others) = row["rate"], row["files"]
    each = f"{row['samples'] / rate:.2f} s, {row['samples']:,} samples at {rate:,} Hz"
    lines = {
        what: row["count"],
        "each": each + (f", of which {row['given'] / rate:.2f} s were given" if row["given"] else ""),
        "files" if others else "file": f"{first} to {Path(others[-1]).name}" if others else first,
        "speed": speed(row["seconds"], row["took"]),
    }
    return console.record(lines | more, False)


def speed(seconds: float, took: float) -> str:
    """How much sound in how much time.

    >>> speed(1.0, 0.21)
    '1.00 s in 0.21 s, 4.8 times real time'
    """
    return f"{seconds:.2f} s in {took:.2f} s, {seconds / max(took, 1e-9):.2g} times real time"


def numbers(row: dict[str, Any]) -> dict[str, str]:
    """What stands large at the top of the page."""
    return {
        "sounds": f"{row['count']:,} of {row['samples'] / row['rate']:.2f} s each",
        "drawn": f"{row['seconds']:.2f} s of sound in {row['took']:.2f} s",
        "speed": f"{row['real_time']:.2g} times real time",
    }


def class_names(run: Run, n: int, context: torch.Tensor | None) -> list[str]:
    """The classes that n sounds were drawn as; nothing without classes."""
    if context is None or not run.chain.classes:
        return []
    names = run.info.get("classes") or range(run.chain.classes)
    return [str(names[int(context[i])]) for i in range(n)]


def command_of(words: Sequence[str], options: dict[str, Any], draws: dict[str, Any]) -> list[str]:
    """The command that was typed, with the options that have a value."""
    options = options | {k.replace("_", "-"): v for k, v in draws.items() if v != USUALLY[k]}
    given = {f"{'-' if len(k) == 1 else '--'}{k}": v for k, v in options.items() if v is not None}
    return ["chainrule", *words, *(str(word) for pair in given.items() for word in pair)]
