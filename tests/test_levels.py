"""An import goes to a lower level, and nothing is ever executed that came out of a file."""

import ast
import importlib.resources
from pathlib import Path

import pytest

import chainrule

SOURCE = Path(str(importlib.resources.files("chainrule")))

# Every file and folder below chainrule/ has a level. An import goes to a lower one.
LEVELS = {
    "errors": -1,
    "jit": -1,
    "randomness": -1,
    "muon": 1,
    "data": 0,
    "coding": 0,
    "archive": 0,
    "plots": 0,
    "zoo": 0,
    "model": 1,
    "store": 1,
    "engine": 1,
    "layers": 2,
    "train": 2,
    "stages": 2,
    "chains": 3,
    "codes": 3,
    "models": 4,
    "catalogue": 4,
    "verbs": 4,
    "console": 5,
    "output": 5,
    "packing": 5,
    "encoding": 5,
    "translation": 5,
    "hearing": 5,
    "report": 5,
    "lecture": 5,
    "tour": 5,
    "cli": 5,
    "__main__": 6,
}
PACKAGES = {
    "archive",
    "data",
    "engine",
    "layers",
    "verbs",
    "report",
    "lecture",
}  # folders whose files may import each other
MODELS = {"chains", "codes"}  # folders whose files may not
TOGETHER = {
    1: {("store", "model"), ("engine", "model")},
    2: {("stages", "train")},
    4: {("verbs", "models")},
}  # what else goes on within a level
EVERYONE_TOGETHER = {5}
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "os.system",
    "os.popen",
    "runpy.run_path",
}


def module_of(path):
    """("data", "data.batches") for .../chainrule/data/batches.py: the entry of the table, and the module."""
    parts = path.with_suffix("").parts
    parts = parts[: -1 if parts[-1] == "__init__" else None]
    return (parts[0] if parts else ""), ".".join(parts)


def imports_of(tree, module, is_package):
    """The chainrule modules that a file imports, as dotted names below chainrule; "" is chainrule itself."""
    here = ["chainrule", *filter(None, module.split("."))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (below(alias.name) for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "chainrule":
                yield from (public(alias.name) for alias in node.names)
            elif is_ours(name):
                yield below(name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from (below(name) for name in names if is_ours(name))


def is_ours(name):
    return name == "chainrule" or name.startswith("chainrule.")


def below(name):
    return name.partition(".")[2]


def public(name):
    """Where `from chainrule import name` comes from."""
    return below(chainrule.PUBLIC.get(name, f"chainrule.{name}")) if name != "__version__" else "errors"


def wrong_imports(path, text):
    """What is wrong with the imports of the file `path`, relative to chainrule/: a list of messages."""
    unit, module = module_of(path)
    if not unit:
        return []  # chainrule/__init__.py imports everything, lazily
    if unit not in LEVELS:
        return [f"{path} has no level: enter {unit!r} into LEVELS"]
    found = imports_of(ast.parse(text), module, path.name == "__init__.py")
    return [
        f"{path} (level {LEVELS[unit]}) may not import chainrule.{other} (level {LEVELS.get(top(other))})"
        for other in found
        if not allowed(unit, top(other))
    ]


def top(module):
    return module.partition(".")[0]


def allowed(unit, other):
    if other not in LEVELS:
        return False
    if LEVELS[other] < LEVELS[unit]:
        return True
    same = LEVELS[other] == LEVELS[unit]
    together = LEVELS[unit] in EVERYONE_TOGETHER or (unit, other) in TOGETHER.get(LEVELS[unit], ())
    return same and ((unit == other and unit in PACKAGES) or (unit != other and together))


def unsafe(path, text):
    """Ways in which a file could execute what it reads: a list of messages."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            names = [call] if call in UNSAFE_CALLS or call.endswith((".read_pickle", ".to_pickle")) else []
            given = {k.arg: k.value for k in node.keywords}
            names += [
                f"{k}=" for k in ("allow_pickle", "shell") if k in given and ast.unparse(given[k]) != "False"
            ]
        found += [
            f"{path}:{node.lineno}: {name}"
            for name in names
            if name.partition(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS or isinstance(node, ast.Call)
        ]
    return found


def files():
    return [
        pytest.param(p.relative_to(SOURCE), id=str(p.relative_to(SOURCE)))
        for p in sorted(SOURCE.rglob("*.py"))
    ]


@pytest.mark.parametrize("path", files())
def test_imports_go_to_a_lower_level(path):
    assert wrong_imports(path, (SOURCE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", files())
def test_nothing_read_from_a_file_is_executed(path):
    assert unsafe(path, (SOURCE / path).read_text(encoding="utf-8")) == []


GOOD = [
    (
        "chains/new.py",
        "from chainrule.layers.conv import gate\nfrom chainrule.model import Chain\nimport torch",
    ),
    ("chains/new.py", "from chainrule.errors import ChainruleError\nfrom chainrule.train import Plan"),
    (
        "verbs/new.py",
        "from chainrule.verbs.walk import walk\nfrom chainrule.models import Run\nimport chainrule.store",
    ),
    ("verbs/new.py", "from .walk import walk\nfrom ..model import Chain"),
    ("data/new.py", "from chainrule.data.dataset import Dataset"),
    ("data/__init__.py", "from .dataset import Dataset"),
    (
        "archive/new.py",
        "from chainrule.archive.format import Item\nfrom chainrule.errors import ChainruleError",
    ),
    ("layers/new.py", "from chainrule.layers import conv"),
    ("report/new.py", "from chainrule import sample, Chain, __version__, console"),
    ("cli.py", "def f():\n    from chainrule.verbs import fit"),
    ("__init__.py", "from chainrule.cli import main"),
]
BAD = [
    ("chains/new.py", "from chainrule.chains.uniform import Uniform"),  # a model never imports a sibling
    ("chains/new.py", "from .uniform import Uniform"),
    ("chains/new.py", "from chainrule.codes.pca import PCA"),
    ("chains/new.py", "from chainrule.chains import CHAINS"),
    ("chains/new.py", "from chainrule.verbs.walk import walk"),
    ("chains/new.py", "from chainrule import sample"),  # the public name of the same
    ("chains/new.py", "def f():\n    import chainrule.verbs.walk"),  # a late import is an import
    ("chains/new.py", "import chainrule"),
    ("chains/new.py", "import importlib\nimportlib.import_module('chainrule.verbs.walk')"),
    ("codes/new.py", "from chainrule.codes.pca import PCA"),
    ("model.py", "from chainrule.store import dump"),
    ("model.py", "from chainrule.data import Dataset\nfrom chainrule.layers.conv import gate"),
    ("data/new.py", "from chainrule.coding import Encoder"),  # level 0 knows only itself
    ("data/new.py", "from ..model import Chain"),
    ("coding.py", "from chainrule.archive import Archive"),
    ("archive/new.py", "from chainrule.coding import Encoder"),
    ("plots.py", "if True:\n    from chainrule import data"),
    ("errors.py", "from chainrule.data import Dataset"),
    ("train.py", "from chainrule.layers.conv import gate"),
    ("models.py", "from chainrule.verbs.fit import fit"),
    ("verbs/new.py", "from chainrule.report.page import page"),
    ("verbs/new.py", "from chainrule import console"),
    ("verbs/new.py", "from chainrule.catalogue import models"),
    ("verbs/new.py", "from chainrule.nowhere import x"),
    ("newfile.py", "import math"),
]
UNSAFE = [
    "import pickle",
    "from pickle import loads",
    "import joblib as safe",
    "from torch import load\nimport marshal.x",
    "def f(x):\n    return eval(x)",
    "exec('1')",
    "compile('1', '', 'eval')",
    "__import__('os')",
    "import torch\ntorch.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nnp.load('x', allow_pickle=flag)",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import os\nos.system('ls')",
    "import pandas as pd\npd.read_pickle('x')",
    "from torch import load",
]
SAFE = [
    "import numpy as np\nnp.load('x', allow_pickle=False)\nnp.load('y')",
    "import safetensors.torch\nsafetensors.torch.load(b'')",
    "import torch, re\ntorch.compile(f)\nre.compile('x')\nmodel.eval()",
    "import ast\nast.literal_eval('1')",
]


@pytest.mark.parametrize(("path", "text"), GOOD)
def test_good_imports_pass(path, text):
    assert wrong_imports(Path(path), text) == []


@pytest.mark.parametrize(("path", "text"), BAD)
def test_bad_imports_are_caught(path, text):
    assert wrong_imports(Path(path), text)


@pytest.mark.parametrize("text", UNSAFE)
def test_unsafe_code_is_caught(text):
    assert unsafe(Path("new.py"), text)


@pytest.mark.parametrize("text", SAFE)
def test_safe_code_passes(text):
    assert unsafe(Path("new.py"), text) == []


def test_the_table_of_levels_has_no_entry_too_many():
    there = {module_of(p.relative_to(SOURCE))[0] for p in SOURCE.rglob("*.py")} - {""}
    assert set(LEVELS) == there
