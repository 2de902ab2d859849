"""What several test files share."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported: the models of the tests are tiny


from pathlib import Path

import pytest


def pytest_collection():
    """No search for garbage while ten thousand tests are made that all stay."""
    gc.disable()


def pytest_collection_finish():
    """Tests and modules stay to the end: searches for garbage pass them by.

    They would take seconds in all, and one of them up to a second, which is all the time that a test of
    damaged archives gives to a case.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; without one a test is skipped, or fails if CHAINRULE_REQUIRE_DATA=1."""
    folder = os.environ.get("CHAINRULE_DATA", "")
    if folder and Path(folder).is_dir():
        return Path(folder)
    why = f"CHAINRULE_DATA is '{folder}', not a folder with the real data sets"
    if os.environ.get("CHAINRULE_REQUIRE_DATA") == "1":
        pytest.fail(why)
    pytest.skip(why)
