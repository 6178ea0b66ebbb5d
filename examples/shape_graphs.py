"""Which shape has a graph? Whole graphs are told apart by nothing but who is whose neighbour.

Graphs of 6 to 20 nodes are cycles, paths, stars, wheels, grids or trees, and every node's only feature is a 1. A graph isomorphism network adds up
the neighbours' features through small dense layers, three times; then one row is made of all nodes of a graph. Beside it stand the same with the mean
of the neighbours (GraphSAGE), which cannot count them and so sees ones everywhere, and with Kipf and Welling's convolutions.

Prints the test accuracies (about 100, 15 and 83 %), and saves shape_graphs.png: the learning curves, what the first takes for what, and a graph of
each shape.
"""

import argparse
from pathlib import Path

import matplotlib
import networkx
import numpy as np

import nnkit
from nnkit import GIN, Adam, CosineDecay, Dense, GlobalGraphPooling, GraphConv, GraphInput, GraphSAGE, Input, Network
from nnkit.datasets import SHAPES, made_shape_graphs
from nnkit.graph import GraphLoader

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="few graphs and epochs, to see that everything runs")
options = options.parse_args()

count, epochs = (120, 2) if options.quick else (1500, 40)
features, graphs, labels = made_shape_graphs(count, seed=0)
kept = count * 2 // 3
training = GraphLoader(features[:kept], graphs[:kept], labels[:kept], batch_size=32, seed=0)
test = GraphLoader(features[kept:], graphs[kept:], labels[kept:], batch_size=count - kept, shuffle=False)
print(f"{kept} graphs to learn from, {count - kept} to test")


def network(layer) -> Network:
    """Three layers on the graph, the mean of all nodes, two dense layers."""
    x, graph = Input((1,)), GraphInput()
    h = x
    for _ in range(3):
        h = layer()([h, graph])
    return Network([x, graph], Dense(len(SHAPES), "softmax")(Dense(32, "relu")(GlobalGraphPooling("mean")([h, graph]))))


figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
models = {}
for name, layer in (("GIN, sums", lambda: GIN(32, "relu")), ("GraphSAGE, means", lambda: GraphSAGE(32, "relu")),
                    ("GraphConv", lambda: GraphConv(32, "relu"))):
    schedule = CosineDecay(0.01, epochs * len(training))
    models[name] = nnkit.compile(network(layer), optimizer=Adam(schedule), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
    history = models[name].fit(training, epochs=epochs, verbose=0)
    print(f"{name}: test accuracy {models[name].evaluate(test)['accuracy']:.4f}", flush=True)
    axes[0].plot(history["accuracy"], label=name)
axes[0].set(xlabel="epoch", ylabel="training accuracy", ylim=(0, 1.02))
axes[0].legend(loc="lower right")

batch = next(iter(test))
found = models["GIN, sums"].predict([batch.x, batch.adjacency]).argmax(axis=1)
table = np.zeros((len(SHAPES), len(SHAPES)), int)
np.add.at(table, (batch.y, found), 1)
axes[1].imshow(table, cmap="Blues")
for (row, column), number in np.ndenumerate(table):
    axes[1].text(column, row, number, ha="center", va="center", color="white" if number > table.max() / 2 else "black")
axes[1].set(xlabel="found by GIN", ylabel="true", xticks=range(len(SHAPES)), yticks=range(len(SHAPES)), xticklabels=SHAPES, yticklabels=SHAPES)

axes[2].set(xlabel="one of each shape (what GIN says)", xticks=[], yticks=[], ylim=(-4.2, 1.8))
for label in range(len(SHAPES)):
    number = int(np.flatnonzero(batch.y == label)[0])
    drawn = networkx.Graph(graphs[kept + batch.nodes[number]].edges.T.tolist())
    at = np.array(list(networkx.kamada_kawai_layout(drawn).values())) + 2.6 * np.array([label % 3, -(label // 3)])
    where = dict(zip(drawn, at, strict=True))
    networkx.draw_networkx(drawn, where, ax=axes[2], with_labels=False, node_size=18, node_color=f"C{label}", edge_color="0.6")
    axes[2].text(2.6 * (label % 3), 1.25 - 2.6 * (label // 3), f"{SHAPES[label]} ({SHAPES[found[number]]})", ha="center")
figure.savefig(options.out / "shape_graphs.png", dpi=120)
print(f"Plot: {options.out / 'shape_graphs.png'}")
