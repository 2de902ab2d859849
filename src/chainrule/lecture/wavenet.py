"""Spoken digits: recorded, said again by a parametric synthesiser, and drawn sample by sample by WaveNets.

The slide "WaveNet"; van den Oord et al. 2016. The synthesiser is given the features of a real recording every 10 ms
(energy, voicing, pitch and the shape of the spectrum) and says it again. One network is given the same features, raised
to every sample by learned weights; another a class, a digit and who speaks, and a length, which is that of a training
recording of the class. Each class that is shown has a picture, and a WAV file for each way. `digit_heard` and
`speaker_heard` are the shares of recordings that two probes name right, which learned from real ones and from nothing
else: of the test recordings, of the same ones said again, and of those drawn, `count` of each class. `samples_per_s` is
how fast they come, drawn side by side; `bits_per_sample` the exact score of test recordings.

`--set 'runs=["RUN"]'` has networks that are fitted already, with `chainrule fit fsdd --frames`, or `--conditional`;
else they learn now, for so many minutes each, what one speaker says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
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
        **{"data": spoken.MADE_UP, "speakers": [], "size": "tiny", "told": ["features", "class"], "runs": []},
        **{"budget": {"steps": 10}, "shown": ["0 high", "1 low"], "count": 1, "scored": 4},
    },
    "laptop": {
        **{
            "data": "fsdd",
            "speakers": ["jackson"],
            "size": "laptop",
            "told": ["features", "class"],
            "runs": [],
        },
        **{"budget": {"minutes": 4.0}, "shown": ["3 jackson", "7 jackson"], "count": 3, "scored": 50},
    },
    "paper": {
        **{"data": "fsdd", "speakers": [], "size": "paper", "told": ["features", "class"], "runs": []},
        **{"budget": {"minutes": 1440.0}, "shown": ["7 jackson", "7 nicolas"], "count": 3, "scored": 300},
    },
}
RECORDED, AGAIN, NETWORK = "recorded", "parametric", "WaveNet, from {}"
FEATURES, CLASS = "features", "class"
HEARD = ("digit_heard", "speaker_heard")


class Given(NamedTuple):
    """A network, what its symbols stand for, and real recordings of what it can say."""

    chain: Chain
    sound: Sound
    train: Dataset
    test: Dataset

    @property
    def told(self) -> str:
        """What it is conditioned on."""
        return FEATURES if self.chain.frames else CLASS


def draw(
    save: Save,
    seed: int,
    data: str,
    speakers: list[str],
    size: str,
    told: list[str],
    runs: list[str],
    budget: dict[str, float],
    shown: list[str],
    count: int,
    scored: int,
) -> dict:
    """A picture and sounds of each class that is shown, and what is heard in many of them."""
    if runs:
        networks, speakers = [of_run(run, data, seed) for run in runs], []
    else:
        networks = [learned(data, speakers, size, what, budget, seed) for what in told]
    train, test = (of_speakers(spoken.digits(data, split, seed), speakers) for split in ("train", "test"))
    if strange := [name for name in shown if name not in test.classes]:
        raise ChainruleError(f"there is no class {strange[0]!r}: show some of {', '.join(test.classes)}")
    assert test.sound is not None
    real, rate = spoken.spoken(test), test.sound.rate
    began = time.perf_counter()
    said = real._replace(sounds=spoken.again(real.sounds, rate, seed))
    found = {
        RECORDED: Way(real),
        AGAIN: Way(said, sum(map(len, said.sounds)) / (time.perf_counter() - began)),
    }
    for given in networks:
        bits = score(given.chain, given.test.select(slice(0, scored))).bits_per_dim
        found[NETWORK.format(given.told)] = Way(*made_by(given, count, seed), bits)
    for name in shown:
        sounds = {way: first(some.spoken, name) for way, some in found.items()}
        save(f"wavenet-{stem(name)}", picture(sounds, rate))
        for way, sound in sounds.items():
            save(f"{stem(name)}-{stem(way)}.wav", spoken.wav(sound, rate))
    return {"rows": list(rows(spoken.spoken(train), found, rate)), "rate": rate}


class Way(NamedTuple):
    """Recordings that came about in one way, how many samples a second, and the score of test recordings."""

    spoken: spoken.Spoken
    speed: float | None = None
    bits: float | None = None


def first(some: spoken.Spoken, name: str) -> np.ndarray:
    """The first recording of a class; nothing when there is none."""
    return some.sounds[some.classes.index(name)] if name in some.classes else np.zeros(0, np.int16)


def stem(name: str) -> str:
    """A name as part of that of a file.

    >>> stem("WaveNet, from features")
    'wavenet-from-features'
    """
    return name.lower().replace(",", "").replace(" ", "-")


def rows(train: spoken.Spoken, found: dict[str, Way], rate: int) -> Iterator[dict[str, Any]]:
    """A row for each way: the shares in which the probes hear the digit and the speaker, speed and score."""
    probes = [spoken.Probe(rate).fit(train.sounds, train.saying(part)) for part in (0, 1)]
    for way, (some, speed, bits) in found.items():
        shares = [probe.accuracy(some.sounds, some.saying(part)) for part, probe in enumerate(probes)]
        row = {"by": way, "recordings": len(some.sounds), **dict(zip(HEARD, shares, strict=True))}
        yield row | {"samples_per_s": speed, "bits_per_sample": bits}


# ---- networks ------------------------------------------------------------------------------------------


def made_by(given: Given, count: int, seed: int, temperature: float = 1.0) -> tuple[spoken.Spoken, float]:
    """`count` recordings of each class drawn by a network, and how many samples a second.

    From features: of the first `count` test recordings of each class.
    """
    show, names = LISTENER.get(), given.test.classes
    told: Any
    if given.chain.frames:
        y = np.asarray(given.test.context)
        chosen = np.concatenate([np.flatnonzero(y == k)[:count] for k in range(len(names))])
        part = given.test.select(chosen)
        classes, told, lengths = y[chosen], part.sources, part.dims()
    else:
        classes = told = np.repeat(np.arange(len(names)), count)
        lengths = spoken.lengths_of(given.train, classes, seed)
    spoken.drawn(given.chain, given.sound, told[:1], np.array([2]))  # compiles

    def tell(done: int, total: int) -> None:
        show("drawn", round(100 * done / total), 100)

    began = time.perf_counter()
    sounds = spoken.drawn(given.chain, given.sound, told, lengths, seed, temperature, tell)
    speed = int(lengths.sum()) / (time.perf_counter() - began)
    return spoken.Spoken(sounds, [names[k] for k in classes]), speed


def learned(
    data: str, speakers: list[str], size: str, told: str, budget: dict[str, float], seed: int
) -> Given:
    """A network of what some speakers say, learned now."""
    if told not in (FEATURES, CLASS):
        raise ChainruleError(f"a network is told {FEATURES}, or a {CLASS}; not {told!r}")
    sets = [
        of_speakers(spoken.digits(data, split, seed, 8, told == FEATURES), speakers)
        for split in ("train", "test")
    ]

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            LISTENER.get()(f"wavenet of {told}", round(100 * event["training"].done), 100)

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"size": size, "seed": seed, "holdout": 0, "listen": show, **budget}
        out, known = Path(folder) / "run", told == CLASS
        found = fit(sets[0], "wavenet", out=out, conditional=known, **options)
    assert sets[0].sound is not None
    return Given(found.chain, sets[0].sound, *sets)


def of_run(path: str, data: str, seed: int) -> Given:
    """A network that is there, and the recordings of what it knows."""
    run = open_run(path)
    if run.sound is None or not (run.chain.classes or run.chain.frames):
        raise ChainruleError(
            f"{path} holds no model of sound that is told what to say: fit it with chainrule fit {data} --frames, or "
            "--conditional"
        )
    frames = bool(run.chain.frames)
    train, test = (spoken.digits(data, split, seed, run.sound.bits, frames) for split in ("train", "test"))
    if not frames and list(train.classes) != run.info.get("classes"):
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
    """Wave forms above spectrograms, on one scale of seconds, and each of its own loudness."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * len(sounds), 3.6), layout="constrained")
    axes = figure.subplots(2, len(sounds), sharex=True, squeeze=False, height_ratios=[1, 1.6])
    for (name, x), (above, below) in zip(sounds.items(), axes.T, strict=True):
        plots.waveform(above, x, 0, len(x) / rate)
        plots.spectrogram(below, x, rate, 0, len(x) / rate)
        above.set_title(name, color=plots.INK, size=11)
        below.set_xlabel("s", color=plots.INK, size=9)
        for each in (above, below):
            each.tick_params(colors=plots.INK, length=0, labelsize=8)
            each.set_ylabel("kHz" if each is axes[1, 0] else "", color=plots.INK, size=9)
            each.set_frame_on(False)
        above.set_yticks([])
    axes[0, 0].set_xlim(0, max(map(len, sounds.values())) / rate)
    return plots.raster(figure)
