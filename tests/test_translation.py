"""Chains that are conditioned on a source text keep all of the contract, and what `check_sourced_*` add to it."""

import math

import numpy as np
import pytest
import torch

from chainrule import sample, store
from chainrule.chains import CHAINS
from chainrule.errors import ChainruleError
from chainrule.layers.translation import log_probs_of, loss_of
from contracts import (
    all_of_the_source,
    check_causality,
    check_complete,
    check_engine,
    check_extremes,
    check_gradients,
    check_items_are_independent,
    check_overfits,
    check_samples,
    check_seed,
    check_smallest,
    check_sourced_items,
    check_sourced_once,
    check_sourced_ragged,
    check_sourced_reach,
    check_store,
    check_sums_to_one,
    check_symbol_types,
    check_walk,
    everything_before,
    randomised,
    sources,
    steps,
)
from test_chains import dilated

CASES = {
    "seq2seq": ("seq2seq", {}),
    "bytenet-relu": ("bytenet", {"units": "relu"}),
    "bytenet-multiplicative": ("bytenet", {"units": "multiplicative"}),
}
every = pytest.mark.parametrize("case", CASES)
modes = pytest.mark.parametrize("training", [False, True], ids=["in use", "in training"])
TEXT = (9,)
LENGTHS = [(1,), (3,), (12,)]  # shorter than what is made of the longest source, and longer


def arguments(case, symbols=3, source=4, **more):
    """Constructor arguments of the tiny size."""
    name, settings = CASES[case]
    return name, {
        **store.resolve(name, CHAINS).SIZES["tiny"],
        "symbols": symbols,
        "source": source,
    } | settings | more


def built(case, **more):
    """The tiny chain, as it is built."""
    name, settings = arguments(case, **more)
    return store.build(name, settings, CHAINS)


def ready(case, event=TEXT, **more):
    """It in float64 with random weights."""
    return randomised(built(case, **more), event)


# ---- where they see -----------------------------------------------------------------------------------------


def by_kernels(chain, event, size):
    """(N, S): the symbols of a source that a ByteNet knows at each position, followed from block to block."""
    seen = np.eye(math.ceil(size * chain.stretch), size, dtype=bool)
    for block in chain.encoder_blocks:
        seen = spread(seen, block.conv.at)
    seen = np.pad(seen, ((0, max(0, event[0] - len(seen))), (0, 0)))[: event[0]]
    for block in chain.decoder:
        seen = spread(seen, block.conv.at)
    return seen


def spread(seen, at):
    """What each place knows after a convolution that looks at the places `at` from it."""
    places = np.arange(len(seen))[:, None] + np.array(at)
    inside = (places >= 0) & (places < len(seen))
    return (seen[places.clip(0, len(seen) - 1)] & inside[..., None]).any(1)


REACH = {"seq2seq": (everything_before, all_of_the_source), "bytenet": (dilated, by_kernels)}


@modes
@every
@pytest.mark.parametrize("event", LENGTHS)
def test_conditionals_see_what_came_before_and_the_source(case, event, training):
    chain, (before, source) = ready(case, event), REACH[CASES[case][0]]
    check_causality(chain, event, before, training)
    check_sourced_reach(chain, event, source, training)


@modes
@every
def test_items_do_not_see_each_other(case, training):
    check_items_are_independent(ready(case), TEXT, training)
    check_sourced_items(ready(case), TEXT, training)


@every
def test_dropout_adds_no_leak(case):
    check_causality(ready(case, dropout=0.3), TEXT, None, training=True)


@modes
@every
def test_texts_of_several_lengths_are_as_if_each_came_alone(case, training):
    check_sourced_ragged(ready(case), TEXT, training)


@every
def test_no_source_and_an_empty_one_are_told_apart_from_a_mistake(case):
    chain = ready(case)
    x, empty = torch.tensor([[0, 1, 2]] * 2), torch.zeros(2, 0, dtype=torch.long)
    padded = torch.full((2, 5), -1)
    assert torch.equal(chain.logits(x, empty), chain.logits(x, padded))
    np.testing.assert_allclose(steps(chain, x, empty), chain.logits(x, empty).detach(), rtol=1e-9, atol=1e-9)
    assert (chain.logits(x, empty) != chain.logits(x, sources(chain, 2))).any()


# ---- probabilities, steps, samples ----------------------------------------------------------------------------


@every
def test_probabilities_of_all_targets_add_up_to_one(case):
    check_sums_to_one(ready(case, (4,)), (4,))
    check_extremes(ready(case, (4,)), (4,))
    check_smallest(ready(case, (4,)), (4,))


@every
def test_bytes_are_numbers_up_to_255(case):
    check_symbol_types(ready(case, symbols=256, source=256), TEXT)


@every
@pytest.mark.parametrize("event", LENGTHS)
def test_the_walk_and_the_engine_meet_the_parallel_logits(case, event):
    chain = ready(case, event)
    check_walk(chain, event)
    check_engine(chain, event)
    check_sourced_once(chain, event)


@every
def test_samples_and_completions_follow_p(case):
    check_samples(ready(case, (4,)), (4,))
    check_complete(ready(case, (4,)), (4,))


# ---- weights --------------------------------------------------------------------------------------------------


@every
def test_gradients_reach_every_parameter_and_are_right(case):
    check_gradients(ready(case), TEXT)


@every
def test_one_batch_can_be_overfitted(case):
    check_overfits(built(case), TEXT)


@every
def test_files_and_seeds_give_the_same_bits(case):
    check_store(built(case), TEXT, CHAINS)
    check_seed(*arguments(case, dropout=0.3), CHAINS, TEXT)


# ---- refusals -------------------------------------------------------------------------------------------------

WRONG = [
    (None, "a source text for each item"),
    (torch.tensor([1, 2]), r"\(B, S\): an array of shape \(2,\)"),
    (torch.tensor([[1], [4]]), "symbols 1 to 4, the model knows 0 to 3"),
    (torch.tensor([[1], [-2]]), "symbols -2 to 1, the model knows 0 to 3"),
]


@every
@pytest.mark.parametrize(("context", "message"), WRONG)
def test_what_is_no_source_is_refused_in_one_line(case, context, message):
    with pytest.raises(ChainruleError, match=message):
        built(case).logits(torch.zeros(2, 3, dtype=torch.long), context)


@every
def test_samples_without_sources_are_refused(case):
    chain = built(case)
    for context, found in [(None, "none"), (sources(chain, 2), "2")]:
        with pytest.raises(ChainruleError, match=f"a source text for each of 3 items, {found} were given"):
            sample(chain, 3, (4,), context)


@every
@pytest.mark.parametrize("settings", [{"source": -1}, {"source": 3, "classes": 2}])
def test_a_chain_is_conditioned_on_one_thing(case, settings):
    with pytest.raises(ChainruleError, match=f"source is {settings['source']}"):
        built(case, **settings)


def test_a_loss_leaves_out_what_is_beyond_the_end():
    logits, x = torch.randn(2, 3, 5, dtype=torch.float64), torch.tensor([[1, 2, 4], [0, -1, -1]])
    each = [-logits[i, t].log_softmax(0)[x[i, t]] for i, t in [(0, 0), (0, 1), (0, 2), (1, 0)]]
    torch.testing.assert_close(loss_of(logits, x), sum(each) / 4)
    torch.testing.assert_close(log_probs_of(logits, x).sum(), -sum(each))
    assert loss_of(logits.bfloat16(), x).dtype == torch.float32
