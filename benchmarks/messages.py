"""What do codes say about numbers that cannot be learned from, or that a fitted code cannot take?

    python benchmarks/messages.py [--json]

Every code meets every input from Python (`fit`, `transform`, `inverse_transform`) and in files on the command
line (`fit`, `encode`, `decode`). A row says what came of it: the error's type and message, or "works" with the
shape of what came back and whether it is finite. Anything but one line of a `ChainruleError`, a `ValueError` or a
`TypeError`, or a command that ends with another exit code than 0 or 1, is marked "BROKEN".
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from scipy import sparse
from table import Row, show

from chainrule import cli
from chainrule.codes.autoencoder import Autoencoder
from chainrule.codes.deep_autoencoder import DeepAutoencoder, Machines
from chainrule.codes.patches import Patches
from chainrule.codes.predictive import PredictiveSparseDecomposition
from chainrule.codes.rbm import RBM
from chainrule.codes.sparse_autoencoder import SparseAutoencoder
from chainrule.codes.sparse_coding import Online, SparseCoding
from chainrule.codes.stacked_autoencoder import StackedAutoencoder
from chainrule.codes.whitening import Whitening
from chainrule.errors import ChainruleError
from chainrule.model import Code

SIDE = 6  # images of 6 × 6 gray pixels
ATOMS = 12
LEARNING = (
    "sparse-autoencoder",
    "predictive",
    "autoencoder",
    "rbm",
    "deep-autoencoder",
    "stacked-autoencoder",
)
MODELS = ("sparse-coding", *LEARNING, "whitening", "patches")  # those of LEARNING take epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    show(table(), options.json)


def table() -> Iterator[Row]:
    """All rows; one for what several codes say in the same words."""
    yield from merged(from_python())
    with tempfile.TemporaryDirectory() as folder:
        yield from merged(from_files(Path(folder)))


def merged(rows: Iterator[Row]) -> Iterator[Row]:
    """The same outcome of the same call once, with all codes and inputs of which that is true."""
    of_codes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        of_codes.setdefault((row["call"], row["input"], row["outcome"]), []).append(row["code"])
    of_inputs: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (call, given, outcome), names in of_codes.items():
        of_inputs.setdefault((call, outcome, tuple(names)), []).append(given)
    for (call, outcome, names), inputs in of_inputs.items():
        who = "all" if len(names) == len(MODELS) else ", ".join(names)
        yield {"call": call, "input": ", ".join(inputs), "code": who, "outcome": outcome}


# ---- from Python ---------------------------------------------------------------------------------------


def codes() -> dict[str, Code]:
    """A small code of each class."""
    return {
        "SparseCoding": SparseCoding(ATOMS, penalty=0.5, training=Online(batch=32, epochs=1)),
        "SparseAutoencoder": SparseAutoencoder(ATOMS, epochs=1),
        "PredictiveSparseDecomposition": PredictiveSparseDecomposition(ATOMS, epochs=1),
        "Autoencoder": Autoencoder((ATOMS,), epochs=1),
        "RBM": RBM(ATOMS, persistent=True, epochs=1),
        "DeepAutoencoder": DeepAutoencoder((ATOMS, 3), "tanh", Machines(), epochs=2),
        "StackedAutoencoder": StackedAutoencoder((ATOMS, 3), epochs=1),
        "Whitening": Whitening(),
        "Patches": Patches(side=3),
    }


def good(n: int = 60) -> np.ndarray:
    """Images (n, 6, 6, 1)."""
    return np.random.default_rng(0).normal(size=(n, SIDE, SIDE, 1))


def spoiled(x: np.ndarray, number: float) -> np.ndarray:
    """The same with one number replaced."""
    x = x.copy()
    x[3, 2, 1, 0] = number
    return x


def to_fit() -> dict[str, Any]:
    """What cannot be learned from, or only looks so."""
    x = good()
    return {
        "NaN": spoiled(x, np.nan),
        "infinite": spoiled(x, np.inf),
        "no events": x[:0],
        "events of no numbers": np.zeros((5, 0)),
        "all numbers equal": np.full_like(x, 7.0),
        "all zeros": np.zeros_like(x),
        "one event": x[:1],
        "more atoms than events": x[:4],
        "a vector": x[0].ravel(),
        "strings": np.full((9, SIDE), "a"),
        "None": None,
        "complex numbers": x * 1j,
        "a sparse matrix": sparse.csr_array(x.reshape(len(x), -1)),
        "integers": np.rint(9 * x).astype(int),
        "lists": x[:, 0, :, 0].tolist(),
    }


def to_transform() -> dict[str, Any]:
    """What a code that was fitted to `good()` is then given."""
    x = good()
    return {
        "NaN": spoiled(x, np.nan),
        "infinite": spoiled(x, np.inf),
        "no events": x[:0],
        "one event": x[:1],
        "all numbers equal": np.full_like(x, 7.0),
        "too few numbers": x.reshape(len(x), -1)[:, :-1],
        "images of another size": x[:, :, :-1],
        "one image without its axis": x[0],
        "a vector": x[0].ravel(),
        "strings": np.full((9, SIDE * SIDE), "a"),
        "a sparse matrix": sparse.csr_array(x.reshape(len(x), -1)),
    }


def to_decode(width: int) -> dict[str, Any]:
    """What a fitted code is given for codes of `width` numbers."""
    z = np.ones((4, width))
    return {
        "NaN": z * np.nan,
        "infinite": z * np.inf,
        "no codes": z[:0],
        "too few numbers": z[:, :-1],
        "a vector": z[0],
        "strings": np.full((4, width), "a"),
        "a sparse matrix": sparse.csr_array(z),
    }


def from_python() -> Iterator[Row]:
    for name, code in codes().items():
        for given, x in to_fit().items():
            yield {"call": "fit", "input": given, "code": name, "outcome": outcome(fitted, code, x)}
        code.fit(good())
        for given, x in to_transform().items():
            yield {"call": "transform", "input": given, "code": name, "outcome": outcome(code.transform, x)}
        width = int(np.prod(code.transform(good()).shape[1:]))
        for given, z in to_decode(width).items():
            what = outcome(code.inverse_transform, z)
            yield {"call": "inverse_transform", "input": given, "code": name, "outcome": what}


def fitted(code: Code, x: Any) -> np.ndarray:
    """What a code learns from `x`, and makes of it."""
    return code.fit(x).transform(x)


def outcome(call: Callable, *given: Any) -> str:
    """`ValueError: its message`, or what came back."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found = call(*given)
        except (ChainruleError, TypeError) as error:
            return f"{type(error).__name__}: {one_line(str(error))}"
        except Exception as error:
            return f"BROKEN {type(error).__name__}: {one_line(str(error))}"
    told = "".join(f"; warns: {one_line(str(w.message))}" for w in heard[:1])
    return f"works{told}" if np.isfinite(found).all() else f"BROKEN: not finite{told}"


def one_line(message: str) -> str:
    """A message as one line; one that has more of them is said to."""
    lines = message.split("\n")
    return lines[0] if len(lines) == 1 else f"BROKEN ({len(lines)} lines) {lines[0]}"


# ---- on the command line -------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, Path]:
    """Files with what cannot be data, or only looks so."""
    x = np.random.default_rng(0).integers(0, 17, size=(60, SIDE, SIDE, 1)).astype(np.uint8)
    wide = np.random.default_rng(0).integers(0, 17, size=(20, SIDE, SIDE + 1, 1)).astype(np.uint8)
    arrays = {
        "NaN": spoiled(x.astype(float), np.nan),
        "real numbers": x / 16,
        "no events": x[:0],
        "events of no numbers": np.zeros((5, 0), np.uint8),
        "all numbers equal": np.full_like(x, 7),
        "one event": x[:1],
        "more atoms than events": x[:4],
        "a vector": x[0].ravel(),
        "strings": np.full((9, SIDE), "a"),
        "images of another size": wide,
    }
    paths = {name: folder / f"{name.replace(' ', '-')}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(paths[name], array)
    np.savez(folder / "two.npz", one=x, two=x)
    Image.fromarray(wide[0, :, :, 0]).save(folder / "other.png")
    (folder / "broken.png").write_bytes((folder / "other.png").read_bytes()[:40])
    (folder / "broken.npy").write_bytes(paths["one event"].read_bytes()[:-9])
    np.save(folder / "good.npy", x)
    soundfile.write(folder / "speech.wav", wide.ravel().astype(np.int16), 8000)
    (folder / "broken.wav").write_bytes((folder / "speech.wav").read_bytes()[:-9])
    return paths | {
        "an .npz of two arrays": folder / "two.npz",
        "a .png of another size": folder / "other.png",
        "a damaged .png": folder / "broken.png",
        "a recording": folder / "speech.wav",
        "a truncated .wav": folder / "broken.wav",
        "a truncated .npy": folder / "broken.npy",
        "a file that is not there": folder / "nowhere.npy",
    }


def code_files(folder: Path, width: int) -> dict[str, Path]:
    """Files with what cannot be codes of `width` numbers, or only looks so."""
    found = {}
    for name, z in to_decode(width).items():
        found[name] = folder / f"codes-{name.replace(' ', '-')}{'.npz' if sparse.issparse(z) else '.npy'}"
        if sparse.issparse(z):
            sparse.save_npz(found[name], z)
        else:
            np.save(found[name], z)
    np.savez(folder / "codes-other.npz", z=np.ones((4, width)))
    return found | {"an .npz of one array": folder / "codes-other.npz"}


def from_files(folder: Path) -> Iterator[Row]:
    inputs = files(folder)
    for model in MODELS:
        run, out = folder / model, folder / "out"
        tiny = [
            "--model",
            model,
            *(["--set", "epochs=1"] if model in LEARNING else []),
        ]
        tiny += ["--size", "tiny", *(["--steps", "2"] if model == "sparse-coding" else [])]
        for given, path in inputs.items():
            what = command(folder, "fit", path, *tiny, "-o", out / f"{model}-{path.stem}")
            yield {"call": "chainrule fit", "input": given, "code": model, "outcome": what}
        command(folder, "fit", folder / "good.npy", *tiny, "-o", run)
        for given, path in inputs.items():
            what = command(folder, "encode", run, path, "-o", folder / "codes.npy", "--force")
            yield {"call": "chainrule encode", "input": given, "code": model, "outcome": what}
        command(folder, "encode", run, folder / "good.npy", "-o", folder / "codes.npy", "--force")
        width = int(np.prod(np.load(folder / "codes.npy").shape[1:]))
        for given, path in code_files(folder, width).items():
            what = command(folder, "decode", run, path, "-o", folder / "back.npy", "--force")
            yield {"call": "chainrule decode", "input": given, "code": model, "outcome": what}


def command(folder: Path, *words: object) -> str:
    """The line that a command ends with on standard error, or that it works."""
    said, told = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(told),
        warnings.catch_warnings(record=True),
    ):
        warnings.simplefilter("always")
        try:
            cli.main([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            return f"BROKEN {type(error).__name__}: {one_line(str(error))}"
    line = one_line(told.getvalue().rstrip("\n")).replace(f"{folder}/", "")
    return "works" if code == 0 else line if code == 1 else f"BROKEN: exit code {code}, {line}"


if __name__ == "__main__":
    main()
