"""Sounds drawn, continued and scored: every file, player and number is what the model said, exactly."""

import base64
import io
import json
import math
import re
import struct
import wave
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch

import chainrule
from chainrule import complete, open_run, sample, score, store
from chainrule.chains.uniform import Uniform
from chainrule.chains.wavenet import WaveNet
from chainrule.data import Sound
from chainrule.data.dataset import Dataset
from chainrule.data.vocoder import COLUMNS, frames_of, hop_of
from chainrule.models import TABLE
from chainrule.report import heard, report, scored
from chainrule.report.heard import Heard
from chainrule.report.scored import Watch, surprise_page
from test_cli import _threads, call, good  # noqa: F401
from test_report import HOSTILE, check, chromium, in_browser, looked_at

RATE, MIDDLE = 4000, 600  # samples a second, and of a recording
VOICES = ["7 jackson", "8 theo", f"9 {HOSTILE}"]
CODINGS = {"eight": "mu-law", "sixteen": "16 bit", "linear": "8 bit", "classes": "mu-law", "spoken": "mu-law"}


def wavenet(coding, classes=0, **more):
    """A WaveNet that was fitted to nothing."""
    torch.manual_seed(1)
    channels = 2 if coding == "16 bit" else 1
    return WaveNet(256, channels=channels, classes=classes, **{**WaveNet.SIZES["tiny"], **more})


def run_at(folder, chain, coding="mu-law", **facts):
    """A folder that holds a chain over sounds, as fit leaves one."""
    folder.mkdir()
    classes = VOICES[: chain.classes]
    sound = {"rate": RATE, "coding": coding}
    known = {
        "kind": "sound",
        "data": "made up",
        "levels": 256,
        "classes": classes,
        "event": None,
        "sound": sound,
    }
    (folder / "model.safetensors").write_bytes(
        store.dump(chain, TABLE, **{**known, "length": MIDDLE, **facts})
    )
    return folder


def melody(length, rate=RATE, seed=0):
    """Samples (T,) int16: two tones, and a little noise."""
    t, noise = np.arange(length) / rate, np.random.default_rng(seed).normal(size=length)
    return np.rint(
        9000 * np.sin(2 * np.pi * 440 * t) + 4000 * np.sin(2 * np.pi * 1200 * t) + 300 * noise
    ).astype(np.int16)


def write_wav(path, samples, rate=RATE, bits=16):
    """A .wav file as the standard library writes one."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        raw = (
            samples.astype("<i2").tobytes()
            if bits == 16
            else (128 + (samples >> 8)).astype(np.uint8).tobytes()
        )
        file.writeframes(raw)
    return path


def read_wav(file):
    """(rate, samples) of a .wav file of one channel and 16 bits, as the standard library reads it."""
    with wave.open(file, "rb") as found:
        assert (found.getnchannels(), found.getsampwidth()) == (1, 2)
        return found.getframerate(), np.frombuffer(found.readframes(found.getnframes()), "<i2")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """Runs and recordings, which no test changes."""
    root = tmp_path_factory.mktemp("sounds")
    for name, coding in CODINGS.items():
        frames = {"frames": len(COLUMNS), "hop": hop_of(RATE)} if name == "spoken" else {}
        run_at(root / name, wavenet(coding, 3 * (name == "classes"), **frames), coding)
    write_wav(root / "song.wav", melody(700))
    write_wav(root / "faster.wav", melody(1400, 2 * RATE), 2 * RATE)
    write_wav(root / "coarse.wav", melody(500), bits=8)
    write_wav(root / "silence.wav", np.zeros(300, np.int16))
    (root / "story.txt").write_text("Once upon a time. " * 90)
    good(f"fit {root}/story.txt --steps 2 --size tiny --threads 1 --json -o {root}/text")
    good(f"fit digits --steps 2 --size tiny --threads 1 --json -o {root}/digits")
    return {path.stem: path for path in root.iterdir()}


def told(line, **places):
    """What a command says to programs."""
    (row,) = map(json.loads, good(f"{line} --json --threads 1", **places).splitlines())
    return row


def recordings(*lengths, coding="mu-law", names=None, classes=0):
    """A data set of melodies, the later the louder."""
    sound = Sound(RATE, coding)
    x = [sound.symbols(melody(n, seed=i) // (len(lengths) - i)) for i, n in enumerate(lengths)]
    names = names or [f"{i}.wav" for i in range(len(x))]
    context = np.arange(len(x)) % classes if classes else None
    return Dataset(x, 256, "sound", names, context, tuple(VOICES[:classes]), source="songs", sound=sound)


def players(html):
    """(rate, samples) of every player on a page."""
    found = re.findall(
        r'<audio controls preload="metadata" src="data:audio/wav;base64,([^"]*)"></audio>', html
    )
    return [read_wav(io.BytesIO(base64.b64decode(data))) for data in found]


# ---- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_wav_file_is_what_the_standard_library_writes_and_reads(length, tmp_path):
    samples = np.array([0, 1, -1, 32767, -32768, 258, -259], np.int16)[:length]
    ours = heard.wav(samples, 44100)
    assert ours == write_wav(tmp_path / "theirs.wav", samples, 44100).read_bytes()
    rate, again = read_wav(io.BytesIO(ours))
    assert (rate, again.tolist()) == (44100, samples.tolist())


@pytest.mark.parametrize("name", ["eight", "sixteen", "linear"])
def test_a_sound_is_what_the_model_draws(name, at, tmp_path):
    row = told(f"sample {{{name}}} -n 2 --length 50 --seed 3 -o {tmp_path}/a.wav", **at)
    assert row["files"] == [f"{tmp_path}/a-0.wav", f"{tmp_path}/a-1.wav"]
    told(f"sample {{{name}}} -n 2 --length 50 --seed 3 -o {tmp_path}/a.npy", **at)
    run, symbols = open_run(at[name]), np.load(tmp_path / "a.npy")
    assert symbols.shape == (2, *run.sound.shape(50))
    np.testing.assert_array_equal(symbols, sample(run.chain, 2, run.sound.shape(50), seed=3))
    for path, one in zip(row["files"], symbols, strict=True):
        rate, samples = read_wav(path)
        assert rate == RATE
        np.testing.assert_array_equal(samples, run.sound.samples(one))


def test_how_long_sounds_are(at, tmp_path):
    run_at(tmp_path / "long", wavenet("mu-law"), length=10**9)
    run_at(tmp_path / "unknown", wavenet("mu-law"), length=0)
    (tmp_path / "runs").mkdir()
    for options, length in {
        "{eight} --seconds 0.025": 100,
        "{eight} --length 33": 33,
        "{eight}": MIDDLE,
        "{unknown}": RATE,
        "{long} --temperature 0": 5 * RATE,
        "{eight} --seconds 0.00001": 1,
    }.items():
        places = {**at, "long": tmp_path / "long", "unknown": tmp_path / "unknown"}
        row = told(f"sample {options} -n 1 -o {tmp_path}/a.wav --force", **places)
        assert row["samples"] == length
        assert row["seconds"] == length / RATE
        assert row["real_time"] == pytest.approx(row["seconds"] / row["took"])
        assert len(read_wav(f"{tmp_path}/a.wav")[1]) == length


def test_people_are_told_how_fast_it_was(at, tmp_path):
    text = good(f"sample {{eight}} --seconds 0.1 -o {tmp_path}/a.wav", **at)
    assert re.search(r"^sounds +4$", text, re.MULTILINE)
    assert "0.10 s, 400 samples at 4,000 Hz" in text
    assert f"{tmp_path}/a-0.wav to a-3.wav" in text
    assert re.search(r"^speed +0\.40 s in \d+\.\d\d s, [\d.e+]+ times real time$", text, re.MULTILINE)


def test_several_files_sort_by_their_names_and_are_written_together_or_not_at_all(at, tmp_path):
    row = told(f"sample {{eight}} -n 11 --length 2 -o {tmp_path}/a.wav", **at)
    assert row["files"] == sorted(row["files"])
    assert row["files"][0].endswith("a-00.wav")
    for path in tmp_path.glob("a-0[0-8].wav"):
        path.unlink()
    result = call(f"sample {{eight}} -n 11 --length 2 -o {tmp_path}/a.wav", **at)
    assert (result.code, len(list(tmp_path.iterdir()))) == (1, 2)
    assert "a-09.wav exists" in result.err


def test_a_class_is_who_speaks(at, tmp_path):
    chain, shape = open_run(at["classes"]).chain, (40,)
    for options, context in {
        "--class '8 theo'": [1, 1, 1, 1],
        "--class 2": [2] * 4,
        "": [0, 1, 2, 0],
    }.items():
        told(f"sample {{classes}} --length 40 {options} -o {tmp_path}/a.npy --force", **at)
        wanted = sample(chain, 4, shape, torch.tensor(context))
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), wanted)


# ---- completions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eight", "sixteen"])
def test_the_beginning_stays_and_the_model_goes_on(name, at, tmp_path):
    run, x = open_run(at[name]), melody(700)
    symbols = run.sound.symbols(x)
    for options, given, length in [
        ("", 350, 700),
        ("--keep top:0.1 -n 2", 70, 700),
        ("--keep top:0.5 --seconds 0.01 -n 2", 350, 390),
        ("--keep top:0.5 --length 9 -n 1", 350, 359),
        ("--keep top:0 --length 9 -n 1", 0, 9),
        ("--keep top:1 -n 1", 700, 700 + MIDDLE),
    ]:
        row = told(f"complete {{{name}}} {{song}} {options} -o {tmp_path}/a.wav --force", **at)
        n = row["completions"]
        assert n == int((re.search(r"-n (\d)", options) or [0, 3])[1])
        begun = np.zeros(run.sound.shape(length), np.int64)
        begun[:given] = symbols[:given]
        known = np.zeros(begun.shape, bool)
        known[:given] = True
        wanted = complete(run.chain, begun, known, n)
        for path, one in zip(row["files"], wanted, strict=True):
            rate, samples = read_wav(path)
            assert (rate, len(samples), row["given"]) == (RATE, length, given)
            np.testing.assert_array_equal(samples, run.sound.samples(one))
            np.testing.assert_array_equal(samples[:given], run.sound.samples(symbols[:given]))
        assert row["seconds"] == pytest.approx(n * (length - given) / RATE)


@pytest.mark.parametrize("name", ["eight", "sixteen", "linear"])
@pytest.mark.parametrize("file", ["faster", "coarse", "silence"])
def test_any_recording_can_be_continued(name, file, at, tmp_path):
    row = told(f"complete {{{name}}} {{{file}}} -n 1 -o {tmp_path}/a.wav", **at)
    rate, samples = read_wav(*row["files"])
    assert rate == RATE
    assert len(samples) == row["samples"] == {"faster": 700, "coarse": 500, "silence": 300}[file]
    if file == "silence":
        assert not samples[: row["given"]].any()
    if file == "coarse" and name != "eight":  # what 8 linear bits tell is known exactly, in whatever coding
        np.testing.assert_array_equal(samples[: row["given"]], (melody(500) >> 8 << 8)[: row["given"]])


def test_a_model_of_frames_says_a_recording_again(at, tmp_path):
    run = open_run(at["spoken"])
    x = run.sound.symbols(melody(700))
    (frames,) = frames_of(Dataset([x], 256, "sound", sound=run.sound))
    context, most = torch.from_numpy(frames)[None], len(frames) * hop_of(RATE)
    row = told(
        f"sample {{spoken}} --source-file {{song}} -n 1 -o {tmp_path}/a.wav --page {tmp_path}/a.html", **at
    )
    assert row["samples"] == most >= 700
    wanted = sample(run.chain, 1, (most,), context)
    np.testing.assert_array_equal(read_wav(*row["files"])[1], run.sound.samples(wanted[0]))
    assert "--source-file" in check((tmp_path / "a.html").read_text(encoding="utf-8")).seen
    row = told(f"complete {{spoken}} {{song}} -n 1 -o {tmp_path}/b.wav", **at)
    wanted = complete(run.chain, x.astype(np.int64), np.arange(700) < 350, 1, context)
    np.testing.assert_array_equal(read_wav(*row["files"])[1], run.sound.samples(wanted[0]))
    data = recordings(300, 340)
    data = replace(data, sources=frames_of(data))
    html = report(run, tmp_path, data).read_text(encoding="utf-8")
    assert "Recordings, and the same said by the model" in check(html).seen
    (_, real), (_, drawn) = players(html)[:2]
    wanted = sample(run.chain, 1, (300,), torch.from_numpy(data.sources[0])[None])
    np.testing.assert_array_equal(real, data.sound.samples(data.x[0]))
    np.testing.assert_array_equal(drawn, run.sound.samples(wanted[0]))


# ---- scores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coding", "bits"), [("mu-law", 8.0), ("8 bit", 8.0), ("16 bit", 16.0)])
def test_a_score_is_counted_by_samples(coding, bits):
    data = recordings(30, 50, coding=coding)
    found = score(Uniform(256), data)
    assert found.unit == "bits/sample"
    assert found.symbols.tolist() == [30, 50]
    assert found.bits_per_dim == pytest.approx(bits)
    np.testing.assert_allclose(found.each(), bits)


@pytest.mark.parametrize("name", ["eight", "sixteen"])
def test_training_and_scores_say_the_same_unit(name, tmp_path):
    coding, bits = CODINGS[name], 16 if name == "sixteen" else 8
    data = recordings(*[40] * 30, coding=coding)
    run = chainrule.fit(data, "uniform", out=tmp_path / name, steps=1, bits=bits)
    assert run.info["length"] == 40
    assert run.info["held_out"]["bits_per_dim"] == pytest.approx(bits)
    same = replace(data, x=[data.x[0]] * 30)
    options = {"steps": 1, "size": "tiny", "batch": 2, "lr": 1e-9}  # nothing is learned
    wave = chainrule.fit(same, out=tmp_path / f"wave {name}", bits=bits, **options)
    (first, *_) = wave.metrics()
    assert first["val_bits"] == pytest.approx(wave.info["held_out"]["bits_per_dim"])
    assert first["loss_bits"] == pytest.approx(first["val_bits"], rel=0.15)  # of other stretches of the same
    assert "bits/sample" in chainrule.console.told(first, chainrule.console.unit_in(wave.info))


def test_the_command_line_says_bits_a_sample(at, tmp_path):
    for name in ("eight", "sixteen"):
        rows = list(map(json.loads, good(f"score {{{name}}} {{song}} --json", **at).splitlines()))
        total, run = rows[0]["total"], open_run(at[name])
        event = torch.tensor(run.sound.symbols(melody(700)).astype(np.int64))[None]
        nats = -float(run.chain.log_prob(event).detach())
        assert (total["unit"], total["symbols"]) == ("bits/sample", 700)
        assert total["bits_per_dim"] == pytest.approx(nats / math.log(2) / 700)
        assert f"{total['bits_per_dim']:.4f} bits/sample over 1 items" in good(
            f"score {{{name}}} {{song}}", **at
        )


# ---- pages ---------------------------------------------------------------------------------------------


def page_of(chain, data):
    """(page, scores, what was heard) of a scoring."""
    watch = Watch(data)
    scores = score(chain, data, hear=watch)
    run = chainrule.models.Run(None, chain, {"model": "made-up", "kind": "sound", "data": "somewhere"})
    return surprise_page(run, data, scores, watch, ["chainrule", "score"]), scores, watch


@pytest.mark.parametrize("coding", ["mu-law", "16 bit"])
def test_the_page_of_a_scoring_lets_the_most_and_least_surprising_be_heard(coding):
    chain, data = wavenet(coding), recordings(*range(200, 320, 10), coding=coding)
    html, scores, watch = page_of(chain, data)
    found = check(html)
    order = np.argsort(-scores.each(), kind="stable").tolist()
    shown = [*order[:4], *order[:-5:-1]]
    assert [part.item for part in watch.beginnings() + watch.least()] == shown
    for item, (rate, samples) in zip(shown, players(html), strict=True):
        assert rate == RATE
        np.testing.assert_array_equal(samples, data.sound.samples(data.x[item]))
    numbers = re.findall(r"<figcaption><b>([\d.]+)</b> (\d+).wav", html)
    assert numbers == [(f"{scores.each()[i]:.3f}", str(i)) for i in shown]
    assert "4 recordings between these are not shown" in found.seen
    assert f"{scores.bits_per_dim:.4f} bits/sample, exact" in found.seen


@pytest.mark.parametrize("coding", ["mu-law", "16 bit"])
def test_the_surprise_over_time_is_the_score(coding):
    chain, data = wavenet(coding), recordings(90, 120, coding=coding)
    quiet = score(chain, data)
    _, scores, watch = page_of(chain, data)
    np.testing.assert_array_equal(scores.nats, quiet.nats)
    for part in watch.beginnings() + watch.least():
        assert len(part.bits) == len(data.x[part.item])
        assert part.bits.sum() == pytest.approx(scores.nats[part.item] / math.log(2))


def test_few_recordings_stand_on_the_page_once():
    for n in (1, 2, 3, 8, 9):
        _, _, watch = page_of(Uniform(256), recordings(*range(20, 20 + n)))
        shown = [part.item for part in watch.beginnings() + watch.least()]
        assert len(shown) == len(set(shown)) == min(n, 8)


def test_of_a_long_recording_the_most_surprising_passages_are_shown(monkeypatch):
    monkeypatch.setattr(heard, "LONGEST", 0.3)  # 1,200 samples, of which a passage has a third
    sound, x = Sound(RATE, "16 bit"), np.zeros(8000, np.int16)
    x[3000:3400] = np.random.default_rng(0).integers(-(2**15), 2**15, 400)
    data = Dataset([sound.symbols(x)], 256, "sound", ["long.wav"], source="songs", sound=sound)
    html, _, watch = page_of(wavenet("16 bit"), data)
    seen = check(html).seen
    passages = watch.beginnings()
    assert abs(passages[0].start - 3000) <= 200
    assert watch.course.argmax() == pytest.approx(3200 / 8000 * len(watch.course), abs=5)
    assert "Along the recording" in seen
    start, needs = passages[0].start / RATE, passages[0].bits.mean()
    assert f"{needs:.3f} second {start:.1f} to {start + 0.1:.1f}, 0.10 s" in seen
    assert len(passages) == 4
    assert "are left out" not in seen
    np.testing.assert_array_equal(players(html)[0][1], x[passages[0].start :][:400])


def test_of_long_recordings_the_part_is_shown_that_made_them_surprising(monkeypatch):
    monkeypatch.setattr(heard, "LONGEST", 0.1)
    sound, x = Sound(RATE, "16 bit"), np.zeros((3, 2000), np.int16)
    x[1, 800:1200] = np.random.default_rng(0).integers(-(2**15), 2**15, 400)
    data = Dataset(sound.symbols(x), 256, "sound", list("abc"), source="songs", sound=sound)
    html, _, watch = page_of(wavenet("16 bit"), data)
    assert next((part.item, part.start) for part in watch.beginnings()) == (1, 800)
    assert "the other 0.4 s are left out" in check(html).seen


@pytest.mark.parametrize("name", ["classes", "sixteen"])
def test_the_page_of_samples_plays_them(name, at, tmp_path):
    row = told(f"sample {{{name}}} -n 3 --length 90 -o {tmp_path}/a.wav --page {tmp_path}/a.html", **at)
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    found = check(html)
    for path, (rate, samples) in zip(row["files"], players(html), strict=True):
        assert rate == RATE
        np.testing.assert_array_equal(samples, read_wav(path)[1])
    assert ("<script>alert('x')</script>" in found.seen) == (name == "classes")  # of the third class
    assert f"chainrule sample {at[name]} -n 3" in found.seen


def test_pages_hold_so_many_samples_and_say_what_is_left_out(monkeypatch, at, tmp_path):
    monkeypatch.setattr(heard, "ROOM", 250)
    monkeypatch.setattr(heard, "LONGEST", 0.02)  # 80 samples
    told(f"sample {{eight}} -n 6 --length 90 -o {tmp_path}/a.wav --page {tmp_path}/a.html", **at)
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert [len(samples) for _, samples in players(html)] == [80, 80, 80]
    seen = check(html).seen
    assert "3 further sounds are not shown here" in seen
    told(f"complete {{eight}} {{song}} -n 1 -o {tmp_path}/b.wav --page {tmp_path}/b.html", **at)
    (_, real), (_, drawn) = players((tmp_path / "b.html").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(
        drawn, read_wav(f"{tmp_path}/b.wav")[1][310:390]
    )  # around the end of what was given
    np.testing.assert_array_equal(drawn[:40], real[:40])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_even_the_shortest_sounds_have_a_page(length):
    html, *_ = page_of(Uniform(256), recordings(length, length))
    check(html)
    assert [len(samples) for _, samples in players(html)] == [length, length]


@pytest.mark.parametrize(("name", "classes"), [("sixteen", 0), ("classes", 3)])
def test_the_report_of_a_sound_run(name, classes, at, tmp_path):
    run = open_run(at[name])
    names = [f"{HOSTILE}{i}" for i in range(9)]
    data = recordings(*range(300, 390, 10), coding=CODINGS[name], classes=classes, names=names)
    made = []
    html = report(run, tmp_path, data, made.append).read_text(encoding="utf-8")
    found = check(html)
    assert made == ["samples", "completions", "surprise", "scores", "training", "codecs", "facts"]
    for heading in (
        "Samples beside real recordings", "Completions", "Most surprising", "Least surprising",
        "Bits/sample of each item", "Beside other codecs", "Facts",
    ):  # fmt: skip
        assert heading in found.seen
    bits = score(run.chain, data).bits_per_dim
    assert f"{bits:.4f} bits/sample, exact" in found.seen
    assert f"{bits:.3f}\xa0bits/sample" in found.seen  # the model's bar
    every = players(html)
    assert len(every) == 6 + 8 + 8
    (_, first), (_, drawn) = every[:2]
    np.testing.assert_array_equal(first, data.sound.samples(data.x[0]))
    context = torch.tensor([0, 1, 2]) if classes else None  # the classes of recordings 0, 4 and 8
    wanted = sample(run.chain, 3, run.sound.shape(MIDDLE), context)
    np.testing.assert_array_equal(drawn, run.sound.samples(wanted[0]))
    for _, completed in every[7:10]:
        np.testing.assert_array_equal(completed[:150], first[:150])
        assert (completed[150:] != first[150:]).any()


def test_what_would_take_too_long_is_told_instead_of_drawn(at, tmp_path, monkeypatch):
    monkeypatch.setattr("chainrule.report.PATIENCE", 0.0)
    html = report(open_run(at["eight"]), tmp_path, recordings(50, 60)).read_text(encoding="utf-8")
    assert "Drawing these would take more than" in check(html).seen
    assert len(players(html)) == 2


# ---- one line for every mistake ------------------------------------------------------------------------

MISTAKES = {
    "sample {eight} --event 8x8": "--event 8x8 is for images: of a sound say --seconds",
    "sample {eight} --prompt Once": "chainrule complete goes on with a recording",
    "sample {eight} --beam 3": "--beam 3 is for texts",
    "sample {eight} --length 9 --seconds 1": "leave one of them out",
    "sample {eight} --seconds 0": "take more than 0",
    "sample {eight} --seconds 1e9": "take more than 0, and at most 16,777",
    "sample {eight} -n 100000 --seconds 1": "ask for at most 16,777",
    "sample {sixteen} -n 2 --seconds 12000": "are too much at once, ask for shorter ones",
    "sample {eight} --class 7": "the model is not conditional",
    "sample {classes} --class jackson": "the model has 7 jackson, 8 theo",
    "sample {eight} --source-file {song}": "conditioned on frames",
    "sample {spoken}": "give it one with --source-file",
    "sample {spoken} --source-file {song} --class 7": "the model is not conditional",
    "sample {spoken} --source-file {song} --seconds 9": "ask for at most ",
    "complete {spoken} {song} --keep top:1": "ask for at most ",
    "sample {eight} -o {tmp}/a.mp3": "must end in .wav or .npy",
    "sample {eight} -o {tmp}/no/a.wav": "make it first",
    "sample {eight} -n 1 -o {song}": "overwrite it with --force",
    "sample {eight} --page {tmp}/a.txt": "must end in .html",
    "sample {text} --seconds 3": "--seconds 3.0 is for sounds",
    "sample {digits} --seconds 3 --event 8x8": "--seconds 3.0 is for sounds",
    "sample {digits} --length 3 --event 8x8": "is for texts and sounds",
    "sample {digits} --page {tmp}/a.html --event 8x8": "leave it out",
    "complete {eight} {song} --mask {song}": "is for images: of a sound the beginning is given",
    "complete {eight} {song} --keep 3": "write top:SHARE",
    "complete {eight} {story}": "is text",
    "complete {eight} {tmp}/none.wav": "neither a file nor a folder",
    "complete {text} {story} --seconds 3": "is for sounds",
    "complete {text} {story} --page {tmp}/a.html": "is for sounds",
    "complete {text} {song}": "is sound",
    "score {eight} {story}": "is text",
    "score {text} {song}": "the model takes text",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(line, at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(line, tmp=tmp_path, **at)
    assert (result.code, result.out) == (1, ""), result
    (error,) = result.err.splitlines()
    assert error.startswith("error: ")
    assert MISTAKES[line] in error
    assert not list(tmp_path.iterdir())


# ---- in a browser --------------------------------------------------------------------------------------


@in_browser
def test_a_browser_can_play_every_sound_and_the_page_fits_the_screen(tmp_path):
    html, *_ = page_of(wavenet("16 bit"), recordings(*[2000] * 3, coding="16 bit", names=[HOSTILE, "b", "c"]))
    for width in (390, 1200):
        answer = looked_at(html, width, tmp_path)
        assert answer["width"] <= width
        assert answer["images"] == answer["loaded"]
        assert answer["asked"] == 0
    asks = """<script>onload = () => setTimeout(() => { document.title = JSON.stringify([...document.querySelectorAll(
      "audio")].map(a => [a.duration, a.error && a.error.code])) }, 1000)</script>"""
    (tmp_path / "page.html").write_text(html.replace("</body>", f"{asks}</body>"), encoding="utf-8")
    dom = chromium(tmp_path, tmp_path / "page.html", "--dump-dom", "--virtual-time-budget=5000")
    found = json.loads(unescape(re.search(r"<title>(.*?)</title>", dom).group(1)))
    assert found == [[0.5, None]] * 3


def test_a_sound_that_is_shown_in_part_says_so():
    long = Heard(np.zeros(100_000, np.int16), 8000, given=50_000)
    short = heard.shortened(long)
    assert (len(short.samples), short.given, short.start, short.left) == (64_000, 32_000, 18_000 / 8000, 4.5)
    assert heard.shortened(short) is short
    assert struct.unpack("<I", heard.wav(short.samples, 8000)[40:44]) == (128_000,)
    assert scored.SOUNDS * 2 * heard.SAMPLES <= heard.ROOM
