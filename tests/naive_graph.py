"""References of the layers on graphs: loops over nodes and their neighbours."""

import itertools

import numpy as np

from naive import forward


def weights_of(adjacency):
    """For each node its neighbours and the weights of the edges: [(j, A_ij), ...]."""
    starts, columns, values = adjacency.csr.starts, adjacency.csr.columns, adjacency.csr.values
    return [[(int(columns[e]), float(values[e])) for e in range(starts[i], starts[i + 1])] for i in range(adjacency.nodes)]


def with_self(neighbours, loops):
    """The same with 1 added on the diagonal."""
    if not loops:
        return neighbours
    found = []
    for i, row in enumerate(neighbours):
        row = dict(row)
        row[i] = row.get(i, 0.0) + 1.0
        found.append(sorted(row.items()))
    return found


def gathered(neighbours, x):
    """sum_j A_ij x_j."""
    y = np.zeros((len(neighbours), x.shape[1]))
    for i, row in enumerate(neighbours):
        for j, weight in row:
            y[i] += weight * x[j]
    return y


def finish(spec, parameters, y, training):
    return forward(spec.activation, parameters, y + parameters["bias"] if spec.use_bias else y, training)


def graph_conv(spec, parameters, x, adjacency, training=False):
    neighbours = with_self(weights_of(adjacency), spec.self_loops)
    degrees = [sum(weight for _, weight in row) for row in neighbours]
    def factor(i, j):
        if spec.normalization == "symmetric":
            return 1 / np.sqrt(degrees[i] * degrees[j]) if degrees[i] and degrees[j] else 0.0
        return (1 / degrees[i] if degrees[i] else 0.0) if spec.normalization == "row" else 1.0
    scaled = [[(j, weight * factor(i, j)) for j, weight in row] for i, row in enumerate(neighbours)]
    return finish(spec, parameters, gathered(scaled, x) @ parameters["kernel"], training)


def graph_sage(spec, parameters, x, adjacency, training=False):
    around = np.zeros_like(x)
    for i, row in enumerate(weights_of(adjacency)):
        if row and spec.aggregator == "max":
            around[i] = np.max([x[j] for j, _ in row], axis=0)
        elif row and sum(weight for _, weight in row):
            around[i] = sum(weight * x[j] for j, weight in row) / sum(weight for _, weight in row)
    return finish(spec, parameters, x @ parameters["kernel"] + around @ parameters["neighbour_kernel"], training)


def gat(spec, parameters, x, adjacency, training=False):
    neighbours = with_self(weights_of(adjacency), spec.self_loops)
    z = (x @ parameters["kernel"]).reshape(len(neighbours), spec.heads, spec.units)
    y = np.zeros_like(z)
    for h in range(spec.heads):
        s, t = z[:, h] @ parameters["attention"][h], z[:, h] @ parameters["neighbour_attention"][h]
        for i, row in enumerate(neighbours):
            scores = np.array([s[i] + t[j] for j, _ in row])
            scores = np.where(scores > 0, scores, spec.negative_slope * scores)
            alpha = np.exp(scores - scores.max(initial=-np.inf))
            for (j, _), share in zip(row, alpha / alpha.sum(), strict=True):
                y[i, h] += share * z[j, h]
    return finish(spec, parameters, y.reshape(len(y), -1) if spec.concat else y.mean(axis=1), training)


def gin(spec, parameters, x, adjacency, training=False):
    y = (1 + parameters["eps"][0]) * x + gathered(weights_of(adjacency), x)
    hidden = len((spec.units,) if spec.hidden_units is None else spec.hidden_units)
    for position in range(hidden):
        end = f"_{position}" if position else ""
        y = y @ parameters[f"hidden_kernel{end}"] + (parameters[f"hidden_bias{end}"] if spec.use_bias else 0)
        y = forward(spec.hidden_activation, {}, y, training)
    return finish(spec, parameters, y @ parameters["kernel"], training)


def global_graph_pooling(spec, parameters, x, adjacency, training=False):
    segments = adjacency.segments
    pool = {"mean": np.mean, "sum": np.sum, "max": np.max}[spec.pooling]
    return np.stack([pool(x[start:stop], axis=0) if stop > start else np.zeros(x.shape[1:])
                     for start, stop in itertools.pairwise(segments)])


def edge_dot(spec, parameters, x, pairs, training=False):
    return np.array([[x[int(i)] @ x[int(j)]] for i, j in pairs])
