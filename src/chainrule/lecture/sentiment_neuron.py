"""The sentiment neuron: one cell of a chain over bytes that tells bad reviews from good ones, and was never told.

Radford, Jozefowicz & Sutskever 2017. A multiplicative LSTM learns to predict the next byte of reviews, without their
classes. Its cells after the last letter of a review (not its hidden units) are then looked at: the unit that alone
divides the training reviews best, at the threshold that does it best, and the same unit along reviews that nothing was
learned from, character by character. After a closing full stop nothing of a review is of any use to predict, and the
chain forgets it: so what follows the last letter is left out where a review is read, though not where it is learned.

Theirs learned 82 million reviews, and by its cells 91.8 % of the sentences of sst2 were told right. `made-up` reviews
have so few words that a small chain finds out within seconds what the verdicts of a review have in common: it has to
know, to predict the next of them. `sst2` has 0.7 MB of real ones: enough to learn to spell, not what reviews mean, and
a count of their words is worth much more than the cells.

`unit_accuracy`, `cells_accuracy` and `words_accuracy` are shares of all test reviews: by the one unit, by a logistic
regression with an L1 penalty on all cells, and by one with an L2 penalty on words and pairs of words (TF-IDF). Both
penalties are chosen on the validation reviews.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from chainrule import plots, store
from chainrule.data import Dataset, load, streams
from chainrule.layers.sequence import Cells, Recurrent
from chainrule.lecture.learning import run
from chainrule.lecture.natural import Save
from chainrule.models import TABLE
from chainrule.train import Plan, Training
from chainrule.verbs.score import score

MODEL = "mlstm"
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"sets": {"made-up": {"width": 64, "steps": 400, "rate": 1e-2, "dropout": 0.0}}},
    "laptop": {
        "sets": {
            "made-up": {"width": 96, "steps": 1500, "rate": 5e-3, "dropout": 0.0},
            "sst2": {"width": 256, "steps": 3000, "rate": 4e-3, "dropout": 0.1},
        }
    },
    "paper": {"sets": {"sst2": {"width": 4096, "steps": 100_000, "rate": 5e-4, "dropout": 0.0}}},
}
BATCH, WINDOW = 32, 32
L1 = tuple(2.0 ** np.arange(-8, 1))  # C of the regression on cells, as in the released code of the paper
L2 = tuple(2.0 ** np.arange(-2, 7))  # C of the one on words

PRAISE = ("superb", "witty", "moving", "graceful", "a delight", "a joy", "rich", "brilliant")
BLAME = ("dull", "clumsy", "tired", "hollow", "a bore", "a mess", "flat", "stupid")
THINGS = ("plot", "cast", "score", "ending", "camera", "dialogue", "first hour", "lead")
FACTS = ("it runs two hours", "we saw it on monday", "it is set in rome", "he made two others")
FACT = 0.4  # the share of verdicts that are followed by one of these: a verdict has to be kept in mind


class Reviews(NamedTuple):
    """Texts of two classes, 0 for bad and 1 for good."""

    learn: Dataset
    validation: Dataset
    test: Dataset


class Unit(NamedTuple):
    """One unit of a code: an event is good where `sign` · (value − `threshold`) is above 0.

    Attributes:
        number: which, from 0 on.
        accuracy: on the events that it was chosen by.
    """

    number: int
    threshold: float
    sign: int
    accuracy: float

    def of(self, codes: np.ndarray) -> np.ndarray:
        """How good the unit finds events with the codes (..., h): above 0 is good."""
        return self.sign * (codes[..., self.number] - self.threshold)


def draw(save: Save, seed: int, sets: dict[str, dict[str, Any]]) -> dict:
    """For each set a histogram of the best unit, and reviews in its colours."""
    rows = []
    for name, options in sets.items():
        reviews = reviews_of(name, seed)
        chain = learned(reviews.learn, name, **options, seed=seed)
        read = [until_letter(part) for part in reviews]
        cells = [Cells(chain).transform(part.x) for part in read]
        y, _, truth = (np.asarray(part.context) for part in reviews)
        unit = best_unit(cells[0], y)
        found = unit.of(cells[2])
        save(f"unit-{name}", histogram(found, truth, unit))
        save(f"reviews-{name}", coloured(chain, unit, read[2], found))
        rows.append(
            {
                "data": name,
                "bits_per_byte": score(chain, reviews.test).bits_per_dim,
                "unit": unit.number,
                "unit_accuracy": share((found > 0) == truth),
                "cells_accuracy": chosen(sparse_regression, L1, cells, reviews).accuracy,
                "words_accuracy": chosen(regression, L2, words(reviews), reviews).accuracy,
            }
        )
    return {"rows": rows}


# ---- reviews -------------------------------------------------------------------------------------------


def reviews_of(name: str, seed: int) -> Reviews:
    """The reviews of a named set, or made-up ones."""
    if name == "made-up":
        return Reviews(*(made_up(count, seed, part) for part, count in enumerate((3000, 300, 600))))
    return Reviews(*(load(name, split=split) for split in ("train", "validation", "test")))


def until_letter(texts: Dataset) -> Dataset:
    """The same texts without what follows their last letter or digit; one without any stays as it is.

    >>> until_letter(Dataset([np.frombuffer(b"So bad!)", np.uint8)], 256, "text")).x[0].tobytes()
    b'So bad'
    """
    ends = [
        1 + max((i for i, c in enumerate(x) if c > 127 or chr(c).isalnum()), default=len(x) - 1)
        for x in texts.x
    ]
    return replace(texts, x=[x[:end] for x, end in zip(texts.x, ends, strict=True)])


def made_up(count: int, seed: int, part: int = 0) -> Dataset:
    """Texts that praise three or four things, or blame them, and say other things in between."""
    rng = np.random.default_rng((seed, part))
    y = rng.integers(2, size=count)
    texts = [np.frombuffer(made_up_review(bool(good), rng).encode(), np.uint8).copy() for good in y]
    names = [str(i) for i in range(count)]
    return Dataset(texts, 256, "text", names, y, ("negative", "positive"), "made-up")


def made_up_review(good: bool, rng: np.random.Generator) -> str:
    """Such as "the plot is dull and it runs two hours and the cast is a bore and the score is flat"."""
    parts = []
    for thing in rng.permutation(THINGS)[: rng.integers(3, 5)]:
        parts.append(f"the {thing} is {rng.choice(PRAISE if good else BLAME)}")
        parts += [str(rng.choice(FACTS))] * (rng.random() < FACT)
    return " and ".join(parts)


# ---- what is learned -----------------------------------------------------------------------------------


def learned(
    texts: Dataset, name: str, width: int, steps: int, rate: float, dropout: float, seed: int
) -> Recurrent:
    """A chain that has read the texts for so many steps, without their classes."""
    chain: Any = store.build(
        MODEL, {"symbols": texts.levels, "width": width, "dropout": dropout}, TABLE, seed
    )
    training = training_of(chain, texts, Plan(steps=steps, lr=rate, seed=seed))
    run(training, f"{MODEL} of {name}", steps)
    chain.load_state_dict(training.averaged())
    return chain.eval()


def training_of(chain: Any, texts: Dataset, plan: Plan) -> Training:
    """What trains a recurrent chain on streams of texts."""

    def batch_at(step: int) -> tuple[torch.Tensor, ...]:
        x, before, _ = streams(texts, BATCH, plan.seed, step, WINDOW)
        return torch.from_numpy(x), torch.from_numpy(before)

    return Training(chain, batch_at, plan, chain.rest(BATCH))


def best_unit(codes: np.ndarray, y: np.ndarray) -> Unit:
    """The unit of codes (n, h) that divides events of the classes y (n,) best, each at its own best threshold.

    >>> best_unit(np.array([[0.0, 4.0], [1.0, 1.0], [0.0, 2.0]]), np.array([0, 1, 1]))
    Unit(number=1, threshold=3.0, sign=-1, accuracy=1.0)
    """
    order = codes.argsort(0, kind="stable")
    values, good = np.take_along_axis(codes, order, 0), y[order]
    right = np.cumsum(1 - good, 0) + good.sum(0) - np.cumsum(good, 0)  # (n, h): good is what lies above i
    right = np.where(
        np.diff(values, axis=0, append=np.inf) > 0, right, len(y) / 2
    )  # equal ones are not divided
    accuracy = np.maximum(right, len(y) - right) / len(y)
    i, unit = np.unravel_index(int(accuracy.argmax()), accuracy.shape)
    ends = np.append(values[:, unit], values[-1, unit] + 1)[i : i + 2]  # all may lie on one side
    sign = 1 if right[i, unit] >= len(y) / 2 else -1
    return Unit(int(unit), float(ends.mean()), sign, float(accuracy[i, unit]))


class Chosen(NamedTuple):
    """What a regression reached with the penalty that was best on the validation events."""

    accuracy: float  # on the test events
    C: float
    weights: int  # that are not 0


def chosen(
    make: Callable[[float], Any], grid: Sequence[float], features: Sequence[Any], reviews: Reviews
) -> Chosen:
    """The regressions of a grid, from the strongest penalty on; of equals the first counts."""
    y, valid, truth = (np.asarray(part.context) for part in reviews)
    best, found = -1.0, Chosen(0.0, 0.0, 0)
    for C in grid:
        model = make(C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # one that stops a little early is one, too
            model.fit(features[0], y)
        accuracy = share(model.predict(features[1]) == valid)
        if accuracy > best:
            kept = Chosen(share(model.predict(features[2]) == truth), C, int(np.count_nonzero(model.coef_)))
            best, found = accuracy, kept
    return found


def sparse_regression(C: float) -> LogisticRegression:
    """Logistic regression with an L1 penalty."""
    model = LogisticRegression(C=C, solver="liblinear", random_state=0)
    named = getattr(model, "penalty", None) == "l2"  # as scikit-learn calls it before 1.8
    return model.set_params(**({"penalty": "l1"} if named else {"l1_ratio": 1.0}))


def regression(C: float) -> LogisticRegression:
    """Logistic regression with an L2 penalty."""
    return LogisticRegression(C=C, max_iter=1000)


def words(reviews: Reviews) -> list[Any]:
    """TF-IDF of the words and pairs of words of the training reviews: sparse (n, d) of each part."""
    counter = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    learn, *others = ([x.tobytes().decode() for x in part.x] for part in reviews)
    return [counter.fit_transform(learn), *map(counter.transform, others)]


def share(right: np.ndarray) -> float:
    return float(np.mean(right))


# ---- pictures ------------------------------------------------------------------------------------------


def histogram(found: np.ndarray, truth: np.ndarray, unit: Unit):
    """How good the unit finds the test reviews of both classes."""
    parts = {"positive": found[truth == 1], "negative": found[truth == 0]}
    label = f"cell {unit.number} after the last letter, less its threshold"
    return plots.histogram(parts, label, "test reviews", mark=0.0, form=plots.raster)


def coloured(chain: Recurrent, unit: Unit, test: Dataset, found: np.ndarray):
    """Test reviews of both classes in the colours of the unit: of each the surest, and one in the middle."""
    index = shown(found, np.asarray(test.context))
    with torch.inference_mode():
        values = [unit.of(chain.cells_along(torch.from_numpy(test.x[i])).float().numpy()) for i in index]
    names = [test.classes[int(np.asarray(test.context)[i])] for i in index]
    titles = [f"{name} ({found[i]:+.2f})" for name, i in zip(names, index, strict=True)]
    return plots.valued_texts(
        titles, [test.x[i] for i in index], values, ("negative", "positive"), form=plots.raster
    )


def shown(found: np.ndarray, truth: np.ndarray) -> list[int]:
    """Of each class, good ones first, the review that the unit is surest of, and the one in the middle."""
    index = []
    for good in (1, 0):
        own = np.flatnonzero(truth == good)
        order = own[np.argsort(-found[own] if good else found[own], kind="stable")]
        index += [int(order[0]), int(order[len(order) // 2])]
    return index
