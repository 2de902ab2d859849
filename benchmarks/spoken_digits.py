"""Spoken digits: how many of those that a model drew, or a synthesiser said again, two probes name right.

    python benchmarks/spoken_digits.py [--json] [--run RUN ...] [--data fsdd] [--each 3] [--scored 300] [--seed 0]
                                [--temperature 1] [--by-name] [--out DIR] [--threads 1]

The probes learned from the training recordings, one who says it, one which digit it is: support vector machines on
log-mel spectrograms of one size, without the silence at both ends. `digit_%` and `speaker_%` are the shares that they
name right: of the test recordings; of the same ones in mu-law; of the same ones said again by the parametric
synthesiser from their features, which are 23 numbers every 10 ms; and of recordings drawn by runs, `--each` of each
class. A run is told a digit and a speaker (`chainrule fit fsdd --conditional`), and then draws at the lengths of
training recordings of the class, drawn by the seed; or it is told the features of test recordings, and so their lengths
(`chainrule fit fsdd --frames`). `bits_per_sample` is the exact score of the first test recordings, `samples_per_s` how
fast recordings come, side by side. Of what is said again, `shape_dB` is how far its smooth spectrum lies from that of
the real recording (root mean square along the mel scale, the mean over all frames within 40 dB of the loudest one),
`pitch_%` the median difference of the pitch where both are voiced, and `voicing_%` the share of frames of which only
one is. With `--out` everything is written as WAV files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from table import Row, show

from chainrule import score
from chainrule.data import Sound, vocoder
from chainrule.lecture import spoken
from chainrule.lecture.spoken import Probe, Spoken
from chainrule.lecture.wavenet import made_by, of_run

DECIBELS = 10 / np.log(10)
SHARES = ("digit_%", "speaker_%")
AUDIBLE = 40.0  # decibels below the loudest frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", nargs="*", default=[], help="run folders")
    parser.add_argument("--data", default="fsdd")
    parser.add_argument("--each", type=int, default=3, help="recordings that are drawn of each class")
    parser.add_argument("--scored", type=int, default=300, help="test recordings that are scored")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    parser.add_argument(
        "--by-name", action="store_true", help="a row for each digit and speaker of a run, too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for WAV files")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """A row for chance, for what is real, for what is said again and for each run at each temperature."""
    train, test = (spoken.digits(options.data, split, options.seed, 16) for split in ("train", "test"))
    learn, real = spoken.spoken(train), spoken.spoken(test)
    assert train.sound is not None
    rate = train.sound.rate
    probes = [Probe(rate).fit(learn.sounds, learn.saying(part)) for part in (0, 1)]
    yield {"recordings": "chance", **dict(zip(SHARES, map(chance, map(learn.saying, (0, 1))), strict=True))}
    yield {"recordings": "test, real", **heard(probes, real)}
    coarse = Sound(rate, "mu-law")
    yield {
        "recordings": "test, mu-law",
        **heard(probes, real._replace(sounds=[coarse.samples(coarse.symbols(x)) for x in real.sounds])),
    }
    yield said_again(probes, real, rate, options)
    for path in options.run:
        given = of_run(path, options.data, options.seed)
        scored = given.test.select(slice(0, options.scored))
        bits = score(given.chain, scored).bits_per_dim
        for temperature in options.temperature:
            made, speed = made_by(given, options.each, options.seed, temperature)
            name = f"drawn by {name_of(path)}, from {given.told}" + (
                "" if temperature == 1 else f", temperature {temperature:g}"
            )
            keep(options.out, f"{name_of(path)}-{temperature:g}", made, rate)
            row = {"recordings": name, **heard(probes, made), "bits_per_sample": bits, "samples_per_s": speed}
            yield row
            yield from by_name(name, probes, made) if options.by_name else ()


def chance(names: Sequence[str]) -> float:
    """The share that is named right where every name is as likely."""
    return 100 / len(set(names))


def heard(probes: list[Probe], some: Spoken) -> Row:
    """How many there are, and the shares whose digit and whose speaker are named right."""
    shares = [100 * probe.accuracy(some.sounds, some.saying(part)) for part, probe in enumerate(probes)]
    return {"n": len(some.sounds), **dict(zip(SHARES, shares, strict=True))}


def by_name(name: str, probes: list[Probe], some: Spoken) -> Iterator[Row]:
    """The same of every digit, and of every speaker."""
    for part in (0, 1):
        saying = some.saying(part)
        for value in sorted(set(saying)):
            index = [i for i, found in enumerate(saying) if found == value]
            few = Spoken([some.sounds[i] for i in index], [some.classes[i] for i in index])
            yield {"recordings": f"{name}: {value}", **heard(probes, few)}


def said_again(probes: list[Probe], real: Spoken, rate: int, options: argparse.Namespace) -> Row:
    """The row of the parametric synthesiser."""
    began = time.perf_counter()
    said = real._replace(sounds=spoken.again(real.sounds, rate, options.seed))
    speed = sum(map(len, said.sounds)) / (time.perf_counter() - began)
    keep(options.out, "parametric", said, rate)
    found = {"recordings": "test, said again from features", **heard(probes, said), "samples_per_s": speed}
    return found | distances(real.sounds, said.sounds, rate)


def distances(real: Sequence[np.ndarray], said: Sequence[np.ndarray], rate: int) -> Row:
    """How far the features of what is said again lie from those of what is real."""
    shapes, pitches, voicings = [], [], []
    for x, y in zip(real, said, strict=True):
        a, b = vocoder.measured(x, rate), vocoder.measured(y, rate)
        loud = a[:, 0] > a[:, 0].max() - AUDIBLE / DECIBELS
        voiced = a[:, 1] > 0, b[:, 1] > 0
        shapes.append(DECIBELS * np.sqrt(np.square(a - b)[loud, 3:].sum(1)))
        pitches.append(np.abs(a - b)[voiced[0] & voiced[1], 2])
        voicings.append(voiced[0] != voiced[1])
    shape, pitch, voicing = map(np.concatenate, (shapes, pitches, voicings))
    return {
        "shape_dB": float(shape.mean()),
        "pitch_%": 100 * float(np.median(pitch)),
        "voicing_%": 100 * float(voicing.mean()),
    }


def keep(folder: Path | None, name: str, some: Spoken, rate: int) -> None:
    """Write recordings as WAV files, when there is a folder to write them into."""
    if folder is None:
        return
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (x, said) in enumerate(zip(some.sounds, some.classes, strict=True)):
        (folder / name / f"{said.replace(' ', '_')}_{i}.wav").write_bytes(spoken.wav(x, rate))


def name_of(path: str) -> str:
    """The name of a run."""
    return Path(path).name


if __name__ == "__main__":
    main()
