"""Every code in the table keeps scikit-learn's contract, and each one the theorem of its method."""

import importlib.resources
import json

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from chainrule.codes import CODES
from chainrule.codes.pca import PCA
from chainrule.data.dataset import Dataset
from chainrule.errors import ChainruleError
from chainrule.model import Code
from chainrule.store import dump, parse

FEWEST_CHECKS = 45  # what scikit-learn 1.6 and later run on a transformer; fewer means that a tag hides some


def code_class(name):
    module, _, attribute = CODES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def all_codes():
    for name in CODES:
        for size in ("default", *code_class(name).SIZES):
            yield pytest.param(code_class(name)(**code_class(name).SIZES.get(size, {})), id=f"{name}-{size}")


every_code = pytest.mark.parametrize("code", list(all_codes()))


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
    keeps_contract(code)


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
    np.testing.assert_array_equal(of_images.transform(images), of_rows.transform(flat))
    np.testing.assert_array_equal(of_images.transform(images), of_images.transform(flat))
    back = of_images.inverse_transform(of_images.transform(images))
    assert back.shape == images.shape
    with pytest.raises(ChainruleError, match=r"\(3, 4, 4\), the code was fitted on \(4, 4, 3\)"):
        of_images.transform(images.transpose(0, 3, 1, 2))


@every_code
@pytest.mark.parametrize("flat", [False, True])
def test_rebuilt_from_its_file_it_gives_the_same_bits(code, images, flat):
    x = images.reshape(40, -1) if flat else images
    fitted = clone(code).fit(x)
    rebuilt, header = parse(dump(fitted, CODES), CODES)
    assert header["args"] == json.loads(json.dumps(fitted.get_params(deep=False)))
    assert vars(rebuilt).keys() == vars(fitted).keys()
    assert {k: type(v) for k, v in vars(rebuilt).items()} == {k: type(v) for k, v in vars(fitted).items()}
    codes = fitted.transform(x)
    np.testing.assert_array_equal(rebuilt.transform(x), codes)
    np.testing.assert_array_equal(rebuilt.inverse_transform(codes), fitted.inverse_transform(codes))
    assert rebuilt.inverse_transform(codes).shape == x.shape


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


@pytest.mark.parametrize("name", ["__class__", "fit", "_private_", "a_.b", "a_.-1", "a b_", "", "a_\n"])
def test_hostile_names_of_arrays_are_refused(name):
    with pytest.raises(ChainruleError, match="a code learns nothing called"):
        Learned().set_arrays({name: np.zeros(2)})


def test_unfitted_and_foreign_codes_are_refused(images):
    code = PCA(n_components=3).fit(images)
    with pytest.raises(ChainruleError, match="the codes have 4 numbers, the model's 3"):
        code.inverse_transform(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not fitted"):
        PCA().inverse_transform(np.zeros((2, 4)))


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
