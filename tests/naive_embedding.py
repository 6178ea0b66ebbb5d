"""References of Embedding and Masking."""

import numpy as np


def embedding(spec, parameters, x, training=False):
    return np.array([parameters["embeddings"][int(index)] for index in x.reshape(-1)]).reshape(*x.shape, spec.output_dim)


def embedding_mask(spec, xs, masks):
    return xs[0] != 0 if spec.mask_zero and xs[0].ndim == 2 else None


def masking(spec, parameters, x, training=False):
    counts = (x != spec.mask_value).any(axis=tuple(range(2, x.ndim)), keepdims=True)
    return np.where(counts, x, 0.0)


def masking_mask(spec, xs, masks):
    return (xs[0] != spec.mask_value).any(axis=tuple(range(2, xs[0].ndim)))
