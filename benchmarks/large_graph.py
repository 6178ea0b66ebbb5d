"""A graph convolutional network on a graph that fills memory: what the plan says that it will take, what it takes, seconds of an epoch.

    python benchmarks/large_graph.py                     # 2 million nodes, 100 million entries, 32 features, 32 hidden, 8 classes
    python benchmarks/large_graph.py --nodes 100000 --edges 2000000
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

import nnkit
from nnkit import Adam, GraphConv, GraphInput, Input, Network
from nnkit.datasets import made_random_graph

CLASSES = 8


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2_000_000)
    parser.add_argument("--edges", type=int, default=100_000_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    began = time.perf_counter()
    graph = made_random_graph(options.nodes, options.edges)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.nodes, options.features), dtype=np.float32)
    y = rng.integers(0, CLASSES, options.nodes).astype(np.int32)
    print(f"{graph}, made in {time.perf_counter() - began:.0f} s; peak so far {peak_gigabytes():.1f} GB", flush=True)

    inputs, a = Input((options.features,)), GraphInput()
    h = GraphConv(32, "relu")([inputs, a])
    model = nnkit.compile(Network([inputs, a], GraphConv(CLASSES, "softmax")([h, a])), optimizer=Adam(0.01), loss="sparse_categorical_crossentropy",
                          seed=0)
    began = time.perf_counter()
    plan = model.plan_for([x, graph])
    print(str(plan).splitlines()[-1])
    print(f"plan and normalized graph in {time.perf_counter() - began:.0f} s; peak so far {peak_gigabytes():.1f} GB", flush=True)
    for epoch in range(options.epochs):
        began = time.perf_counter()
        loss = model.fit([x, graph], y, epochs=1, verbose=0)["loss"][0]
        print(f"epoch {epoch}: {time.perf_counter() - began:.2f} s, loss {loss:.4f}; peak {peak_gigabytes():.1f} GB", flush=True)


if __name__ == "__main__":
    main()
