"""Every check of `contracts.py` catches the defects that it is there for.

`Good` is a small chain that passes them all. The other classes differ from it by one defect each, such as are
found in public code; further down the real chains are damaged in the same spirit.
"""

import contextlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import contracts
from chainrule import complete, sample, store, train
from chainrule.chains import CHAINS, gated_pixelcnn, mixture, seq2seq, sparse_transformer, transformer_xl
from chainrule.chains import deep_attention as deep
from chainrule.chains.bytenet import ByteNet
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.deep_attention import DeepAttention
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.chains.gpt import GPT
from chainrule.chains.mlstm import MultiplicativeLSTM
from chainrule.chains.seq2seq import Seq2Seq
from chainrule.chains.sparse_transformer import SparseTransformer
from chainrule.chains.transformer_xl import TransformerXL
from chainrule.engine import Builder
from chainrule.engine.strict import Strict
from chainrule.layers import attention, carried, conv, pixels, relative, sequence, sparse_attention
from chainrule.layers.translation import log_probs_of, loss_of
from chainrule.model import Chain, pick
from contracts import (
    all_of_the_source,
    check_branches,
    check_carried,
    check_causality,
    check_classes,
    check_coding,
    check_complete,
    check_engine,
    check_exchange,
    check_extremes,
    check_gradients,
    check_greedy,
    check_items_are_independent,
    check_overfits,
    check_padding,
    check_samples,
    check_seed,
    check_seeds,
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
)

TEXT, IMAGE = (4,), (1, 2, 3)


class Good(Chain):
    """Each symbol from the `window` symbols before it; "nothing yet" is a symbol of its own."""

    def __init__(self, symbols: int = 3, window: int = 20, width: int = 12, classes: int = 0):
        super().__init__()
        self.symbols, self.window, self.classes = symbols, window, classes
        self.embed = nn.Embedding(symbols + 1, width)
        self.mix = nn.Conv1d(width, width, window)
        self.out = nn.Linear(width, symbols)
        self.condition = nn.Embedding(classes, width) if classes else None

    def logits(self, x, context=None):
        flat = x.reshape(len(x), math.prod(x.shape[1:])).long()
        h = self.hidden(flat)
        if self.condition is not None:
            h = h + self.condition(self.of_items(context))[:, None]
        return self.out(torch.tanh(h)).reshape(*x.shape, self.symbols)

    def hidden(self, flat):
        """flat (B, N) -> (B, N, D); [:, i] sees the symbols before i."""
        past = F.pad(flat, (self.window, 0), value=self.symbols)[:, : self.window + flat.shape[1] - 1]
        return self.mix(self.embed(past).mT).mT

    def of_items(self, context):
        return context


# ---- probability ----


class FirstSymbolIsFree(Good):
    def log_probs(self, x, context=None):
        each = super().log_probs(x, context)
        return torch.cat([0 * each[:, :1], each[:, 1:]], 1)


class NeverImpossible(Good):
    def log_probs(self, x, context=None):
        return (super().log_probs(x, context).exp() + 1e-5).log()


class ScoresAnotherDistribution(Good):
    def log_probs(self, x, context=None):
        logits = 1.1 * self.logits(x, context).double()
        return logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]


class LossForgetsTheLastItem(Good):
    def loss(self, x, context=None):
        return super().loss(x[:-1], None if context is None else context[:-1])


class AuxiliaryLossFirst(Good):
    def loss(self, x, context=None):
        loss = super().loss(x, context)
        return torch.stack([2 * loss, loss])


class NatsInSinglePrecision(Good):
    def log_prob(self, x, context=None):
        return super().log_prob(x, context).float()


class MeanOfSymbols(Good):
    def log_prob(self, x, context=None):
        return self.log_probs(x, context).flatten(1).mean(1)


class ExpWithoutMaximum(Good):
    def log_probs(self, x, context=None):
        p = self.logits(x, context).exp()
        return (p / p.sum(-1, keepdim=True)).log().gather(-1, x[..., None])[..., 0]


class MaskThatLargeScoresBeat(Good):
    """Attention over everything, the future kept out by adding −10,000 to its scores."""

    def hidden(self, flat):
        n = flat.shape[1]
        e = self.embed(F.pad(flat, (1, 0), value=self.symbols)[:, :n])
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        scores = e @ self.mix.weight[..., 0] @ e.mT - 1e4 * future
        return scores.softmax(-1) @ e


class AddsBytes(Good):
    """The distance of bytes to a level, in the arithmetic of bytes."""

    def __init__(self, symbols=256, classes=0):
        super().__init__(symbols, classes=classes)

    def loss(self, x, context=None):
        return super().loss(x, context) + (2 * x + 1).double().mean()


# ---- causality ----


class SeesItself(Good):
    """A kernel padded "same": one place too far to the right."""

    def hidden(self, flat):
        past = F.pad(flat, (self.window - 1, 0), value=self.symbols)
        return self.mix(self.embed(past).mT).mT


class SeesTheNext(Good):
    def hidden(self, flat):
        h = super().hidden(flat)
        return h + F.pad(self.embed(flat)[:, 1:], (0, 0, 0, 1))


class SeesTheRowBelow(Good):
    """Two columns: the symbol two places on is the pixel below."""

    def hidden(self, flat):
        return super().hidden(flat) + F.pad(self.embed(flat)[:, 2:], (0, 0, 0, 2))


class ColoursInTheWrongOrder(Good):
    """Blue first, although the order of the chain says red first."""

    def logits(self, x, context=None):
        return super().logits(x.flip(-1), context).flip(-2)


class ColoursAreIndependent(Good):
    def logits(self, x, context=None):
        one = [
            super(ColoursAreIndependent, self).logits(self.without(x, c), context) for c in range(x.shape[-1])
        ]
        return torch.stack([full[..., c, :] for c, full in enumerate(one)], -2)

    def without(self, x, c):
        """x of which channel c sees no other channel at its own pixel: those of the last pixel."""
        x = x.clone()
        x[:, -1, -1, :c] = 0
        return x


class BlindSpot(Good):
    def hidden(self, flat):
        past = F.pad(flat, (self.window, 0), value=self.symbols)[:, : self.window + flat.shape[1] - 1]
        seen = torch.ones(self.window)
        seen[-2] = 0  # all but the symbol before the last one
        return F.conv1d(self.embed(past).mT, self.mix.weight * seen, self.mix.bias).mT


class SeesTooLittle(Good):
    def __init__(self, symbols: int = 3, window: int = 2, width: int = 12, classes: int = 0):
        super().__init__(symbols, window, width, classes)


class NormalisesOverTime(Good):
    def hidden(self, flat):
        h = super().hidden(flat)
        return (h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1) if self.training else h


class NormalisesOverItems(Good):
    def hidden(self, flat):
        h = super().hidden(flat)
        return h - h.mean(0) if self.training else h


class ClassIsIgnored(Good):
    def of_items(self, context):
        return 0 * context


class ClassOfTheFirstItem(Good):
    def of_items(self, context):
        return context[:1].expand(len(context))


class PaddedWithLevelZero(Good):
    def hidden(self, flat):
        past = F.pad(flat, (self.window, 0), value=0)[:, : self.window + flat.shape[1] - 1]
        return self.mix(self.embed(past).mT).mT


# ---- the walk ----


class StepLags(Good):
    def step(self, state, symbol=None):
        held, state.held = getattr(state, "held", None), symbol
        if held is None:
            logits = self.logits(state.x, state.context).reshape(len(state.x), -1, self.symbols)
            return logits[:, 0], state
        return super().step(state, held)


class StateInTheModule(Good):
    """The second walk of a batch of the same size goes on with the symbols of the first."""

    seen = torch.zeros(0, 0, dtype=torch.long)

    def start(self, batch, event, context=None):
        if len(self.seen) != batch:
            self.seen = torch.zeros(batch, 0, dtype=torch.long)

    def step(self, state, symbol=None):
        if symbol is not None:
            self.seen = torch.cat([self.seen, symbol[:, None].long()], 1)
        return self.logits(F.pad(self.seen, (0, 1)))[:, -1], state


class StateThatCannotBranch(Good):
    """What is known lies in the module: a copy of the state shares it."""

    def start(self, batch, event, context=None):
        state = super().start(batch, event, context)
        object.__setattr__(self, "shared", state.x)
        return state

    def step(self, state, symbol=None):
        state.x = self.shared
        return super().step(state, symbol)


class StepForgetsTheClass(Good):
    def start(self, batch, event, context=None):
        return super().start(batch, event, 0 * context)


class StepInSinglePrecision(Good):
    def step(self, state, symbol=None):
        logits, state = super().step(state, symbol)
        return logits.float(), state


# ---- samplers and completions ----


def off_by_one(chain, n=16, event=None, context=None, **more):
    return (sample(chain, n, event, context, **more) + 1) % chain.symbols


def off_by_one_in_the_last_symbol(chain, n=16, event=None, context=None, **more):
    x = sample(chain, n, event, context, **more)
    x[..., -1] = (x[..., -1] + 1) % chain.symbols
    return x


def without(option):
    """A sampler that ignores an option."""

    def broken(chain, n=16, event=None, context=None, **more):
        more.pop(option, None)
        return sample(chain, n, event, context, **more)

    return broken


def filters_by_default(chain, n=16, event=None, context=None, *, top_p=0.9, **more):
    return sample(chain, n, event, context, top_p=top_p, **more)


def always_filters(chain, n=16, event=None, context=None, *, top_p=1.0, **more):
    return sample(chain, n, event, context, top_p=min(top_p, 0.8), **more)


def one_stream_for_the_batch(chain, n=16, event=None, context=None, *, first=0, seed=0, **more):
    return sample(chain, n, event, context, seed=seed + 1000 * n, **more)


def every_item_the_same(chain, n=16, event=None, context=None, *, first=0, **more):
    return np.concatenate(
        [sample(chain, 1, event, None if context is None else context[i : i + 1], **more) for i in range(n)]
    )


def never_greedy(chain, n=16, event=None, context=None, *, temperature=1.0, **more):
    return sample(chain, n, event, context, temperature=max(temperature, 0.8), **more)


def draws_globally(chain, n=16, event=None, context=None, **more):
    return sample(chain, n, event, context, **{**more, "seed": int(torch.randint(1 << 20, ()))})


def redraws_all(chain, x, known, n=4, context=None, **more):
    return sample(chain, n, x.shape, context, **more)


def pastes_what_is_known(chain, x, known, n=4, context=None, **more):
    drawn = sample(chain, n, x.shape, context, **more)
    drawn[:, known] = x[known]
    return drawn


def keeps_what_is_unknown(chain, x, known, n=4, context=None, **more):
    drawn = complete(chain, x, known, n, context, **more)
    return np.repeat(x[None], n, 0) if known.any() else drawn


def completes_the_first_class(chain, x, known, n=4, context=None, **more):
    return complete(chain, x, known, n, None if context is None else 0 * context, **more)


# ---- weights, gradients, files, seeds ----


class UnusedParameter(Good):
    def __init__(self, symbols: int = 3):
        super().__init__(symbols)
        self.unused = nn.Linear(2, 2)


class UselessParameter(Good):
    def __init__(self, symbols: int = 3):
        super().__init__(symbols)
        self.useless = nn.Parameter(torch.ones(2))

    def hidden(self, flat):
        return super().hidden(flat) + 0 * self.useless.sum()


class HalfDetached(Good):
    def hidden(self, flat):
        h = super().hidden(flat)
        return h - 0.5 * h + 0.5 * h.detach()


class LossIsNotTheLikelihoodsSlope(Good):
    def loss(self, x, context=None):
        loss = super().loss(x, context)
        return loss + loss.detach() * loss


class Deaf(Good):
    def hidden(self, flat):
        return 0 * super().hidden(flat)


class BuiltFromAnAttribute(Good):
    gain = 1.0

    def hidden(self, flat):
        return self.gain * super().hidden(flat)


class Programmed(Good):
    """Stated as a step program, too: each symbol from the two before it."""

    def __init__(self, symbols: int = 3, width: int = 4, classes: int = 2):
        super().__init__(symbols, 2, width, classes)

    def program(self, p, far=-2, near=-1, bias=1, flip=False):
        taps = self.mix.weight.permute(2, 1, 0)  # (2, in, out): the place further away first
        first = p.dense(self.from_symbol(p, far), weight=taps[0], bias=self.mix.bias * bias)
        h = p.dense(self.from_symbol(p, near), weight=taps[1], onto=first)
        if self.condition is not None:
            table = self.condition.weight
            h = p.add(h, p.one_of_classes(table.flip(0) if flip else table))
        return [p.dense(p.pointwise("tanh", h), weight=self.out.weight.T, bias=self.out.bias)]

    def from_symbol(self, p, columns):
        return p.embed(self.embed.weight, columns=columns, outside=self.symbols, clock="pixel")


class ProgramReadsTheWrongColumn(Programmed):
    def program(self, p):
        return super().program(p, far=-3)


class ProgramForgetsABias(Programmed):
    def program(self, p):
        return super().program(p, bias=0)


class ProgramTakesAnotherClass(Programmed):
    def program(self, p):
        return super().program(p, flip=True)


class ProgramPadsWithALevel(Programmed):
    def from_symbol(self, p, columns):
        return p.embed(self.embed.weight, columns=columns, outside=0, clock="pixel")


class ProgramInSinglePrecision(Programmed):
    def program(self, p):
        p.dtype = np.float32
        return super().program(p)


class ProgramRemembersTheLastEvent(Programmed):
    """What was built into the last program leaks into the next."""

    events = 0.0

    def program(self, p):
        self.events += 0.01
        (logits,) = super().program(p)
        return [p.add(logits, p.constant(np.arange(self.symbols) * self.events))]


class Translator(Programmed):
    """Given a source too: at each of its places the sum of all its symbols' vectors, its own twice."""

    def __init__(self, symbols: int = 3, source: int = 4, width: int = 4):
        super().__init__(symbols, width, 0)
        self.source, self.features = source, width
        self.sources = nn.Embedding(source, width)

    def logits(self, x, context=None):
        flat = x.flatten(1).long().clamp(min=0)
        e = F.pad(self.encode(context), (0, 0, 0, flat.shape[1]))[:, : flat.shape[1]]
        return self.out(torch.tanh(self.hidden(flat) + e)).reshape(*x.shape, self.symbols)

    def log_probs(self, x, context=None):
        return log_probs_of(self.logits(x, context), x) if x.numel() else x.double()

    def loss(self, x, context=None):
        return loss_of(self.logits(x, context).flatten(1, -2), x.flatten(1))

    def encode(self, context):
        z, inside = self.told(context).split([self.features, 1], -1)
        return self.ends(self.sum_of(self.begins(z, inside)) + z, inside)

    def sum_of(self, z):
        return z.sum(1, keepdim=True)

    def begins(self, z, inside):
        return z * inside

    ends = begins

    def told(self, context):
        context = F.pad(context, (0, int(not context.shape[1])), value=-1)
        z = self.sources(context.clamp(min=0))
        return torch.cat([z, (context >= 0)[..., None].to(z)], -1)

    def encoder(self, p, own=1.0):
        """From the right the sum of what is to come, then from the left of what has been."""
        told, n = p.given_features(), self.features
        inside = p.dense(told[n:], weight=torch.ones(1, n))
        z = p.multiply(told[:n], inside)
        ahead, so_far = p.memory(n, "back"), p.memory(n)
        p.write(ahead, p.add(p.at(ahead, columns=1), z))
        p.add(p.at(so_far, columns=-1), p.multiply(z, p.constant(np.full(n, own))), into=so_far)
        return p.multiply(p.add(so_far, ahead), inside)

    def program(self, p):
        taps = self.mix.weight.permute(2, 1, 0)
        first = p.dense(self.from_symbol(p, -2), weight=taps[0], bias=self.mix.bias)
        h = p.add(p.dense(self.from_symbol(p, -1), weight=taps[1], onto=first), p.given_features())
        return [p.dense(p.pointwise("tanh", h), weight=self.out.weight.T, bias=self.out.bias)]


class SourceGoesOn(Translator):
    """What fills a source up counts as its first symbol."""

    def begins(self, z, inside):
        return z


class EndIsASymbol(Translator):
    """Beyond its end a source goes on with symbol 0."""

    def told(self, context):
        return super().told(context.clamp(min=0))


class EncodingGoesOn(Translator):
    """The encoding of a short source goes on to where the longest ends."""

    def ends(self, z, inside):
        return z


class SourceOfAnotherItem(Translator):
    def encode(self, context):
        return super().encode(context).roll(1, 0)


class MeanOverSources(Translator):
    def encode(self, context):
        e = super().encode(context)
        return e - e.mean(0) if self.training else e


class HearsTheFirstSymbolsOnly(Translator):
    def sum_of(self, z):
        return z[:, :3].sum(1, keepdim=True)


class KnowsHowLongTheLongestTargetIs(Translator):
    def logits(self, x, context=None):
        return super().logits(x, context) / max(1, x.shape[1])


class EndsCost(Translator):
    def log_probs(self, x, context=None):
        return pick(self.logits(x, context), x.clamp(min=0))


class LossOfWhatIsNotThere(Translator):
    def loss(self, x, context=None):
        return loss_of(self.logits(x, context), x.clamp(min=0))


class LossOfItemsNotOfSymbols(Translator):
    def loss(self, x, context=None):
        return -(self.log_probs(x, context).sum(1) / (x >= 0).sum(1)).mean()


class TargetsAreFilledUpWithASymbol(Translator):
    """A symbol that stands beyond the end says something about those before it."""

    def hidden(self, flat):
        return super().hidden(flat) + self.embed(flat[:, -1:])


class EncoderForgetsAVector(Translator):
    def encoder(self, p):
        return super().encoder(p, own=0.0)


class EncodesInSinglePrecision(Translator):
    def encode(self, context):
        return super().encode(context).float().double()


class EncodesAtEveryStep(Translator):
    def start(self, batch, event, context=None):
        return {"context": context, "known": torch.zeros(batch, 0, dtype=torch.long)}

    def step(self, state, symbol=None):
        if symbol is not None:
            state["known"] = torch.cat([state["known"], symbol[:, None].long()], 1)
        return self.logits(F.pad(state["known"], (0, 1)), state["context"])[:, -1], state

    def program(self, p):
        return None


class EncodingKnowsTheBatch(Translator):
    def told(self, context):
        return super().told(context) * (1 + 1e-6 * len(context))


class EncodingKnowsTheLongestSource(Translator):
    def told(self, context):
        return super().told(context) * (1 + 1e-6 * context.shape[1])


class SecretBuffer(Good):
    """Something else than arguments and weights decides what it says."""

    def __init__(self, symbols: int = 3):
        super().__init__(symbols)
        self.register_buffer(
            "noise", torch.from_numpy(np.random.default_rng().random(12, np.float32)), persistent=False
        )

    def hidden(self, flat):
        return super().hidden(flat) + self.noise


class OwnDice(Good):
    def __init__(self, symbols: int = 3):
        super().__init__(symbols)
        nn.init.constant_(self.out.bias, float(np.random.default_rng().random()))


class GlobalDice(Good):
    def hidden(self, flat):
        return super().hidden(flat) + torch.rand(())


class SeedsTheWorld(Good):
    def start(self, batch, event, context=None):
        torch.manual_seed(0)
        return super().start(batch, event, context)


class SeedIsIgnored(Good):
    def __init__(self, symbols: int = 3):
        super().__init__(symbols)
        for p in self.parameters():
            nn.init.constant_(p, 0.1)


TABLE = {
    cls.__name__: f"{cls.__module__}:{cls.__name__}"
    for cls in [
        Good,
        SecretBuffer,
        OwnDice,
        GlobalDice,
        SeedsTheWorld,
        SeedIsIgnored,
        BuiltFromAnAttribute,
    ]
}


@pytest.fixture(autouse=True)
def _classes_of_this_file(monkeypatch):
    """Let the store find the classes of this file, which is no module that could be imported."""
    resolve = store.resolve
    monkeypatch.setattr(
        store, "resolve", lambda name, table: globals()[name] if table is TABLE else resolve(name, table)
    )


def ready(cls, event=TEXT, **settings):
    """An instance with random weights in float64."""
    return randomised(cls(**settings), event)


def check_built_alike(cls, event=TEXT):
    check_seed(cls.__name__, {"symbols": 3}, TABLE, event)


def check_stored(chain, event=TEXT):
    check_store(chain, event, TABLE)


ALL = {
    "sums to one": check_sums_to_one,
    "extremes": check_extremes,
    "smallest": check_smallest,
    "symbol types": check_symbol_types,
    "causality": check_causality,
    "causality in training": partial(check_causality, training=True),
    "items": check_items_are_independent,
    "items in training": partial(check_items_are_independent, training=True),
    "classes": check_classes,
    "walk": check_walk,
    "branches": check_branches,
    "samples": check_samples,
    "greedy": check_greedy,
    "seeds": check_seeds,
    "complete": check_complete,
    "gradients": check_gradients,
    "overfits": check_overfits,
}


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("check", ALL)
def test_a_good_chain_passes(check, classes):
    ALL[check](ready(Good, symbols=3, classes=classes), TEXT)


def test_a_good_chain_passes_for_images_padding_files_and_seeds():
    check_causality(ready(Good, IMAGE, symbols=2), IMAGE)
    check_padding(ready(Good, symbols=3, window=2), (6,))
    check_stored(Good())
    check_built_alike(Good)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_good_program_passes(classes):
    for event in (TEXT, (3, 4), (1,)):
        check_engine(ready(Programmed, event, classes=classes), event)
        check_exchange(ready(Programmed, event, classes=classes), event)


class ProgramKeepsASymbol(Programmed):
    """What stands two places back is read from a value, and not looked up."""

    def from_symbol(self, p, columns):
        return p.at(super().from_symbol(p, -1), columns=columns + 1)


def forgets_the_symbols(run, parents, reorder=Strict.reorder):
    symbols = run.context.symbols.copy()
    reorder(run, parents)
    run.context.symbols[:] = symbols


def test_lanes_that_take_only_a_part_of_what_others_were_are_caught(monkeypatch):
    kept, looked_up = ready(ProgramKeepsASymbol, (8,), classes=0), ready(Programmed, (8,), classes=0)
    check_exchange(kept, (8,))
    with monkeypatch.context() as patch:
        patch.setattr("chainrule.engine.strict.apart", lambda *given: [])
        with pytest.raises(AssertionError, match="other bits"):
            check_exchange(kept, (8,))
    monkeypatch.setattr(Strict, "reorder", forgets_the_symbols)
    with pytest.raises(AssertionError, match="other bits"):
        check_exchange(looked_up, (8,))


def test_every_check_is_tried_on_something_broken():
    checks = {name for name in vars(contracts) if name.startswith("check_")}
    tried = {getattr(check, "func", check).__name__ for check, *_ in [*BROKEN, *SAMPLERS, *COMPLETERS]}
    assert checks == tried | {"check_store", "check_seed", "check_carried"}  # these are tried further down


def first_three(chain, event, size):
    """It is thought that no more of a source than three symbols are seen."""
    return all_of_the_source(chain, event, size) & (np.arange(size) < 3)


SOURCED = [
    *ALL.values(),
    *(check_engine, check_sourced_reach, check_sourced_items, check_sourced_ragged, check_sourced_once),
    *(partial(check, training=True) for check in (check_sourced_items, check_sourced_ragged)),
]


@pytest.mark.parametrize("check", SOURCED, ids=lambda check: getattr(check, "func", check).__name__)
def test_a_good_chain_with_a_source_passes(check):
    reach = {"reach": two_before} if getattr(check, "func", check) is check_causality else {}
    check(ready(Translator), TEXT, **reach)


def two_before(chain, event):
    """The two symbols before each."""
    i, j = np.indices((math.prod(event),) * 2)
    return (j < i) & (j >= i - 2)


BROKEN = [
    (check_sums_to_one, FirstSymbolIsFree, {}, TEXT),
    (check_sums_to_one, NeverImpossible, {}, TEXT),
    (check_sums_to_one, ScoresAnotherDistribution, {}, TEXT),
    (check_sums_to_one, LossForgetsTheLastItem, {}, TEXT),
    (check_sums_to_one, AuxiliaryLossFirst, {}, TEXT),
    (check_sums_to_one, NatsInSinglePrecision, {}, TEXT),
    (check_sums_to_one, SeesItself, {}, TEXT),
    (check_sums_to_one, MeanOfSymbols, {}, TEXT),
    (check_smallest, MeanOfSymbols, {}, TEXT),
    (check_extremes, ExpWithoutMaximum, {}, TEXT),
    (check_extremes, MaskThatLargeScoresBeat, {}, TEXT),
    (check_symbol_types, AddsBytes, {}, TEXT),
    (check_causality, SeesItself, {}, TEXT),
    (check_causality, SeesTheNext, {}, TEXT),
    (check_causality, SeesTheRowBelow, {}, (3, 2, 1)),
    (check_causality, ColoursInTheWrongOrder, {}, IMAGE),
    (check_causality, ColoursAreIndependent, {}, IMAGE),
    (check_causality, BlindSpot, {}, TEXT),
    (check_causality, SeesTooLittle, {}, TEXT),
    (partial(check_causality, training=True), NormalisesOverTime, {}, TEXT),
    (partial(check_causality, reach=None, training=True), NormalisesOverTime, {}, TEXT),
    (partial(check_items_are_independent, training=True), NormalisesOverItems, {}, TEXT),
    (check_classes, ClassIsIgnored, {"classes": 2}, TEXT),
    (check_classes, ClassOfTheFirstItem, {"classes": 2}, TEXT),
    (check_padding, PaddedWithLevelZero, {"window": 2}, (6,)),
    (check_walk, StepLags, {}, TEXT),
    (check_walk, StateInTheModule, {}, TEXT),
    (check_walk, StepForgetsTheClass, {"classes": 2}, TEXT),
    (check_walk, StepInSinglePrecision, {}, TEXT),
    (check_engine, ProgramReadsTheWrongColumn, {}, TEXT),
    (check_engine, ProgramForgetsABias, {}, TEXT),
    (check_engine, ProgramTakesAnotherClass, {}, TEXT),
    (check_engine, ProgramPadsWithALevel, {}, TEXT),
    (check_engine, ProgramInSinglePrecision, {}, TEXT),
    (check_engine, ProgramRemembersTheLastEvent, {}, TEXT),
    (check_exchange, ProgramRemembersTheLastEvent, {}, TEXT),
    (check_coding, ProgramForgetsABias, {}, TEXT),
    (check_branches, StateThatCannotBranch, {}, (8,)),
    (check_walk, StateThatCannotBranch, {}, (8,)),
    (check_gradients, UnusedParameter, {}, TEXT),
    (check_gradients, UselessParameter, {}, TEXT),
    (check_gradients, HalfDetached, {}, TEXT),
    (check_gradients, LossIsNotTheLikelihoodsSlope, {}, TEXT),
    (check_overfits, Deaf, {}, TEXT),
    (check_sourced_reach, HearsTheFirstSymbolsOnly, {}, TEXT),
    (check_sourced_reach, EndIsASymbol, {}, TEXT),
    (partial(check_sourced_reach, reach=first_three), Translator, {}, TEXT),
    (check_sourced_items, SourceOfAnotherItem, {}, TEXT),
    (partial(check_sourced_items, training=True), MeanOverSources, {}, TEXT),
    (check_sourced_ragged, SourceGoesOn, {}, TEXT),
    (check_sourced_ragged, EncodingGoesOn, {}, TEXT),
    (check_sourced_ragged, KnowsHowLongTheLongestTargetIs, {}, TEXT),
    (check_sourced_ragged, EndsCost, {}, TEXT),
    (check_sourced_ragged, LossOfWhatIsNotThere, {}, TEXT),
    (check_sourced_ragged, LossOfItemsNotOfSymbols, {}, TEXT),
    (check_sourced_ragged, TargetsAreFilledUpWithASymbol, {}, TEXT),
    (check_sourced_once, EncodesAtEveryStep, {}, TEXT),
    (check_sourced_once, EncodingKnowsTheBatch, {}, TEXT),
    (check_sourced_once, EncodingKnowsTheLongestSource, {}, TEXT),
    (check_engine, EncoderForgetsAVector, {}, TEXT),
    (check_engine, EncodingGoesOn, {}, (8,)),
    (check_walk, EncodesInSinglePrecision, {}, TEXT),
]
SAMPLERS = [
    (check_samples, off_by_one),
    (check_samples, off_by_one_in_the_last_symbol),
    (check_samples, without("temperature")),
    (check_samples, without("top_p")),
    (check_samples, filters_by_default),
    (check_samples, always_filters),
    (check_seeds, without("first")),
    (check_seeds, without("seed")),
    (check_seeds, one_stream_for_the_batch),
    (check_seeds, every_item_the_same),
    (check_seeds, draws_globally),
    (check_greedy, never_greedy),
    (check_greedy, without("top_p")),
    (check_greedy, without("temperature")),
]
COMPLETERS = [
    (check_complete, redraws_all),
    (check_complete, pastes_what_is_known),
    (check_complete, keeps_what_is_unknown),
    (check_complete, completes_the_first_class),
]


def label(case):
    check, broken, *_ = case
    return f"{getattr(check, 'func', check).__name__}-{broken.__qualname__}"


@pytest.mark.parametrize("case", BROKEN, ids=label)
def test_broken_chains_are_caught(case):
    check, cls, settings, event = case
    with pytest.raises(AssertionError):
        check(ready(cls, event, **settings), event)


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize(("check", "broken"), SAMPLERS)
def test_broken_samplers_are_caught(check, broken, classes):
    with pytest.raises(AssertionError):
        check(ready(Good, classes=classes), TEXT, sample=broken)


@pytest.mark.parametrize("broken", [broken for _, broken in COMPLETERS])
def test_broken_completions_are_caught(broken):
    with pytest.raises(AssertionError):
        check_complete(ready(Good, classes=2), TEXT, complete=broken)


@pytest.mark.parametrize("cls", [OwnDice, GlobalDice, SeedsTheWorld, SeedIsIgnored])
def test_broken_seeds_are_caught(cls):
    with torch.random.fork_rng(devices=[]), pytest.raises(AssertionError):
        check_built_alike(cls)


def test_broken_files_are_caught():
    with pytest.raises(AssertionError, match="other bits"):
        check_stored(SecretBuffer())
    changed = BuiltFromAnAttribute()
    changed.gain = 2.0
    with pytest.raises(AssertionError, match="other bits"):
        check_stored(changed)


def test_a_hash_that_leaves_out_the_weights_is_caught(monkeypatch):
    monkeypatch.setattr(store, "sha256", lambda model, table: str(store.arguments(model, table)))
    with pytest.raises(AssertionError, match="does not count"):
        check_stored(Good())


# ---- the real chains, damaged ----


def gated(event=(5, 5, 1), **settings):
    """Without memory and copies, which would hide a convolution that sees too little."""
    options = {
        **GatedPixelCNN.SIZES["tiny"],
        "memory": 0,
        "copies": 0,
        "symbols": 3,
        "channels": event[-1],
        **settings,
    }
    return randomised(GatedPixelCNN(**options), event)


def sees(chain, event):
    from test_chains import neighbourhood

    return neighbourhood(chain, event)


def same(x):
    return x


def one_row_down_too_far(x):
    return F.pad(x, (0, 0, 2, 0))[:, :, :-2]


def one_place_up(x):
    return F.pad(x, (0, 0, 0, 1))[:, :, 1:]


GATED = [
    ("down", same, (5, 5, 1), "leaks into"),
    ("right", same, (5, 5, 1), "leaks into"),
    ("down", one_place_up, (5, 5, 1), "leaks into"),
    ("down", one_row_down_too_far, (5, 5, 1), "must reach"),
]


@pytest.mark.parametrize(("name", "broken", "event", "message"), GATED)
def test_a_gated_pixelcnn_with_a_wrong_shift_is_caught(monkeypatch, name, broken, event, message):
    chain = gated(event)
    check_causality(chain, event, sees)
    monkeypatch.setattr(gated_pixelcnn, name, broken)
    with pytest.raises(AssertionError, match=message):
        check_causality(chain, event, sees)


def test_a_gated_pixelcnn_with_kernels_that_reach_ahead_is_caught(monkeypatch):
    chain = gated()

    def below(self, x):
        rows, n = self.kernel_size
        return nn.Conv2d.forward(self, F.pad(x, (n // 2, n // 2, 0, rows - 1)))

    monkeypatch.setattr(conv.RowsAbove, "forward", below)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, (5, 5, 1), sees)
    monkeypatch.undo()
    monkeypatch.setattr(
        conv.LeftOf,
        "forward",
        lambda self, x: nn.Conv2d.forward(self, F.pad(x, (0, self.kernel_size[1] - 1))),
    )
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, (5, 5, 1), sees)


def sum_with_itself(x, dim):
    return x.cumsum(dim)


def sum_without_itself_by_difference(x, dim):
    return x.cumsum(dim) - x


def sum_of_all(x, dim):
    return x.sum(dim, keepdim=True).expand_as(x)


before_each = pixels.before_each
SUMS = [
    (sum_with_itself, "leaks into"),
    (sum_without_itself_by_difference, "leaks into"),  # x + y - y is not x in floating point
    (sum_of_all, "leaks into"),
    (lambda x, dim: torch.zeros_like(x), "must reach"),
]


@pytest.mark.parametrize("event", [(9, 9, 1), (9, 9, 3)])
@pytest.mark.parametrize(("broken", "message"), SUMS)
def test_a_memory_that_sums_too_much_or_too_little_is_caught(monkeypatch, broken, message, event):
    chain = gated(event, memory=3)
    check_causality(chain, event, everything_before)
    monkeypatch.setattr(pixels, "before_each", broken)
    with pytest.raises(AssertionError, match=message):
        check_causality(chain, event, everything_before)


COPIES = [
    (lambda x, n: x.unsqueeze(-1).expand(*x.shape, n), "leaks into"),
    (lambda x, n: neighbours(x.flip(-1), n), "must reach"),
    (lambda x, n: torch.full((*x.shape, n), -1), "must reach"),
]
neighbours = pixels.neighbours


@pytest.mark.parametrize(("broken", "message"), COPIES)
def test_copies_from_the_wrong_place_are_caught(monkeypatch, broken, message):
    event, options = (6, 5, 3), {"copies": 8, "layers": 1, "kernel": 1, "first_kernel": 1}
    chain = gated(event, **options)
    check_causality(chain, event, sees)
    monkeypatch.setattr(pixels, "neighbours", broken)
    with pytest.raises(AssertionError, match=message):
        check_causality(chain, event, sees)


def test_a_gated_pixelcnn_without_the_link_has_a_blind_spot():
    chain = gated()
    with torch.no_grad():
        for layer in chain.layers:
            layer.link.weight.zero_()
    with pytest.raises(AssertionError, match="must reach"):
        check_causality(chain, (5, 5, 1), sees)


@pytest.mark.parametrize("event", [(3, 3, 3), (1, 1, 3)])
def test_a_gated_pixelcnn_with_confused_channels_is_caught(monkeypatch, event):
    chain = gated(event)
    check_causality(chain, event, sees)
    with monkeypatch.context() as damaged:
        forward = pixels.ChannelHead.forward
        damaged.setattr(pixels.ChannelHead, "forward", lambda self, h, x: forward(self, h, x.flip(-1)))
        with pytest.raises(AssertionError, match="leaks into"):
            check_causality(chain, event, sees)
    with torch.no_grad():
        for table in chain.head.from_channel:
            table.coefficients.zero_()
    with pytest.raises(AssertionError, match="must reach"):
        check_causality(chain, event, sees)


def test_a_gated_pixelcnn_that_pads_with_a_level_is_caught(monkeypatch):
    event = (9, 9, 1)
    chain = gated(event, position=False, width=8, head=16, mix=16)
    with torch.no_grad():
        for name, p in chain.named_parameters():
            if name.endswith(".bias"):
                p.zero_()  # what a later layer adds to the inside alone would tell it from the outside
    check_padding(chain, event)
    features = GatedPixelCNN._features

    def levels_only(self, x):
        planes = features(self, x).clone()
        planes[:, self.channels :] = 0  # level 1 of 0, 1, 2 is the number 0 now, like the padding
        return planes

    monkeypatch.setattr(GatedPixelCNN, "_features", levels_only)
    with pytest.raises(AssertionError, match="level 1 looks like the outside"):
        check_padding(chain, event)


def test_a_gated_pixelcnn_that_always_drops_out_is_caught(monkeypatch):
    chain = gated((2, 3, 1), dropout=0.5)
    check_walk(chain, (2, 3, 1))
    dropout = F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, p, training: dropout(x, p, True))
    with pytest.raises(AssertionError):
        check_walk(chain, (2, 3, 1))


@pytest.mark.parametrize("cls", [CharLSTM, MultiplicativeLSTM])
def test_an_lstm_that_forgets_its_state_or_its_class_is_caught(monkeypatch, cls):
    chain = randomised(cls(symbols=3, width=4, classes=2), TEXT)
    check_walk(chain, TEXT)
    run = cls._run
    for broken in (
        lambda self, inputs, state, context, **more: run(self, inputs, None, context, **more),
        lambda self, inputs, state, context, **more: run(
            self, inputs, state, context if inputs.shape[1] > 1 else 0 * context, **more
        ),
    ):
        monkeypatch.setattr(cls, "_run", broken)
        with pytest.raises(AssertionError):
            check_walk(chain, TEXT)


@pytest.mark.parametrize("cls", [CharLSTM, MultiplicativeLSTM])
def test_an_lstm_that_reads_both_ways_is_caught(monkeypatch, cls):
    chain = randomised(cls(symbols=3, width=4, embed=4), TEXT)
    run = sequence.over_time

    def broken(*parts):
        h, state = run(*parts)
        return h + h.flip(0).cumsum(0).flip(0), state

    monkeypatch.setattr(sequence, "over_time", broken)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, TEXT)


def sourced(cls, **more):
    return randomised(cls(symbols=3, source=4, **{**cls.SIZES["tiny"], **more}), TEXT)


def test_a_reader_that_remembers_what_fills_a_source_up_is_caught(monkeypatch):
    chain, run = sourced(Seq2Seq), seq2seq.stacked
    check_sourced_ragged(chain, TEXT)

    def broken(stack, gates, state, kept, training):
        return run(stack, gates, state, None, training)

    monkeypatch.setattr(seq2seq, "stacked", broken)
    with pytest.raises(AssertionError, match="one by one"):
        check_sourced_ragged(chain, TEXT)


def never_forgets(told):
    told[..., -2] = 1


def begins_with_the_first_symbol(told):
    told[..., -2] = (torch.arange(told.shape[1]) > 0).to(told)


def told_at_every_place(told):
    told[..., -1] = 1


def told_of_nothing(told):
    told[:, 0, -1] = 1


@pytest.mark.parametrize(
    "change", [never_forgets, begins_with_the_first_symbol, told_at_every_place, told_of_nothing]
)
def test_a_step_program_that_is_told_something_else_of_a_source_is_caught(monkeypatch, change):
    chain, told = sourced(Seq2Seq), Seq2Seq.told
    check_engine(chain, TEXT)

    def broken(self, context):
        rows = told(self, context).clone()
        change(rows)
        return rows

    monkeypatch.setattr(Seq2Seq, "told", broken)
    with pytest.raises(AssertionError):
        check_engine(chain, TEXT)


@pytest.mark.parametrize("units", ["relu", "multiplicative"])
def test_an_encoder_whose_kernels_see_what_fills_a_source_up_is_caught(monkeypatch, units):
    chain, places = sourced(ByteNet, units=units), ByteNet._places
    check_sourced_ragged(chain, TEXT)

    def broken(self, context):
        symbols, inside = places(self, context)
        return symbols, torch.ones_like(inside)

    monkeypatch.setattr(ByteNet, "_places", broken)
    with pytest.raises(AssertionError, match="one by one"):
        check_sourced_ragged(chain, TEXT)


def test_an_encoder_with_masked_kernels_is_caught():
    from test_translation import by_kernels

    chain = sourced(ByteNet)
    check_sourced_reach(chain, TEXT, by_kernels)
    wanted = by_kernels(chain, TEXT, 6)
    for block in chain.encoder_blocks:
        conv = block.conv
        conv.at, conv.past, conv.ahead = [a - conv.ahead for a in conv.at], conv.past + conv.ahead, 0
    with pytest.raises(AssertionError, match=r"what it should not|must reach"):
        check_sourced_reach(chain, TEXT, lambda *_: wanted)


def attends(change):
    """Attention over the positions of a block whose mask is another one."""
    return lambda q, k, v, mask, dropout: F.scaled_dot_product_attention(q, k, v, change(q))


def sees_all(q):
    return torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)


def sees_the_next(q):
    return sees_all(q).tril(1)


def mask_that_large_scores_beat(q):
    return torch.full((q.shape[2],) * 2, -1e4, dtype=q.dtype).triu(1)


in_blocks = pytest.mark.parametrize("cls", [GPT, DeepAttention])


@in_blocks
@pytest.mark.parametrize("change", [sees_all, sees_the_next])
def test_a_chain_in_blocks_that_looks_ahead_is_caught(monkeypatch, change, cls):
    chain = randomised(cls(symbols=3, width=8, layers=2, heads=2, window=4), TEXT)
    check_causality(chain, TEXT)
    monkeypatch.setattr(attention, "attention", attends(change))
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, TEXT)


@in_blocks
def test_a_chain_in_blocks_whose_mask_is_no_infinity_is_caught(monkeypatch, cls):
    chain = randomised(cls(symbols=3, width=8, layers=2, heads=2, window=4), TEXT)
    check_extremes(chain, TEXT)
    monkeypatch.setattr(attention, "attention", attends(mask_that_large_scores_beat))
    with pytest.raises(AssertionError):
        check_extremes(chain, TEXT)


@in_blocks
@pytest.mark.parametrize("pattern", ["local", "full"])
def test_a_chain_in_blocks_whose_cache_grows_stale_at_the_end_of_a_block_is_caught(monkeypatch, pattern, cls):
    chain = randomised(cls(symbols=3, width=8, layers=2, heads=2, window=2), TEXT)
    check_engine(chain, TEXT)
    attend = Builder.attend
    monkeypatch.setattr(
        Builder, "attend", lambda *args, **more: attend(*args, **{**more, "pattern": pattern})
    )
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, TEXT)


@in_blocks
def test_a_chain_in_blocks_whose_blocks_forget_the_symbol_before_them_is_caught(monkeypatch, cls):
    chain, wide = randomised(cls(symbols=3, width=8, layers=2, heads=2, window=2), TEXT), (4,)
    check_walk(chain, wide)
    blocks = cls._blocks

    def broken(self, z):
        found = blocks(self, z).clone()
        found[1:, 0] = self.nothing
        return found

    monkeypatch.setattr(cls, "_blocks", broken)
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_walk(chain, wide)


def test_positions_of_one_layer_that_a_program_forgets_are_caught(monkeypatch):
    chain = randomised(DeepAttention(symbols=3, width=8, layers=2, heads=2, window=4), TEXT)
    check_engine(chain, TEXT)
    program = deep.Layer.program

    def broken(self, p, u, window):
        first = self is chain.layers[0]
        with monkeypatch.context() as patch:
            patch.setattr(p, "constant_cycle", lambda table: p.constant(table[0] * first, clock="pixel"))
            return program(self, p, u, window)

    monkeypatch.setattr(deep.Layer, "program", broken)
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, TEXT)


@pytest.mark.parametrize("missing", [{"done": 1.0}, {"done": 0.25}])
def test_auxiliary_losses_that_are_over_from_the_start_are_caught(monkeypatch, missing):
    chain = randomised(DeepAttention(symbols=3, width=8, layers=2, heads=2, window=4), TEXT)
    check_gradients(chain, TEXT)
    loss = DeepAttention.loss
    monkeypatch.setattr(DeepAttention, "loss", lambda self, x, context: loss(self, x, context, **missing))
    with pytest.raises(AssertionError, match=r"no gradient reaches classifiers\.0\.0"):
        check_gradients(chain, TEXT)


def sparse(attention, event=None, **more):
    tiny = {"stride": 3, "summary": 1, "width": 8, "layers": 2, "heads": 2, "window": 8}
    shape = event or (8,)
    return randomised(SparseTransformer(3, event, attention=attention, **tiny | more), shape), shape


def without_masks(q, k, v, mask, is_causal, scale, plain=F.scaled_dot_product_attention):
    return plain(q, k, v, scale=scale)


def masks_that_are_no_infinity(q, k, v, mask, is_causal, scale, plain=F.scaled_dot_product_attention):
    if mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return plain(q, k, v, torch.where(mask, 0.0, -1e4).to(q), scale=scale)


def next_of_its_row(length, device, band=sparse_attention.band):
    return band(length, device).roll(1, 1)


def own_summary_too(said, rows, length, summary, device, plain=sparse_attention.rows_below):
    mask = plain(said, rows, length, summary, device)
    mask[:-1, :, :said] = mask[1:, :, :said].clone()  # what the row below may look at
    return mask


SPARSE_LEAKS = [
    ("strided", F, "scaled_dot_product_attention", without_masks),
    ("fixed", F, "scaled_dot_product_attention", without_masks),
    ("strided", sparse_attention, "band", next_of_its_row),
    ("fixed", sparse_attention, "rows_below", own_summary_too),
]


@pytest.mark.parametrize(("attention", "where", "name", "broken"), SPARSE_LEAKS)
def test_sparse_attention_that_looks_ahead_is_caught(monkeypatch, attention, where, name, broken):
    chain, event = sparse(attention)
    check_causality(chain, event)
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError, match="leaks into"):
        check_causality(chain, event)


@pytest.mark.parametrize("attention", ["strided", "fixed"])
def test_sparse_attention_whose_mask_is_no_infinity_is_caught(monkeypatch, attention):
    chain, _ = sparse(attention)
    check_extremes(chain, (5,))
    monkeypatch.setattr(F, "scaled_dot_product_attention", masks_that_are_no_infinity)
    with pytest.raises(AssertionError):
        check_extremes(chain, (5,))


@pytest.mark.parametrize("lost", [0, 2])
def test_a_sparse_transformer_that_has_lost_one_of_its_patterns_is_caught(monkeypatch, lost):
    event = (3, 3, 1)
    check_causality(*sparse("strided", event))
    monkeypatch.setattr(
        sparse_transformer, "Strided", lambda length, rows: sparse_attention.Strided(length, lost)
    )
    with pytest.raises(AssertionError, match="must reach, and does not"):
        check_causality(*sparse("strided", event))


@pytest.mark.parametrize("change", [{"pattern": "full"}, {"window": 0}, {"length": 2}, {"pattern": "fixed"}])
@pytest.mark.parametrize("attention", ["strided", "fixed"])
def test_a_sparse_step_that_looks_elsewhere_is_caught(monkeypatch, attention, change):
    chain, event = sparse(attention, window=7)
    check_engine(chain, event)
    attend = Builder.attend

    def broken(self, q, k, v, heads, pattern, length, **more):
        return attend(self, q, k, v, heads, **{"pattern": pattern, "length": length, **more, **change})

    monkeypatch.setattr(Builder, "attend", broken)
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, event)


def test_a_sparse_step_that_forgets_how_scores_are_scaled_is_caught(monkeypatch):
    chain, event = sparse("fixed", keys=4)
    check_engine(chain, event)
    monkeypatch.setattr(sparse_transformer.math, "sqrt", lambda x: 1.0)
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, event)


def small_xl():
    return randomised(TransformerXL(symbols=3, **{**TransformerXL.SIZES["tiny"], "memory": 2}), TEXT)


def seen_by(change):
    """A Transformer-XL's shares with changed arguments: queries for keys and for distances, keys, table, first."""
    plain = relative.shares_of
    return lambda *args: plain(*change(*args))


def distance_off_by_one(ask_key, ask_distance, keys, table, first):
    return ask_key, ask_distance, keys, table.roll(1, -1), first


def distance_of_the_next_query(ask_key, ask_distance, keys, table, first):
    return ask_key, ask_distance.roll(1, 2), keys, table, first


def oldest_is_hidden(ask_key, ask_distance, keys, table, first):
    return ask_key, ask_distance, keys, table, first.maximum(torch.arange(1, ask_key.shape[2] + 1))


def everything_is_its_own_text(ask_key, ask_distance, keys, table, first):
    return ask_key, ask_distance, keys, table, None


@pytest.mark.parametrize("change", [distance_off_by_one, distance_of_the_next_query])
def test_a_transformer_xl_whose_distances_are_shifted_wrongly_is_caught(monkeypatch, change):
    chain = small_xl()
    check_engine(chain, TEXT)
    monkeypatch.setattr(relative, "shares_of", seen_by(change))
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, TEXT)


def test_a_transformer_xl_that_hides_the_oldest_place_of_its_memory_is_caught(monkeypatch):
    chain = small_xl()
    check_causality(chain, (8,), lambda chain, event: remembered(8, 5))
    monkeypatch.setattr(relative, "shares_of", seen_by(oldest_is_hidden))
    with pytest.raises(AssertionError, match="must reach, and does not"):
        check_causality(chain, (8,), lambda chain, event: remembered(8, 5))


def test_a_transformer_xl_that_sees_one_position_more_than_it_remembers_is_caught():
    chain = small_xl()
    chain.distances = torch.cat([chain.distances, -chain.distances[-1:]])
    with pytest.raises(AssertionError, match="a branch disturbs another"):  # the parallel pass sees more
        check_branches(chain, TEXT)
    with pytest.raises(AssertionError, match="reaches, and should not"):
        check_causality(chain, (8,), lambda chain, event: remembered(8, 5))


def remembered(size, most):
    i, j = np.indices((size, size))
    return (j < i) & (j >= i - most)


def test_a_transformer_xl_that_remembers_another_text_is_caught(monkeypatch):
    chain = small_xl()
    check_carried(chain, TEXT)
    plain = transformer_xl.begins
    monkeypatch.setattr(transformer_xl, "begins", lambda known, kept, length: plain(known, None, length))
    with pytest.raises(AssertionError, match="a stream is not its events"):
        check_carried(chain, TEXT)


def test_a_transformer_xl_that_takes_an_empty_memory_for_positions_is_caught(monkeypatch):
    chain = small_xl()
    monkeypatch.setattr(relative, "shares_of", seen_by(everything_is_its_own_text))
    with pytest.raises(AssertionError, match="walk and parallel"):
        check_engine(chain, TEXT)
    with pytest.raises(AssertionError, match="a stream is not its events"):
        check_carried(chain, TEXT)


def test_a_transformer_xl_that_does_not_let_go_of_its_memory_is_caught(monkeypatch):
    chain = small_xl()
    monkeypatch.setattr(carried.Tensor, "detach", lambda self: self)
    with pytest.raises(AssertionError, match="a gradient flows from window to window"):
        check_carried(chain, TEXT)


@pytest.mark.parametrize("symbol", ["as if it had come already", "forgotten"])
def test_a_mixture_whose_weights_are_those_of_another_symbol_is_caught(monkeypatch, symbol):
    parts = (CharLSTM(symbols=3, width=4, embed=4), CharLSTM(symbols=3, width=4, embed=4))
    chain = randomised(mixture.Mixture(parts, symbols=3, rate=0.5), TEXT)
    check_causality(chain, TEXT)
    check_walk(chain, TEXT)
    run = mixture.learn_weights

    def early(known, symbols, last, weights, used, share, rate):
        for t in range(symbols.shape[1]):
            run(
                known[:, t : t + 1],
                symbols[:, t : t + 1],
                symbols[:, t],
                weights,
                used[:, t : t + 1],
                share,
                rate,
            )

    def forgotten(known, symbols, last, weights, used, share, rate):
        run(known, symbols, last, weights.copy(), used, share, 0.0)

    if symbol == "forgotten":
        monkeypatch.setattr(mixture, "learn_weights", forgotten)
        with pytest.raises(AssertionError):
            check_walk(chain, TEXT)
    else:
        monkeypatch.setattr(mixture, "learn_weights", early)
        with pytest.raises(AssertionError, match="leaks into"):
            check_causality(chain, TEXT)


def test_a_loop_that_draws_from_the_global_random_numbers_is_caught(monkeypatch):
    args = {"symbols": 3, "width": 4, "dropout": 0.3}
    check_seed("char-lstm", args, CHAINS, TEXT)

    @contextlib.contextmanager
    def unprotected(seed):
        torch.manual_seed(seed)
        yield

    monkeypatch.setattr(train, "random_numbers", unprotected)
    with pytest.raises(AssertionError, match="random numbers have moved"):
        check_seed("char-lstm", args, CHAINS, TEXT)
