"""Every code in the table keeps scikit-learn's contract, and each one the theorem of its method."""

import importlib.resources
import json
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy import sparse
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from chainrule import store
from chainrule.codes import CODES
from chainrule.codes.pca import PCA
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError
from chainrule.model import Code
from chainrule.store import dump, parse
from stepwise import DOTTED, NAME, Falling, Fixed, RunningMean

TABLE = {
    **CODES,
    NAME: DOTTED,
}  # what is shared by all codes is asked of a code of parts, codes and steps too
FEWEST_CHECKS = 45  # what scikit-learn 1.6 and later run on a transformer; fewer means that a tag hides some


def code_class(name):
    return store.resolve(name, TABLE)


def all_codes(*sizes):
    for name in TABLE:
        known = {"default": {}, **code_class(name).SIZES}
        different = [size for size in known if size == "default" or known[size]]  # {} is the default again
        for size in sizes or different:
            yield pytest.param(store.build(name, known[size], TABLE), id=f"{name}-{size}")


def dense(codes):
    return codes.toarray() if sparse.issparse(codes) else codes


every_code = pytest.mark.parametrize("code", list(all_codes()))
every_tiny_code = pytest.mark.parametrize("code", list(all_codes("tiny")))


@pytest.fixture
def images():
    # correlated, so that directions have different variances
    rng = np.random.default_rng(0)
    return (rng.normal(size=(40, 5)) @ rng.normal(size=(5, 48)) + rng.normal(size=48)).reshape(40, 4, 4, 3)


def keeps_contract(code):
    """Every check of scikit-learn ran and passed: none skipped, none excused, none hidden by a tag."""
    results = check_estimator(code, on_skip=None, on_fail=None)
    not_passed = [
        f"{r['check_name']}: {r['status']}: {r['exception']}" for r in results if r["status"] != "passed"
    ]
    assert not not_passed, "\n".join(not_passed)
    assert len(results) >= FEWEST_CHECKS, f"only {len(results)} checks ran"


@every_code
def test_passes_every_check_of_scikit_learn(code, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one check skips itself
    keeps_contract(smaller(code))


def smaller(code):
    """The same code with at most 50 units a layer and 3 epochs: a hundred long trainings would show nothing more."""
    options, most = code.get_params(deep=False), {"layers": 50, "epochs": 3}
    less = {name: np.minimum(options[name], most[name]).tolist() for name in most.keys() & options.keys()}
    return clone(code).set_params(**less)


class FitsToFive(PCA):
    def fit(self, X, y=None):
        super().fit(X)
        return 5


class FitsToFiveInSecret(FitsToFive):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # scikit-learn then runs next to nothing, and all of it passes
        return tags


class FitsToFiveExcused(FitsToFive):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags._skip_test = True
        return tags


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("broken", [FitsToFive, FitsToFiveInSecret, FitsToFiveExcused])
def test_the_check_catches_a_code_whose_fit_returns_5(broken, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with pytest.raises(AssertionError, match=r"check_estimators_fit_returns_self|only \d+ checks ran"):
        keeps_contract(broken())


def test_every_code_file_is_in_the_table():
    folder = importlib.resources.files("chainrule.codes")
    files = {f.name[:-3] for f in folder.iterdir() if f.name.endswith(".py") and f.name != "__init__.py"}
    assert files == {dotted.partition(":")[0].rpartition(".")[2] for dotted in CODES.values()}
    assert all(issubclass(code_class(name), Code) for name in CODES)


@every_code
def test_images_are_flattened_and_their_shape_comes_back(code, images):
    flat = images.reshape(len(images), -1)
    of_images, of_rows = clone(code).fit(images), clone(code).fit(flat)
    assert of_images.event_ == (4, 4, 3)
    assert of_rows.event_ == (48,)
    if not code.SPATIAL:
        np.testing.assert_array_equal(dense(of_images.transform(images)), dense(of_rows.transform(flat)))
    np.testing.assert_array_equal(dense(of_images.transform(images)), dense(of_images.transform(flat)))
    if hasattr(code, "inverse_transform"):
        assert of_images.inverse_transform(of_images.transform(images)).shape == images.shape
    with pytest.raises(ChainruleError, match=r"\(3, 4, 4\), the code was fitted on \(4, 4, 3\)"):
        of_images.transform(images.transpose(0, 3, 1, 2))


@every_code
@pytest.mark.parametrize("flat", [False, True])
def test_rebuilt_from_its_file_it_gives_the_same_bits(code, images, flat):
    x = images.reshape(40, -1) if flat else images
    fitted = clone(code).fit(x)
    rebuilt, header = parse(dump(fitted, TABLE), TABLE)
    assert header["args"] == json.loads(json.dumps(store.arguments(fitted, TABLE)))
    assert store.arguments(rebuilt, TABLE) == store.arguments(fitted, TABLE)
    assert store.sha256(rebuilt, TABLE) == store.sha256(fitted, TABLE)
    assert vars(rebuilt).keys() == vars(fitted).keys()
    assert {k: type(v) for k, v in vars(rebuilt).items()} == {k: type(v) for k, v in vars(fitted).items()}
    codes = fitted.transform(x)
    np.testing.assert_array_equal(dense(rebuilt.transform(x)), dense(codes))
    if hasattr(code, "inverse_transform"):
        np.testing.assert_array_equal(rebuilt.inverse_transform(codes), fitted.inverse_transform(codes))
        assert rebuilt.inverse_transform(codes).shape == x.shape


@every_tiny_code
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_codes_keep_the_precisions_that_they_promise(code, images, dtype):
    x = np.clip(np.rint(images * 20 + 128), 0, 255).astype(dtype)
    kept = dtype if dtype in code.TYPES else code.TYPES[0]
    assert clone(code).fit(x).rows(x).dtype == kept
    if dtype in code.TYPES:
        assert clone(code).fit(x).transform(x).dtype == dtype


@every_tiny_code
def test_sparse_codes_are_taken_where_that_is_promised(code, images):
    if not hasattr(code, "inverse_transform"):
        assert not code.SPARSE
        return
    fitted = clone(code).fit(images)
    codes = dense(fitted.transform(images))
    if code.SPARSE:
        from_sparse = fitted.inverse_transform(sparse.csr_array(codes))
        np.testing.assert_allclose(from_sparse, fitted.inverse_transform(codes), rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises((TypeError, ValueError)):
            fitted.inverse_transform(sparse.csr_array(codes.reshape(len(codes), -1)))


class Learned(Code):
    def fit(self, X, y=None, **learned):
        vars(self).update(learned)
        return self


def test_arrays_keep_numbers_tuples_and_shapes():
    layers = tuple(np.full((i, 2), i, np.float32) for i in range(11))
    code = Learned().fit(
        None, n_iter_=7, loss_=0.1, done_=True, layers_=layers, bits_=np.array([True, False])
    )
    back = vars(Learned().set_arrays(load(save(code.arrays()))))
    assert (back["n_iter_"], back["loss_"], back["done_"]) == (7, 0.1, True)
    assert type(back["n_iter_"]) is int
    assert back["bits_"].dtype == bool
    assert len(back["layers_"]) == 11
    for was, now in zip(layers, back["layers_"], strict=True):
        np.testing.assert_array_equal(was, now, strict=True)


def test_arrays_refuse_what_a_store_cannot_hold():
    with pytest.raises(TypeError, match="words_: only arrays"):
        Learned().fit(None, words_=np.array(["a"])).arrays()
    with pytest.raises(TypeError, match="table_: only arrays"):
        Learned().fit(None, table_={"a": 1}).arrays()


HOSTILE = ["__class__", "fit", "_private_", "a_.b", "a_.-1", "a b_", "", "a_\n"]
HOSTILE += ["fit/a_", "fit_/a_", "a_/", "/a_", "__class__/a_", "set_arrays_/a_", "/".join(["a_"] * 2000)]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_arrays_are_refused(name):
    with pytest.raises(ChainruleError, match="a code learns nothing called"):
        Learned().set_arrays({name: np.zeros(2)})


def test_unfitted_and_foreign_codes_are_refused(images):
    code = PCA(n_components=3).fit(images)
    with pytest.raises(ChainruleError, match="the codes have 4 numbers, the model's 3"):
        code.inverse_transform(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not fitted"):
        PCA().inverse_transform(np.zeros((2, 4)))


# ---- parts, and codes within codes ---------------------------------------------------------------------


def running(**args):
    return store.build(NAME, args, TABLE)


def test_a_part_is_an_object_its_json_or_its_name():
    for given in (Falling(), {"kind": "falling"}, "falling", {"kind": "falling", "rate": 0.5, "half": 10}):
        code = running(pace=given)
        assert code.pace == Falling()
        assert store.arguments(code, TABLE)["pace"] == {"kind": "falling", "rate": 0.5, "half": 10}
    assert running(pace=None).pace is None
    assert running(pace={"kind": "falling", "half": None}).pace == Falling(half=None)


def test_a_code_within_a_code_is_an_object_its_json_or_its_name(images):
    inner = {"model": "pca", "args": {"n_components": 2}}
    code = running(first=inner)
    assert code.first.n_components == 2
    assert store.arguments(code, TABLE)["first"] == {
        "model": "pca",
        "args": {"n_components": 2, "whiten": False},
    }
    assert isinstance(running(first="pca").first, PCA)
    fitted = running(first={"model": NAME, "args": {"first": inner}}).fit(images)
    names = set(fitted.arrays())
    assert {"mean_", "first_/mean_", "first_/first_/components_", "first_/first_/event_.0"} <= names
    rebuilt, _ = parse(dump(fitted, TABLE), TABLE)
    np.testing.assert_array_equal(rebuilt.transform(images), fitted.transform(images))
    assert vars(rebuilt.first_.first_).keys() == vars(fitted.first_.first_).keys()
    assert rebuilt.first is not rebuilt.first_


def nested(depth):
    inner = {"model": "pca", "args": {}}
    for _ in range(depth):
        inner = {"model": NAME, "args": {"first": inner}}
    return inner


WRONG = {
    "kind": ({"pace": "slow"}, "running-mean has no pace of kind 'slow': choose from fixed, falling"),
    "no word": ({"pace": {"kind": ["fixed"]}}, "no pace of kind .*: choose from fixed, falling"),
    "field": ({"pace": {"kind": "falling", "hafl": 2}}, "falling has no option 'hafl': it has rate, half"),
    "hidden field": ({"pace": {"kind": "fixed", "__class__": 2}}, "has no option '__class__': it has rate"),
    "type": ({"pace": {"kind": "falling", "rate": "fast"}}, "falling takes float for rate, not 'fast'"),
    "truth": ({"pace": {"kind": "falling", "half": True}}, r"falling takes int \| None for half, not True"),
    "huge": ({"pace": {"kind": "fixed", "rate": 10**400}}, "fixed takes float for rate, not 1000"),
    "NaN": ({"pace": {"kind": "fixed", "rate": float("nan")}}, "fixed takes float for rate, not nan"),
    "checked": ({"pace": {"kind": "falling", "half": 0}}, "cannot take pace=.*: half is 0: take 1 or more"),
    "no kind": ({"pace": {"rate": 1.0}}, "running-mean takes pace from fixed, falling, not"),
    "number": ({"pace": 3}, "running-mean takes pace from fixed, falling, not 3"),
    "list": ({"pace": ["fixed"]}, "running-mean takes pace from fixed, falling"),
    "chain": ({"first": {"model": "uniform", "args": {}}}, "there is no model 'uniform': choose from"),
    "no name": ({"first": {"model": 3, "args": {}}}, "a code has a name and arguments, not"),
    "no arguments": ({"first": {"model": "pca", "args": [1]}}, "a code has a name and arguments, not"),
    "inner option": ({"first": {"model": "pca", "args": {"n": 1}}}, "pca has no option 'n': it has n_comp"),
    "inner value": ({"first": {"model": "pca", "args": {"whiten": 1}}}, "pca takes bool for whiten, not 1"),
    "too deep": ({"first": nested(20)}, "codes stand within codes 9 deep: at most 8 are read"),
    "no code": ({"first": 3}, "running-mean takes first from .*a code as .*, not 3"),
    "object in a number": ({"random_state": {"kind": "fixed"}}, "takes int for random_state"),
}


def with_header(data, **changes):
    """A model file whose header says something else."""
    tensors, (header, _) = load(data), store.read_tensors(data, "it")
    return save(tensors, {store.KEY: json.dumps({**header, **changes})})


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parts_and_codes_are_refused_in_one_line(case, images):
    args, message = WRONG[case]
    with pytest.raises(ChainruleError, match=message) as refused:
        running(**args)
    assert len(str(refused.value).splitlines()) == 1
    data = dump(RunningMean().fit(images), TABLE)
    with pytest.raises(ChainruleError, match=rf"{message}|it is damaged") as refused:
        parse(with_header(data, args=args), TABLE)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 600


def test_a_chain_is_no_part_of_a_code():
    table = {**TABLE, "uniform": "chainrule.chains.uniform:Uniform"}
    with pytest.raises(ChainruleError, match="uniform is no code, and codes are made of codes"):
        store.build(NAME, {"first": {"model": "uniform", "args": {"symbols": 3}}}, table)


def test_what_could_not_be_read_again_is_not_written(images):
    class Foreign(PCA):
        pass

    with pytest.raises(ChainruleError, match="Foreign is not in the table of models"):
        dump(RunningMean(first=Foreign(2)).fit(images), TABLE)

    @dataclass(frozen=True)
    class Fast(Fixed):
        pass

    with pytest.raises(ChainruleError, match="Fast is no part of RunningMean"):
        dump(RunningMean(pace=Fast()).fit(images), TABLE)


def damaged_arrays(images):
    whole = load(dump(RunningMean().fit(images), TABLE))
    yield "inner name", {**whole, "first_/fit": np.zeros(2)}
    yield "no such code", {**whole, "second_/mean_": np.zeros(2)}
    yield "deeper than it is", {**whole, "first_/first_/mean_": np.zeros(2)}


def test_arrays_of_codes_that_are_not_there_are_refused(images):
    for case, arrays in damaged_arrays(images):
        with pytest.raises(ChainruleError, match="a code learns nothing called") as refused:
            parse(save(arrays, {store.KEY: json.dumps(HEADER)}), TABLE)
        assert len(str(refused.value).splitlines()) == 1, case


HEADER = {"format": store.FORMAT, "model": NAME, "args": {}}


def every_integer(value, path=()):
    """The paths of all integers in arguments."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from every_integer(inner, (*path, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


def replaced(args, path, value):
    return {**args, path[0]: replaced(args[path[0]], path[1:], value)} if path else value


@every_tiny_code
def test_huge_integers_in_a_damaged_file_cost_no_memory(code, images):
    """Sizes come from the arrays: an argument of a fitted code never decides how much memory is taken."""
    data = dump(clone(code).fit(images), TABLE)
    args = store.read_tensors(data, "it")[0]["args"]
    for path in every_integer(args):
        for value in (2**62, -(2**62)):
            if path[-1] != "random_state":
                with pytest.raises(ChainruleError, match=f"{path[-1]}={value}: it is damaged"):
                    parse(with_header(data, args=replaced(args, path, value)), TABLE)
        tracemalloc.start()
        try:
            found = parse(with_header(data, args=replaced(args, path, store.LARGEST)), TABLE)[0]
            codes = found.transform(images[:2])
            if hasattr(found, "inverse_transform"):
                found.inverse_transform(codes)
        except (ValueError, RuntimeError):
            pass  # refused
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 1 << 25, f"{path}: {peak} bytes"


# ---- PCA -----------------------------------------------------------------------------------------------

SHAPES = pytest.mark.parametrize("shape", [(200, 12), (12, 200), (30, 30)], ids=str)


def correlated(shape):
    d = shape[1]
    rng = np.random.default_rng(1)
    return rng.normal(size=shape) * np.linspace(3, 1, d) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@SHAPES
def test_pca_spans_the_principal_subspace(shape):
    x = correlated(shape)
    code = PCA(n_components=5).fit(x)
    axes = np.linalg.svd(x - x.mean(0))[2][:5]
    assert subspace_angles(code.components_.T, axes.T).max() < 1e-6
    np.testing.assert_allclose(code.components_ @ code.components_.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(np.abs(code.components_ @ axes.T), np.eye(5), atol=1e-6)  # in the same order


@SHAPES
def test_pca_error_is_the_sum_of_the_discarded_eigenvalues(shape):
    x = correlated(shape)
    code = PCA(n_components=5).fit(x)
    error = ((code.inverse_transform(code.transform(x)) - x) ** 2).sum() / (len(x) - 1)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(error, eigenvalues[5:].sum())
    np.testing.assert_allclose(code.explained_variance_, eigenvalues[:5])
    np.testing.assert_allclose(code.explained_variance_ratio_, eigenvalues[:5] / eigenvalues.sum())


@SHAPES
def test_pca_codes_are_uncorrelated_and_white_when_asked(shape):
    x = correlated(shape)
    plain, white = PCA(n_components=5).fit(x), PCA(n_components=5, whiten=True).fit(x)
    np.testing.assert_allclose(np.cov(plain.transform(x).T), np.diag(plain.explained_variance_), atol=1e-8)
    np.testing.assert_allclose(np.cov(white.transform(x).T), np.eye(5), atol=1e-8)
    np.testing.assert_allclose(
        white.inverse_transform(white.transform(x)), plain.inverse_transform(plain.transform(x))
    )


def test_pca_whitens_no_rounding_errors():
    x = correlated((6, 10))  # six events span five directions; the sixth is rounding
    codes = PCA(whiten=True).fit_transform(x)
    np.testing.assert_allclose(np.cov(codes.T)[:5, :5], np.eye(5), atol=1e-8)
    assert np.abs(codes[:, 5]).max() < 1e-6
    assert np.isfinite(PCA(whiten=True).fit_transform(np.full((9, 4), 7.0))).all()


def test_pca_takes_as_many_components_as_there_are_and_at_least_one():
    data = Dataset(np.zeros((50, 2, 2, 1), np.uint8), levels=2, kind="image")
    assert PCA.configure(data) == {"n_components": 4}
    assert PCA.configure(Dataset(np.zeros((50, 8, 8, 1), np.uint8), levels=2, kind="image")) == {}
    assert PCA(n_components=30).fit(np.random.default_rng(0).normal(size=(9, 4))).components_.shape == (4, 4)
    with pytest.raises(ChainruleError, match="n_components=0"):
        PCA(n_components=0).fit(np.zeros((5, 5)))


def test_pca_refuses_events_of_different_shapes():
    mixed = Dataset([np.zeros((2, 2, 1), int), np.zeros((3, 2, 1), int)], levels=2, kind="image")
    with pytest.raises(ChainruleError, match="events of one shape"):
        PCA.configure(mixed)
