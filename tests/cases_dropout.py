"""Rows of dropout and noise: gradients under one mask. Masks themselves: test_dropout.py."""

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.dropout import Dropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D
from nnkit.layers.noise import GaussianNoise
from nnkit.layers.reshape import Flatten

CASES = [
    Case("dropout", [Dropout(0.3)], (7,), batch=5, random=True),
    Case("dropout-none", [Dropout(0.0)], (7,), batch=5),
    Case("dropout-most", [Dropout(0.9)], (83,), batch=7, random=True),
    Case("dropout-between", [Dense(11, "tanh"), Dropout(0.5), Dense(3)], (5,), batch=6, random=True),
    Case("dropout-twice", [Dropout(0.2), Dense(6, "tanh"), Dropout(0.4, seed=3), Dense(2)], (5,), batch=3, random=True),
    Case("dropout-after-relu", [Dense(11, "relu"), Dropout(0.4), Dense(3)], (5,), batch=6, random=True),
    Case("dropout-after-relu-in-axes", [Dense(7, "relu"), Flatten(), Dropout(0.4), Dense(3)], (3, 5), batch=4, random=True),
    Case("dropout-axes", [Dropout(0.4)], (2, 3, 5), batch=3, random=True),
    Case("dropout-no-axes", [Dropout(0.4)], (), batch=13, random=True),
    Case("dropout-empty", [Dropout(0.4)], (0,), batch=3),
    Case("dropout-features", [Dropout(0.5, noise_shape=(None, 1, None))], (4, 5), batch=3, random=True),
    Case("dropout-times", [Dropout(0.5, noise_shape=(None, None, 1))], (4, 5), batch=3, random=True),
    Case("dropout-batch", [Dropout(0.5, noise_shape=(1, None))], (19,), batch=6, random=True),
    Case("dropout-rows", [Dropout(0.5, noise_shape=(None, 1))], (3,), batch=17, random=True),
    Case("dropout-maps", [Dropout(0.5, noise_shape=(None, 1, 1, 6))], (2, 3, 6), batch=3, random=True),
    Case("dropout-every-other", [Dropout(0.5, noise_shape=(1, 2, 1, 3, 1))], (2, 5, 3, 4), batch=3, random=True),
    Case("dropout-five-runs", [Dropout(0.5, noise_shape=(None, 2, 1, 3, 1, 4))], (2, 2, 3, 2, 4), batch=2, random=True),
    Case("spatial_dropout1d", [SpatialDropout1D(0.4)], (5, 7), batch=3, random=True),
    Case("spatial_dropout1d-one-step", [SpatialDropout1D(0.5, seed=3)], (1, 3), batch=7, random=True),
    Case("spatial_dropout2d", [SpatialDropout2D(0.3)], (2, 3, 5), batch=3, random=True),
    Case("spatial_dropout2d-one-channel", [SpatialDropout2D(0.7)], (3, 2, 1), batch=11, random=True),
    Case("spatial_dropout2d-between", [Dense(5, "tanh"), SpatialDropout2D(0.5), Dense(2)], (2, 3, 3), batch=5, random=True),
    Case("spatial_dropout2d-none", [SpatialDropout2D(0.0)], (2, 3, 5)),
    Case("spatial_dropout3d", [SpatialDropout3D(0.5)], (2, 1, 3, 19), batch=3, random=True),
    Case("spatial_dropout3d-empty", [SpatialDropout3D(0.5)], (2, 0, 3, 4)),
    Case("gaussian_noise", [GaussianNoise(0.3)], (7,), batch=5, random=True),
    Case("gaussian_noise-between", [Dense(6), GaussianNoise(1.5, seed=2), Dense(3, "tanh")], (2, 5), batch=3, random=True),
    Case("gaussian_noise-none", [GaussianNoise(0.0), Dense(2)], (5,)),
]
