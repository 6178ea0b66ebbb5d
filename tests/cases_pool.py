"""Rows of the pooling layers."""

import math

from cases import Case
from nnkit.layers.dense import Dense
from nnkit.layers.pool import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
)


def distinct(rng, shape):
    """Numbers from -2 to 2 that differ well within each channel, so that no finite difference makes another one the largest."""
    places = math.prod(shape[1:-1])
    ranks = rng.random((shape[0], places, shape[-1])).argsort(axis=1)
    return (4 * (ranks + rng.uniform(0.3, 0.7, ranks.shape)) / max(1, places) - 2).reshape(shape)


def row(*arguments, **options):
    return Case(*arguments, **{"x": distinct, **options})


def windows(name, one, two, three):
    """The same rows for the largest and for the mean."""
    return [
        row(f"{name}1d", [one()], (8, 3)),
        row(f"{name}1d-overlap", [one(3, strides=1)], (7, 5)),
        row(f"{name}1d-overlap-thrice", [one(7, strides=2, padding="same")], (11, 2)),
        row(f"{name}1d-gaps", [one(2, strides=5)], (13, 1), batch=5),
        row(f"{name}1d-same", [one(3, padding="same")], (7, 3)),
        row(f"{name}1d-same-gaps", [one(2, strides=3, padding="same")], (11, 3)),
        row(f"{name}1d-pairs", [one(4, strides=3, padding=(3, 1))], (7, 2)),
        row(f"{name}1d-one-place", [one(1, strides=2)], (7, 3)),
        row(f"{name}1d-one-step", [one(1)], (1, 3)),
        row(f"{name}1d-empty", [one(2, padding="same")], (0, 3)),
        row(f"{name}2d", [two()], (4, 6, 5)),
        row(f"{name}2d-one-channel", [two()], (6, 10, 1)),
        row(f"{name}2d-odd", [two()], (5, 7, 3)),
        row(f"{name}2d-same", [two(padding="same")], (5, 3, 2)),
        row(f"{name}2d-wide", [two()], (4, 4, 37), batch=2),
        row(f"{name}2d-strips", [two()], (2, 4, 83), batch=2),
        row(f"{name}2d-overlap-strips", [two(3, strides=2, padding="same")], (5, 4, 71), batch=2),
        row(f"{name}2d-overlap", [two(3, strides=2)], (9, 7, 4)),
        row(f"{name}2d-overlap-same", [two((3, 2), strides=1, padding="same")], (4, 5, 3)),
        row(f"{name}2d-flat-window", [two((1, 4), strides=(2, 3))], (5, 11, 3)),
        row(f"{name}2d-tall-window", [two((5, 1), strides=(1, 2), padding="same")], (4, 5, 3)),
        row(f"{name}2d-gaps", [two((2, 1), strides=(3, 4))], (7, 9, 2)),
        row(f"{name}2d-pairs", [two((3, 2), strides=(2, 1), padding=((2, 1), (0, 1)))], (4, 5, 3)),
        row(f"{name}2d-shifted", [two(2, padding=((1, 0), (0, 0)))], (4, 4, 3)),
        row(f"{name}2d-number", [two(3, strides=2, padding=1)], (6, 5, 3)),
        row(f"{name}2d-whole", [two((4, 5))], (4, 5, 3)),
        row(f"{name}2d-one-pixel", [two(1)], (1, 1, 7)),
        row(f"{name}2d-many-images", [two(3, strides=2)], (5, 5, 2), batch=19),
        row(f"{name}2d-empty", [two(padding="same")], (0, 4, 3)),
        row(f"{name}2d-no-channel", [two()], (4, 4, 0)),
        row(f"{name}2d-between", [Dense(3, "tanh"), two(2, strides=1), Dense(2)], (3, 4, 2)),
        row(f"{name}2d-twice", [two(2, strides=1), two(2)], (5, 5, 3)),
        row(f"{name}3d", [three()], (4, 2, 6, 3)),
        row(f"{name}3d-overlap", [three(3, strides=(1, 2, 1))], (4, 5, 3, 2), batch=2),
        row(f"{name}3d-images", [three((1, 2, 2))], (3, 4, 4, 2)),
        row(f"{name}3d-same", [three((2, 3, 2), strides=(1, 2, 3), padding="same")], (3, 5, 4, 2), batch=2),
        row(f"{name}3d-pairs", [three(2, padding=((1, 0), (0, 1), (1, 1)))], (3, 3, 4, 2), batch=2),
        row(f"{name}3d-gaps", [three((1, 2, 1), strides=(2, 3, 2))], (3, 5, 4, 5), batch=2),
    ]


def all_places(name, one, two, three):
    return [
        row(f"{name}1d", [one()], (11, 3)),
        row(f"{name}1d-keepdims", [one(keepdims=True)], (16, 3)),
        row(f"{name}1d-one-step", [one()], (1, 5)),
        row(f"{name}1d-one-channel", [one()], (96, 1), batch=2),
        row(f"{name}2d", [two()], (7, 5, 6)),
        row(f"{name}2d-keepdims", [two(keepdims=True)], (4, 6, 2)),
        row(f"{name}2d-wide", [two()], (2, 3, 83), batch=2),
        row(f"{name}2d-no-channel", [two()], (4, 4, 0)),
        row(f"{name}2d-two-chunks", [two()], (66, 31, 36), batch=1),
        row(f"{name}2d-many-images", [two()], (4, 3, 5), batch=17),
        row(f"{name}2d-between", [Dense(3, "tanh"), two(), Dense(2)], (3, 4, 2)),
        row(f"{name}3d", [three()], (2, 3, 5, 4)),
        row(f"{name}3d-keepdims", [three(keepdims=True)], (2, 2, 2, 3)),
    ]


CASES = [
    *windows("max_pooling", MaxPooling1D, MaxPooling2D, MaxPooling3D),
    *windows("average_pooling", AveragePooling1D, AveragePooling2D, AveragePooling3D),
    *all_places("global_max_pooling", GlobalMaxPooling1D, GlobalMaxPooling2D, GlobalMaxPooling3D),
    *all_places("global_average_pooling", GlobalAveragePooling1D, GlobalAveragePooling2D, GlobalAveragePooling3D),
]
