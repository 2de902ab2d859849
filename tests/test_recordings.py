"""Sound files as data: what is read of them is exact, and whatever is wrong with them is one line."""

import io
import math
import os
import struct
import tracemalloc
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chainrule import cli, console
from chainrule.data import Dataset, Sound, load, recordings
from chainrule.data.recordings import read_recording, resampled, rounded
from chainrule.data.sound import CODINGS, from_mu_law, mu_law
from chainrule.errors import ChainruleError

ALL = np.arange(-32768, 32768).astype(np.int16)
RNG = np.random.default_rng(0)


def tone(hertz: float, count: int = 3000, rate: int = 8000, loud: float = 8000) -> np.ndarray:
    return rounded(loud * np.sin(2 * np.pi * hertz * np.arange(count) / rate))


def save(
    path: Path, x: np.ndarray, rate: int = 8000, subtype: str = "PCM_16", form: str | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, format=form, subtype=subtype)
    return path


def samples(data: Dataset, i: int = 0) -> np.ndarray:
    return data.sound.samples(data.x[i])


def one_line(action) -> str:
    """The text of the error that `action` raises, which is one printable line."""
    with pytest.raises(ChainruleError) as caught:
        action()
    text = str(caught.value)
    assert text.isprintable()
    return text


# Samples and symbols


def test_mu_law_is_its_formula_for_every_sample():
    for s in range(-32768, 32768, 7):
        f = math.copysign(math.log1p(255 * abs(s) / 32768) / math.log(256), s)
        assert int(mu_law(np.array([s]))[0]) == 128 + round(127 * f)


def test_mu_law_of_every_sample_and_of_every_code_and_back():
    codes = mu_law(ALL)
    assert (codes.min(), codes.max(), mu_law(np.array([0]))[0], from_mu_law(np.array([128]))[0]) == (
        1,
        255,
        128,
        0,
    )
    assert (np.diff(codes.astype(int)) >= 0).all()
    every = np.arange(1, 256)
    np.testing.assert_array_equal(mu_law(from_mu_law(every)), every)
    back = from_mu_law(codes).astype(int)
    np.testing.assert_array_equal(mu_law(back), codes)  # it lies among the samples of its code
    half = 256 ** (0.5 / 127) - 1  # of a code
    assert (abs(back - ALL) <= (np.abs(ALL.astype(int)) + 32768 / 255) * half + 1).all()
    assert from_mu_law(np.array([0])) == from_mu_law(np.array([1]))


def bias(encode, decode) -> float:
    """The mean by which samples change, over a range with as many below as above zero."""
    x = np.arange(-32000, 32001)
    return float((decode(encode(x)).astype(float) - x).mean())


@pytest.mark.parametrize("coding", CODINGS)
def test_no_coding_moves_the_mean(coding):
    sound = Sound(8000, coding)
    assert abs(bias(sound.symbols, sound.samples)) < 0.51  # steps of 16 bits: ties of 8 bits go to even codes
    x = np.arange(1, 32768)
    if coding == "mu-law":
        np.testing.assert_array_equal(sound.samples(sound.symbols(-x)), -sound.samples(sound.symbols(x)))


def test_a_coding_that_cuts_off_moves_the_mean():
    """The defect that the test before this one looks for."""
    assert bias(lambda x: (x + 32768) >> 8, lambda c: (c - 128) * 256) < -100


def test_16_bits_are_exact_for_every_sample_and_8_for_every_level():
    sixteen, eight = Sound(8000, "16 bit"), Sound(8000, "8 bit")
    symbols = sixteen.symbols(ALL)
    assert (symbols.dtype, symbols.shape) == (np.uint8, (65536, 2))
    np.testing.assert_array_equal(symbols.astype(int) @ [256, 1] - 32768, ALL)
    np.testing.assert_array_equal(sixteen.samples(symbols), ALL)
    np.testing.assert_array_equal(eight.symbols(eight.samples(np.arange(256))), np.arange(256))
    assert eight.symbols(np.array([127, 128, 384, 32767, -32768])).tolist() == [128, 128, 130, 255, 0]
    assert [Sound(1, c).symbols(ALL[:0]).shape for c in CODINGS] == [(0,), (0,), (0, 2)]


@pytest.mark.parametrize("coding", CODINGS)
def test_long_sounds_are_looked_up_block_by_block(coding, monkeypatch):
    sound = Sound(8000, coding)
    whole = sound.symbols(ALL)
    monkeypatch.setattr("chainrule.data.sound.BLOCK", 1000)
    np.testing.assert_array_equal(sound.symbols(ALL), whole)


# Files, exactly


def test_a_wav_of_16_bits_is_what_the_standard_library_wrote(tmp_path):
    x = RNG.permutation(ALL)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 11025, 0, "NONE", ""))
        file.writeframes(x.astype("<i2").tobytes())
    data = load(tmp_path / "a.wav")
    assert (data.kind, data.levels, data.names, data.sound) == (
        "sound",
        256,
        ("a.wav",),
        Sound(11025, "16 bit"),
    )
    assert (data.reduced, data.skipped, data.per_sample, data.event) == ((), (), 2, (65536, 2))
    np.testing.assert_array_equal(samples(data), x)


@pytest.mark.parametrize(
    ("ending", "form", "subtype"),
    [
        (".wav", "RF64", "PCM_16"),
        (".wav", "WAVEX", "PCM_24"),
        (".wave", "WAV", "PCM_32"),
        (".WAV", "WAV", "FLOAT"),
        (".wav", "WAV", "DOUBLE"),
        (".flac", "FLAC", "PCM_16"),
        (".flac", "FLAC", "PCM_24"),
        (".aiff", "AIFF", "PCM_16"),
        (".aif", "AIFF", "PCM_24"),
        (".au", "AU", "PCM_16"),
        (".snd", "AU", "FLOAT"),
        (".caf", "CAF", "PCM_16"),
        (".caf", "CAF", "ALAC_16"),
        (".w64", "W64", "PCM_16"),
        (".rf64", "RF64", "PCM_16"),
        (".sph", "NIST", "PCM_16"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_16_bits_are_exact_in_every_lossless_format(tmp_path, ending, form, subtype, channels):
    """However wide the numbers of the file are, and on two channels that are equal."""
    x = RNG.integers(-32768, 32768, 3000)
    path = save(tmp_path / f"a{ending}", np.stack([x / 32768] * channels, 1), 22050, subtype, form)
    data = load(path)
    np.testing.assert_array_equal(samples(data), x)
    assert (data.sound, data.reduced) == (Sound(22050, "16 bit"), ())


@pytest.mark.parametrize(
    ("ending", "subtype"), [(".ogg", "VORBIS"), (".opus", "OPUS"), (".mp3", "MPEG_LAYER_III")]
)
def test_what_is_coded_with_loss_is_nearly_what_it_was(tmp_path, ending, subtype):
    x = tone(440, 16000)
    soundfile.write(
        tmp_path / f"a{ending}", x, 8000, format=None if ending == ".mp3" else "OGG", subtype=subtype
    )
    data = load(tmp_path / f"a{ending}")
    back = samples(data).astype(float)
    assert len(back) == 16000
    assert np.abs(back - x)[2000:-2000].max() < 1500
    assert (data.sound, data.reduced) == (Sound(8000, "16 bit"), ())


@pytest.mark.parametrize(
    ("subtype", "told"),
    [("PCM_24", "24 bits"), ("PCM_32", "32 bits"), ("FLOAT", "32-bit floats"), ("DOUBLE", "64-bit floats")],
)
def test_finer_samples_are_rounded_once_and_told(tmp_path, subtype, told):
    steps = np.array([0.5, 1.5, -0.5, -1.5, 0.25, -0.75, 32767, -32768])
    data = load(save(tmp_path / "a.wav", steps / 32768, subtype=subtype))
    assert samples(data).tolist() == [0, 2, 0, -2, 0, -1, 32767, -32768]
    assert data.reduced == (("a.wav", told),)


def test_floats_beyond_the_scale_are_clipped_and_told(tmp_path):
    data = load(save(tmp_path / "a.wav", np.array([1.0, -1.0, 0.5]), subtype="FLOAT"))
    assert samples(data).tolist() == [32767, -32768, 16384]
    assert data.reduced == ()
    data = load(save(tmp_path / "b.wav", np.array([1.5, -7.0, 0.5]), subtype="FLOAT"))
    assert samples(data).tolist() == [32767, -32768, 16384]
    assert data.reduced == (("b.wav", "samples beyond full scale"),)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_averaged_halves_to_even_without_clipping(tmp_path, channels):
    x = RNG.integers(-32768, 32768, (4000, channels))
    x[:3] = np.array([32767, -32768, 1])[:, None]
    x[3:5, 1:] = x[3:5, :1]
    data = load(save(tmp_path / "a.wav", x.astype(np.int16)))
    expected = [round(int(row.sum()) / channels) for row in x]
    np.testing.assert_array_equal(samples(data), expected)
    assert data.reduced == (("a.wav", f"{channels} channels"),)


def test_an_average_of_24_bits_is_rounded_once(tmp_path):
    x = np.array([[0.5, 0.0], [0.5, 0.25], [2.0, 3.0]])
    data = load(save(tmp_path / "a.wav", x / 32768, subtype="PCM_24"))
    assert samples(data).tolist() == [0, 0, 2]
    assert data.reduced == (("a.wav", "2 channels, 24 bits"),)


def test_files_of_8_bits_keep_their_levels_unless_one_has_more(tmp_path):
    levels = RNG.permutation(np.arange(256))
    x = ((levels - 128) * 256).astype(np.int16)
    for name, subtype, form in [
        ("a.wav", "PCM_U8", "WAV"),
        ("b.flac", "PCM_S8", "FLAC"),
        ("c.aiff", "PCM_S8", "AIFF"),
    ]:
        save(tmp_path / name, x, subtype=subtype, form=form)
    data = load(tmp_path)
    assert (data.sound, data.event, data.per_sample) == (Sound(8000, "8 bit"), (256,), 1)
    for event in data.x:
        np.testing.assert_array_equal(event, levels)
    save(tmp_path / "d.wav", x)
    data = load(tmp_path)
    assert data.sound == Sound(8000, "16 bit")
    for i in range(4):
        np.testing.assert_array_equal(samples(data, i), x)
    two = load(save(tmp_path / "two" / "a.wav", np.array([[0, 256], [0, 512]], np.int16), subtype="PCM_U8"))
    assert (two.sound.coding, samples(two).tolist()) == (
        "16 bit",
        [128, 256],
    )  # an average is no level of 8 bits


def g711(code: int) -> int:
    """The sample that a code of mu-law stands for (ITU-T G.711)."""
    code = ~code & 255
    size = ((((code & 15) << 3) + 132) << ((code >> 4) & 7)) - 132
    return -size if code & 128 else size


def test_a_mu_law_wav_is_read_as_the_samples_it_stands_for(tmp_path):
    codes = bytes(range(256))
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 292, b"WAVE", b"fmt ", 16, 7, 1, 8000, 8000, 1, 8, b"data", 256
    )
    (tmp_path / "a.wav").write_bytes(head + codes)
    data = load(tmp_path / "a.wav")
    assert samples(data).tolist() == [g711(code) for code in codes]
    assert (data.sound.coding, data.reduced) == ("16 bit", ())


# Rates


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [(16000, 8000), (8000, 16000), (44100, 8000), (8000, 44100), (48000, 11025), (12000, 11999)],
)
def test_resampling_keeps_a_sine_and_its_length(rate, wanted):
    count = 4001
    y = resampled(tone(440, count, rate), rate, wanted)
    assert abs(len(y) - count * wanted / rate) <= 0.5
    away = 100 * wanted // min(rate, wanted)  # samples from the ends, beyond which there is nothing
    expected = tone(440, len(y), wanted)
    assert np.abs(y.astype(int) - expected)[away:-away].max() <= 1


def test_resampling_takes_out_what_the_new_rate_cannot_hold_and_keeps_the_level():
    y = resampled(tone(6000, 8000, 16000), 16000, 8000)
    assert np.abs(y[200:-200]).max() <= 1
    np.testing.assert_array_equal(resampled(np.full(4000, -777, np.int16), 8000, 12000)[300:-300], -777)


def test_resampling_does_not_depend_on_blocks_and_does_not_clip_around(monkeypatch):
    x = rounded(RNG.choice([-40000, 40000], 5000))
    whole = resampled(x, 11025, 16000)
    monkeypatch.setattr(recordings, "BLOCK", 700)
    np.testing.assert_array_equal(resampled(x, 11025, 16000), whole)
    square = np.repeat(rounded(np.array([40000, -40000])), 2500)  # it overshoots
    y = resampled(square, 8000, 16000)
    assert (y[:4900] > 25000).all()
    assert (y[5100:-100] < -25000).all()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shortest_sounds_have_a_sample_at_any_rate(count):
    x = np.full(count, 900, np.int16)
    assert len(resampled(x, 44100, 8000)) == max(1, round(count * 8000 / 44100))
    assert len(resampled(x, 8000, 16000)) == 2 * count


def test_rates_that_are_too_far_apart_are_one_line(monkeypatch):
    x = np.zeros(1000, np.int16)
    assert "a sound cannot be brought from 768,000 to 8 samples a second: at most 256 times" in one_line(
        lambda: resampled(x, 768_000, 8)
    )
    monkeypatch.setattr(recordings, "LONGEST", 3000)
    assert "more than 3,000 samples at 32,000 a second" in one_line(lambda: resampled(x, 8000, 32000))


def test_several_rates_in_a_folder_need_one_to_be_named(tmp_path):
    save(tmp_path / "a.wav", tone(440), 8000)
    save(tmp_path / "b.flac", tone(440, 8820, 44100), 44100)
    save(tmp_path / "c.wav", tone(440, 800, 4000), 4000)
    assert (
        "has sounds of 8,000 and of 44,100 samples a second (a.wav, b.flac): bring all to one rate, such as --rate 8000"
        in one_line(lambda: load(tmp_path))
    )
    data = load(tmp_path, rate=8000)
    assert data.sound == Sound(8000, "16 bit")
    assert [len(x) for x in data.x] == [3000, 1600, 1600]
    assert data.reduced == (("b.flac", "44,100 samples a second"),)
    for i in (1, 2):
        assert np.abs(samples(data, i).astype(int) - tone(440, 1600))[200:-200].max() <= 1


@pytest.mark.parametrize("coding", CODINGS)
def test_a_data_set_is_resampled_as_its_files_are(tmp_path, coding):
    x = RNG.integers(-128, 128, 3000) * 256 if coding == "8 bit" else tone(440)
    path = save(tmp_path / "a.wav", x.astype(np.int16), subtype="PCM_U8" if coding == "8 bit" else "PCM_16")
    bits = None if coding == "8 bit" else Sound(1, coding).bits
    data, moved = load(path, bits=bits), load(path, bits=bits, rate=6000)
    assert data.sound == Sound(8000, coding)
    assert moved.sound == Sound(6000, "mu-law" if coding == "mu-law" else "16 bit")
    if coding != "mu-law":  # which would lose twice
        np.testing.assert_array_equal(load(data, rate=6000).x, moved.x)
        assert load(data, rate=6000).sound == moved.sound
    assert load(data, rate=8000).x is data.x


@pytest.mark.parametrize("model", [Sound(rate, coding) for rate in (8000, 5000) for coding in CODINGS])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "ULAW"])
def test_a_run_is_given_what_its_model_takes(tmp_path, model, subtype):
    path = save(tmp_path / "a.wav", tone(440), subtype=subtype)
    data, plain = load(path, sound=model), load(path)
    assert data.sound == model
    heard = samples(plain) if model.rate == 8000 else resampled(samples(plain), 8000, model.rate)
    np.testing.assert_array_equal(data.x[0], model.symbols(heard))
    assert load(plain, sound=model).sound == model


def test_bits_and_rates_that_there_cannot_be_are_one_line(tmp_path):
    path = save(tmp_path / "a.wav", tone(440))
    assert "--bits 12: a sample of sound has 8 or 16" in one_line(lambda: load(path, bits=12))
    for rate in (0, -1, 10**7):
        assert f"a sound of {rate} samples a second: take 1 to 768,000" in one_line(
            lambda r=rate: load(path, rate=r)
        )
    assert "a.wav cannot be brought from 8,000 to 2 samples a second" in one_line(lambda: load(path, rate=2))
    assert "--rate 8000 is for sound, digits is image" in one_line(lambda: load("digits", rate=8000))
    assert "--bits 8 is for sound" in one_line(lambda: load(np.zeros((3, 5), np.uint8), bits=8))
    assert "digits is image, the model was fitted on sound" in one_line(
        lambda: load("digits", sound=Sound(1, "8 bit"))
    )


# Folders


def test_a_folder_of_sounds_with_its_sub_folders(tmp_path):
    for name in ("b/two words.wav", "a.flac", "b/é.WAV", ".hidden.wav", ".dir/c.wav", "b/.x/d.wav"):
        save(tmp_path / name, tone(440, 100), form="FLAC" if name == "a.flac" else "WAV")
    (tmp_path / "notes.txt").write_text("what these are")
    data = load(tmp_path)
    assert list(data.names) == ["a.flac", "b/two words.wav", "b/é.WAV"]
    assert (data.skipped, data.context, data.kind) == ((), None, "sound")


def test_sub_folders_are_classes(tmp_path):
    for name in ("yes/1.wav", "no/1.wav", "no/deep/2.wav", "alone.wav"):
        save(tmp_path / name, tone(440, 100))
    data = load(tmp_path, classes=True)
    assert (list(data.names), data.classes) == (["no/1.wav", "no/deep/2.wav", "yes/1.wav"], ("no", "yes"))
    assert data.context.tolist() == [0, 0, 1]
    assert data.skipped == (("alone.wav", "is in no sub-folder, so it has no class"),)
    assert load(tmp_path, classes=["yes", "no"]).context.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("images", "sounds", "kind"), [(1, 2, "sound"), (0, 1, "sound"), (1, 1, "image"), (2, 1, "image")]
)
def test_a_folder_is_of_sounds_when_it_has_more_of_them_than_images(tmp_path, images, sounds, kind):
    for i in range(images):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{i}.png")
    for i in range(sounds):
        save(tmp_path / f"{i}.wav", tone(440, 100))
    data = load(tmp_path)
    assert data.kind == kind
    why, others = (
        ("is an image among sounds", images) if kind == "sound" else ("is a sound among images", sounds)
    )
    assert [reason for _, reason in data.skipped] == [why] * others


def test_what_cannot_be_read_is_told_and_the_rest_is_data(tmp_path, capsys):
    good = save(tmp_path / "good.wav", tone(440))
    save(tmp_path / "silent.wav", np.zeros(5000, np.int16))
    save(tmp_path / "stereo.wav", RNG.integers(-9, 9, (50, 2)).astype(np.int16))
    save(tmp_path / "folder.wav" / "in.wav", tone(300))
    for name, raw in {
        "cut": good.read_bytes()[:900],
        "empty": b"",
        "text": b"RIFFraff",
        "page": b"<html>",
    }.items():
        (tmp_path / f"{name}.wav").write_bytes(raw)
    data = load(tmp_path)
    assert list(data.names) == ["folder.wav/in.wav", "good.wav", "silent.wav", "stereo.wav"]
    assert dict(data.skipped) == {
        "cut.wav": "ends after 856 of 6,000 bytes: it is truncated",
        "empty.wav": "is empty",
        "page.wav": "is not a sound: it begins as no wav, flac, ogg, mp3, aiff, au or caf does",
        "text.wav": "cannot be read: format not recognised",
    }
    console.passed_over(data)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert told[0].startswith("4 files left out: cut.wav (ends after")
    assert told[1] == "1 file with more than the samples that are read: stereo.wav (2 channels)"
    assert told[2] == "1 file kept all the same: silent.wav (silence throughout)"


# Files that are broken, or made to harm


def wav(
    data: bytes, told: int | None = None, channels: int = 1, rate: int = 8000, tag: int = 1, bits: int = 16
) -> bytes:
    """A wav file whose header may say anything."""
    told = len(data) if told is None else told
    size = bits // 8 * channels
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * size & 0xFFFFFFFF, size & 0xFFFF, bits)
    riff = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", told) + data
    return b"RIFF" + struct.pack("<I", min(len(riff) - len(data) + told, 0xFFFFFFFF)) + riff


def encoded(x: np.ndarray, form: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, 8000, format=form, subtype=subtype)
    return file.getvalue()


FLAC = encoded(tone(440), "FLAC", "PCM_16")
TWO_BYTES = struct.pack("<2h", 1, 2)
HOSTILE = {
    "a.wav": {
        "no samples": (wav(b""), "holds no samples"),
        "half a sample": (wav(b"\1"), "holds no samples"),
        "a lying length": (wav(TWO_BYTES, told=10**9), "ends after 4 of 1,000,000,000 bytes: it is truncated"),
        "no channels": (wav(TWO_BYTES, channels=0), "cannot be read: "),
        "65,535 channels": (wav(TWO_BYTES, channels=65535), "cannot be read: "),
        "1,024 channels": (wav(bytes(2048), channels=1024), ""),
        "no rate": (wav(TWO_BYTES, rate=0), "0 samples a second|cannot be read"),
        "a wild rate": (wav(TWO_BYTES, rate=2**31 - 1), "says it has 2,147,483,647 samples a second: 1 to 768,000"),
        "a negative rate": (wav(TWO_BYTES, rate=2**32 - 5), "samples a second|cannot be read"),
        "no such coding": (wav(TWO_BYTES, tag=999), "cannot be read: "),
        "not a number": (wav(struct.pack("<f", math.nan), tag=3, bits=32), "samples that are NaN or infinite"),
        "infinite": (wav(struct.pack("<d", -math.inf), tag=3, bits=64), "samples that are NaN or infinite"),
        "a number too large": (wav(struct.pack("<2d", 1e300, -1e300), tag=3, bits=64), ""),
        "a matrix": (b"MATLAB 5.0 MAT-file" + bytes(200), "is not a sound"),
        "an 8SVX": (b"FORM" + bytes(4) + b"8SVXVHDR" + bytes(60), "cannot be read|is not read"),
        "ID3 and nothing": (b"ID3\4\0\0\0\0\0\0" + bytes(99), "cannot be read: "),
        "noise": (RNG.bytes(5000), "is not a sound"),
    },
    "a.flac": {
        "half": (FLAC[: len(FLAC) // 2], "cannot be read|truncated"),
        "a header": (FLAC[:42], "truncated|holds no samples|cannot be read"),
        "2^36 samples": (FLAC[:21] + bytes([FLAC[21] | 15]) + b"\xff" * 4 + FLAC[26:], "truncated|cannot be read"),
    },
    "a.au": {"headerless": (b"\xff\xfb" + RNG.bytes(999), "cannot be read|is not read")},
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in HOSTILE for case in HOSTILE[name]])
def test_a_hostile_file_is_one_line_and_takes_little_memory(tmp_path, capfd, name, case):
    raw, told = HOSTILE[name][case]
    (tmp_path / name).write_bytes(raw)
    load_small(tmp_path / name) if not told else check_line(tmp_path / name, told)
    assert capfd.readouterr().err == ""


def load_small(path: Path) -> Dataset | str:
    """What `load` makes of a file, in little memory."""
    tracemalloc.start()
    try:
        return load(path)
    except ChainruleError as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**25


def check_line(path: Path, told: str) -> None:
    line = load_small(path)
    assert isinstance(line, str)
    assert line.isprintable()
    assert any(f"{path} {part}" in line or part in line for part in told.split("|")), line


@pytest.mark.parametrize("told", [2**32 - 1, 2**31 - 1, 2**31 - 4096])
def test_a_wav_that_was_written_before_its_length_was_known_is_read(tmp_path, told):
    (tmp_path / "a.wav").write_bytes(wav(TWO_BYTES, told=told))
    assert samples(load(tmp_path / "a.wav")).tolist() == [1, 2]


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    (tmp_path / "a.flac").write_bytes(FLAC[:21] + bytes([FLAC[21] & 240, 0, 0, 0, 0]) + FLAC[26:])
    np.testing.assert_array_equal(samples(load(tmp_path / "a.flac")), tone(440))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "AU", "W64", "RF64", "CAF"])
def test_a_file_that_states_its_length_is_never_read_in_part(tmp_path, form):
    """CAF may lack its end: nothing says where it is. What is read is the beginning."""
    x = tone(440, 300)
    raw = encoded(x, form, "PCM_16")
    path = tmp_path / "a.wav"  # what it is called does not matter
    for cut in [*range(1, len(raw), 41), len(raw) - 2]:
        path.write_bytes(raw[:cut])
        found = load_small(path)
        if form == "CAF" and isinstance(found, Dataset):
            np.testing.assert_array_equal(samples(found), x[: len(found.x[0])])
        else:
            assert isinstance(found, str), cut


def test_a_sound_is_no_longer_than_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", tone(440))
    monkeypatch.setattr(recordings, "BLOCK", 500)
    np.testing.assert_array_equal(samples(load(path)), tone(440))
    monkeypatch.setattr(recordings, "LONGEST", 2999)
    assert "a.wav has more than 2,999 samples: cut it" in one_line(lambda: load(path))


def test_pipes_and_folders_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert "is not a regular file" in one_line(lambda: load(tmp_path / "a.wav"))
    (tmp_path / "b.wav").mkdir()
    assert one_line(lambda: load(tmp_path / "b.wav")) == f"{tmp_path / 'b.wav'} is an empty folder"
    (tmp_path / "loop.flac").symlink_to("loop.flac")
    assert "loop.flac cannot be read: " in one_line(lambda: load(tmp_path / "loop.flac"))


def test_a_name_that_is_no_text_is_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    path.write_bytes(wav(TWO_BYTES))
    assert samples(load(path)).tolist() == [1, 2]
    assert load(tmp_path).names == ("\\udcff\\udcfe.wav",)


KINDS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"),
    ("WAV", "GSM610"), ("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_16"),
    ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("MP3", "MPEG_LAYER_III"),
    ("NIST", "PCM_16"),
]  # fmt: skip
MAGIC = [
    b"RIFF\xff\0\0\0WAVEfmt ",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"fLaC\0\0\0\x22",
    b"OggS\0\2",
    b"FORM\0\0\0\xffAIFFCOMM",
]
MAGIC += [
    b".snd\0\0\0\x18",
    b"caff\0\1\0\0desc",
    b"\xff\xfb\x90\x64",
    b"ID3\3\0\0\0\0\0\0",
    b"NIST_1A\n   1024\n",
    b"",
]


@pytest.fixture(scope="module")
def real() -> list[bytes]:
    """A short file of every kind."""
    return [encoded(tone(440, 1500), form, subtype) for form, subtype in KINDS]


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_hostile_bytes_give_samples_or_one_line(tmp_path_factory, real, data):
    """Random bytes behind every mark, and real files with bytes changed, cut out or repeated."""
    if data.draw(st.booleans()):
        raw = bytearray(data.draw(st.sampled_from(MAGIC)) + data.draw(st.binary(min_size=1, max_size=300)))
    else:
        raw = bytearray(data.draw(st.sampled_from(real)))
    end = len(raw) if data.draw(st.booleans()) else 128  # half of them in the header only
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, min(end, len(raw)) - 1))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        raw = raw or bytearray(1)
    raw = raw[: data.draw(st.integers(1, len(raw)))] if data.draw(st.integers(0, 3)) == 0 else raw
    path = tmp_path_factory.getbasetemp() / "hostile.wav"
    path.write_bytes(raw)
    check_hostile(path)


def check_hostile(path: Path) -> None:
    try:
        found, line = read_recording(path, "hostile.wav")[0], ""
    except ChainruleError as error:
        found, line = None, str(error)
    assert line.isprintable()
    if found is None:
        assert line.startswith("hostile.wav ")
    else:
        assert found.samples.dtype == np.int16
        assert len(found.samples) > 0
        assert 0 < found.rate <= 768_000


def test_a_damaged_mp3_says_nothing_on_standard_error(tmp_path, capfd, real):
    """Its decoder does, and standard error is there again afterwards."""
    raw = bytearray(real[KINDS.index(("MP3", "MPEG_LAYER_III"))])
    for i in range(200, len(raw), 97):
        raw[i] ^= 255
    (tmp_path / "a.mp3").write_bytes(raw[:-50])
    load_small(tmp_path / "a.mp3")
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_without_standard_error_sounds_are_read_too(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", tone(440))

    def none(number: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", none)
    assert len(load(path).x[0]) == 3000


# Runs


def test_fit_and_score_a_folder_of_recordings(tmp_path, capsys):
    for name in ("high", "low"):
        for i in range(3):
            save(tmp_path / "words" / name / f"{i}.wav", tone({"high": 1500, "low": 200}[name] + i, 800))
    save(tmp_path / "fast.flac", tone(500, 4410, 44100), 44100)
    run = str(tmp_path / "run")
    budget = ["--steps", "2", "--size", "tiny", "--threads", "1"]
    assert ended(["fit", str(tmp_path / "words"), "--conditional", *budget, "-o", run]) == 0
    assert ended(["score", run, str(tmp_path / "words"), "--json"]) == 0
    assert '"items": 6, "symbols": 4800' in capsys.readouterr().out
    assert ended(["fit", str(tmp_path / "words"), "--rate", "4000", *budget, "-o", f"{run}2"]) == 0
    capsys.readouterr()
    assert ended(["score", f"{run}2", str(tmp_path / "fast.flac"), "--json"]) == 0
    said = capsys.readouterr()
    assert '"symbols": 400' in said.out
    assert "fast.flac (44,100 samples a second)" in said.err
    assert ended(["score", f"{run}2", "digits"]) == 1
    assert "digits:test is image, the model was fitted on sound: give it sound" in capsys.readouterr().err


def ended(words: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return stop.value.code


# Named sets


@pytest.mark.data
def test_spoken_digits_and_piano_are_sounds(real_data, tmp_path):
    test = load("fsdd:test")
    assert (len(test), test.sound, test.classes[:2]) == (
        300,
        Sound(8000, "16 bit"),
        ("0 george", "0 jackson"),
    )
    assert sum(map(len, test.x)) == 1_034_030
    x = samples(test, 7)
    np.testing.assert_array_equal(samples(load(save(tmp_path / test.names[7], x))), x)
    some = test.select(slice(0, 30))
    half = load(some, bits=8, rate=4000)
    assert half.sound == Sound(4000, "mu-law")
    assert all(abs(len(x) / 2 - len(y)) <= 0.5 for x, y in zip(some.x, half.x, strict=True))
    piano = load("piano:test", sound=Sound(12000, "mu-law"))
    assert (piano.event, piano.per_sample) == ((360_000,), 1)
    assert replace(piano, source="").sound.bits == 8
