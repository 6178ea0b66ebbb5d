"""References of the recurrent layers: step by step, row by row."""

import numpy as np

import naive


def simple_rnn(spec, parameters, x, *start, training=False, mask=None):
    def step(v, p):
        (h,) = p
        return (naive.forward(spec.activation, {}, v(0) + h @ parameters["recurrent_kernel"]),)
    return through_time(spec, parameters, x, start, mask, 1, step)


def lstm(spec, parameters, x, *start, training=False, mask=None):
    U = spec.units
    R = [parameters["recurrent_kernel"][:, k * U:(k + 1) * U] for k in range(4)]

    def step(v, p):
        h, c = p
        i, f, o = (naive.forward(spec.recurrent_activation, {}, v(k) + h @ R[k]) for k in (0, 1, 3))
        c = f * c + i * naive.forward(spec.activation, {}, v(2) + h @ R[2])
        return o * naive.forward(spec.activation, {}, c), c
    return through_time(spec, parameters, x, start, mask, 4, step)


def gru(spec, parameters, x, *start, training=False, mask=None):
    U = spec.units
    R = [parameters["recurrent_kernel"][:, k * U:(k + 1) * U] for k in range(3)]
    second = parameters["bias"][1].reshape(3, U) if spec.use_bias and spec.reset_after else np.zeros((3, U))

    def step(v, p):
        (h,) = p
        z, r = (naive.forward(spec.recurrent_activation, {}, v(k) + h @ R[k] + second[k]) for k in (0, 1))
        inner = r * (h @ R[2] + second[2]) if spec.reset_after else (r * h) @ R[2]
        return (z * h + (1 - z) * naive.forward(spec.activation, {}, v(2) + inner),)
    return through_time(spec, parameters, x, start, mask, 3, step)


def through_time(spec, parameters, x, start, mask, gates, step, go_backwards=None):
    """The outputs of a layer whose step(v, state) -> state takes what x gives to gate k from v(k). States are tuples of rows, the output first."""
    N, T, _ = x.shape
    U = spec.units
    names = ["hidden_state", "cell_state"][:len(spec.state_names)]
    begin = start or [parameters.get(name, np.zeros((N, U))) for name in names]
    outputs, ends = np.zeros((N, T, U)), [np.zeros((N, U)) for _ in names]
    back = spec.go_backwards if go_backwards is None else go_backwards
    for n in range(N):
        state = tuple(part[n] for part in begin)
        out = np.zeros(U)
        for t in range(T):
            place = T - 1 - t if back else t
            if mask is None or mask[n, place]:
                v = x[n, place] @ parameters["kernel"]
                if spec.use_bias:
                    v = v + parameters["bias"].reshape(-1, gates * U)[0]
                state = step(lambda k, v=v: v[k * U:(k + 1) * U], state)
                out = state[0]
            outputs[n, t] = out
        for end, part in zip(ends, state, strict=True):
            end[n] = part
    y = outputs if spec.return_sequences else outputs[:, -1]
    return (y, *ends) if spec.return_state else y


def recurrent_mask(spec, masks):
    mask = masks[0] if spec.return_sequences else None
    return mask[:, ::-1] if mask is not None and spec.go_backwards else mask


def simple_rnn_mask(spec, xs, masks):
    first = recurrent_mask(spec, masks)
    return (first, None) if spec.return_state else first


def gru_mask(spec, xs, masks):
    return simple_rnn_mask(spec, xs, masks)


def lstm_mask(spec, xs, masks):
    first = recurrent_mask(spec, masks)
    return (first, None, None) if spec.return_state else first
