"""The page about a run: valid, self-contained, honest about its numbers, and deaf to hostile names."""

import base64
import io
import json
import lzma
import math
import re
import shlex
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import imagecodecs
import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

import chainrule
from chainrule import plots
from chainrule import report as reporting
from chainrule.cli import app
from chainrule.data import Sound, load, train_holdout
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError
from chainrule.models import TABLE, open_run
from chainrule.report import heard, page, report, sections
from chainrule.report.codecs import (
    PNG,
    WEBP,
    codec_table,
    flac,
    image_forms,
    more_byte_codecs,
    more_image_codecs,
    sheet,
    spread,
    xz,
)
from chainrule.report.heard import Heard
from chainrule.report.page import table, text, tiles
from chainrule.store import sha256

VOID = {"meta", "link", "img", "br", "hr", "input"}
MU_LAW = Sound(8000, "mu-law")
HOSTILE = "\"><script>alert('x')</script>&amp;\u202e\x00\n<img src=//evil.example/x.png onerror=alert(1)>.png"


class Page(HTMLParser):
    """Reads a page strictly: what does not nest, repeat and quote as HTML5 wants is an error."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.seen, self.ids, self.doctype = [], [], "", set(), ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_decl(self, decl):
        self.doctype = decl

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        attributes = dict(attrs)
        if "id" in attributes:
            assert attributes["id"] not in self.ids
            self.ids.add(attributes["id"])
        if tag == "p" or tag in ("section", "figure", "table", "dl"):
            assert "p" not in self.open, f"<{tag}> inside a paragraph"
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if "style" not in self.open:
            self.seen += data

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def check(html):
    """A valid page that asks nobody for anything and runs nothing."""
    html.encode("utf-8")
    found = Page(html)
    assert html.startswith("<!DOCTYPE html>\n")
    assert ("meta", {"charset": "utf-8"}) in found.tags
    assert sum(tag == "title" for tag, _ in found.tags) == 1
    assert sum(tag == "h1" for tag, _ in found.tags) == 1
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), f"<{tag}> asks for {attributes[name]}"
    for attributes in found.images():
        assert attributes["alt"].strip()
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"url\(|@import|https?:", style)
    assert all(shown in "\n\t" or ord(shown) >= 32 for shown in found.seen)
    return found


# ---- the frame and the cards ---------------------------------------------------------------------------


def digits(n=8):
    return np.asarray(load("digits").x[:n])


def staged(more=()):
    """Lines of metrics of three trainings that follow each other, whose losses differ in size."""
    losses = [(stage, 10.0**stage - step) for stage in (1, 2, 3) for step in range(4)]
    lines = [
        {"step": 20 * i, "seconds": i / 2, "stage": s, "loss": loss} for i, (s, loss) in enumerate(losses)
    ]
    return [*lines, *({"step": 300, "seconds": 9.0, "stage": 3, "loss": 0.5, word: 1} for word in more)]


def every_card():
    x, bits, known = digits(6), np.linspace(1, 2, 6), np.zeros((8, 8, 1), bool)
    known[:4] = True
    names = [f"{HOSTILE}{i}" for i in range(6)]
    letters = np.frombuffer(HOSTILE.encode() + b"\xff", np.uint8)
    ramp = np.arange(900, dtype=np.int16)
    metrics = [{"step": i, "seconds": i / 2, "loss_bits": 3 - i / 9, "val_bits": 3.0} for i in range(9)]
    return [
        sections.samples_section(x, x, 17),
        sections.classes_section(x, [HOSTILE, "b"], 17),
        sections.completions_section(x[:2], known, [x[:3], x[3:]], 17),
        sections.surprise_section(x, bits, names, 17),
        sections.scores_section(bits, 1.5, HOSTILE),
        sections.codecs_section(codec_table(x, 17), 1.5, 17, HOSTILE),
        sections.training_section(metrics),
        sections.texts_section([letters], HOSTILE),
        sections.surprising_text_section(letters, np.ones(len(letters))),
        sections.reconstructions_section(x, x / 2, 17, 0.5, 4),
        sections.training_section([{"step": i, "seconds": i / 2, "loss": 3 - i / 9} for i in range(9)]),
        sections.training_section(staged([HOSTILE])),
        sections.atoms_section(x - 8.0, np.arange(6)),
        sections.filters_section(x - 8.0),
        sections.sums_section(x[:2] - 8.0, np.eye(6)[:2], x - 8.0),
        sections.nonzeros_section(np.arange(9), 12, HOSTILE),
        sections.facts_section({HOSTILE: HOSTILE, "seed": 0, "loss": 0.5}, [HOSTILE]),
        sections.note_section(HOSTILE, HOSTILE),
        heard.sounds_section(
            HOSTILE, HOSTILE, [Heard(ramp, 8000, HOSTILE, HOSTILE, np.ones(900), 90, 1.0, 2.0)]
        ),
        sections.codecs_section(
            codec_table([ramp % 256], 256, sound=MU_LAW), 1.5, 256, HOSTILE, "bits/sample"
        ),
    ]


def test_a_page_of_every_card_is_valid_and_hostile_names_are_only_words():
    html = page(HOSTILE, every_card(), HOSTILE, {HOSTILE: "1.5 <b>"})
    found = check(html)
    assert "<script>alert('x')</script>" in found.seen  # as words to read
    assert "&amp;" in found.seen  # not unescaped once too often
    assert "\u202e" not in html
    assert not [attributes for attributes in found.images() if "evil" in attributes["src"]]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_the_check_of_pages_catches_broken_ones():
    good = page("a", [sections.note_section("b", "c")])
    check(good)
    for broken in (
        good.replace("</section>", ""),
        good.replace("<p>c</p>", "<p>c</p></div>"),
        good.replace("<p>c</p>", '<img src="data:,">'),
        good.replace("<p>c</p>", '<img alt="c" src="https://a.example/b.png">'),
        good.replace("<p>c</p>", '<b onclick="x">c</b>'),
        good.replace("<p>c</p>", "<script></script>"),
        good.replace("<p>c</p>", "<p><table></table></p>"),
    ):
        with pytest.raises((AssertionError, KeyError)):
            check(broken)


def test_text_is_one_line_of_visible_characters():
    assert text("a<b>&'\"") == "a&lt;b&gt;&amp;&#x27;&quot;"
    assert text("a\u202eb\x00c\nd\u2028e\ufeff") == "a\ufffdb\ufffdc\ufffdd\ufffde\ufffd"
    assert text("é 数 👩\u200d🔬") == "é 数 👩\u200d🔬"
    assert text("\ud800") == "\ufffd"


def test_tables_name_their_rows_and_columns():
    html = table([("a", 1, 0.25)], head=["x", "y", "z"])
    assert [tag for tag, _ in Page(html).tags].count("th") == 3
    assert '<td class="number">0.25</td>' in html
    assert '<th scope="row">a</th>' in table([("a", 1)])
    assert tiles({}) == ""
    assert Page(tiles({"speed": "12.5 images a second"})).seen == "speed12.5 images a second"


def pictures(html):
    """The pixels of every picture on a page."""
    found = []
    for attributes in Page(html).images():
        kind, _, data = attributes["src"].partition(";base64,")
        if kind == "data:image/png":
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    return found


def test_the_most_surprising_item_comes_first_with_its_number():
    x = np.zeros((5, 2, 2, 1), int) + np.arange(5)[:, None, None, None]
    html = sections.surprise_section(x, np.array([1.0, 5.0, 2.0, 4.0, 3.0]), list("abcde"), levels=5, show=2)
    assert [int(p[0, 0, 0]) for p in pictures(html)] == [64, 191, 0, 128]  # items b, d and a, c
    order = re.findall(r"<b>([\d.]+)</b>(\w)", html)
    assert order == [("5.000", "b"), ("4.000", "d"), ("1.000", "a"), ("2.000", "c")]


def test_completions_stand_in_rows_of_original_given_and_drawn():
    x, known = np.full((2, 4, 4, 1), 16), np.zeros((4, 4, 1), bool)
    known[:2] = True
    (grid,) = pictures(sections.completions_section(x, known, [np.zeros((3, 4, 4, 1))] * 2, 17))
    scale = (grid.shape[1] + plots.GAP) // 5 - plots.GAP
    at = [grid[scale - 1, i * (scale + plots.GAP)].tolist() for i in range(5)]  # the lowest row of each cell
    assert at == [[255] * 4, list(plots.MASKED), *[[0, 0, 0, 255]] * 3]
    assert grid[0, scale + plots.GAP].tolist() == [255] * 4  # of which the upper half was given


def test_cards_without_anything_to_show_are_left_out():
    assert sections.training_section([]) == ""
    assert sections.training_section([{"step": 1, "seconds": 1.0}]) == ""


def test_stages_have_a_curve_each():
    html = sections.training_section(staged())
    drawings = [image for image in Page(html).images() if image["class"] == "drawing"]
    assert len(drawings) == 3
    assert [f"Stage {i} of 3" in Page(html).seen for i in (1, 2, 3, 4)] == [True, True, True, False]
    assert "220 steps" in Page(html).seen
    assert "in 3 stages" in Page(html).seen
    one = sections.training_section([line | {"stage": 1} for line in staged()])
    assert one == sections.training_section(
        [{k: v for k, v in line.items() if k != "stage"} for line in staged()]
    )


def test_the_strongest_filters_come_first_and_no_more_than_256():
    filters = np.zeros((300, 2, 2, 1)) + 0.01
    filters[7], filters[250] = -3.0, 2.0
    html = sections.filters_section(filters)
    assert "The 256 strongest of 300 filters" in Page(html).seen
    (grid,) = pictures(html)
    assert grid[0, 0].tolist() == [0, 0, 0, 255]
    assert "All 6 filters" in Page(sections.filters_section(digits(6) - 8.0)).seen


# ---- codecs --------------------------------------------------------------------------------------------


def test_sizes_are_of_whole_files_over_all_symbols():
    x = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    rows = {row.name: row for row in codec_table(x, 256)}
    assert rows["xz -9e, one file"].bits_per_dim == pytest.approx(
        8 * len(lzma.compress(x.tobytes(), preset=9 | lzma.PRESET_EXTREME)) / (5 * 6 * 7 * 3)
    )
    encode = PNG[0][1]
    each = sum(len(encode(Image.fromarray(image))) for image in x)
    assert rows["PNG, a file each"].bits_per_dim == pytest.approx(8 * each / x.size)
    one = len(encode(Image.fromarray(sheet(x))))
    assert rows["PNG, one sheet"].bits_per_dim == pytest.approx(8 * one / x.size)
    assert all(row.bits_per_dim > 8 for row in rows.values())  # noise cannot be packed, and headers count


@pytest.mark.parametrize("levels", [2, 5, 16, 17, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_form_of_the_data_loses_anything(levels, channels):
    x = np.random.default_rng(1).integers(0, levels, (9, 11, channels))
    x.flat[:levels] = np.arange(levels)  # every level once
    forms = dict(image_forms(x, levels))
    assert "8 bits a symbol" in forms
    for form, image in forms.items():
        for setting, encode in (*PNG, *WEBP):
            back = np.asarray(Image.open(io.BytesIO(encode(image))).convert("RGB"))[..., :channels]
            for tones in (np.arange(levels), spread(np.arange(levels), levels)):
                if (tones[x] == back).all():
                    break
            else:
                pytest.fail(f"{form}, {setting} is not the image that went in")


def test_fewer_levels_are_stored_in_fewer_bits():
    noise = np.random.default_rng(2).integers(0, 2, (4, 32, 32, 1))
    rows = {row.name: row for row in codec_table(noise, 2)}
    assert rows["PNG, one sheet"].best.startswith("1 bit a symbol")
    assert 1 < rows["PNG, one sheet"].bits_per_dim < 1.3
    assert rows["xz -9e, one file"].best == "1 bit a symbol"
    sixteen = np.random.default_rng(2).integers(0, 16, (4, 32, 32, 1))
    assert 4 < {row.name: row for row in codec_table(sixteen, 16)}["PNG, one sheet"].bits_per_dim < 4.5


def test_spread_levels_stay_apart():
    for levels in range(2, 257):
        tones = spread(np.arange(levels), levels)
        assert len(set(tones.tolist())) == levels
        assert (tones[0], tones[-1]) == (0, 255)


def test_sheets_hold_every_image_in_its_place():
    x = np.arange(1, 5 * 2 * 3 + 1).reshape(5, 2, 3, 1)
    whole = sheet(x)
    assert whole.shape == (4, 9, 1)
    for i in range(5):
        np.testing.assert_array_equal(whole[i // 3 * 2 :][:2, i % 3 * 3 :][:, :3], x[i])
    assert not whole[2:, 6:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_nor_do_the_codecs_of_imagecodecs(channels):
    x = np.random.default_rng(1).integers(0, 256, (9, 11, channels), dtype=np.uint8)
    ((_, image),) = image_forms(x, 256)
    decode = [imagecodecs.jpegxl_decode, imagecodecs.jpegls_decode, imagecodecs.jpeg2k_decode]
    rows = more_image_codecs((1, 7))
    assert [name for name, _ in rows] == ["JPEG XL", "JPEG-LS", "JPEG 2000"]
    for (_, encoders), back in zip(rows, decode, strict=True):
        for _, encode in encoders:
            assert np.array_equal(back(encode(image)).reshape(x.shape), x)
    (_, brotli), (_, zstd) = more_byte_codecs()
    assert imagecodecs.brotli_decode(brotli(x.tobytes())) == x.tobytes()
    assert imagecodecs.zstd_decode(zstd(x.tobytes())) == x.tobytes()


@pytest.mark.parametrize("coding", ["16 bit", "8 bit", "mu-law"])
def test_flac_loses_nothing_and_bits_are_counted_by_samples(coding):
    sound, draw = Sound(11025, coding), np.random.default_rng(0)
    events = [draw.integers(0, 256, sound.shape(n), dtype=np.uint8) for n in (700, 1)]
    files = [flac(event, sound) for event in events]
    for event, file in zip(events, files, strict=True):
        samples, rate = soundfile.read(io.BytesIO(file), dtype="int16")
        again = sound.symbols(samples) if coding == "16 bit" else (samples >> 8) + 128
        assert rate == 11025
        np.testing.assert_array_equal(again, event)
    rows = {row.name: row for row in codec_table(events, 256, sound=sound)}
    assert rows["FLAC, a file each"].bits_per_dim == pytest.approx(8 * sum(map(len, files)) / 701)
    assert rows["xz -9e, one file"].bits_per_dim >= sound.bits  # noise cannot be packed
    assert not any("PNG" in name for name in rows)


def test_sixteen_bits_are_packed_with_all_high_bytes_first_where_that_is_smaller():
    sound, t = Sound(8000, "16 bit"), np.arange(4000)
    noisy = 9000 * np.sin(t / 9) + np.random.default_rng(0).normal(size=4000) * 60
    row = next(
        r for r in codec_table([sound.symbols(noisy.astype(np.int16))], 256, sound=sound) if "xz" in r.name
    )
    assert row.best == "high bytes, then low bytes"


def test_what_is_no_image_of_one_size_is_measured_as_far_as_it_can_be(monkeypatch):
    monkeypatch.setitem(codec_table.__globals__, "find_spec", lambda name: None)  # no imagecodecs
    mixed = [np.zeros((4, 5, 1), int), np.ones((6, 3, 3), int)]
    names = [row.name for row in codec_table(mixed, 256)]
    assert names == [
        "PNG, a file each", "WebP lossless, a file each", "xz -9e, one file", "bzip2 -9, one file"
    ]  # fmt: skip
    words = [np.frombuffer(b"to be or not to be", np.uint8)]
    assert [row.name for row in codec_table(words, 256)] == ["xz -9e, one file", "bzip2 -9, one file"]
    wide = codec_table([np.arange(600)], 600)
    assert wide[0].bits_per_dim == pytest.approx(8 * len(xz(np.arange(600).astype("<u2").tobytes())) / 600)
    assert codec_table([], 256) == []


@pytest.mark.data
def test_codecs_on_cifar_are_those_of_the_literature(real_data):
    x = np.asarray(load("cifar10-first4000", split="test").x[:30])
    rows = {row.name: row.bits_per_dim for row in codec_table(x, 256)}
    assert 5.6 < rows["PNG, a file each"] < 6.1  # 5.883 on all 500
    assert 4.4 < rows["WebP lossless, a file each"] < 4.8  # 4.614
    assert 5.8 < rows["xz -9e, one file"] < 6.4  # 6.064
    assert 3.9 < rows["JPEG XL, a file each"] < 4.3  # 4.107


# ---- whole pages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return chainrule.fit("digits", out=out, steps=3, size="tiny", conditional=True)


@pytest.fixture(scope="module")
def image_page(image_run, tmp_path_factory):
    heard = []
    path = report(image_run, tmp_path_factory.mktemp("pages") / "deep" / "er", listen=heard.append)
    assert heard == ["samples", "classes", "completions", "surprise", "scores", "training", "codecs", "facts"]
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    return path


def test_the_page_of_an_image_chain(image_run, image_page):
    html = image_page.read_text(encoding="utf-8")
    found = check(html)
    bits = image_run.info["held_out"]["bits_per_dim"]
    assert f"{bits:.4f} bits/dim, exact" in found.seen
    assert f"{bits:.3f}\xa0bits/dim" in found.seen  # the model's bar: same items, same number
    assert f"{bits * 64 * math.log(2):.2f} nats" in found.seen
    for heading in (
        "Samples beside real data", "Samples of each class", "Completions", "Most and least surprising",
        "Bits/dim of each item", "Training", "Beside other codecs", "Facts",
    ):  # fmt: skip
        assert heading in found.seen
    assert f"chainrule report {image_run.path}" in found.seen
    assert len(html) < 1_000_000


def test_the_command_on_the_page_makes_the_run_again(tmp_path):
    first = tmp_path / "the first"
    options = {
        "size": "tiny",
        "settings": {"width": 6},
        "seed": 3,
        "conditional": True,
        "batch": 7,
        "lr": 1e-3,
    }
    run = chainrule.fit("digits", out=first, steps=2, **options)
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    (line,) = [line for line in found.seen.splitlines() if "chainrule fit digits" in line]
    words = shlex.split(line[line.index("chainrule fit") :])
    words[words.index("-o") + 1] = str(tmp_path / "again")
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    again = open_run(tmp_path / "again")
    assert again.info["settings"] == {"width": 6}
    assert sha256(again.model, TABLE) == sha256(run.model, TABLE)


def test_the_same_run_gives_the_same_page(image_run, image_page, tmp_path):
    again = report(open_run(image_run.path), tmp_path)
    assert again.read_bytes() == image_page.read_bytes()


def test_the_page_of_a_text_chain(tmp_path):
    words = "Fair is foul, and foul is fair: <b>hover</b> through the fog & filthy air.\n" * 40
    (tmp_path / "a <b>.txt").write_text(words)
    run = chainrule.fit(str(tmp_path / "a <b>.txt"), out=tmp_path / "run", steps=3, size="tiny")
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert "char-lstm on" in found.seen
    assert "<b>hover</b> through the fog & filthy air." in found.seen
    assert "bits/byte" in found.seen
    assert "xz -9e, one file" in found.seen
    assert "PNG" not in found.seen


def test_the_page_of_an_array_chain(tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (40, 12))
    np.save(tmp_path / "x.npy", x.astype(np.uint8))
    run = chainrule.fit(str(tmp_path / "x.npy"), "uniform", out=tmp_path / "run", steps=1)
    assert "8.0000 bits/dim" in check(report(run, tmp_path / "page").read_text(encoding="utf-8")).seen


def test_the_page_of_a_code(tmp_path):
    run = chainrule.fit("digits", "pca", out=tmp_path / "run", settings={"n_components": 7})
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert "Each image became 7 numbers" in found.seen
    assert "pca on digits" in found.seen


def test_the_page_of_a_sparse_code_of_patches(tmp_path):
    rng = np.random.default_rng(0)
    x = np.clip(rng.integers(-9, 10, (3, 40, 40)).cumsum(1).cumsum(2) + 128, 0, 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    settings = {"n_components": 20, "activation": {"kind": "top-k", "k": 3}, "epochs": 3}
    reading = {"patches": 6, "count": 400, "seed": 7}
    source, out = str(tmp_path / "x.npy"), tmp_path / "run"
    run = chainrule.fit(source, "sparse-autoencoder", out=out, settings=settings, size="tiny", **reading)
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    headings = [
        "The atoms",
        "Images as sums of atoms",
        "Originals and",
        "How sparse the codes are",
        "Training",
    ]
    for words in [*headings, "All 20 atoms", "of 20 numbers are not 0 on average", "loss"]:
        assert words in found.seen, words
    assert "bits/" not in found.seen
    assert "--patches 6 --count 400" in found.seen
    subject = reporting.Subject(run, *reporting.items_of(run, None))
    assert np.count_nonzero(subject.codes, axis=1).max() <= 3
    # the page shows the patches that the run held out, cut again by the same seed
    everything = load(source, patches=6, count=400, seed=7)
    np.testing.assert_array_equal(subject.data.x, train_holdout(everything, 0.05)[1].x)


def test_the_sums_of_a_page_are_the_reconstructions(tmp_path, monkeypatch):
    run = chainrule.fit("digits", "sparse-autoencoder", out=tmp_path / "run", size="tiny")
    subject = reporting.Subject(run, *reporting.items_of(run, None))
    given = []
    monkeypatch.setattr(sections, "sums_section", lambda *arrays: given.extend(arrays) or "")
    reporting.atoms(subject)
    reporting.sums(subject)
    images, weights, atoms, prepared = given
    assert not prepared
    assert len(images) == reporting.SUMS
    offset = run.code.decoder_bias_.reshape(8, 8, 1)
    decoded = np.einsum("nk,khwc->nhwc", weights, atoms) + offset
    np.testing.assert_allclose(decoded, run.code.inverse_transform(weights), atol=1e-4)
    originals = np.stack(subject.events(1000)).astype(float)
    for image in images:
        assert np.abs(originals - (image + offset)).max((1, 2, 3)).min() < 1e-4


def test_the_sums_of_prepared_images_are_what_the_lasso_saw(tmp_path, monkeypatch):
    settings = {"penalty": 0.05, "n_components": 40}
    run = chainrule.fit("digits", "sparse-coding", out=tmp_path / "run", settings=settings, steps=40)
    subject = reporting.Subject(run, *reporting.items_of(run, None))
    given = []
    monkeypatch.setattr(sections, "sums_section", lambda *arrays: given.extend(arrays) or "")
    monkeypatch.setattr(reporting, "is_sparse", lambda codes: True)
    reporting.sums(subject)
    images, weights, atoms, prepared = given
    assert prepared
    left = images - np.einsum("nk,khwc->nhwc", weights, atoms)
    correlations = np.abs(np.einsum("nhwc,khwc->nk", left, atoms))
    assert correlations.max() < 0.05 * 1.01  # no atom correlates with the rest by more than λ
    assert np.square(left).sum() < 0.5 * np.square(images).sum()


@pytest.mark.parametrize("name", ["autoencoder", "deep-autoencoder", "stacked-autoencoder", "rbm"])
def test_the_page_of_a_code_shows_what_its_first_layer_looks_for(name, tmp_path, monkeypatch):
    run = chainrule.fit("digits", name, out=tmp_path / "run", size="tiny", steps=60)
    given = []
    monkeypatch.setattr(plots, "atoms_sheet", lambda x, *a, **k: given.append(x) or Image.new("RGB", (9, 9)))
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert ("What its units look for" in found.seen) == (name != "rbm")
    assert ("The atoms" in found.seen) == (name == "rbm")  # which are the same
    np.testing.assert_array_equal(given, [run.code.filters()])


def test_the_filters_of_convolutions_are_pictures_and_those_of_other_numbers_none(tmp_path):
    settings = {"layers": [5], "convolution": {"kind": "convolution", "kernel": 3}, "epochs": 1}
    run = chainrule.fit("digits", "stacked-autoencoder", out=tmp_path / "run", settings=settings)
    subject = reporting.Subject(run, None, "nothing")
    assert subject.filters.shape == (5, 3, 3, 1)
    assert "All 5 filters" in reporting.filters(subject)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 5, (40, 12)).astype(np.uint8))
    run = chainrule.fit(str(tmp_path / "x.npy"), "autoencoder", out=tmp_path / "flat", size="tiny")
    assert reporting.filters(reporting.Subject(run, None, "nothing")) == ""


def test_the_page_of_a_training_in_stages(tmp_path):
    run = chainrule.fit("digits", "deep-autoencoder", out=tmp_path / "run", size="tiny", steps=320)
    assert [line["stage"] for line in run.metrics()] == [1] * 2 + [2] * 2 + [3] * 12
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert "Stage 3 of 3" in found.seen
    assert sum(image.get("class") == "drawing" for image in found.images()) == 3


def test_codes_that_are_no_images_have_a_page_without_pictures(tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (40, 12)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    run = chainrule.fit(str(tmp_path / "x.npy"), "sparse-autoencoder", out=tmp_path / "run", size="tiny")
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert "The atoms" not in found.seen
    assert "Facts" in found.seen


def test_a_run_whose_data_are_gone_still_has_a_page(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (30, 4, 4, 1), dtype=np.uint8)
    path = tmp_path / "x.npy"
    np.save(path, x)
    run = chainrule.fit(str(path), out=tmp_path / "run", steps=2, size="tiny")
    path.unlink()
    found = check(report(run, tmp_path / "page").read_text(encoding="utf-8"))
    assert "No data to show" in found.seen
    assert "Facts" in found.seen
    assert "x.npy" in found.seen


def test_data_can_be_given_and_may_differ_in_size(tmp_path, image_run):
    rng = np.random.default_rng(0)
    mixed = [rng.integers(0, 17, (h, w, 1)) for h, w in ((6, 9), (8, 8), (9, 6))]
    data = Dataset(mixed, 17, "image", ["a", HOSTILE, "c"], np.array([0, 1, 2]), source="mine")
    found = check(report(image_run, tmp_path, data=data).read_text(encoding="utf-8"))
    assert "the items of mine" in found.seen
    assert "PNG, a file each" in found.seen
    assert "PNG, one sheet" not in found.seen


def test_what_would_take_too_long_is_told_instead_of_drawn(image_run, tmp_path, monkeypatch):
    monkeypatch.setattr("chainrule.report.PATIENCE", 0.0)
    found = check(report(image_run, tmp_path).read_text(encoding="utf-8"))
    assert "Drawing these would take more than" in found.seen
    assert f"chainrule sample {image_run.path}" in found.seen
    assert "Most and least surprising" in found.seen


def test_a_page_that_cannot_be_written_is_one_clear_line(image_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ChainruleError, match="cannot write the page into"):
        report(image_run, tmp_path / "file")


# ---- in a browser --------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page with")


def chromium(folder, page, *options):
    """Run Chromium without a window, without a network, on one file."""
    quiet = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]  # fmt: skip
    command = [CHROMIUM, *quiet, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def looked_at(html, width, folder):
    """What a browser says about a page in a window of so many pixels."""
    asks = """<script>onload = () => { const page = document.querySelector("iframe").contentDocument;
      const images = [...page.images];
      document.body.textContent = JSON.stringify({ width: page.documentElement.scrollWidth,
        images: images.length, loaded: images.filter(i => i.complete && i.naturalWidth).length,
        asked: performance.getEntriesByType("resource").length, mode: page.compatMode }) }</script>"""
    inner = escape(html)
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{inner}"></iframe>'
    outer = folder / "outer.html"
    outer.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{frame}{asks}", encoding="utf-8")
    dom = chromium(folder, outer, "--dump-dom", "--virtual-time-budget=5000")
    return json.loads(re.search(r"\{.*\}", dom).group())


@in_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_every_picture_loads_and_nothing_is_wider_than_the_screen(image_page, tmp_path, width):
    answer = looked_at(image_page.read_text(encoding="utf-8"), width, tmp_path)
    assert answer["mode"] == "CSS1Compat"
    assert answer["width"] <= width
    assert answer["images"] == answer["loaded"] > 40
    assert answer["asked"] == 0


@in_browser
def test_the_page_is_light_by_day_and_dark_by_night(image_page, tmp_path):
    tones = {}
    for name, scheme in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{name}.png"
        look = f"--blink-settings=preferredColorScheme={scheme}"
        chromium(tmp_path, image_page, look, f"--screenshot={shot}", "--window-size=900,1400")
        tones[name] = np.asarray(Image.open(shot).convert("L"))
    assert tones["light"][5, 5] > 230
    assert tones["dark"][5, 5] < 50
    assert all(np.std(tone) > 20 for tone in tones.values())  # something is drawn
