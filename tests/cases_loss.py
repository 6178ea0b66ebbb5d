"""Rows of the losses. Shapes: one number, a prime row, more than one register, inner axes, no axis but the batch."""

import numpy as np

from cases import LossCase, one_hot, probabilities
from nnkit.layers.activation import Activation
from nnkit.losses.crossentropy import BinaryCrossentropy, CategoricalCrossentropy, KLDivergence, SparseCategoricalCrossentropy
from nnkit.losses.custom import UserLoss, register_loss
from nnkit.losses.hinge import CategoricalHinge, Hinge, SquaredHinge
from nnkit.losses.regression import Huber, LogCosh, MeanAbsoluteError, MeanSquaredError, Poisson


def binary(rng, shape):
    """0 and 1."""
    return rng.integers(0, 2, shape)


def signs(rng, shape):
    """-1 and 1."""
    return 2 * rng.integers(0, 2, shape) - 1


def counts(rng, shape):
    """Poisson counts."""
    return rng.poisson(1.5, shape)


def positive(rng, shape):
    """Rates, unnormalised probabilities: from 0.1 to 3."""
    return rng.uniform(0.1, 3.0, shape)


def far(rng, shape):
    """Logits on both sides, up to 20 or so: the probabilities of some are 1e-9."""
    return 8.0 * rng.standard_normal(shape)


def inside(rng, shape):
    """Numbers from 0.1 to 0.9: no finite difference reaches a clip, and 1/y stays small enough for its error."""
    return rng.uniform(0.1, 0.9, shape)


def clipped(rng, shape):
    """Numbers of which some lie beyond [0, 1], where the gradient is 0, and the others far from its ends."""
    return np.where(rng.random(shape) < 0.3, rng.choice([-0.05, 1.05], shape), inside(rng, shape))


def one_hot_or_nothing(rng, shape):
    """One-hot rows, some of them all zeros."""
    return one_hot(rng, shape) * (rng.random((*shape[:-1], 1)) < 0.7)


def soft(rng, shape):
    """Rows of weights from 0 to 1 that do not add up to 1."""
    return rng.uniform(0.0, 1.0, shape)


def labels(classes, ignored=None):
    """Labels 0 to classes - 1; about a third of them `ignored`, and the first one never, so that a row is left."""
    def sample(rng, shape):
        values = rng.integers(0, classes, shape)
        if ignored is not None:
            marked = rng.random(shape) < 0.35
            marked.flat[0] = False
            values[values == ignored] = (ignored + 1) % classes
            values[marked] = ignored
        return values
    return sample


def only(label):
    """This label for every row."""
    return lambda rng, shape: np.full(shape, label)


def pointwise(name, make, **data):
    """One loss in all the shapes that its loops distinguish."""
    return [
        LossCase(name, make(), (7,), batch=5, **data),
        LossCase(f"{name}-one", make(), (1,), batch=6, **data),
        LossCase(f"{name}-no-axis", make(), (), batch=3, **data),
        LossCase(f"{name}-inner-axes", make(), (2, 3, 5), batch=3, **data),
        LossCase(f"{name}-inner-one", make(), (5, 1), batch=3, **data),
        LossCase(f"{name}-registers", make(), (37,), batch=2, weighted=False, **data),
    ]


register_loss("cases_quantile", lambda y, t: (0.3 * (t - y) if t > y else 0.7 * (y - t)) + (y - t) * (y - t),
              lambda y, t: (-0.3 if t > y else 0.7) + 2 * (y - t))

SOFTMAX, SIGMOID = Activation("softmax"), Activation("sigmoid")

LOSS_CASES = [
    *pointwise("mean-squared-error", MeanSquaredError),
    *pointwise("mean-absolute-error", MeanAbsoluteError),
    *pointwise("huber", lambda: Huber(delta=0.7)),
    LossCase("huber-default", Huber(), (3,), batch=4),
    *pointwise("log-cosh", LogCosh),
    *pointwise("user-loss", lambda: UserLoss("cases_quantile")),
    *pointwise("poisson", Poisson, y=positive, t=counts),
    *pointwise("kl-divergence", KLDivergence, y=inside, t=probabilities),
    LossCase("kl-divergence-clipped", KLDivergence(), (5,), batch=7, y=clipped, t=clipped),
    *pointwise("hinge", Hinge, t=signs),
    *pointwise("squared-hinge", SquaredHinge, t=signs),

    *pointwise("binary-crossentropy", BinaryCrossentropy, y=inside, t=binary),
    LossCase("binary-crossentropy-soft", BinaryCrossentropy(), (3,), batch=5, y=probabilities, t=soft),
    LossCase("binary-crossentropy-smoothed", BinaryCrossentropy(label_smoothing=0.3), (3,), batch=5, y=probabilities, t=binary),
    # 1 - 1e-7 rounds to 1 - 1.2e-7 in float32: log(1 - y) is then -15.9 instead of -16.1
    LossCase("binary-crossentropy-clipped", BinaryCrossentropy(), (5,), batch=7, y=clipped, t=binary, single=0.05),
    LossCase("binary-crossentropy-logits", BinaryCrossentropy(from_logits=True), (3,), batch=5, y=far, t=binary),
    LossCase("binary-crossentropy-logits-smoothed", BinaryCrossentropy(from_logits=True, label_smoothing=0.1), (2, 3), batch=5, t=binary),
    LossCase("binary-crossentropy-on-sigmoid", BinaryCrossentropy(), (3,), batch=5, layers=SIGMOID, t=binary),
    LossCase("binary-crossentropy-on-sigmoid-inner", BinaryCrossentropy(label_smoothing=0.2), (2, 3), batch=5, layers=SIGMOID, t=soft),

    LossCase("categorical-crossentropy", CategoricalCrossentropy(), (7,), batch=5, y=probabilities, t=one_hot),
    LossCase("categorical-crossentropy-two", CategoricalCrossentropy(), (2,), batch=5, y=probabilities, t=one_hot, weighted=False),
    LossCase("categorical-crossentropy-unnormalised", CategoricalCrossentropy(label_smoothing=0.2), (3,), batch=5, y=positive, t=soft),
    LossCase("categorical-crossentropy-clipped", CategoricalCrossentropy(), (5,), batch=7, y=clipped, t=one_hot),
    LossCase("categorical-crossentropy-inner", CategoricalCrossentropy(), (2, 3, 5), batch=3, y=probabilities, t=one_hot_or_nothing),
    LossCase("categorical-crossentropy-registers", CategoricalCrossentropy(label_smoothing=0.1), (37,), batch=3, y=probabilities, t=one_hot),
    LossCase("categorical-crossentropy-logits", CategoricalCrossentropy(from_logits=True), (7,), batch=5, y=far, t=one_hot),
    LossCase("categorical-crossentropy-logits-soft", CategoricalCrossentropy(from_logits=True), (3,), batch=5, t=soft),
    LossCase("categorical-crossentropy-logits-smoothed", CategoricalCrossentropy(from_logits=True, label_smoothing=0.3), (2, 5), batch=3, t=one_hot),
    LossCase("categorical-crossentropy-logits-registers", CategoricalCrossentropy(from_logits=True), (37,), batch=3, t=one_hot_or_nothing),
    LossCase("categorical-crossentropy-on-softmax", CategoricalCrossentropy(), (7,), batch=5, layers=SOFTMAX, t=one_hot),
    LossCase("categorical-crossentropy-on-softmax-inner", CategoricalCrossentropy(label_smoothing=0.2), (2, 5), batch=3, layers=SOFTMAX, t=soft),

    LossCase("sparse-categorical-crossentropy", SparseCategoricalCrossentropy(), (7,), batch=5, y=probabilities, t=labels(7)),
    LossCase("sparse-categorical-crossentropy-two", SparseCategoricalCrossentropy(), (2,), batch=5, y=positive, t=labels(2), weighted=False),
    LossCase("sparse-categorical-crossentropy-clipped", SparseCategoricalCrossentropy(), (5,), batch=7, y=clipped, t=labels(5)),
    LossCase("sparse-categorical-crossentropy-ignoring", SparseCategoricalCrossentropy(ignore_class=2), (5,), batch=7, y=positive, t=labels(5, 2)),
    LossCase("sparse-categorical-crossentropy-registers", SparseCategoricalCrossentropy(), (37,), batch=3, y=probabilities, t=labels(37)),
    LossCase("sparse-categorical-crossentropy-logits", SparseCategoricalCrossentropy(from_logits=True), (7,), batch=5, y=far, t=labels(7)),
    LossCase("sparse-categorical-crossentropy-logits-ignoring", SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), (5,), batch=7,
             t=labels(5, -1)),
    LossCase("sparse-categorical-crossentropy-all-ignored", SparseCategoricalCrossentropy(from_logits=True, ignore_class=255), (3,), batch=4,
             t=only(255)),
    LossCase("sparse-categorical-crossentropy-on-softmax", SparseCategoricalCrossentropy(), (37,), batch=5, layers=SOFTMAX, t=labels(37)),
    LossCase("sparse-categorical-crossentropy-on-softmax-ignoring", SparseCategoricalCrossentropy(ignore_class=0), (5,), batch=7, layers=SOFTMAX,
             t=labels(5, 0)),

    LossCase("sparse-categorical-crossentropy-inner", SparseCategoricalCrossentropy(), (2, 3, 5), batch=3, y=positive, t=labels(5)),
    LossCase("sparse-categorical-crossentropy-inner-ignoring", SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), (4, 5), batch=3,
             t=labels(5, -1)),
    LossCase("sparse-categorical-crossentropy-on-softmax-inner", SparseCategoricalCrossentropy(), (3, 5), batch=3, layers=SOFTMAX, t=labels(5)),

    LossCase("categorical-hinge", CategoricalHinge(), (7,), batch=5, t=one_hot),
    LossCase("categorical-hinge-two", CategoricalHinge(), (2,), batch=6, t=one_hot, weighted=False),
    LossCase("categorical-hinge-inner", CategoricalHinge(), (3, 5), batch=3, t=one_hot),
    LossCase("categorical-hinge-registers", CategoricalHinge(), (37,), batch=3, t=one_hot, y=far),
]
