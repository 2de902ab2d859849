"""GPT: blocks, streams, the sizes and the files of GPT-2."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from chainrule import sample, store
from chainrule.chains import CHAINS
from chainrule.chains.gpt import GPT
from chainrule.engine import Builder, program_of
from chainrule.engine.layout import layout
from chainrule.engine.strict import Strict
from chainrule.errors import ChainruleError
from chainrule.model import pick
from chainrule.verbs import walk
from chainrule.verbs.training import training_options
from contracts import check_causality, check_engine, check_gradients, randomised

PUBLISHED = [
    (768, 12, 12, 124_439_808), (1024, 24, 16, 354_823_168),
    (1280, 36, 20, 774_030_080), (1600, 48, 25, 1_557_611_200),
]  # fmt: skip


@pytest.mark.parametrize(("width", "layers", "heads", "count"), PUBLISHED)
def test_the_published_sizes_have_their_numbers_of_parameters(width, layers, heads, count):
    with torch.device("meta"):
        chain = GPT(50257, width, layers, heads, window=1024, begin=50256)
    assert sum(p.numel() for p in chain.parameters()) == count


def test_the_paper_size_is_the_smallest_of_them():
    width, layers, heads, _ = PUBLISHED[0]
    wanted = {"width": width, "layers": layers, "heads": heads, "window": 1024, "dropout": 0.1}
    assert GPT.SIZES["paper"] == wanted


def small(**more):
    return GPT(**{"symbols": 7, **GPT.SIZES["tiny"], **more})


def texts(n, length, symbols=7, seed=0):
    return torch.randint(symbols, (n, length), generator=torch.Generator().manual_seed(seed))


# ---- blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"begin": 3}, {"tied": False}, {"bias": False}, {"classes": 2}], ids=str
)
@pytest.mark.parametrize("window", [1, 3, 4, 20])
def test_contracts_hold_in_all_settings(settings, window):
    chain = randomised(small(**settings, window=window), (9,))
    i, j = np.indices((9, 9))
    check_causality(chain, (9,), lambda chain, event: (j < i) & (j >= i // window * window - 1))
    check_engine(chain, (9,))
    check_gradients(chain.double(), (9,))


def test_a_block_knows_the_symbol_before_it_and_nothing_else():
    chain, x = randomised(small(), (11,)), texts(3, 11)
    with torch.no_grad():
        whole = chain.logits(x)
        state = chain.rest(3)
        for first in (0, 4, 8):
            part = x[:, first : first + 4]
            before = torch.cat(
                [x[:, first - 1 : first] if first else torch.full((3, 1), -1), part[:, :-1]], 1
            )
            loss, state = chain.loss_from(state, part, before)
            nats = -pick(whole[:, first : first + 4], part).mean()
            assert math.isclose(float(loss), float(nats), rel_tol=1e-6)


def test_a_text_that_begins_within_a_window_is_a_text_of_its_own():
    chain, x = randomised(small(window=6), (6,)), texts(2, 6)
    before = torch.cat([torch.full((2, 1), -1), x[:, :-1]], 1)
    before[0, 4] = before[1, 2] = -1
    with torch.no_grad():
        loss, _ = chain.loss_from(chain.rest(2), x, before)
        parts = [x[:1, :4], x[:1, 4:], x[1:, :2], x[1:, 2:]]
        alone = -sum(float(chain.log_prob(part)) for part in parts) / x.numel()
    assert math.isclose(float(loss), alone, rel_tol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 64])
def test_stretches_are_the_logits(size):
    chain, x = randomised(small(classes=2), (11,)), texts(3, 11)
    context = torch.tensor([0, 1, 1])
    with torch.no_grad():
        parts = list(chain.stretches(x, context, size))
        whole = chain.logits(x, context)
    assert [part.shape[1] for part in parts[:-1]] == [size] * (len(parts) - 1)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_scores_come_in_parts_of_some_blocks(monkeypatch):
    chain, x = randomised(small(classes=2), (11,)), texts(3, 11)
    context = torch.tensor([0, 1, 1])
    with torch.no_grad():
        whole = chain.log_probs(x, context)
        monkeypatch.setattr("chainrule.layers.blocks.CHUNK", 8)
        torch.testing.assert_close(chain.log_probs(x, context), whole)


def test_a_long_text_takes_no_more_memory_than_a_block():
    program = program_of(small(window=32).float())
    sizes = [int(layout(program, (n,), 1).dims[-1]) for n in (32, 1000, 1_000_000)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_values_that_are_looked_at_in_two_ways_are_kept_for_the_longer_one():
    p = Builder(symbols=3)
    x = p.embed(np.eye(3, 4), columns=-1)
    keys = p.norm(x, np.ones(4), np.zeros(4))
    looks = [p.attend(x, keys, keys, 1, how, length) for how, length in [("local", 2), ("block", 5)]]
    logits = p.dense(*looks, weight=np.ones((8, 3)))
    bounded = [int(layout(p.finish([logits]), (n,), 1).dims[-1]) for n in (8, 800)]
    assert bounded[0] == bounded[1]
    p.attend(x, keys, keys)
    assert int(layout(p.finish([logits]), (800,), 1).dims[-1]) > bounded[1] + 790 * 16


def test_a_window_as_long_as_the_model_looks_back():
    assert training_options("gpt", {"window": 48})["window"] == 48
    assert training_options("gpt", {})["window"] == GPT().window
    assert training_options("mlstm", {})["window"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, "a width of 10 cannot be shared by 4 heads"),
        ({"begin": 7}, "begin is 7: take a symbol, 0 to 6"),
        ({"begin": -1}, "begin is -1"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ChainruleError, match=message):
        small(**options)


# ---- filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.5}], ids=str
)
def test_the_engine_keeps_the_same_symbols_as_plain_tensors(options):
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=60) * 2, 1).astype(np.float32)  # some are equal
    p = Builder(symbols=60)
    run = Strict(p.finish([p.constant(logits, clock="pixel")]), (1,), 4000)
    uniforms = rng.random((4000, 1))
    drawn = run.fill(np.zeros((4000, 1), np.int64), np.zeros(1, bool), uniforms, **options)[:, 0]
    rows = torch.from_numpy(logits).expand(4000, -1)
    wanted = walk.draw(rows, torch.from_numpy(uniforms[:, 0]), **options)
    assert (drawn == wanted.numpy()).mean() > 0.999  # a uniform may fall on an edge
    assert set(drawn) == set(wanted.tolist())


def test_one_most_probable_symbol_is_the_greedy_one():
    chain = randomised(small(), (6,))
    assert (sample(chain, 8, (6,), top_k=1) == sample(chain, 8, (6,), temperature=0)).all()
    assert (sample(chain, 8, (6,), top_k=7) == sample(chain, 8, (6,))).all()


# ---- GPT-2's files ------------------------------------------------------------------------------------------


class NumpyGPT2:
    """GPT-2 from the text of its publication and the names of its files: ids (T,) -> logits (T, K)."""

    def __init__(self, weights, heads):
        self.w, self.heads = {k: v.astype(np.float64) for k, v in weights.items()}, heads

    def __call__(self, ids):
        x = self.w["wte.weight"][ids] + self.w["wpe.weight"][: len(ids)]
        layer = 0
        while f"h.{layer}.ln_1.weight" in self.w:
            x = self.block(x, f"h.{layer}.")
            layer += 1
        return self.norm(x, "ln_f") @ self.w.get("lm_head.weight", self.w["wte.weight"]).T

    def block(self, x, h):
        q, k, v = np.split(self.dense(self.norm(x, h + "ln_1"), h + "attn.c_attn"), 3, 1)
        d, seen = q.shape[1] // self.heads, []
        for part in (slice(i * d, (i + 1) * d) for i in range(self.heads)):
            scores = q[:, part] @ k[:, part].T / np.sqrt(d)
            scores[np.triu_indices(len(x), 1)] = -np.inf
            shares = np.exp(scores - scores.max(1, keepdims=True))
            seen.append(shares / shares.sum(1, keepdims=True) @ v[:, part])
        x = x + self.dense(np.concatenate(seen, 1), h + "attn.c_proj")
        z = self.dense(self.norm(x, h + "ln_2"), h + "mlp.c_fc")
        z = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        return x + self.dense(z, h + "mlp.c_proj")

    def dense(self, x, name):
        return x @ self.w[name + ".weight"] + self.w[name + ".bias"]

    def norm(self, x, name):
        z = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return z * self.w[name + ".weight"] + self.w[name + ".bias"]


def folder_of(tmp_path, **more):
    """A saved GPT with random weights of some size, everywhere."""
    chain = GPT(**{"symbols": 11, "width": 16, "layers": 2, "heads": 4, "window": 8, "begin": 10, **more})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim > 1 else 1))
    chain.save_pretrained(tmp_path)
    return chain.eval(), tmp_path


def stored(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_publication(tmp_path, tied):
    folder = folder_of(tmp_path, tied=tied)[1]
    weights = {k.removeprefix("transformer."): v.numpy() for k, v in stored(folder).items()}
    peer, x = NumpyGPT2(weights, 4), texts(3, 8, 11)
    with torch.no_grad():
        found = GPT.from_pretrained(folder).logits(x)
    for row, ids in zip(found.numpy(), x.numpy(), strict=True):
        np.testing.assert_allclose(row, peer(np.append(10, ids[:-1])), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(tmp_path, tied):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4, bos_token_id=10, eos_token_id=10,
        tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    peer, x = transformers.GPT2LMHeadModel(config).eval(), texts(3, 8, 11)
    peer.save_pretrained(tmp_path / "theirs")
    ours = GPT.from_pretrained(tmp_path / "theirs")
    ids = torch.cat([torch.full((3, 1), 10), x[:, :-1]], 1)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(x), peer(ids).logits, rtol=1e-4, atol=1e-4)
        ours.save_pretrained(tmp_path / "ours")
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(again(ids).logits, peer(ids).logits)


def test_saved_and_read_again_it_is_the_same_model(tmp_path):
    chain, folder = folder_of(tmp_path)
    found = GPT.from_pretrained(folder)
    assert store.sha256(found, CHAINS) == store.sha256(chain, CHAINS)
    assert all(p.requires_grad for p in found.parameters())
    assert GPT.from_pretrained(folder, begin=2).args["begin"] == 2


def test_older_files_have_no_prefix_and_hold_masks(tmp_path):
    chain, folder = folder_of(tmp_path)
    old = {k.removeprefix("transformer."): v for k, v in stored(folder).items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8) for i in range(2)}
    old |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    safetensors.torch.save_file(old, folder / "model.safetensors")
    assert store.sha256(GPT.from_pretrained(folder), CHAINS) == store.sha256(chain, CHAINS)


HOSTILE_CONFIGS = {
    "not json": (lambda c: "{", "config.json is damaged"),
    "nested": (lambda c: "[" * 100_000, "config.json is damaged"),
    "a list": (lambda c: [], "it is not an object"),
    "another model": (lambda c: c | {"model_type": "llama"}, "model_type is 'llama'"),
    "another function": (lambda c: c | {"activation_function": "relu"}, "activation_function is 'relu'"),
    "scores scaled by layer": (
        lambda c: c | {"scale_attn_by_inverse_layer_idx": True},
        "inverse_layer_idx is True",
    ),
    "many layers": (lambda c: c | {"n_layer": 10**6}, "config.json says 1000000 layers"),
    "no size": (lambda c: {k: v for k, v in c.items() if k != "n_embd"}, "n_embd is None"),
    "a text for a size": (lambda c: c | {"n_embd": "16\n16"}, "n_embd is "),
    "a huge size": (lambda c: c | {"vocab_size": 10**18}, "vocab_size is 1000000000000000000"),
    "another size": (
        lambda c: c | {"vocab_size": 12},
        r"wte.weight is \(11, 16\), config.json means \(12, 16\)",
    ),
    "another inner size": (lambda c: c | {"n_inner": 5}, "n_inner is 5"),
    "no beginning": (lambda c: c | {"bos_token_id": 50256}, "say with begin=N"),
    "tied to what": (lambda c: c | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    "heads that do not fit": (lambda c: c | {"n_head": 5}, "a width of 16 cannot be shared by 5 heads"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
def test_a_config_that_is_no_gpt_is_one_line(tmp_path, case):
    change, message = HOSTILE_CONFIGS[case]
    _, folder = folder_of(tmp_path)
    changed = change(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    refused(folder, message)


HOSTILE_WEIGHTS = {
    "one is missing": (lambda w: w.pop("transformer.ln_f.bias"), "ln_f.bias is missing"),
    "one more": (lambda w: w.update({"transformer.h.2.ln_1.bias": torch.ones(2)}), "which a GPT has not"),
    "another shape": (
        lambda w: w.update({"transformer.wpe.weight": torch.ones(16, 8)}),
        r"wpe.weight is \(16, 8\)",
    ),
    "whole numbers": (lambda w: w.update({"transformer.ln_f.bias": torch.ones(16).int()}), "not a number"),
    "not numbers": (lambda w: w["transformer.wte.weight"].view(-1)[:1].fill_(math.nan), "not a number"),
}


@pytest.mark.parametrize("case", HOSTILE_WEIGHTS)
def test_weights_that_do_not_fit_are_one_line(tmp_path, case):
    change, message = HOSTILE_WEIGHTS[case]
    _, folder = folder_of(tmp_path)
    weights = stored(folder)
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    refused(folder, message)


def test_a_damaged_missing_or_pickled_file_is_one_line(tmp_path):
    _, folder = folder_of(tmp_path)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    for damaged in (b"", data[:7], data[:100], data[:-1], b"\xff" * 8 + data[8:], b"PK\x03\x04" + data):
        file.write_bytes(damaged)
        refused(folder, "model.safetensors is damaged")
    file.rename(folder / "pytorch_model.bin")
    refused(folder, "never from a pickle")
    (folder / "config.json").unlink()
    refused(folder, "cannot read .*config.json")


def refused(folder, message):
    with pytest.raises(ChainruleError, match=message) as caught:
        GPT.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bias": False}, "bias is False"), ({"begin": None}, "begin="), ({"classes": 2}, "classes is 2")],
)
def test_what_gpt_2_has_no_place_for_is_not_saved(tmp_path, options, message):
    with pytest.raises(ChainruleError, match=message):
        small(**{"begin": 0, **options}).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
