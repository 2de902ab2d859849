"""Translations on the command line, and the page that shows where they were uncertain."""

import html as entities
import json
import math
import re

import numpy as np
import pytest
import torch

from chainrule import beam, open_run, store, translate
from chainrule.chains.bytenet import ByteNet
from chainrule.cli import main
from chainrule.data import BYTES
from chainrule.data.alphabets import Tokens
from chainrule.models import TABLE, Run
from chainrule.report.translated import letters, translation_page, uncertainties
from chainrule.translation import Translated, line_ends, text_of
from test_cli import Terminal, _threads, call, good  # noqa: F401
from test_report import HOSTILE, check, in_browser, looked_at

ENGLISH = ["a dog runs", "a cat sleeps", "two dogs play in the snow", "", "ein <b>Café</b> & mehr"]


def run_at(folder, chain, **facts):
    """A folder that holds a chain over texts, as fit leaves one."""
    folder.mkdir()
    data = store.dump(chain, TABLE, kind="text", data="made up", levels=256, classes=[], event=None, **facts)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def translator():
    """A ByteNet of bytes that writes few letters, and ends now and then."""
    torch.manual_seed(1)
    chain = ByteNet(symbols=256, source=256, **ByteNet.SIZES["tiny"])
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_(std=0.3)
        chain.out.bias[:] = -9
        chain.out.bias[[10, *b"abc ", 195]] = torch.tensor([3.0, 3, 2, 2, 2, 1])
        chain.out.bias[164] = -4  # with 195 an "ä"
    return chain


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """Runs and files, which no test changes."""
    root = tmp_path_factory.mktemp("translations")
    (root / "in.txt").write_text("\n".join(ENGLISH) + "\n")
    (root / "story.txt").write_text("Once upon a time. " * 90)
    run_at(root / "pairs", translator())
    good(f"fit {root}/story.txt --steps 2 --size tiny --threads 1 --json -o {root}/text")
    good(f"fit digits --steps 2 --size tiny --threads 1 --json -o {root}/digits")
    return {"run": root / "pairs", "text": root / "text", "digits": root / "digits", "file": root / "in.txt"}


def rows(printed):
    return [json.loads(line) for line in printed.splitlines()]


def expected(at, lines=ENGLISH, **options):
    """What Python gives for lines: their translations, as texts without an end."""
    sources = [np.frombuffer(line.encode() + b"\n", np.uint8) for line in lines if line]
    texts = iter(translate(open_run(at["run"]).chain, sources, end=10, **options))
    return [text_of(BYTES, next(texts)).decode(errors="replace") if line else "" for line in lines]


# ---- the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["", "--temperature 0", "--temperature 0.5 --top-p 0.9 --seed 4", "--top-k 3"]
)
def test_one_source_is_translated_as_python_does_it(way, at):
    words = way.split()
    options = {k[2:].replace("-", "_"): float(v) for k, v in zip(words[::2], words[1::2], strict=True)}
    options = {"temperature": 1.0, **options} | {
        k: int(options[k]) for k in ("seed", "top_k") if k in options
    }
    (wanted,) = expected(at, ENGLISH[:1], **options)
    result = call(f"sample {{run}} --source 'a dog runs' {way}", **at)
    assert (result.code, result.out) == (0, wanted + "\n")
    (row,) = rows(good(f"sample {{run}} --source 'a dog runs' {way} --json", **at))
    assert row.items() >= {"source": "a dog runs", "text": wanted}.items()


def test_several_translations_of_one_source(at):
    found = rows(good("sample {run} --source 'a dog runs' -n 5 --json", **at))
    assert [row["text"] for row in found] == expected(at, ENGLISH[:1] * 5, temperature=1.0)
    printed = call("sample {run} --source 'a dog runs' -n 5", **at).out
    assert printed == "".join(row["text"] + "\n" for row in found)


@pytest.mark.parametrize(("way", "options"), [("--temperature 0", {}), ("--beam 3", {"beam": 3})])
def test_a_file_is_translated_line_by_line_in_its_order(way, options, at, tmp_path):
    wanted = expected(at, **options)
    printed = call(f"sample {{run}} --source-file {{file}} {way}", **at)
    assert (printed.code, printed.out) == (0, "".join(line + "\n" for line in wanted))
    found = rows(good(f"sample {{run}} --source-file {{file}} {way} --json", **at))
    assert [row["text"] for row in found] == wanted
    assert [row["source"] for row in found] == ENGLISH
    result = call(f"sample {{run}} --source-file {{file}} {way} -o {tmp_path}/out.de", **at)
    assert result.code == 0
    assert (tmp_path / "out.de").read_text(errors="replace") == printed.out
    (row,) = rows(good(f"sample {{run}} --source-file {{file}} {way} --json -o {tmp_path}/more.txt", **at))
    assert row == {"translations": 5, "file": str(tmp_path / "more.txt")}


def test_beam_search_gives_as_many_as_are_asked_for_with_their_bits(at):
    found = rows(good("sample {run} --source 'a cat sleeps' --beam 6 -n 4 --json", **at))
    source = torch.tensor([list(b"a cat sleeps\n")])
    wanted = beam(open_run(at["run"]).chain, 2 * 13 + 50, 6, source, end=10, count=4)
    assert [row["text"] for row in found] == [
        text_of(BYTES, x).decode(errors="replace") for x, _ in wanted[:4]
    ]
    np.testing.assert_allclose(
        [row["bits"] for row in found], [-nats / math.log(2) for _, nats in wanted[:4]]
    )
    assert len(found) == 4
    assert all(row["ended"] for row in found)


def test_a_prompt_is_the_beginning_of_every_translation(at):
    for way in ("", "--beam 2", "-n 3"):
        printed = call(f"sample {{run}} --source 'a dog runs' --prompt 'Zwei ä' {way}", **at).out
        assert all(line.startswith("Zwei ä") for line in printed.splitlines())


def test_what_comes_to_no_end_is_told(at):
    result = call("sample {run} --source 'a dog runs' --prompt x --length 1 --temperature 0", **at)
    assert result.err == "1 of 1 translations came to no end: allow them more with --length\n"
    assert len(result.out) == 3
    (row,) = rows(good("sample {run} --source 'a dog' --length 1 --temperature 0 --json", **at))
    assert row["ended"] is False


def test_a_translation_is_shown_while_it_is_written(at, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("chainrule.engine.strict.GLIMPSE", 1.0)
    monkeypatch.setattr("sys.stdout", screen)
    with pytest.raises(SystemExit) as end:
        main(["sample", str(at["run"]), "--source", "a dog runs", "--seed", "3"])
    assert end.value.code == 0
    frames = list(dict.fromkeys(screen.frames))
    (wanted,) = expected(at, ENGLISH[:1], temperature=1.0, seed=3)
    assert frames[-1].endswith("\n")
    assert len(frames) > len(wanted) / 2
    assert all(wanted.startswith(frame) for frame in frames[:-1])


def test_any_text_is_continued_by_beam_search(at, tmp_path):
    line = "sample {text} --prompt Once --length 9 --beam 3"
    found = beam(open_run(at["text"]).chain, 9, 3, prefix=b"Once")
    texts = [bytes(x.tolist()).decode(errors="replace") for x, _ in found]
    assert good(line, **at) == texts[0] + "\n"
    assert [row["text"] for row in rows(good(f"{line} -n 3 --json", **at))] == texts
    good(f"{line} -n 2 -o {tmp_path}/two.npy --json", **at)
    assert np.load(tmp_path / "two.npy").tolist() == [x.tolist() for x, _ in found[:2]]


MISTAKES = {
    "nothing to translate": ("{run}", "is given neither: say what with --source TEXT, or --source-file"),
    "two sources": ("{run} --source x --source-file {file}", "is given both"),
    "an empty source": ("{run} --source ''", "the source is empty"),
    "two lines": ("{run} --source 'a\nb'", "the source has 2 lines: give one line"),
    "a prompt of two lines": ("{run} --source a --prompt 'a\n'", "the prompt has 2 lines"),
    "no such file": ("{run} --source-file {tmp}/none", "none"),
    "several of a file": ("{run} --source-file {file} -n 2", "each line has one translation"),
    "a source for a text": (
        "{text} --source x",
        "--source x is for models that are conditioned on a source text",
    ),
    "a file for a text": (
        "{text} --source-file {file}",
        "is for models that are conditioned on a source text",
    ),
    "a page of a text": ("{text} --page {tmp}/p.html", "--page"),
    "a source for images": ("{digits} --source x", "--source x is for models that are conditioned"),
    "a beam of images": ("{digits} --event 8x8 --beam 3 -o {tmp}/x.png", "--beam 3 is for texts"),
    "a beam that is warm": (
        "{text} --beam 3 --temperature 0.5",
        "--temperature 0.5 is for drawing, --beam 3 finds",
    ),
    "a beam with top-p": ("{run} --source a --beam 3 --top-p 0.5", "--top-p 0.5 is for drawing"),
    "a beam with top-k": ("{run} --source a --beam 3 --top-k 2", "--top-k 2 is for drawing"),
    "more than the beam": ("{run} --source a --beam 3 -n 4", "-n 4: a beam of 3 finds up to 3"),
    "more texts than the beam": ("{text} --beam 3 -n 4", "-n 4: a beam of 3 finds up to 3"),
    "an array of lines": ("{run} --source a -o {tmp}/x.npy", "lines of text, write them to a .txt"),
    "a page of another kind": ("{run} --source a --page {tmp}/x.htm", "must end in .html"),
    "a class": ("{run} --source a --class 1", "--class 1 has no meaning"),
    "a size": ("{run} --source a --event 8x8", "is for images"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(name, at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, told = MISTAKES[name]
    result = call(f"sample {line}", tmp=tmp_path, **at)
    assert (result.code, result.out) == (1, "")
    (error,) = result.err.splitlines()
    assert error.startswith("error: ")
    assert told in error
    assert len(error) < 400
    assert not list(tmp_path.iterdir())


def test_an_empty_beam_is_wrong_usage(at):
    assert call("sample {run} --source a --beam 0", **at).code == 2


# ---- the page ------------------------------------------------------------------------------------------


def a_run(alphabet=BYTES):
    chain = translator()
    if alphabet is not BYTES:
        chain = ByteNet(symbols=alphabet.symbols, source=alphabet.symbols, **ByteNet.SIZES["tiny"])
    return Run(None, chain, {"model": "made-up", "kind": "text", "data": "somewhere"}, alphabet)


def spoken(html):
    """(letter, what it tells, its classes) of every coloured letter, in order."""
    found = re.findall(r"<i(?: class='([\w ]+)')? title=\"([^\"]*)\">(.*?)</i>", html, re.DOTALL)
    return [
        (entities.unescape(letter), entities.unescape(told), kinds.split()) for kinds, told, letter in found
    ]


def page_of(run, *pairs):
    """The page of some (source, [(text, nats)])."""
    results = [
        Translated(source, [(np.frombuffer(text, np.uint8).astype(np.int64), nats) for text, nats in found])
        for source, found in pairs
    ]
    return translation_page(run, results, ["chainrule", "sample", "run", "--source", "x"])


def test_every_letter_tells_its_probability_and_what_else_was_likely():
    run, text, source = a_run(), b"ab c\xc3\xa4<&\xff\n", b"dogs"
    html = page_of(run, (source, [(text, None)]))
    check(html)
    found = spoken(html)
    assert "".join(letter for letter, *_ in found) == "ab cä<&\ufffd↵"
    with torch.no_grad():
        logits = run.chain.logits(torch.tensor([list(text)]), torch.tensor([list(source + b"\n")]))[0]
    p = logits.double().softmax(-1)
    entropy = -(p * p.log2()).sum(-1)
    spots = [0, 1, 2, 3, [4, 5], 6, 7, 8, 9]
    for (letter, told, kinds), spot in zip(found, spots, strict=True):
        some = [spot] if isinstance(spot, int) else spot
        lines = told.split("\n")
        assert len(lines) == len(some)
        for line, i in zip(lines, some, strict=True):
            others = [k for k in p[i].argsort(descending=True, stable=True).tolist() if k != text[i]][:4]
            shares = [float(share) for share in re.findall(r"([\d.e-]+) %", line)]
            np.testing.assert_allclose(shares, [100 * float(p[i, k]) for k in (text[i], *others)], rtol=6e-3)
            assert f"uncertainty {float(entropy[i]):.2f} bits" in line
        depth = min(8, round(2 * float(entropy[some].sum())))
        assert [kind for kind in kinds if kind[0] == "s"] == [f"s{depth}"] * (depth > 0)
        assert ("u" in kinds) == any(int(p[i].argmax()) != text[i] for i in some), letter


def test_its_numbers_are_those_of_the_chain():
    run = a_run()
    with torch.no_grad():
        bits = -float(run.chain.log_prob(torch.tensor([list(b"abba\n")]), torch.tensor([list(b"x\n")])))
    bits /= math.log(2)
    html = page_of(run, (b"x", [(b"abba\n", None)]))
    assert f"{bits:.2f} bits, {bits / 5:.3f} bits/byte" in html
    assert "came to no end" not in html
    assert "It came to no end within its length." in page_of(run, (b"x", [(b"abba", None)]))


def test_beam_search_shows_the_runners_up_with_their_bits():
    best, other = (b"ab\n", -3 * math.log(2)), (b"c <i>\n", -5.25 * math.log(2))
    html = page_of(a_run(), (b"x", [best, other]))
    assert '<td class="number">5.25</td><td>c &lt;i&gt;</td>' in html
    assert [letter for letter, *_ in spoken(html)] == ["a", "b", "↵"]
    assert "What else beam search found" not in page_of(a_run(), (b"x", [best]))


def test_several_draws_are_all_coloured():
    html = page_of(a_run(), (b"x", [(b"ab\n", None), (b"b\n", None)]), (b"y", [(b"c\n", None)]))
    assert "".join(letter for letter, *_ in spoken(html)) == "ab↵b↵c↵"


@pytest.mark.parametrize("wicked", [HOSTILE.encode(), b"\x00\x1b[31m\xff\xc3", b""])
def test_whatever_is_translated_the_page_is_sound(wicked):
    run = a_run()
    html = page_of(run, (wicked, [(wicked + b"\n", -1.0), (wicked, -2.0)]), (b"x", [(b"", None)]))
    found = check(html)
    assert "script" not in {tag for tag, _ in found.tags}


def test_what_has_no_room_is_counted(monkeypatch):
    monkeypatch.setattr("chainrule.report.translated.ROOM", 7)
    html = page_of(a_run(), *[(b"x", [(b"ab\n", None)])] * 5)
    assert len(spoken(html)) == 6
    assert "3 further translations are not shown" in html


@pytest.mark.parametrize("room", [1, 8, 1000])
def test_how_many_go_through_the_model_at_once_changes_nothing(room, monkeypatch):
    run = a_run()
    sources = [np.frombuffer(s, np.uint8) for s in (b"dogs\n", b"a\n", b"two cats\n", b"x\n")]
    targets = [np.frombuffer(s, np.uint8) for s in (b"ab\n", b"abcab c\n", b"", b"c\n")]
    monkeypatch.setattr("chainrule.report.translated.AT_ONCE", room)
    found = list(uncertainties(run, sources, targets))
    for source, target, one in zip(sources, targets, found, strict=True):
        assert one.bits.shape == one.entropy.shape == target.shape
        (alone,) = uncertainties(run, [source], [target])
        np.testing.assert_allclose(one.bits, alone.bits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.entropy, alone.entropy, rtol=1e-4, atol=1e-4)


def test_tokens_are_coloured_whole():
    pieces = (*(bytes([b]) for b in range(256)), b"the ", b" \n", b"\xa4x")
    alphabet = Tokens(pieces)
    assert line_ends(alphabet) == (10, 257)
    run = a_run(alphabet)
    run.alphabet.__dict__["encode"] = None
    object.__setattr__(run.alphabet, "encode", lambda text: np.frombuffer(text, np.uint8))
    html = translation_page(
        run, [Translated(b"x", [(np.array([256, 97, 195, 258, 257]), None)])], ["chainrule"]
    )
    assert [letter for letter, *_ in spoken(html)] == ["the ", "a", "äx", "↵"]
    check(html)


def test_letters_are_those_of_the_text():
    text = "añ数👩\n".encode() + b"\xff\xf0\x9f b"
    found = list(letters([text[i : i + 1] for i in range(len(text))]))
    assert "".join(letter for letter, *_ in found) == "añ数👩\n\ufffd\ufffd\ufffd b"
    assert [begin for _, begin, _ in found] + [len(text)] == [0, *(end for *_, end in found)]


def test_the_command_writes_the_page(at, tmp_path):
    for i, way in enumerate(["", "--temperature 0", "--beam 4", "-n 3"]):
        page = tmp_path / f"{i}.html"
        result = call(f"sample {{run}} --source 'a dog runs' {way} --page {page}", **at)
        assert result.code == 0
        assert result.out.endswith(f"{page}\n")
        check(page.read_text(encoding="utf-8"))
        assert f"{way} --page" in page.read_text().replace(" 0.0", " 0")
    _, last = rows(good("sample {run} --source a --beam 2 --json --page {p}", p=tmp_path / "j.html", **at))
    assert last == {"page": str(tmp_path / "j.html")}
    assert (
        call("sample {run} --source-file {file} --beam 2 --page {p}", p=tmp_path / "f.html", **at).code == 0
    )
    assert "two dogs play in the snow" in (tmp_path / "f.html").read_text()


@in_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen(width, tmp_path):
    html = page_of(a_run(), (b"a dog runs " * 20, [(b"ab c" * 90 + b"\n", -1.0), (b"c" * 300, -2.0)]))
    answer = looked_at(html, width, tmp_path)
    assert answer["width"] <= width
    assert answer["asked"] == 0


def test_complete_says_how_a_translation_is_completed(at):
    result = call("complete {run} {file}", **at)
    assert result.code == 1
    assert "chainrule sample" in result.err
    assert "--prompt" in result.err
    assert result.err.count("\n") == 1
