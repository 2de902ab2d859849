"""The parametric synthesiser: what it measures of sounds that are known, and what comes back of speech."""

import numpy as np
import pytest

from chainrule.data import Dataset, Sound, load, vocoder
from chainrule.data.vocoder import COLUMNS, analyse, frames_of, hop_of, measured, synthesise
from chainrule.errors import ChainruleError

DECIBELS = 10 / np.log(10)


def pulses(pitch, rate, seconds=0.5, level=3000.0):
    """A pulse a period, with all harmonics below 3.5 kHz."""
    t = np.arange(round(seconds * rate)) / rate
    x = sum(np.cos(2 * np.pi * k * pitch * t) for k in range(1, int(3500 / pitch) + 1))
    return np.clip(np.rint(x * level / np.std(x)), -32768, 32767).astype(np.int16)


def noise(rate, seconds=0.5, level=3000.0):
    return np.random.default_rng(0).normal(0, level, round(rate * seconds)).astype(np.int16)


def level_of(x):
    """In decibels, without the ends."""
    edge = len(x) // 10
    return 10 * np.log10(np.square(x[edge:-edge].astype(float)).mean())


@pytest.mark.parametrize("rate", [8000, 22050])
@pytest.mark.parametrize("pitch", [63.0, 80.0, 101.3, 160.0, 247.1, 333.0, 470.0])
def test_the_pitch_of_pulses_is_found(pitch, rate):
    inner = measured(pulses(pitch, rate), rate)[4:-4]
    np.testing.assert_allclose(np.exp(inner[:, 2]), pitch, rtol=3e-3)
    assert inner[:, 1].min() > 0.9


def test_the_pitch_follows_a_glide():
    rate, seconds = 8000, 1.0
    t = np.arange(round(rate * seconds)) / rate
    pitch = 100 * 2**t
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    x = sum(np.cos(k * phase) for k in range(1, 10))
    found = np.exp(measured((900 * x).astype(np.int16), rate)[4:-4, 2])
    np.testing.assert_allclose(found, pitch[hop_of(rate) // 2 :: hop_of(rate)][4:-4], rtol=0.01)


def test_noise_has_no_pitch():
    assert (measured(noise(8000), 8000)[:, 1] > 0).mean() < 0.1


@pytest.mark.parametrize("kind", ["noise", "pulses"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_energy_and_pitch_survive(kind, rate):
    x = noise(rate) if kind == "noise" else pulses(130, rate)
    y = synthesise(analyse(x, rate), rate, len(x))
    assert level_of(y) == pytest.approx(level_of(x), abs=0.7)
    energy = DECIBELS * measured(x, rate)[4:-4, 0]
    assert energy.mean() == pytest.approx(level_of(x), abs=0.3)
    if kind == "pulses":
        np.testing.assert_allclose(np.exp(measured(y, rate)[4:-4, 2]), 130, rtol=0.01)


def test_the_shape_is_that_of_the_filter():
    """Noise through a filter of one pole: the cosines of ln |1 - a e^{-iω}|^{-2} on the mel scale."""
    rate, a = 8000, 0.9
    white = np.random.default_rng(0).normal(0, 300, 20 * rate)
    x = np.zeros(len(white))
    for t in range(len(x)):
        x[t] = white[t] + a * x[t - 1]
    u = (np.arange(2000) + 0.5) / 2000
    w = 2 * np.pi * vocoder.of_mel(u, rate) / rate
    wanted = -2 * np.log(np.abs(1 - a * np.exp(-1j * w))) @ vocoder.cosines(u) / len(u)
    found = measured(x.astype(np.int16), rate)[:, 3:].mean(0)
    np.testing.assert_allclose(found[:6], wanted[:6], atol=0.1)


def test_filters_have_least_phase_and_mean_power_1():
    shape = np.random.default_rng(0).normal(0, 0.3, (5, vocoder.SHAPE))
    found = np.fft.irfft(vocoder.responses(shape, 8000, 1024))
    np.testing.assert_allclose(np.square(found).sum(1), 1, rtol=1e-9)
    early = np.square(found).cumsum(1)
    other = np.roll(np.fft.irfft(np.abs(np.fft.rfft(found))), 512, axis=1)  # the same spectrum, another phase
    assert (early >= np.square(other).cumsum(1) - 1e-6).all()
    assert np.square(found[:, 512:]).sum() < 1e-6


def test_silence_stays_silent():
    found = measured(np.zeros(1000, np.int16), 8000)
    assert not found[:, [0, 1, *range(3, len(COLUMNS))]].any()
    assert not synthesise(analyse(np.zeros(1000, np.int16), 8000), 8000).any()
    loud = np.concatenate([noise(8000), np.zeros(4000, np.int16)])
    again = synthesise(analyse(loud, 8000), 8000, len(loud))
    assert np.abs(again[4400:]).max() <= 1


@pytest.mark.parametrize("length", [0, 1, 2, 79, 80, 81, 160, 399, 401])
def test_any_length_is_taken(length):
    x = noise(8000)[:length]
    found = analyse(x, 8000)
    assert found.shape == (-(-length // 80), len(COLUMNS))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    y = synthesise(found, 8000, length)
    assert (y.shape, y.dtype) == ((length,), np.int16)
    assert synthesise(found, 8000).shape == (len(found) * 80,)


@pytest.mark.parametrize(
    "x",
    [
        np.full(900, 32767),
        np.full(900, -32768),
        np.where(np.arange(900) % 40 < 20, 32767, -32768),
        np.where(np.arange(900) == 450, 32767, 0),
        np.arange(900) % 2,
        np.where(np.arange(900) % 2, 32767, -32768),
    ],
    ids=["top", "bottom", "square", "click", "least", "fastest"],
)
def test_odd_sounds_give_numbers(x):
    found = analyse(x.astype(np.int16), 8000)
    assert np.isfinite(found).all()
    assert synthesise(found, 8000, len(x)).shape == x.shape


def test_whatever_the_features_are_there_is_a_sound():
    wild = np.random.default_rng(0).normal(0, 30, (40, len(COLUMNS))).astype(np.float32)
    assert synthesise(wild, 8000).shape == (3200,)


def test_features_move_with_the_sound():
    x = np.concatenate([np.zeros(800, np.int16), pulses(130, 8000), np.zeros(800, np.int16)])
    moved = np.concatenate([np.zeros(240, np.int16), x])
    np.testing.assert_allclose(analyse(moved, 8000)[13:-10], analyse(x, 8000)[10:-10], atol=1e-5)


def test_the_same_seed_gives_the_same_samples():
    features = analyse(noise(8000), 8000)
    first, again, other = (synthesise(features, 8000, random_state=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (synthesise(features, 8000, random_state=np.random.default_rng(1)) == first).all()


def test_long_recordings_are_cut_into_blocks_that_nothing_depends_on(monkeypatch):
    x = np.concatenate([pulses(130, 8000), noise(8000)])
    whole, sound = analyse(x, 8000), synthesise(analyse(x, 8000), 8000)
    monkeypatch.setattr(vocoder, "BLOCK", 7)
    np.testing.assert_allclose(analyse(x, 8000), whole, atol=1e-4)
    assert np.abs(synthesise(whole, 8000).astype(int) - sound).max() <= 1


def test_what_cannot_be_is_one_line():
    features = np.zeros((3, len(COLUMNS)))
    for call, words in [
        (lambda: analyse(np.zeros((9, 2), np.int16), 8000), r"shape \(9, 2\): one channel"),
        (lambda: analyse(np.zeros(9, np.int16), 900), "900 samples a second holds no speech: take 4,000"),
        (lambda: synthesise(features[:, :5], 8000), r"shape \(3, 5\): a frame has 23"),
        (lambda: synthesise(features * np.nan, 8000), "no numbers"),
        (lambda: synthesise(features, 8000, 241), "3 frames are 240 samples, and 241 are wanted"),
        (
            lambda: frames_of(Dataset(np.zeros((1, 4), int), 2, "array", source="x")),
            "x is array: only sounds",
        ),
    ]:
        with pytest.raises(ChainruleError, match=words):
            call()


@pytest.mark.parametrize("coding", ["16 bit", "mu-law"])
def test_frames_of_a_set(coding):
    sound = Sound(8000, coding)
    events = [sound.symbols(noise(8000)[:n]) for n in (300, 700)]
    found = frames_of(Dataset(events, 256, "sound", sound=sound))
    assert [len(rows) for rows in found] == [4, 9]
    np.testing.assert_array_equal(found[1], analyse(sound.samples(events[1]), 8000))


def test_real_speech_is_of_mean_0_and_variance_1_and_comes_back(real_data, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DATA", str(real_data))
    few = load("fsdd", split="test").select(slice(0, 300, 13))
    scaled = np.concatenate(frames_of(few))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=0.4)
    np.testing.assert_allclose(scaled.std(0), 1, atol=0.25)
    shapes, energies, pitches = [], [], []
    for x in map(few.sound.samples, few.x):
        a, b = measured(x, 8000), measured(synthesise(analyse(x, 8000), 8000, len(x)), 8000)
        loud, voiced = a[:, 0] > a[:, 0].max() - 40 / DECIBELS, (a[:, 1] > 0) & (b[:, 1] > 0)
        shapes.append(DECIBELS * np.sqrt(np.square(a - b)[loud, 3:].sum(1)))
        energies.append(DECIBELS * (b - a)[loud, 0])
        pitches.append(np.abs(a - b)[voiced, 2])
    assert np.concatenate(shapes).mean() < 3  # decibels, of the smooth spectra: 2.7 when this was written
    assert np.abs(np.concatenate(energies).mean()) < 0.5
    assert np.median(np.concatenate(pitches)) < 0.005
