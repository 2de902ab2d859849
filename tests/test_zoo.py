"""Models that travel with the package: they open, they are what their cards say, and they need no network."""

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest

from chainrule import Dataset, load, open_run, sample, score, zoo
from chainrule.cli import main
from chainrule.data.named import NAMED
from chainrule.errors import ChainruleError
from chainrule.report import fit_command

FREE = {"CC BY-SA 3.0", "CC BY-SA 4.0", "CC BY 4.0", "CC BY 2.0", "public domain"}
NAMES = zoo.names()
WITHOUT_NETWORK = """
import socket
def refuse(*_, **__): raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from chainrule.cli import main
main()
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_what_its_card_says(name):
    run, card = open_run(zoo.named(name)), zoo.card(name)
    assert run.info["model"] == card["model"]
    assert run.info["data"] == card["data"]
    assert sum(p.numel() for p in run.model.parameters()) == card["parameters"]
    assert fit_command(run).startswith(card["command"])
    assert round(run.info["trained"]["seconds"]) == card["training"]["seconds"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_may_be_shared(name):
    card = zoo.card(name)
    assert card["licence"] == NAMED[card["data"]].licence
    assert card["licence"] in FREE
    assert card["data"] in (zoo.HERE / "README.md").read_text().lower() or card["data"].startswith(
        "binarized"
    )


def test_the_package_stays_small():
    sizes = [zoo.model_file(zoo.named(name)).stat().st_size for name in NAMES]
    assert max(sizes) <= 3_000_000
    assert sum(sizes) <= 12_000_000


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_one_of_the_card(name):
    """Of some of its test items, so within five standard errors; benchmarks/zoo.py --check scores all of them."""
    run, card = open_run(zoo.named(name)), zoo.card(name)
    test = load(card["data"], split="test", classes=run.info["classes"] or False)
    assert len(test) == card["score"]["items"]
    few = in_pieces(test) if test.kind == "text" else test.select(np.arange(0, len(test), len(test) // 60))
    bits = score(run.chain, few).each()
    error = bits.std() / np.sqrt(len(bits))
    assert abs(bits.mean() - card["score"]["bits_per_dim"]) < 5 * error


def in_pieces(text):
    """60 stretches of a text, each of 400 symbols."""
    x = np.asarray(text.x[0])
    starts = np.linspace(0, len(x) - 400, 60).astype(int)
    return Dataset(np.stack([x[i : i + 400] for i in starts]), text.levels, "text")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_samples_without_network_and_data(name, tmp_path):
    run = open_run(zoo.named(name))
    text = run.info["kind"] == "text"
    what, event = ("-n 1 --length 40", (40,)) if text else ("-n 4", tuple(run.info["event"]))
    line = f"sample {zoo.named(name)} {what} --threads 1 -o {tmp_path}/drawn.npy"
    kept = ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "LOCALAPPDATA")  # where compiled code is
    bare = {"PATH": os.defpath} | {key: os.environ[key] for key in kept if key in os.environ}
    command = [sys.executable, "-c", WITHOUT_NETWORK, *shlex.split(line)]
    subprocess.run(command, check=True, capture_output=True, env=bare, cwd=tmp_path)
    again = sample(run.chain, n=1 if text else 4, event=event, seed=0)
    assert np.array_equal(np.load(tmp_path / "drawn.npy"), again)


def test_every_model_is_listed():
    rows = {row["model"]: row for row in map(json.loads, told("models --json").splitlines())}
    for name in NAMES:
        assert f"{zoo.card(name)['score']['bits_per_dim']:.4f} bits/dim" in rows[zoo.named(name)]["about"]
    assert all(zoo.named(name) in told("models") for name in NAMES)


@pytest.mark.parametrize(
    "name", ["zoo:nothing", "zoo:", "zoo:../zoo", "zoo:/etc", "zoo:x\ny", "zoo:" + "z" * 999]
)
def test_a_model_that_is_not_there_is_one_line(name, capsys):
    with pytest.raises(ChainruleError, match=f"take zoo:{NAMES[0]}"):
        open_run(name)
    with pytest.raises(SystemExit) as stop:
        main(["sample", name])
    assert stop.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def told(line):
    """What a command prints."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit):
        main(shlex.split(line))
    return out.getvalue()
