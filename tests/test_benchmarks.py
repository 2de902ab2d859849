"""The benchmarks of sparse codes run, on small made-up data, and what they compare is comparable."""

import argparse
import importlib

import numpy as np
import pytest

from test_sparse_coding import mixtures


@pytest.fixture
def benchmark(monkeypatch):
    """Name -> the module, with patches that need no photographs."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))

    def load(name):
        module = importlib.import_module(name)
        monkeypatch.setattr(
            module, "whitened_patches", lambda count, seed=0: mixtures(count, seed=seed)[0].astype("f")
        )
        return module

    return load


def test_lasso_speed_compares_equal_objectives(benchmark):
    options = argparse.Namespace(
        patches=400, few=60, atoms=24, nonzeros=[3], runs=1, threads=[1], precision=["float64"]
    )
    rows = [row for row in benchmark("lasso_speed").measured(options) if "kkt" in row]
    assert {"coordinate_descent", "scikit-learn lasso_cd", "scikit-learn lasso_lars"} <= {
        row["side"] for row in rows
    }
    for row in rows:
        assert row["gap"] < 1e-5
        assert abs(row["nonzeros"] - 3) < 1
    assert next(row for row in rows if row["side"] == "coordinate_descent")["kkt"] < 1.01e-3


def test_dictionary_learning_judges_all_sides_alike(benchmark):
    sides = ["chainrule online", "scikit-learn cd"]
    options = argparse.Namespace(
        patches=600, held=100, atoms=24, penalty=0.3, batch=64, threads=1, seconds=[1], sides=sides
    )
    rows = list(benchmark("dictionary_learning").measured(options))
    assert [row["side"] for row in rows] == sides
    assert rows[0]["start"] == rows[1]["start"]
    for row in rows:
        assert row["1 s"] < row["start"]


def test_pursuit_has_the_supports_of_the_definition(benchmark):
    options = argparse.Namespace(patches=200, atoms=24, nonzeros=3, runs=1, threads=[1])
    rows = [row for row in benchmark("pursuit").measured(options) if "same" in row]
    assert rows
    assert all(row["same"] == 1 for row in rows)
    assert np.ptp([row["error"] for row in rows]) < 1e-4


def test_amortisation_gaps_are_not_negative(benchmark):
    module = benchmark("amortisation")
    rows = mixtures(300)[0].astype("f")
    for code in module.codes(units=24).values():
        module.fit(code, rows, steps=20)
        row = module.row(code, rows, runs=1)
        assert row["given_up"] >= -1e-9
        assert row["us"] > 0
