"""What figures and benchmarks of speech share: probes that hear who says which digit, and recordings drawn by class.

Classes are named "7 jackson": a digit and who speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from chainrule.data import Dataset, Sound, load, vocoder
from chainrule.data.wav import header
from chainrule.verbs.walk import sample

BANDS, TIMES = 40, 32  # of the spectrogram that a probe is given
QUIET = 35.0  # decibels below its loudest 10 ms a recording begins, and ends
AXES = 120  # principal components that a probe sees
TOGETHER = 32  # recordings that are drawn side by side
MADE_UP = "made-up"


# ---- recordings ----------------------------------------------------------------------------------------


class Spoken(NamedTuple):
    """Recordings (T,) int16, and the name of what each says."""

    sounds: list[np.ndarray]
    classes: list[str]

    def saying(self, part: int) -> list[str]:
        """The digits (part 0), or the speakers (part 1)."""
        return [name.split(maxsplit=1)[part] for name in self.classes]


def spoken(data: Dataset) -> Spoken:
    """The recordings of a set with classes."""
    assert data.sound is not None
    assert data.context is not None
    return Spoken([data.sound.samples(x) for x in data.x], [data.classes[k] for k in data.context])


def digits(name: str, split: str = "train", seed: int = 0, bits: int = 16, frames: bool = False) -> Dataset:
    """The recordings of a named set, or made-up ones, of 16 bits or 8, with their features as `sources` if wanted."""
    return load(recordings(name, split, seed), bits=bits, frames=frames)


def recordings(name: str, split: str, seed: int) -> Dataset:
    """The recordings of a named set, or made-up ones, as they are."""
    if name != MADE_UP:
        return load(name, split=split)
    return made_up(8 if split == "train" else 2, (seed, split == "train"))


def made_up(count: int, seed: Any) -> Dataset:
    """Two vowels of two speakers, `count` recordings of each, 0.1 s long: of the parametric synthesiser."""
    rng, rate, names = np.random.default_rng(seed), 8000, [f"{d} {s}" for d in "01" for s in ("high", "low")]
    events, sound = [], Sound(rate, "16 bit")
    for name in names * count:
        frames = np.zeros((rng.integers(9, 12), len(vocoder.COLUMNS)))
        frames += rng.normal(0, 0.05, frames.shape)
        frames[:, 0] = 0.8 - 0.2 * np.abs(np.linspace(-1, 1, len(frames)))
        frames[:, 1:3] = 1, 2 if name.endswith("high") else -1
        frames[:, 3:7] += (1, -1, 1, -1) if name.startswith("0") else (0, 2, -1, 1)
        events.append(sound.symbols(vocoder.synthesise(frames, rate, random_state=rng)))
    known = np.tile(np.arange(len(names)), count)
    return Dataset(
        events, 256, "sound", [str(i) for i in range(len(events))], known, tuple(names), sound=sound
    )


def again(sounds: Sequence[np.ndarray], rate: int, seed: int = 0) -> list[np.ndarray]:
    """Recordings as the parametric synthesiser says them from their features."""
    rng = np.random.default_rng(seed)
    return [vocoder.synthesise(vocoder.analyse(x, rate), rate, len(x), rng) for x in sounds]


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Samples (T,) int16 as the bytes of a WAV file."""
    return header("16 bit", rate, len(samples)) + samples.astype("<i2").tobytes()


# ---- drawing what was asked for ----------------------------------------------------------------------------------


def lengths_of(data: Dataset, classes: np.ndarray, seed: int) -> np.ndarray:
    """Lengths (n,) in samples: each that of a recording of the class, drawn by the seed.

    A recording does not say where it ends: a chain would go on for ever.
    """
    rng, known = np.random.default_rng(seed), data.lengths() // data.per_sample
    return np.array([rng.choice(known[np.asarray(data.context) == k]) for k in classes], np.int64)


def drawn(
    chain: Any,
    sound: Sound,
    told: Sequence[Any] | np.ndarray,
    lengths: np.ndarray,
    seed: int = 0,
    temperature: float = 1.0,
    tick: Callable[[int, int], object] | None = None,
) -> list[np.ndarray]:
    """Recordings (T,) int16 with the lengths (n,), without the silence at their ends.

    `told` is what the chain is conditioned on: n classes, or the frames (F, c) of n recordings. `tick` is told how many
    samples are drawn, and of how many.
    """
    order = np.argsort(-lengths, kind="stable")  # those side by side are of about one length
    groups = [order[i : i + TOGETHER] for i in range(0, len(order), TOGETHER)]
    total, done, found = sum(len(g) * int(lengths[g].max()) for g in groups), 0, {}
    for first, group in zip(range(0, len(order), TOGETHER), groups, strict=True):
        longest = int(lengths[group].max())

        def tell(symbols: int, done: int = done, lanes: int = len(group)) -> None:
            if tick is not None:
                tick(done + lanes * symbols // (sound.bits // 8), total)

        context = conditions(chain, [told[i] for i in group], longest)
        settings: dict[str, Any] = {"temperature": temperature, "seed": seed, "first": first, "tick": tell}
        x = sample(chain, len(group), sound.shape(longest), context, **settings)
        for i, symbols in zip(group, x, strict=True):
            found[i] = sounding(sound.samples(symbols[: lengths[i]]), sound.rate, begin=False)
        done += len(group) * longest
    return [found[i] for i in range(len(order))]


def conditions(chain: Any, told: list[Any], length: int) -> torch.Tensor:
    """Classes, or frames for `length` samples of which the last goes on, as one tensor."""
    if not chain.frames:
        return torch.tensor([int(k) for k in told])
    count = -(-length // chain.args["hop"])
    return torch.from_numpy(
        np.stack([np.pad(rows, ((0, max(0, count - len(rows))), (0, 0)), "edge")[:count] for rows in told])
    )


# ---- probes --------------------------------------------------------------------------------------------


class Probe:
    """Tells recordings apart: a support vector machine on spectrograms of one size, log-mel, standardised."""

    def __init__(self, rate: int):
        self.rate = rate
        self.model: Any = None

    def fit(self, sounds: Sequence[np.ndarray], classes: Sequence[str]) -> Probe:
        """Learn what recordings of these classes are like."""
        rows = self.rows(sounds)
        axes = PCA(min(AXES, *rows.shape), random_state=0)
        self.model = make_pipeline(StandardScaler(), axes, SVC(C=10.0)).fit(rows, list(classes))
        return self

    def names(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """The class that each recording is taken for."""
        return list(map(str, self.model.predict(self.rows(sounds)))) if len(sounds) else []

    def accuracy(self, sounds: Sequence[np.ndarray], classes: Sequence[str]) -> float:
        """The share of recordings that are taken for what they are."""
        return float(np.mean([a == b for a, b in zip(self.names(sounds), classes, strict=True)]))

    def rows(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        """Recordings as rows of numbers (n, 1 + BANDS · TIMES)."""
        return np.stack([heard(x, self.rate) for x in sounds]).astype(np.float32)


def heard(samples: np.ndarray, rate: int) -> np.ndarray:
    """A recording (T,) as a spectrogram of one size, less its mean, and the logarithm of its length."""
    found = log_mel(sounding(samples, rate), rate)  # (frames, BANDS)
    places = (np.arange(TIMES) + 0.5) / TIMES * len(found) - 0.5
    at = np.stack([np.interp(places, np.arange(len(found)), band) for band in found.T], 1)
    return np.append(at - at.mean(), np.log(len(found)))


def log_mel(samples: np.ndarray, rate: int) -> np.ndarray:
    """ln(1 + the power) in triangles on the mel scale, a row every 10 ms from windows of 25 ms, (frames, BANDS)."""
    width, hop = round(0.025 * rate), vocoder.hop_of(rate)
    size = 1 << int(np.ceil(np.log2(2 * width)))
    window = np.hanning(width + 2)[1:-1]
    padded = np.concatenate([np.zeros(width // 2), samples.astype(np.float64), np.zeros(width)])
    pieces = np.lib.stride_tricks.sliding_window_view(padded, width)[: max(len(samples), 1) : hop]
    power = np.square(np.abs(np.fft.rfft(pieces * window, size))) / np.square(window).sum()
    return np.log1p(power @ triangles(size, rate))


def triangles(size: int, rate: int) -> np.ndarray:
    """Weights (size / 2 + 1, BANDS) of the bins of a transform in bands, that overlap by half; of each the sum is 1."""
    edges, bins = vocoder.of_mel(np.linspace(0, 1, BANDS + 2), rate), np.arange(size // 2 + 1) * rate / size
    ends = zip(edges, edges[1:], edges[2:], strict=False)
    found = np.stack([np.interp(bins, three, [0, 1, 0]) for three in ends], 1)
    return found / np.maximum(found.sum(0), 1e-9)


def sounding(samples: np.ndarray, rate: int, begin: bool = True) -> np.ndarray:
    """A recording (T,) without the silence at its end, and, unless it is to be kept, at its beginning.

    >>> len(sounding(np.r_[np.zeros(800), np.ones(160), np.zeros(400)], 8000))
    160
    """
    hop = vocoder.hop_of(rate)
    n = -(-len(samples) // hop)
    padded = np.zeros(n * hop)
    padded[: len(samples)] = samples
    energy = np.square(padded).reshape(n, hop).mean(1)
    loud = np.flatnonzero(energy >= energy.max(initial=0) / 10 ** (QUIET / 10))
    if not len(loud):
        return samples
    return samples[loud[0] * hop if begin else 0 : (loud[-1] + 1) * hop]
