"""How long OpenMP's waiting threads should spin: training speed alone, and beside a process that wants a core.

    python benchmarks/spin.py

Each round trains a small Gated PixelCNN for a few steps in a fresh process, two threads, the settings in turn;
the median over rounds counts. `default` leaves GOMP_SPINCOUNT out, as PyTorch by itself would have it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

SETTINGS = ("default", "3000", "30000")
CHILD = """
import sys, time, torch, os
from chainrule.chains.gated_pixelcnn import GatedPixelCNN
from chainrule.train import Plan, Training
torch.set_num_threads(2)
x = (torch.rand(16, 28, 28, 1) < 0.2).long()
chain = GatedPixelCNN(symbols=2, layers=8, head=64, mix=0, embedding=0, memory=0, copies=0)
training, took = Training(chain, lambda step: (x,), Plan(steps=1 << 20, compile=False)), []
for _ in range(12):
    began = time.perf_counter()
    training.update(chain.loss, (x,))
    took.append(time.perf_counter() - began)
print(16 / sorted(took[2:])[5])
"""


def speed(setting: str) -> float:
    """Images/s of one fresh process."""
    # chainrule sets a value itself unless there is one; importing torch first keeps the default in force.
    first = "import torch\n" if setting == "default" else ""
    extra = {} if setting == "default" else {"GOMP_SPINCOUNT": setting}
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    } | extra
    out = subprocess.run(
        [sys.executable, "-c", first + CHILD], env=environment, capture_output=True, text=True
    )
    return float(out.stdout)


def main() -> None:
    for company in ("alone", "beside a busy process"):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if company != "alone" else []
        try:
            rounds = [{s: speed(s) for s in SETTINGS} for _ in range(5)]
        finally:
            for process in busy:
                process.kill()
        for s in SETTINGS:
            values = [r[s] for r in rounds]
            row = {"company": company, "spin": s, "images_per_s": round(statistics.median(values), 1)}
            ratio = statistics.median(r[s] / r["default"] for r in rounds)
            print(
                json.dumps(
                    {
                        **row,
                        "least": round(min(values), 1),
                        "most": round(max(values), 1),
                        "ratio_to_default": round(ratio, 2),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
