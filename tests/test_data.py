"""Files, named sets, and the drawing of batches."""

import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chainrule.data import (
    Dataset,
    arrays,
    batches,
    describe,
    draw,
    files,
    images,
    load,
    named,
    patches,
    steps_per_epoch,
    streams,
    train_holdout,
)
from chainrule.data.files import read_xz
from chainrule.data.homes import Home
from chainrule.data.named import NAMED
from chainrule.errors import ChainruleError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, x: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x).save(path, **options)


def one_line(action) -> str:
    """The text of the error that `action` raises, which is one short line."""
    with pytest.raises(ChainruleError) as caught:
        action()
    text = str(caught.value)
    assert text
    assert len(text.splitlines()) == 1
    assert len(text) < 400
    return text


# Folders of images


def test_a_folder_of_mixed_images_gives_every_pixel_and_lists_the_broken_ones(tmp_path):
    """200 images of 6 to 12 pixels a side, one gray among RGB, odd names, five of them broken."""
    written = {}
    for i in range(194):
        name = f"ordner {i % 3}/élan – {i:03d} 画.png"
        written[name] = noise(*RNG.integers(6, 13, 2), 3)
    written["gray.PNG"] = noise(9, 7, 1)
    for name, x in written.items():
        save(tmp_path / name, x)
    whole = (tmp_path / "gray.PNG").read_bytes()
    broken = {
        "a.png": b"",
        "b.jpg": b"no image",
        "c.png": whole[:40],
        "d.gif": b"GIF89a",
        "e.png": b"\x89PNG\r\n",
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "notes.txt").write_text("left alone")

    data = load(tmp_path)
    assert list(data.names) == sorted(written)
    assert sorted(name for name, _ in data.skipped) == sorted(broken)
    assert all(reason and len(reason.splitlines()) == 1 for _, reason in data.skipped)
    assert (data.kind, data.levels, data.event, data.reduced) == ("image", 256, None, ())
    for name, x in zip(data.names, data.x, strict=True):
        np.testing.assert_array_equal(x, np.broadcast_to(written[name], (*written[name].shape[:2], 3)))


@pytest.mark.parametrize(
    "ending",
    sorted(images.SUFFIXES - {".apng", ".mpo", ".ico", ".pbm", ".jpe", ".jfif", ".jpx", ".j2k", ".ras"}),
)
def test_every_common_format_is_read_as_pillow_decodes_it(tmp_path, ending):
    x = noise(9, 8, 1) if ending == ".pgm" else noise(9, 8, 3)
    exact = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(ending, {})
    save(tmp_path / f"a{ending}", x, **exact)
    data = load(tmp_path)
    with Image.open(tmp_path / f"a{ending}") as image:
        decoded = np.array(image.convert("L" if ending == ".pgm" else "RGB")).reshape(9, 8, -1)
    np.testing.assert_array_equal(data.x[0], decoded)
    if ending not in (".gif", ".avif", ".jpg", ".jpeg"):  # these lose something when they are written
        np.testing.assert_array_equal(data.x[0], x)
    alone = load(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(alone.x, data.x)
    assert list(alone.names) == [f"a{ending}"]


def test_gray_images_have_one_channel_until_one_is_in_colour(tmp_path):
    gray, colour = noise(5, 5, 1), noise(5, 5, 3)
    save(tmp_path / "gray.png", gray)
    save(tmp_path / "gray stored as rgb.png", np.repeat(gray, 3, axis=2))
    assert load(tmp_path).event == (5, 5, 1)
    assert load(tmp_path, channels=3).event == (5, 5, 3)
    save(tmp_path / "one in colour.png", colour)
    data = load(tmp_path)
    assert isinstance(data.x, np.ndarray)
    assert data.event == (5, 5, 3)
    np.testing.assert_array_equal(data.x[1], np.repeat(gray, 3, axis=2))
    only_gray = load(tmp_path, channels=1)
    assert [name for name, _ in only_gray.skipped] == ["one in colour.png"]
    np.testing.assert_array_equal(only_gray.x, np.stack([gray, gray]))


def test_what_a_file_holds_beyond_its_pixels_is_dropped_by_rule_and_listed(tmp_path):
    colour, alpha = noise(6, 5, 3), noise(6, 5, 1)
    alpha[0, 0] = 0
    save(tmp_path / "alpha.png", np.concatenate([colour, alpha], 2))
    save(tmp_path / "opaque.png", np.concatenate([colour, np.full_like(alpha, 255)], 2))
    palette = Image.fromarray(colour).quantize(16)
    palette.save(tmp_path / "palette.png")
    deep = RNG.integers(0, 2**16, (6, 5), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "deep.pgm").write_bytes(b"P5 5 6 65535\n" + deep.astype(">u2").tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save(tmp_path / "turned.png", colour, exif=exif)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.tif")
    frames = [Image.fromarray(noise(6, 5)) for _ in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise(6, 5) > 127).save(tmp_path / "bits.png")

    data = load(tmp_path)
    x = dict(zip(data.names, data.x, strict=True))
    for name in ("alpha.png", "opaque.png", "turned.png"):
        np.testing.assert_array_equal(x[name], colour)
    np.testing.assert_array_equal(x["palette.png"], np.array(palette.convert("RGB")))
    for name in ("deep.png", "deep.pgm"):
        np.testing.assert_array_equal(x[name][..., 0], deep >> 8)
    np.testing.assert_array_equal(x["moving.gif"][..., 0], np.array(frames[0]))
    assert set(np.unique(x["bits.png"])) == {0, 255}
    assert dict(data.reduced) == {
        "alpha.png": "transparency",
        "deep.png": "16 bits",
        "deep.pgm": "16 bits",
        "cmyk.tif": "CMYK colours",
        "moving.gif": "further frames",
    }


def test_sub_folders_are_classes_when_asked(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.png", "loose.png"):
        save(tmp_path / name, noise(4, 4, 3))
    assert load(tmp_path).context is None
    data = load(tmp_path, classes=True)
    assert data.classes == ("cat", "dog")
    assert data.context.tolist() == [0, 0, 1]
    assert [name for name, _ in data.skipped] == ["loose.png"]
    assert load(tmp_path, classes=("ant", "cat", "dog")).context.tolist() == [1, 1, 2]
    assert "dog" in one_line(lambda: load(tmp_path, classes=("cat",)))
    assert "class" in one_line(lambda: load(tmp_path / "loose.png", classes=True))


def test_links_pipes_and_folders_with_odd_names_stop_nothing(tmp_path):
    save(tmp_path / "good.png", noise(4, 4, 3))
    save(tmp_path / "folder.png" / "inside.png", noise(4, 4, 3))
    save(tmp_path / ".hidden" / "a.png", noise(4, 4, 3))
    save(tmp_path / "._good.png", noise(4, 4, 3), format="PNG")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "around").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "nowhere.png").symlink_to("missing")
    (tmp_path / "link.png").symlink_to("good.png")
    data = load(tmp_path)
    assert list(data.names) == ["folder.png/inside.png", "good.png", "link.png"]
    assert sorted(name for name, _ in data.skipped) == ["around", "itself.png", "nowhere.png", "pipe.png"]
    assert "pipe" in one_line(lambda: load(tmp_path / "pipe.png"))
    assert "links" in one_line(lambda: load(tmp_path / "itself.png"))


def test_a_name_that_is_no_text_becomes_printable(tmp_path):
    save(tmp_path / "a.png", noise(4, 4, 3))
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/line\n\xff.png"))
    (name,) = load(tmp_path).names
    assert name == "line\\n\\udcff.png"


def test_an_image_that_claims_too_many_pixels_is_a_bomb(tmp_path, monkeypatch):
    save(tmp_path / "good.png", noise(4, 4, 3))
    (tmp_path / "small bomb.ppm").write_bytes(b"P6 8193 8192 255\n")
    (tmp_path / "large bomb.ppm").write_bytes(b"P6 99999999 99999999 255\n")  # Pillow's own limit
    (tmp_path / "bomb.ppm").write_bytes(b"P6 10000 10000 255\n")  # Pillow only warns
    data = load(tmp_path)
    assert dict(data.skipped).keys() == {"bomb.ppm", "large bomb.ppm", "small bomb.ppm"}
    assert dict(data.skipped)["bomb.ppm"] == "claims 10000 x 10000 pixels: at most 67108864 are read"
    assert f"8193 x 8192 pixels: at most {images.MAX_PIXELS}" in one_line(
        lambda: load(tmp_path / "small bomb.ppm")
    )
    assert "bomb" in one_line(lambda: load(tmp_path / "large bomb.ppm"))
    monkeypatch.setattr(files, "MAX_FOLDER", 40)
    assert ".npy" in one_line(lambda: load(tmp_path))


def test_formats_that_start_other_programs_are_never_tried(tmp_path):
    Image.fromarray(noise(5, 5, 3)).save(tmp_path / "a.png", format="EPS")
    assert one_line(lambda: load(tmp_path)).endswith("a.png cannot be read: cannot identify image file")


# Texts


def test_texts_are_bytes(tmp_path):
    raw = bytes(range(256))
    (tmp_path / "book.tex").write_bytes(raw)
    data = load(tmp_path / "book.tex")
    assert (data.kind, data.levels, data.x.shape, list(data.names)) == ("text", 256, (1, 256), ["book.tex"])
    assert data.x[0].tobytes() == raw


def test_a_folder_of_texts_skips_what_is_empty_or_no_text(tmp_path):
    texts = {"a/1.md": "eins", "b.py": "zwei und drei", "ohne Endung": "é"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "program.exe").write_bytes(b"MZ\0\0")
    np.save(tmp_path / "array.npy", noise(3, 3))
    data = load(tmp_path)
    assert [x.tobytes().decode() for x in data.x] == [texts[name] for name in data.names]
    assert list(data.names) == sorted(texts)
    assert [name for name, _ in data.skipped] == ["empty.txt", "program.exe"]


def test_a_large_text_is_memory_mapped(tmp_path):
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(2**33)
    tracemalloc.start()
    learn, held = train_holdout(load(tmp_path / "large.txt"))
    x, _ = batches(learn, 4, 0, 0, window=100)
    learn.select(slice(0, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape == (4, 100)
    assert learn.symbols_total + held.symbols_total == 2**33
    assert peak < 2**24


# Arrays


@pytest.mark.parametrize(
    ("x", "levels", "kind", "event"),
    [
        (np.zeros((5, 8, 8), np.uint8), 256, "image", (8, 8, 1)),
        (np.zeros((5, 8, 8, 1), np.uint8), 256, "image", (8, 8, 1)),
        (np.zeros((5, 8, 8, 3), np.uint8), 256, "image", (8, 8, 3)),
        (np.full((5, 8, 8), 16), 17, "image", (8, 8, 1)),
        (np.ones((5, 8, 8), bool), 2, "image", (8, 8, 1)),
        (np.zeros((5, 9), np.int16), 2, "array", (9,)),
        (np.full((5, 9), 1000, ">i4"), 1001, "array", (9,)),
        (np.zeros((5, 2, 8, 8), np.uint8), 256, "array", (2, 8, 8)),
        (np.asfortranarray(np.arange(60).reshape(5, 12)), 60, "array", (12,)),
    ],
    ids=str,
)
def test_arrays_say_what_they_are(tmp_path, x, levels, kind, event):
    np.save(tmp_path / "a.npy", x)
    np.savez_compressed(tmp_path / "a.npz", x=x, other=np.zeros(3))
    for data in (load(tmp_path / "a.npy"), load(tmp_path / "a.npz"), load(x)):
        assert (data.levels, data.kind, data.event, len(data)) == (levels, kind, event, 5)
        assert list(data.names) == ["0", "1", "2", "3", "4"]
        drawn = draw(data, np.arange(5))
        np.testing.assert_array_equal(drawn, x.reshape(5, *event))
        assert drawn.dtype.isnative
    assert load(tmp_path / "a.npy", levels=2000).levels == 2000


def test_npz_files_may_have_splits_and_labels(tmp_path):
    x, y = noise(6, 4, 4), np.array([0, 1, 2, 2, 1, 0], np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    for split, rows in {"train": slice(0, 4), "test": slice(4, 6), "all": slice(0, 6)}.items():
        data = load(tmp_path / "a.npz", split=split)
        np.testing.assert_array_equal(data.x[..., 0], x[rows])
        np.testing.assert_array_equal(data.context, y[rows])
    assert load(tmp_path / "a.npz", split="all").classes == ("0", "1", "2")
    np.savez(tmp_path / "only.npz", whatever=x)
    np.testing.assert_array_equal(load(tmp_path / "only.npz").x[..., 0], x)
    assert "there is no split 'val'" in one_line(lambda: load(tmp_path / "a.npz", split="val"))


def test_an_array_larger_than_memory_is_looked_at_in_parts(tmp_path):
    path = tmp_path / "large.npy"
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**13, 2**10, 2**10)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2**33)
    tracemalloc.start()
    learn, held = train_holdout(load(path))
    x, _ = batches(learn, 2, 0, 3)
    kept = held.select(slice(0, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape == (2, 2**10, 2**10, 1)
    assert (len(learn), len(held), len(kept)) == (7373, 819, 2)
    assert learn.event == held.event == (2**10, 2**10, 1)
    assert np.asarray(kept.x).shape == (2, 2**10, 2**10, 1)
    assert peak < 2**24


def test_the_range_of_values_is_found_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 64)
    x = np.zeros((100, 4), np.int32)
    x[77, 3] = 41
    np.save(tmp_path / "a.npy", x)
    assert load(tmp_path / "a.npy").levels == 42
    x[99, 0] = -1
    np.save(tmp_path / "a.npy", x)
    assert "-1 to 41" in one_line(lambda: load(tmp_path / "a.npy"))


# Bad input


def test_bad_arrays_get_one_clear_line(tmp_path):
    def told(x, **options) -> str:
        np.save(tmp_path / "a.npy", x, allow_pickle=True)
        np.savez(tmp_path / "a.npz", x=x)
        lines = [one_line(lambda e=e: load(tmp_path / f"a.{e}", **options)) for e in ("npy", "npz")]
        assert lines[0] == lines[1].replace("a.npz", "a.npy")
        return lines[0]

    assert "np.rint" in told(np.full((2, 3), np.nan))
    assert "np.rint" in told(np.ones((2, 3), np.float32))
    assert "complex" in told(np.ones((2, 3), complex))
    assert "objects" in told(np.array([[1, None]], object))
    assert "texts as files" in told(np.array([["a", "b"]]))
    assert "symbols are integers" in told(np.zeros(3, [("a", "i4")]))
    assert "symbols are integers" in told(np.zeros((3, 1), "datetime64[s]"))
    assert "-3 to 2" in told(np.array([[-3, 2]]))
    assert "0 to 4" in told(np.array([[0, 5]]), levels=5)
    assert "0 to 4" in told(np.array([[0, 5]], np.uint8), levels=5)
    assert "65536 levels" in told(np.array([[0, 2**40]]))
    for shape in [(), (3,), (0, 3), (3, 0), (0, 0, 0)]:
        assert str(shape) in told(np.zeros(shape, np.uint8))


def test_values_of_files_are_held_to_the_levels_too(tmp_path):
    save(tmp_path / "a.png", np.full((2, 2, 3), 9, np.uint8))
    assert load(tmp_path, levels=10).levels == 10
    assert "a.png holds values from 9 to 9, and symbols are 0 to 8" in one_line(
        lambda: load(tmp_path, levels=9)
    )
    (tmp_path / "t.txt").write_text("abc")
    assert load(tmp_path / "t.txt", levels=128).levels == 128
    assert "97 to 99" in one_line(lambda: load(tmp_path / "t.txt", levels=99))


def test_bad_labels_get_one_clear_line(tmp_path):
    for y in (np.zeros(2, int), np.full(3, -1), np.zeros(3), np.array(["a", "b", "c"]), np.full(3, 2**40)):
        np.savez(tmp_path / "a.npz", x=noise(3, 4), y=y)
        assert one_line(lambda: load(tmp_path / "a.npz"))


def test_headers_that_lie_are_found_before_memory_is_taken(tmp_path, monkeypatch):
    def header(shape, descr="|u1") -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        return file.getvalue()

    def zipped(data: bytes, name="x.npy", **options) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", **options) as archive:
            archive.writestr(name, data)
        return file.getvalue()

    good = header((10, 4)) + bytes(40)
    lies = [
        header((10, 5)) + bytes(40),
        header((10**6, 10**6)) + bytes(40),
        header((2**40, 2**40)),
        good + b"!",
    ]
    lies += [
        header((-10, -4)) + bytes(40),
        good[:70],
        b"\x93NUMPY\x09\x00" + good[8:],
        b"PK\3\4",
        b"",
        b"\x93NUMPY",
    ]
    lies += [
        good.replace(b"'shape'", b"'shade'"),
        good.replace(b"(10, 4)", b"((10,4"),
        header((10, 4), "|O") + bytes(320),
    ]
    tracemalloc.start()
    for lie in lies:
        (tmp_path / "a.npy").write_bytes(lie)
        one_line(lambda: load(tmp_path / "a.npy"))
        (tmp_path / "a.npz").write_bytes(zipped(lie))
        one_line(lambda: load(tmp_path / "a.npz"))
        (tmp_path / "a.npz").write_bytes(lie)
        one_line(lambda: load(tmp_path / "a.npz"))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()

    (tmp_path / "a.npy").write_bytes(header((-10, -4)) + bytes(40))
    assert "says it holds (-10, -4) uint8" in one_line(lambda: load(tmp_path / "a.npy"))

    whole = zipped(good, compression=zipfile.ZIP_DEFLATED)
    for cut in range(len(whole)):
        (tmp_path / "a.npz").write_bytes(whole[:cut])
        one_line(lambda: load(tmp_path / "a.npz"))
    damaged = bytearray(zipped(good))
    damaged[damaged.index(good) + len(good) - 1] ^= 1
    (tmp_path / "a.npz").write_bytes(damaged)
    assert "CRC" in one_line(lambda: load(tmp_path / "a.npz"))
    monkeypatch.setattr(arrays, "MAX_UNPACKED", 2**20)
    (tmp_path / "a.npz").write_bytes(zipped(bytes(2**20 + 1), compression=zipfile.ZIP_DEFLATED))
    assert "save it as .npy" in one_line(lambda: load(tmp_path / "a.npz"))


def test_bad_paths_get_one_clear_line(tmp_path, monkeypatch):
    assert "'nowhere.png' is neither a file nor" in one_line(lambda: load("nowhere.png"))
    assert "is neither" in one_line(lambda: load(""))
    assert "is neither" in one_line(lambda: load("a\0b\n"))
    assert "is neither" in one_line(lambda: load("x" * 10_000))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert one_line(lambda: load(empty)) == f"{empty} is an empty folder"
    (empty / "a.txt").touch()
    assert "none of 1 can be read: a.txt is empty" in one_line(lambda: load(empty))
    assert "is empty" in one_line(lambda: load(empty / "a.txt"))
    np.save(empty / "a.npy", noise(2, 2))
    (empty / "a.txt").unlink()
    assert "no images, no sounds and no texts" in one_line(lambda: load(empty))
    save(empty / "a.png", noise(2, 2))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.png")
    assert "a.png cannot be read: permission denied" in one_line(lambda: load(empty))
    assert "a.png cannot be read: permission denied" in one_line(lambda: load(empty / "a.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_entered_is_skipped(tmp_path):
    save(tmp_path / "a.png", noise(2, 2))
    (tmp_path / "closed").mkdir(mode=0)
    assert load(tmp_path).skipped == (("closed", "cannot be read: permission denied"),)
    assert "permission denied" in one_line(lambda: load(tmp_path / "closed"))


def sound_files() -> dict[str, bytes]:
    """One small sound file of every kind that has a parser."""
    kinds = {}
    for form in sorted(set(images.FORMATS) - {"SUN"}):  # Pillow reads, but does not write it
        kinds[images.FORMATS[form][0]] = file = io.BytesIO()
        Image.fromarray(noise(16, 16, 3)).save(file, form)
    for ending, write in {".npy": np.save, ".npz": np.savez}.items():
        kinds[ending] = file = io.BytesIO()
        write(file, noise(4, 4))
    return {ending: file.getvalue() for ending, file in kinds.items()}


SOUND = sound_files()


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_hostile_files_give_a_dataset_or_one_line(tmp_path_factory, data):
    """Random bytes, and sound files with bytes changed, cut out or repeated, under every ending."""
    ending = data.draw(st.sampled_from(sorted(SOUND)))
    raw = (
        bytearray(SOUND[ending])
        if data.draw(st.booleans())
        else bytearray(data.draw(st.binary(max_size=200)))
    )
    for _ in range(data.draw(st.integers(0, 5)) if raw else 0):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        raw = raw or bytearray(1)
    path = tmp_path_factory.getbasetemp() / f"hostile{ending}"
    path.write_bytes(raw)
    try:
        loaded = load(path)
    except ChainruleError as error:
        loaded, line = None, str(error)
    if loaded is None:
        assert len(line.splitlines()) == 1
    else:
        assert sum(draw(loaded, np.array([i])).size for i in range(len(loaded))) == loaded.symbols_total > 0


# Named sets


def test_an_existing_path_wins_over_a_name_and_a_near_miss_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean mnist?" in one_line(lambda: load("minst"))
    assert "the sets are digits, patches" in one_line(lambda: load("zzz"))
    assert "take train, test, all" in one_line(lambda: load("digits:val"))
    assert load("digits:test").source == "digits:test"
    save(tmp_path / "digits" / "a.png", noise(3, 3, 3))
    assert load("digits").event == (3, 3, 3)
    assert load(Path("digits")).source == "digits"


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_what_scikit_learn_ships_is_there_without_download(name):
    check_against_the_table(name)
    parts = [set(load(f"{name}:{split}").names) for split in ("train", "test", "all")]
    assert parts[0] | parts[1] == parts[2]
    assert not parts[0] & parts[1]


def test_digits_and_patches_are_what_they_say():
    from sklearn.datasets import load_digits, load_sample_images

    x, y = load_digits(return_X_y=True)
    data = load("digits:test")
    np.testing.assert_array_equal(data.x.reshape(-1, 64), x[::6])
    np.testing.assert_array_equal(data.context, y[::6])
    assert data.classes == tuple("0123456789")
    tiles, photo = load("patches:all").x, load_sample_images().images[0]
    np.testing.assert_array_equal(tiles[41], photo[16:32, 16:32])


def check_against_the_table(name: str) -> None:
    """The set is what `describe` promises: shape, levels and counts."""
    (row,) = [row for row in describe() if row["name"] == name]
    for split in ("train", "test"):
        data = load(f"{name}:{split}")
        assert (data.kind, data.levels, len(data)) == (row["kind"], row["levels"], row[split])
        assert data.kind == "text" or data.event == row["event"]
        assert len(data.names) == len(data) == len(set(data.names))
        assert data.context is None or (0 <= data.context.min() <= data.context.max() < len(data.classes))


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(set(NAMED) - {"digits", "patches"}))
def test_real_sets_are_what_the_table_says(real_data, name):
    assert [row["available"] for row in describe() if row["name"] == name] == [True]
    check_against_the_table(name)


@pytest.mark.data
def test_the_real_files_are_the_originals(real_data):
    assert load("mnist").x.mean() / 255 == pytest.approx(0.1306604762738429, rel=1e-12)  # as published
    assert load("cifar10-first4000").context[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert load("olivetti:test").context.tolist() == np.repeat(np.arange(35, 40), 10).tolist()
    text = load("shakespeare:all").x[0].tobytes()
    assert hashlib.sha256(text).hexdigest() == NAMED["shakespeare"].home.sha256
    assert load("shakespeare").x[0].tobytes() + load("shakespeare:test").x[0].tobytes() == text
    assert load("shakespeare").x.size == 1003854  # as in nanoGPT
    text = load("stacks:all").x[0].tobytes()
    assert hashlib.sha256(text).hexdigest().startswith("0820b5a06771fd74")
    assert (text[:-1000000], text[-1000000:]) == tuple(
        load(f"stacks:{split}").x[0].tobytes() for split in ("train", "test")
    )


@pytest.mark.data
def test_binarised_mnist_is_dynamic_for_training_and_fixed_for_testing(real_data):
    learn, test, gray = load("binarized-mnist"), load("binarized-mnist:test"), load("mnist:test")
    assert learn.binarise
    assert not test.binarise
    first, again = (draw(learn, np.arange(100), seed=0, step=step) for step in (0, 1))
    assert set(np.unique(first)) == {0, 1}
    assert 0 < (first != again).mean() < 0.1
    np.testing.assert_array_equal(test.x[gray.x == 0], 0)
    np.testing.assert_array_equal(test.x[gray.x == 255], 1)
    assert test.x.mean() == pytest.approx(gray.x.mean() / 255, abs=3e-4)
    # Every figure in nats an image refers to these bits.
    assert hashlib.sha256(np.packbits(test.x).tobytes()).hexdigest().startswith("c074f5f7a1af3520")


def test_the_table_answers_without_heavy_imports(tmp_path):
    code = (
        "import sys; from chainrule.data import describe; print(len(describe()));"
        "print(sorted({'torch', 'sklearn', 'scipy', 'requests', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "CHAINRULE_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split("\n")[:2] == [str(len(NAMED)), "[]"]
    assert done.stderr == ""


# Downloads, from a server on this machine


@pytest.fixture
def server(monkeypatch):
    """An address, and what it serves: bytes, an HTTP status, or bytes and the length it claims for them."""
    served: dict[str, bytes | int | tuple[bytes, int]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = served.get(self.path.strip("/"), 404)
            if isinstance(found, int):
                return self.send_error(found)
            body, told = found if isinstance(found, tuple) else (found, len(found))
            self.send_response(200)
            self.send_header("Content-Length", str(told))
            self.end_headers()
            self.wfile.write(body)
            return None

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no CHAINRULE_DATA."""
    monkeypatch.delenv("CHAINRULE_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache"


def moved(monkeypatch, constant: str, url: str, content: bytes) -> Home:
    """A home of the table, moved to another address and another content."""
    home = replace(getattr(named, constant), url=url, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(named, constant, home)
    return home


def test_a_set_is_downloaded_once_and_checked(server, cache, monkeypatch, capfd):
    url, served = server
    text = noise(1115394).tobytes()
    home = moved(monkeypatch, "SHAKESPEARE", f"{url}/input.txt", text)
    served["input.txt"] = text
    assert load("shakespeare:all").x[0].tobytes() == text
    assert home.cached().read_bytes() == text
    served.clear()
    assert load("shakespeare:test").x[0].tobytes() == text[int(len(text) * 0.9) :]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("case", ["wrong", "404", "500", "truncated", "gone", "no host"])
def test_a_download_that_fails_is_one_line_and_leaves_nothing(server, cache, monkeypatch, capfd, case):
    url, served = server
    text = noise(1115394).tobytes()
    address = {"gone": "http://127.0.0.1:9/input.txt", "no host": "http://127.0.0.1:x/"}.get(
        case, f"{url}/input.txt"
    )
    moved(monkeypatch, "SHAKESPEARE", address, text)
    served["input.txt"] = {
        "wrong": text[::-1],
        "404": 404,
        "500": 500,
        "truncated": (text[:999], len(text)),
    }.get(case, 404)
    line = one_line(lambda: load("shakespeare"))
    assert address in line
    assert "put tinyshakespeare.txt into a folder that CHAINRULE_DATA names" in line
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert capfd.readouterr().out == ""


def test_a_damaged_file_in_the_cache_is_fetched_again(server, cache, monkeypatch):
    url, served = server
    text = noise(1115394).tobytes()
    home = moved(monkeypatch, "SHAKESPEARE", f"{url}/input.txt", text)
    home.cached().parent.mkdir(parents=True)
    home.cached().write_bytes(text[:5000])
    served["input.txt"] = text
    assert load("shakespeare:all").x[0].tobytes() == text


def test_the_public_files_of_cifar10_and_olivetti_are_read_like_the_local_ones(
    server, cache, monkeypatch, tmp_path
):
    from scipy.io import savemat

    url, served = server
    monkeypatch.setattr(named, "expect", lambda path, found, key, shape: found[key])
    x, y = noise(4000, 32, 32, 3), noise(4000) % 10
    planar = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(4000, 3072)], 1).tobytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = len(planar)
        archive.addfile(member, io.BytesIO(planar))
    served["cifar"] = packed.getvalue()
    moved(monkeypatch, "CIFAR10", f"{url}/cifar", served["cifar"])
    data = load("cifar10-first4000:all")
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.context, y)

    faces = noise(400, 64, 64)
    faces[0, 0, :2] = 0, 255
    packed = io.BytesIO()
    savemat(packed, {"faces": faces.transpose(0, 2, 1).reshape(400, 4096).T})
    served["faces"] = packed.getvalue()
    moved(monkeypatch, "OLIVETTI", f"{url}/faces", served["faces"])
    np.testing.assert_array_equal(load("olivetti:all").x[..., 0], faces)


@pytest.mark.parametrize(
    "name",
    ["mnist", "binarized-mnist", "cifar10-first4000", "olivetti", "shakespeare", "caltech101", "stacks"],
)
def test_a_file_that_only_has_the_right_name_is_refused(cache, tmp_path, monkeypatch, name):
    """CHAINRULE_DATA wins over the download, and what is wrong with its files is one line."""
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    path = tmp_path / NAMED[name].home.file
    for content in (b"", b"something else", b"PK\3\4"):
        path.write_bytes(content)
        assert path.name in one_line(lambda: load(name))
    for x in (noise(7, 28, 28), noise(60000, 2), np.zeros((400, 64, 64), int)):
        with path.open("wb") as file:
            np.savez(file, x=x, x_train=x, y=x)
        assert path.name in one_line(lambda: load(name))
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in one_line(lambda: load(name))


def packed(path: Path, text: bytes, **options) -> None:
    path.write_bytes(lzma.compress(text, **{"preset": 0, **options}))


@pytest.fixture
def small_stacks(cache, tmp_path, monkeypatch) -> Path:
    """Where the set stacks is, of 1,000 bytes and the last 100 for testing."""
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    monkeypatch.setattr(named, "STACKS_BYTES", 1000)
    monkeypatch.setattr(named, "STACKS_TEST", 100)
    return tmp_path / "stacks.tex.xz"


def test_stacks_are_cut_before_their_last_bytes(small_stacks):
    text = noise(1000)
    packed(small_stacks, text.tobytes(), preset=9 | lzma.PRESET_EXTREME)
    learn, test, everything = (load(f"stacks:{split}").x[0] for split in ("train", "test", "all"))
    assert (len(learn), len(test)) == (900, 100)
    np.testing.assert_array_equal(np.concatenate([learn, test]), text)
    np.testing.assert_array_equal(everything, text)
    assert everything.flags.writeable  # PyTorch warns of arrays that are not


HOSTILE_XZ = {
    "short": (lzma.compress(bytes(999)), "unpacks to 999 bytes, not to 1,000"),
    "long": (lzma.compress(bytes(1001)), "unpacks to more than 1,000 bytes, not to 1,000"),
    "large": (bytes(100_000), "has 100,000 bytes, more than the 1,000 it should unpack to"),
    "a bomb": (lzma.compress(bytes(1 << 26)), "unpacks to more than 1,000 bytes"),
    "cut": (lzma.compress(bytes(1000))[:-9], "does not end where its 1,000 bytes do"),
    "with something behind": (lzma.compress(bytes(1000)) + b"more", "does not end where"),
    "two streams": (2 * lzma.compress(bytes(500)), "unpacks to 500 bytes"),
    "the old format": (lzma.compress(bytes(1000), lzma.FORMAT_ALONE), "cannot be read"),
    "a greedy dictionary": (
        lzma.compress(bytes(1000), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]),
        "cannot be read",
    ),
    "empty": (b"", "unpacks to 0 bytes"),
    "no xz": (b"something else", "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE_XZ)
def test_a_hostile_xz_file_is_one_line_and_unpacks_to_no_more_than_it_should(small_stacks, case):
    content, told = HOSTILE_XZ[case]
    small_stacks.write_bytes(content)
    line = one_line(lambda: load("stacks"))
    assert line.startswith("stacks.tex.xz ")
    assert told in line


@settings(max_examples=60, deadline=None)
@given(text=st.binary(max_size=300), more=st.sampled_from([0, 0, 0, -1, 1]), cut=st.integers(0, 800))
def test_an_xz_file_gives_its_text_or_one_line(tmp_path_factory, text, more, cut):
    size = max(0, len(text) + more)
    path = tmp_path_factory.getbasetemp() / "any.xz"
    content = lzma.compress(text)
    path.write_bytes(content[:cut])
    if size == len(text) and cut >= len(content):
        assert read_xz(path, path.name, size).tobytes() == text
    else:
        assert path.name in one_line(lambda: read_xz(path, path.name, size))


@pytest.mark.parametrize("name", ["bsds", "caltech101", "stacks"])
def test_a_set_without_a_public_home_says_where_to_put_it(cache, name):
    line = one_line(lambda: load(name))
    assert NAMED[name].home.file in line
    assert "into a folder that CHAINRULE_DATA names" in line
    (row,) = [row for row in describe() if row["name"] == name]
    assert (row["home"], row["available"]) == ("CHAINRULE_DATA", False)


def caltech_like(path, **changes):
    """A file like that of caltech101, with images of 2 × 3 pixels that hold their own number."""
    images = []
    for i in range(3030):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 3), i % 251, np.uint8)).save(buffer, "PNG", compress_level=1)
        images.append(buffer.getvalue())
    found = {
        "png": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
        "y": np.arange(3030) // 30,
        "classes": np.array([f"thing {i}" for i in range(101)]),
    }
    with path.open("wb") as file:
        np.savez(file, **{**found, **changes})


def test_caltech_is_images_of_several_sizes_with_names_for_their_classes(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    path = tmp_path / "caltech101_gray96.npz"
    caltech_like(path)
    learn, test = load("caltech101"), load("caltech101:test")
    assert (learn.x[0] == 0).all()
    assert (test.x[0] == 15).all()
    assert test.classes[2] == "thing 2"
    np.testing.assert_array_equal(np.bincount(test.context), 15)
    np.testing.assert_array_equal(np.bincount(learn.context), 15)
    wrong = {
        "png": [noise(9), np.zeros(5, object)],
        "offsets": [np.arange(3031) * 10**9, np.arange(7), np.zeros(3031), -np.arange(3031)],
        "y": [np.zeros(3030, int), np.zeros(3), np.array("a")],
        "classes": [np.array(["one"]), np.zeros(101, object)],
    }
    for key, values in wrong.items():
        for value in values:
            caltech_like(path, **{key: value})
            assert path.name in one_line(lambda: load("caltech101"))


def test_a_folder_with_fewer_photographs_is_not_bsds(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    (tmp_path / "bsds").mkdir()
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "bsds" / "1.jpg")
    assert "bsds holds 1 image files, not 100 photographs" in one_line(lambda: load("bsds"))


# Patches


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    side=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**63 - 1),
)
def test_random_patches_are_pieces_of_the_images(sizes, side, channels, seed):
    images = [noise(*size, channels) for size in sizes]
    if not any(min(size) >= side for size in sizes):
        assert "no image holds a patch" in one_line(lambda: patches.random_patches(images, side, 5, seed))
        return
    cut = patches.random_patches(images, side, 7, seed)
    which, rows, columns = patches.places(images, side, 7, seed)
    for patch, i, r, c in zip(cut, which, rows, columns, strict=True):
        np.testing.assert_array_equal(patch, images[i][r : r + side, c : c + side])
    np.testing.assert_array_equal(cut, patches.random_patches(images, side, 7, seed))


def test_every_place_in_every_image_is_equally_likely():
    images = [
        np.zeros((4, 5, 1)),
        np.zeros((2, 9, 1)),
        np.zeros((3, 3, 1)),
    ]  # 2·3, none and 1 place for a 3 × 3
    found = Counter(zip(*(place.tolist() for place in patches.places(images, 3, 7000, 1)), strict=True))
    assert set(found) == {(0, r, c) for r in range(2) for c in range(3)} | {(2, 0, 0)}
    assert all(abs(n - 1000) < 5 * np.sqrt(1000 * 6 / 7) for n in found.values())


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    side=st.integers(1, 6),
    stride=st.integers(1, 6),
    n=st.integers(1, 3),
)
def test_images_come_back_from_their_grids(size, side, stride, n):
    images = np.random.default_rng(0).normal(size=(n, *size, 3)).astype(np.float32)
    if stride > side or side > min(size):
        assert one_line(lambda: patches.grid_patches(images[0], side, stride))
        return
    cut = np.concatenate([patches.grid_patches(image, side, stride) for image in images])
    np.testing.assert_array_equal(patches.from_grid(cut, size, stride), images)
    assert patches.from_grid(cut, size, stride).dtype == np.float32
    if len(cut) > n:
        assert "were they cut with?" in one_line(lambda: patches.from_grid(cut[:-1], size, stride))


def test_what_overlaps_is_averaged():
    cut = np.stack([np.full((2, 2, 1), i, np.float64) for i in range(2)])
    np.testing.assert_allclose(patches.from_grid(cut, (2, 3), 1)[0, 0, :, 0], [0, 0.5, 1])


def test_a_set_can_be_loaded_as_patches_in_gray(tmp_path):
    for i, size in enumerate([(9, 12), (20, 7)]):
        (tmp_path / f"class {i}").mkdir()
        Image.fromarray(noise(*size, 3)).save(tmp_path / f"class {i}" / "a.png")
    data = load(tmp_path, classes=True, gray=True, patches=5, count=50, seed=2)
    assert (data.x.shape, data.levels, data.kind, len(data.names)) == ((50, 5, 5, 1), 256, "image", 50)
    whole = load(tmp_path, classes=True)
    luminance = [np.rint(image @ [0.299, 0.587, 0.114]) for image in whole.x]
    for patch, label in zip(data.x, data.context, strict=True):
        views = np.lib.stride_tricks.sliding_window_view(luminance[label], (5, 5))
        assert (np.abs(views - patch[..., 0]).max((2, 3)) <= 1).any()
    assert load("digits", gray=True).x.shape == load("digits").x.shape
    with_dataset = load(whole, patches=5, count=3)
    assert with_dataset.x.shape == (3, 5, 5, 3)


def test_what_has_no_patches_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert "patches are cut from images" in one_line(lambda: load(tmp_path / "a.txt", patches=3))
    assert "gray is for images" in one_line(lambda: load(tmp_path / "a.txt", gray=True))
    assert "they have at most 8 × 8" in one_line(lambda: load("digits", patches=9))
    assert "take 1 or more" in one_line(lambda: load("digits", patches=0))
    assert "take 1 or more" in one_line(lambda: load("digits", patches=3, count=0))
    assert "take fewer" in one_line(lambda: load("digits", patches=3, count=10**15))


# Drawing


def rows(*shapes: tuple[int, ...]) -> Dataset:
    """Events that hold their own number."""
    found = [np.full(shape, i) for i, shape in enumerate(shapes)]
    return Dataset(files.gather(found), len(shapes), "array", context=np.arange(len(shapes)) * 2)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.sampled_from([(2, 2), (3, 2), (1, 4)]), min_size=1, max_size=40),
    size=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 3),
)
def test_an_epoch_sees_every_event_once_in_batches_of_one_shape(shapes, size, seed, epoch):
    data = rows(*shapes)
    per_epoch = steps_per_epoch(data, size)
    seen = []
    for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        x, context = batches(data, size, seed, step)
        numbers = x[:, 0, 0]
        assert 1 <= len(x) <= size
        assert all(
            (event == i).all() and shapes[i] == event.shape for i, event in zip(numbers, x, strict=True)
        )
        np.testing.assert_array_equal(context, numbers.astype(int) * 2)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(shapes)))


def test_batches_are_a_pure_function_of_seed_and_step():
    data = replace(rows(*[(5,)] * 50), levels=2, binarise=True)
    later = [batches(data, 8, 3, step)[0] for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(batches(data, 8, 3, step)[0], later[step])
    order = [
        batches(rows(*[(5,)] * 50), 50, seed, step)[0][:, 0].tolist() for seed in (0, 1) for step in (0, 1)
    ]
    assert len({tuple(numbers) for numbers in order}) == 4  # another epoch or another seed: another order
    for seed in (-1, 2**64):
        assert "the seed is" in one_line(lambda seed=seed: batches(data, 8, seed, 0))
    assert "batch of 0" in one_line(lambda: batches(data, 0, 0, 0))


def test_the_order_of_an_epoch_is_uniform():
    data = rows(*[(1,)] * 4)
    firsts = Counter(int(batches(data, 1, 0, 4 * epoch)[0][0, 0]) for epoch in range(2000))
    assert all(abs(firsts[i] - 500) < 5 * np.sqrt(375) for i in range(4))


def test_a_binarised_pixel_is_one_with_probability_x_over_255():
    levels = np.array([0, 1, 51, 128, 254, 255], np.uint8)
    data = Dataset(np.tile(levels, (1, 100_000, 1)), 2, "array", binarise=True)
    ones = draw(data, np.array([0]), seed=7, step=0)[0].mean(0)
    p = levels / 255
    assert (np.abs(ones - p) <= 5 * np.sqrt(p * (1 - p) / 100_000)).all()
    expected = np.random.Generator(np.random.Philox(key=[7, 3])).random((1, 100_000, 6)) * 255 < data.x
    np.testing.assert_array_equal(draw(data, np.array([0]), seed=7, step=3), expected)


def texts(*lengths: int) -> Dataset:
    """Texts in which no two bytes are equal."""
    cuts = np.cumsum(lengths)[:-1]
    found = np.split(np.arange(sum(lengths), dtype=np.uint8), cuts)
    return Dataset(files.gather(found), 256, "text", context=np.arange(len(lengths)))


@pytest.mark.parametrize("lengths", [(60,), (40, 10, 30), (20, 20)])
def test_windows_cover_every_place_of_every_text_equally(lengths):
    data, window = texts(*lengths), 5
    begins = Counter()
    for step in range(500):
        x, context = batches(data, 16, 1, step, window)
        assert x.shape == (16, window)
        assert (np.diff(x.astype(int)) == 1).all()
        owner = np.searchsorted(np.cumsum(lengths), x[:, 0], side="right")
        np.testing.assert_array_equal(context, owner)
        np.testing.assert_array_equal(owner, np.searchsorted(np.cumsum(lengths), x[:, -1], side="right"))
        begins.update(x[:, 0].tolist())
    places = sum(length - window + 1 for length in lengths)
    assert len(begins) == places
    expected = 500 * 16 / places
    assert sum((n - expected) ** 2 / expected for n in begins.values()) < places + 5 * np.sqrt(2 * places)


def test_windows_of_texts_shorter_than_the_window():
    data = texts(30, 4, 8)
    shapes, seen = Counter(), set()
    for step in range(400):
        x, _ = batches(data, 6, 0, step, window=20)
        shapes[x.shape] += 1
        seen |= set(x.ravel().tolist())
    assert set(shapes) == {(6, 20), (6, 4), (6, 8)}
    assert seen == set(range(42))
    assert shapes[6, 20] == pytest.approx(400 * 30 / 42, abs=5 * np.sqrt(400 * 30 * 12 / 42**2))
    assert steps_per_epoch(data, 6, window=7) == 1
    assert "leave out `window`" in one_line(lambda: batches(rows((2, 2)), 1, 0, 0, window=2))


@pytest.mark.parametrize("lengths", [(60,), (40, 10, 30), (20, 20), (1, 1, 3, 70), (7,)])
def test_the_rows_of_a_stream_read_on_and_see_every_symbol_equally(lengths):
    data, size, window = texts(*lengths), 3, 4
    total, begins = sum(lengths), np.cumsum([0, *lengths])
    steps, seen, last = max(1, total // (size * window)), Counter(), None
    assert steps == max(1, steps_per_epoch(data, size, window) - (total % (size * window) > 0))
    for step in range(200 * steps):
        x, before, context = streams(data, size, 1, step, window)
        assert x.shape == before.shape == context.shape == (size, window)
        np.testing.assert_array_equal(context, np.searchsorted(begins[1:], x, side="right"))
        new = np.isin(x, begins)
        new[:, 0] |= step % steps == 0
        np.testing.assert_array_equal(before, np.where(new, -1, x.astype(int) - 1))
        if step % steps:  # goes on within the event, or with the first symbol of one
            assert ((before[:, 0] == last) | np.isin(x[:, 0], begins)).all()
        last = x[:, -1].astype(int)
        seen.update(x.ravel().tolist())
    expected = 200 * steps * size * window / total
    assert len(seen) == total
    assert max(abs(n - expected) for n in seen.values()) <= 5 * np.sqrt(expected)


def test_a_stream_is_a_pure_function_of_seed_and_step():
    data = texts(40, 10, 30)
    first = [streams(data, 2, 0, step, 5)[0].tobytes() for step in range(24)]
    assert first[::-1] == [streams(data, 2, 0, step, 5)[0].tobytes() for step in reversed(range(24))]
    assert len(set(first)) == 24
    assert first[0] != streams(data, 2, 1, 0, 5)[0].tobytes()
    grid = Dataset(np.arange(24).reshape(2, 3, 4), levels=300, kind="array")
    x, before, context = streams(grid, 2, 0, 1, 6)  # events of more axes are read in C order
    assert (x.dtype, context) == (np.int64, None)
    assert ((x - before == 1) | (x % 12 == 0)).all()
    empty = Dataset([np.zeros(0, np.uint8)], 256, "text")
    assert "streams" in one_line(lambda: streams(empty, 2, 0, 0, 5))
    assert "window of 0" in one_line(lambda: streams(data, 2, 0, 0, 0))


# A user's own data, held out


def test_every_tenth_event_is_held_out():
    data = rows(*[(2,)] * 35)
    learn, held = train_holdout(data)
    assert held.context.tolist() == [18, 38, 58]
    assert sorted([*learn.context, *held.context]) == list(data.context)
    few = rows(*[(2,)] * 9)
    assert train_holdout(few) == (few, None)
    assert "share" in one_line(lambda: train_holdout(data, 0.0))


def test_the_end_of_a_single_text_is_held_out():
    learn, held = train_holdout(texts(100))
    assert (learn.x.shape, held.x.shape) == ((1, 90), (1, 10))
    np.testing.assert_array_equal(np.concatenate([learn.x, held.x], 1), texts(100).x)
    assert [x.size for x in train_holdout(texts(100, 50))[1].x] == [10, 5]
    assert train_holdout(texts(5))[1] is None
