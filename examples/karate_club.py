"""Who stays with whom when a club breaks apart? A graph convolutional network learns it from two of the 34 members, and needs no file.

Zachary's karate club: members are nodes, friendships are edges, and nothing is known of a member but who the friends are. The instructor, Mr. Hi, and
the officer each keep a part of the club. Only these two have a label in training; the graph carries it to the others.

Prints how many members end up on the right side (about 33 of 34), and saves karate_club.png: the members' places in the network's two hidden features
as training goes on.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import Adam, GraphConv, GraphInput, Input, Network
from nnkit.datasets import load_karate_club

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="a few epochs, to see that everything runs")
options = options.parse_args()

club = load_karate_club()
print(club)
leaders = [0, 33]                                        # Mr. Hi and the officer

x, graph = Input((club.adjacency.nodes,), sparse=True), GraphInput()          # a feature for each member: the row of the identity
h = GraphConv(8, "tanh")([x, graph])
h = GraphConv(2, "tanh", name="place")([h, graph])
spec = Network([x, graph], GraphConv(2, "softmax")([h, graph]))
model = nnkit.compile(spec, optimizer=Adam(0.02), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=1)
places = model.submodel(outputs="place")

figure, axes = plt.subplots(1, 4, figsize=(17, 4.5), layout="constrained")
source, target = club.adjacency.edges
steps = 2 if options.quick else 12
for axis, epoch in zip(axes, range(0, 4 * steps, steps), strict=True):
    plane = places.predict([club.features, club.adjacency])
    axis.plot(plane[[source, target], 0], plane[[source, target], 1], color="0.85", linewidth=0.5, zorder=0)
    axis.scatter(*plane.T, c=club.labels, cmap="coolwarm", s=40)
    for member in leaders:
        axis.annotate(str(member), plane[member], weight="bold")
    right = model.evaluate([club.features, club.adjacency], club.labels)["accuracy"]
    axis.set(title=f"after {epoch} epochs: {right * len(plane):.0f} of {len(plane)} right", xticks=[], yticks=[])
    model.fit([club.features, club.adjacency], club.labels, epochs=steps, mask=leaders, verbose=0)
right = model.predict([club.features, club.adjacency]).argmax(axis=1) == club.labels
print(f"{right.sum()} of {len(right)} members on the right side; not: {np.flatnonzero(~right).tolist()}")
figure.savefig(options.out / "karate_club.png", dpi=120)
print(f"Plot: {options.out / 'karate_club.png'}")
