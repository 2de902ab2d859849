"""Pictures show what they are given, at the right place, in the right tone, and never run what they show."""

import base64
import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from chainrule import plots
from chainrule.errors import ChainruleError


class Text(HTMLParser):
    """What a reader of some HTML sees."""

    def __init__(self, html):
        super().__init__()
        self.seen, self.tags = "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.seen += data


def test_tones_reach_from_black_to_white():
    ramp = np.arange(17).reshape(1, 17, 1)
    tones = plots.pixels(ramp, levels=17)
    assert tones.shape == (1, 17, 3)
    assert tones[0, :, 0].tolist() == [round(255 * i / 16) for i in range(17)]
    assert plots.pixels(np.array([[[0], [1]]]), levels=2)[0, :, 0].tolist() == [0, 255]
    every = np.arange(256).reshape(16, 16, 1)
    np.testing.assert_array_equal(plots.pixels(every, levels=256)[..., :1], every)
    np.testing.assert_array_equal(plots.pixels(np.array([[[-3.0], [7.6], [99.0]]]), 256)[0, :, 0], [0, 8, 99])


@given(
    x=arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.sampled_from([1, 3]))),
    columns=st.integers(1, 6),
    scale=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_of_every_image_stands_in_its_cell(x, columns, scale):
    n, h, w, c = x.shape
    grid = np.asarray(plots.image_grid(x, levels=256, columns=columns, scale=scale))
    step = np.array([h, w]) * scale + plots.GAP
    for i in range(n):
        top, left = np.array([i // columns, i % columns]) * step
        cell = grid[top : top + h * scale, left : left + w * scale]
        assert (cell[..., 3] == 255).all()
        for dy in range(scale):  # nearest neighbour: every copy of a pixel is that pixel
            for dx in range(scale):
                np.testing.assert_array_equal(cell[dy::scale, dx::scale, :c], x[i])
    assert (grid[..., 3] == 255).sum() == n * h * w * scale**2  # and the rest is transparent


def test_small_images_are_enlarged_and_large_ones_left():
    assert plots.image_grid(np.zeros((1, 8, 8, 1)), 17).size == (64, 64)
    assert plots.image_grid(np.zeros((1, 300, 200, 3)), 256).size == (200, 300)
    assert plots.image_grid(np.zeros((10, 8, 8, 1)), 17, scale=1).size == (4 * 10 - 2, 3 * 10 - 2)


def test_images_of_several_sizes_share_a_grid():
    mixed = [np.full((2, 4, 1), 1), np.full((6, 2, 3), 1)]
    grid = np.asarray(plots.image_grid(mixed, levels=2, scale=1))
    assert grid.shape == (6, 4 + 2 + 4, 4)
    assert (grid[2:4, 0:4] == 255).all()
    assert (grid[:, 7:9] == 255).all()
    assert (grid[..., 3] == 255).sum() == 8 + 12


def test_what_is_not_known_is_veiled():
    x, known = np.full((1, 4, 4, 1), 16), np.zeros((1, 4, 4, 1), bool)
    known[0, :2] = True
    grid = np.asarray(plots.image_grid(np.concatenate([x, x]), 17, scale=1, known=[known[0], None]))
    assert (grid[:2, :4] == 255).all()
    assert (grid[2:, :4] == plots.MASKED).all()
    assert (grid[:, 6:] == 255).all()


def test_columns_have_their_names_and_cover_what_is_hidden():
    known = np.zeros((8, 8, 1), bool)
    known[:4] = True
    groups = {"covered": np.zeros((3, 1, 8, 8, 1)), "completed": np.zeros((3, 4, 8, 8, 1))}
    picture = plots.image_columns(groups, 2, {"covered": known}, form=plots.raster)
    tones = np.asarray(picture).astype(int)
    cover = np.abs(tones - plots.COVER[:3]).max(2) < 3
    dark = tones.max(2) < 3
    assert cover.sum() == pytest.approx(dark[:, : picture.width // 5].sum(), rel=0.1)  # half of each
    assert not cover[:, picture.width // 3 :].any()
    for name in groups:
        assert f">{name}<" in plots.image_columns(groups, 2)


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (1, 8, 8), (1, 8, 8, 2)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ChainruleError):
        plots.image_grid(np.zeros(shape), 17)


def test_figures_are_svg_without_fixed_ink_and_the_same_every_time():
    def draw():
        x = np.arange(2000)
        lines = {"training": (x, 1 + np.exp(-x / 99)), "held <out> $x_1^": ([0, 999, 1999], [2, 1.2, 1.1])}
        return plots.curve(lines, "seconds", "bits/dim"), plots.histogram(
            {"a": x % 17, "b": x % 5}, "bits/dim"
        )

    for figure, again in zip(draw(), draw(), strict=True):
        assert figure == again
        ET.fromstring(figure)
        assert plots.INK not in figure
        assert "prefers-color-scheme:dark" in figure
        assert len(figure) < 60_000
    assert "held &lt;out&gt; $x_1^" in draw()[0]


@pytest.mark.parametrize("y", [[], [1.0], [2.0, 2.0], [np.nan, 1.0, np.inf]])
def test_figures_take_whatever_a_training_leaves(y):
    ET.fromstring(plots.curve({"training": (range(len(y)), y)}, "step", "bits/dim"))
    ET.fromstring(plots.histogram({"items": y}, "bits/dim"))


def test_thinning_keeps_the_mean_and_the_ends():
    y = np.linspace(0, 1, 5000)
    thin = plots.thinned(y)
    assert len(thin) == plots.MOST_POINTS
    assert thin.mean() == pytest.approx(0.5)
    assert thin[0] < 0.002
    assert thin[-1] > 0.998
    rows = plots.thinned(np.stack([y, -3 * y], 1), 100)
    np.testing.assert_allclose(rows, np.stack([plots.thinned(y, 100), -3 * plots.thinned(y, 100)], 1))


# ---- atoms ---------------------------------------------------------------------------------------------


@given(
    atoms=arrays(
        np.float64,
        st.tuples(*[st.integers(1, 4)] * 3, st.sampled_from([1, 3])),
        elements=st.floats(-9, 9, allow_subnormal=False),
    ),
    columns=st.integers(1, 5),
    scale=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_atom_stands_in_its_cell_at_its_own_scale_around_gray(atoms, columns, scale):
    n, h, w, c = atoms.shape
    order = np.arange(n)[::-1]
    sheet = np.asarray(plots.atoms_sheet(atoms, order, columns, scale))
    for i, k in enumerate(order):
        top, left = i // columns * (h * scale + 1), i % columns * (w * scale + 1)
        cell = sheet[top : top + h * scale, left : left + w * scale]
        assert (cell[..., 3] == 255).all()
        largest = np.abs(atoms[k]).max() or 1
        tones = np.rint(127.5 + 127.5 * (atoms[k] / largest))
        for dy in range(scale):
            for dx in range(scale):
                np.testing.assert_array_equal(cell[dy::scale, dx::scale, :c], tones)
    assert (sheet[..., 3] == 255).sum() == n * h * w * scale**2  # and the rest is transparent


def test_zero_is_gray_and_the_largest_magnitude_black_or_white():
    sheet = np.asarray(plots.atoms_sheet([[[0, 2.0, -1]], [[0, 3, -6]], [[0, 0, 0]]], columns=1, scale=1))
    assert sheet[::2, :, 0].tolist() == [[128, 255, 64], [128, 191, 0], [128, 128, 128]]
    assert plots.atoms_sheet(np.zeros((256, 12, 12))).size == (16 * 49 - 1, 16 * 49 - 1)
    assert plots.atoms_sheet(np.zeros((9, 12, 12)), order=[4, 2]).size == (97, 48)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4), (2, 4, 4, 2)])
def test_what_are_no_atoms_is_refused(shape):
    with pytest.raises(ChainruleError):
        plots.atoms_sheet(np.zeros(shape))


def texts(figure):
    return ["".join(e.itertext()).strip() for e in ET.fromstring(figure).iter() if e.tag.endswith("}text")]


def drawings(figure):
    """The pixels of the pictures that an SVG holds, in their order."""
    uris = [
        e.get("{http://www.w3.org/1999/xlink}href")
        for e in ET.fromstring(figure).iter()
        if e.tag.endswith("}image")
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(u.partition(",")[2]))))[..., :3] for u in uris]


def some_atoms():
    atoms = np.random.default_rng(0).normal(size=(70, 4, 5))
    weights = np.zeros(70)
    weights[[36, 42, 65]] = 0.8, -0.301, 12.04
    return np.einsum("k,khw->hw", weights, atoms), weights, atoms


def test_an_equation_shows_the_image_and_every_atom_with_its_weight():
    image, weights, atoms = some_atoms()
    figure = plots.equation(image, weights, atoms)
    assert figure == plots.equation(image, weights, atoms)
    assert texts(figure) == ["x", "≈ 0.8", "φ₃₆", "− 0.3", "φ₄₂", "+ 12", "φ₆₅"]
    shown = drawings(figure)
    assert len(shown) == 4
    for picture, wanted in zip(shown, [image, *atoms[[36, 42, 65]]], strict=True):
        np.testing.assert_array_equal(picture[4::8, 4::8], plots.toned(wanted))  # in the middle of its square
    assert plots.INK not in figure
    assert "prefers-color-scheme:dark" in figure


def test_of_many_terms_an_equation_shows_the_largest_and_says_so():
    image, _, atoms = some_atoms()
    weights = np.arange(-23, 47) / 23  # 70, of which one is 0
    figure = plots.equation(image, weights, atoms, most=2)
    assert texts(figure) == ["x", "≈ 2", "φ₆₈", "+ 2", "φ₆₉", "+ 67 smaller"]
    assert texts(plots.equation(image, np.zeros(70), atoms)) == ["x ≈ 0"]
    assert len(drawings(plots.equation(np.zeros((4, 5, 3)), weights, np.zeros((70, 4, 5, 3))))) == 8


@pytest.mark.parametrize("weights", [np.ones(3), np.ones((70, 1))])
def test_an_equation_needs_a_weight_for_each_atom(weights):
    image, _, atoms = some_atoms()
    with pytest.raises(ChainruleError, match="for 70 atoms"):
        plots.equation(image, weights, atoms)


@pytest.mark.parametrize(
    ("number", "text"), [(0.8, "0.8"), (0.0312, "0.031"), (123.4, "120"), (1e-7, "0.0000001")]
)
def test_weights_have_two_digits(number, text):
    assert plots.rounded(number) == text


def some_fits(n=3):
    return SimpleNamespace(
        x=np.array([2.0, 5, 7])[:n],
        y=np.array([3.0, 5, 1])[:n],
        orientation=np.array([0, np.pi / 2, np.pi / 4])[:n],
        frequency=np.array([0.1, 0.3, 0.6])[:n],
        width_along=np.array([1.0, 2, 99])[:n],
    )


def test_lines_lie_along_the_stripes():
    ends = plots.segments(some_fits(), side=12)
    np.testing.assert_allclose(ends[0], [[1.5, 3], [2.5, 3]])  # level
    np.testing.assert_allclose(ends[1], [[5, 6], [5, 4]], atol=1e-12)  # upright; y grows downwards
    (x0, y0), (x1, y1) = ends[2]
    assert x1 - x0 == pytest.approx(y0 - y1)  # rising to the right
    assert np.hypot(x1 - x0, y1 - y0) == pytest.approx(3)  # no longer than a quarter of the square


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_plot_of_gabor_functions_is_svg_and_the_same_every_time(n):
    figure = plots.gabor_plot(some_fits(n), side=12)
    assert figure == plots.gabor_plot(some_fits(n), side=12)
    assert plots.INK not in figure
    assert "position in 12 × 12 pixels" in texts(figure)
    assert figure.count(plots.BLUE) >= n


def test_bars_are_as_long_as_their_numbers():
    html = plots.bars([("ours <b>", 1.0), ("theirs", 4.0)], "bits/dim", own=["ours <b>"])
    text = Text(html)
    assert "ours <b>" in text.seen
    assert "1.000\xa0bits/dim" in text.seen
    widths = [a["style"] for _, a in text.tags if "width:" in a.get("style", "")]
    ours, theirs = widths
    assert "width:25.00%" in ours
    assert "width:100.00%" in theirs
    assert plots.ORANGE in ours
    assert plots.BLUE in theirs
    assert Text(plots.bars([], "bits/dim")).seen == ""


def test_text_is_escaped_and_every_character_has_its_bits():
    source = "<script>é&\n".encode()
    bits = np.zeros(len(source))
    bits[8:10] = 3, 5  # the two bytes of é together reach 8 bits, the deepest ground
    html = plots.surprise_text(np.frombuffer(source, np.uint8), bits)
    assert Text(html).seen == "<script>é&\n"
    assert [tag for tag, _ in Text(html).tags] == ["pre", "span"]
    assert '72%)">é</span>' in html


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_can_be_shown(data):
    html = plots.show_text(np.frombuffer(data, np.uint8))
    seen = Text(html).seen
    assert all(c in "\n\t" or ord(c) >= 32 for c in seen)
    html.encode("utf-8")
    if data.isascii() and data.decode().isprintable():
        assert seen == data.decode()


def test_the_first_term_of_a_sum_has_no_space_before_a_minus():
    assert plots.in_words(np.array([-2.6, 0, -0.42])) == "x ≈ −2.6 φ₀ − 0.42 φ₂"


def test_rows_of_images_have_their_names_and_differ_in_length():
    rows = {"test <1>": np.ones((3, 4, 4, 1)), "two\nlines": np.zeros((2, 4, 4, 1))}
    text = plots.image_rows(rows, levels=2)
    ET.fromstring(text)
    assert "test &lt;1&gt;" in text
    picture = np.asarray(plots.image_rows(rows, levels=2, form=plots.raster))
    wide, high = 3 * 64 + 2 * plots.GAP, 2 * 64 + 6
    assert picture.shape[0] >= 2 * high
    assert picture.shape[1] > 2 * wide  # with room for the names
    black = (picture == 0).all(2)
    assert black.sum() == pytest.approx(2 * (2 * 64) ** 2, rel=0.05)  # the two images of the second row


def test_labels_of_maps_never_stand_on_each_other():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(200, 2)), rng.integers(0, 10, 200)
    text = plots.class_maps({"one": points, "other": 5 * points}, labels)
    ET.fromstring(text)
    assert ">other</text>" in text
    assert plots.class_maps({"one": points}, labels, form=plots.raster).width > 500
    for places in (rng.random((10, 2)), np.full((10, 2), 0.5), 0.5 + 0.01 * rng.normal(size=(10, 2))):
        found = plots.apart(places)
        far = np.sqrt(np.square(found[:, None] - found[None]).sum(2)) + np.eye(10)
        assert far.min() > 0.075
    np.testing.assert_array_equal(plots.apart(np.eye(2)).round(5), np.eye(2))


# ---- sounds --------------------------------------------------------------------------------------------


def tone(hertz, amplitude=32767, rate=8000, seconds=0.5):
    return amplitude * np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))


@pytest.mark.parametrize("rate", [8000, 12000, 44100])
def test_a_tone_is_as_loud_as_it_is_at_its_own_frequency(rate):
    for share in (0.1, 0.25, 0.4):
        found = plots.decibels(tone(share * rate, rate=rate), rate)[:, 20:-20]
        place = found.mean(1).argmax() / (len(found) - 1) / 2
        assert place == pytest.approx(share, abs=0.005)
        softer = plots.decibels(tone(share * rate, 32767 / 2, rate), rate)[:, 20:-20]
        np.testing.assert_allclose((found - softer)[found > -60], 20 * np.log10(2), atol=1e-6)
    exact = plots.decibels(tone(rate / 8, rate=rate), rate)  # in the middle of a band
    few = len(exact) < 129 or rate < 20_000
    assert exact.max() == pytest.approx(0 if few else 10 * np.log10(1.5 / 4), abs=0.3)


@given(length=st.integers(0, 3000), rate=st.sampled_from([1, 4000, 8000, 96000]), given=st.integers(0, 3000))
@settings(max_examples=8, deadline=None)
def test_sounds_of_any_length_have_a_picture(length, rate, given):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, length).astype(np.int16)
    figure = plots.sound_plot(samples, rate, np.ones(length), given)
    assert figure == plots.sound_plot(samples, rate, np.ones(length), given)
    ET.fromstring(figure)
    assert plots.INK not in figure
    assert "prefers-color-scheme:dark" in figure
    assert {"amplitude", "kHz", "bits/sample", "seconds"} <= set(texts(figure))
    assert len(figure) < 120_000
    rows, columns = plots.decibels(samples, rate).shape
    assert 0 < rows <= plots.ROWS
    assert 0 < columns <= plots.COLUMNS


def test_silence_is_clear_and_the_loudest_place_is_not():
    levels = plots.decibels(np.zeros(4000), 8000)
    assert not plots.shaded(levels)[..., 3].any()
    shades = plots.shaded(np.array([[-10.0, -10 - plots.DEEP / 2, -10 - plots.DEEP, -300]]))
    assert shades[0, :, 3].tolist() == [255, 204, 0, 0]
    assert shades[0, 0, :3].tolist() == [int(plots.ORANGE[i : i + 2], 16) for i in (1, 3, 5)]
    faint = plots.shaded(np.full((1, 1), plots.FAINT - plots.DEEP / 2))  # a sound that is nowhere loud
    assert faint[0, 0, 3] == 204


def test_windows_of_surprise_keep_its_mean():
    bits = np.random.default_rng(0).exponential(size=8000)
    windows = plots.in_windows(bits, 8000)
    assert len(windows) == 200
    assert windows.mean() == pytest.approx(bits.mean())
    np.testing.assert_allclose(windows[3], bits[120:160].mean())


def test_what_was_given_is_gray_and_ends_at_a_dashed_line():
    loud = tone(300, seconds=0.2)
    plain, half = (plots.sound_plot(loud, 8000, given=given) for given in (0, 800))
    assert "stroke-dasharray" not in plain
    assert half.count("stroke-dasharray") == 2  # on both axes
    assert plain.count("var(--ink)") < half.count("var(--ink)")
    assert "stroke-dasharray" not in plots.sound_plot(loud, 8000, given=1600)
