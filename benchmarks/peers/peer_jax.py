"""JAX's side in its strongest form: a whole epoch, its shuffle included, is one jitted scan, and its buffers are donated.

Networks with convolutions are trained by single jitted steps: see `epoch_by_steps`.
"""

from __future__ import annotations

import functools
import itertools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from worker import Job, repeated, serve
from workloads import CELLS, CLASSES, LABELLED, RATE, VGG16, WEIGHTS, WORKS, kernels_of

SIZES = {"autoencoder": (20, 10, 20), "bigmlp": (784, 1024, 1024, 10), "vae": (784, 400, 40, 400, 784)}
KERNELS = {"digits_cnn": ((3, 3, 1, 32), (32 * 3**2, 128), (128, 10)), "conv3d": ((3, 3, 3, 1, 32), (32 * 15**3, 128), (128, 20))}
LETTERS = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}


def convolve(x: jax.Array, kernel: jax.Array, padding: str, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1,) * (x.ndim - 2), padding, dimension_numbers=LETTERS[x.ndim], feature_group_count=groups)


def max_pool(x: jax.Array) -> jax.Array:
    """Windows of 2. The largest of shifted slices: its gradient takes a tenth of the time of that of `reduce_window`."""
    places = itertools.product((0, 1), repeat=x.ndim - 2)
    return functools.reduce(jnp.maximum, [x[(slice(None), *(slice(first, None, 2) for first in place))] for place in places])


def simple_rnn(h: jax.Array, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.tanh(x + h @ kernel)


def lstm(state: tuple[jax.Array, jax.Array], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    h, c = state
    i, f, u, o = jnp.split(x + h @ kernel, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(h: jax.Array, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    gates, (uz, ur, uh) = jnp.split(x, 3, axis=1), jnp.split(h @ kernel + bias, 3, axis=1)
    z, r = jax.nn.sigmoid(gates[0] + uz), jax.nn.sigmoid(gates[1] + ur)
    return z * h + (1 - z) * jnp.tanh(gates[2] + r * uh)


def recurrent(cell: str, weights: dict[str, jax.Array], x: jax.Array, all_steps: bool) -> jax.Array:
    """x (N, T, inputs); the last output, (N, units), or all, (N, T, units). The inputs' product is one for all steps."""
    kernel, bias = weights["recurrent_kernel"], weights["bias"]
    first, *rest = bias if cell == "gru" else (bias,)
    gates = x.swapaxes(0, 1) @ weights["kernel"] + first
    h = jnp.zeros((len(x), len(kernel)))
    step = {"simple_rnn": simple_rnn, "lstm": lstm, "gru": gru}[cell]

    def advance(state: Any, x: jax.Array) -> Any:
        state = step(state, x, kernel, *rest)
        return state, (state[0] if cell == "lstm" else state) if all_steps else None

    state, outputs = jax.lax.scan(advance, (h, h) if cell == "lstm" else h, gates)
    if all_steps:
        return outputs.swapaxes(0, 1)
    return state[0] if cell == "lstm" else state


def parameters(work: str) -> list[tuple[jax.Array, jax.Array]]:
    sizes = SIZES.get(work, (20, 64, 32, 1))
    keys = jax.random.split(jax.random.key(0), len(sizes))
    glorot = jax.nn.initializers.glorot_uniform()
    shapes = list(KERNELS.get(work, itertools.pairwise(sizes)))
    if work == "vae":                                    # mean and log-variance are the halves of one product; the code is as wide as one of them
        shapes[2] = (20, 400)
    return [(glorot(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(keys, shapes, strict=False)]


def forward(work: str, params: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Logits. With a key, dropout is on where the work has it."""
    if work in CELLS:
        h = recurrent(CELLS[work], params, params["embeddings"][x], work == "char_lstm")
        return h @ params["dense"] + params["dense_bias"]
    if work in KERNELS:
        (kernel, bias), *params = params
        x = max_pool(jax.nn.relu(convolve(x, kernel, "VALID") + bias)).reshape(len(x), -1)
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


def loss_of(work: str, params: Any, x: jax.Array, y: jax.Array, key: jax.Array | None) -> jax.Array:
    if work == "vae":
        return bound(params, x, jax.random.key(2) if key is None else key)
    z = forward(work, params, x, key)
    if work in LABELLED:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], -1))
    return jnp.mean(jnp.logaddexp(0, z) - y * z)


def adam_step(state: Any, x: jax.Array, y: jax.Array, work: str) -> Any:
    """The state after one update on one batch."""
    params, m, v, t, key = state
    key, mask_key = jax.random.split(key)
    t = t + 1
    gradient = jax.grad(partial(loss_of, work))(params, x, y, mask_key)
    m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, gradient)
    v = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), v, gradient)
    rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), params, m, v)
    return params, m, v, t, key


@partial(jax.jit, static_argnames=("work", "batch_size"), donate_argnames="state")
def epoch(state: Any, x: jax.Array, y: jax.Array, work: str, batch_size: int) -> Any:
    *rest, key = state
    shuffle_key, step_key, next_key = jax.random.split(key, 3)
    batches = jax.random.permutation(shuffle_key, len(x)).reshape(-1, batch_size)
    (*rest, _), _ = jax.lax.scan(lambda carry, batch: (adam_step(carry, x[batch], y[batch], work), None), (*rest, step_key), batches)
    return *rest, next_key


@partial(jax.jit, static_argnames="work", donate_argnames="state")
def single_step(state: Any, x: jax.Array, y: jax.Array, batch: np.ndarray, work: str) -> Any:
    return adam_step(state, x[batch], y[batch], work)


def epoch_by_steps(state: Any, x: jax.Array, y: jax.Array, work: str, batch_size: int, rng: np.random.Generator) -> Any:
    """An epoch of a network with convolutions: inside of a scan, XLA computes them without its fast kernels, several times slower."""
    for batch in rng.permutation(len(x)).reshape(-1, batch_size):
        state = single_step(state, x, y, batch, work)
    return state


def vgg16_logits(params: list, x: jax.Array) -> jax.Array:
    given = iter(params)
    for count, _ in VGG16:
        for _ in range(count):
            kernel, bias = next(given)
            x = jax.nn.relu(convolve(x, kernel, "SAME") + bias)
        x = max_pool(x)
    kernel, bias = next(given)
    return jnp.mean(x, (1, 2)) @ kernel + bias


def vgg16(work: str, arrays: dict[str, np.ndarray]) -> Job:
    params = [(jnp.asarray(kernel), jnp.zeros(kernel.shape[-1])) for kernel in kernels_of(arrays)]
    x, y = jnp.asarray(arrays["x"]), jax.nn.one_hot(arrays["y"], CLASSES)
    if work == "vgg16_forward":
        forward = jax.jit(vgg16_logits)

        def call() -> np.ndarray:
            return np.asarray(forward(params, arrays["x"]))
        return Job({"call": repeated(call)}, checks={"logits": call()})

    def loss_of(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(vgg16_logits(params, x)), 1))

    @partial(jax.jit, donate_argnames="params")
    def update(params: list, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list]:
        loss, gradient = jax.value_and_grad(loss_of)(params, x, y)
        return loss, jax.tree.map(lambda p, g: p - RATE * g, params, gradient)

    def step() -> list:
        nonlocal params
        _, params = update(params, x, y)
        return params

    loss, params = update(params, x, y)
    return Job({"step": repeated(step, jax.block_until_ready)}, checks={"loss": np.asarray(loss), "bias gradient": -np.asarray(params[0][1]) / RATE})


def residual_block(params: list, x: jax.Array) -> jax.Array:
    """Convolutions without bias, each with batch normalization; the input is added. The moving averages that others keep beside are left out."""
    h = x
    for number, (kernel, gamma, beta) in enumerate(params):
        h = convolve(h, kernel, "SAME")
        mean = jnp.mean(h, (0, 1, 2))
        variance = jnp.mean(jnp.square(h - mean), (0, 1, 2))
        h = gamma * (h - mean) * jax.lax.rsqrt(variance + 1e-3) + beta
        h = jax.nn.relu(h if number < len(params) - 1 else h + x)
    return h


def layer(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """Forward, then backward from a given gradient of the output, for input and parameters: one jitted function."""
    x, dy = jnp.asarray(arrays["x"]), jnp.asarray(arrays["dy"])
    kernels = [] if work == "lstm100" else [jnp.asarray(kernel) for kernel in kernels_of(arrays)]
    if work == "lstm100":
        params: Any = {name: jnp.asarray(arrays[name]) for name in WEIGHTS if name in arrays}
        forward: Any = partial(recurrent, "lstm", all_steps=True)
    elif work == "resnet_block":
        params = [(kernel, jnp.ones(64), jnp.zeros(64)) for kernel in kernels]
        forward = residual_block
    else:
        params = kernels[0].transpose(0, 1, 3, 2)
        forward = lambda kernel, x: convolve(x, kernel, "SAME", 64)      # noqa: E731

    @jax.jit
    def gradients(params: Any, x: jax.Array, dy: jax.Array) -> Any:
        return jax.vjp(forward, params, x)[1](dy)

    def step() -> Any:
        return gradients(params, x, dy)

    dparams, dx = step()
    dkernel = np.asarray(dparams["recurrent_kernel"] if work == "lstm100" else dparams[0][0] if work == "resnet_block" else dparams)
    return Job({"step": repeated(step, jax.block_until_ready)}, checks={"input gradient": np.asarray(dx), "kernel gradient": dkernel})


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if work.startswith("vgg16"):
        return vgg16(work, arrays)
    if work in ("resnet_block", "depthwise", "lstm100"):
        return layer(work, arrays)
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    if y.ndim == 1 and work not in LABELLED:
        y = y[:, None]
    params: Any = parameters(work)
    checks = {}
    if work in CELLS:
        params = {name: jnp.asarray(arrays[name]) for name in WEIGHTS} | {"dense_bias": jnp.zeros(arrays["dense"].shape[1])}
        checks = first_batch(work, params, x[:WORKS[work].batch_size], y[:WORKS[work].batch_size])
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = (params, zeros(params), zeros(params), jnp.zeros(()), jax.random.key(1))
    one_epoch = partial(epoch_by_steps, rng=np.random.default_rng(0)) if work in KERNELS else epoch

    def epochs(n: int) -> None:
        nonlocal state
        for _ in range(n):                               # calls are queued; only the last one is waited for
            state = one_epoch(state, x, y, work, WORKS[work].batch_size)
        jax.block_until_ready(state)

    def loss() -> float:
        return float(loss_of(work, state[0], x, y, None))

    if not work.startswith("predict"):
        return Job({"epoch": epochs}, loss, checks)

    predict_one = jax.jit(lambda params, x: jax.nn.sigmoid(forward(work, params, x, None)))

    def calls(n: int) -> None:
        for _ in range(n):
            np.asarray(predict_one(state[0], arrays["x"][:1]))

    return Job({"train": epochs, "call": calls}, loss, checks)


def first_batch(work: str, params: Any, x: jax.Array, y: jax.Array) -> dict[str, np.ndarray]:
    """What it gives before training."""
    z, gradient = forward(work, params, x, None), jax.grad(partial(loss_of, work))(params, x, y, None)
    probabilities = jax.nn.softmax(z) if work in LABELLED else jax.nn.sigmoid(z)
    return {"probabilities": np.asarray(probabilities), "recurrent gradient": np.asarray(gradient["recurrent_kernel"]),
            "embeddings gradient": np.asarray(gradient["embeddings"])}


if __name__ == "__main__":
    serve(prepare)
