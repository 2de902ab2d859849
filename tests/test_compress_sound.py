"""Compressing sounds: every sample, and of a WAVE file every byte, comes back."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainrule import archive as container
from chainrule import packing
from chainrule.archive import FILE, LZMA, MODEL, STORED, Archive, Header, inspect
from chainrule.archive.format import CODINGS, FASTEST
from chainrule.chains.uniform import Uniform
from chainrule.chains.wavenet import WaveNet
from chainrule.data import Dataset, Sound, load, sound, wav
from chainrule.data.wav import WaveFile, WholeFile, event_of, load_wavs
from chainrule.errors import ChainruleError
from chainrule.packing import summary
from chainrule.verbs.coders import StrictCoder
from chainrule.verbs.compress import compress, decompress, extract, groups, verify
from chainrule.verbs.lanes import Lanes, lanes_of
from chainrule.verbs.sounds import Sounds
from test_archive import put_together, taken_apart
from test_compress import Markov, one_line
from test_wav import KEPT_WHOLE, UNDERSTOOD
from waves import MU_LAW, chunk, fmt, plain, riff, tone

CODING = {"16 bit": 2, "8 bit": 1, "mu-law": 1}


@pytest.fixture
def short_lanes(monkeypatch):
    """Lanes of 100 samples, blocks of 400: so short sounds are cut, too."""
    shorten(monkeypatch)


def shorten(monkeypatch) -> None:
    module = sys.modules["chainrule.verbs.compress"]
    monkeypatch.setattr(module, "SOUND_LANE", {1: 100, 2: 100})
    monkeypatch.setattr(module, "SOUND_BLOCK", 400)
    monkeypatch.setattr("chainrule.verbs.sounds.PIECE", 400)


def chain_of(coding: str, **more) -> WaveNet:
    """A small model that nobody trained."""
    torch.manual_seed(0)
    return WaveNet(channels=CODING[coding], **{**WaveNet.SIZES["tiny"], **more})


def sounds(coding: str, lengths, rate: int = 8000) -> Dataset:
    heard = Sound(rate, coding)
    x = [heard.symbols(tone(n, seed=i)[:, 0]) for i, n in enumerate(lengths)]
    return Dataset(x, 256, "sound", [f"{i}.wav" for i in range(len(x))], source="made", sound=heard)


def unpacked(path: Path, **more) -> dict[str, np.ndarray]:
    return {name: x for name, x, _ in decompress(path, **more)}


def check_arrays(path: Path, data: Dataset, **more) -> None:
    found = unpacked(path, **more)
    assert set(found) == set(data.names)
    for name, x in zip(data.names, data.x, strict=True):
        expected = np.asarray(x)
        assert (found[name].shape, found[name].dtype) == (expected.shape, np.uint8)
        assert (found[name] == expected).all(), name


def check_files(folder: Path, out: Path, names=None) -> None:
    """The same files, byte for byte."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files = files if names is None else {name: files[name] for name in names}
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert set(found) == set(files)
    for name, content in files.items():
        assert found[name] == content, name


# ---------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("coding", CODING)
def test_every_symbol_and_every_sample_comes_back(tmp_path, coding, short_lanes):
    data = sounds(coding, (431, 90, 1, 0, 250, 1200))
    report = compress(chain_of(coding), data, tmp_path / "x")
    check_arrays(tmp_path / "x", data)
    assert report.symbols == sum(map(len, data.x))
    assert report.raw_bytes == report.symbols * CODING[coding]
    assert report.unit == "bits/sample"
    assert report.bits_per_dim == pytest.approx(
        8 * (report.archive_bytes - report.model_bytes) / report.symbols
    )
    assert report.items == inspect(tmp_path / "x")["items"] == 6
    out = extract(tmp_path / "x", tmp_path / "out")
    assert {p.name for p in out} == set(data.names)
    for name, x in zip(data.names, data.x, strict=True):
        content = (tmp_path / "out" / name).read_bytes()
        if len(x):
            back, _ = read(content)
            assert (back == data.sound.samples(x)).all()
        assert int.from_bytes(content[24:28], "little") == 8000
        assert int.from_bytes(content[4:8], "little") == len(content) - 8


def read(content: bytes) -> tuple[np.ndarray, wav.Wav]:
    """The samples (T,) of a WAVE file of one channel, by libsndfile."""
    import io

    import soundfile

    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    found = wav.parse(content, len(content))
    assert found.rate == rate
    return samples, found


def test_each_code_of_mu_law_is_another_sample(tmp_path):
    """Also code 0, which no sample has: it becomes the one sample that no other code has."""
    heard = Sound(8000, "mu-law")
    data = Dataset([np.arange(256).astype(np.uint8)], 256, "sound", ["a"], sound=heard)
    compress(chain_of("mu-law"), data, tmp_path / "x")
    check_arrays(tmp_path / "x", data)
    (path,) = extract(tmp_path / "x", tmp_path / "out")
    assert path.name == "a.wav"
    samples, _ = read(path.read_bytes())
    assert len(set(samples.tolist())) == 256
    assert (heard.symbols(samples)[1:] == np.arange(1, 256)).all()
    assert samples[0] == -32768


def test_what_load_reads_of_a_restored_set_is_the_set(tmp_path):
    data = sounds("16 bit", (300, 200))
    compress(chain_of("16 bit"), data, tmp_path / "x")
    extract(tmp_path / "x", tmp_path / "out")
    again = load(tmp_path / "out")
    assert again.sound == data.sound
    assert [x.tolist() for x in again.x] == [x.tolist() for x in data.x]


def test_numbered_sounds_of_one_length_are_files_too(tmp_path):
    data = Dataset(
        np.stack([tone_symbols(50, i) for i in range(3)]), 256, "sound", ["0", "1", "2"], sound=SIXTEEN
    )
    compress(chain_of("16 bit"), data, tmp_path / "x")
    assert inspect(tmp_path / "x")["layout"] == "files"
    assert {p.name for p in extract(tmp_path / "x", tmp_path / "out")} == {"0.wav", "1.wav", "2.wav"}


SIXTEEN = Sound(8000, "16 bit")


def tone_symbols(n: int, seed: int = 0) -> np.ndarray:
    return SIXTEEN.symbols(tone(n, seed)[:, 0])


def test_the_ideal_is_minus_log_p_of_what_the_lanes_begin_anew(tmp_path, short_lanes):
    chain, data = chain_of("16 bit"), sounds("16 bit", (330,))
    report = compress(chain, data, tmp_path / "x")
    assert report.blocks == {MODEL: 1, LZMA: 0, STORED: 0}
    pieces = [torch.from_numpy(data.x[0][at : at + 110].astype(np.int64))[None] for at in range(0, 330, 110)]
    nats = -sum(float(chain.log_prob(piece).detach()) for piece in pieces)
    assert report.ideal_bits == pytest.approx(nats / np.log(2), rel=1e-4)
    rule = "lanes of at least 100 samples, each from the beginning (the samples before it, all of them)"
    assert summary(report)["context rule"] == rule
    assert "bits/sample" in summary(report)
    assert "330 samples" in summary(report)["raw"]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=7), st.integers(1, 5), st.integers(0, 12))
def test_lanes_hold_every_sample_once_and_cut_none_apart(lengths, block_items, lane):
    header = type("Header", (), {"block_items": block_items, "lane": lane, "per_sample": 2})
    items = [container.Item(str(i), (n, 2)) for i, n in enumerate(lengths)]
    arrays = [np.arange(2 * n).reshape(n, 2) + 1000 * i for i, n in enumerate(lengths)]
    lanes = Lanes(items, header)
    assert all(n % 2 == 0 for n in [*lanes.first, *lanes.length])
    assert lanes.event == (lanes.steps // 2, 2)
    for x, back in zip(arrays, lanes.scatter(lanes.gather(arrays), np.dtype(int)), strict=True):
        assert (x == back).all()


# ----------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path):
    """WAVE files of every sort, some of them more than one block long, and files that are something else."""
    root = tmp_path / "sounds"
    (root / "été").mkdir(parents=True)
    for i, (data, *_) in enumerate(UNDERSTOOD.values()):
        (root / f"{i}.wav").write_bytes(data)
    for i, data in enumerate(KEPT_WHOLE.values()):
        (root / f"other {i}").write_bytes(data[:9000])
    for channels in (1, 2, 3):
        before, after = chunk(b"JUNK", bytes(channels)), chunk(b"LIST", b"INFOmade by hand")
        data = chunk(b"data", tone(1000, channels, channels).astype("<i2").tobytes())
        (root / "été" / f"{channels}.wav").write_bytes(
            riff(before, fmt(channels=channels, rate=44100), data, after)
        )
    (root / "notes.txt").write_bytes(b"where and when")
    (root / "noise.wav").write_bytes(plain(np.random.default_rng(0).integers(-32768, 32767, 350)))
    eight = np.random.default_rng(0).integers(100, 150, 900).astype(np.uint8).tobytes()
    (root / "mu.wav").write_bytes(riff(fmt(MU_LAW, bits=8, channels=2), chunk(b"data", eight)))
    (root / "coarse.wav").write_bytes(riff(fmt(bits=8), chunk(b"data", eight)))
    return root


@pytest.mark.parametrize("coding", CODING)
def test_files_come_back_byte_for_byte(tmp_path, folder, coding, short_lanes):
    data = load_wavs(folder, Sound(8000, coding))
    chain = chain_of(coding)
    report = compress(chain, data, tmp_path / "x")
    check_arrays(tmp_path / "x", data)
    extract(tmp_path / "x", tmp_path / "out")
    check_files(folder, tmp_path / "out")
    assert verify(tmp_path / "x", deep=True) == sum(report.blocks.values())
    entries = {entry["name"]: entry for entry in inspect(tmp_path / "x")["entries"]}
    for name, event in zip(data.names, data.x, strict=True):
        assert (entries[name]["form"] == FILE) == isinstance(event, WholeFile)
        assert tuple(entries[name]["shape"]) == event.shape
        assert entries[name]["channels"] == (event.wav.channels if isinstance(event, WaveFile) else None)
    assert report.files == sum(isinstance(event, WholeFile) for event in data.x)
    assert report.symbols == sum(event.wav.samples for event in data.x if isinstance(event, WaveFile))
    assert report.raw_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if coding == "16 bit":
        assert report.blocks[MODEL] > 5


def test_the_same_bytes_with_any_number_of_threads_and_lanes_side_by_side(tmp_path, folder, short_lanes):
    data, written = load_wavs(folder, SIXTEEN), set()
    from chainrule import engine

    program = engine.program_of(chain_of("16 bit"))
    for threads, group in ((1, 3), (3, 32)):
        path = tmp_path / f"{threads}"
        coder = StrictCoder(program, group=group)
        compress(chain_of("16 bit"), data, path, threads=threads, coder=coder)
        written.add(path.read_bytes())
        extract(path, tmp_path / f"out {threads}", threads=threads)
        check_files(folder, tmp_path / f"out {threads}")
    assert len(written) == 1


def test_long_recordings_are_cut_into_blocks_that_are_read_alone(tmp_path, folder, short_lanes, monkeypatch):
    data = load_wavs(folder, SIXTEEN)
    compress(chain_of("16 bit"), data, tmp_path / "x")
    with Archive(tmp_path / "x") as archive:
        blocks = {
            n for n, block in enumerate(archive.blocks) for item in block.items if item.name == "été/2.wav"
        }
        pieces = [item for block in archive.blocks for item in block.items if item.name == "été/2.wav"]
        assert len(blocks) == len(pieces) == 2000 // 400
        assert all(len(archive.blocks[n].items) == 1 for n in blocks)
        assert {lanes_of(item, archive.header) for item in pieces} == {4}
        assert [item.part.begin for item in pieces] == [0, 400, 800, 1200, 1600]
        assert {(item.part.total, item.part.channels) for item in pieces} == {(2000, 2)}
        assert [item.head for item in pieces] == [pieces[0].part.head, 0, 0, 0, 0]
        assert [item.tail for item in pieces] == [0, 0, 0, 0, pieces[0].part.tail]
    read, payload = [], Archive.payload
    monkeypatch.setattr(Archive, "payload", lambda self, n: read.append(n) or payload(self, n))
    extract(tmp_path / "x", tmp_path / "out", only=["été/2.wav"])
    assert set(read) == blocks
    check_files(folder, tmp_path / "out", ["été/2.wav"])


def test_what_the_model_makes_longer_is_packed_apart(tmp_path, short_lanes):
    """And what shares a block with it is coded all the same."""
    chain, heard = chain_of("16 bit"), Sound(8000, "16 bit")
    noise = heard.symbols(np.random.default_rng(0).integers(-32768, 32767, 99).astype(np.int16))
    quiet = [tone_symbols(99, i) for i in range(2)]
    data = Dataset([quiet[0], noise, quiet[1]], 256, "sound", ["a", "b", "c"], sound=heard)
    report = compress(chain, data, tmp_path / "x")
    assert report.blocks[MODEL] == 1
    with Archive(tmp_path / "x") as archive:
        assert [[item.name for item in block.items] for block in archive.blocks] == [["a", "c"], ["b"]]
    check_arrays(tmp_path / "x", data)


def test_heads_of_many_files_cost_little(tmp_path):
    """Beside the samples alone, of the same names, in one block: little more than one such head, packed."""
    chain, count = chain_of("16 bit"), 60
    for i in range(count):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        (tmp_path / "sounds" / f"{i:03}.wav").write_bytes(plain(tone(80 + i * 7 % 31, i)))
    files = load_wavs(tmp_path / "sounds", SIXTEEN)
    alone = Dataset(
        [np.asarray(x) for x in files.x], 256, "sound", files.names, source=files.source, sound=SIXTEEN
    )
    sizes = [compress(chain, data, tmp_path / "x", force=True).archive_bytes for data in (files, alone)]
    assert sizes[0] - sizes[1] < 80


def test_a_recording_of_two_hours_is_planned_and_its_blocks_are_bounded(tmp_path):
    """1.3 gigabytes of zeros that the disk does not hold: of which no more is read than is asked for."""
    path, frames = tmp_path / "long.wav", 7200 * 44100
    with path.open("wb") as file:
        file.write(riff(fmt(channels=2, rate=44100), chunk(b"data", b"", 4 * frames)))
        file.truncate(44 + 4 * frames)
    event = event_of("long.wav", path, SIXTEEN, ())
    assert event.wav.frames == frames
    data = Dataset([event], 256, "sound", ["long.wav"], sound=SIXTEEN)
    header = header_for(data)
    source = Sounds(data, header)
    items = source.items(0)
    blocks = list(groups(items, range(len(items)), header))
    most = 1 << 19
    assert blocks == [[i] for i in range(len(items))]
    assert all(most - 2 < item.shape[0] < 2 * most for item in items)
    assert sum(item.shape[0] for item in items) == 2 * frames
    assert source.coded(len(items) - 1).shape == items[-1].shape


def header_for(data: Dataset) -> Header:
    from chainrule.verbs.coders import coder_of
    from chainrule.verbs.compress import header_of

    return header_of(coder_of(chain_of(data.sound.coding)), data, b"", b"", None, "files")


def test_large_files_that_are_kept_whole_are_cut_into_blocks_too(tmp_path, monkeypatch):
    monkeypatch.setattr("chainrule.verbs.sounds.BYTES_AT_ONCE", 1000)
    root = tmp_path / "sounds"
    root.mkdir()
    (root / "a.wav").write_bytes(plain(tone(99)))
    (root / "film.mov").write_bytes(np.random.default_rng(0).bytes(4321))
    data = load_wavs(root, SIXTEEN)
    report = compress(chain_of("16 bit"), data, tmp_path / "x")
    assert report.files == 1
    check_arrays(tmp_path / "x", data)
    extract(tmp_path / "x", tmp_path / "out")
    check_files(root, tmp_path / "out")


def test_a_chain_without_a_program_codes_sounds_too(tmp_path, short_lanes):
    root = tmp_path / "sounds"
    root.mkdir()
    (root / "a.wav").write_bytes(plain(tone(450, 0, 2) // 999 * 999))
    (root / "b.wav").write_bytes(plain(tone(60, 1) // 999 * 999))
    chain = Markov(256, spread=0)
    report = compress(chain, load_wavs(root, SIXTEEN), tmp_path / "x", embed=False)
    extract(tmp_path / "x", tmp_path / "out", chain)
    check_files(root, tmp_path / "out")
    assert report.blocks[LZMA] == 3


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 260), st.integers(0, 9), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_any_recordings_come_back(tmp_path_factory, short_lanes, recorded):
    root = tmp_path_factory.mktemp("any")
    for i, (channels, frames, more, listed) in enumerate(recorded):
        tail = chunk(b"LIST", bytes(more)) if listed else bytes(more)
        (root / f"{i}.wav").write_bytes(plain(tone(frames, i, channels)) + tail)
    data = load_wavs(root, SIXTEEN)
    path = tmp_path_factory.mktemp("archive") / "x"
    compress(chain_of("16 bit"), data, path)
    extract(path, path.parent / "out")
    check_files(root, path.parent / "out")


# ------------------------------------------------------------------------------------------- what is refused


def test_what_is_no_sound_of_the_model_is_said_at_once(tmp_path):
    with one_line("has the shape .*, a sound of 16 bit"):
        compress(
            chain_of("16 bit"),
            Dataset([np.zeros(9, np.uint8)], 256, "sound", ["a"], sound=SIXTEEN),
            tmp_path / "x",
        )
    with one_line("has 256 levels, the model 300"):
        compress(Markov(300), sounds("mu-law", (9,)), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An archive with a recording in three pieces, a short one, and a file that is kept whole; and what is in it."""
    path = tmp_path_factory.mktemp("small")
    root = path / "small"
    root.mkdir()
    (root / "a.wav").write_bytes(plain(tone(600, 0, 2)) + b"after")
    (root / "b.wav").write_bytes(plain(tone(99, 1)))
    (root / "c.txt").write_bytes(b"notes")
    chain = chain_of("16 bit")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shorten(monkeypatch)
        compress(chain, load_wavs(root, SIXTEEN), path / "x", embed=False)
    with Archive(path / "x") as archive:
        assert [block.coding for block in archive.blocks] == [MODEL] * 4 + [STORED]
    return (path / "x").read_bytes(), chain, root


@pytest.fixture
def small(tmp_path, made):
    """The same, in a file of one's own."""
    data, chain, root = made
    (tmp_path / "x").write_bytes(data)
    return tmp_path / "x", chain, root


def outcome(path: Path, chain, out: Path) -> dict[str, bytes] | None:
    """What an archive gives as files; None when it is refused in one line."""
    try:
        extract(path, out, chain, force=True)
    except ChainruleError as error:
        return None if len(str(error).splitlines()) == 1 else {"several lines": str(error).encode()}
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_truncation_and_changed_bytes_are_errors(small, tmp_path):
    path, chain, root = small
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        assert outcome(path, chain, tmp_path / "out") is None
    for position in range(0, len(data), 17):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert outcome(path, chain, tmp_path / "out") is None
    for file in (tmp_path / "out").iterdir():  # of blocks that are whole, before one that is not
        assert file.read_bytes() == (root / file.name).read_bytes()


def swapped(header, index):
    index["blocks"][:2] = index["blocks"][1::-1]


LIES = {
    "another rate": lambda h, i: h.update(sound_rate=44100),
    "no rate": lambda h, i: h.update(sound_rate=0),
    "a rate of text": lambda h, i: h.update(sound_rate="8000"),
    "a huge rate": lambda h, i: h.update(sound_rate=1 << 40),
    "another coding": lambda h, i: h.update(sound_coding="mu-law"),
    "no coding": lambda h, i: h.update(sound_coding=""),
    "a coding of a list": lambda h, i: h.update(sound_coding=["16 bit"]),
    "no field": lambda h, i: h.pop("sound_rate"),
    "kind": lambda h, i: h.update(kind="text"),
    "layout": lambda h, i: h.update(layout="array"),
    "dtype": lambda h, i: h.update(dtype="|i1"),
    "symbols": lambda h, i: h.update(symbols=255),
    "no ends": lambda h, i: i.pop("ends"),
    "ends of all": lambda h, i: i.update(ends=[[5, [2, 44, 5]]]),
    "other channels": lambda h, i: i["ends"].__setitem__(0, [3, [4, 44, 5]]),
    "no channels": lambda h, i: i["ends"].__setitem__(0, [3, [0, 44, 5]]),
    "one channel": lambda h, i: i["ends"].__setitem__(0, [3, [1, 44, 5]]),
    "other channels of one piece": lambda h, i: i.update(
        ends=[[2, [2, 44, 5]], [1, [1, 44, 5]], *i["ends"][1:]]
    ),
    "no file": lambda h, i: i["ends"].__setitem__(0, [3, None]),
    "a short head": lambda h, i: i["ends"].__setitem__(0, [3, [2, 43, 5]]),
    "a longer head": lambda h, i: i["ends"].__setitem__(0, [3, [2, 45, 5]]),
    "head and tail": lambda h, i: i["ends"].__setitem__(0, [3, [2, 45, 4]]),
    "a huge head": lambda h, i: i["ends"].__setitem__(0, [3, [2, 1 << 40, 5]]),
    "a large head": lambda h, i: i["ends"].__setitem__(0, [3, [2, 1 << 25, 5]]),
    "a negative tail": lambda h, i: i["ends"].__setitem__(0, [3, [2, 44, -5]]),
    "no tail": lambda h, i: i["ends"].__setitem__(0, [3, [2, 44, 0]]),
    "two numbers": lambda h, i: i["ends"].__setitem__(0, [3, [2, 44]]),
    "ends of a file": lambda h, i: i["ends"].__setitem__(-1, [1, [1, 44, 0]]),
    "bytes of ends": lambda h, i: i["blocks"][0].update(ends=1),
    "no bytes of ends": lambda h, i: i["blocks"][0].update(ends=0),
    "many bytes of ends": lambda h, i: i["blocks"][0].update(ends=1 << 40),
    "ends of a block that has none": lambda h, i: i["blocks"][1].update(ends=3),
    "ends of a raw block": lambda h, i: i["blocks"][-1].update(ends=3),
    "a block without ends": lambda h, i: i["blocks"][0].pop("ends"),
    "a piece for itself": lambda h, i: i["names"].__setitem__(1, "other"),
    "a piece of another": lambda h, i: i["names"].__setitem__(slice(2, 4), ["d", None]),
    "nothing to go on with": lambda h, i: i["names"].__setitem__(0, None),
    "a file that goes on": lambda h, i: i["names"].__setitem__(-1, None),
    "all one": lambda h, i: i.update(names=["a", *[None] * 4]),
    "pieces by number": lambda h, i: i.update(names=5),
    "a shorter piece": lambda h, i: i["shapes"].__setitem__(0, [3, [398, 2]]),
    "half a frame": lambda h, i: i["shapes"].__setitem__(0, [3, [399, 2]]),
    "bytes of samples": lambda h, i: i["shapes"].__setitem__(0, [3, [800]]),
    "three bytes": lambda h, i: i["shapes"].__setitem__(0, [3, [400, 3]]),
    "three axes": lambda h, i: i["shapes"].__setitem__(0, [3, [400, 2, 1]]),
    "no axes": lambda h, i: i["shapes"].__setitem__(0, [3, []]),
    "an empty piece": lambda h, i: i["shapes"].__setitem__(0, [3, [0, 2]]),
    "two axes of a file": lambda h, i: i["shapes"].__setitem__(-1, [1, [5, 1]]),
    "pieces in another order": swapped,
    "classes of pieces": lambda h, i: i.update(contexts=[1, 2, 1, None, None]),
    "longer lanes": lambda h, i: h.update(lane=101),
    "fewer lanes": lambda h, i: h.update(block_items=2),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_one_line(small, tmp_path, lie):
    path, chain, _ = small
    header, middle, index = taken_apart(path.read_bytes())
    before = json.dumps([header, index])
    LIES[lie](header, index)
    assert json.dumps([header, index]) != before
    path.write_bytes(put_together(header, middle, index, flags=2))
    assert outcome(path, chain, tmp_path / "out") is None


def test_put_together_without_a_lie_it_gives_what_went_in(small, tmp_path):
    """Else the test above could pass for the wrong reason."""
    path, chain, root = small
    path.write_bytes(put_together(*taken_apart(path.read_bytes()), flags=2))
    assert outcome(path, chain, tmp_path / "out") == {p.name: p.read_bytes() for p in root.iterdir()}


def test_blocks_of_a_recording_in_another_order_are_refused(small, tmp_path):
    """With the bytes of the blocks exchanged, too: every checksum is right, and each piece decodes."""
    path, chain, _ = small
    header, middle, index = taken_apart(path.read_bytes())
    ends = np.cumsum([block["bytes"] for block in index["blocks"]])
    second, third, rest = middle[ends[0] : ends[1]], middle[ends[1] : ends[2]], middle[ends[2] :]
    index["blocks"][1:3] = index["blocks"][2:0:-1]
    path.write_bytes(put_together(header, middle[: ends[0]] + third + second + rest, index, flags=2))
    assert container.verify(path) == 5  # every checksum is right
    assert outcome(path, chain, tmp_path / "out") is None


def test_a_recording_that_lacks_its_last_block_is_refused(small, tmp_path):
    path, chain, _ = small
    header, middle, index = taken_apart(path.read_bytes())
    sizes = [block["bytes"] for block in index["blocks"]]
    del index["blocks"][2], index["names"][2]
    index["shapes"][0][0] = index["ends"][0][0] = 2
    index["forms"][0][0] -= 1
    middle = middle[: sum(sizes[:2])] + middle[sum(sizes[:3]) :]
    path.write_bytes(put_together(header, middle, index, flags=2))
    assert container.verify(path) == 4  # every checksum is right
    assert outcome(path, chain, tmp_path / "out") is None


def test_sound_is_what_a_reader_must_understand(small):
    path, *_ = small
    header, middle, index = taken_apart(path.read_bytes())
    path.write_bytes(put_together(header, middle, index, flags=0))
    with one_line("damaged"):
        Archive(path)
    path.write_bytes(put_together(header, middle, index, flags=4))
    with one_line("unsupported"):
        Archive(path)


def test_the_container_knows_the_codings_that_sounds_have():
    assert sorted(CODINGS) == sorted(sound.CODINGS)
    assert FASTEST == sound.FASTEST


# ------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def run(tmp_path):
    """A run of 16 bits, which learned for three steps."""
    import chainrule

    data = sounds("16 bit", (400, 300))
    return chainrule.fit(data, "wavenet", out=tmp_path / "run", steps=3, size="tiny", holdout=0, bits=16)


def test_compressing_a_folder_says_what_was_kept_and_which_rates_differ(tmp_path, folder, run, capsys):
    data = packing.sounds(run, str(folder))
    told = capsys.readouterr().err
    assert "kept whole" in told
    assert "notes.txt (is no WAVE file of 8 or 16 bits)" in told
    packing.compress(run, data, folder, tmp_path / "x", True, False, False)
    told = " ".join(capsys.readouterr().out.split())
    assert "recordings have 44,100, 1,073,741,823 samples a second, the model learned from 8,000" in told
    assert "bits/sample" in told
    packing.decompress(tmp_path / "x", tmp_path / "out", None, None, False, True)
    check_files(folder, tmp_path / "out")


def test_a_model_of_8_bits_refuses_files_of_16_and_says_the_way_out(tmp_path, folder):
    import chainrule

    run = chainrule.fit(
        sounds("16 bit", (400,)), "wavenet", out=tmp_path / "r", steps=1, size="tiny", holdout=0, bits=8
    )
    assert run.sound == Sound(8000, "mu-law")
    with one_line("fit one with --bits 16"):
        packing.sounds(run, str(folder / "0.wav"))


def test_uniform_keeps_whatever_it_is_given(tmp_path, folder):
    """A model that knows nothing: every block is packed without it, and still every byte comes back."""
    data = load_wavs(folder, SIXTEEN)

    class Anything(Uniform):
        KINDS = ("sound",)

    report = compress(Anything(256), data, tmp_path / "x", embed=False)
    assert report.blocks[MODEL] == 0
    extract(tmp_path / "x", tmp_path / "out", Anything(256))
    check_files(folder, tmp_path / "out")
