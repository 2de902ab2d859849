"""Spoken digits: recorded, said by a parametric synthesiser, and drawn sample by sample by a WaveNet.

The slide "WaveNet"; van den Oord et al. 2016. The synthesiser is given the features of a real recording every 10 ms
(energy, voicing, pitch and the shape of the spectrum) and says it again; the network is given a class, a digit and
who speaks, and a length, which is that of a training recording of the class. Each class that is shown has a picture
and three WAV files. `digit_heard` and `speaker_heard` are the shares of recordings that two probes name right, which
learned from real ones and from nothing else: of the test recordings, of the same ones said again, and of those drawn,
some of each class. `samples_per_s` is how fast they come, drawn side by side; `bits_per_sample` the exact score of
test recordings.

`chainrule lecture wavenet --set run=RUN` has a network that is fitted already, with `chainrule fit fsdd --conditional`;
else one learns within the minutes that there are, of one speaker.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chainrule import plots
from chainrule.data import Dataset, Sound
from chainrule.errors import ChainruleError
from chainrule.lecture import spoken
from chainrule.lecture.learning import LISTENER
from chainrule.lecture.natural import Save
from chainrule.model import Chain
from chainrule.models import open_run
from chainrule.verbs.fit import fit
from chainrule.verbs.score import score

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"data": spoken.MADE_UP, "speakers": [], "size": "tiny", "budget": {"steps": 30}},
        **{"shown": ["0 high", "1 low"], "count": 1, "scored": 4, "run": ""},
    },
    "laptop": {
        **{"data": "fsdd", "speakers": ["jackson"], "size": "laptop", "budget": {"minutes": 8.0}},
        **{"shown": ["3 jackson", "7 jackson"], "count": 3, "scored": 50, "run": ""},
    },
    "paper": {
        **{"data": "fsdd", "speakers": [], "size": "paper", "budget": {"minutes": 2880.0}},
        **{"shown": ["3 jackson", "7 jackson", "7 nicolas"], "count": 3, "scored": 300, "run": ""},
    },
}
KINDS = ("recorded", "parametric", "WaveNet")
HEARD = ("digit_heard", "speaker_heard")
WINDOW, STEP, RANGE = 0.016, 0.002, 60.0  # of a spectrogram: seconds, seconds, decibels


class Given(NamedTuple):
    """A network that knows classes, what its symbols stand for, and the real recordings of these classes."""

    chain: Chain
    sound: Sound
    train: Dataset
    test: Dataset


def draw(
    save: Save,
    seed: int,
    data: str,
    speakers: list[str],
    size: str,
    budget: dict[str, float],
    shown: list[str],
    count: int,
    scored: int,
    run: str,
) -> dict:
    """A picture and three sounds of each class that is shown, and what is heard in many of them."""
    given = of_run(run, data, seed) if run else learned(data, speakers, size, budget, seed)
    classes = given.test.classes
    if strange := [name for name in shown if name not in classes]:
        raise ChainruleError(f"there is no class {strange[0]!r}: show some of {', '.join(classes)}")
    real, rate = spoken.spoken(given.test), given.sound.rate
    began = time.perf_counter()
    said = spoken.Spoken(spoken.again(real.sounds, rate, seed), real.classes)
    said_s = time.perf_counter() - began
    made, speed = made_by(given, count, seed)
    for name in shown:
        three = [some.sounds[some.classes.index(name)] for some in (real, said, made)]
        stem = name.replace(" ", "-")
        save(f"wavenet-{stem}", picture(dict(zip(KINDS, three, strict=True)), rate))
        for kind, sound in zip(KINDS, three, strict=True):
            save(f"{stem}-{kind.lower()}.wav", spoken.wav(sound, rate))
    speeds = [None, sum(map(len, said.sounds)) / said_s, speed]
    bits = score(given.chain, given.test.select(slice(0, scored))).bits_per_dim
    rows = heard(spoken.spoken(given.train), dict(zip(KINDS, (real, said, made), strict=True)), rate)
    for row, speed_, bits_ in zip(rows, speeds, (None, None, bits), strict=True):
        row |= {"samples_per_s": speed_, "bits_per_sample": bits_}
    return {"rows": rows, "rate": rate, "bits": given.sound.bits}


def heard(train: spoken.Spoken, kinds: dict[str, spoken.Spoken], rate: int) -> list[dict[str, Any]]:
    """A row a kind: the shares in which the probes hear the digit and the speaker."""
    probes = [spoken.Probe(rate).fit(train.sounds, train.saying(part)) for part in (0, 1)]
    rows = []
    for kind, some in kinds.items():
        shares = [probe.accuracy(some.sounds, some.saying(part)) for part, probe in enumerate(probes)]
        rows.append({"by": kind, "recordings": len(some.sounds), **dict(zip(HEARD, shares, strict=True))})
    return rows


def made_by(given: Given, count: int, seed: int, temperature: float = 1.0) -> tuple[spoken.Spoken, float]:
    """`count` recordings of each class drawn by the network, and how many samples a second."""
    show, classes = LISTENER.get(), np.repeat(np.arange(len(given.test.classes)), count)
    lengths = spoken.lengths_of(given.train, classes, seed)
    spoken.drawn(given.chain, given.sound, classes[:1], lengths[:1].clip(max=2))  # compiles
    began = time.perf_counter()
    sounds = spoken.drawn(
        given.chain,
        given.sound,
        classes,
        lengths,
        seed,
        temperature,
        tick=lambda done, total: show("drawn", round(100 * done / total), 100),
    )
    speed = int(lengths.sum()) / (time.perf_counter() - began)
    return spoken.Spoken(sounds, [given.test.classes[k] for k in classes]), speed


def learned(data: str, speakers: list[str], size: str, budget: dict[str, float], seed: int) -> Given:
    """A network of some speakers, learned now."""
    train, test = (
        of_speakers(spoken.digits(data, split, seed, bits=8), speakers) for split in ("train", "test")
    )

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            LISTENER.get()("wavenet", round(100 * event["training"].done), 100)

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"size": size, "seed": seed, "holdout": 0, "listen": show, **budget}
        found = fit(train, "wavenet", out=Path(folder) / "run", conditional=True, **options)
    assert train.sound is not None
    return Given(found.chain, train.sound, train, test)


def of_run(path: str, data: str, seed: int) -> Given:
    """A network that is there, and the recordings of its classes."""
    run = open_run(path)
    if run.sound is None or not run.chain.classes:
        raise ChainruleError(
            f"{path} holds no sound with classes: fit one with chainrule fit {data} --conditional"
        )
    train, test = (spoken.digits(data, split, seed, run.sound.bits) for split in ("train", "test"))
    if list(train.classes) != run.info.get("classes"):
        raise ChainruleError(f"{path} was fitted on other classes than those of {data}: choose its data")
    return Given(run.chain, run.sound, train, test)


def of_speakers(data: Dataset, speakers: list[str]) -> Dataset:
    """The recordings of some speakers, or, when none are named, of all."""
    kept = [k for k, name in enumerate(data.classes) if not speakers or name.split(maxsplit=1)[1] in speakers]
    if not kept:
        raise ChainruleError(f"{data.source or 'the set'} has no speaker {speakers[0]!r}")
    index = np.flatnonzero(np.isin(np.asarray(data.context), kept))
    few = data.select(index)
    classes = tuple(data.classes[k] for k in kept)
    return replace(few, context=np.searchsorted(kept, np.asarray(few.context)), classes=classes)


# ---- the picture ---------------------------------------------------------------------------------------


def picture(sounds: dict[str, np.ndarray], rate: int) -> Any:
    """Wave forms above spectrograms, on one scale of seconds and each of its own loudness."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * len(sounds), 3.6), layout="constrained")
    axes = figure.subplots(2, len(sounds), sharex=True, sharey="row", squeeze=False, height_ratios=[1, 1.6])
    for (name, x), (above, below) in zip(sounds.items(), axes.T, strict=True):
        seconds = len(x) / rate
        above.plot(
            np.arange(len(x)) / rate, x / max(np.abs(x.astype(float)).max(), 1), lw=0.5, color=plots.BLUE
        )
        above.set_title(name, color=plots.INK, size=11)
        found = spectrogram(x, rate)
        look: dict[str, Any] = {
            "origin": "lower",
            "aspect": "auto",
            "cmap": "magma",
            "vmin": -RANGE,
            "vmax": 0,
        }
        below.imshow(found.T, extent=(0, seconds, 0, rate / 2000), interpolation="bilinear", **look)
        below.set_xlabel("s", color=plots.INK, size=9)
        for each in (above, below):
            each.tick_params(colors=plots.INK, length=0, labelsize=8)
            each.set_frame_on(False)
        above.set_yticks([])
    axes[0, 0].set_xlim(0, max(map(len, sounds.values())) / rate)
    axes[1, 0].set_ylabel("kHz", color=plots.INK, size=9)
    return plots.raster(figure)


def spectrogram(x: np.ndarray, rate: int) -> np.ndarray:
    """Decibels below the loudest (times, frequencies), from windows of Hann of 16 ms."""
    width, step = round(WINDOW * rate), max(1, round(STEP * rate))
    padded = np.concatenate([np.zeros(width // 2), x.astype(np.float64), np.zeros(width)])
    pieces = np.lib.stride_tricks.sliding_window_view(padded, width)[: max(len(x), 1) : step]
    power = np.square(np.abs(np.fft.rfft(pieces * np.hanning(width), 4 * width)))
    return 10 * np.log10(power / max(power.max(), 1e-9) + 1e-9)
