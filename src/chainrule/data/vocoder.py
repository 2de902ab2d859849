"""A parametric synthesiser: speech as a few numbers every 10 ms, and speech made of such numbers again.

Source and filter, of standard parts. The pitch is the path of least cost through the peaks of the autocorrelation
(Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
sound"). The spectrum is taken from three periods, with a window of Hann, and smoothed over two thirds of a harmonic,
so that it does not know where in a period it began (Morise 2015, "CheapTrick"); of its logarithm on the mel scale the
first cosines are kept. Pulses, and noise beside them, go through the filter of least phase with that spectrum.

Frame i describes the samples [i hop, (i + 1) hop), with a hop of 10 ms; n samples have ceil(n / hop) frames. A frame is
computed from 24 ms to either side of its middle, later samples included, but for its pitch and voicing: their path
is the best one for the whole recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError

FRAMES = 100  # a second
LOWEST, HIGHEST = 62.5, 500.0  # Hz: pitches that are looked for
USUAL = 120.0  # Hz: the pitch of a recording that has none, and of the windows of unvoiced frames
SLOWEST = 4000  # samples a second: fewer hold no speech
SHAPE = 20  # cosines kept of a spectrum
POINTS = 64  # on the mel scale, that they are computed from
COLUMNS = ("energy", "voicing", "pitch", *(f"shape {k}" for k in range(1, SHAPE + 1)))
BLOCK = 512  # frames, or pulses, that are transformed together

# Costs of a pitch, as in Boersma 1993 (section 5) and in Praat since.
SILENT, VOICED, OCTAVE, JUMP, CHANGE = 0.03, 0.45, 0.01, 0.35, 0.14
CANDIDATES = 15  # pitches of a frame
STEPS = (
    192  # places in an octave where the autocorrelation is computed; 0.4 % apart, and parabolas between them
)
PERIODS = 2 ** (np.arange(-1, round(STEPS * np.log2(HIGHEST / LOWEST)) + 2) / STEPS) / HIGHEST  # seconds

# Means and deviations of the columns over all frames of the training recordings of fsdd (`statistics`), so that what a
# network is conditioned on has mean 0 and variance 1 there, and about that elsewhere. They are part of the format.
MEANS = np.array(
    [
        *(11.943, 0.557, 4.874, 1.763, 0.207, -0.11, -0.624, -0.222, -0.225, -0.065, -0.198, -0.069),
        *(-0.175, -0.128, -0.183, -0.033, -0.136, 0.005, -0.116, -0.012, -0.131, -0.018, -0.08),
    ]
)
DEVIATIONS = np.array(
    [
        *(3.6, 0.412, 0.303, 1.112, 0.798, 0.585, 0.598, 0.482, 0.371, 0.303, 0.304, 0.306),
        *(0.281, 0.245, 0.242, 0.195, 0.209, 0.185, 0.188, 0.165, 0.174, 0.157, 0.146),
    ]
)


def hop_of(rate: int) -> int:
    """Samples of a frame.

    >>> hop_of(8000), hop_of(22050)
    (80, 220)
    """
    if rate < SLOWEST:
        raise ChainruleError(
            f"a sound of {rate:,} samples a second holds no speech: take {SLOWEST:,} or more"
        )
    return round(rate / FRAMES)


def analyse(samples: np.ndarray, rate: int) -> np.ndarray:
    """Speech (T,) int16 at `rate` -> features (ceil(T / hop), 23) float32.

    The columns, each less its entry of MEANS and divided by that of DEVIATIONS:

    - energy: ln(1 + the mean square of the samples), in levels of 16 bits; 0 is silence.
    - voicing: the share of the energy that is periodic, from 0 to 1; 0 where the frame is unvoiced.
    - pitch: ln of F0 in Hz; between voiced frames on a line from one to the next.
    - shape k = 1 to 20: c_k of ln(1 + P(u)) = c_0 + Σ c_k √2 cos(π k u), where P is the power of the spectrum (that of
      white noise is its variance), and u runs from 0 to 1 along the mel scale from 0 to rate / 2 Hz.

    >>> analyse(np.zeros(201, np.int16), 8000).shape
    (3, 23)
    """
    return ((measured(samples, rate) - MEANS) / DEVIATIONS).astype(np.float32)


def synthesise(
    features: np.ndarray, rate: int, length: int | None = None, random_state: int | np.random.Generator = 0
) -> np.ndarray:
    """Features (n, 23) as of `analyse` -> speech (length,) int16; by default all n frames, n · hop samples.

    Pulses at the pitch with the share `voicing` of the energy, and noise with the rest, through filters of least phase.

    >>> speech = np.random.default_rng(0).normal(0, 900, 800).astype(np.int16)
    >>> synthesise(analyse(speech, 8000), 8000, length=750).shape
    (750,)
    """
    from scipy import signal

    features, hop = checked(features), hop_of(rate)
    length = len(features) * hop if length is None else length
    if not 0 <= length <= len(features) * hop:
        raise ChainruleError(
            f"{len(features)} frames are {len(features) * hop} samples, and {length} are wanted: take fewer"
        )
    energy, voicing, pitch, shape = parts(features * DEVIATIONS + MEANS)
    loud = np.concatenate([np.expm1(energy)[:, None], voicing[:, None], shape], 1)
    out = np.zeros(length + 3 * transform(rate))  # what is added may begin a little early, and end late
    if length:
        add_pulses(out, loud, pitch, rate, length)
        add_noise(out, loud, rate, length, np.random.default_rng(random_state))
    begin = transform(rate)
    low = signal.butter(2, LOWEST / 2, "highpass", fs=rate, output="sos")  # pulses of one sign have a mean
    return np.clip(np.rint(signal.sosfilt(low, out)[begin : begin + length]), -32768, 32767).astype(np.int16)


def frames_of(dataset: Dataset) -> list[np.ndarray]:
    """The features (frames, 23) of every recording of a set of sounds."""
    if dataset.sound is None:
        raise ChainruleError(f"{dataset.source or 'this'} is {dataset.kind}: only sounds have frames")
    sound = dataset.sound
    return [analyse(sound.samples(event), sound.rate) for event in dataset.x]


def statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations (23,) of the columns over all frames of a set, before they are scaled."""
    assert dataset.sound is not None
    sound = dataset.sound
    rows = np.concatenate([measured(sound.samples(event), sound.rate) for event in dataset.x])
    return rows.mean(0), rows.std(0)


# ---- analysis ------------------------------------------------------------------------------------------


def measured(samples: np.ndarray, rate: int) -> np.ndarray:
    """Speech (T,) -> the columns as they are, (frames, 23) float64."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ChainruleError(f"sound of shape {samples.shape}: one channel (T,) has features")
    x, hop = samples.astype(np.float64), hop_of(rate)
    n, half = -(-len(x) // hop), round(1.5 * rate / LOWEST)  # three periods of the lowest pitch
    padded = np.concatenate([np.zeros(half), x, np.zeros(half + hop)])
    every = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    pieces = every[hop // 2 :: hop][:n]  # (n, 2 half + 1), in the middle of each sample i hop + hop // 2
    voicing, pitch = pitched(pieces, rate)
    windows = np.where(voicing > 0, pitch, USUAL)
    found = [np.zeros((0, 1 + SHAPE)), *(spectra(pieces[b], windows[b], rate) for b in blocks(n))]
    rows = np.concatenate(found)
    return np.column_stack([rows[:, 0], voicing, np.log(pitch), rows[:, 1:]])


def blocks(n: int) -> Iterator[slice]:
    """Slices of at most BLOCK that make up n."""
    return (slice(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK))


def transform(rate: int) -> int:
    """Numbers of a Fourier transform: a power of 2 that holds twice the longest window."""
    return 1 << int(np.ceil(np.log2(2 * (2 * round(1.5 * rate / LOWEST) + 1))))


def spectra(pieces: np.ndarray, pitch: np.ndarray, rate: int) -> np.ndarray:
    """Pieces (n, L) of speech of a pitch (n,) in Hz -> ln(1 + mean square), and the shape, (n, 21)."""
    size, half = transform(rate), pieces.shape[1] // 2
    t = np.arange(-half, half + 1) / rate
    phase = np.clip(pitch[:, None] * t / 3, -0.5, 0.5)  # three periods
    window = 0.5 + 0.5 * np.cos(2 * np.pi * phase)  # (n, L)
    window /= np.sqrt(np.square(window).sum(1, keepdims=True))
    power = np.square(np.abs(np.fft.rfft(pieces * window, size)))
    lags = np.minimum(np.arange(size), size - np.arange(size)) / rate
    smooth = np.fft.irfft(power) * np.sinc(
        2 / 3 * pitch[:, None] * lags
    )  # a mean over two thirds of the pitch
    power = np.maximum(np.fft.rfft(smooth).real, 0)
    middle = (np.arange(POINTS) + 0.5) / POINTS
    at = of_mel(middle, rate) * size / rate
    low = at.astype(int)
    logs = np.log1p(power[:, low] * (1 - at + low) + power[:, low + 1] * (at - low))  # (n, POINTS)
    energy = np.log1p(np.square(pieces * window).sum(1))
    return np.column_stack([energy, logs @ cosines(middle) / POINTS])


def cosines(u: np.ndarray) -> np.ndarray:
    """√2 cos(π k u) for k = 1 to 20, (len(u), 20)."""
    return np.sqrt(2) * np.cos(np.pi * u[:, None] * np.arange(1, SHAPE + 1))


def of_mel(u: np.ndarray, rate: int) -> np.ndarray:
    """Shares 0..1 of the mel scale up to rate / 2 -> Hz."""
    return 700 * np.expm1(u * np.log1p(rate / 2 / 700))


def mel_of(frequency: np.ndarray, rate: int) -> np.ndarray:
    """Hz -> shares of the mel scale up to rate / 2."""
    return np.log1p(frequency / 700) / np.log1p(rate / 2 / 700)


def pitched(pieces: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (n, L) of speech -> the share of each that is periodic, 0 if unvoiced, and its pitch in Hz, both (n,).

    The path of the greatest sum of strengths less the costs of jumps; a candidate is a peak of the autocorrelation,
    divided by that of the window (equation 9), or "unvoiced" (equations 23 to 27).
    """
    if not len(pieces):
        return np.zeros(0), np.zeros(0)
    found = [peaks(correlations(pieces[b], rate)) for b in blocks(len(pieces))]
    height, period = (np.concatenate(part) for part in zip(*found, strict=True))  # (n, CANDIDATES)
    middle = pieces.shape[1] // 3  # a period of the lowest pitch
    loud = np.abs(pieces[:, middle:-middle]).max(1)
    silence = np.maximum(0, 2 - loud / max(loud.max(), 1) * (1 + VOICED) / SILENT)
    strengths = np.column_stack([VOICED + silence, height - OCTAVE * np.log2(LOWEST * period)])
    path = best_path(strengths, np.log2(period))
    voiced = np.flatnonzero(path)
    if not len(voiced):
        return np.zeros(len(pieces)), np.full(len(pieces), USUAL)
    voicing, chosen = np.zeros(len(pieces)), path[voiced] - 1
    voicing[voiced] = np.clip(height[voiced, chosen], 0, 1)
    pitch = -np.log(period[voiced, chosen])
    return voicing, np.exp(np.interp(np.arange(len(pieces)), voiced, pitch))


def correlations(pieces: np.ndarray, rate: int) -> np.ndarray:
    """The autocorrelation of pieces (n, L) at PERIODS, divided by that of the window, (n, len(PERIODS)); 1 at 0."""
    from scipy import signal

    window = signal.windows.hann(pieces.shape[1] + 2)[1:-1]

    def at(rows: np.ndarray) -> np.ndarray:
        power = np.square(np.abs(np.fft.rfft(rows, transform(rate))))
        return power @ waves(rate) / np.maximum(np.square(rows).sum(1, keepdims=True), 1e-9)

    return at((pieces - pieces.mean(1, keepdims=True)) * window) / at(window[None])


@lru_cache(maxsize=2)
def waves(rate: int) -> np.ndarray:
    """What turns the power of a transform into an autocorrelation at PERIODS, (size / 2 + 1, len(PERIODS))."""
    size = transform(rate)
    bins = np.arange(size // 2 + 1)[:, None]
    return np.cos(2 * np.pi * rate / size * bins * PERIODS) * np.where(bins % (size // 2), 2, 1) / size


def peaks(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights and periods (n, CANDIDATES) of the highest peaks of r (n, m): the tops of parabolas.

    Where there are fewer, the rest are of height -1.
    """
    left, middle, right = r[:, :-2], r[:, 1:-1], r[:, 2:]
    heights = np.where((middle > left) & (middle >= right), middle, -1.0)
    at = np.argsort(-heights, axis=1, kind="stable")[:, :CANDIDATES]
    top, left, right = (np.take_along_axis(part, at, 1) for part in (heights, left, right))
    there = top > -1
    shift = np.where(there, 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-12), 0)
    height = np.where(there, top - 0.25 * (left - right) * shift, -1)
    return height, PERIODS[1 + at] * 2 ** (shift / STEPS)


def best_path(strengths: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """The states (n,) of the greatest sum of strengths (n, 1 + m) less costs of changes.

    State 0 is unvoiced, 1 + j of frame i has the logarithm octaves[i, j], to base 2.
    """
    total, back = strengths[0], []
    costs = np.full((strengths.shape[1],) * 2, CHANGE)
    costs[0, 0] = 0
    for i in range(1, len(strengths)):
        costs[1:, 1:] = JUMP * np.abs(octaves[i][:, None] - octaves[i - 1])
        ways = total - costs  # (to, from)
        back.append(ways.argmax(1))
        total = ways.max(1) + strengths[i]
    path = [int(total.argmax())]
    for came in reversed(back):
        path.append(int(came[path[-1]]))
    return np.array(path[::-1])


# ---- synthesis -----------------------------------------------------------------------------------------


def checked(features: np.ndarray) -> np.ndarray:
    """Features as float64, or one clear line."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != len(COLUMNS):
        raise ChainruleError(f"features of shape {features.shape}: a frame has {len(COLUMNS)}")
    if not np.isfinite(features).all():
        raise ChainruleError("features that are no numbers cannot be heard: did a training diverge?")
    return features


def parts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Energy, voicing, pitch in Hz and shape of rows (n, 23), within what there can be."""
    energy = np.clip(rows[:, 0], 0, 2 * np.log(32768))
    pitch = np.exp(np.clip(rows[:, 2], np.log(LOWEST), np.log(HIGHEST)))
    return energy, np.clip(rows[:, 1], 0, 1), pitch, rows[:, 3:]


def between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows (n, c) on lines from one to the next, at places (m,) from 0 to n - 1; the ends go on."""
    places = np.clip(places, 0, len(rows) - 1)
    low = np.minimum(places.astype(int), max(len(rows) - 2, 0))
    share = (places - low)[:, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share


def responses(shape: np.ndarray, rate: int, size: int) -> np.ndarray:
    """Transforms (n, size / 2 + 1) of the filters of least phase with the shapes (n, 20), of mean power 1.

    The phase follows from the cepstrum, folded onto times after 0 (Oppenheim & Schafer 2010, section 13.5).
    """
    bins = np.arange(size // 2 + 1)
    logs = shape @ cosines(mel_of(bins * rate / size, rate)).T
    logs -= logs.max(1, keepdims=True)
    weights = np.where(bins % (size // 2), 2, 1) / size
    logs -= np.log(np.exp(logs) @ weights)[:, None]
    cepstrum = np.fft.irfft(logs / 2)
    cepstrum[:, 1 : size // 2] *= 2
    cepstrum[:, size // 2 + 1 :] = 0
    return np.exp(np.fft.rfft(cepstrum))


def add_pulses(out: np.ndarray, loud: np.ndarray, pitch: np.ndarray, rate: int, length: int) -> None:
    """Add a pulse a period, at fractions of a sample, each with the power of a period."""
    hop, size, ahead = hop_of(rate), transform(rate), 16
    places = (np.arange(length) - hop // 2) / hop
    cycles = np.exp(np.interp(places, np.arange(len(pitch)), np.log(pitch))) / rate
    phase = np.cumsum(cycles)
    at = np.flatnonzero(np.diff(np.floor(phase), prepend=0))
    late = (phase[at] - np.floor(phase[at])) / cycles[at]  # samples since the pulse
    turn = -2j * np.pi * np.arange(size // 2 + 1) / size
    for b in blocks(len(at)):
        power, voicing, shape = np.split(between(loud, places[at[b]]), [1, 2], axis=1)
        height = np.sqrt(power * voicing / cycles[at[b], None])
        delay = np.exp(turn * (ahead - late[b])[:, None])
        add(out, at[b] - ahead + size, np.fft.irfft(height * responses(shape, rate, size) * delay))


def add_noise(out: np.ndarray, loud: np.ndarray, rate: int, length: int, rng: np.random.Generator) -> None:
    """Add noise, from the filter of a frame to that of the next."""
    hop, size = hop_of(rate), transform(rate)
    middle = np.arange(-1, len(loud) + 1) * hop + hop // 2  # a frame more at either end
    ramp = 1 - np.abs(np.arange(-hop, hop + 1)) / hop  # windows whose sum is 1
    noise = rng.standard_normal((len(middle) + 1) * hop + 1)
    pieces = np.lib.stride_tricks.sliding_window_view(noise, 2 * hop + 1)[::hop]  # (frames + 2, 2 hop + 1)
    for b in blocks(len(middle)):
        power, voicing, shape = np.split(between(loud, np.arange(len(middle))[b] - 1.0), [1, 2], axis=1)
        height = np.sqrt(power * (1 - voicing))
        filtered = np.fft.rfft(pieces[b] * ramp, size) * height * responses(shape, rate, size)
        add(out, middle[b] - hop + size, np.fft.irfft(filtered))


def add(out: np.ndarray, begins: np.ndarray, rows: np.ndarray) -> None:
    """Add each row of rows (n, L) to `out` from its own beginning on, what lies beyond the end is left out."""
    for begin, row in zip(begins.tolist(), rows, strict=True):
        here = out[begin : begin + len(row)]
        here += row[: len(here)]
