"""Dense autoencoders: the principal subspace, what is corrupted and what is not, gradients, losses, awkward data."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.special import expit

from chainrule.codes.autoencoder import Autoencoder
from chainrule.codes.pca import PCA
from chainrule.errors import ChainruleError
from chainrule.layers.coder import ACTIVATIONS, Coder, Denoiser, Span, dense
from chainrule.layers.corruption import CORRUPTIONS, Masking, Noise, SaltAndPepper
from chainrule.layers.units import Bernoulli, Gaussian
from chainrule.train import Plan, random_numbers

KINDS = [Masking(0.3), SaltAndPepper(0.3), Noise(0.3)]
every_corruption = pytest.mark.parametrize("corruption", KINDS, ids=lambda c: type(c).__name__)
tied_or_not = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
every_output = pytest.mark.parametrize("output", [Gaussian(), Bernoulli()], ids=["gaussian", "bernoulli"])


def spectrum(n=200, d=8, strong=3, seed=0):
    """Rows with `strong` directions of deviation ..., 4, 3, 2, and all others of less than 1."""
    rng = np.random.default_rng(seed)
    deviations = np.concatenate([np.arange(strong, 0, -1) + 1.0, np.linspace(0.8, 0.6, d - strong)])
    turned = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * deviations @ turned + rng.normal(size=d)


def trained(code, x, steps):
    learner = code.learner(x, Plan(steps=steps))
    losses = [state.loss for state in learner]
    return code.learned(learner), losses


def coder(widths=(6, 4, 3), units="sigmoid", output=None, tied=False, seed=0):
    """A network in double precision whose biases are not 0."""
    found = Coder(dense(widths), [units] * (len(widths) - 1), output or Gaussian(), tied, seed).double()
    generator = torch.Generator().manual_seed(seed)
    for bias in (*found.encoder_bias, *found.decoder_bias):
        bias.data.copy_(torch.randn(bias.shape, generator=generator, dtype=torch.float64))
    return found


def some(n=5, d=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((n, d)))


# ---- linear units ----------------------------------------------------------------------------------------


@tied_or_not
def test_linear_units_span_the_principal_subspace_and_err_as_pca_does(tied):
    x = spectrum()
    code = Autoencoder((3,), units="linear", tied=tied, learning_rate=0.03)
    code, _ = trained(code, x, 1200)
    pca = PCA(3).fit(x)
    assert subspace_angles(code.encoder_[0], pca.components_.T).max() < 1e-4
    back = code.encoder_[0].T if tied else code.decoder_[0]
    assert subspace_angles(back.T, pca.components_.T).max() < 1e-4
    errors = [np.square(c.inverse_transform(c.transform(x)) - x).sum() for c in (code, pca)]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-6)
    assert errors[0] >= errors[1] * (1 - 1e-6)  # nothing linear of this size errs less
    # The two maps together are the projection; tied weights are then orthonormal.
    np.testing.assert_allclose(code.encoder_[0] @ back, pca.components_.T @ pca.components_, atol=1e-4)
    if tied:
        np.testing.assert_allclose(back @ back.T, np.eye(3), atol=1e-4)


# ---- losses and gradients ----------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.sampled_from([1.0, 8.0, 40.0]))
@settings(max_examples=30, deadline=None)
def test_losses_are_the_cross_entropy_and_half_the_squared_error(n, d, seed, size):
    rng = np.random.default_rng(seed)
    a, u = size * rng.normal(size=(n, d)), rng.random((n, d))
    given_as = torch.from_numpy(a), torch.from_numpy(u)
    half = (np.square(u - a) / 2).mean()
    np.testing.assert_allclose(float(Gaussian().loss(*given_as)), half, rtol=1e-12)
    # −log σ(a) = log(1 + exp(−a)), which stays exact where 1 − σ(a) would round to 0
    cross = (u * np.logaddexp(0, -a) + (1 - u) * np.logaddexp(0, a)).mean()
    np.testing.assert_allclose(float(Bernoulli().loss(*given_as)), cross, rtol=1e-12)


@every_output
def test_losses_are_minus_log_p_up_to_what_knows_no_weights(output):
    # −log p(u | a) = A(a) − a u − base(u)
    rng = np.random.default_rng(0)
    a, u = (torch.from_numpy(rng.random((7, 5))) for _ in range(2))
    log_p = output.base(u) + (a * u - output.log_partition(a)).sum(1)
    np.testing.assert_allclose(float(output.loss(a, u)), float(-log_p.mean() / 5), rtol=1e-12)
    slope = torch.func.grad(lambda b: output.log_partition(b).sum())(a)
    np.testing.assert_allclose(output.mean(a).numpy(), slope.numpy(), rtol=1e-12)
    np.testing.assert_allclose(output.mean(output.natural(0.1 + 0.8 * u)).numpy(), 0.1 + 0.8 * u, rtol=1e-9)


@every_output
@tied_or_not
@pytest.mark.parametrize("units", ACTIVATIONS)
def test_gradients_reach_every_parameter_and_are_the_slopes_of_the_loss(units, tied, output):
    net, x = coder(units=units, output=output, tied=tied), some()

    def loss(*parameters):
        named = dict(zip(dict(net.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(Whole(net), {f"net.{k}": v for k, v in named.items()}, (x,))

    parameters = tuple(p.detach().clone().requires_grad_() for p in net.parameters())
    assert torch.autograd.gradcheck(loss, parameters, eps=1e-6, atol=1e-7)
    found = torch.autograd.grad(loss(*parameters), parameters)
    assert all(g.abs().max() > 0 for g in found)


class Whole(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net.output.loss(self.net.decode(self.net.encode(x)), x)


def test_shared_weights_get_the_gradients_of_both_their_places():
    tied, untied, x = coder(tied=True, seed=3), coder(seed=3), some()
    for w, down in zip(tied.encoder, reversed(list(untied.decoder)), strict=True):
        down.data.copy_(w.T)
    for net in (tied, untied):
        Whole(net)(x).backward()
    for own, up, down in zip(tied.encoder, untied.encoder, reversed(list(untied.decoder)), strict=True):
        np.testing.assert_allclose(own.grad.numpy(), (up.grad + down.grad.T).numpy(), rtol=1e-12)
        assert up.grad.abs().max() > 1e-4
        assert down.grad.abs().max() > 1e-4


@every_corruption
@every_output
def test_the_loss_compares_with_the_clean_input(corruption, output):
    x = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    code = Autoencoder((4,), output=output, corruption=corruption)
    learner = code.learner(x, Plan(steps=1))
    model, (clean,) = learner.model, learner.batch_at(0)
    with random_numbers(7):
        found = model.loss(clean)
    with random_numbers(7):
        noisy = corruption(clean, model.span.zero, model.span.ends)
    a = model.coder.decode(model.coder.encode(noisy - model.span.centre))
    torch.testing.assert_close(found, output.loss(a, clean), rtol=1e-6, atol=0)
    assert abs(float((found - output.loss(a, noisy)).detach())) > 1e-3
    kept = model.coder.decode(model.coder.encode(clean - model.span.centre))
    assert (
        abs(float((found - output.loss(kept, clean)).detach())) > 1e-6
    )  # and the code was made of the corrupted one


# ---- corruption --------------------------------------------------------------------------------------------


def span_of(x, output=None):
    return Span(x, *(output or Gaussian()).scaling(x))


def corrupted(corruption, n=4000, d=7):
    """(numbers as the network sees them, the same corrupted, the span) of data that are nowhere 0."""
    x = np.random.default_rng(1).gamma(2.0, size=(n, d)) + np.arange(1, d + 1)
    span = span_of(x)
    seen = span.seen(x)
    with random_numbers(3):
        return seen, corruption(seen, span.zero, span.ends), span


def within(count, n, p):
    """Whether a binomial count is at most five deviations from its mean."""
    return abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.9])
def test_masking_sets_a_share_of_the_numbers_to_what_0_is_and_rescales_none(share):
    seen, noisy, span = corrupted(Masking(share))
    hit = noisy != seen
    assert within(int(hit.sum()), hit.numel(), share)
    assert torch.equal(noisy, torch.where(hit, span.zero, seen))  # exactly 0, or exactly as it was
    np.testing.assert_allclose(span.zero.double() * span.scale + span.shift, 0, atol=1e-5)
    assert all(within(int(column.sum()), len(hit), share) for column in hit.T)
    together = (hit[:, 0] & hit[:, 1]).sum()  # each number by itself
    assert within(int(together), len(hit), share**2)


def test_salt_and_pepper_are_the_ends_of_the_data_and_equally_often():
    seen, noisy, span = corrupted(SaltAndPepper(0.4))
    hit = noisy != seen
    assert within(int(hit.sum()), hit.numel(), 0.4)
    low, high = (noisy == end for end in span.ends)
    assert torch.equal(noisy, torch.where(low, span.ends[0], torch.where(high, span.ends[1], seen)))
    assert within(int((low & hit).sum()), hit.numel(), 0.2)
    assert within(int((high & hit).sum()), hit.numel(), 0.2)
    ends = span.ends.double() * span.scale + span.shift  # one smallest and one largest number for all
    data = seen.double() * span.scale + span.shift
    np.testing.assert_allclose(ends[0], float(data.min()), rtol=1e-5)
    np.testing.assert_allclose(ends[1], float(data.max()), rtol=1e-5)


def test_noise_has_its_deviation_and_no_mean():
    seen, noisy, _ = corrupted(Noise(0.3))
    noise = (noisy - seen).double()
    n = noise.numel()
    assert abs(float(noise.mean())) <= 5 * 0.3 / np.sqrt(n)
    assert abs(float(noise.std()) / 0.3 - 1) <= 5 / np.sqrt(2 * n)
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) <= 5 * 0.09 / np.sqrt(len(noise))


def test_bernoulli_data_are_corrupted_within_0_and_1():
    x = np.random.default_rng(0).uniform(-3, 5, size=(50, 4))
    span = span_of(x, Bernoulli())
    np.testing.assert_allclose(span.ends, [[0] * 4, [1] * 4], atol=1e-6)
    np.testing.assert_allclose(span.zero, -x.min() / (x.max() - x.min()), rtol=1e-5)


@every_corruption
def test_nothing_is_corrupted_outside_training(corruption):
    x = spectrum()
    code, _ = trained(Autoencoder((5, 3), corruption=corruption), x, 5)
    state = torch.get_rng_state()
    seen = (x - code.shift_) / code.scale_
    first = expit(seen @ code.encoder_[0] + code.encoder_bias_[0])
    expected = expit(first @ code.encoder_[1] + code.encoder_bias_[1])
    np.testing.assert_allclose(code.transform(x), expected, rtol=1e-9)
    first = expit(expected @ code.decoder_[0] + code.decoder_bias_[0])
    back = (first @ code.decoder_[1] + code.decoder_bias_[1]) * code.scale_ + code.shift_
    np.testing.assert_allclose(code.inverse_transform(expected), back, rtol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)


@every_corruption
def test_corruption_changes_what_is_learned_and_follows_from_the_seed(corruption):
    x, weights = spectrum(60), []
    for given_as in (None, corruption, corruption):
        code, _ = trained(Autoencoder((5,), corruption=given_as), x, 5)
        weights.append(code.encoder_[0])
    assert (weights[0] != weights[1]).any()
    np.testing.assert_array_equal(weights[1], weights[2])


def test_a_denoiser_of_masked_numbers_learns_what_belongs_together():
    # Three numbers are always equal: a masked one can only be known from the others.
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(300, 2)) + 3, 3, axis=1)
    errors = []
    for corruption in (None, Masking(0.4)):
        code = Autoencoder((6,), units="linear", corruption=corruption, learning_rate=0.01)
        code, _ = trained(code, x, 400)
        masked = x.copy()
        masked[:, 0] = 0.0
        errors.append(np.square(code.inverse_transform(code.transform(masked)) - x)[:, 0].mean())
    assert errors[1] < 0.5 * errors[0]


# ---- training ----------------------------------------------------------------------------------------------


@tied_or_not
@every_output
def test_one_batch_can_be_overfitted(tied, output):
    x = np.random.default_rng(3).integers(0, 2, size=(6, 10)).astype(float)
    code = Autoencoder((32,), tied=tied, output=output, learning_rate=0.01)
    code, losses = trained(code, x, 600)
    assert losses[-1] < 0.02 * losses[0]
    np.testing.assert_allclose(code.inverse_transform(code.transform(x)), x, atol=0.15)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    x = spectrum(300)
    one, same, other = (
        trained(Autoencoder((5, 3), corruption=Masking(), batch=64, random_state=s), x, 15)[0].arrays()
        for s in (0, 0, 1)
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    for name in ("encoder_.0", "encoder_.1", "decoder_.0", "decoder_.1"):
        assert (one[name] != other[name]).all()


@tied_or_not
@every_output
def test_what_is_learned_is_the_network_that_was_trained(output, tied):
    # The network takes the mean from its input; of the code that is part of the first bias.
    x = spectrum() + 9
    code = Autoencoder((5, 3), output=output, tied=tied)
    learner = code.learner(x, Plan(steps=10))
    for _ in learner:
        pass
    model, seen = learner.model, learner.model.span.seen(x)
    assert (model.span.centre.abs().max() > 0.1) == isinstance(output, Bernoulli)
    z = model.encode(seen)
    np.testing.assert_allclose(code.learned(learner).transform(x), z.numpy(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        back = output.mean(model.coder.decode(z)).double() * model.span.scale + model.span.shift
    np.testing.assert_allclose(code.inverse_transform(z.numpy()), back.numpy(), rtol=1e-4, atol=1e-4)


def test_the_first_reconstruction_is_about_the_mean_event():
    x = spectrum()
    learner = Autoencoder((5,), corruption=None).learner(x, Plan(steps=0))
    model, (seen,) = learner.model, learner.batch_at(0)
    a = model.coder.decode(model.coder.encode(seen - model.span.centre)).detach()
    assert float(Gaussian().loss(a, seen)) < 8 * float(Gaussian().loss(seen.mean(0), seen))
    np.testing.assert_allclose(model.coder.decoder_bias[-1].detach(), seen.mean(0), atol=1e-6)
    y = np.random.default_rng(0).random((50, 4)) ** 3
    bias = Autoencoder((5,), output=Bernoulli()).learner(y, Plan(steps=0)).model.coder.decoder_bias[-1]
    low, high = y.min(), y.max()
    np.testing.assert_allclose(expit(bias.detach().numpy()), (y.mean(0) - low) / (high - low), rtol=1e-5)


def test_fit_is_its_learner_to_the_end_and_takes_the_epochs_it_was_given():
    x = spectrum()
    code = Autoencoder((5,), epochs=3, batch=64).fit(x)
    assert code.n_steps_ == 3 * 4  # 200 events are four batches of at most 64
    other, losses = trained(Autoencoder((5,), batch=64), x, 12)
    assert len(losses) == 12
    for name, array in other.arrays().items():
        np.testing.assert_array_equal(array, code.arrays()[name])


@tied_or_not
@every_output
def test_data_in_other_units_have_the_same_codes(output, tied):
    x = spectrum()
    codes = [Autoencoder((5, 3), output=output, tied=tied) for _ in range(2)]
    one, other = (trained(code, rows, 30)[0] for code, rows in zip(codes, (x, 3 * x + 5), strict=True))
    z = one.transform(x)
    np.testing.assert_allclose(other.transform(3 * x + 5), z, atol=1e-3 * np.abs(z).max())
    back = one.inverse_transform(z)
    np.testing.assert_allclose(other.inverse_transform(other.transform(3 * x + 5)), 3 * back + 5, atol=1e-2)


@tied_or_not
@every_output
@pytest.mark.parametrize("units", ACTIVATIONS)
def test_single_precision_agrees_with_double(units, tied, output):
    x = spectrum()
    code, _ = trained(Autoencoder((6, 3), units=units, tied=tied, output=output), x, 20)
    z, single = code.transform(x), code.transform(x.astype(np.float32))
    assert (z.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, z, atol=1e-5 * max(1.0, np.abs(z).max()))
    back, single = code.inverse_transform(z), code.inverse_transform(z.astype(np.float32))
    assert (back.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, back, atol=1e-5 * np.abs(x).max())


def test_the_units_of_the_code_can_be_others():
    x = spectrum()
    code, _ = trained(Autoencoder((6, 3), units="relu", code_units="linear"), x, 20)
    seen = (x - code.shift_) / code.scale_
    first = np.maximum(seen @ code.encoder_[0] + code.encoder_bias_[0], 0)
    np.testing.assert_allclose(
        code.transform(x), first @ code.encoder_[1] + code.encoder_bias_[1], rtol=1e-9, atol=1e-9
    )
    assert (code.transform(x) < 0).any()


def stored(arrays):
    tensors, counters = arrays
    data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(counters))


def test_a_resumed_training_ends_with_the_same_bits():
    x, plan = spectrum(), Plan(steps=12)
    code = Autoencoder((5, 3), corruption=SaltAndPepper(), batch=64, weight_decay=0.1)
    states = [stored(state.arrays()) for state in code.learner(x, plan)]
    for k in (1, 5, 11):
        rest = code.learner(x, plan)
        rest.restore(*states[k - 1])
        for _ in rest:
            pass
        for name, tensor in rest.arrays()[0].items():
            assert torch.equal(tensor, states[-1][0][name]), name


def test_an_object_can_be_fitted_again_with_tied_weights():
    x = spectrum()
    code = Autoencoder((3,), units="linear", epochs=2).fit(x)
    assert hasattr(code, "decoder_")
    code.set_params(tied=True).fit(x)
    assert not hasattr(code, "decoder_")
    z = code.transform(x)
    back = (z @ code.encoder_[0].T + code.decoder_bias_[0]) * code.scale_ + code.shift_
    np.testing.assert_allclose(code.inverse_transform(z), back, rtol=1e-9)


@pytest.mark.filterwarnings("always:The given NumPy array is not writable")
def test_codes_may_be_read_only_or_run_backwards(recwarn):
    x = spectrum()
    code, _ = trained(Autoencoder((3,)), x, 3)
    z = code.transform(x)
    backwards = code.inverse_transform(z[::-1, ::-1])
    np.testing.assert_array_equal(backwards, code.inverse_transform(z[::-1, ::-1].copy()))
    z.flags.writeable = False
    code.inverse_transform(z)
    assert not recwarn.list


@pytest.mark.parametrize("output", [Gaussian(), Bernoulli()], ids=["gaussian", "bernoulli"])
@every_corruption
@pytest.mark.parametrize(
    "x",
    [
        np.full((30, 5), 7.1),
        np.zeros((30, 5)),
        np.ones((1, 5)),
        np.eye(2)[[0] * 40 + [1]] * 1e6,
        np.random.default_rng(0).normal(size=(20, 1)),
        1e-20 * np.random.default_rng(0).normal(size=(20, 3)) + 1.0,
    ],
    ids=["constant", "zero", "one", "outlier", "narrow", "tiny"],
)
def test_nothing_becomes_nan(x, corruption, output):
    code, losses = trained(Autoencoder((7, 3), output=output, corruption=corruption), x, 10)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    assert np.isfinite(code.inverse_transform(code.transform(x))).all()


REFUSED = [
    ({"layers": ()}, r"layers is \(\): take the width of every layer"),
    ({"layers": "12"}, "layers is '12': take the width of every layer"),
    ({"layers": 12}, "layers is 12: take the width of every layer"),
    ({"layers": (4, 0)}, "layers is 0: take 1 or more"),
    ({"layers": (4.0,)}, "widths are whole numbers"),
    ({"layers": (True,)}, "widths are whole numbers"),
    ({"units": "step"}, "units is 'step': choose from linear, sigmoid"),
    ({"units": ["relu"]}, r"units is \['relu'\]: choose from linear, sigmoid"),
    ({"code_units": "step"}, "code_units is 'step': choose from linear, sigmoid"),
    ({"output": Masking()}, "output is Masking.*: take one of Bernoulli, Gaussian"),
    ({"corruption": Gaussian()}, "corruption is Gaussian.*: take one of Masking, SaltAndPepper, Noise"),
    ({"corruption": Masking(1.0)}, "share is 1.0: take one from 0 up to, not including, 1"),
    ({"corruption": SaltAndPepper(-0.1)}, "share is -0.1"),
    ({"corruption": Noise(np.nan)}, "deviation is nan: take 0 or more"),
    ({"epochs": 0}, "epochs is 0: take 1 or more"),
    ({"batch": -1}, "batch is -1: take 1 or more"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0: take 0 or more"),
    ({"weight_decay": np.inf}, "weight_decay is inf: take 0 or more"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(args, message):
    with pytest.raises(ChainruleError, match=message) as refused:
        Autoencoder(**{"layers": (4,), **args}).fit(spectrum(20))
    assert len(str(refused.value).splitlines()) == 1


def test_every_corruption_can_be_named_in_a_file():
    assert set(CORRUPTIONS.values()) == {type(c) for c in KINDS} == {Masking, SaltAndPepper, Noise}


def test_only_weights_decay():
    x = spectrum(40)
    code = Autoencoder((3,), learning_rate=0.1, weight_decay=0.5)
    learner = code.learner(x, Plan(steps=1))
    before = {k: p.detach().clone() for k, p in learner.params.items()}
    learner.model.loss = lambda *batch: 0 * sum(p.sum() for p in learner.params.values())
    for _ in learner:
        pass
    for k, p in learner.params.items():
        torch.testing.assert_close(p.detach(), (0.95 if p.ndim > 1 else 1.0) * before[k])


def test_a_denoiser_alone_is_its_coder_on_the_centred_input():
    x = spectrum(30)
    net = Denoiser(Coder(dense((8, 3)), ["tanh"], Gaussian(), False, 0), span_of(x)).begin()
    seen = net.span.seen(x)
    torch.testing.assert_close(net.encode(seen), net.coder.encode(seen - seen.mean(0)), rtol=0, atol=1e-5)
