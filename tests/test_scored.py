"""The page of a scoring: exact bits under every symbol, of any data, and never larger than it says."""

import html as entities
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule import score, store
from chainrule.chains.counting import ContextMixing
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.data import Dataset
from chainrule.models import TABLE, Run
from chainrule.report import scored
from chainrule.report.scored import PASSAGE, PASSAGES, ROOM, TEXTS, Watch, surprise_page, surprising
from test_report import HOSTILE, check, in_browser, looked_at, pictures

WICKED = (
    b"<script>alert('x')</script>&amp;\n\x00\x1b[31m\x7f\xff\xc3 \xe2\x80\xae txet </pre>\xf0\x9f\x91\xa9 \xc3\xa9"
    b'\xe2\x80\xa8\r\n\t\xed\xa0\x80\xc0\xaf"><img src=//evil.example/x onerror=alert(1)>'
)


def run_of(chain, kind="text"):
    return Run(None, chain, {"model": "made-up", "kind": kind, "data": "somewhere"})


def texts(*some, names=None, **more):
    x = [np.frombuffer(text, np.uint8) for text in some]
    return Dataset(x, 256, "text", names or [f"{i}.txt" for i in range(len(x))], source="texts", **more)


def page_of(chain, data):
    watch = Watch(data)
    scores = score(chain, data, hear=watch)
    return surprise_page(run_of(chain, data.kind), data, scores, watch, ["chainrule", "score"]), scores, watch


def letters(html):
    """(character, bits) of every coloured letter on a page, in order."""
    found = re.findall(r"<i(?: class=(?:\w+|\"[\w ]+\"))? title=([\d.]+)>(.*?)</i>", html, re.DOTALL)
    return [(entities.unescape(letter), float(bits)) for bits, letter in found]


def mixer():
    return ContextMixing(256, bits=12)


# ---- the bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["counting", "char-lstm", "mlstm", "uniform"])
def test_listening_changes_no_score_and_hears_all_of_it(name):
    torch.manual_seed(0)
    cls = store.resolve(name, TABLE)
    chain, data = cls(256, **cls.SIZES["tiny"]), texts(b"abc", WICKED, b"abc", b"z" * 50)
    heard = {}
    loud, quiet = score(chain, data, hear=heard.__setitem__), score(chain, data)
    np.testing.assert_array_equal(loud.nats, quiet.nats)
    assert sorted(heard) == [0, 1, 2, 3]
    for i, nats in heard.items():
        assert nats.shape == data.x[i].shape
        assert nats.sum() == pytest.approx(quiet.nats[i], rel=1e-12)


def test_a_page_scores_once(monkeypatch):
    chain, calls = mixer(), []
    of_chain = chain.log_probs
    monkeypatch.setattr(chain, "log_probs", lambda x, context: calls.append(x.shape) or of_chain(x, context))
    page_of(chain, texts(b"to be or not to be" * 300))
    assert calls == [(1, 5400)]


def test_every_letter_tells_its_own_bits():
    text = "To bé, or nöt to bé: 数 <b>&amp;\n".encode() * 3
    chain, data = mixer(), texts(text)
    html, scores, _ = page_of(chain, data)
    bits = -chain.log_probs(torch.tensor(np.array(data.x)).long())[0].numpy() / math.log(2)
    found = letters(html)
    assert "".join(letter for letter, _ in found) == text.decode()
    starts = np.cumsum([0] + [len(letter.encode()) for letter, _ in found])
    each = [bits[a:b].sum() for a, b in pairwise(starts)]
    np.testing.assert_allclose([b for _, b in found], each, atol=0.0051)
    assert sum(each) == pytest.approx(scores.nats.sum() / math.log(2))
    assert f"{scores.bits_per_dim:.4f}" in check(html).seen


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_any_bytes_make_a_valid_page_of_visible_characters(some):
    html, scores, _ = page_of(mixer(), texts(*some))
    check(html)
    shown = letters(html)
    total = scores.nats.sum() / math.log(2)
    assert sum(bits for _, bits in shown) == pytest.approx(total, abs=0.006 * len(shown) + 1e-6)
    for letter, _ in shown:
        assert letter in "\n\t\u200c\u200d" or letter.isprintable()


def test_hostile_texts_and_names_are_only_words():
    data = texts(WICKED, WICKED[::-1], names=[HOSTILE, f"{HOSTILE}2"], skipped=((HOSTILE, "because"),))
    html, _, _ = page_of(mixer(), data)
    found = check(html)
    assert "<script>alert('x')</script>&amp;" in found.seen
    for raw in "\u202e\u2028\x00\x1b\x7f\ud800":
        assert raw not in html
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert {"files left out", "1"} <= set(re.findall(r"<t[hd][^>]*>(.*?)</t", html))


@pytest.mark.parametrize(
    ("bits", "kind"), [(0.4, ""), (0.6, "s1"), (7.4, "s7"), (7.6, "s8"), (99, "s8"), (-1e-9, "")]
)
def test_a_ground_is_a_bit_deep(bits, kind):
    named = f" class={kind}" if kind else ""
    assert scored.letter("a", bits) == f"<i{named} title={max(bits, 0):.2f}>a</i>"
    assert scored.letter("\n", 3.0) == '<i class="s3 n" title=3.00>\n</i>'


# ---- what is shown, and what is left out ---------------------------------------------------------------


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=300),
    st.integers(1, 5),
    st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_passages_do_not_overlap_and_the_first_has_most_bits(bits, most, size):
    bits = np.array(bits)
    found = surprising(bits, most, size)
    assert 1 <= len(found) <= most
    assert all(b - a >= size for a, b in pairwise(sorted(found)))
    sums = [bits[i : i + size].sum() for i in found]
    starts = range(0, max(1, len(bits) - size + 1), max(1, size // 2))
    assert sums[0] == pytest.approx(max(bits[i : i + size].sum() for i in starts))
    assert all(a >= b - 1e-9 for a, b in pairwise(sums))


def test_a_long_text_makes_a_small_page_that_says_what_is_left_out():
    draw = np.random.default_rng(0)
    text = b"All work and no play makes Jack a dull boy.\n" * 23000
    noise = draw.integers(33, 127, 240, np.uint8).tobytes()
    text = text[:700_000] + noise + text[700_000:]
    html, scores, watch = page_of(mixer(), texts(text))
    assert len(text) > 1_000_000
    assert len(html) < 1_500_000
    seen = check(html).seen
    assert f"Shown are the first {ROOM:,}, at " in seen
    assert f"the other {len(text) - ROOM:,} are left out" in seen
    assert f"{scores.bits_per_dim:.4f}" in seen
    passages = watch.passages()
    assert len(passages) == PASSAGES
    assert abs(passages[0].start - 700_000) <= PASSAGE // 2
    assert f"byte {passages[0].start:,}: {passages[0].bits.mean():.3f} bits/byte" in seen
    assert watch.course.argmax() == 700_000 * scored.STRETCHES // len(text)


def test_of_many_texts_the_most_surprising_are_shown():
    draw = np.random.default_rng(0)
    some = [b"a" * 500 if i % 20 else draw.integers(33, 127, 500, np.uint8).tobytes() for i in range(200)]
    html, scores, watch = page_of(mixer(), texts(*some))
    shown = [excerpt.item for excerpt in watch.beginnings()]
    assert len(shown) == TEXTS
    assert shown == np.argsort(-scores.each(), kind="stable")[:TEXTS].tolist()
    seen = check(html).seen
    assert f"{200 - TEXTS} less surprising texts are not shown" in seen
    assert "20 items of 200; --json lists all." in seen


def test_no_character_is_cut_at_the_end_of_an_excerpt(monkeypatch):
    monkeypatch.setattr(scored, "ROOM", 1000)
    text = ("é数👩" * 400).encode()
    html, _, watch = page_of(mixer(), texts(text))
    for excerpt in [*watch.beginnings(), *watch.passages()]:
        some = text[excerpt.start : excerpt.start + len(excerpt.bits)]
        assert set(some.decode()) <= set("é数👩")
    assert "\ufffd" not in html


# ---- images and arrays ---------------------------------------------------------------------------------


def images(*shapes, levels=17):
    draw = np.random.default_rng(0)
    x = [draw.integers(0, levels, shape, np.uint8) for shape in shapes]
    return Dataset(x, levels, "image", [f"{HOSTILE}{i}" for i in range(len(x))], source=HOSTILE)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_maps_of_their_bits_on_one_scale(channels):
    torch.manual_seed(0)
    chain = GatedPixelCNN(17, channels=channels, **GatedPixelCNN.SIZES["tiny"])
    data = images((6, 7, channels), (4, 5, channels), (6, 7, channels))
    html, scores, watch = page_of(chain, data)
    check(html)
    order = np.argsort(-scores.each(), kind="stable").tolist()
    shown = watch.beginnings()
    assert [excerpt.item for excerpt in shown] == order
    most = np.quantile(np.concatenate([excerpt.bits.ravel() for excerpt in shown]), 0.995)
    for excerpt, (_, heat) in zip(shown, zip(*[iter(pictures(html))] * 2, strict=True), strict=True):
        x = torch.tensor(data.x[excerpt.item].astype(np.int64))[None]
        bits = -chain.log_probs(x)[0].sum(2).detach().numpy() / math.log(2)
        assert bits.sum() == pytest.approx(scores.nats[excerpt.item] / math.log(2))
        scale = heat.shape[0] // len(bits)
        np.testing.assert_allclose(heat[::scale, ::scale, 3], 255 * np.minimum(bits / most, 1), atol=0.6)


def test_large_images_are_few_and_shown_smaller():
    chain = GatedPixelCNN(17, **GatedPixelCNN.SIZES["tiny"])
    data = images(*[(20, 1300, 1)] * 3, *[(700, 30, 1)] * 20)
    html, _, watch = page_of(chain, data)
    seen = check(html).seen
    assert len(watch.beginnings()) == scored.IMAGES
    assert "Large ones are shown smaller." in seen
    assert f"{23 - scored.IMAGES} less surprising images are not shown here" in seen
    assert all(max(p.shape) <= scored.SIDE for p in pictures(html))
    assert scored.shown_images(Dataset(np.zeros((9, 900, 2000, 3), np.uint8), 256, "image")) == 4


def test_arrays_have_a_table():
    data = Dataset(np.arange(60).reshape(10, 6) % 5, 5, "array", [str(i) for i in range(10)], source="x.npy")
    html, scores, _ = page_of(ContextMixing(5, bits=10), data)
    seen = check(html).seen
    assert f"{scores.bits_per_dim:.4f}" in seen
    assert "10 items." in seen


def test_the_page_is_the_same_every_time_and_states_its_context_rule():
    (one, *_), (two, *_) = (page_of(mixer(), texts(b"to be " * 99, b"or not")) for _ in range(2))
    assert one == two
    assert "Context rule: carried state: all symbols before it." in check(one).seen


@in_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_no_page_is_wider_than_the_screen(width, tmp_path):
    chain = GatedPixelCNN(17, **GatedPixelCNN.SIZES["tiny"])
    long = b"to be or not to be " * 99 + b"x" * 3000
    for model, data in (
        (mixer(), texts(WICKED, long)),
        (mixer(), texts(long)),
        (chain, images(*[(30, 300, 1)] * 9)),
    ):
        answer = looked_at(page_of(model, data)[0], width, tmp_path)
        assert answer["mode"] == "CSS1Compat"
        assert answer["width"] <= width
        assert answer["images"] == answer["loaded"]
        assert answer["asked"] == 0
