"""Boltzmann machines, by enumeration: energies, normalisers, gradients, what chains reach, and how units are drawn."""

import itertools
import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.special import expit, logsumexp
from scipy.stats import chi2

from chainrule.codes.rbm import RBM
from chainrule.errors import ChainruleError
from chainrule.layers import units
from chainrule.layers.boltzmann import Boltzmann, first_machine
from chainrule.layers.units import Bernoulli, Gaussian, draw_binary
from chainrule.train import Plan, random_numbers

BINARY, REAL = Bernoulli(), Gaussian()
LAYERS = [(BINARY, BINARY), (REAL, BINARY), (BINARY, REAL)]
every_pair = pytest.mark.parametrize("layers", LAYERS, ids=["binary", "real-visible", "real-hidden"])


def machine(d=4, K=3, layers=(BINARY, BINARY), size=0.8, dtype=torch.float64, seed=0, **more):
    """A machine with weights and biases that are not small."""
    g = torch.Generator().manual_seed(seed)
    w, b, c = (size * torch.randn(s, generator=g, dtype=torch.float64) for s in ((d, K), (d,), (K,)))
    found = Boltzmann(w.to(dtype), *layers, b.to(dtype), **more).requires_grad_(False)
    found.hidden_bias.copy_(c)
    return found


def all_states(n):
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


def parameters(m):
    return (p.detach().double().numpy() for p in (m.weights, m.visible_bias, m.hidden_bias))


def minus_energy(m, v, h):
    """base(v) + b v + v W h + base(h) + c h of every v (n, d) with every h (m, K), (n, m), by numpy."""
    (w, b, c), real = parameters(m), (isinstance(m.visible, Gaussian), isinstance(m.hidden, Gaussian))
    own = [-0.5 * (x**2).sum(1) if r else np.zeros(len(x)) for x, r in zip((v, h), real, strict=True)]
    return (own[0] + v @ b)[:, None] + (own[1] + h @ c) + v @ w @ h.T


def grid(width, step=0.05, reach=12.0):
    """(points (n, width), the volume of each): sums over them are integrals of anything like a normal density."""
    line = np.arange(-reach, reach, step)
    return np.array(list(itertools.product(line, repeat=width))), step**width


def layer(kind, width):
    """(states, the volume of each) to sum or integrate over."""
    return grid(width) if isinstance(kind, Gaussian) else (all_states(width), 1.0)


# ---- energies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "K"), [(4, 3), (3, 4), (1, 1)])
def test_the_free_energy_sums_over_all_hidden_states(d, K):
    m, v = machine(d, K), all_states(d)
    expected = -logsumexp(minus_energy(m, v, all_states(K)), axis=1)
    np.testing.assert_allclose(m.free_energy(torch.from_numpy(v)).numpy(), expected, rtol=1e-12, atol=1e-12)
    between = np.random.default_rng(0).random((5, d))  # probabilities instead of states
    expected = -logsumexp(minus_energy(m, between, all_states(K)), axis=1)
    np.testing.assert_allclose(m.free_energy(torch.from_numpy(between)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("layers", LAYERS[1:], ids=["real-visible", "real-hidden"])
def test_real_units_are_integrated_over(layers):
    d, K = 2, 2
    m = machine(d, K, layers)
    (v, of_v), (h, of_h) = layer(layers[0], d), layer(layers[1], K)
    left_out = math.sqrt(2 * math.pi)  # each Gaussian unit, in F and in Z
    some = v[:: max(1, len(v) // 50)]
    expected = -logsumexp(minus_energy(m, some, h), axis=1) - math.log(of_h)
    expected += K * math.log(left_out) * isinstance(layers[1], Gaussian)
    np.testing.assert_allclose(m.free_energy(torch.from_numpy(some)).numpy(), expected, rtol=1e-9)
    whole = logsumexp(minus_energy(m, v, h)) + math.log(of_v * of_h) - 2 * math.log(left_out)
    np.testing.assert_allclose(float(m.log_normaliser()), whole, rtol=1e-9)


@pytest.mark.parametrize(("d", "K"), [(4, 3), (3, 4), (5, 5), (13, 14), (14, 13)])
def test_both_layers_give_the_same_normaliser(d, K):
    m = machine(d, K)
    over_v = -m.free_energy(torch.from_numpy(all_states(d))).numpy()
    w, b, c = parameters(m)
    h = all_states(K)
    over_h = h @ c + np.logaddexp(0, b + h @ w.T).sum(1)
    np.testing.assert_allclose(float(m.log_normaliser()), logsumexp(over_v), rtol=1e-12)
    np.testing.assert_allclose(float(m.log_normaliser()), logsumexp(over_h), rtol=1e-12)


def binary_rows(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    rows = (rng.random((n, d)) < rng.random(d)).astype(float)
    rows[:, 1] = rows[:, 0]
    rows[0], rows[1] = 0, 1
    return rows


@pytest.mark.parametrize("hidden", [BINARY, REAL], ids=["binary", "real"])
@pytest.mark.parametrize("K", [3, 7])
def test_probabilities_of_all_states_sum_to_1(K, hidden):
    rate = None if hidden is BINARY else 0.01
    code = RBM(K, hidden=hidden, epochs=30, batch=20, learning_rate=rate).fit(binary_rows())
    p = np.exp(code.log_likelihood(all_states(5)))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-10)
    assert p.max() > 3 * p.min()


def test_the_density_of_real_units_integrates_to_1():
    x = np.random.default_rng(0).normal(size=(100, 2)) * [1, 2] + [5, -3]
    code = RBM(3, visible=Gaussian(), epochs=20, learning_rate=0.02).fit(x)
    v, volume = grid(2)
    p = np.exp(code.log_likelihood(v * code.scale_ + code.shift_))
    np.testing.assert_allclose(p.sum() * volume, 1, rtol=1e-9)


def test_log_likelihoods_need_a_small_layer_and_free_energies_do_not():
    x = binary_rows(40, 25)
    large = RBM(21, epochs=1).fit(x)
    with pytest.raises(
        ChainruleError, match=r"the smaller layer of binary units has 21: .* at most 20; compare free"
    ):
        large.log_likelihood(x)
    assert np.isfinite(large.free_energy(x)).all()
    real = RBM(21, visible=Gaussian(), epochs=1).fit(x)
    with pytest.raises(ChainruleError, match="has 21"):
        real.log_likelihood(x)
    small = RBM(3, epochs=1).fit(x)
    log_z = small.log_likelihood(x) + small.free_energy(x)
    np.testing.assert_allclose(log_z, log_z[0])


# ---- gradients -----------------------------------------------------------------------------------------------


def data(d=4):
    """Rows (6, d) of 0 and 1, some of them twice."""
    return all_states(d)[[0, 3, 3, 5, 9, 14]]


def statistics(m, v, p):
    """(Σ p v h̄ᵀ, Σ p v, Σ p h̄) of the states v (n, d) with the probabilities p (n,)."""
    w, _, c = parameters(m)
    mean = expit(c + v @ w)
    return (v * p[:, None]).T @ mean, p @ v, p @ mean


def probabilities(m, d=4):
    """p(v) of all states, (2^d,)."""
    minus_f = -m.free_energy(torch.from_numpy(all_states(d)).to(m.weights)).double().numpy()
    return np.exp(minus_f - logsumexp(minus_f))


def exact_gradient(m, x):
    own = statistics(m, x, np.full(len(x), 1 / len(x)))
    model = statistics(m, all_states(x.shape[1]), probabilities(m, x.shape[1]))
    return [a - b for a, b in zip(own, model, strict=True)]


def chances(a, states):
    """∏ p(uᵢ | aᵢ) of states (m, n) given natural parameters (r, n), (r, m)."""
    p = expit(a)[:, None, :]
    return np.where(states[None] == 1, p, 1 - p).prod(2)


def transition(m, d=4, K=3):
    """(p(v' | v), p(v | h), p(h | v)) over all states: a step of Gibbs sampling."""
    w, b, c = parameters(m)
    v, h = all_states(d), all_states(K)
    up, down = chances(c + v @ w, h), chances(b + h @ w.T, v)
    return up @ down, down, up


def frequencies(x, n):
    """How often each of the 2ⁿ states is a row of x, (2ⁿ,)."""
    return np.bincount((x @ 2 ** np.arange(n)[::-1]).astype(int), minlength=2**n) / len(x)


def after(m, start, d=4):
    """The expected gradient with the data `data()` when chains are distributed as `start` (2^d,)."""
    own = statistics(m, data(), np.full(6, 1 / 6))
    return [a - b for a, b in zip(own, statistics(m, all_states(d), start), strict=True)]


def test_the_formula_of_the_gradient_is_the_slope_of_the_log_likelihood():
    m, x = machine().requires_grad_(True), torch.from_numpy(data())
    every = torch.from_numpy(all_states(4))
    ((-m.free_energy(x)).mean() - (-m.free_energy(every)).logsumexp(0)).backward()
    slopes = [p.grad.numpy() for p in (m.weights, m.visible_bias, m.hidden_bias)]
    for slope, formula in zip(slopes, exact_gradient(machine(), data()), strict=True):
        np.testing.assert_allclose(slope, formula, rtol=1e-10, atol=1e-12)


def flat(gradients):
    return np.concatenate([np.asarray(g).ravel() for g in gradients])


def drawn(m, x, calls=60, seed=1, before=None):
    """Gradients (calls, parameters) that the chains of a machine estimate."""
    found = []
    with random_numbers(seed):
        for _ in range(calls):
            if before is not None:
                before()
            found.append(flat(g.double().numpy() for g in m.divergence(x).gradients()))
    return np.array(found)


def is_the_mean(found, expected):
    """Whether `expected` is the mean of the rows `found`, within five standard errors."""
    error = found.std(0, ddof=1) / math.sqrt(len(found))
    return bool((np.abs(found.mean(0) - flat(expected)) <= 5 * error + 1e-7).all())


BATCH = 6 * 600
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])


@both_precisions
@pytest.mark.parametrize("k", [1, 3])
def test_contrastive_divergence_is_on_average_that_of_k_steps_of_the_transition_matrix(k, dtype):
    m = machine(size=1.5, dtype=dtype, gibbs=k)  # large weights: chains forget slowly
    found = drawn(m, torch.from_numpy(data()).to(dtype).repeat(BATCH // 6, 1))
    own, step = frequencies(data(), 4), transition(m)[0]
    at = [after(m, own @ np.linalg.matrix_power(step, j)) for j in range(6)]
    assert is_the_mean(found, at[k])
    for other in (k - 1, k + 1, 0):  # and such a test would see one step more or less
        assert not is_the_mean(found, at[other])
    assert not is_the_mean(found, exact_gradient(m, data()))


@both_precisions
@pytest.mark.parametrize("k", [1, 2])
def test_persistent_chains_go_on_where_they_were(k, dtype):
    chains = torch.tensor([[0, 0, 0], [1, 0, 1]], dtype=dtype).repeat(700, 1)  # not as many as data
    m = machine(size=1.5, dtype=dtype, gibbs=k, chains=chains.clone())
    x = torch.from_numpy(data()).to(dtype).repeat(100, 1)
    step, down, _ = transition(m)
    start = frequencies(chains.double().numpy(), 3)
    first = drawn(m, x, before=lambda: m.chains.copy_(chains))
    at_first = start @ down @ np.linalg.matrix_power(step, k - 1)
    assert is_the_mean(first, after(m, at_first))

    def start_over_and_go_on():
        m.chains.copy_(chains)
        m.divergence(x)

    second = drawn(m, x, before=start_over_and_go_on)
    assert is_the_mean(second, after(m, at_first @ np.linalg.matrix_power(step, k)))
    assert not is_the_mean(second, after(m, at_first))
    assert not is_the_mean(second, after(m, frequencies(data(), 4) @ np.linalg.matrix_power(step, k)))


def test_persistent_chains_are_at_last_samples_of_the_model():
    m = machine(chains=torch.zeros(BATCH, 3, dtype=torch.float64), gibbs=2)
    x = torch.from_numpy(data()).repeat(100, 1)
    with random_numbers(0):
        for _ in range(60):
            m.divergence(x)
    assert is_the_mean(drawn(m, x, calls=100), exact_gradient(m, data()))


def test_many_steps_of_contrastive_divergence_are_the_exact_gradient():
    m = machine(gibbs=60)
    found = drawn(m, torch.from_numpy(data()).repeat(BATCH // 6, 1))
    assert is_the_mean(found, exact_gradient(m, data()))
    step, own = transition(m)[0], frequencies(data(), 4)
    off = [
        np.abs(flat(after(m, own @ np.linalg.matrix_power(step, k))) - flat(exact_gradient(m, data()))).max()
        for k in (1, 3, 10, 60)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-6


@every_pair
def test_the_gap_is_the_mean_energy_of_the_data_less_that_of_the_chains(layers):
    m, rng = machine(5, 4, layers, gibbs=2), np.random.default_rng(0)
    v = torch.from_numpy(rng.integers(0, 2, (7, 5)).astype(float))
    with random_numbers(0):
        found = m.divergence(v)
    energies = []
    for rows in (v, found.v[7:]):
        h = m.hidden.mean(m.up(rows)).numpy()
        real = isinstance(layers[1], Gaussian)
        here = np.diag(minus_energy(m, rows.numpy(), h)) + (0.5 * (h**2).sum(1) if real else 0)
        energies.append(-here.mean())
    np.testing.assert_allclose(float(found.gap), energies[0] - energies[1], rtol=1e-10)


def test_a_step_adds_the_velocity_and_takes_the_decay():
    m = machine(weight_decay=0.3)
    x = torch.from_numpy(data())
    before = [p.clone() for p in m.parameters()]
    with random_numbers(5):
        first, second = (m.divergence(x).gradients() for _ in range(2))
    velocities, expected = [torch.zeros_like(p) for p in before], before
    with random_numbers(5):
        for gradients in (first, second):
            # the second gradient is of other weights: give the machine those of before
            for p, start in zip(m.parameters(), before, strict=True):
                p.copy_(start)
            m.learn(x, 0.1)
            velocities = [0.9 * u + g for u, g in zip(velocities, gradients, strict=True)]
            decay = (1 - 0.1 * 0.3, 1.0, 1.0)
            expected = [d * p + 0.1 * u for d, p, u in zip(decay, before, velocities, strict=True)]
            for p, e in zip(m.parameters(), expected, strict=True):
                torch.testing.assert_close(p.detach(), e, rtol=1e-12, atol=1e-12)


# ---- samples -------------------------------------------------------------------------------------------------


@both_precisions
def test_long_chains_give_samples_of_the_model(dtype):
    m, n = machine(dtype=dtype), 20000
    with random_numbers(2):
        v, _ = m.sample(torch.zeros(n, 3, dtype=dtype), 60)
        early, _ = m.sample(torch.zeros(n, 3, dtype=dtype), 1)
    expected = n * probabilities(m)

    def far(v):
        counts = n * frequencies(v.double().numpy(), 4)
        return chi2.sf(((counts - expected) ** 2 / expected).sum(), len(expected) - 1)

    assert far(v) > 1e-4
    assert far(early) < 1e-9


def test_real_visible_units_are_sampled_with_variance_1():
    m = machine(2, 2, (REAL, BINARY))
    with random_numbers(0):
        v, _ = m.sample(torch.zeros(40000, 2, dtype=torch.float64), 40)
    grid_v, _ = grid(2)
    p = np.exp(-m.free_energy(torch.from_numpy(grid_v)).numpy())
    p /= p.sum()
    mean = p @ grid_v
    spread = (grid_v - mean).T @ ((grid_v - mean) * p[:, None])
    assert np.abs(v.numpy().mean(0) - mean).max() < 5 * math.sqrt(spread.max() / len(v))
    np.testing.assert_allclose(np.cov(v.numpy().T), spread, atol=10 * spread.max() / math.sqrt(len(v)))


def test_samples_of_a_fitted_code_have_the_mean_of_the_model_and_follow_the_seed():
    x = 3 * binary_rows() - 1
    code = RBM(3, epochs=60, batch=20).fit(x)
    state = torch.get_rng_state()
    found = code.sample(20000, 100)
    assert torch.equal(torch.get_rng_state(), state)
    v = all_states(5)
    mean = np.exp(code.log_likelihood(3 * v - 1)) @ (3 * v - 1)
    np.testing.assert_allclose(found.mean(0), mean, atol=5 * 1.5 / math.sqrt(len(found)))
    np.testing.assert_array_equal(code.sample(5, 3, 1), code.sample(5, 3, 1))
    assert (code.sample(5, 3, 1) != code.sample(5, 3, 2)).any()
    assert RBM(3, epochs=1).fit(np.zeros((4, 2, 3, 1))).sample(2, 1).shape == (2, 2, 3, 1)
    for wrong in ({"n": 0, "steps": 1}, {"n": 1, "steps": 0}):
        with pytest.raises(ChainruleError, match=" is 0: take 1 or more"):
            code.sample(**wrong)


# ---- learning ------------------------------------------------------------------------------------------------

PATTERNS = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1]], float)


@pytest.mark.parametrize("persistent", [False, True])
def test_learning_raises_the_exact_log_likelihood_towards_the_entropy(persistent):
    x = np.repeat(PATTERNS, 25, axis=0)
    code = RBM(8, gibbs=5, persistent=persistent, learning_rate=0.02)
    learner, found = code.learner(x, Plan(steps=1600)), []
    for state in learner:
        if state.step % 400 == 0:
            found.append(code.learned(learner).log_likelihood(PATTERNS).mean())
    assert found == sorted(found)
    bound = -math.log(4)  # no p(v) gives these data more than their own frequencies do
    assert all(value <= bound + 1e-9 for value in found)
    assert found[-1] > bound - 0.3
    assert found[0] > -6 * math.log(2)  # which is that of the means alone


def test_the_first_machine_knows_the_means_and_no_more():
    x = binary_rows(500)
    learner = RBM(4).learner(x, Plan(steps=0))
    m = learner.model
    np.testing.assert_allclose(expit(m.visible_bias.detach().numpy()), x.mean(0), rtol=1e-5)
    assert m.weights.detach().abs().max() < 0.05
    assert not m.hidden_bias.any()


def test_data_are_probabilities_between_their_ends():
    x = 7 * binary_rows() - 2
    code = RBM(3, epochs=2).fit(x)
    seen = (x + 2) / 7
    expected = expit(seen @ code.components_.T + code.hidden_bias_)
    np.testing.assert_allclose(code.transform(x), expected, rtol=1e-9)
    back = expit(expected @ code.components_ + code.visible_bias_)
    np.testing.assert_allclose(code.inverse_transform(expected), 7 * back - 2, rtol=1e-9)
    for call in (code.transform, code.free_energy):
        single = call(x.astype(np.float32))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, call(x), rtol=1e-5, atol=1e-5)


def test_real_hidden_units_have_linear_codes():
    x = binary_rows()
    code = RBM(3, hidden=Gaussian(), epochs=2).fit(x)
    np.testing.assert_allclose(
        code.transform(x), x @ code.components_.T + code.hidden_bias_, rtol=1e-9, atol=1e-12
    )


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    x = binary_rows(300, 12)
    for persistent in (False, True):
        one, same, other = (
            RBM(5, persistent=persistent, epochs=2, random_state=s).fit(x).arrays() for s in (0, 0, 1)
        )
        for name, array in one.items():
            np.testing.assert_array_equal(array, same[name])
        assert (one["components_"] != other["components_"]).all()


def stored(arrays):
    tensors, counters = arrays
    data = safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(counters))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_resumed_training_ends_with_the_same_bits_and_chains_are_part_of_its_state(persistent):
    x, plan = binary_rows(300, 12), Plan(steps=12)
    code = RBM(5, persistent=persistent, batch=50, learning_rate=1.0)
    states = [stored(state.arrays()) for state in code.learner(x, plan)]
    assert ("weights.chains" in states[0][0]) == persistent
    for k in (1, 5, 11):
        rest = code.learner(x, plan)
        rest.restore(*states[k - 1])
        for _ in rest:
            pass
        for name, tensor in rest.arrays()[0].items():
            assert torch.equal(tensor, states[-1][0][name]), name
    for name in (["weights.chains"] if persistent else []) + ["weights.velocity"]:
        tensors, counters = states[4]
        rest = code.learner(x, plan)
        with pytest.raises(ChainruleError, match=f"has nothing for {name}"):
            rest.restore({k: v for k, v in tensors.items() if k != name}, counters)
        rest.restore({**tensors, name: torch.zeros_like(tensors[name])}, counters)  # and it matters
        for _ in rest:
            pass
        assert not torch.equal(rest.arrays()[0]["weights.weights"], states[-1][0]["weights.weights"])


@pytest.mark.parametrize("n", [1, 30, 100, 150])
def test_there_may_be_other_numbers_of_events_than_of_chains(n):
    x = np.random.default_rng(0).integers(0, 2, (n, 6)).astype(float)
    code = RBM(4, persistent=True, batch=100, epochs=3).fit(x)
    assert code.n_steps_ == 3 * -(-n // 100)
    assert np.isfinite(code.transform(x)).all()


def test_codes_may_be_read_only_or_run_backwards(recwarn):
    x = binary_rows()
    code = RBM(4, epochs=1).fit(x)
    z = code.transform(x)
    backwards = code.inverse_transform(z[::-1, ::-1])
    np.testing.assert_array_equal(backwards, code.inverse_transform(z[::-1, ::-1].copy()))
    z.flags.writeable = False
    code.inverse_transform(z)
    assert not recwarn.list


@every_pair
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        np.full((30, 5), 7.1),
        np.zeros((30, 5)),
        np.ones((1, 5)),
        np.eye(2)[[0] * 40 + [1]] * 1e6,
        np.random.default_rng(0).normal(size=(20, 1)),
    ],
    ids=["constant", "zero", "one", "outlier", "narrow"],
)
def test_nothing_becomes_nan(x, persistent, layers):
    code = RBM(7, *layers, persistent=persistent, epochs=10)
    learner = code.learner(x)
    losses = [state.loss for state in learner]
    code.learned(learner)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(a).all() for a in code.arrays().values())
    assert np.isfinite(code.inverse_transform(code.transform(x))).all()
    assert np.isfinite(code.log_likelihood(x)).all()


REFUSED = [
    ({"n_components": 0}, "n_components is 0: take 1 or more"),
    ({"gibbs": 0}, "gibbs is 0: take 1 or more"),
    ({"epochs": 0}, "epochs is 0: take 1 or more"),
    ({"batch": 0}, "batch is 0: take 1 or more"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0: take 0 or more"),
    ({"weight_decay": -1.0}, "weight_decay is -1.0: take 0 or more"),
    (
        {"visible": Gaussian(), "hidden": Gaussian()},
        "visible and hidden are Gaussian, which is PCA in disguise",
    ),
    ({"visible": 3}, "visible is 3: take one of Bernoulli, Gaussian"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(args, message):
    with pytest.raises(ChainruleError, match=message) as refused:
        RBM(**{"n_components": 3, **args}).fit(binary_rows())
    assert len(str(refused.value).splitlines()) == 1


# ---- how binary units are drawn ------------------------------------------------------------------------------


def draws(a, n=1 << 20, seed=0):
    """(n,) draws of a unit with the natural parameter a."""
    with random_numbers(seed):
        return draw_binary(torch.full((n,), a))[0].numpy()


@pytest.mark.parametrize("a", [-9.0, -3.0, -0.5, 0.0, 0.1, 2.0, 7.0])
def test_a_binary_unit_is_on_as_often_as_its_chance_says(a):
    u, p = draws(a).astype(np.float64), expit(a)
    assert set(np.unique(u)) <= {0.0, 1.0}
    assert abs(u.mean() - p) <= 5 * math.sqrt(p * (1 - p) / len(u))


def correlation(u, w):
    return float(np.corrcoef(u, w)[0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_draws_are_not_correlated_with_those_before_or_of_another_key(seed):
    u, n = draws(0.0, seed=seed).astype(np.float64), 1 << 20
    lags = [1, 2, 3, 4, 7, 8, 16, 32, 100, 256, 1000, 1024, 65536]
    other = draws(0.0, seed=seed + 100).astype(np.float64)
    found = [correlation(u[lag:], u[:-lag]) for lag in lags]
    found += [correlation(u, other)] + [correlation(u[lag:], other[:-lag]) for lag in lags]
    assert max(map(abs, found)) <= 5.5 / math.sqrt(n)
    with random_numbers(seed):  # keys that follow each other
        near = [draw_binary(torch.zeros(n // 4))[0].double().numpy() for _ in range(4)]
    pairs = [correlation(x, y) for x, y in itertools.combinations(near, 2)]
    assert max(map(abs, pairs)) <= 5.5 / math.sqrt(n / 4)


@pytest.mark.parametrize("seed", range(3))
def test_eight_draws_in_a_row_take_all_their_values_equally_often(seed):
    bytes_ = draws(0.0, seed=seed).reshape(-1, 8) @ 2 ** np.arange(8)
    counts = np.bincount(bytes_.astype(int), minlength=256)
    mean = len(bytes_) / 256
    assert 1e-5 < chi2.sf(((counts - mean) ** 2 / mean).sum(), 255) < 1 - 1e-5


def words(state):
    """The hash of draw_bits as published (Wellons 2018, lowbias32), by numpy."""
    state = np.asarray(state, np.uint64) & 0xFFFFFFFF
    state = ((state ^ (state >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    state = ((state ^ (state >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return state ^ (state >> 16)


LOWEST, HIGHEST = 0, 0xD5F9EFC4  # the hash is 0, and its largest


def bits(a, key, step=1):
    """(draws, means) of units with natural parameters a at a key."""
    a = np.asarray(a, np.float32)
    mean, drawn = np.empty_like(a), np.empty_like(a)
    units.draw_bits(a, mean, drawn, np.uint32(key), np.uint32(step))
    return drawn, mean


def test_draws_are_the_published_hash():
    a = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    for key, step in [(0, 1), (3_000_000_000, 2_654_435_769), (7, 0xFFFFFFFF)]:
        drawn, mean = bits(a, key, step)
        state = (key + step * np.arange(len(a), dtype=np.uint64)) & 0xFFFFFFFF
        share = (words(state) >> 8) / 2.0**24
        np.testing.assert_array_equal(drawn, share < mean.astype(np.float64))


def test_a_chance_that_is_taken_for_0_is_never_drawn_and_one_that_is_not_can_be():
    assert words(LOWEST) == 0  # a share of 0: drawn if the chance is more than that
    for a in (-18.0, -30.0, -87.0, -100.0, -1e30, -np.inf):
        drawn, mean = bits([a], LOWEST)
        assert (drawn[0], mean[0]) == (0, 0)
    drawn, mean = bits([-17.0], LOWEST)
    assert drawn[0] == 1
    assert mean[0] > 2.0**-25
    assert words(HIGHEST) == 2**32 - 1
    for a in (18.0, 90.0, np.inf):  # the largest share is still less than 1
        assert bits([a], HIGHEST)[0][0] == 1


def test_means_are_those_of_a_sigmoid():
    a = torch.cat([torch.linspace(-100, 100, 20001), torch.tensor([math.inf, -math.inf])])
    _, mean = draw_binary(a)
    expected = torch.sigmoid(a.double())
    kept = expected > 2.0**-25
    torch.testing.assert_close(mean[kept].double(), expected[kept], rtol=1e-6, atol=0)
    assert not mean[~kept].any()
    tiny = torch.finfo(torch.float32).tiny
    assert not ((mean > 0) & (mean < tiny)).any()


def test_single_and_double_precision_draw_alike():
    a = torch.from_numpy(np.random.default_rng(0).normal(size=30) * 2)
    n, rates = 40000, []
    for dtype in (torch.float32, torch.float64):
        with random_numbers(1):
            u, mean = Bernoulli().draw(a.to(dtype).repeat(n, 1))
        assert u.dtype == mean.dtype == dtype
        torch.testing.assert_close(mean[0].double(), torch.sigmoid(a), rtol=1e-6, atol=0)
        rates.append(u.double().mean(0).numpy())
    p = expit(a.numpy())
    for rate in rates:
        assert (np.abs(rate - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()
    with random_numbers(1):  # what does not lie in one piece is drawn too
        u, _ = Bernoulli().draw(a.float().repeat(n, 1).T)
    assert (np.abs(u.double().mean(1).numpy() - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def test_numbers_too_small_for_single_precision_change_nothing():
    a = torch.linspace(-110, -10, 100_000)
    before = torch.set_flush_denormal(False)
    found = []
    for flush in (False, True):
        assert torch.set_flush_denormal(flush)
        try:
            with random_numbers(3):
                found.append(draw_binary(a))
        finally:
            torch.set_flush_denormal(False)
    assert before
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_draws_follow_from_the_seed_of_pytorch():
    np.testing.assert_array_equal(draws(0.0, 1000, 5), draws(0.0, 1000, 5))
    assert (draws(0.0, 1000, 5) != draws(0.0, 1000, 6)).any()
    with random_numbers(5):
        first, second = (draw_binary(torch.zeros(1000))[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_machine_of_random_weights_depends_on_its_seed_only():
    v = torch.from_numpy(binary_rows()).float()
    one, same, other = (first_machine(v, 4, BINARY, BINARY, s, chains=6) for s in (0, 0, 1))
    assert torch.equal(one.weights, same.weights)
    assert torch.equal(one.chains, same.chains)
    assert not torch.equal(one.weights, other.weights)
    assert set(one.chains.unique().tolist()) == {0.0, 1.0}
