"""References of the layers that only change a shape."""


def flatten(spec, parameters, x, training=False):
    return x.reshape(len(x), int(x[0].size))


def reshape(spec, parameters, x, training=False):
    size = x[0].size
    free = [entry for entry in spec.target_shape if entry != -1]
    for entry in free:
        size //= max(entry, 1)
    return x.reshape(len(x), *(size if entry == -1 else entry for entry in spec.target_shape))
