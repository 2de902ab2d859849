"""The command line as a user meets it: every command, its exit codes, and one line for every mistake."""

import codecs
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chainrule import open_run, output, sample, store
from chainrule.cli import app, main
from chainrule.models import TABLE

TINY = "--steps 3 --size tiny --threads 1"
STORY = "Once upon a time there was a file, and the file was learned by heart. " * 40


@pytest.fixture(scope="module", autouse=True)
def _threads():
    """--threads is for the whole process: what follows this file has as many as before."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(before)
    os.environ.pop("OMP_NUM_THREADS")
    if variable is not None:
        os.environ["OMP_NUM_THREADS"] = variable


def call(line, **places):
    """Run a command line in this process; {names} in it stand for paths. Gives code, out, err."""
    words = [word.format(**places) for word in shlex.split(line)]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(words)
    return SimpleNamespace(code=stop.value.code, out=out.getvalue(), err=err.getvalue())


def good(line, **places):
    """Like `call`, for a line that must succeed: gives what it printed."""
    result = call(line, **places)
    assert (result.code, result.err) == (0, ""), f"{line}: {result}"
    return result.out


def process(line, **more):
    """The same as a process of its own."""
    command = [sys.executable, "-c", "from chainrule.cli import main; main()", *shlex.split(line)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


NAMES = [
    *["digits", "classes", "colours", "text", "pca"],  # runs
    *["unfinished", "torn", "cut", "damaged", "junk.safetensors"],  # runs that are none
    *["story.txt", "photo.png", "rgb.png", "wide.png", "photos", "few.npy", "deep.npy", "small.npy"],
    *["packed.chain", "apart.chain", "codes.npy", "page.html"],
]


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """Fitted models, files and damaged files, made once; none of them is changed by a test."""
    root = tmp_path_factory.mktemp("command line")  # with a space
    at = {name: root / name for name in NAMES}
    at["story.txt"].write_text(STORY)
    at["page.html"].write_text("somebody's page")
    make_pictures(at)
    good(f"fit digits {TINY} --json -o {{digits}}", **at)
    good(f"fit digits {TINY} --json --conditional -o {{classes}}", **at)
    good(f"fit {{photos}} {TINY} --json -o {{colours}}", **at)
    good(f"fit {{story}} {TINY} --json --set width=12 -o {{text}}", story=at["story.txt"], **at)
    good("fit digits --model pca --size tiny --json --threads 1 -o {pca}", **at)
    good("compress {digits} {few} -o {packed} --json", few=at["few.npy"], packed=at["packed.chain"], **at)
    good("compress {digits} {f} -o {a} --no-embed", f=at["few.npy"], a=at["apart.chain"], **at)
    good("encode {pca} digits -o {codes}", codes=at["codes.npy"], **at)
    make_damage(at)
    return {name.partition(".")[0]: path for name, path in at.items()}


def make_pictures(at):
    """Small pictures and arrays."""
    draw = np.random.default_rng(0)
    at["photos"].mkdir()
    for i in range(12):
        Image.fromarray(draw.integers(0, 256, (6, 7, 3), np.uint8)).save(at["photos"] / f"photo {i}.png")
    Image.fromarray(draw.integers(0, 17, (8, 8), np.uint8)).save(at["photo.png"])
    Image.fromarray(draw.integers(0, 17, (8, 8, 3), np.uint8)).save(at["rgb.png"])
    Image.fromarray(np.full((5, 9), 255, np.uint8)).save(at["wide.png"])
    np.save(at["few.npy"], draw.integers(0, 17, (20, 8, 8, 1), np.uint8))
    np.save(at["small.npy"], draw.integers(0, 17, (4, 5, 5, 1), np.uint8))
    np.save(at["deep.npy"], draw.integers(0, 17, (4, 8, 8, 1), np.uint8) + 3)


def make_damage(at):
    """Runs that were interrupted, torn, and damaged."""
    for name in ("unfinished", "torn"):
        shutil.copytree(at["digits"], at[name])
        (at[name] / "model.safetensors").unlink()
    (at["torn"] / "run.json").write_text('{"model": "gated-pix')
    model = (at["digits"] / "model.safetensors").read_bytes()
    at["cut"].mkdir()
    (at["cut"] / "model.safetensors").write_bytes(model[:-100])
    at["damaged"].mkdir()
    (at["damaged"] / "model.safetensors").write_bytes(model[:8] + b"{" * (len(model) - 8))
    at["junk.safetensors"].write_bytes(b"\x80\x04\x95 this is no model at all")


# ---- every command -----------------------------------------------------------------------------------------

COMMANDS = {
    "fit": f"fit digits {TINY} -o {{tmp}}/run",
    "score": "score {digits} digits --top 2",
    "sample": "sample {digits} -n 4 --event 8x8 -o {tmp}/drawn.png",
    "complete": "complete {digits} {photo} -n 2 -o {tmp}/completed.png",
    "compress": "compress {digits} {few} -o {tmp}/few.chain",
    "decompress": "decompress {packed} -o {tmp}/out",
    "inspect": "inspect {packed}",
    "verify": "verify {packed}",
    "encode": "encode {pca} digits -o {tmp}/codes.npy",
    "decode": "decode {pca} {codes} -o {tmp}/decoded.png",
    "probe": "probe {pca} digits --labels 10 --labels 40 --seeds 2",
    "report": "report {pca} -o {tmp}/report",
    "models": "models",
    "data": "data",
    "lecture": "lecture",
}


def test_every_command_is_tried_here():
    listed = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert listed == {*COMMANDS, "tour"}
    text = good("--help")
    assert all(f" {name} " in text for name in listed)


@pytest.mark.parametrize("name", [*COMMANDS, "tour"])
def test_every_command_explains_itself(name):
    text = good(f"{name} --help")
    assert "Usage:" in text
    assert "--json" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_object_a_line_and_nothing_else(name, places, tmp_path):
    lines = good(f"{COMMANDS[name]} --json", tmp=tmp_path, **places).splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_people_get_words_and_no_control_characters(name, places, tmp_path):
    result = call(COMMANDS[name], tmp=tmp_path, **places)
    assert result.code == 0
    assert result.out.strip()
    assert (result.out + result.err).replace("\n", "").isprintable()
    assert not result.out.lstrip().startswith("{")
    assert all(line.startswith("step ") for line in result.err.splitlines())  # progress of fit


# ---- what they do ------------------------------------------------------------------------------------------


def test_score_is_a_total_and_every_item_the_most_surprising_first(places):
    total, *items = map(json.loads, good("score {digits} {few} --json", **places).splitlines())
    surprise = [item["bits_per_dim"] for item in items]
    assert total["total"]["items"] == len(items) == 20
    assert total["total"]["exact"] is True
    assert surprise == sorted(surprise, reverse=True)
    assert np.isclose(np.mean(surprise), total["total"]["bits_per_dim"])
    assert total["total"]["context_rule"] == "whole event: the symbols before it"


def test_a_score_states_its_context_rule(places):
    rule = "carried state: all symbols before it"
    assert f"context rule  {rule}\n" in good("score {text} {story}", **places)
    (total, _) = map(json.loads, good("score {text} {story} --json", **places).splitlines())
    assert total["total"]["context_rule"] == rule


@pytest.mark.parametrize(("run", "data"), [("text", "story"), ("digits", "few"), ("colours", "photos")])
def test_a_page_comes_with_the_same_numbers(run, data, places, tmp_path):
    line = f"score {{{run}}} {{{data}}} --json"
    without, *items = map(json.loads, good(line, **places).splitlines())
    page = tmp_path / "the page.html"
    total, *same = map(json.loads, good(f"{line} --page {{here}}", here=page, **places).splitlines())
    assert total["total"].pop("page") == str(page)
    assert (total, same) == (without, items)
    written = page.read_bytes()
    assert f"{total['total']['bits_per_dim']:.4f}".encode() in written
    assert call(f"{line} --page {{here}}", here=page, **places).code == 1
    assert good(f"score {{{run}}} {{{data}}} --page {{here}} --force", here=page, **places).endswith(
        "page.html\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["the page.html"]
    assert page.read_bytes() == written


def test_samples_have_the_size_asked_for_and_follow_the_seed(places, tmp_path):
    line = "sample {digits} -n 3 --event 5x6 -o {tmp}/{name}.npy --seed {seed}"
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        good(line, tmp=tmp_path, name=name, seed=seed, **places)
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert a.shape == (3, 5, 6, 1)
    assert (a == b).all()
    assert (a != c).any()


def test_a_class_is_a_name_or_a_number_and_without_one_all_come_in_turn(places, tmp_path):
    chain = open_run(places["classes"]).chain
    in_turn, sevens = torch.arange(20) % 10, torch.full((20,), 7)
    for options, context in [("", in_turn), ("--class 7", sevens)]:
        good(f"sample {{classes}} -n 20 {options} -o {{tmp}}/s.npy --force", tmp=tmp_path, **places)
        assert (np.load(tmp_path / "s.npy") == sample(chain, 20, (8, 8, 1), context)).all()
    assert (sample(chain, 20, (8, 8, 1), in_turn) != sample(chain, 20, (8, 8, 1), sevens)).any()


def test_one_text_is_printed_and_nothing_but_it(places):
    line = "sample {text} --prompt 'Once ü' --length 40 --seed 3"
    (row,) = map(json.loads, good(f"{line} --json", **places).splitlines())
    assert good(line, **places) == row["text"] + "\n"
    assert row["text"].startswith("Once ü")


class Terminal(io.StringIO):
    """A screen that remembers what had been shown at every flush."""

    def __init__(self):
        super().__init__()
        self.frames = []

    def isatty(self):
        return True

    def flush(self):
        self.frames.append(self.getvalue())


def shown_in_a_terminal(monkeypatch, *parts, stop=False):
    """(exit code, frames, standard error) of a text that is written in these parts."""

    def stream(chain, x, known, context, **options):
        yield from (np.frombuffer(part, np.uint8).astype(np.int64) for part in parts)
        if stop:
            raise KeyboardInterrupt

    def show(run):
        screen, err = Terminal(), io.StringIO()
        monkeypatch.setattr("chainrule.output.stream", stream)
        with (
            contextlib.redirect_stdout(screen),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            main(["sample", str(run), "--length", str(sum(map(len, parts)))])
        return end.value.code, list(dict.fromkeys(screen.frames)), err.getvalue()

    return show


def test_a_text_is_shown_while_it_is_written_in_whole_characters(places, monkeypatch):
    text = "añ\x1b[31m数👩\r\n".encode()
    show = shown_in_a_terminal(monkeypatch, *(text[i : i + 1] for i in range(len(text))))
    code, frames, err = show(places["text"])
    assert (code, err) == (0, "")
    assert frames[:4] == ["a", "añ", "añ\\x1b", "añ\\x1b["]
    assert frames[-1] == "añ\\x1b[31m数👩\\r\n\n"
    assert all(after.startswith(before) for before, after in pairwise(frames))


def test_a_character_that_never_ends_is_marked(places, monkeypatch):
    code, frames, _ = shown_in_a_terminal(monkeypatch, b"a", b"\xe6", b"\x95")(places["text"])
    assert (code, frames[-1]) == (0, "a\ufffd\n")


def test_ctrl_c_leaves_what_was_written(places, monkeypatch):
    code, frames, err = shown_in_a_terminal(monkeypatch, b"to be or\n", b"not\xe6", stop=True)(places["text"])
    assert (code, err) == (130, "stopped: after 13 of 13 bytes\n")
    assert frames == ["to be or\n", "to be or\nnot", "to be or\nnot\n"]


@given(st.lists(st.binary(max_size=6), max_size=8))
@settings(max_examples=60, deadline=None)
def test_bytes_in_any_parts_are_the_text_that_they_are_together(parts):
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    shown = "".join(output.legible(decode(part)) for part in parts) + output.legible(decode(b"", final=True))
    assert shown == output.legible(b"".join(parts).decode(errors="replace"))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_ctrl_c_in_a_terminal_ends_the_text_without_a_traceback(places):
    import pty

    ours, theirs = pty.openpty()
    line = f"sample {shlex.quote(str(places['text']))} --prompt Once --length 10000000 --threads 1"
    heard = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell may have muted it
    )
    command = [sys.executable, "-c", f"{heard}; from chainrule.cli import main; main()", *shlex.split(line)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True) as running:
        os.close(theirs)
        seen = b""
        while len(seen) < 2000:
            seen += os.read(ours, 4096)
        running.send_signal(signal.SIGINT)
        while part := read_or_nothing(ours):
            seen += part
        errors = running.stderr.read()
    os.close(ours)
    assert running.returncode == 130
    assert seen.startswith(b"Once")
    reset = b"\x1b[0m"  # where colorama is installed, numba lets it set back the colours of the terminal at the end
    assert seen.removesuffix(reset).endswith(b"\n")
    assert errors.splitlines()[-1].startswith("stopped: after ")
    assert "Traceback" not in errors


def read_or_nothing(descriptor):
    """What comes next from a terminal; nothing when the other side is gone, which Linux calls an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_one_completion_of_a_text_is_shown_as_it_comes_too(places):
    line = "complete {text} {story} -n 1 --keep top:0.01 --length 30"
    (row,) = map(json.loads, good(f"{line} --json", **places).splitlines())
    assert good(line, **places) == row["text"] + "\n"


def test_a_prompt_may_be_any_bytes(places, tmp_path):
    good("sample {text} --prompt {p} --length 9 -o {tmp}/t.npy", p="\udcff\udc80", tmp=tmp_path, **places)
    assert np.load(tmp_path / "t.npy")[0, :2].tolist() == [0xFF, 0x80]
    assert np.load(tmp_path / "t.npy").shape == (1, 11)


def test_several_texts_stand_apart(places, tmp_path):
    line = "sample {text} -n 2 --length 9 --seed 5"
    first, second = (json.loads(r)["text"] for r in good(f"{line} --json", **places).splitlines())
    assert good(line, **places) == f"{first}\n\n{second}\n\n"
    good(f"{line} -o {{tmp}}/t.txt", tmp=tmp_path, **places)
    assert (tmp_path / "t.txt").read_bytes().decode(errors="replace") == f"{first}\n\n{second}"


def test_the_part_that_is_given_stays(places, tmp_path):
    pixels = np.asarray(Image.open(places["photo"]))[..., None]
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for name, option in [("half", ""), ("quarter", "--keep top:0.25"), ("mask", "--mask {tmp}/mask.png")]:
        good(f"complete {{digits}} {{photo}} {option} -n 3 -o {{tmp}}/{name}.npy", tmp=tmp_path, **places)
        found = np.load(tmp_path / f"{name}.npy")
        known = {"half": np.arange(8)[:, None] < 4, "quarter": np.arange(8)[:, None] < 2, "mask": mask > 0}[
            name
        ]
        given = np.broadcast_to(known[..., None], (8, 8, 1))
        assert found.shape == (3, 8, 8, 1)
        assert (found[:, given] == pixels[given]).all()
        assert (found[:, ~given] != pixels[~given]).any()


def test_the_beginning_of_a_text_is_completed(places, tmp_path):
    good("complete {text} {story} -n 2 --keep top:0.01 --length 30 -o {tmp}/t.npy", tmp=tmp_path, **places)
    texts, given = np.load(tmp_path / "t.npy"), round(0.01 * len(STORY))
    assert texts.shape == (2, given + 30)
    assert bytes(texts[0, :given]) == bytes(texts[1, :given]) == STORY[:given].encode()


@pytest.mark.parametrize("archive", ["{packed}", "{apart} --run {digits}"])
def test_an_archive_gives_back_an_array(archive, places, tmp_path):
    good(f"decompress {archive} -o {{tmp}}/out", tmp=tmp_path, **places)
    (path,) = (tmp_path / "out").iterdir()
    assert (np.load(path) == np.load(places["few"])).all()
    assert json.loads(good(f"verify {archive} --json", **places))["blocks"] == 1
    assert json.loads(good(f"inspect {archive.split()[0]} --json", **places))["blocks"] == {"model": 1}


@pytest.mark.parametrize(("run", "data"), [("text", "story"), ("colours", "photos"), ("digits", "photo")])
def test_an_archive_gives_back_files(run, data, places, tmp_path):
    good(f"compress {{{run}}} {{{data}}} -o {{tmp}}/a.chain", tmp=tmp_path, **places)
    good("decompress {tmp}/a.chain -o {tmp}/out", tmp=tmp_path)
    files = sorted(places[data].iterdir()) if places[data].is_dir() else [places[data]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in files]
    for path in files:
        again = tmp_path / "out" / path.name
        if path.suffix == ".png":
            assert (np.asarray(Image.open(again)) == np.asarray(Image.open(path))).all()
        else:
            assert again.read_bytes() == path.read_bytes()


def test_one_item_of_an_archive(places, tmp_path):
    good("compress {colours} {photos} -o {tmp}/a.chain", tmp=tmp_path, **places)
    name = sorted(places["photos"].iterdir())[1].name
    good("decompress {tmp}/a.chain -o {tmp}/out --only {name}", tmp=tmp_path, name=name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_what_a_picture_has_beyond_its_pixels_is_kept_under_any_folder_name(places, tmp_path):
    folder = tmp_path / "new\nline"
    folder.mkdir()
    Image.fromarray(np.full((4, 4, 4), 77, np.uint8), "RGBA").save(folder / "clear.png")
    assert (
        call("compress {colours} {folder} -o {tmp}/a.chain", folder=folder, tmp=tmp_path, **places).code == 0
    )
    good("decompress {tmp}/a.chain -o {tmp}/out", tmp=tmp_path)
    assert (tmp_path / "out" / "clear.png").read_bytes() == (folder / "clear.png").read_bytes()


def test_people_see_the_first_items_of_an_archive_and_json_all(places, tmp_path):
    good("compress {digits} digits -o {tmp}/d.chain", tmp=tmp_path, **places)
    text = good("inspect {tmp}/d.chain", tmp=tmp_path)
    assert len(json.loads(good("inspect {tmp}/d.chain --json", tmp=tmp_path))["entries"]) == 300
    assert "and 290 more" in text
    assert len(text.splitlines()) < 50


def test_the_summary_of_compressing_has_every_number(places, tmp_path):
    text = good("compress {text} {story} -o {tmp}/s.chain", tmp=tmp_path, **places)
    row = json.loads(good("compress {text} {story} -o {tmp}/s.chain --force --json", tmp=tmp_path, **places))
    for key in ("raw_bytes", "archive_bytes", "model_bytes", "xz_bytes", "symbols"):
        assert f"{row[key]:,}" in text
    for key in ("bits_per_dim", "with_model"):
        assert f"{row[key]:.4f}" in text
    assert row["context_rule"] == "carried state: all symbols before it"
    assert (row["context_rule"] in text) == (row["coded_bits"] > 0)
    assert "Report(" not in text
    assert row["archive_bytes"] == (tmp_path / "s.chain").stat().st_size


def test_codes_go_there_and_back(places, tmp_path):
    codes = np.load(places["codes"])
    row = json.loads(good("decode {pca} {codes} -o {tmp}/d.npy --json", tmp=tmp_path, **places))
    assert row["items"] == len(codes) == 300
    assert np.allclose(open_run(places["pca"]).code.transform(np.load(tmp_path / "d.npy")), codes)


def test_every_option_of_the_model_can_be_set(places, tmp_path):
    settings = "--set width=6 --set position=false --set dropout=0.25"
    good(f"fit digits {TINY} {settings} -o {{tmp}}/run --json", tmp=tmp_path)
    args = open_run(tmp_path / "run").info["args"]
    assert (args["width"], args["position"], args["dropout"]) == (6, False, 0.25)


def test_a_run_has_a_name_when_none_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        good(f"fit digits {TINY} --json")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "digits-gated-pixelcnn",
        "digits-gated-pixelcnn-2",
    ]


def test_an_array_or_a_path_can_be_learned_in_python(places, tmp_path):
    from chainrule import fit

    options = {"steps": 2, "size": "tiny"}
    by_array = fit(np.load(places["few"]), out=tmp_path / "array", settings={"symbols": 256}, **options)
    by_path = fit(places["few"], out=tmp_path / "path", settings={"symbols": 256}, **options)
    by_name = fit(str(places["few"]), out=tmp_path / "name", settings={"symbols": 256}, **options)
    hashes = {store.sha256(run.chain, TABLE) for run in (by_array, by_path, by_name)}
    assert len(hashes) == 1


def test_half_written_files_of_a_killed_training_are_removed(tmp_path):
    for name in (".run.json.k1", ".state.safetensors.k2"):
        (tmp_path / name).write_bytes(b"half")
    good(f"fit digits {TINY} -o {{tmp}} --json", tmp=tmp_path)
    (tmp_path / ".metrics.jsonl.k3").write_bytes(b"half")
    good("fit --resume --steps 5 -o {tmp} --json", tmp=tmp_path)
    names = ["metrics.jsonl", "model.safetensors", "run.json", "state.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# ---- what is left out, and strange names -------------------------------------------------------------------


def strange_folder(folder):
    """Ten good pictures and text, one broken, one with alpha, one whose name is a command to a terminal."""
    folder.mkdir()
    draw = np.random.default_rng(1)
    for i in range(10):
        Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8)).save(folder / f"[bold]{i}.png")
    Image.fromarray(draw.integers(0, 256, (4, 4, 4), np.uint8), "RGBA").save(folder / "clear.png")
    Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8)).save(folder / "a\x1b[31mred\nb.png")
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_left_out_is_told(tmp_path):
    strange_folder(tmp_path / "in")
    fitted = call(f"fit {{tmp}}/in {TINY} --json -o {{tmp}}/run", tmp=tmp_path)
    scored = call("score {tmp}/run {tmp}/in --top 0", tmp=tmp_path)
    for result in (fitted, scored):
        assert result.code == 0
        one, two = result.err.splitlines()
        assert one.startswith("1 file left out: broken.png (")
        assert two == "1 file with more than the pixels that are read: clear.png (transparency)"
    assert "[bold]3.png" in scored.out
    assert "a\\x1b[31mred\\nb.png" in scored.out
    assert "\x1b" not in scored.out
    refused = call("compress {tmp}/run {tmp}/in -o {tmp}/in.chain", tmp=tmp_path)
    assert refused.code == 1
    assert refused.err.splitlines()[-1].startswith("error: the name ")
    (tmp_path / "in" / "a\x1b[31mred\nb.png").unlink()
    packed = call("compress {tmp}/run {tmp}/in -o {tmp}/in.chain", tmp=tmp_path)
    assert packed.code == 0
    assert len(packed.err.splitlines()) == 2
    (only_whole,) = [r for r in entries(tmp_path / "in.chain") if r["name"] == "clear.png"]
    assert only_whole["form"] == "file"


def entries(archive):
    return json.loads(good("inspect {archive} --json", archive=archive))["entries"]


def test_no_path_is_a_command_to_the_terminal(places, tmp_path):
    evil = tmp_path / "\x1b[31mred\a"
    evil.mkdir()
    told = [
        call(f"fit digits {TINY} -o {{evil}}/run", evil=evil),
        call("compress {digits} {few} -o {evil}/a.chain", evil=evil, **places),
        call("inspect {evil}/a.chain", evil=evil),
        call("sample {evil}/none", evil=evil),
    ]
    assert [result.code for result in told] == [0, 0, 0, 1]
    for result in told:
        assert "\\x1b[31mred\\x07" in (result.out + result.err).replace("\n", "")
        assert (result.out + result.err).replace("\n", "").isprintable()


def test_long_names_are_told_whole(places, tmp_path):
    words = [f"word{i:02}" for i in range(30)]
    (tmp_path / "in").mkdir()
    shutil.copy(places["photos"] / "photo 1.png", tmp_path / "in" / (" ".join(words) + ".png"))
    good("compress {colours} {tmp}/in -o {tmp}/a.chain", tmp=tmp_path, **places)
    for line in ("score {colours} {tmp}/in", "inspect {tmp}/a.chain"):
        text = good(line, tmp=tmp_path, **places)
        assert [word for word in words if word not in text] == []


def test_a_hundred_broken_files_are_one_line(places, tmp_path):
    shutil.copytree(places["photos"], tmp_path / "in")
    for i in range(100):
        (tmp_path / "in" / f"broken {i:03}.png").write_bytes(b"no picture")
    (line,) = call("score {colours} {tmp}/in --json", tmp=tmp_path, **places).err.splitlines()
    assert line.startswith("100 files left out: broken 000.png (")
    assert line.endswith("; and 80 more")


def test_a_terminal_that_knows_no_accents_is_no_error(places, tmp_path, monkeypatch):
    shutil.copytree(places["photos"], tmp_path / "été")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit) as stop:
        main(["score", str(places["colours"]), str(tmp_path / "été")])
    assert stop.value.code == 0
    assert b"\\xe9t\\xe9" in raw.getvalue()


# ---- one line for every mistake ----------------------------------------------------------------------------

MISTAKES = {  # name: (command line, exit code, part of the line)
    "unknown command": ("lean digits", 2, "No such command 'lean'"),
    "unknown option": ("fit digits --stesp 3", 2, "--steps"),
    "no argument": ("score", 2, "Missing argument"),
    "no data": ("fit", 2, "say what to learn from"),
    "a number that is none": ("fit digits --steps many", 2, "--steps"),
    "out of range": ("sample {digits} --top-p 2", 2, "--top-p"),
    "unknown data": ("fit digitz", 1, "did you mean digits?"),
    "unknown split": ("fit digits:dev", 1, "train, test, all"),
    "unknown model": ("fit digits --model pixelcm", 1, "gated-pixelcnn"),
    "misspelt setting": ("fit digits --set widht=6", 1, "it has symbols, channels, classes, width, layers"),
    "no setting": ("fit digits --set width", 1, "--set width: write it as KEY=VALUE"),
    "setting of another type": ("fit digits --set width=wide", 1, "width"),
    "setting out of range": ("fit digits --set width=-1", 1, "width=-1"),
    "wrong size": ("fit digits --size huge", 1, "choose from tiny, laptop, paper"),
    "two budgets": ("fit digits --steps 3 --minutes 1", 1, "not both"),
    "no time": ("fit digits --minutes 0", 1, "--minutes 0.0"),
    "time that is no number": ("fit digits --minutes nan", 1, "--minutes nan"),
    "rate that is no number": ("fit digits --lr nan", 2, "--lr"),
    "saving that is no number": ("fit digits --save-every nan", 2, "--save-every"),
    "seed too large": ("fit digits --seed 99999999999999999999", 1, "2^63"),
    "model of another kind": ("fit {story} --model gated-pixelcnn", 1, "image"),
    "no classes": ("fit {photos} --conditional", 1, "is in no sub-folder, so it has no class"),
    "data without classes": ("fit {few} --conditional", 1, "few.npy has no classes: put the files of each class"),
    "too few levels": ("fit digits --steps 1 --size tiny --set symbols=5 -o {tmp}/run", 1, "17 levels"),
    "code of one item": ("fit {story} --model pca -o {tmp}/run", 1, "pca"),
    "run exists": ("fit digits --steps 1 -o {digits}", 1, "--resume"),
    "folder in use": ("fit digits --steps 1 -o {photos}", 1, "not an empty folder"),
    "nothing to resume": ("fit --resume -o {tmp}/none", 1, "there is no run to resume"),
    "resume what": ("fit --resume", 1, "-o RUN"),
    "damaged run.json": ("fit --resume -o {torn}", 1, "run.json is damaged"),
    "resume with other data": ("fit {few} --resume -o {unfinished}", 1, "go on with the same data"),
    "missing run": ("score {tmp}/none digits", 1, "make one with chainrule fit DATA -o"),
    "unfinished run": ("sample {unfinished}", 1, "finish it with chainrule fit --resume -o"),
    "no run": ("sample {photos}", 1, "is not a run"),
    "truncated model": ("sample {cut}", 1, "damaged"),
    "damaged model": ("sample {damaged}", 1, "is not a chainrule model"),
    "another file": ("sample {junk}", 1, "is not a chainrule model"),
    "chain verb on a code": ("sample {pca} -o {tmp}/s.png", 1, "this verb needs a chain, such as"),
    "scoring with a code": ("score {pca} digits", 1, "needs a chain"),
    "probing a chain": ("probe {digits} digits", 1, "this verb needs a code, such as"),
    "one label": ("probe {pca} digits --labels 1", 2, "--labels"),
    "code verb on a chain": ("encode {digits} digits -o {tmp}/c.npy", 1, "this verb needs a code, such as pca"),
    "file exists": ("encode {pca} digits -o {codes}", 1, "overwrite it with --force"),
    "archive exists": ("compress {digits} {few} -o {packed}", 1, "--force"),
    "page in place of a file": ("report {pca} -o {photo}", 1, "photo.png"),
    "wrong suffix": ("sample {digits} --event 8x8 -o {tmp}/s.jpg", 1, "must end in .png or .npy"),
    "page of another kind": ("score {text} {story} --page {tmp}/page.txt", 1, "must end in .html"),
    "page exists": ("score {text} {story} --page {page}", 1, "overwrite it with --force"),
    "page in no folder": ("score {text} {story} --page {tmp}/no/page.html", 1, "make it first"),
    "text as a picture": ("sample {text} -o {tmp}/s.png", 1, "must end in .txt or .npy"),
    "missing folder": ("sample {digits} --event 8x8 -o {tmp}/no/s.png", 1, "make it first"),
    "archive in no folder": ("compress {digits} {few} -o {tmp}/no/a.chain", 1, "cannot write"),
    "file as a folder": ("decompress {packed} -o {photo}", 1, "photo.png"),
    "class of an unconditional model": ("sample {digits} --class 3 -o {tmp}/s.png", 1, "not conditional"),
    "unknown class": ("sample {classes} --class ten -o {tmp}/s.png", 1, "the model has 0, 1, 2"),
    "class that is nearly a number": ("sample {classes} --class ² -o {tmp}/s.png", 1, "there is no class"),
    "no size": ("sample {digits} --event 8by8 -o {tmp}/s.png", 1, "HEIGHTxWIDTH"),
    "no memory": ("sample {digits} --event 99999x99999 -o {tmp}/s.png", 1, "of at most"),
    "cold": ("sample {digits} --event 8x8 --temperature nan -o {tmp}/s.png", 2, "--temperature"),
    "prompt of an image": ("sample {digits} --prompt Once -o {tmp}/s.png", 1, "is for texts"),
    "size of a text": ("sample {text} --event 8x8", 1, "is for images"),
    "prompt that is no text": ("sample {text} --prompt {surrogate}", 1, "which is no character"),
    "keep nonsense": ("complete {digits} {photo} --keep half -o {tmp}/c.png", 1, "write top:SHARE"),
    "keep too much": ("complete {digits} {photo} --keep top:2 -o {tmp}/c.png", 1, "from 0 to 1"),
    "keep no number": ("complete {digits} {photo} --keep top:nan -o {tmp}/c.png", 1, "from 0 to 1"),
    "mask of another size": ("complete {digits} {photo} --mask {wide} -o {tmp}/c.png", 1, "5 × 9 pixels"),
    "mask that is a text": ("complete {digits} {photo} --mask {story} -o {tmp}/c.png", 1, "the image 8 × 8"),
    "mask of a text": ("complete {text} {story} --mask {photo}", 1, "is for images"),
    "colour for a gray model": ("complete {digits} {rgb} -o {tmp}/c.png", 1, "3 channels, the model 1"),
    "text for an image model": ("complete {colours} {story} -o {tmp}/c.png", 1, "is text, the model was fitted on"),
    "image for a text model": ("complete {text} {photo}", 1, "is image, the model was fitted on text"),
    "many items": ("complete {digits} digits -o {tmp}/c.png", 1, "give a file with one"),
    "score a text as images": ("score {colours} {story}", 1, "the model takes image"),
    "score images as a text": ("score {text} {photo}", 1, "the model takes text"),
    "more levels than the model": ("score {digits} {deep}", 1, "symbols are 0 to 16"),
    "compress more levels": ("compress {digits} {deep} -o {tmp}/a.chain", 1, "symbols are 0 to 16"),
    "no archive": ("inspect {photo}", 1, "is not a chainrule archive"),
    "missing archive": ("verify {tmp}/none.chain", 1, "cannot read"),
    "model elsewhere": ("decompress {apart} -o {tmp}/out", 1, "--run RUN"),
    "no such item": ("decompress {packed} -o {tmp}/out --only nobody", 1, "has no item 'nobody'"),
    "another model": ("decompress {apart} --run {classes} -o {tmp}/out", 1, "needs the model"),
    "codes that are none": ("decode {pca} {photo} -o {tmp}/d.npy", 1, "cannot be read"),
    "codes of another size": ("decode {pca} {few} -o {tmp}/d.npy", 1, "(20, 8, 8, 1), the model's (n, 4)"),
    "data of another size": ("encode {pca} {small} -o {tmp}/c.npy", 1, "the code was fitted on (8, 8, 1)"),
    "data of several sizes": ("encode {pca} {mixed} -o {tmp}/c.npy", 1, "several shapes"),
}  # fmt: skip


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for side in (4, 5):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(folder / f"{side}.png")
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(name, places, mixed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, code, told = MISTAKES[name]
    result = call(line, tmp=tmp_path, mixed=mixed, surrogate="\ud800", **places)
    assert result.code == code, result
    assert result.out == ""
    (error,) = result.err.splitlines()
    assert error.startswith("error: ")
    assert told in error
    assert len(error) < 500
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(places, tmp_path):
    tmp_path.chmod(0o500)
    try:
        for line in ("fit digits --steps 1 -o {tmp}/run", "compress {digits} {few} -o {tmp}/a.chain"):
            result = call(line, tmp=tmp_path, **places)
            assert result.code == 1
            (error,) = result.err.splitlines()
            assert "ermission denied" in error
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_one_line(places, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for line in (f"fit digits {TINY} -o {{tmp}}/run", "compress {digits} {few} -o {tmp}/a.chain"):
        result = call(line, tmp=tmp_path, **places)
        assert result.code == 1
        assert result.err.splitlines()[-1].startswith("error: cannot write ")
        assert result.err.endswith("No space left on device\n")


def test_memory_that_runs_out_is_one_line(monkeypatch):
    def greedy():
        np.zeros(1 << 62, np.uint8)

    monkeypatch.setattr("chainrule.data.describe", greedy)
    result = call("data")
    assert result.code == 1
    assert result.err.startswith("error: not enough memory")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("levels", "many"),
        ("levels", 18),
        ("event", [8, -8, 1]),
        ("event", "8x8"),
        ("classes", ["a"]),
        ("kind", "picture"),
        ("held_out", {"items": "all"}),
        ("trained", 3),
    ],
)
def test_a_model_file_cannot_say_what_cannot_be(fact, value, places, tmp_path):
    run = open_run(places["digits"])
    facts = {k: v for k, v in run.info.items() if k not in ("format", "model", "args")} | {fact: value}
    (tmp_path / "m.safetensors").write_bytes(store.dump(run.chain, TABLE, **facts))
    result = call("sample {tmp}/m.safetensors --event 8x8 -o {tmp}/s.png", tmp=tmp_path)
    assert result.code == 1
    assert result.err.endswith(f"m.safetensors says {fact} is {value}: it is damaged\n")


# ---- as processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help", "--version", "models", "data", "lecture", "fit --help"])
def test_what_only_tells_does_not_wait_for_pytorch(line):
    code = (
        "import sys\n"
        "from chainrule.cli import main\n"
        f"try: main({line.split()!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "slow = {'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_python_m_chainrule_is_the_command_line():
    def run(*words):
        command = [sys.executable, "-m", "chainrule", *words]
        return subprocess.run(command, capture_output=True, text=True)

    version = run("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, good("--version"), "")
    wrong = run("lean")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    (line,) = wrong.stderr.splitlines()
    assert line.endswith("(see python -m chainrule --help)")


@pytest.mark.parametrize("line", ["models", "--version"])
def test_a_reader_who_leaves_is_no_traceback(line):
    running = process(line)
    running.stdout.close()
    errors = running.stderr.read()
    running.stderr.close()
    assert (running.wait(), errors) == (1, "")


def test_ctrl_c_saves_the_state_and_resume_completes(tmp_path):
    run = tmp_path / "run"
    line = f"fit digits --steps 1000000 --size tiny --threads 1 --json -o {shlex.quote(str(run))}"
    with process(line) as running:
        first = json.loads(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate()
    assert running.returncode == 130
    (told,) = errors.splitlines()
    assert told.startswith("stopped: saved after ")
    steps = int(told.split()[3])
    assert steps >= first["step"] == 20
    assert "finish it with chainrule fit --resume" in call("sample {run}", run=run).err
    rows = good(f"fit --resume --steps {steps + 20} --json -o {{run}}", run=run).splitlines()
    assert json.loads(rows[-1])["trained"]["steps"] == steps + 20
    assert [row["step"] for row in open_run(run).metrics()][:2] == [20, 40]
