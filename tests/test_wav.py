"""WAVE files taken apart: what is put together again is the same file, whatever it was."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainrule.data.sound import Sound, from_mu_law, mu_law
from chainrule.data.wav import (
    G711_OF,
    LEVEL_OF,
    MAX_HEAD,
    MAX_TAIL,
    Wav,
    WaveFile,
    WholeFile,
    absolute,
    event_of,
    header,
    load_wavs,
    misfit,
    parse,
    relative,
    to_bytes,
    to_symbols,
)
from chainrule.errors import ChainruleError
from waves import A_LAW, FLOAT, MU_LAW, chunk, extensible, fmt, little, plain, riff, tone

ODD = bytes(range(1, 8))


def put_together(data: bytes) -> bytes:
    """A file, by way of its samples as symbols and of its head with relative lengths; itself when not understood."""
    wav = parse(data[:MAX_HEAD], len(data))
    if wav is None:
        return data
    size = wav.samples * wav.width
    head, raw, tail = data[: wav.head], data[wav.head : wav.head + size], data[wav.head + size :]
    assert len(tail) == wav.tail
    symbols = to_symbols(raw, wav.coding, wav.channels)
    assert symbols.dtype == np.uint8
    assert symbols.shape == ((wav.samples, 2) if wav.width == 2 else (wav.samples,))
    kept = relative(head, size, len(tail))
    return absolute(kept, size, len(tail)) + to_bytes(symbols, wav.coding, wav.channels) + tail


UNDERSTOOD = {
    "plain": (plain(tone(9)), "16 bit", 1, 9),
    "one sample": (plain(tone(1)), "16 bit", 1, 1),
    "stereo": (plain(tone(9, channels=2)), "16 bit", 2, 9),
    "seven channels": (plain(tone(3, channels=7)), "16 bit", 7, 3),
    "8 bits": (riff(fmt(bits=8), chunk(b"data", ODD)), "8 bit", 1, 7),
    "8 bits, stereo": (riff(fmt(bits=8, channels=2), chunk(b"data", ODD)), "8 bit", 2, 3),
    "odd, without the pad byte": (riff(fmt(bits=8), chunk(b"data", ODD))[:-1], "8 bit", 1, 7),
    "mu-law": (riff(fmt(MU_LAW, bits=8), chunk(b"fact", bytes(4)), chunk(b"data", ODD)), "mu-law", 1, 7),
    "extensible": (riff(extensible(channels=6), chunk(b"data", little(tone(4, channels=6)))), "16 bit", 6, 4),
    "extensible mu-law": (riff(extensible(MU_LAW, bits=8), chunk(b"data", ODD)), "mu-law", 1, 7),
    "chunks before": (
        riff(chunk(b"JUNK", bytes(27)), fmt(), chunk(b"bext", b"x" * 602), chunk(b"data", little(tone(5)))),
        *("16 bit", 1, 5),
    ),
    "chunks after": (
        riff(fmt(), chunk(b"data", little(tone(5))), chunk(b"LIST", b"INFOabc"), chunk(b"id3 ", bytes(9))),
        *("16 bit", 1, 5),
    ),
    "half a sample more": (riff(fmt(), chunk(b"data", ODD)), "16 bit", 1, 3),
    "half a frame more": (riff(fmt(channels=2), chunk(b"data", ODD)), "16 bit", 2, 1),
    "streamed": (riff(fmt(), chunk(b"data", little(tone(5)), 0xFFFFFFFF), length=0xFFFFFFFF), "16 bit", 1, 5),
    "streamed, 0": (riff(fmt(), chunk(b"data", little(tone(5)), 0), length=0), "16 bit", 1, 5),
    "streamed, of a right length": (riff(fmt(), chunk(b"data", little(tone(5)), 0xFFFFFFFF)), "16 bit", 1, 5),
    "truncated": (plain(tone(50))[:90], "16 bit", 1, 23),
    "truncated within a sample": (plain(tone(50))[:91], "16 bit", 1, 23),
    "garbage after": (plain(tone(5)) + b"garbage", "16 bit", 1, 5),
    "a wrong length of the whole": (plain(tone(5), length=7), "16 bit", 1, 5),
    "two chunks of samples": (riff(fmt(), *[chunk(b"data", little(tone(3)))] * 2), "16 bit", 1, 3),
    "any rate": (plain(tone(5), rate=0xFFFFFFFF >> 2), "16 bit", 1, 5),
}


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_a_file_is_its_head_its_samples_and_its_tail(kind):
    data, coding, channels, frames = UNDERSTOOD[kind]
    wav = parse(data, len(data))
    assert (wav.coding, wav.channels, wav.frames) == (coding, channels, frames)
    assert wav.head + frames * channels * wav.width + wav.tail == len(data)
    assert put_together(data) == data


KEPT_WHOLE = {
    "nothing": b"",
    "no RIFF": b"fLaC" + bytes(100),
    "RIFX": plain(tone(5), magic=b"RIFX"),
    "RF64": riff(
        chunk(b"ds64", bytes(28)), fmt(), chunk(b"data", little(tone(5)), 0xFFFFFFFF), magic=b"RF64"
    ),
    "a film": plain(tone(5), form=b"AVI "),
    "24 bits": riff(fmt(bits=24), chunk(b"data", bytes(30))),
    "floats": riff(fmt(FLOAT, bits=32), chunk(b"data", bytes(40))),
    "A-law": riff(fmt(A_LAW, bits=8), chunk(b"data", bytes(40))),
    "ADPCM": riff(fmt(2, bits=4, align=256), chunk(b"data", bytes(512))),
    "mu-law of 16 bits": riff(fmt(MU_LAW, bits=16), chunk(b"data", bytes(40))),
    "extensible of another": riff(extensible(guid=bytes(14)), chunk(b"data", bytes(40))),
    "extensible and short": riff(fmt(0xFFFE), chunk(b"data", bytes(40))),
    "no channels": riff(fmt(channels=0), chunk(b"data", bytes(40))),
    "12 bits in 16": riff(fmt(bits=12, align=2), chunk(b"data", bytes(40))),
    "16 bits in 32": riff(fmt(bits=16, align=4), chunk(b"data", bytes(40))),
    "no form": riff(chunk(b"data", bytes(40))),
    "the form after the samples": riff(chunk(b"data", bytes(40)), fmt()),
    "two forms": riff(fmt(), fmt(), chunk(b"data", bytes(40))),
    "a short form": riff(chunk(b"fmt ", bytes(14)), chunk(b"data", bytes(40))),
    "no samples": riff(fmt(), chunk(b"data", b"")),
    "no samples but a list": riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFO")),
    "less than a sample": riff(fmt(), chunk(b"data", b"x")),
    "no chunk of samples": riff(fmt(), chunk(b"LIST", b"INFO")),
    "a chunk beyond the end": riff(fmt(), chunk(b"LIST", b"INFO", 1 << 31), chunk(b"data", bytes(40))),
    "a long head": riff(fmt(), chunk(b"JUNK", bytes(MAX_HEAD)), chunk(b"data", bytes(40))),
}


@pytest.mark.parametrize("kind", KEPT_WHOLE)
def test_what_is_not_understood_is_left_alone(kind):
    data = KEPT_WHOLE[kind]
    assert parse(data[:MAX_HEAD], len(data)) is None


def test_a_long_tail_is_left_alone():
    data = plain(tone(5))
    assert parse(data, len(data) + MAX_TAIL).tail == MAX_TAIL
    assert parse(data, len(data) + MAX_TAIL + 1) is None


def mostly(usual, *others):
    """A value that is one of the others now and then."""
    return st.sampled_from([*usual] * 5 + [*others])


LENGTHS = mostly([None], 0, 1, 5, 0xFFFFFFFF, 0x7FFFFFFF)
OTHERS = st.builds(
    chunk, mostly([b"JUNK", b"LIST"], b"data", b"fmt ", b"xxxx"), st.binary(max_size=9), LENGTHS
)


@st.composite
def files(draw):
    """WAVE files with everything that they may have, right and wrong; of some, bytes changed, put in, or cut off."""
    kind, channels = draw(st.sampled_from([fmt, extensible])), draw(mostly([1, 2, 5], 0, 0xFFFF))
    form = kind(draw(mostly([1, 7], 3)), channels, bits=draw(mostly([8, 16], 24)))
    samples = chunk(b"data", draw(st.binary(max_size=60)), draw(LENGTHS))
    before, after = (draw(st.lists(OTHERS, max_size=2)) for _ in range(2))
    data = bytearray(riff(*before, form, samples, *after, length=draw(LENGTHS)) + draw(st.binary(max_size=5)))
    for _ in range(draw(mostly([0], 1, 2, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data))) if draw(mostly([False], True)) else None])


@given(files() | st.binary(max_size=80))
@example(b"")
@settings(max_examples=600, deadline=None)
def test_any_file_is_put_together_as_it_was(data):
    assert put_together(data) == data


def test_enough_made_up_files_are_understood():
    """Else the test above would say little."""
    found = []

    @given(files())
    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    def count(data):
        found.append(parse(data, len(data)) is not None)

    count()
    assert sum(found) > len(found) / 10


@given(st.binary(min_size=44, max_size=60), st.integers(0, 2**33), st.integers(0, 2**25))
def test_relative_lengths_are_undone(head, data, tail):
    assert absolute(relative(head, data, tail), data, tail) == head


def test_the_heads_of_files_of_any_length_are_the_same():
    assert len({relative(header("16 bit", 8000, n), 2 * n, 0) for n in (1, 5, 1000, 10**9)}) == 1


@given(st.integers(1, 5), st.integers(0, 40), st.sampled_from(["16 bit", "8 bit", "mu-law"]), st.randoms())
def test_channels_follow_each_other_and_symbols_are_those_of_sound(channels, frames, coding, random):
    width = 2 if coding == "16 bit" else 1
    raw = random.randbytes(frames * channels * width)
    symbols = to_symbols(raw, coding, channels)
    assert to_bytes(symbols, coding, channels) == raw
    if coding == "16 bit":
        samples = np.frombuffer(raw, "<i2").reshape(frames, channels)
        expected = np.concatenate([Sound(8000, coding).symbols(samples[:, c]) for c in range(channels)])
        assert (symbols == expected).all()
    if coding == "8 bit":
        samples = (np.frombuffer(raw, np.uint8).reshape(frames, channels).astype(int) - 128) * 256
        expected = np.concatenate(
            [Sound(8000, coding).symbols(samples[:, c].astype(np.int16)) for c in range(channels)]
        )
        assert (symbols == expected).all()


def g711(code: int) -> int:
    """The sample that a byte of G.711 mu-law stands for: steps in eight segments, of 14 bits, here of 16."""
    inverted = ~code & 255
    steps, segment = inverted & 15, inverted >> 4 & 7
    size = ((2 * steps + 33) << segment) - 33
    return 4 * (-size if inverted & 128 else size)


def test_g711_becomes_the_codes_that_a_model_of_mu_law_knows():
    """Each byte another code; the same order; and for nearly all of them within a step of the code of its sample."""
    assert sorted(LEVEL_OF) == list(range(256))
    assert (G711_OF[LEVEL_OF] == np.arange(256)).all()
    samples = np.array([g711(code) for code in range(256)])
    assert (samples.min(), samples.max(), g711(255), g711(127)) == (-32124, 32124, 0, 0)
    by_level = samples[G711_OF[1:]]
    assert (np.diff(by_level) > 0).all()
    assert G711_OF[0] == 127
    near = np.abs(mu_law(by_level).astype(int) - np.arange(1, 256))
    assert near.max() <= 3
    assert (near <= 1).mean() > 0.6
    loud = np.abs(by_level) > 2000
    assert np.abs(from_mu_law(np.arange(1, 256))[loud] / by_level[loud] - 1).max() < 0.06


# --------------------------------------------------------------------------------------------------- folders

SIXTEEN = Sound(8000, "16 bit")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "sounds"
    (root / "a").mkdir(parents=True)
    (root / "a" / "one.wav").write_bytes(plain(tone(9)))
    (root / "a" / "two.WAV").write_bytes(plain(tone(9, channels=2), rate=44100))
    (root / "coarse.wav").write_bytes(riff(fmt(bits=8), chunk(b"data", ODD)))
    (root / "notes.txt").write_bytes(b"where and when")
    (root / ".hidden.wav").write_bytes(b"")
    (root / "empty.flac").write_bytes(b"")
    return root


def test_a_folder_is_read_exactly_and_what_cannot_be_coded_is_kept(folder):
    data = load_wavs(folder, SIXTEEN)
    assert list(data.names) == ["a/one.wav", "a/two.WAV", "coarse.wav", "empty.flac", "notes.txt"]
    assert [type(event) for event in data.x] == [WaveFile, WaveFile, WholeFile, WholeFile, WholeFile]
    assert (data.kind, data.sound, data.context) == ("sound", SIXTEEN, None)
    assert [event.shape for event in data.x] == [(9, 2), (18, 2), (7 + 45,), (0,), (14,)]
    both = SIXTEEN.samples(np.asarray(data.x[1]))
    assert (tone(9, channels=2) == both.reshape(2, 9).T).all()
    assert np.asarray(data.x[4]).tobytes() == b"where and when"
    assert "fit one to such files with --bits 8" in data.x[2].reason
    assert "no WAVE file" in data.x[4].reason


def test_what_a_model_codes_follows_from_its_coding(folder):
    names = [
        name
        for name, x in zip(*of(load_wavs(folder, Sound(8000, "8 bit"))), strict=True)
        if isinstance(x, WaveFile)
    ]
    assert names == ["coarse.wav"]
    with pytest.raises(
        ChainruleError, match=r"16 bits a sample, .* 8 bits a sample in mu-law: fit one with --bits 16"
    ):
        load_wavs(folder / "a" / "one.wav", Sound(8000, "mu-law"))
    with pytest.raises(ChainruleError, match=r"none of 5 files can be coded: .* fit one"):
        load_wavs(folder, Sound(8000, "mu-law"))
    with pytest.raises(
        ChainruleError, match=r"notes.txt is no WAVE file of 8 or 16 bits: only such are coded"
    ):
        load_wavs(folder / "notes.txt", SIXTEEN)


def of(data):
    return data.names, data.x


@pytest.mark.parametrize("coding", ["16 bit", "8 bit", "mu-law"])
@pytest.mark.parametrize("other", ["16 bit", "8 bit", "mu-law"])
def test_only_the_same_coding_fits(coding, other):
    assert bool(misfit(Wav(coding, 8000, 1, 44, 9, 0), Sound(8000, other))) == (coding != other)


def test_classes_come_from_folders(folder):
    data = load_wavs(folder, SIXTEEN, ["b", "a"])
    assert data.context.tolist()[:2] == [1, 1]
    assert data.classes == ("b", "a")
    (folder / "top.wav").write_bytes(plain(tone(9)))
    data = load_wavs(folder, SIXTEEN, ["b", "a"])
    assert "is in no folder named after a class" in data.x[-1].reason
    with pytest.raises(ChainruleError, match="named after a class, such as b"):
        load_wavs(folder / "top.wav", SIXTEEN, ["b", "a"])


def test_an_empty_folder_and_one_that_cannot_be_read(tmp_path):
    with pytest.raises(ChainruleError, match="is an empty folder"):
        load_wavs(tmp_path, SIXTEEN)
    with pytest.raises(ChainruleError, match="cannot be read"):
        load_wavs(tmp_path / "none", SIXTEEN)


def test_a_file_that_becomes_shorter_meanwhile_is_an_error(folder):
    event = event_of("one.wav", folder / "a" / "one.wav", SIXTEEN, ())
    with (folder / "a" / "one.wav").open("r+b") as file:
        file.truncate(50)
    with pytest.raises(ChainruleError, match="has become shorter while it was read"):
        np.asarray(event)


def test_parsing_a_long_file_takes_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(header("16 bit", 44100, 1 << 30))
        file.truncate(44 + (1 << 31))  # two gigabytes, of which the disk holds none
    tracemalloc.start()
    try:
        event = event_of("long.wav", path, SIXTEEN, ())
        event.part(1 << 29, (1 << 29) + 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert event.shape == (1 << 30, 2)
    assert peak < 3 * MAX_HEAD
