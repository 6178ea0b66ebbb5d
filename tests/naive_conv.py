"""References of the convolutions: pad the input with zeros, then window after window; transposed ones spread every number, then cut the output."""

import numpy as np

import naive


def reach_of(spec):
    """Places that a window covers along each axis, gaps included."""
    return [(k - 1) * d + 1 for k, d in zip(spec.kernel_size, spec.dilation_rate, strict=True)]


def padded(spec, x):
    """x with the zeros around it."""
    widths = []
    for axis, (size, reach, stride) in enumerate(zip(x.shape[1:-1], reach_of(spec), spec.strides, strict=True)):
        if spec.padding == "valid":
            widths.append((0, 0))
        elif spec.padding == "causal":
            widths.append((reach - 1, 0))
        elif spec.padding == "same":
            windows = -(-size // stride)
            missing = max(0, (windows - 1) * stride + reach - size)
            widths.append((missing // 2, missing - missing // 2))
        else:
            widths.append(spec.padding[axis])
    return np.pad(x, [(0, 0), *widths, (0, 0)])


def convolve(spec, x, weight):
    """Every place of the window of every window of the padded x, times its matrix; weight (*kernel_size, channels, filters)."""
    x = padded(spec, x)
    windows = [max(0, (size - reach) // stride + 1) for size, reach, stride in zip(x.shape[1:-1], reach_of(spec), spec.strides, strict=True)]
    y = np.zeros((len(x), *windows, weight.shape[-1]))
    for o in np.ndindex(*windows):
        for k in np.ndindex(*spec.kernel_size):
            place = tuple(a * stride + b * step for a, stride, b, step in zip(o, spec.strides, k, spec.dilation_rate, strict=True))
            y[(slice(None), *o)] += x[(slice(None), *place)] @ weight[k]
    return y


def conv(spec, parameters, x, training=False):
    """Each group of filters sees its own channels."""
    channels, filters = x.shape[-1] // spec.groups, spec.filters // spec.groups
    parts = [convolve(spec, x[..., g * channels:(g + 1) * channels], parameters["kernel"][..., g * filters:(g + 1) * filters])
             for g in range(spec.groups)]
    return finish(spec, parameters, np.concatenate(parts, axis=-1))


def conv_transpose(spec, parameters, x, training=False):
    """x[o] W[k] is added to place o stride + k dilation; then what the padding says is cut off, or zeros are appended."""
    weight, reaches = parameters["kernel"], reach_of(spec)
    sizes = x.shape[1:-1]
    whole = [(size - 1) * stride + reach for size, stride, reach in zip(sizes, spec.strides, reaches, strict=True)]
    y = np.zeros((len(x), *(max(0, length) for length in whole), spec.filters))
    for o in np.ndindex(*sizes):
        for k in np.ndindex(*spec.kernel_size):
            place = tuple(a * stride + b * step for a, stride, b, step in zip(o, spec.strides, k, spec.dilation_rate, strict=True))
            y[(slice(None), *place)] += x[(slice(None), *o)] @ weight[k].T
    for axis, (size, stride, reach, length) in enumerate(zip(sizes, spec.strides, reaches, whole, strict=True)):
        extra = None if spec.output_padding is None else spec.output_padding[axis]
        before = 0
        if spec.padding == "valid":
            wanted = (size - 1) * stride + max(reach, stride) if extra is None else length + extra
        elif spec.padding == "same":
            wanted = size * stride if extra is None else (size - 1) * stride + reach % 2 + extra
            before = max(0, length - wanted) // 2
        else:
            before = spec.padding[axis][0]
            wanted = length - sum(spec.padding[axis]) + (extra or 0)
        y = np.moveaxis(y, axis + 1, 0)[before:]
        y = np.concatenate([y, np.zeros((max(0, wanted - len(y)), *y.shape[1:]))])[:max(0, wanted)]
        y = np.moveaxis(y, 0, axis + 1)
    return finish(spec, parameters, y)


def each_channel(spec, x, weight):
    """Channel after channel with its own filters; weight (*kernel_size, channels, filters of each)."""
    parts = [convolve(spec, x[..., c:c + 1], weight[..., c:c + 1, :]) for c in range(x.shape[-1])]
    return np.concatenate([convolve(spec, x[..., :0], weight[..., :0, :])[..., :0], *parts], axis=-1)


def depthwise_conv(spec, parameters, x, training=False):
    return finish(spec, parameters, each_channel(spec, x, parameters["kernel"]))


def separable_conv(spec, parameters, x, training=False):
    matrix = parameters["pointwise_kernel"].reshape(parameters["pointwise_kernel"].shape[-2:])
    return finish(spec, parameters, each_channel(spec, x, parameters["depthwise_kernel"]) @ matrix)


def finish(spec, parameters, y):
    """Bias and activation."""
    return naive.forward(spec.activation, parameters, y + parameters["bias"] if spec.use_bias else y)


conv1d = conv2d = conv3d = conv
conv1d_transpose = conv2d_transpose = conv3d_transpose = conv_transpose
depthwise_conv1d = depthwise_conv2d = depthwise_conv
separable_conv1d = separable_conv2d = separable_conv
