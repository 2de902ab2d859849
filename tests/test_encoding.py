"""Codes as files, dense and sparse, and patches on the way there and back; files from anywhere are refused."""

import io
import json
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from chainrule import Dataset, cli, encoding, fit, load, open_run
from chainrule.data.patches import grid_patches
from chainrule.errors import ChainruleError
from chainrule.models import TABLE
from stepwise import DOTTED, NAME


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch):
    monkeypatch.setitem(TABLE, NAME, DOTTED)


def call(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


def good(capsys, *words):
    assert call(*words, "--json") == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1]


def refused(capsys, *words):
    assert call(*words) == 1
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert len(line) < 700
    return line


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three colour photographs of two sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(20, 31), (26, 17), (20, 31)]):
        steps = rng.integers(-9, 10, size=(*size, 3)).cumsum(0).cumsum(1)
        Image.fromarray(np.clip(128 + steps, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def run(photos, tmp_path, capsys):
    """A code of gray patches of the photographs."""
    learn = ["--patches", "6", "--count", "300", "--gray", "--seed", "4", "--set", "n_components=36"]
    good(capsys, "fit", photos, "--model", "pca", *learn, "-o", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_keeps_which_patches_it_learned_from(run, photos):
    info = json.loads((run / "run.json").read_text())
    reading = {"split": "train", "classes": False, "gray": True, "patches": 6, "count": 300, "seed": 4}
    assert info["reading"] == reading
    assert info["event"] == [6, 6, 1]
    assert info["items"] == 300
    again = fit(None, out=run, resume=True)
    np.testing.assert_array_equal(again.code.mean_, open_run(run).code.mean_)
    Image.fromarray(np.zeros((20, 31, 3), np.uint8)).save(photos / "3.png")
    try:
        with pytest.raises(ChainruleError, match="the data have crc32"):
            fit(None, out=run, resume=True)
    finally:
        (photos / "3.png").unlink()


def test_patches_of_a_photograph_become_codes_and_it_comes_back(run, photos, tmp_path, capsys):
    told = good(capsys, "encode", run, photos / "0.png", "--stride", 4, "-o", tmp_path / "c.npy")
    code = open_run(run).code
    (image,) = load(photos / "0.png", gray=True).x
    patches = grid_patches(image, 6, 4)
    codes = np.load(tmp_path / "c.npy")
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, code.transform(patches.astype(float)), rtol=1e-5, atol=1e-3)
    assert (told["items"], told["codes"], told["code"]) == (1, len(patches), [36])
    assert told["nonzeros_a_code"] == pytest.approx(36, abs=0.01)
    assert told["images"] == "20x31"
    back = ["decode", run, tmp_path / "c.npy", "--event", "20x31", "--stride", 4, "-o"]
    good(capsys, *back, tmp_path / "back.npy")
    found = np.load(tmp_path / "back.npy")
    assert (found.shape, found.dtype) == ((1, 20, 31, 1), np.float32)
    np.testing.assert_allclose(found[0], image, atol=1e-2)  # 36 components of 36 numbers lose nothing
    good(capsys, *back, tmp_path / "back.png")
    with Image.open(tmp_path / "back.png") as sheet:
        assert sheet.size[0] >= 31


def test_all_patches_of_a_folder_of_several_sizes(run, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(encoding, "ROWS", 20)  # a few images at a time
    good(capsys, "encode", run, photos, "-o", tmp_path / "c.npy")
    images = load(photos, gray=True).x
    patches = np.concatenate([grid_patches(image, 6, 6) for image in images]).astype(float)
    expected = open_run(run).code.transform(patches)
    np.testing.assert_allclose(np.load(tmp_path / "c.npy"), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["encode", "{run}", "{photos}", "--patches", 5, "-o", "{tmp}/c.npy"],
            "(5, 5, 1), the code was fitted",
        ),
        (
            ["encode", "{run}", "{photos}", "--stride", 7, "-o", "{tmp}/c.npy"],
            "stride is 7, side 6: take 1 to 6",
        ),
        (["encode", "{run}", "digits", "--patches", 6, "--stride", 9, "-o", "{tmp}/c.npy"], "stride is 9"),
        (["encode", "{run}", "{text}", "-o", "{tmp}/c.npy"], "gray is for images"),
        (["decode", "{run}", "{codes}", "--event", "20", "-o", "{tmp}/d.npy"], "write it as HEIGHTxWIDTH"),
        (["decode", "{run}", "{codes}", "--event", "20x31", "-o", "{tmp}/d.npy"], "which size and stride"),
        (["decode", "{run}", "{codes}", "--event", "3x3", "-o", "{tmp}/d.npy"], "holds no patch"),
        (["decode", "{run}", "{codes}", "--stride", 2, "-o", "{tmp}/d.npy"], "--stride 2 is for patches"),
        (["fit", "{text}", "--patches", 6, "-o", "{tmp}/r"], "patches are cut from images"),
        (["fit", "{photos}", "--count", 6, "-o", "{tmp}/r"], "say with --patches"),
        (["fit", "{photos}", "--model", "pca", "--patches", 99, "-o", "{tmp}/r"], "they have at most"),
    ],
)
def test_a_mistake_with_patches_is_one_line(run, photos, tmp_path, capsys, words, message):
    (tmp_path / "text.txt").write_text("hello")
    np.save(tmp_path / "codes.npy", np.zeros((7, 36)))
    at = {
        "run": run,
        "photos": photos,
        "tmp": tmp_path,
        "text": tmp_path / "text.txt",
        "codes": tmp_path / "codes.npy",
    }
    assert message in refused(capsys, *[str(word).format(**at) for word in words])
    assert not (tmp_path / "r").exists()


def test_codes_are_written_sparse_and_read_by_scipy_and_decode(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 17, size=(60, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    run = tmp_path / "run"
    for model in (NAME, "pca"):  # one that takes sparse codes, and one that does not
        fit(Dataset(x, 17, "image"), model, out=run / model)
        code = open_run(run / model).code
        good(capsys, "encode", run / model, tmp_path / "x.npy", "-o", tmp_path / f"{model}.npz")
        codes = sparse.load_npz(tmp_path / f"{model}.npz")
        assert (codes.format, codes.dtype) == ("csr", np.float32)
        np.testing.assert_allclose(codes.toarray(), code.transform(x.astype(float)), rtol=1e-4, atol=1e-4)
        good(capsys, "decode", run / model, tmp_path / f"{model}.npz", "-o", tmp_path / f"{model}-back.npy")
        back = np.load(tmp_path / f"{model}-back.npy")
        assert (back.dtype, back.shape) == (np.float32, x.shape)
        np.testing.assert_allclose(back, code.inverse_transform(codes.toarray()), rtol=1e-4, atol=1e-4)


# ---- files from anywhere -------------------------------------------------------------------------------


def some_codes(seed=0):
    return sparse.random_array((9, 7), density=0.3, format="csr", rng=np.random.default_rng(seed))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {
            info.filename: np.lib.format.read_array(io.BytesIO(archive.read(info)))
            for info in archive.infolist()
        }


def written(path, **changes):
    """The .npz of some codes with other arrays in it; None leaves one out."""
    sparse.save_npz(path, some_codes())
    arrays = {name.removesuffix(".npy"): array for name, array in members(path).items()} | changes
    with path.open("wb") as file:
        np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_what_scipy_writes_is_read(tmp_path):
    some, nothing = some_codes(), [sparse.csr_array((0, 5)), sparse.csr_array((3, 0))]
    for matrix in (some, sparse.csr_matrix(some), *nothing):
        for compressed in (True, False):
            sparse.save_npz(tmp_path / "c.npz", matrix, compressed=compressed)
            found = encoding.read_codes(tmp_path / "c.npz")
            assert found.shape == matrix.shape
            np.testing.assert_array_equal(found.toarray(), matrix.toarray())


BIG = np.array([0, 2**62])
HOSTILE = {
    "another format": {"format": np.array(b"csc")},
    "no format": {"format": None},
    "objects": {"data": np.array([None, {}], dtype=object)},
    "complex numbers": {"data": np.ones(19, complex)},
    "words": {"data": np.array([b"x"] * 19)},
    "fewer numbers": {"data": np.ones(3)},
    "an index too large": {"indices": np.full(19, 7)},
    "a negative index": {"indices": np.full(19, -1)},
    "indices of real numbers": {"indices": np.zeros(19)},
    "indices in a square": {"indices": np.zeros((19, 1), int)},
    "ends beyond the numbers": {"indptr": np.array([0, *[50] * 9])},
    "ends that fall": {"indptr": np.array([0, 19, 3, *[19] * 7])},
    "a negative end": {"indptr": np.array([0, -5, *[19] * 8])},
    "a start that is not 0": {"indptr": np.array([1, *[19] * 9])},
    "too few ends": {"indptr": np.array([0, 19])},
    "no ends": {"indptr": np.zeros(0, int)},
    "a huge shape": {"shape": BIG[::-1]},
    "a negative shape": {"shape": np.array([9, -7])},
    "a shape of reals": {"shape": np.array([9.0, 7.0])},
    "a shape of one": {"shape": np.array([9])},
    "a shape of nothing": {"shape": np.array([])},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_sparse_codes_are_one_line(tmp_path, case):
    path = written(tmp_path / "c.npz", **HOSTILE[case])
    with pytest.raises(ChainruleError) as error:
        encoding.read_codes(path)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500


def test_damaged_sparse_codes_are_refused_or_harmless(tmp_path):
    data = written(tmp_path / "c.npz").read_bytes()
    rng = np.random.default_rng(0)
    for cut in range(0, len(data), 37):
        (tmp_path / "d.npz").write_bytes(data[:cut])
        with pytest.raises(ChainruleError):
            encoding.read_codes(tmp_path / "d.npz")
    for place in rng.integers(0, len(data), 300):
        spoiled = bytearray(data)
        spoiled[place] ^= int(rng.integers(1, 256))
        (tmp_path / "d.npz").write_bytes(bytes(spoiled))
        with suppress(ChainruleError):
            encoding.read_codes(tmp_path / "d.npz").toarray()


def test_sparse_codes_that_would_fill_the_memory_are_refused(tmp_path, capsys, run):
    wide = sparse.csr_array((4, 2**60))
    sparse.save_npz(tmp_path / "wide.npz", wide)
    assert "too many for a dense array" in refused(
        capsys, "decode", run, tmp_path / "wide.npz", "-o", tmp_path / "d.npy"
    )
    sparse.save_npz(tmp_path / "few.npz", sparse.csr_array((4, 5)))
    assert "the codes have 5 numbers, the model's 36" in refused(
        capsys, "decode", run, tmp_path / "few.npz", "-o", tmp_path / "d.npy"
    )


@pytest.mark.parametrize(
    "reading", [{"patches": "six"}, {"patches": True}, {"strange": 1}, {"gray": 1}, {"count": 1.5}, []]
)
def test_a_run_that_was_read_in_an_impossible_way_is_one_line(run, reading):
    info = json.loads((run / "run.json").read_text())
    info["reading"] = {**info["reading"], **reading} if isinstance(reading, dict) else reading
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises(ChainruleError, match="is damaged") as error:
        fit(None, out=run, resume=True)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["Error", "shape"])
def test_a_code_that_lacks_an_array_is_one_line(run, photos, tmp_path, capsys, name):
    from safetensors.numpy import load_file, save_file

    from chainrule import store

    path = run / "model.safetensors"
    header, _ = store.read_tensors(path.read_bytes(), "it")
    arrays = load_file(path)
    if name == "Error":
        arrays.pop("components_")
    else:
        arrays["components_"] = arrays["components_"][:, :-1].copy()
    save_file(arrays, path, {store.KEY: json.dumps(header)})
    assert "does not fit the code" in refused(capsys, "encode", run, photos, "-o", tmp_path / "c.npy")
