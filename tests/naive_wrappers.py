"""References of Bidirectional and TimeDistributed."""

import numpy as np

import naive


def bidirectional(spec, parameters, x, *start, training=False, mask=None):
    half, made = len(start) // 2, []
    for way, layer, own in (("forward", spec.layer, start[:half]), ("backward", spec.other, start[half:])):
        prefix = next(name for name in parameters if name.startswith(way)).split("/")[0] + "/"
        mine = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        ys = naive.reference(type(layer))(layer, mine, x, *own, mask=mask)
        y, *ends = ys if isinstance(ys, tuple) else (ys,)
        if layer.return_sequences:
            y = y[:, ::-1] if layer.go_backwards else y
            y = y if mask is None else y * mask[:, :, None]
        made.append((y, *ends))
    (a, *ahead), (b, *back) = made
    merged = {"concat": lambda: (np.concatenate([a, b], axis=-1),), "sum": lambda: (a + b,), "mul": lambda: (a * b,), "ave": lambda: ((a + b) / 2,),
              None: lambda: (a, b)}[spec.merge_mode]()
    ys = (*merged, *ahead, *back)
    return ys if len(ys) > 1 else ys[0]


def bidirectional_mask(spec, xs, masks):
    outputs = 1 + (spec.merge_mode is None)
    kept = masks[0] if spec.layer.return_sequences else None
    found = (kept,) * outputs + (None,) * (spec.output_count - outputs)
    return found if len(found) > 1 else found[0]


def time_distributed(spec, parameters, x, training=False):
    y = naive.forward(spec.layer, parameters, x.reshape(-1, *x.shape[2:]), training)
    return y.reshape(*x.shape[:2], *y.shape[1:])
