"""Layers on graphs: training epochs and predictions of two layers of each kind on a made citation graph of Cora's size."""

import numpy as np

import nnkit
from nnkit import L2, Adam, Input, Network
from nnkit.datasets import made_citation_graph
from nnkit.layers import GAT, GIN, GraphConv, GraphSAGE
from nnkit.tensors import GraphInput

NODES, CLASSES, FEATURES = 2708, 7, 1433
PENALTY = L2(2.5e-4)
PAIRS = {
    "gcn 16": (GraphConv(16, activation="relu", dropout=0.5, kernel_regularizer=PENALTY), GraphConv(CLASSES, activation="softmax", dropout=0.5)),
    "sage mean 16": (GraphSAGE(16, activation="relu", dropout=0.5), GraphSAGE(CLASSES, activation="softmax", dropout=0.5)),
    "gcn 16, sage max": (GraphConv(16, activation="relu", dropout=0.5), GraphSAGE(CLASSES, aggregator="max", activation="softmax", dropout=0.5)),
    "gat 8 x 8": (GAT(8, heads=8, activation="elu", dropout=0.6, attention_dropout=0.6),
                  GAT(CLASSES, concat=False, activation="softmax", dropout=0.6, attention_dropout=0.6)),
    "gin 16": (GIN(16, activation="relu", dropout=0.5), GIN(CLASSES, activation="softmax", dropout=0.5)),
}


def job(name, is_sparse=True):
    """A model, its inputs, labels and the nodes whose labels count. Features sum to 1 in every row."""
    made = made_citation_graph(NODES, CLASSES, FEATURES, seed=0)
    features = made.features.multiply(1 / made.features.sum(1)).tocsr()
    x, graph = Input((FEATURES,), sparse=is_sparse), GraphInput()
    y = x
    for layer in PAIRS[name]:
        y = layer([y, graph])
    model = nnkit.compile(Network([x, graph], y), optimizer=Adam(0.01), loss="sparse_categorical_crossentropy", seed=0)
    return model, [features if is_sparse else features.toarray(), made.adjacency], made.labels, made.train_mask


class Training:
    """An epoch of one step, in a call of 20: the epoch itself, with little of the call."""

    timeout = 300
    params = (tuple(PAIRS), ("sparse", "dense"))
    param_names = ("layers", "features")

    def setup(self, name, features):
        self.model, self.x, self.y, self.mask = job(name, features == "sparse")
        before = self.model.evaluate(self.x, self.y, mask=self.mask)["loss"]
        self.time_20_epochs(name, features)
        assert self.model.evaluate(self.x, self.y, mask=self.mask)["loss"] < before

    def time_20_epochs(self, name, features):
        self.model.fit(self.x, self.y, epochs=20, mask=self.mask, verbose=0)


class Calls:
    """One epoch in a call, which checks all data anew; a prediction of all nodes."""

    params = tuple(PAIRS)
    param_names = ("layers",)

    def setup(self, name):
        self.model, self.x, self.y, self.mask = job(name)
        self.model.fit(self.x, self.y, epochs=100, mask=self.mask, verbose=0)
        accuracy = np.mean(self.model.predict(self.x).argmax(1)[self.mask] == self.y[self.mask])
        assert accuracy > 0.5, accuracy

    def time_one_epoch(self, name):
        self.model.fit(self.x, self.y, epochs=1, mask=self.mask, verbose=0)

    def time_predict(self, name):
        self.model.predict(self.x)
