"""JAX's side in its strongest form: a whole epoch, its shuffle included, is one jitted scan, and its buffers are donated."""

from __future__ import annotations

import itertools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from worker import Job, serve
from workloads import WORKS

SIZES = {"autoencoder": (20, 10, 20), "bigmlp": (784, 1024, 1024, 10), "vae": (784, 400, 40, 400, 784)}


def parameters(work: str) -> list[tuple[jax.Array, jax.Array]]:
    sizes = SIZES.get(work, (20, 64, 32, 1))
    keys = jax.random.split(jax.random.key(0), len(sizes))
    glorot = jax.nn.initializers.glorot_uniform()
    shapes = list(itertools.pairwise(sizes))
    if work == "vae":                                    # mean and log-variance are the halves of one product; the code is as wide as one of them
        shapes[2] = (20, 400)
    return [(glorot(key, shape), jnp.zeros(shape[1])) for key, shape in zip(keys, shapes, strict=False)]


def forward(work: str, params: list, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Logits. With a key, dropout is on where the work has it."""
    second = partial(jax.nn.leaky_relu, negative_slope=0.01) if work in ("mlp", "predict") else jax.nn.relu
    for layer, (weight, bias) in enumerate(params[:-1]):
        x = (second if layer == 1 else jax.nn.relu)(x @ weight + bias)
        if work == "dropout" and key is not None:
            key, mask_key = jax.random.split(key)
            x = jnp.where(jax.random.bernoulli(mask_key, 0.5, x.shape), x * 2, 0)
    weight, bias = params[-1]
    return x @ weight + bias


def bound(params: list, x: jax.Array, key: jax.Array) -> jax.Array:
    """The negative evidence lower bound of the variational autoencoder, a number for each pixel."""
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = params
    mean, log_variance = jnp.split(jax.nn.relu(x @ w1 + b1) @ w2 + b2, 2, axis=1)
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    logits = jax.nn.relu(z @ w3 + b3) @ w4 + b4
    divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance) / x.size
    return jnp.mean(jnp.logaddexp(0, logits) - x * logits) + divergence


def loss_of(work: str, params: list, x: jax.Array, y: jax.Array, key: jax.Array | None) -> jax.Array:
    if work == "vae":
        return bound(params, x, jax.random.key(2) if key is None else key)
    z = forward(work, params, x, key)
    if work == "bigmlp":
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1))
    return jnp.mean(jnp.logaddexp(0, z) - y * z)


@partial(jax.jit, static_argnames=("work", "batch_size"), donate_argnames="state")
def epoch(state: Any, x: jax.Array, y: jax.Array, work: str, batch_size: int) -> Any:
    *rest, key = state
    shuffle_key, step_key, next_key = jax.random.split(key, 3)
    batches = jax.random.permutation(shuffle_key, len(x)).reshape(-1, batch_size)

    def step(carry: Any, batch: jax.Array) -> Any:
        params, m, v, t, key = carry
        key, mask_key = jax.random.split(key)
        t = t + 1
        gradient = jax.grad(partial(loss_of, work))(params, x[batch], y[batch], mask_key)
        m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, gradient)
        v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), v, gradient)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), params, m, v)
        return (params, m, v, t, key), None

    (params, m, v, t, _), _ = jax.lax.scan(step, (*rest, step_key), batches)
    return params, m, v, t, next_key


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    if y.ndim == 1 and work != "bigmlp":
        y = y[:, None]
    params = parameters(work)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = (params, zeros(params), zeros(params), jnp.zeros(()), jax.random.key(1))

    def epochs(n: int) -> None:
        nonlocal state
        for _ in range(n):                               # calls are queued; only the last one is waited for
            state = epoch(state, x, y, work, WORKS[work].batch_size)
        jax.block_until_ready(state)

    def loss() -> float:
        return float(loss_of(work, state[0], x, y, None))

    if work != "predict":
        return Job({"epoch": epochs}, loss)

    predict_one = jax.jit(lambda params, x: jax.nn.sigmoid(forward(work, params, x, None)))

    def calls(n: int) -> None:
        for _ in range(n):
            np.asarray(predict_one(state[0], arrays["x"][:1]))

    return Job({"train": epochs, "call": calls}, loss)


if __name__ == "__main__":
    serve(prepare)
