"""What labels are worth: both classifiers against scikit-learn, fair draws, and one line for every mistake."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import sparse
from scipy import stats as statistics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import chainrule
from chainrule import Dataset, cli, load
from chainrule.codes.pca import PCA
from chainrule.data import draw, train_test
from chainrule.errors import ChainruleError
from chainrule.verbs import probe as verb
from chainrule.verbs.probe import Probed, drawn, numbers_of_labels, probe_features

LEARN, TEST = load("digits"), load("digits:test")


def clouds(classes, d, n=60, apart=1.5, seed=0, names=None):
    """Gaussian clouds around `classes` random centres: features (n · classes, d) in random order, and classes."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d)) * apart / np.sqrt(d)
    y = random.permutation(np.arange(classes).repeat(n))
    x = (centres[y] + random.normal(size=(len(y), d)) / np.sqrt(d)) * np.linspace(0.1, 9, d) + 5
    return x, y if names is None else np.asarray(names)[y]


def both(classes, d, **more):
    return *clouds(classes, d, **more), *clouds(classes, d, **more, seed=1)


def by_probe(rows):
    return {(row.features, row.probe, row.labels): row for row in rows}


# ---- the classifiers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "d", "labels"), [(4, 6, 80), (4, 300, 41), (2, 3, 9), (3, 5, 2)])
def test_neighbours_are_those_of_scikit_learn(classes, d, labels):
    x, y, x_test, truth = both(classes, d)
    (row,) = (r for r in probe_features(x, y, x_test, truth, [labels], 3) if r.probe == "neighbours")
    for [index], accuracy, chosen in zip(drawn(y, [labels], 3, 0), row.accuracies, row.chosen, strict=True):
        ks = [k for k in (1, 3, 5, 10) if k < labels]
        models = {k: KNeighborsClassifier(k, algorithm="brute") for k in ks}
        left_out = [
            cross_val_score(m, x[index], y[index], cv=LeaveOneOut()).mean() if labels > 3 else 0.0
            for m in models.values()
        ]
        assert chosen == ks[int(np.argmax(left_out))]
        assert accuracy == models[chosen].fit(x[index], y[index]).score(x_test, truth)


@pytest.mark.parametrize(
    ("classes", "d", "labels", "names"),
    [(4, 6, 80, None), (4, 300, 41, None), (2, 3, 30, [7, 3]), (2, 50, 5, [7, 3]), (3, 20, 3, None)],
)
def test_the_linear_probe_is_that_of_scikit_learn(classes, d, labels, names):
    x, y, x_test, truth = both(classes, d, names=names)
    (row,) = (r for r in probe_features(x, y, x_test, truth, [labels], 3) if r.probe == "linear")
    mean, scale = x.mean(0), np.sqrt(np.mean((x - x.mean(0)) ** 2))
    z, z_test = (x - mean) / scale, (x_test - mean) / scale
    for [index], accuracy, C in zip(drawn(y, [labels], 3, 0), row.accuracies, row.chosen, strict=True):
        z_own, y_own = z[index], y[index]
        folds = min(3, np.unique(y_own, return_counts=True)[1].min())
        models = [LogisticRegression(C=p / d, tol=1e-8, max_iter=9999) for p in (0.1, 1, 10, 100, 1000)]
        turn = PredefinedSplit([int((y_own[:i] == c).sum()) % folds for i, c in enumerate(y_own)])
        if (
            folds > 1
        ):  # the mean weighs folds, the probe events: their numbers differ by less than an event of each
            left = [cross_val_score(m, z_own, y_own, cv=turn).mean() for m in models]
            assert left[[m.C for m in models].index(C)] >= max(left) - 2 / labels
        else:
            assert pytest.approx(10 / d) == C
        exact = LogisticRegression(C=C, tol=1e-8, max_iter=9999).fit(z_own, y_own)
        assert accuracy == pytest.approx(exact.score(z_test, truth), abs=1.5 / len(truth))


def test_the_penalty_is_as_weak_as_the_labels_ask_for():
    random = np.random.default_rng(0)
    y, large = random.integers(0, 2, 500), random.normal(size=500)
    faint = np.stack([large, large + 0.1 * y], 1)  # the class is in a small difference of two large numbers
    spread = random.normal(size=(500, 200)) + 0.4 * y[:, None]  # a little of it is everywhere
    for x, low, high in [(faint, 100, 1000), (spread, 0.1, 10)]:
        (row,) = (r for r in probe_features(x[:300], y[:300], x[300:], y[300:], [60]) if r.probe == "linear")
        C = np.array(row.chosen) * x.shape[1]
        assert low <= C.min() <= C.max() <= high
        assert row.accuracy > 0.9


def test_clouds_that_lie_apart_are_told_apart_without_an_error():
    rows = probe_features(*both(5, 40, apart=40), labels=[5, 20, 100], seeds=2)
    assert [row.accuracies for row in rows] == [(1.0, 1.0)] * 6
    assert [row.interval for row in rows] == [(1.0, 1.0)] * 6


@pytest.mark.parametrize("kind", ["linear", "neighbours"])
def test_labels_that_mean_nothing_are_worth_nothing(kind):
    x, _, x_test, _ = both(5, 20, n=400)
    y, truth = (np.random.default_rng(seed).permutation(np.arange(2000) % 5) for seed in (3, 4))
    (row,) = (r for r in probe_features(x, y, x_test, truth, [200], 10) if r.probe == kind)
    low, high = row.interval
    assert low < 0.2 < high
    assert high - low < 0.03


def test_the_linear_probe_depends_on_no_common_unit_and_no_shifts():
    x, y, x_test, truth = both(3, 8)
    scale, shift = 1e-4, np.linspace(-9, 9, 8)
    rows, other = (
        [r for r in probe_features(a, y, b, truth, [30]) if r.probe == "linear"]
        for a, b in ((x, x_test), (x * scale + shift, x_test * scale + shift))
    )
    np.testing.assert_allclose(other[0].accuracies, rows[0].accuracies, atol=1.5 / len(truth))
    assert other[0].chosen == pytest.approx(rows[0].chosen)


def test_a_feature_that_never_changes_does_no_harm():
    x, y, x_test, truth = both(3, 8)
    more = [
        np.concatenate([a, np.full((len(a), 1), 0.1), a[:, :1] * 0], 1).astype(np.float32)
        for a in (x, x_test)
    ]
    rows = probe_features(more[0], y, more[1], truth, [30, 90])
    assert all(row.accuracy > 0.5 for row in rows)


def test_the_test_is_for_testing_only():
    x, y, x_test, truth = both(4, 10)
    rows = probe_features(x, y, x_test, truth, [8, 40])
    other = probe_features(x, y, x_test[::-1] * 0.9, np.random.default_rng(0).permutation(truth), [8, 40])
    assert [row.chosen for row in rows] == [row.chosen for row in other]
    assert [row.accuracies for row in rows] != [row.accuracies for row in other]


def test_every_test_event_counts_once(monkeypatch):
    x, y, x_test, truth = both(4, 10, n=53)
    rows = probe_features(x, y, x_test, truth, [8, 40])
    monkeypatch.setattr(verb, "BLOCK", 700)  # a few test events at a time, the last ones fewer
    assert probe_features(x, y, x_test, truth, [8, 40]) == rows
    counts = np.array([row.accuracies for row in rows]) * 212
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    halves = [probe_features(x, y, x_test[i], truth[i], [8, 40]) for i in (slice(50), slice(50, None))]
    for row, first, second in zip(rows, *halves, strict=True):
        pooled = (50 * np.array(first.accuracies) + 162 * np.array(second.accuracies)) / 212
        np.testing.assert_allclose(row.accuracies, pooled)


def test_a_fit_that_stops_early_says_nothing(monkeypatch):
    monkeypatch.setattr(verb, "ROUNDS", 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        probe_features(*both(4, 10), labels=[40], seeds=1)
    assert told == []


# ---- the draws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[50] * 10, [9, 200, 31, 40], [20, 20, 21]])
def test_draws_are_as_even_over_the_classes_as_can_be(counts):
    classes = np.random.default_rng(5).permutation(np.arange(len(counts)).repeat(counts)) * 2 + 1
    labels = [*range(2, min(counts) * len(counts) + 1), numbers_of_labels(classes, [5])[0]]
    for draw_ in drawn(classes, sorted(labels), 4, 7):
        for index in draw_:
            each = np.bincount(classes[index], minlength=2 * len(counts))[1::2]
            assert len(set(index)) == len(index)
            assert each.max() - each.min() <= 1
            if len(index) >= len(counts):
                assert each.min() >= 1


def test_every_event_and_every_class_has_its_chance():
    classes = np.arange(12) % 4
    draws = drawn(classes, [2], 300, 0)
    assert (
        np.bincount(np.concatenate([index for [index] in draws]), minlength=12).min() > 25
    )  # of 50 expected


def test_a_draw_follows_from_the_seed_and_its_number():
    classes = np.arange(100) % 7
    first, again, other = (drawn(classes, [20], 3, seed) for seed in (4, 4, 5))
    assert [a[0].tolist() for a in first] == [a[0].tolist() for a in again]
    assert len({tuple(d[0]) for d in [*first, *other]}) == 6
    more = drawn(classes, [10, 20, 30], 5, 4)
    assert [m[1].tolist() for m in more[:3]] == [a[0].tolist() for a in first]
    assert all(m[0].tolist() == m[1][:10].tolist() for m in more)  # fewer labels are the first of more


def test_the_same_seed_gives_the_same_rows_whatever_else_is_asked():
    args = both(4, 10)
    rows, again, other = (probe_features(*args, labels=[8, 40], seed=seed) for seed in (1, 1, 2))
    assert rows == again
    assert [row.accuracies for row in rows] != [row.accuracies for row in other]
    assert by_probe(probe_features(*args, labels=[40], seed=1)).items() <= by_probe(rows).items()


def test_the_interval_is_that_of_student():
    row = Probed("code", 3, "linear", 10, (0.5, 0.75, 0.625, 0.875), (1, 1, 1, 1), 8)
    expected = statistics.ttest_1samp(row.accuracies, 0).confidence_interval(0.95)
    np.testing.assert_allclose(row.interval, expected)
    assert row.accuracy == 0.6875
    assert replace(row, accuracies=(0.5,)).interval is None


def test_by_default_as_many_labels_as_there_are():
    for n, expected in [(2000, (10, 100, 1000)), (100, (10, 100)), (6, (6,))]:
        assert numbers_of_labels(np.arange(n) % 2) == expected
    assert numbers_of_labels(np.arange(50) % 2, [20, 4, 20]) == (4, 20)


# ---- codes -------------------------------------------------------------------------------------------------


def test_a_code_is_probed_by_the_codes_of_all_events(monkeypatch):
    monkeypatch.setattr(verb, "STATISTICS", 100)
    code, ticks = PCA(10).fit(LEARN.x), []
    rows = chainrule.probe(code, LEARN, TEST, [10, 60], 3, 2, ticks.append)
    assert ticks == [1, 2, 3, 4, 5, 6]
    order = [
        (kind, name, n) for kind in ("linear", "neighbours") for name in ("pixels", "code") for n in (10, 60)
    ]
    assert [(row.probe, row.features, row.labels) for row in rows] == order
    found = by_probe(rows)
    for name, features in (
        ("pixels", lambda x: x.reshape(len(x), -1)),
        ("code", lambda x: code.transform(np.float32(x))),
    ):
        arrays = features(LEARN.x), LEARN.context, features(TEST.x), TEST.context
        for row in probe_features(*arrays, [10, 60], 3, 2, name):
            assert found[name, row.probe, row.labels] == row


def test_means_and_deviations_are_those_of_evenly_spaced_training_events(monkeypatch):
    monkeypatch.setattr(verb, "STATISTICS", 100)
    x, y, x_test, truth = both(4, 10, n=60)
    rows = probe_features(x, y, x_test, truth, [40])
    seen = x.copy()
    seen[np.arange(240) % 3 > 0] = 1e6  # 240 events: every third
    used = {tuple(row) for [index] in drawn(y, [40], 5, 0) for row in x[index]}
    seen[[tuple(row) in used for row in x]] = x[[tuple(row) in used for row in x]]
    assert probe_features(seen, y, x_test, truth, [40]) == rows


class Sparse(PCA):
    def transform(self, X):
        return sparse.csr_array(super().transform(X))


class Square(PCA):
    def transform(self, X):
        return super().transform(X).reshape(-1, 3, 4)


def test_codes_may_be_sparse_or_have_a_shape_and_events_may_be_a_list():
    learn, test = (replace(data, x=list(data.x)) for data in (LEARN, TEST))
    plain, *others = (code(12).fit(LEARN.x) for code in (PCA, Sparse, Square))
    rows = chainrule.probe(plain, LEARN, TEST, [40], 2)
    assert [chainrule.probe(code, learn, test, [40], 2) for code in others] == [rows, rows]


def test_events_that_are_binarised_are_so_for_both():
    gray = replace(LEARN, x=LEARN.x * 15, levels=2, binarise=True)
    test = replace(
        TEST, x=draw(replace(TEST, x=TEST.x * 15, levels=2, binarise=True), np.arange(300)), levels=2
    )
    seen = []

    class Looks(PCA):
        def transform(self, X):
            seen.append(set(np.unique(X)))
            return super().transform(X)

    rows = chainrule.probe(Looks(10).fit(LEARN.x), gray, test, [40], 2)
    assert seen == [{0.0, 1.0}, {0.0, 1.0}]
    assert all(row.accuracy > 0.3 for row in rows)


# ---- one line for every mistake ----------------------------------------------------------------------------

X, Y, X_TEST, TRUTH = both(4, 10, n=20)
HOLED = np.where(np.arange(800).reshape(80, 10) == 123, np.nan, X_TEST)
RARE = np.array([0] * 3 + [1] * 20 + [2] * 57)
FITTED = PCA(5).fit(LEARN.x)
FEW = LEARN.select(
    np.concatenate([np.flatnonzero(LEARN.context == 8), np.flatnonzero(LEARN.context == 9)[:7]])
)

REFUSED = {
    "more labels than events": (lambda: probe_features(X, Y, X_TEST, TRUTH, [81]), "81 labels", "80 train", "most 80"),
    "a rare class": (
        lambda: probe_features(X, RARE, X_TEST, TRUTH % 3, [30]), "10 for each of 3 classes", "class 0 has 3", "most 11"
    ),
    "one label": (lambda: probe_features(X, Y, X_TEST, TRUTH, [1]), "labels is 1", "2 or more"),
    "one class": (lambda: probe_features(X, Y * 0, X_TEST, TRUTH * 0), "of 1 class", "two are needed"),
    "no draw": (lambda: probe_features(X, Y, X_TEST, TRUTH, seeds=0), "seeds is 0", "1 or more"),
    "negative seed": (lambda: probe_features(X, Y, X_TEST, TRUTH, seed=-1), "seed -1", "from 0 up"),
    "unknown class": (lambda: probe_features(X, Y, X_TEST, TRUTH + 1), "20 of 80", "such as 4", "divide the events"),
    "widths": (lambda: probe_features(X, Y, X_TEST[:, 1:], TRUTH), "10 numbers", "events 9", "resize"),
    "nan": (lambda: probe_features(X, Y, HOLED, TRUTH), "1 of 800 features of the test", "leave such"),
    "text": (lambda: probe_features(X.astype(str), Y, X_TEST, TRUTH), "(80, 10)", "rows of numbers"),
    "no rows": (lambda: probe_features(X, Y, X_TEST[:0], TRUTH[:0]), "(0, 10)", "rows of numbers"),
    "classes of others": (lambda: probe_features(X, Y[:9], X_TEST, TRUTH), "80 training events", "(9,)", "(80,)"),
    "classes that are none": (lambda: probe_features(X, Y, X_TEST, TRUTH / 2), "80 test events", "float64", "integers"),
    "events without classes": (
        lambda: chainrule.probe(FITTED, replace(LEARN, context=None), TEST), "digits has no classes", "folder", ".npz"
    ),
    "test without classes": (
        lambda: chainrule.probe(FITTED, LEARN, replace(TEST, context=None)), "digits:test has no classes", ".npz"
    ),
    "no test events": (lambda: chainrule.probe(FITTED, LEARN, TEST.select(slice(0))), "no events"),
    "a class by its name": (
        lambda: chainrule.probe(FITTED, replace(FEW, classes=tuple("abcdefghij")), TEST.select(TEST.context > 7), [20]),
        "10 for each of 2 classes", "class j has 7", "most 15"
    ),
    "another shape": (
        lambda: chainrule.probe(FITTED, *(replace(d, x=d.x[:, :5]) for d in (LEARN, TEST))), "(5, 8, 1)", "(8, 8, 1)"
    ),
    "test of another shape": (
        lambda: chainrule.probe(FITTED, LEARN, replace(TEST, x=TEST.x[:, :5])), "64 numbers, test events 40", "resize"
    ),
    "several shapes": (
        lambda: chainrule.probe(FITTED, replace(LEARN, x=[x[: 7 + i % 2] for i, x in enumerate(LEARN.x)]), TEST),
        "several shapes", "crop or resize",
    ),
    "a code that was never fitted": (lambda: chainrule.probe(PCA(3), LEARN, TEST, [10], 1), "does not fit the code"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_probed_is_one_line_with_the_way_out(name):
    action, *parts = REFUSED[name]
    with pytest.raises(ChainruleError) as error:
        action()
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 300
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize("classes", [RARE, Y, np.arange(80) // 79, np.arange(80) % 7])
def test_as_many_labels_as_the_line_says_can_be_drawn(classes):
    with pytest.raises(ChainruleError) as error:
        numbers_of_labels(classes, [10_000])
    most = int(str(error.value).rpartition("at most ")[2].split()[0])
    assert numbers_of_labels(classes, [most]) == (most,)
    each = np.bincount(classes[drawn(classes, [most], 1, 0)[0][0]])
    assert each.max() - each.min() <= 1
    if most < len(classes):
        with pytest.raises(ChainruleError, match=f"at most {most} labels"):
            numbers_of_labels(classes, [most + 1])


# ---- the command -------------------------------------------------------------------------------------------


def call(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


def good(capsys, *words):
    code, told = call(*words, "--json"), capsys.readouterr()
    assert (code, told.err) == (0, "")
    return [json.loads(line) for line in told.out.splitlines()]


def refused(capsys, *words):
    assert call(*words) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    return told.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pca"
    chainrule.fit("digits", model="pca", settings={"n_components": 12}, out=path)
    return path


def test_json_is_an_object_a_row(run, capsys):
    rows = good(capsys, "probe", run, "digits", "--labels", 40, "--labels", 10, "--seeds", 3, "--seed", 6)
    code = chainrule.open_run(run).code
    expected = chainrule.probe(code, LEARN, TEST, labels=[10, 40], seeds=3, seed=6)
    for row, one in zip(rows, expected, strict=True):
        assert (row["features"], row["probe"], row["labels"]) == (one.features, one.probe, one.labels)
        assert row["accuracies"] == list(one.accuracies)
        assert (row["accuracy"], tuple(row["interval"])) == (one.accuracy, one.interval)
        assert (row["test"], row["held_out"], row["width"]) == (
            300,
            False,
            12 if one.features == "code" else 64,
        )
    (row, *_) = good(capsys, "probe", run, "digits", "--labels", 10, "--seeds", 1)
    assert row["interval"] is None


def test_people_get_a_table_of_per_cent(run, capsys):
    assert call("probe", run, "digits", "--labels", 10, "--labels", 40) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert lines[0] == ["probe", "features", "width", "10", "labels", "40", "labels"]
    assert [line[:3] for line in lines[1:5]] == [
        *(["linear", "pixels", "64"], ["linear", "code", "12"]),
        *(["neighbours", "pixels", "64"], ["neighbours", "code", "12"]),
    ]
    row = chainrule.probe(chainrule.open_run(run).code, LEARN, TEST, [40])[0]
    assert lines[1][-3:] == [f"{100 * row.accuracy:.1f}", "±", f"{100 * row.margin:.1f}"]
    assert "300 test events, mean of 5 draws" in told


def pictures(folder, colour):
    """A folder of bright and one of dark pictures, 30 and 12 of them, and a picture of no class."""
    random = np.random.default_rng(0)
    for name, n, low in [("bright", 30, 150), ("dark", 12, 0)]:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = random.integers(low, low + 100, (4, 5, 3) if colour else (4, 5), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


def test_of_a_folder_of_classes_a_fifth_is_held_out(tmp_path, capsys):
    folder = pictures(tmp_path / "in", colour=True)
    good(capsys, "fit", folder, "--model", "pca", "--gray", "--set", "n_components=3", "-o", tmp_path / "run")
    rows = good(capsys, "probe", tmp_path / "run", folder, "--labels", 6)
    assert [(row["width"], row["test"], row["held_out"]) for row in rows] == [
        (w, 9, True) for w in (20, 3) * 2
    ]
    assert [row["accuracy"] for row in rows] == [1.0] * 4
    assert call("probe", tmp_path / "run", folder) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "9 test events, held out of " in told
    assert "every fifth of each class" in told


@pytest.mark.parametrize("colour", [False, True])
def test_held_out_events_are_of_every_class_and_no_other(tmp_path, colour):
    folder = pictures(tmp_path, colour)
    learn, test, divided = train_test(folder, classes=True)
    assert not divided
    assert sorted([*learn.names, *test.names]) == sorted(
        p.relative_to(tmp_path).as_posix() for p in folder.rglob("*.png")
    )
    assert np.bincount(test.context).tolist() == [6, 3]  # of 30 and 12: the 2nd, 7th and 12th
    assert test.names[:2] == ["bright/01.png", "bright/06.png"]


def test_an_npz_may_have_splits_or_none(run, tmp_path, capsys):
    x, y = LEARN.x[..., 0], LEARN.context
    np.savez(tmp_path / "two.npz", x_train=x[:500], y_train=y[:500], x_test=x[500:607], y_test=y[500:607])
    np.savez(tmp_path / "one.npz", x=x[:500], y=y[:500])
    np.savez(tmp_path / "none.npz", x=x[:500])
    assert good(capsys, "probe", run, tmp_path / "two.npz", "--labels", 20)[0]["test"] == 107
    (row, *_) = good(capsys, "probe", run, tmp_path / "one.npz", "--labels", 20)
    assert row["held_out"]
    assert row["test"] == sum((np.bincount(y[:500]) + 3) // 5)
    assert "none.npz has no classes" in refused(capsys, "probe", run, tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:-50])
    assert "torn.npz cannot be read" in refused(capsys, "probe", run, tmp_path / "torn.npz")


def test_one_line_on_the_command_line(run, tmp_path, capsys):
    assert "take at most 1,4" in refused(capsys, "probe", run, "digits", "--labels", 2000)
    assert "patches has no classes" in refused(capsys, "probe", run, "patches")
    np.savez(tmp_path / "deep.npz", x=LEARN.x + 1, y=LEARN.context)
    assert "symbols are 0 to 16" in refused(capsys, "probe", run, tmp_path / "deep.npz")
    np.savez(tmp_path / "low.npz", x=LEARN.x[:, :4], y=LEARN.context)
    assert "(4, 8, 1), the code was fitted on (8, 8, 1)" in refused(
        capsys, "probe", run, tmp_path / "low.npz"
    )
    chainrule.fit("digits", model="uniform", out=tmp_path / "chain")
    assert "a chain: this verb needs a code" in refused(capsys, "probe", tmp_path / "chain", "digits")
    good(capsys, "fit", "digits", "--model", "pca", "--patches", 3, "--count", 50, "-o", tmp_path / "small")
    assert "codes patches of 3 × 3 pixels" in refused(capsys, "probe", tmp_path / "small", "digits")


@pytest.mark.data
def test_people_who_are_strangers_cannot_be_told_apart(real_data, tmp_path, capsys):
    chainrule.fit(Dataset(load("olivetti").x[:20], 256, "image"), model="pca", out=tmp_path / "run")
    assert "50 of 50 test events are of classes without training" in refused(
        capsys, "probe", tmp_path / "run", "olivetti"
    )
