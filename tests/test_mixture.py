"""Mixtures: the blend against plain Python, stretches, what `fit` makes of the parts, and how texts are coded."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from chainrule import compress, decompress, fit, load, open_run, score, store
from chainrule.archive import Archive
from chainrule.chains import CHAINS, mixture
from chainrule.chains.char_lstm import CharLSTM
from chainrule.chains.counting import ContextMixing
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.chains.mixture import Mixture
from chainrule.chains.uniform import Uniform
from chainrule.data import Dataset
from chainrule.engine import program_of
from chainrule.errors import ChainruleError
from chainrule.verbs.coders import NativeCoder
from contracts import randomised

TEXT = Path(__file__).read_bytes()[:4000]
SMALL = [
    {"model": "mlstm", "args": {"width": 12, "embed": 6}},
    {"model": "counting", "args": {"bits": 12, "orders": [1, 2, 4], "words": 1}},
]


def text(data):
    return Dataset([np.frombuffer(data, np.uint8)], 256, "text", ("a.txt",))


def small(symbols=5, rate=0.1, seed=0, **more):
    args = {"parts": SMALL, "symbols": symbols, "rate": rate, **more}
    return randomised(store.build("mixture", args, CHAINS, seed), (6,))


def drawn(symbols=5, shape=(3, 40), seed=1):
    return torch.randint(symbols, shape, generator=torch.Generator().manual_seed(seed))


# ---- the arithmetic ------------------------------------------------------------------------------------------


def by_hand(known, x, rate):
    """ln p (T, K) of one event from ln p (T, J, K) of the parts: the formulas of the class, symbol after symbol."""
    T, J, K = known.shape
    u, v, out = np.zeros(J), np.zeros((K, J)), np.zeros((T, K))
    for t in range(T):
        s = x[t - 1] if t else 0
        z = (1 / J + u + v[s]) @ known[t]
        out[t] = z - np.log(np.exp(z).sum())
        step = rate * (known[t, :, x[t]] - known[t] @ np.exp(out[t]))
        u, v[s] = (u + step).clip(-8, 8), (v[s] + step).clip(-8, 8)
    return out


def test_the_blend_is_the_formula():
    chain, x = small(), drawn()
    with torch.no_grad():
        parts = [part.logits(x).log_softmax(-1).clamp(min=-20) for part in chain.parts]
        found = chain.logits(x).log_softmax(-1).numpy()
    for known, symbols, ours in zip(torch.stack(parts, 2).numpy(), x.numpy(), found, strict=True):
        np.testing.assert_allclose(by_hand(known, symbols, 0.1), ours, rtol=1e-9, atol=1e-12)


def test_weights_stay_within_their_bounds_and_learn_to_ignore_what_knows_nothing():
    certain = torch.tensor([0, 1, 2, 3] * 500)[None]
    chain = Mixture((Uniform(4), ContextMixing(4, bits=12)), symbols=4, rate=1.0).double()
    assert -chain.log_probs(certain)[0, -100:].mean() < 0.01
    state = chain.start(1, (2000,))
    for symbol in [None, *certain[0].split(1)][:-1]:
        _, state = chain.step(state, symbol)
    assert state["weights"].abs().max() <= 8
    weights = state["weights"][0, :, 1]
    assert (weights[0] + weights[1:] > 0.5).all(), "the part that knows was not trusted more"
    assert state["weights"][0, :, 0].abs().max() < 1e-9, "a part that knows nothing was worth something"


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_stretches_are_the_logits_in_pieces(size):
    chain, x = small(), drawn()
    with torch.no_grad():
        for one in (chain, *chain.parts, GatedPixelCNN(5, **GatedPixelCNN.SIZES["tiny"])):
            y = x[:, :36].reshape(3, 6, 6, 1) if isinstance(one, GatedPixelCNN) else x
            pieces = list(one.stretches(y, size=size))
            assert [len(piece[0]) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
            whole = one.logits(y).reshape(3, -1, 5)
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-9)


def test_a_text_longer_than_a_stretch_is_scored_as_it_is_coded(monkeypatch, tmp_path):
    chain = store.build("mixture", {"parts": SMALL}, CHAINS, 3).eval()
    whole = score(chain, text(TEXT)).nats
    monkeypatch.setattr(mixture.Mixture._blended, "__defaults__", (100,))
    np.testing.assert_allclose(score(chain, text(TEXT)).nats, whole, rtol=1e-6)
    report = compress(chain, text(TEXT), tmp_path / "x.chain")
    assert math.isclose(report.ideal_bits * math.log(2), whole[0], rel_tol=1e-5)


def test_one_part_may_have_classes_and_the_other_none():
    chain, x, classes = small(classes=2), drawn(), torch.tensor([0, 1, 1])
    assert [part.classes for part in chain.parts] == [2, 0]
    with torch.no_grad():
        assert (chain.logits(x, classes) != chain.logits(x, 1 - classes)).any(-1).all(1).all()


# ---- what cannot be mixed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        ((), {}, "a mixture takes two chains or more, 0 are given of 0 parts"),
        ((Uniform(4),), {}, "two chains or more, 1 are given"),
        ((Uniform(4), Uniform(5)), {}, "Uniform has 5 symbols and 0 classes, the mixture 4 and 0"),
        (
            (Uniform(4), CharLSTM(4, 8, classes=3)),
            {"classes": 2},
            "4 symbols and 3 classes, the mixture 4 and 2",
        ),
        ((Uniform(4), Uniform(4)), {"rate": -1.0}, "rate is -1.0: take 0 to 1"),
        ((Uniform(4), Mixture((Uniform(4), Uniform(4)), 4)), {}, "a part is a mixture itself"),
        (
            (Uniform(4), GatedPixelCNN(4, **GatedPixelCNN.SIZES["tiny"])),
            {},
            "GatedPixelCNN is no chain over texts",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(parts, more, message):
    with pytest.raises(ChainruleError, match=message):
        Mixture(parts, symbols=4, **more)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["uniform", "nothing"], "there is no model 'nothing'"),
        (["uniform", "pca"], "pca is no chain, and chains are made of chains"),
        (["uniform", 7], r"a chain is given as \{\"model\": ..., \"args\": \{...\}\}, not 7"),
        (["uniform", {"model": "uniform"}], "a chain is given as"),
        (["uniform", {"model": "uniform", "args": {"symbols": "x"}}], "uniform takes int for symbols"),
        ("uniform", "mixture takes parts from"),
        (7, "mixture takes parts from"),
    ],
)
def test_parts_in_a_file_that_are_none_are_refused_in_one_line(parts, message):
    from chainrule.models import TABLE

    with pytest.raises(ChainruleError, match=message):
        store.build("mixture", {"parts": parts}, TABLE)


def test_mixtures_within_mixtures_are_not_read_however_deep():
    entry = "uniform"
    for _ in range(30):
        entry = {"model": "mixture", "args": {"parts": [entry, "uniform"]}}
    with pytest.raises(ChainruleError, match="chains stand within chains"):
        store.build("mixture", {"parts": [entry, "uniform"]}, CHAINS)


# ---- files ---------------------------------------------------------------------------------------------------


def test_a_file_holds_the_parts_and_two_parts_alike_do_not_begin_alike():
    chain = store.build("mixture", {"parts": [SMALL[0], SMALL[0]], "symbols": 4}, CHAINS, 2)
    assert not torch.equal(chain.parts[0].out.weight, chain.parts[1].out.weight)
    rebuilt, header = store.parse(store.dump(chain, CHAINS), CHAINS)
    assert header["args"]["parts"][0] == {
        "model": "mlstm",
        "args": chain.parts[0].args,
    }
    assert chain.parts[0].args["symbols"] == 4
    assert all(torch.equal(a, b) for a, b in zip(chain.parameters(), rebuilt.parameters(), strict=True))


def test_the_chain_itself_and_its_program_code_alike_in_one_piece(tmp_path):
    chain = store.build("mixture", {"parts": SMALL, "rate": 0.1}, CHAINS, 3).eval()
    fast = compress(chain, text(TEXT[:300]), tmp_path / "fast.chain")
    native = compress(chain, text(TEXT[:300]), tmp_path / "native.chain", coder=NativeCoder(chain))
    assert abs(fast.ideal_bits - native.ideal_bits) < 0.01
    for name in ("fast", "native"):
        ((_, found, _),) = decompress(tmp_path / f"{name}.chain")
        assert found.tobytes() == TEXT[:300]
        with Archive(tmp_path / f"{name}.chain") as archive:
            assert archive.header.lane == 0


def test_a_mixture_of_chains_that_do_not_adapt_adapts():
    chain = Mixture((Uniform(4), CharLSTM(4, 8)), symbols=4)
    program = program_of(chain)
    assert program.counts == 0
    assert program.adapts


# ---- fit -----------------------------------------------------------------------------------------------------

OPTIONS = {"settings": {"parts": SMALL}, "holdout": 0.1, "steps": 12, "batch": 4}


def test_fit_trains_one_part_after_the_other(tmp_path):
    stages = []

    def listen(event):
        if event["event"] == "step":
            stages.append((event["training"].stage, event["training"].done))

    run = fit(text(TEXT), "mixture", out=tmp_path / "run", listen=listen, **OPTIONS)
    passages = math.ceil(0.9 * len(TEXT) / ContextMixing.PASSAGE)
    assert [stage for stage, _ in stages] == [1] * 12 + [2] * passages
    shares = [done for _, done in stages]
    assert shares == sorted(shares)
    assert [done == 1 for done in shares] == [False] * (len(shares) - 1) + [True]
    alone = fit(
        text(TEXT),
        "mlstm",
        out=tmp_path / "alone",
        **{**OPTIONS, "settings": {**SMALL[0]["args"], "dropout": 0.0}},
    )
    assert torch.equal(run.model.parts[0].out.weight, alone.model.out.weight), (
        "the mean of the weights is kept"
    )
    counted = fit(text(TEXT), "counting", out=tmp_path / "counted", settings=SMALL[1]["args"], holdout=0.1)
    assert torch.equal(run.model.parts[1].counts, counted.model.counts)
    best = min(alone.info["held_out"]["bits_per_dim"], counted.info["held_out"]["bits_per_dim"])
    assert run.info["held_out"]["bits_per_dim"] < best + 0.1
    assert open_run(tmp_path / "run").chain.parts[1].counts.any()


@pytest.mark.parametrize("at", [1, 11, 12, 14])
def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch, at):
    monkeypatch.setattr(ContextMixing, "PASSAGE", 900)
    whole = fit(text(TEXT), "mixture", out=tmp_path / "whole", **OPTIONS)

    def stop(event):
        if event["event"] == "step" and event["training"].step == at:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fit(text(TEXT), "mixture", out=tmp_path / "part", listen=stop, save_every=0, **OPTIONS)
    resumed = fit(text(TEXT), out=tmp_path / "part", resume=True)
    for (name, one), other in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_parts_may_come_from_runs_and_are_left_as_they_are(tmp_path):
    network = fit(text(TEXT), "mlstm", out=tmp_path / "network", settings=SMALL[0]["args"], steps=5, batch=4)
    parts = [str(tmp_path / "network"), SMALL[1]]
    run = fit(text(TEXT), "mixture", out=tmp_path / "run", settings={"parts": parts})
    assert torch.equal(run.model.parts[0].out.weight, network.model.out.weight)
    assert run.model.parts[1].counts.any()
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["training"]["parts"][0]["from"] == str(tmp_path / "network")
    with pytest.raises(ChainruleError, match=r"reads the data once.*leave out --minutes"):
        fit(text(TEXT), "mixture", out=tmp_path / "other", settings={"parts": parts}, minutes=1.0)


def test_a_run_whose_part_has_changed_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(ContextMixing, "PASSAGE", 900)
    options = {"settings": SMALL[0]["args"], "steps": 2, "batch": 4}
    fit(text(TEXT), "mlstm", out=tmp_path / "network", **options)

    def stop(event):
        if event["event"] == "step" and event["training"].step == 2:
            raise RuntimeError("stopped")

    parts = [str(tmp_path / "network"), SMALL[1]]
    with pytest.raises(RuntimeError):
        fit(text(TEXT), "mixture", out=tmp_path / "run", settings={"parts": parts}, listen=stop, save_every=0)
    for path in (tmp_path / "network").iterdir():
        path.unlink()
    with pytest.raises(ChainruleError, match="is not a run"):
        fit(text(TEXT), out=tmp_path / "run", resume=True)
    fit(text(TEXT), "mlstm", out=tmp_path / "network", **options, seed=9)
    with pytest.raises(ChainruleError, match="is another one than when this run began"):
        fit(text(TEXT), out=tmp_path / "run", resume=True)


def test_bare_names_take_the_size_of_the_whole(tmp_path):
    run = fit(
        text(TEXT),
        "mixture",
        out=tmp_path / "run",
        size="tiny",
        settings={"parts": ["char-lstm", "uniform"]},
        steps=2,
    )
    assert run.model.parts[0].args["width"] == CharLSTM.SIZES["tiny"]["width"]


@pytest.mark.parametrize("damage", [{"parts": 3}, {"parts": [{}, {}]}, {"parts": [{"lr": 1}]}])
def test_damaged_options_of_parts_are_refused_in_one_line(tmp_path, damage):
    fit(text(TEXT), "mixture", out=tmp_path / "run", **OPTIONS)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**info, "training": damage}))
    with pytest.raises(ChainruleError, match=r"run\.json is damaged"):
        fit(text(TEXT), out=tmp_path / "run", resume=True, steps=13)


def test_shakespeare_with_a_network_of_the_zoo(real_data, tmp_path):
    """Less than either part needs, in an archive that decodes; on the whole of the test text see the benchmarks."""
    parts = ["zoo:shakespeare-mlstm", "counting"]
    run = fit("shakespeare", "mixture", out=tmp_path / "run", settings={"parts": parts}, holdout=0)
    test = text(np.asarray(load("shakespeare", split="test").x[0])[:8_000].tobytes())
    alone = min(score(part, test).bits_per_dim for part in run.model.parts)
    report = compress(run.model, test, tmp_path / "x.chain", embed=False, verify=False)
    assert report.ideal_bits / test.symbols_total < alone - 0.1
    ((_, found, _),) = decompress(tmp_path / "x.chain", run.model)
    assert (found == test.x[0]).all()
