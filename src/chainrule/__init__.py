"""chainrule: learn p(x), or a good code for x, from your own files.

The public verbs and classes. They are imported when they are first used, so `import chainrule` is quick.

Example:
    >>> import chainrule
    >>> run = chainrule.fit("digits", steps=2, size="tiny", out=getfixture("tmp_path") / "run")
    >>> chainrule.sample(run.chain, n=2, event=(8, 8, 1)).shape
    (2, 8, 8, 1)
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Threads of GNU OpenMP that wait for each other spin, which starves them when another program wants a core.
# After 3,000 turns they sleep instead: no slower alone, faster in company (benchmarks/spin.py). PyTorch reads
# this once, when it is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"

PUBLIC = {
    "Chain": "chainrule.model",
    "ChainruleError": "chainrule.errors",
    "Code": "chainrule.model",
    "Dataset": "chainrule.data",
    "beam": "chainrule.verbs.beam",
    "complete": "chainrule.verbs.walk",
    "compress": "chainrule.verbs.compress",
    "decompress": "chainrule.verbs.compress",
    "fit": "chainrule.verbs.fit",
    "load": "chainrule.data",
    "open_run": "chainrule.models",
    "probe": "chainrule.verbs.probe",
    "sample": "chainrule.verbs.walk",
    "score": "chainrule.verbs.score",
    "stream": "chainrule.verbs.walk",
    "stream_translation": "chainrule.verbs.translate",
    "translate": "chainrule.verbs.translate",
    "walk": "chainrule.verbs.walk",
}

__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'chainrule' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
