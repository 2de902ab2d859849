"""A damaged file of a fitted code: it still works, or it is refused in one line; never another error."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.sparse import issparse

from chainrule import store
from chainrule.codes import CODES
from chainrule.encoding import told_of
from chainrule.errors import ChainruleError
from chainrule.store import dump, parse

IMAGES = np.random.default_rng(0).integers(0, 17, size=(12, 4, 6, 1)).astype(np.float32)


@pytest.fixture(scope="module", params=CODES)
def whole(request):
    """The file of a fitted code."""
    tiny = store.resolve(request.param, CODES).SIZES["tiny"]
    return dump(store.build(request.param, tiny, CODES).fit(IMAGES), CODES)


def damaged(data):
    """(what was done, the file)"""
    arrays, (header, _) = load(data), store.read_tensors(data, "it")

    def with_arrays(**changed):
        kept = {name: array for name, array in (arrays | changed).items() if array is not None}
        return save(kept, {store.KEY: json.dumps(header)})

    for name, array in arrays.items():
        yield f"no {name}", with_arrays(**{name: None})
        yield f"{name} has two more axes", with_arrays(**{name: array[None, None].copy()})
        if array.ndim:
            yield f"{name} is cut", with_arrays(**{name: array[:-1].copy()})
            yield f"{name} is empty", with_arrays(**{name: array[:0].copy()})
    for name in header["args"]:
        for value in ("x", None, -1, [3], [1] * 50, True, {"kind": "masking"}):
            args = header["args"] | {name: value}
            yield f"{name}={value}", save(arrays, {store.KEY: json.dumps(header | {"args": args})})


def use(data, guard):
    """Everything that a command does with a code from a file."""
    code, _ = parse(data, CODES)
    with guard:
        codes = code.transform(IMAGES)
        if hasattr(code, "inverse_transform"):
            code.inverse_transform(codes.toarray() if issparse(codes) and not code.SPARSE else codes)


def refusal(data):
    """What a damaged file is refused with, if it is."""
    try:
        use(data, told_of("it"))
    except ChainruleError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that are no longer finite, or divided by 0
def test_a_damaged_code_works_or_is_refused_in_one_line(whole):
    refused = 0
    for what, data in damaged(whole):
        message = refusal(data)
        refused += message is not None
        assert len((message or "").splitlines()) <= 1, what
        assert len(message or "") < 700, what
    assert refused > 5


def test_without_the_guard_some_of_them_are_other_errors():
    code = store.build("pca", {"n_components": 2}, CODES).fit(IMAGES)
    (cut,) = (data for what, data in damaged(dump(code, CODES)) if what == "components_ is cut")
    (axes,) = (data for what, data in damaged(dump(code, CODES)) if what == "mean_ is cut")
    use(cut, nullcontext())  # fewer components are another code
    with pytest.raises(ValueError, match="could not be broadcast") as told:
        use(axes, nullcontext())
    assert not isinstance(told.value, ChainruleError)
