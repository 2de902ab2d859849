"""`chainrule encode` and `decode`: codes as .npy (dense) or .npz (scipy.sparse in CSR, which scipy reads), float32."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from chainrule import console
from chainrule.data import Dataset
from chainrule.data.arrays import read_members
from chainrule.data.patches import from_grid, grid_patches
from chainrule.data.reading import file_size, printable, reading
from chainrule.errors import ChainruleError
from chainrule.model import Chain, Code
from chainrule.models import Run
from chainrule.output import free, write_array, write_events
from chainrule.store import one_line, write_atomic
from chainrule.verbs.score import check_symbols

ROWS = 1 << 13  # patches encoded together
LARGEST = 1 << 32  # numbers of sparse codes that are written out as a dense array
MEMBERS = ("format", "shape", "indptr", "indices", "data")  # of the .npz that scipy.sparse writes

Codes = Any  # (n, code) numbers: an array, or a scipy.sparse CSR array


def encode(
    run: Run, data: Dataset, out: Path, side: int | None, stride: int | None, force: bool, json_: bool
):
    """`chainrule encode`: codes of all items, or patches of all images, a row each; of a chain its final cells."""
    code, out = run.code, free(out, (".npy", ".npz"), force)
    if isinstance(run.model, Chain):
        check_symbols(run.model, data)
    side = side or run.info.get("reading", {}).get("patches")
    if stride is not None and side is None:
        raise ChainruleError(f"--stride {stride} is for patches: say with --patches how large they are")
    with told_of(data.source):
        if side:
            codes = codes_of_patches(code, data, side, stride or side, json_)
        elif code.RAGGED:
            codes = code.transform(data.x)
        elif data.event is None:
            raise ChainruleError(
                f"{data.source} has events of several shapes, a code needs one: crop or resize them, or take --patches"
            )
        else:
            codes = code.transform(np.asarray(data.x, dtype=np.float32))
    write_codes(out, codes)
    facts = {"items": len(data), "codes": codes.shape[0], "code": list(codes.shape[1:])}
    if side and data.event is not None:
        facts["images"] = "{}x{}".format(*data.event[:2])  # what `decode --event` wants to know
    if sparse.issparse(codes) or codes.dtype.kind == "f":
        nonzeros = codes.nnz if sparse.issparse(codes) else np.count_nonzero(codes)
        facts["nonzeros_a_code"] = nonzeros / max(codes.shape[0], 1)
    console.record({**facts, "file": str(out)}, json_)


def codes_of_patches(code: Code, data: Dataset, side: int, stride: int, json_: bool) -> Codes:
    """The codes (n · P, code) of all patches of all images, image by image, row by row."""
    if data.kind != "image":
        raise ChainruleError(
            f"patches are cut from images, and {data.source} is {data.kind}: leave out --patches"
        )
    found = []
    with console.progress("encoding", len(data), json_) as tick:
        for patches, done in several_images(data, side, stride):
            found.append(code.transform(patches.astype(np.float32)))
            tick(done)
    return sparse.vstack(found, format="csr") if sparse.issparse(found[0]) else np.concatenate(found)


def several_images(data: Dataset, side: int, stride: int) -> Iterator[tuple[np.ndarray, int]]:
    """(patches of as many images as make ROWS of them, images done)."""
    waiting: list[np.ndarray] = []
    for done, image in enumerate(data.x, 1):
        waiting.append(grid_patches(np.asarray(image), side, stride))
        if sum(map(len, waiting)) >= ROWS or done == len(data):
            yield np.concatenate(waiting), done
            waiting = []


def decode(
    run: Run, codes: Path, out: Path, size: str | None, stride: int | None, force: bool, json_: bool
) -> None:
    """`chainrule decode`: events from codes, as floats (.npy) or rounded to levels (.png)."""
    code, out = run.code, free(out, (".png", ".npy"), force)
    if not hasattr(code, "inverse_transform"):
        raise ChainruleError(f"{run.info['model']} has no way back from its codes")
    if stride is not None and size is None:
        raise ChainruleError(f"--stride {stride} is for patches: say with --event how large the images are")
    numbers = read_codes(codes)
    if sparse.issparse(numbers) and not code.SPARSE:
        numbers = as_dense(numbers)
    with told_of(codes):
        events = np.asarray(code.inverse_transform(numbers))
    if size is not None:
        events = put_together(events, size, stride)
    if out.suffix == ".npy":
        write_array(out, in_single(events))
    else:
        levels = run.info.get("levels") or 256
        write_events(out, np.clip(np.rint(events), 0, levels - 1).astype(np.int64), run)
    console.record({"items": len(events), "event": list(events.shape[1:]), "file": str(out)}, json_)


def put_together(patches: np.ndarray, size: str, stride: int | None) -> np.ndarray:
    """Images (n, H, W, C) of HxW pixels from their patches (n · P, side, side, C)."""
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        raise ChainruleError(f"--event {size}: write it as HEIGHTxWIDTH, such as 480x320")
    if patches.ndim != 4 or patches.shape[1] != patches.shape[2]:
        raise ChainruleError(f"events of shape {patches.shape[1:]} are no square patches: leave out --event")
    return from_grid(patches, (int(parts[0]), int(parts[1])), stride or patches.shape[1])


@contextmanager
def told_of(source: object) -> Iterator[None]:
    """Whatever a code says about numbers and shapes, or its own damaged file, becomes one line about a file."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
        if isinstance(error, ChainruleError) or "allocate memory" in str(error):
            raise
        said = repr(error) if isinstance(error, KeyError) else str(error)
        raise ChainruleError(f"{printable(str(source))} does not fit the code: {one_line(said)}") from error


# ---- files ---------------------------------------------------------------------------------------------


def in_single(x: np.ndarray) -> np.ndarray:
    """Real numbers in single precision; bits and integers as they are."""
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def as_dense(codes: Codes) -> np.ndarray:
    """Sparse codes as an array."""
    if codes.shape[0] * codes.shape[1] > LARGEST:
        raise ChainruleError(
            f"{codes.shape[0]:,} codes of {codes.shape[1]:,} numbers are too many for a dense array"
        )
    return codes.toarray()


def write_codes(path: Path, codes: Codes) -> None:
    """Codes as a .npy array, or as the .npz of scipy.sparse."""
    if path.suffix == ".npy":
        write_array(path, in_single(as_dense(codes) if sparse.issparse(codes) else np.asarray(codes)))
        return
    if not sparse.issparse(codes) and np.ndim(codes) != 2:
        raise ChainruleError(f"codes of shape {np.shape(codes)[1:]} are no rows: write them to a .npy file")
    rows = sparse.csr_array(codes)
    rows.data = in_single(rows.data)
    buffer = io.BytesIO()
    sparse.save_npz(buffer, rows)
    write_atomic(path, buffer.getvalue())


def read_codes(path: Path) -> Codes:
    """The codes in a file that came from anywhere: .npy memory-mapped, .npz checked before scipy sees it."""
    if path.suffix == ".npz":
        return read_sparse(path, printable(str(path)))
    name = printable(str(path))
    file_size(path, name)
    with reading(name):  # objects, and arrays larger than their file, are refused
        return np.lib.format.open_memmap(path, mode="r")


def read_sparse(path: Path, name: str) -> sparse.csr_array:
    """The CSR array of an .npz file. Every index is checked: compiled code would follow it anywhere."""
    found = read_members(path, name, MEMBERS, kinds="biufS")
    shape, ends, places, numbers = (found[member] for member in MEMBERS[1:])
    right: list[tuple[str, Callable[[], Any]]] = [
        ("format", lambda: found["format"].shape == () and found["format"].item() == b"csr"),
        ("shape", lambda: shape.shape == (2,) and shape.dtype.kind in "iu" and (shape >= 0).all()),
        ("indptr", lambda: whole(ends) and len(ends) == int(shape[0]) + 1 and ends[0] == 0),
        ("indptr", lambda: (ends[1:] >= ends[:-1]).all() and ends[-1] == len(places)),
        ("indices", lambda: whole(places) and ((places >= 0) & (places < shape[1])).all()),
        ("data", lambda: numbers.shape == places.shape and numbers.dtype.kind in "biuf"),
    ]
    for member, holds in right:
        if not holds():
            raise ChainruleError(f"{name} holds no sparse codes: its {member} cannot be right")
    return sparse.csr_array((numbers, places, ends), shape=(int(shape[0]), int(shape[1])))


def whole(x: np.ndarray) -> bool:
    """Whether an array is a list of integers."""
    return x.ndim == 1 and x.dtype.kind in "iu"
