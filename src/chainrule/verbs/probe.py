"""What a few labels are worth on top of a code: two simple classifiers, on the codes and on the raw numbers.

The labelled events are drawn again and again; everything that is chosen (the penalty, the number of neighbours) is
chosen on them alone. Every test event counts once, in every accuracy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from chainrule.data import BYTES, Alphabet, Dataset, draw, rank_in_class
from chainrule.errors import ChainruleError
from chainrule.layers.sequence import Cells
from chainrule.layers.sparse import blas
from chainrule.layers.units import Gaussian
from chainrule.model import Code
from chainrule.store import one_line
from chainrule.verbs.score import check_symbols

LABELS = (10, 100, 1000)
RAW = {"image": "pixels", "text": "words"}  # what events are themselves, by their kind; else "numbers"
CONFIDENCE = 0.95
STATISTICS = 10_000  # training events, evenly spaced, that means and deviations are taken of
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)  # C times the number of features: one grid for 2 and for 20,000
UNCHOSEN = 10.0  # when a class has a single labelled event, so that nothing can be held out
FOLDS = 3
CLOSE, CLOSER = 1e-3, 1e-4  # largest gradient: to compare penalties, and of the classifier that is tested
ROUNDS = 500
NEIGHBOURS = (1, 3, 5, 10)
WORDS = 2000  # words of texts that are counted, the most frequent ones
BLOCK = 1 << 23  # numbers held at a time while test events are compared: 64 MB


@dataclass(frozen=True)
class Probed:
    """The accuracy of one classifier on one kind of features, with one number of labels.

    Attributes:
        features: "code", or what stands for the events themselves: "pixels" of images, "words" of texts (how often
            each of the most frequent ones occurs), else "numbers".
        width: numbers a feature vector.
        probe: "linear" or "neighbours".
        labels: labelled events.
        accuracies: the share of all test events that is classified right, for each draw of the labelled events.
        chosen: for each draw the C of the logistic regression, or the k of the k nearest neighbours.
        test: test events.
    """

    features: str
    width: int
    probe: str
    labels: int
    accuracies: tuple[float, ...]
    chosen: tuple[float, ...]
    test: int

    @property
    def accuracy(self) -> float:
        """The mean over the draws."""
        return float(np.mean(self.accuracies))

    @property
    def margin(self) -> float | None:
        """Half the 95 % t-interval of that mean, t₀.₉₇₅(S − 1) · s / √S for S draws; None of a single draw.

        It is about the choice of labelled events: the test events are the same in all draws.
        """
        draws = len(self.accuracies)
        if draws < 2:
            return None
        spread = np.std(self.accuracies, ddof=1) / np.sqrt(draws)
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, draws - 1) * spread)

    @property
    def interval(self) -> tuple[float, float] | None:
        """accuracy ± margin; its upper end may exceed 1, as it does for a mean close to it."""
        return None if self.margin is None else (self.accuracy - self.margin, self.accuracy + self.margin)


# ---- the verb ------------------------------------------------------------------------------------------------


def probe(
    code: Code,
    learn: Dataset,
    test: Dataset,
    labels: Sequence[int] | None = None,
    seeds: int = 5,
    seed: int = 0,
    tick: Callable[[int], object] | None = None,
) -> list[Probed]:
    """How well a few labels tell classes apart, by the codes of events and by the events themselves.

    Only those events of `learn` are coded that are drawn, or that give the means and deviations. See
    `probe_features` for the rest.

    Args:
        learn, test: events of one shape with their classes (`chainrule.data.train_test` makes both).
        tick: called with the number of draws done, of `seeds` by the events and as many by the codes.

    Raises:
        ChainruleError: data without classes, too few events for so many labels, events that do not fit the code.

    Example:
        >>> from chainrule import load
        >>> from chainrule.codes.pca import PCA
        >>> learn, test = load("digits"), load("digits:test")
        >>> rows = probe(PCA(16).fit(learn.x), learn, test, labels=[100], seeds=2)
        >>> {(row.probe, row.features): row.accuracy > 0.8 for row in rows if row.probe == "linear"}
        {('linear', 'pixels'): True, ('linear', 'code'): True}
    """
    check_classes(learn, test)
    for data in (learn, test) if isinstance(code, Cells) else ():
        check_symbols(code.chain, data)
    classes, truth = np.asarray(learn.context), np.asarray(test.context)
    labels = numbers_of_labels(classes, labels, learn.classes)
    draws = drawn(classes, labels, seeds, seed)
    used = np.unique(np.concatenate([spaced(len(learn)), *(draw[-1] for draw in draws)]))
    draws = [[np.searchsorted(used, index) for index in draw] for draw in draws]
    spread = np.searchsorted(used, spaced(len(learn)))
    x, x_test = draw_all(learn, used, code.RAGGED), draw_all(test, np.arange(len(test)), code.RAGGED)
    rows: list[Probed] = []
    for name, before in ((RAW.get(learn.kind, "numbers"), 0), ("code", seeds)):
        if before:
            both = coded(code, x, learn), coded(code, x_test, test)
        else:
            both = words(x, x_test, learn.alphabet) if name == "words" else (as_rows(x), as_rows(x_test))
        check_features(*both)
        done = None if tick is None else partial(told_after, tick, before)
        rows += probed(name, both[0], classes[used], both[1], truth, draws, spread, done)
    return sorted(rows, key=lambda row: row.probe)


def told_after(tick: Callable[[int], object], before: int, done: int) -> None:
    tick(before + done)


def probe_features(
    train: np.ndarray,
    classes: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[int] | None = None,
    seeds: int = 5,
    seed: int = 0,
    name: str = "features",
) -> list[Probed]:
    """How well a few labels tell classes apart by these features.

    For each number of labels and each of `seeds` draws, labelled events are drawn as evenly over the classes as can
    be; fewer labels are the first of more. Two classifiers learn from them and are tested on all of `test`:

        linear       logistic regression on features less their mean in `train`, divided by one number, so that their
                     mean square is 1: what is large in a code counts for more. C is chosen by 3-fold
                     cross-validation on the labelled events (2-fold if a class has only 2; if one has only 1, C is
                     10 / d for d features), the smallest of the best.
        neighbours   the majority of the k nearest labelled events, by Euclidean distance of the features as they
                     are. k is chosen by leave-one-out on the labelled events, the smallest of the best.

    Args:
        train: features (n, d), an array or scipy.sparse.
        classes: their classes (n,), integers.
        test, truth: features (m, d) and classes (m,) to test with.
        labels: how many; by default those of 10, 100 and 1,000 that there are enough events for.
        seeds, seed: so many draws; a draw is a function of (classes, seed, its number).

    Raises:
        ChainruleError: features that are no numbers or of two widths, too few events for so many labels.
    """
    train, test = as_rows(train), as_rows(test)
    classes, truth = np.asarray(classes), np.asarray(truth)
    check_features(train, test)
    for what, features, of in (("training", train, classes), ("test", test, truth)):
        if of.shape != (len(features),) or of.dtype.kind not in "iu":
            raise ChainruleError(
                f"{len(features)} {what} events have classes {of.shape} {of.dtype}: ({len(features)},) integers are "
                "needed"
            )
    check_known(classes, truth, ())
    draws = drawn(classes, numbers_of_labels(classes, labels), seeds, seed)
    return probed(name, train, classes, test, truth, draws, spaced(len(train)))


def probed(
    name: str,
    train: np.ndarray,
    classes: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    draws: list[list[np.ndarray]],
    spread: np.ndarray,
    tick: Callable[[int], object] | None = None,
) -> list[Probed]:
    """Both classifiers on features `train` (n, d), in the order of `Probed.probe`.

    Args:
        draws: for each draw the indices of the labelled events, for each number of labels.
        spread: indices of the training events whose mean and deviation are used.
    """
    span = Gaussian().scaling(train[spread])
    found: dict[str, list[list[tuple[float, float]]]] = {"linear": [], "neighbours": []}
    for done, sizes in enumerate(draws, 1):
        with blas().limit(
            limits=1, user_api="blas"
        ):  # products are small, and waiting threads starve each other
            found["linear"].append([linear(train[i], classes[i], test, truth, *span) for i in sizes])
            found["neighbours"].append([neighbours(train[i], classes[i], test, truth) for i in sizes])
        if tick is not None:
            tick(done)
    rows = []
    for kind, each in found.items():
        for j, index in enumerate(draws[0]):
            accuracies, chosen = zip(*(one[j] for one in each), strict=True)
            rows.append(Probed(name, train.shape[1], kind, len(index), accuracies, chosen, len(test)))
    return rows


# ---- which events have labels --------------------------------------------------------------------------------


def numbers_of_labels(
    classes: np.ndarray, labels: Sequence[int] | None = None, names: Sequence[str] = ()
) -> tuple[int, ...]:
    """The numbers of labels to probe with, ascending: those asked for, or of 10, 100 and 1,000 those that can be drawn.

    Args:
        classes: (n,) the classes of all events for training.
        names: of the classes, for messages.

    Raises:
        ChainruleError: the events do not suffice.
    """
    present, counts = np.unique(classes, return_counts=True)
    if len(present) < 2:
        raise ChainruleError(f"all training events are of {len(present)} class: two are needed to tell apart")
    fewest = int(counts.min())
    most = fewest * len(present) + int((counts > fewest).sum())  # evenly drawn
    if labels is None or not len(labels):
        labels = [count for count in LABELS if count <= most] or [most]
    for count in labels:
        if count < 2:
            raise ChainruleError(f"labels is {count}: take 2 or more")
        if count > len(classes):
            raise ChainruleError(
                f"{count:,} labels are asked for, and there are {len(classes):,} training events: take at most {most:,}"
            )
        if count > most:
            rare = int(present[counts.argmin()])
            raise ChainruleError(
                f"{count:,} labels are {-(-count // len(present)):,} for each of {len(present)} classes, and class "
                f"{named(rare, names)} has {fewest:,} training events: take at most {most:,} labels"
            )
    return tuple(sorted(set(labels)))


def drawn(classes: np.ndarray, labels: Sequence[int], seeds: int, seed: int) -> list[list[np.ndarray]]:
    """For each of `seeds` draws the indices of the labelled events, for each number of `labels`."""
    if seeds < 1 or seed < 0:
        raise ChainruleError(f"seeds is {seeds}, seed {seed}: take 1 or more draws, and a seed from 0 up")
    orders = [in_turn(classes, np.random.default_rng((seed, number))) for number in range(seeds)]
    return [[order[:count] for count in labels] for order in orders]


def in_turn(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """All events (n,) in a random order in which the classes take turns: any beginning of it is stratified."""
    order = random.permutation(len(classes))
    present, own = np.unique(classes, return_inverse=True)
    turn, mixed = random.permutation(len(present)), own[order]  # `turn`: which class comes first
    return order[np.lexsort((turn[mixed], rank_in_class(mixed)))]


def spaced(n: int) -> np.ndarray:
    """Indices of at most STATISTICS of n events, evenly spaced."""
    return np.arange(0, n, max(1, -(-n // STATISTICS)))


# ---- the classifiers -----------------------------------------------------------------------------------------


def linear(x, classes, test, truth, mean: np.ndarray, scale: float) -> tuple[float, float]:
    """Logistic regression: (accuracy on all of `test`, the C that was chosen).

    Features are taken less their mean (d,) and divided by one scale. The penalty knows no directions, so the weights
    lie in the span of the labelled events. Where these are fewer than the features, the same problem is solved in the
    coordinates of that span.
    """
    rows = (x - mean) / scale
    span = np.linalg.qr(rows.T)[0] if len(rows) < rows.shape[1] else None  # (d, n)
    inner = rows if span is None else rows @ span
    C = best_penalty(inner, classes) / rows.shape[1]
    model = regression(CLOSER)
    fitted(model, inner, classes, C)
    weights = (model.coef_ if span is None else model.coef_ @ span.T) / scale
    scores = test @ weights.T.astype(test.dtype) + (model.intercept_ - weights @ mean)
    right = scores.argmax(1) if len(weights) > 1 else (scores[:, 0] > 0).astype(int)
    return share(model.classes_[right] == truth), C


def best_penalty(rows: np.ndarray, classes: np.ndarray) -> float:
    """Of PENALTIES the smallest with the most labelled events classified right when they are held out."""
    rank = rank_in_class(classes)
    fewest = int(np.unique(classes, return_counts=True)[1].min())
    folds = min(FOLDS, fewest)
    if folds < 2:
        return UNCHOSEN
    right = np.zeros(len(PENALTIES))
    for fold in range(folds):
        held = rank % folds == fold
        model = regression(CLOSE)
        for i, penalty in enumerate(PENALTIES):  # from the strongest on, each from the weights of the last
            fitted(model, rows[~held], classes[~held], penalty / rows.shape[1])
            right[i] += (model.predict(rows[held]) == classes[held]).sum()
    return PENALTIES[int(right.argmax())]


def regression(tolerance: float) -> LogisticRegression:
    return LogisticRegression(tol=tolerance, max_iter=ROUNDS, warm_start=True)


def fitted(model: LogisticRegression, rows: np.ndarray, classes: np.ndarray, C: float) -> None:
    """Fit in place; one that stops a little early is a classifier like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(C=C).fit(rows, classes)


def neighbours(x, classes, test, truth) -> tuple[float, float]:
    """The k nearest labelled events: (accuracy on all of `test`, the k that was chosen)."""
    known, own = np.unique(classes, return_inverse=True)
    x = x.astype(np.float64)  # squares of integers stay exact, so that equal distances are equal
    ks = [k for k in NEIGHBOURS if k < len(x)]
    others = distances(x, x)
    np.fill_diagonal(others, np.inf)
    right = [share(vote == own) for vote in votes(others, own, ks)]
    k = ks[int(np.argmax(right))]
    step = max(1, BLOCK // (len(x) + x.shape[1]))
    found = np.concatenate(
        [
            next(votes(distances(test[begin : begin + step], x), own, [k]))
            for begin in range(0, len(test), step)
        ]
    )
    return share(known[found] == truth), k


def distances(test: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (m, n), less the square of each test event, which changes no order."""
    return np.square(x).sum(1) - 2 * (test.astype(np.float64) @ x.T)


def votes(distances: np.ndarray, classes: np.ndarray, ks: Sequence[int]) -> Iterator[np.ndarray]:
    """For each of the ascending `ks` the most frequent class (m,) of the k nearest; of equals the first class.

    Args:
        distances: (m, n) to the labelled events.
        classes: (n,) theirs: 0, 1, ...
    """
    m, n = distances.shape
    every = np.arange(m)
    near = np.argpartition(distances, min(ks[-1], n - 1), axis=1)[:, : ks[-1]]
    closest = np.argsort(distances[every[:, None], near], axis=1, kind="stable")
    counts = np.zeros((m, int(classes.max()) + 1), np.int32)
    for k in range(1, ks[-1] + 1):
        counts[every, classes[near[every, closest[:, k - 1]]]] += 1
        if k in ks:
            yield counts.argmax(1)


def share(right: np.ndarray) -> float:
    return float(np.mean(right))


# ---- features ------------------------------------------------------------------------------------------------


def draw_all(data: Dataset, index: np.ndarray, ragged: bool = False) -> np.ndarray | list[np.ndarray]:
    """The events at `index` as one array, binarised if they are to be; `ragged` ones of several shapes as a list."""
    if data.event is None and ragged:
        return [np.asarray(data.x[i]) for i in index]
    if data.event is None:
        raise ChainruleError(
            f"{data.source or 'the data set'} has events of several shapes, a code needs one: crop or resize them"
        )
    return draw(data, index)


def coded(code: Code, x: np.ndarray | list[np.ndarray], data: Dataset) -> np.ndarray:
    """The codes of events as rows (n, d)."""
    try:
        return as_rows(code.transform(x if isinstance(x, list) else x.astype(np.float32)))
    except ChainruleError:
        raise
    except (
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        RuntimeError,
    ) as error:  # of a damaged code, too
        raise ChainruleError(
            f"{data.source or 'the data set'} does not fit the code: {one_line(error)}"
        ) from error


def words(train, test, alphabet: Alphabet = BYTES) -> tuple[np.ndarray, np.ndarray]:
    """How often each of the WORDS most frequent words and signs of `train` occurs in texts: (n, d), (m, d).

    >>> words([np.frombuffer(b"good, good", np.uint8)], [np.frombuffer(b"Good: bad", np.uint8)])[1].tolist()
    [[0.0, 1.0]]
    """
    counter = CountVectorizer(max_features=WORDS, token_pattern=r"\w+|[^\w\s]", dtype=np.float32)
    texts = [[alphabet.decode(x).decode(errors="replace") for x in part] for part in (train, test)]
    try:
        return counter.fit_transform(texts[0]).toarray(), counter.transform(texts[1]).toarray()
    except ValueError as error:
        raise ChainruleError(
            f"{len(texts[0]):,} texts hold no words ({one_line(error)}): are they texts?"
        ) from error


def as_rows(features) -> np.ndarray:
    """Features as an array of rows (n, d), of float32 unless they are float64."""
    dense = features.toarray() if sparse.issparse(features) else np.asarray(features)
    if dense.ndim < 2 or dense.dtype.kind not in "biuf" or dense.size == 0:
        raise ChainruleError(
            f"the features have the shape {dense.shape} {dense.dtype}: rows of numbers are needed"
        )
    kind = np.result_type(dense.dtype, np.float32)  # float64 for float64 and for large integers
    return dense.reshape(len(dense), -1).astype(kind, copy=False)


def check_features(train: np.ndarray, test: np.ndarray) -> None:
    """One clear line for features of two widths, or that are not all finite."""
    if train.shape[1] != test.shape[1]:
        raise ChainruleError(
            f"training events have {train.shape[1]:,} numbers, test events {test.shape[1]:,}: crop or resize them"
        )
    for what, x in (("training", train), ("test", test)):
        if bad := int((~np.isfinite(x)).sum()):
            raise ChainruleError(
                f"{bad:,} of {x.size:,} features of the {what} events are NaN or infinite: leave such events out"
            )


def check_classes(learn: Dataset, test: Dataset) -> None:
    """One clear line when events have no classes, or only the test events have some class."""
    for data in (learn, test):
        if data.context is None:
            raise ChainruleError(
                f"{data.source or 'the data set'} has no classes: put the files of each class into a folder of its "
                "own, or labels y beside x into an .npz file"
            )
        if not len(data):
            raise ChainruleError(f"{data.source or 'the data set'} has no events: give some of each class")
    check_known(np.asarray(learn.context), np.asarray(test.context), test.classes)


def check_known(classes: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> None:
    """One clear line for test events of classes that cannot be learned."""
    unknown = truth[~np.isin(truth, classes)]
    if len(unknown):
        raise ChainruleError(
            f"{len(unknown):,} of {len(truth):,} test events are of classes without training events, such as "
            f"{named(int(unknown[0]), names)}: divide the events otherwise, or leave these out"
        )


def named(index: int, names: Sequence[str]) -> str:
    """A class by its name, where it has one."""
    return names[index] if index < len(names) else str(index)
