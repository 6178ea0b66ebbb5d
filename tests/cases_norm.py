"""Rows of the normalization layers."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.norm import BatchNormalization, LayerNormalization
from nnkit.regularizers import L1, L2


def shifted(rng, shape):
    """A mean well away from 0, different for every column."""
    return rng.standard_normal(shape) + 3 * rng.standard_normal(shape[-1:])


CASES = [
    Case("batch_normalization", [BatchNormalization()], (5,), batch=7, x=shifted),
    Case("batch_normalization-options", [BatchNormalization(momentum=0.6, epsilon=0.1, beta_initializer="ones", gamma_initializer="he_normal",
                                                            moving_mean_initializer="ones", moving_variance_initializer="ones",
                                                            beta_regularizer=L1(0.2), gamma_regularizer=L2(0.3))], (3,), batch=6, x=shifted),
    Case("batch_normalization-one-channel", [BatchNormalization()], (1,), batch=157),
    Case("batch_normalization-one-cell", [BatchNormalization()], (3,), batch=1),
    Case("batch_normalization-wide", [BatchNormalization()], (83,), batch=5, x=shifted),
    Case("batch_normalization-images", [BatchNormalization()], (3, 5, 2), batch=4, x=shifted),
    Case("batch_normalization-channels-first", [BatchNormalization(axis=1, epsilon=0.01)], (3, 5, 7), batch=4, x=shifted),
    Case("batch_normalization-middle", [BatchNormalization(axis=-2)], (2, 3, 19), batch=2),
    Case("batch_normalization-no-affine", [BatchNormalization(center=False, scale=False)], (4,), batch=5),
    Case("batch_normalization-no-center", [BatchNormalization(center=False)], (4, 3), batch=5),
    Case("batch_normalization-no-scale", [BatchNormalization(1, scale=False)], (4, 3), batch=5),
    Case("batch_normalization-empty", [BatchNormalization()], (0, 3), batch=2),
    Case("batch_normalization-no-channel", [BatchNormalization()], (2, 0), batch=2),
    Case("batch_normalization-frozen", [Dense(3, "tanh"), BatchNormalization(trainable=False), Dense(2)], (4,), batch=5),
    Case("batch_normalization-frozen-inner", [Dense(3, "tanh"), BatchNormalization(axis=1, trainable=False)], (4, 5), batch=5),
    Case("batch_normalization-between", [Dense(6), BatchNormalization(), Dense(2, "tanh")], (4,), batch=9),
    Case("layer_normalization", [LayerNormalization()], (5,), batch=4, x=shifted),
    Case("layer_normalization-options", [LayerNormalization(epsilon=0.1, beta_initializer="ones", gamma_initializer="he_normal",
                                                            beta_regularizer=L1(0.2), gamma_regularizer=L2(0.3))], (7,), batch=3, x=shifted),
    Case("layer_normalization-wide", [LayerNormalization()], (131,), batch=3),
    Case("layer_normalization-one-element", [LayerNormalization()], (1,), batch=3),
    Case("layer_normalization-sequence", [LayerNormalization(axis=2)], (3, 11), batch=5),
    Case("layer_normalization-two-axes", [LayerNormalization(axis=(-1, -2))], (2, 3, 5), batch=4),
    Case("layer_normalization-all-axes", [LayerNormalization(axis=(1, 2))], (3, 7), batch=2),
    Case("layer_normalization-no-affine", [LayerNormalization(center=False, scale=False)], (6,), batch=5),
    Case("layer_normalization-no-center", [LayerNormalization(center=False)], (6,), batch=5),
    Case("layer_normalization-no-scale", [LayerNormalization(scale=False)], (6,), batch=5),
    Case("layer_normalization-empty", [LayerNormalization()], (0, 3), batch=2),
    Case("layer_normalization-no-element", [LayerNormalization()], (3, 0), batch=2),
    Case("layer_normalization-frozen", [Dense(3, "tanh"), LayerNormalization(trainable=False), Dense(2)], (4,), batch=5),
    Case("layer_normalization-between", [Dense(6), LayerNormalization(), Dense(2, "tanh")], (4,), batch=9),
]
