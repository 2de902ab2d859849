"""What is compiled and kept, when several processes compile it at once."""

import os
import subprocess
import sys

import pytest

MODULE = """
from chainrule import jit

@jit.compiled
def doubled(x):
    return 2 * x[0]
"""
RUN = """
import os, sys, time
import numpy as np
from numba.core.caching import IndexDataCacheFile

own = IndexDataCacheFile._save_index
def together(self, overloads):  # what there is has been read, and is written when both have read it
    open(sys.argv[1] + " has read", "w").close()
    end = time.monotonic() + {seconds}
    while not all(os.path.exists(name + " has read") for name in ("float64", "int32")) and time.monotonic() < end:
        time.sleep(0.01)
    own(self, overloads)
IndexDataCacheFile._save_index = together

if not {locked}:
    from chainrule import jit
    jit.one_process_at_a_time = lambda function, folder: function
from doubled import doubled
for dtype in sys.argv[1:]:
    print(doubled(np.full(2, 3, dtype)), end=" ")
print(sum(doubled.stats.cache_hits.values()), end="")
"""


def shared(folder, locked=True):
    """What is printed by two processes that compile for a type each, and by a third one that reads both."""
    (folder / "doubled.py").write_text(MODULE)
    command = [sys.executable, "-c", RUN.format(locked=locked, seconds=0.5 if locked else 60)]
    paths = os.pathsep.join([str(folder), *sys.path])
    where = {"cwd": folder, "env": {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": paths}}
    running = [
        subprocess.Popen([*command, dtype], stdout=subprocess.PIPE, text=True, **where)
        for dtype in ("float64", "int32")
    ]
    first = [process.communicate()[0] for process in running]
    both = subprocess.run([*command, "float64", "int32"], stdout=subprocess.PIPE, text=True, **where)
    return first, both.stdout


def test_processes_that_compile_at_once_keep_what_both_have(tmp_path):
    assert shared(tmp_path) == (["6.0 0", "6 0"], "6.0 6 2")


def test_without_a_lock_one_would_be_lost_or_taken_for_the_other(tmp_path):
    with pytest.raises(AssertionError):
        assert shared(tmp_path, locked=False) == (["6.0 0", "6 0"], "6.0 6 2")
