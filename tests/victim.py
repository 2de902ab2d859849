"""A small training that can be killed: `python victim.py OUT THREADS WHERE NUMBER [--resume]`.

It saves its state after every step and dies by SIGKILL, without a chance to tidy up: after a step (WHERE
"step"), while a checkpoint is being written ("write"), or while a line of metrics.jsonl is ("log").
"""

import json
import math
import os
import signal
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits

from chainrule import Dataset, fit, store

fitting = sys.modules[fit.__module__]
STEPS = 60


def digits(n=50):
    """The first `n` digits of scikit-learn, 17 levels, with their classes."""
    found = load_digits()
    x, y = found.images[:n].astype(np.uint8)[..., None], found.target[:n]
    return Dataset(x, levels=17, kind="image", context=y, classes=tuple("0123456789"), source="digits")


def learn(out, steps=STEPS, resume=False, listen=None, look_every=math.inf, **more):
    """Train a tiny conditional Gated PixelCNN with dropout; the state is saved after every step."""
    fitting.LOOK_EVERY = look_every
    options = {"size": "tiny", "settings": {"dropout": 0.1}, "conditional": True, "batch": 8, "seed": 3}
    given = {} if resume else options
    given |= {"steps": steps, "save_every": 0, "resume": resume, "listen": listen}
    return fit(digits(), "gated-pixelcnn", out=out, **{**given, **more})


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(number):
    """Die when half of the state of step `number` has been written."""
    write = store.write_atomic

    def watched(path, data):
        if os.fspath(path).endswith("state.safetensors") and json.loads(step_in(data)) == number:
            os.fsync = die
            data = data[: len(data) // 2]
        write(path, data)

    store.write_atomic = watched


def step_in(data):
    """The text of the step counter in the bytes of a state."""
    return data.partition(b'\\"step\\": ')[2].partition(b"}")[0]


def die_while_logging(number):
    """Die when half of the lines about step `number` have been appended to metrics.jsonl."""
    flush = fitting.Log.flush

    def watched(log):
        if log.pending and json.loads(log.pending[-1])["step"] == number:
            with log.path.open("a") as file:
                file.write(log.pending[0][:20])
                file.flush()
                die()
        flush(log)

    fitting.Log.flush = watched


if __name__ == "__main__":
    out, threads, where, number = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    if where == "write":
        die_while_writing(int(number))
    if where == "log":
        die_while_logging(int(number))

    def listen(event):
        if where == "step" and event["event"] == "step" and event["training"].step == int(number):
            die()

    learn(out, resume="--resume" in sys.argv, listen=listen)
    sys.exit("it has not been killed")
