"""Stacked autoencoders: layers on the clean codes of those below, convolutions as loops, and classifiers on top."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator

from chainrule.codes.stacked_autoencoder import Convolution, StackedAutoencoder, StackedClassifier
from chainrule.errors import ChainruleError
from chainrule.layers.coder import ACTIVATIONS, Coder, Convolutional
from chainrule.layers.corruption import Masking, SaltAndPepper
from chainrule.layers.units import Bernoulli, Gaussian
from chainrule.train import Plan, random_numbers

SHAPES = {"odd": (7, 5, 2), "row": (1, 9, 1), "column": (6, 1, 1), "one pixel": (1, 1, 3), "even": (8, 6, 1)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def images(shape, n=40, seed=0):
    """Images whose neighbouring numbers are alike."""
    x = np.random.default_rng(seed).normal(size=(n, *shape))
    return np.cumsum(x, axis=2) + 2.0


def rows(n=60, d=7):
    return np.random.default_rng(0).random((n, d)) @ np.random.default_rng(1).random((d, d))


def trained(code, x, steps):
    learner = code.learner(x, Plan(steps=steps))
    losses = [state.loss for state in learner]
    return code.learned(learner), learner, losses


# ---- convolutions as loops -----------------------------------------------------------------------------------


def convolved(x, w, b):
    """x (n, H, W, C), w (channels, C, k, k), b (channels,) -> (n, H, W, channels); 0 beyond the border."""
    n, height, width, _ = x.shape
    middle = w.shape[2] // 2
    found = np.zeros((n, height, width, len(w))) + b
    for r in range(height):
        for c in range(width):
            for i in range(w.shape[2]):
                for j in range(w.shape[3]):
                    down, across = r + i - middle, c + j - middle
                    if 0 <= down < height and 0 <= across < width:
                        found[:, r, c] += x[:, down, across] @ w[:, :, i, j].T
    return found


def pooled(x, side):
    """The maximum of every square of (n, H, W, C); the last squares may be cut."""
    _, height, width, _ = x.shape
    down = [
        np.stack([x[:, r : r + side, c : c + side].max((1, 2)) for c in range(0, width, side)], 1)
        for r in range(0, height, side)
    ]
    return np.stack(down, 1)


def spread(h, side, height, width):
    """Every number repeated over its square, cut to (height, width)."""
    return h.repeat(side, 1).repeat(side, 2)[:, :height, :width]


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_convolutional_map_is_that_of_a_loop(height, width, C, channels, kernel, pool, seed):
    rng, m = np.random.default_rng(seed), Convolutional((height, width, C), channels, kernel, pool)
    x, w, b = rng.normal(size=(2, height, width, C)), rng.normal(size=m.up_shape), rng.normal(size=m.up_bias)
    found = m.up(*map(torch.from_numpy, (x.reshape(2, -1), w, b))).numpy()
    expected = pooled(convolved(x, w, b), pool)
    assert expected.shape[1:] == m.image_above
    assert (m.below, m.above) == (height * width * C, found.shape[1])
    np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=1e-12, atol=1e-12)
    h, w, c = rng.normal(size=expected.shape), rng.normal(size=m.down_shape), rng.normal(size=m.down_bias)
    found = m.down(*map(torch.from_numpy, (h.reshape(2, -1), w, c))).numpy()
    expected = convolved(spread(h, pool, height, width), w, c)
    np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=1e-12, atol=1e-12)
    assert m.fan == (C * kernel**2, channels * kernel**2)


@pytest.mark.parametrize("units", ACTIVATIONS)
def test_gradients_reach_every_weight_of_a_convolution(units):
    coder = Coder([Convolutional((5, 4, 2), 3, 3, 2)], [units], Gaussian(), False, 0).double()
    x = torch.from_numpy(images((5, 4, 2), 6).reshape(6, -1))
    coder.output.loss(coder.decode(coder.encode(x)), x).backward()
    for name, p in coder.named_parameters():
        at, slope, h = (0,) * p.ndim, float(p.grad[(0,) * p.ndim]), 1e-6
        assert p.grad.abs().max() > 0, name
        found = []
        with torch.no_grad():
            for by in (h, -2 * h, h):
                p[at] += by
                found.append(float(coder.output.loss(coder.decode(coder.encode(x)), x)))
        assert slope == pytest.approx((found[0] - found[1]) / (2 * h), rel=1e-5, abs=1e-8), name


# ---- layer on layer ------------------------------------------------------------------------------------------

STACKS = {
    "dense": (StackedAutoencoder((6, 5, 4), batch=16), rows()),
    "tied": (StackedAutoencoder((6, 5), units="sigmoid", tied=True, batch=16), rows()),
    "denoising": (StackedAutoencoder((6, 5, 4), units="sigmoid", corruption=Masking(0.4), batch=16), rows()),
    "tanh": (StackedAutoencoder((6, 5), units="tanh", output=Bernoulli(), batch=16), rows()),
} | {
    f"convolution of {name}": (
        StackedAutoencoder((3, 4), convolution=Convolution(3, 2), corruption=SaltAndPepper(0.2), batch=16),
        images(shape),
    )
    for name, shape in SHAPES.items()
}
every_stack = pytest.mark.parametrize("name", STACKS)


def layer_by_layer(code, x):
    """What every layer is given, and the code at last, by numpy: a list of (n, numbers)."""
    found = [((x.reshape(len(x), -1) - code.shift_) / code.scale_)]
    shape = (1, *x.shape[1:], 1) if x.ndim == 2 else x.shape[1:]
    for w, b in zip(code.encoder_, code.encoder_bias_, strict=True):
        if code.convolution is None:
            a = found[-1] @ w + b
        else:
            a = pooled(convolved(found[-1].reshape(len(x), *shape), w, b), code.convolution.pool)
            shape = a.shape[1:]
        h = ACTIVATIONS[code.units].g(torch.from_numpy(a)).numpy()
        found.append(h.reshape(len(x), -1))
    assert code.code_shape_ == (shape if code.convolution else found[-1].shape[1:])
    return found


@every_stack
def test_each_layer_learns_on_the_clean_codes_of_those_below_which_stay_as_they_were(name):
    code, x = STACKS[name]
    code, learner = clone(code), None
    learner, kept = code.learner(x, Plan(steps=24)), {}
    for state in learner:
        for i, model in enumerate(state.models):
            kept.setdefault(i, {k: v.clone() for k, v in model.state_dict().items()})
    code.learned(learner)
    models = [*learner.models, learner.training.model]
    assert len(models) == len(code.layers)
    assert kept.keys() == set(range(len(models) - 1))
    for i, state in kept.items():
        assert all(torch.equal(v, state[k]) for k, v in models[i].state_dict().items())
    inputs = layer_by_layer(code, x)
    for i, given_to in enumerate(inputs[:-1]):
        begun = learner.stages[i].begin(Plan(steps=0), learner.models[:i])
        np.testing.assert_allclose(begun.batch_at.x.numpy(), given_to, rtol=1e-4, atol=1e-4)
        first = begun.model.coder.encoder[0]
        assert not torch.equal(first, models[i].coder.encoder[0])  # and it has learned
    np.testing.assert_allclose(code.transform(x), inputs[-1], rtol=1e-9, atol=1e-9)


@every_stack
def test_the_loss_of_a_layer_is_that_of_its_input_and_not_of_its_corruption(name):
    code, x = STACKS[name]
    code, learner, _ = trained(clone(code), x, 6)
    for i in range(len(code.layers)):
        begun = learner.stages[i].begin(Plan(steps=1), learner.models[:i])
        model, (clean,) = begun.model, begun.batch_at(0)
        with random_numbers(1):
            found = model.loss(clean)
        given_to = clean
        if code.corruption is not None:
            with random_numbers(1):
                given_to = code.corruption(clean, model.span.zero, model.span.ends)
        a = model.coder.decode(model.coder.encode(given_to - model.span.centre))
        expected = (Gaussian(), Bernoulli())[isinstance(code._output(i), Bernoulli)].loss(a, clean)
        torch.testing.assert_close(found, expected)
        assert isinstance(code._output(i), Bernoulli) == (
            code.units == "sigmoid" if i else isinstance(code.output, Bernoulli)
        )


@every_stack
def test_the_decoders_go_back_layer_by_layer(name):
    code, x = STACKS[name]
    code, _, _ = trained(clone(code), x, 24)
    z = code.transform(x)
    h, shapes = z, [layer.shape for layer in code.encoder_]
    decoders = (
        [w.T for w in reversed(code.encoder_)] if code.tied else list(code.decoder_)
    )  # the weights are not there when tied
    assert hasattr(code, "decoder_") != code.tied
    inner = (lambda a: a) if code.units != "sigmoid" else (lambda a: 1 / (1 + np.exp(-a)))
    maps = code._maps()
    for i, (w, c) in enumerate(zip(decoders, code.decoder_bias_, strict=True)):
        if code.convolution is None:
            h = h @ w + c
        else:
            m = maps[-1 - i]
            image = h.reshape(len(h), *m.image_above)
            h = convolved(spread(image, m.pool, *m.image[:2]), w, c).reshape(len(h), -1)
        if i < len(shapes) - 1:
            h = inner(h)
    back = 1 / (1 + np.exp(-h)) if isinstance(code.output, Bernoulli) else h
    expected = (back * code.scale_ + code.shift_).reshape(x.shape)
    np.testing.assert_allclose(code.inverse_transform(z), expected, rtol=1e-8, atol=1e-8)


@every_stack
def test_single_precision_agrees_with_double(name):
    code, x = STACKS[name]
    code, _, _ = trained(clone(code), x, 12)
    z, single = code.transform(x), code.transform(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, z, atol=1e-5 * max(1, np.abs(z).max()))
    back, single = code.inverse_transform(z), code.inverse_transform(z.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, back, atol=1e-5 * max(1, np.abs(back).max()))


@every_stack
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    code, x = STACKS[name]
    one, same, other = (trained(clone(code).set_params(random_state=s), x, 9)[0].arrays() for s in (0, 0, 1))
    for key, array in one.items():
        np.testing.assert_array_equal(array, same[key])
    assert (one["encoder_.0"] != other["encoder_.0"]).any()


@every_shape
def test_training_lowers_the_error_of_images(shape):
    x = images(shape, 60)
    code = StackedAutoencoder((8,), convolution=Convolution(3, 2), learning_rate=0.01)
    errors = []
    for steps in (0, 150):
        trained(code, x, steps)
        errors.append(np.square(code.inverse_transform(code.transform(x)) - x).mean())
    assert errors[1] < 0.6 * errors[0]


def test_rows_are_images_of_one_pixel_down():
    x = rows(40, 9)
    code = StackedAutoencoder((3, 2), convolution=Convolution(5, 2), epochs=2).fit(x)
    assert code.code_shape_ == (1, 3, 2)  # 9 -> 5 -> 3
    same = StackedAutoencoder((3, 2), convolution=Convolution(5, 2), epochs=2).fit(x[:, None, :, None])
    np.testing.assert_array_equal(code.transform(x), same.transform(x[:, None, :, None]))
    assert code.filters().shape == (3, 5, 5, 1)


def test_an_object_can_be_fitted_again_with_tied_weights():
    x = rows()
    code = StackedAutoencoder((5, 4), epochs=1).fit(x)
    code.set_params(tied=True).fit(x)
    assert not hasattr(code, "decoder_")
    fresh = StackedAutoencoder((5, 4), epochs=1, tied=True).fit(x)
    z = fresh.transform(x)
    np.testing.assert_array_equal(code.inverse_transform(z), fresh.inverse_transform(z))


def test_epochs_are_those_of_every_layer():
    assert StackedAutoencoder((5, 4, 3), epochs=2, batch=25).fit(rows()).n_steps_ == 3 * 2 * 3


@pytest.mark.parametrize("convolution", [None, Convolution(3, 2)], ids=["dense", "convolution"])
@pytest.mark.parametrize("units", ["relu", "sigmoid"])
@pytest.mark.parametrize(
    "x",
    [np.full((30, 5), 7.1), np.zeros((30, 5)), np.ones((1, 5)), np.eye(2)[[0] * 40 + [1]] * 1e6, rows(20, 1)],
    ids=["constant", "zero", "one", "outlier", "narrow"],
)
def test_nothing_becomes_nan(x, units, convolution):
    code = StackedAutoencoder((4, 3), units=units, convolution=convolution, corruption=Masking())
    code, _, losses = trained(code, x, 20)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    assert np.isfinite(code.inverse_transform(code.transform(x))).all()


REFUSED = [
    ({"convolution": Convolution(4)}, "kernel is 4: take an odd number, which has a middle"),
    ({"convolution": Convolution(3, 0)}, "pool is 0: take 1 or more"),
    ({"convolution": Convolution(-1)}, "kernel is -1: take 1 or more"),
    (
        {"convolution": Convolution(3), "tied": True},
        "tied=True is for dense layers: leave it out, or the convolution",
    ),
    ({"convolution": Masking()}, "convolution is Masking.*: take one of Convolution"),
    ({"layers": (3, -1)}, "layers is -1: take 1 or more"),
    ({"units": "step"}, "units is 'step': choose from"),
    ({"batch": 0}, "batch is 0: take 1 or more"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(args, message):
    with pytest.raises(ChainruleError, match=message) as refused:
        StackedAutoencoder(**{"layers": (4, 3), **args}).fit(rows(20))
    assert len(str(refused.value).splitlines()) == 1


def test_films_are_refused_where_images_are_needed():
    with pytest.raises(ChainruleError, match="has 4 axes, an image at most 3"):
        StackedAutoencoder((3,), convolution=Convolution(3)).fit(np.zeros((5, 2, 4, 4, 1)))


# ---- classifiers ---------------------------------------------------------------------------------------------

FEWEST_CHECKS = 50  # what scikit-learn 1.6 and later run on a classifier; fewer means that a tag hides some


def keeps_contract(classifier):
    """Every check of scikit-learn ran and passed; one of them needs pandas and may say that it is not there."""
    results = check_estimator(classifier, on_skip=None, on_fail=None)
    excused = [r for r in results if r["status"] == "skipped" and "pandas" in str(r["exception"])]
    not_passed = [
        f"{r['check_name']}: {r['status']}: {r['exception']}"
        for r in results
        if r["status"] != "passed" and r not in excused
    ]
    assert not not_passed, "\n".join(not_passed)
    assert len(results) - len(excused) >= FEWEST_CHECKS, f"only {len(results)} checks ran"
    assert len(excused) <= 1


def test_a_classifier_passes_every_check_of_scikit_learn(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one check skips itself
    keeps_contract(StackedClassifier(StackedAutoencoder((6, 4), epochs=1), learning_rate=0.02, epochs=100))


class FitsToFive(StackedClassifier):
    def fit(self, X, y):
        super().fit(X, y)
        return 5


def test_the_check_catches_a_classifier_whose_fit_returns_5(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with pytest.raises(AssertionError, match="check_estimators_fit_returns_self"):
        keeps_contract(FitsToFive(StackedAutoencoder((3,), epochs=1), epochs=1))


@every_stack
def test_a_classifier_begins_with_the_encoder_exactly_and_without_decoders(name):
    code, x = STACKS[name]
    code, _, _ = trained(clone(code), x, 12)
    before = {k: v.copy() for k, v in code.arrays().items()}
    y = np.arange(len(x)) % 3
    classifier = code.to_classifier(3, batch=16)
    learner = classifier.learner(x, y, Plan(steps=4))
    (seen, labels) = learner.batch_at(0)
    whole = torch.from_numpy(((x.reshape(len(x), -1) - code.shift_) / code.scale_).astype(np.float32))
    assert all((row == whole).all(1).any() for row in seen)
    assert len(labels) == 16
    model = learner.model.eval()
    for i, layer in enumerate(model.weights):
        np.testing.assert_array_equal(layer.detach(), code.encoder_[i])
        np.testing.assert_array_equal(model.biases[i].detach(), code.encoder_bias_[i])
    assert len(list(model.parameters())) == 2 * len(code.layers) + 2  # encoders and the softmax: no decoders
    with torch.no_grad():
        model.head.copy_(torch.eye(*model.head.shape))
        logits = model.logits(whole)
        model.head.zero_()
    z = code.transform(x.astype(np.float32))[:, :3]
    np.testing.assert_allclose(logits[:, : z.shape[1]], z, rtol=1e-5, atol=1e-5)
    for _ in learner:
        pass
    classifier.learned(learner)
    assert (classifier.code_.encoder_[0] != code.encoder_[0]).any()
    assert classifier.code is code
    for key, array in code.arrays().items():
        np.testing.assert_array_equal(array, before[key])


def test_the_first_loss_is_log_of_the_number_of_classes_and_gradients_reach_all_layers():
    x, y = rows(), np.arange(60) % 4
    code = StackedAutoencoder((6, 5), epochs=1).fit(x)
    learner = code.to_classifier(batch=60).learner(x, y)
    model, batch = learner.model, learner.batch_at(0)
    assert float(model.loss(*batch).detach()) == pytest.approx(np.log(4), rel=1e-6)
    with torch.no_grad():
        model.head.normal_(generator=torch.Generator().manual_seed(0))
    model.double()
    batch = batch[0].double(), batch[1]
    model.loss(*batch).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    logits = model.logits(batch[0]).detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(60), batch[1].numpy()].mean()
    assert float(model.loss(*batch).detach()) == pytest.approx(expected, rel=1e-6)


def test_the_corruption_of_a_classifier_uses_the_zero_and_the_ends_of_the_data():
    x = rows() * 3 + 5
    for output in (None, Bernoulli()):
        code = StackedAutoencoder((6,), output=output, epochs=1).fit(x)
        classifier = code.to_classifier(corruption=SaltAndPepper(0.5))
        span = classifier.learner(x, np.arange(60) % 2).model.span
        ends = span.ends.numpy() * code.scale_ + code.shift_
        np.testing.assert_allclose(ends, np.broadcast_to([[x.min()], [x.max()]], ends.shape), rtol=1e-5)
        np.testing.assert_allclose(span.zero.numpy() * code.scale_ + code.shift_, 0, atol=1e-5 * x.max())


def test_corruption_and_dropout_are_of_training_only():
    x, y = rows(), np.arange(60) % 2
    code = StackedAutoencoder((6, 5), epochs=1).fit(x)
    classifier = code.to_classifier(corruption=Masking(0.5), dropout=0.5, epochs=3).fit(x, y)
    state = torch.get_rng_state()
    first = classifier.decision_function(x)
    z = classifier.code_.transform(x)
    logits = z @ classifier.head_.astype(float) + classifier.head_bias_
    np.testing.assert_allclose(first, logits[:, 1] - logits[:, 0], rtol=1e-6, atol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)
    plain = code.to_classifier(epochs=3).fit(x, y)
    assert (plain.head_ != classifier.head_).any()


@pytest.fixture(scope="module")
def digits():
    """(images, labels) to learn from and held out."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    x, y = data.images[order][..., None] / 16, data.target[order]
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


@pytest.mark.parametrize(
    ("code", "rate", "floor"),
    [
        (StackedAutoencoder((64, 32), corruption=Masking(0.2), epochs=8), 5e-3, 0.93),
        (StackedAutoencoder((8, 16), convolution=Convolution(3), epochs=5), 1e-2, 0.88),
    ],
    ids=["dense", "convolution"],
)
def test_a_stack_and_some_labels_know_digits(digits, code, rate, floor):
    (x, y), (held, labels) = digits
    stack = clone(code).fit(x)
    classifier = stack.to_classifier(10, epochs=15, learning_rate=rate).fit(x[:600], y[:600])
    assert classifier.score(held, labels) > floor
    p = classifier.predict_proba(held)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict(held), p.argmax(1))


@pytest.mark.parametrize(
    "names", [["no", "yes"], ["c", "a", "b"], [True, False], [-1, 5], [0.5, 2.5, 1.5]], ids=str
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_labels_may_be_anything_that_has_an_order(names):
    x = np.concatenate([rows(40) + 4 * i for i in range(len(names))])
    y = np.repeat(names, 40)
    if y.dtype.kind == "f":
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            StackedAutoencoder((5,), epochs=1).fit(x).to_classifier().fit(x, y)
        return
    stack = StackedAutoencoder((5,), units="tanh", epochs=5, learning_rate=0.01).fit(x)
    classifier = stack.to_classifier(epochs=80, learning_rate=0.02).fit(x, y)
    np.testing.assert_array_equal(classifier.classes_, np.unique(y))
    assert classifier.predict(x).dtype == y.dtype
    assert classifier.score(x, y) == 1.0
    shape = (len(x),) if len(names) == 2 else (len(x), len(names))
    assert classifier.decision_function(x).shape == shape
    p = classifier.predict_proba(x)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(1)], classifier.predict(x))
    if len(names) == 2:
        np.testing.assert_array_equal(classifier.decision_function(x) > 0, p[:, 1] > 0.5)


def test_the_same_seed_classifies_with_the_same_bits_and_another_seed_with_others():
    x, y = rows(200), np.arange(200) % 3
    stack = StackedAutoencoder((5,), epochs=1).fit(x)
    one, same, other = (
        stack.to_classifier(epochs=2, batch=32, dropout=0.2, random_state=s).fit(x, y).head_
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_images_of_another_shape_are_refused():
    x, y = images((8, 6, 1)), np.arange(40) % 2
    stack = StackedAutoencoder((3,), convolution=Convolution(3), epochs=1).fit(x)
    turned = x.transpose(0, 2, 1, 3)
    with pytest.raises(ChainruleError, match=r"\(6, 8, 1\), the code was fitted on \(8, 6, 1\)"):
        stack.to_classifier(epochs=1).fit(turned, y)
    classifier = stack.to_classifier(epochs=1).fit(x, y)
    with pytest.raises(ChainruleError, match=r"\(6, 8, 1\), the code was fitted on \(8, 6, 1\)"):
        classifier.predict(turned)
    np.testing.assert_array_equal(classifier.predict(x), classifier.predict(x.reshape(40, -1)))


CLASSIFIERS = [
    ({"n_classes": 3}, "the labels have 2 classes, and 3 were asked for: leave out n_classes"),
    ({"code": 3}, "code is 3: take a StackedAutoencoder"),
    ({"epochs": 0}, "epochs is 0: take 1 or more"),
    ({"batch": 0}, "batch is 0: take 1 or more"),
    ({"dropout": 1.0}, "dropout is 1.0: take a share from 0"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0: take 0 or more"),
    ({"corruption": 0.2}, "corruption is 0.2: take one of Masking"),
    ({"corruption": Masking(-1.0)}, "share is -1.0"),
]


@pytest.mark.parametrize(("args", "message"), CLASSIFIERS)
def test_what_no_classifier_can_be_is_refused_in_one_line(args, message):
    x, y = rows(20), np.arange(20) % 2
    with pytest.raises(ChainruleError, match=message) as refused:
        StackedClassifier(**{"code": StackedAutoencoder((3,), epochs=1), **args}).fit(x, y)
    assert len(str(refused.value).splitlines()) == 1


def test_one_class_and_numbers_that_a_stack_cannot_take_are_refused_in_one_line():
    x, y = rows(20), np.arange(20) % 2
    stack = StackedAutoencoder((3,), epochs=1).fit(x)
    with pytest.raises(ChainruleError, match="the labels have 1 class, and at least 2") as refused:
        stack.to_classifier().fit(x, np.zeros(20, int))
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(
        ValueError, match="X has 6 features, but StackedAutoencoder is expecting 7 features"
    ) as refused:
        stack.to_classifier().fit(x[:, :6], y)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(ChainruleError, match="1 of 140 numbers of X is NaN or infinite") as refused:
        stack.to_classifier().fit(np.where(x == x[3, 2], np.nan, x), y)
    assert len(str(refused.value).splitlines()) == 1
