"""Networks on graphs from the outside: fit with masks, evaluate, predict, gradients by the edges' weights, submodels, plans, refusals."""

import numpy as np
import pytest
from scipy import sparse

import nnkit
from helpers import assert_same_bits, refused
from nnkit import (
    GAT,
    SGD,
    Adam,
    Add,
    Dense,
    Dropout,
    EdgeDot,
    Embedding,
    GlobalGraphPooling,
    GraphConv,
    GraphInput,
    GraphSAGE,
    Input,
    Network,
    Sequential,
)
from nnkit.datasets import made_shape_graphs
from nnkit.graph import Adjacency, GraphLoader, LinkLoader, NeighborLoader

V, F, CLASSES = 40, 6, 3
RNG = np.random.default_rng(5)
LABELS = np.repeat(np.arange(CLASSES), V)[:V * CLASSES:CLASSES]
EDGES = np.triu(RNG.random((V, V)) < np.where(LABELS[:, None] == LABELS, 0.3, 0.02), 1)
A = sparse.csr_matrix((EDGES | EDGES.T).astype(float))
X = (RNG.random((V, F)) < 0.2 + 0.4 * (np.arange(F) % CLASSES == LABELS[:, None])).astype(np.float32)
TRAIN, TEST = np.arange(V) % 4 == 0, np.arange(V) % 4 == 1


def network(is_sparse=False, **fields):
    x, a = Input((F,), sparse=is_sparse), GraphInput()
    h = GraphConv(8, activation="relu", **fields, name="hidden")([x, a])
    return Network([x, a], GraphConv(CLASSES, activation="softmax")([h, a]))


def model_of(spec=None, **options):
    options = {"optimizer": Adam(0.02), "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "seed": 3, **options}
    return nnkit.compile(network() if spec is None else spec, **options)


def test_a_graph_is_learnt_from_some_of_its_nodes():
    model = model_of()
    before = model.evaluate([X, A], LABELS, mask=TEST)
    history = model.fit([X, A], LABELS, epochs=100, mask=TRAIN, validation_mask=TEST, verbose=0)
    after = model.evaluate([X, A], LABELS, mask=TEST)
    assert after["accuracy"] >= 0.9 > before["accuracy"]
    assert history.history["val_accuracy"][-1] == after["accuracy"]
    assert history.history["val_loss"][-1] == after["loss"]


def test_loss_and_metrics_are_means_over_the_counted_nodes():
    model = model_of()
    y = model.predict([X, A])
    found = model.evaluate([X, A], LABELS, mask=TRAIN)
    rows = -np.log(y[np.arange(V), LABELS])[TRAIN]
    assert found["loss"] == pytest.approx(rows.mean(), rel=1e-6)
    assert found["accuracy"] == (y.argmax(1) == LABELS)[TRAIN].mean()
    weights = RNG.uniform(0.5, 2, V)
    weighted = model.evaluate([X, A], LABELS, mask=TRAIN, sample_weight=weights)
    assert weighted["loss"] == pytest.approx((rows * weights[TRAIN]).mean(), rel=1e-6)


def test_a_mask_may_be_numbers_and_hides_labels():
    found = []
    for mask, labels in ((TRAIN, LABELS), (np.flatnonzero(TRAIN), np.where(TRAIN, LABELS, -1))):
        model = model_of()
        model.fit([X, A], labels, epochs=3, mask=mask, verbose=0)
        found.append(model.predict([X, A]))
    assert_same_bits(*found)


def test_masks_also_serve_ordinary_networks():
    """Of dense data a mask is the same as fitting the samples alone, as long as one batch holds all."""
    results = []
    for x, y, mask in ((X, LABELS, TRAIN), (X[TRAIN], LABELS[TRAIN], None)):
        model = nnkit.compile(Sequential([Input((F,)), Dense(CLASSES, activation="softmax")]), optimizer=SGD(0.5),
                              loss="sparse_categorical_crossentropy", dtype="float64", seed=0)
        model.fit(x, y, batch_size=V, epochs=5, mask=mask, verbose=0)
        results.append(model.predict(X))
    np.testing.assert_allclose(*results, rtol=1e-12)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_threads_change_no_bit(is_sparse):
    found = []
    for threads in (1, 2):
        model = model_of(network(is_sparse, dropout=0.3, kernel_regularizer="l2"), threads=threads)
        model.fit([X, A], LABELS, epochs=5, mask=TRAIN, verbose=0)
        found.append(np.concatenate([values.ravel() for values in model.parameters.values()]))
    assert_same_bits(*found)


def test_dense_and_sparse_features_give_the_same():
    rows = [model_of(network(is_sparse)).predict([given, A]) for is_sparse, given in (
        (False, X), (False, X.tolist()), (True, X), (True, sparse.csr_matrix(X)), (True, sparse.coo_array(X)))]
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], atol=1e-6)


def test_graphs_come_in_many_forms():
    model = model_of()
    expected = model.predict([X, A])
    rows, columns = A.nonzero()
    for graph in (A.toarray(), A.tocoo(), np.stack([columns, rows]), Adjacency.of(A)):
        assert_same_bits(model.predict([X, graph]), expected)
    assert_same_bits(model.predict({"input": X, "graph_input": A}), expected)


def test_gradients_by_the_weights_of_edges():
    """By central differences through the normalization, in float64; error 1e-10 of the differences, so 1e-6 is far off."""
    rng = np.random.default_rng(1)
    directed = sparse.csr_matrix(A.multiply(rng.uniform(0.5, 2, (V, V))))
    x, a = Input((F,)), GraphInput()
    h = GraphConv(4, activation="tanh")([x, a])
    h = Add()([GraphConv(3, normalization="row")([h, a]), GraphSAGE(3)([h, a])])
    model = model_of(Network([x, a], Dense(CLASSES, activation="softmax")(h)), dtype="float64")
    gradient = model.gradients([X, directed], LABELS, inputs=True, mask=TRAIN)["x1"]
    assert gradient.shape == (directed.nnz,)
    for entry in rng.choice(directed.nnz, 12, replace=False):
        sides = []
        for step in (1e-5, -1e-5):
            moved = directed.copy()
            moved.data[entry] += step
            sides.append(model.evaluate([X, moved], LABELS, mask=TRAIN)["loss"])
        assert gradient[entry] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-6 * np.abs(gradient).max())


def test_gradients_by_the_entries_of_sparse_features():
    given = sparse.csr_matrix(X)
    by_entry = model_of(network(True), dtype="float64").gradients([given, A], LABELS, inputs=True)["x"]
    dense = model_of(network(False), dtype="float64").gradients([X, A], LABELS, inputs=True)["x"]
    np.testing.assert_allclose(by_entry, dense[given.nonzero()], atol=1e-14)


def test_the_part_up_to_a_layer_gives_embeddings():
    model = model_of()
    part = model.submodel(outputs="hidden")
    assert part.predict([X, A]).shape == (V, 8)
    assert (part.predict([X, A]) >= 0).all()


def graphs(sizes):
    """A ring of every size, side by side."""
    return Adjacency.blocks([Adjacency.of(np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1)) for n in sizes])


def test_one_model_takes_graphs_of_all_sizes():
    x, a = Input((2,)), GraphInput()
    spec = Network([x, a], Dense(1)(GlobalGraphPooling("sum")([GraphConv(4, activation="relu")([x, a]), a])))
    model = nnkit.compile(spec, optimizer=Adam(0.02), loss="mse", seed=0)
    for sizes in ([3, 5], [4], [3, 4, 6, 3]):
        batch = graphs(sizes)
        rows = np.ones((batch.nodes, 2))
        before = model.train_on_batch([rows, batch], np.array(sizes, float))["loss"]
        assert model.predict([rows, batch]).shape == (len(sizes), 1)
        assert model.train_on_batch([rows, batch], np.array(sizes, float))["loss"] < before
    history = model.fit([([np.ones((12, 2)), graphs([5, 7])], [5.0, 7.0]), ([np.ones((4, 2)), graphs([4])], [4.0])], epochs=100, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] / 5


def test_edges_are_predicted_from_embeddings():
    x, a, pairs = Input((F,)), GraphInput(), Input((2,), name="pairs")
    spec = Network([x, a, pairs], EdgeDot()([GraphConv(8)([x, a]), pairs]))
    model = nnkit.compile(spec, optimizer=Adam(0.05), loss=nnkit.BinaryCrossentropy(from_logits=True), seed=0)
    rows, columns = A.nonzero()
    apart = np.argwhere(A.toarray() == 0)[:len(rows)]
    ends, y = np.concatenate([np.stack([rows, columns], 1), apart]), np.repeat([1.0, 0.0], len(rows))
    history = model.fit([X, A, ends], y, epochs=80, verbose=0)
    assert history.history["loss"][-1] < 0.6 * history.history["loss"][0]
    logits = model.predict([X, A, ends])
    assert logits.shape == (len(ends), 1)
    embeddings = model.submodel(outputs="graph_conv").predict([X, A])
    np.testing.assert_allclose(logits[:, 0], (embeddings[ends[:, 0]] * embeddings[ends[:, 1]]).sum(1), rtol=1e-4, atol=1e-4)


def test_a_plan_says_what_a_graph_will_take():
    model = model_of()
    plan = model.plan_for([X, A])
    assert (plan.mode, plan.batch) == ("train", V)
    assert "x1/symmetric_loops/values[" in str(plan)
    arrays = {name: array for name, array in model.data([X, A], LABELS).arrays.items() if name.startswith("x") and "places" not in name}
    assert plan.external_bytes == sum(array.nbytes for name, array in arrays.items() if "segments" not in name)
    assert f"arrays of the caller {plan.external_bytes:,} bytes" in str(plan)
    refused("the plan of a network on graphs depends on the graph: see plan_for(x)", lambda: model.plan)
    model.fit([X, A], LABELS, verbose=0)
    assert model.plan.arena_bytes == model.memory.arena.size


def test_a_tape_without_its_graph_is_refused():
    """It would read memory at random; so would one with the arrays of another graph."""
    model = model_of()
    data = model.data([X, A], LABELS)
    tape = model.tape("evaluate", data.n, sizes=model.sizes_of(data.inputs))
    arrays = {name: array for name, array in data.arrays.items() if name != "x1/symmetric_loops/columns"}
    refused("the plan reads the array 'x1/symmetric_loops/columns', but received none", tape.bind, arrays, error=TypeError)
    refused("array 'x1/symmetric_loops/columns' must have the 832 bytes that the plan gives it, received 828", tape.bind,
            {**arrays, "x1/symmetric_loops/columns": data.arrays["x1/symmetric_loops/columns"][1:]}, error=TypeError)


def test_what_does_not_fit_a_graph_is_refused():
    model = model_of()
    before = {name: values.copy() for name, values in model.parameters.items()}
    refused("x[0] must have 40 rows, one for each node of the graph, received 39", model.predict, [X[1:], A])
    refused("x must be a tuple of 2 arrays, one for each input, or a dict by input name, received a list of 1", model.predict, [X])
    refused("mask must have shape (40,), a boolean for each sample, received (39,)", model.fit, [X, A], LABELS, mask=TRAIN[1:])
    refused("mask must count at least one sample, received none", model.fit, [X, A], LABELS, mask=np.zeros(V, bool))
    for flags in (TRAIN.astype(int), TRAIN.astype(np.float32), np.ones(V)):          # as numbers they would be those of the samples 0 and 1
        refused("mask must be booleans, or the numbers of those that are meant, received 40 zeros and ones: pass them as booleans, "
                "array.astype(bool)", model.fit, [X, A], LABELS, mask=flags)
    refused("mask must hold whole numbers from 0 to 39 (samples), received 40 at position 0", model.fit, [X, A], LABELS, mask=[40])
    refused("fit: validation_split cannot cut a graph or masked data: pass validation_mask", model.fit, [X, A], LABELS, validation_split=0.2)
    refused("fit: give validation_data or validation_mask, not both", model.fit, [X, A], LABELS, validation_data=([X, A], LABELS),
            validation_mask=TEST)
    refused("y must hold class labels from 0 to 2, received -1 at position 1", model.fit, [X, A], np.where(TRAIN, LABELS, -1))
    refused("x[0] must have shape (nodes, 6), received (40, 5)", model_of(network(True)).predict, [sparse.csr_matrix(X[:, 1:]), A])
    for name, values in model.parameters.items():
        assert_same_bits(values, before[name])


def test_pairs_must_be_nodes():
    x, a, pairs = Input((F,)), GraphInput(), Input((2,))
    model = nnkit.compile(Network([x, a, pairs], EdgeDot()([GraphConv(2)([x, a]), pairs])), seed=0)
    rule = "x[2] must hold whole numbers from 0 to 39 (nodes of the graph), received"
    refused(f"{rule} 40 at position (0, 1)", model.predict, [X, A, [[0, 40]]])
    refused(f"{rule} -1 at position (1, 0)", model.predict, [X, A, [[0, 1], [-1, 2]]])


def test_networks_that_cannot_work_are_refused():
    x, a = Input((F,)), GraphInput()
    rows = Input((F,), sparse=True)
    refused("layer 'activation' must take rows of numbers as its input number 0, received a graph from 'graph_input'", Network, a,
            nnkit.Activation("relu")(a))
    refused("layer 'graph_conv' must take a graph as its input number 1, received rows of numbers from 'input'", Network, x, GraphConv(2)([x, x]))
    refused("input 'input' is sparse, which needs a network with a GraphInput: declare a dense Input", Network, rows, Dense(2)(rows))
    refused("output 'dropout' must be rows of numbers, received the sparse matrix that layer 'dropout' gives", Network, [rows, a],
            [Dropout(0.5)(rows), GraphConv(2)([rows, a])])
    refused("layer 'graph_sage' must take rows of numbers as its input number 0, received a sparse matrix from 'input'", Network, [rows, a],
            GraphSAGE(2, aggregator="max")([rows, a]))
    refused("layer 'activation' must take rows of numbers as its input number 0, received a sparse matrix from 'input'", Network, [rows, a],
            GraphConv(2)([nnkit.Activation("relu")(rows), a]))
    pooled = GlobalGraphPooling()([x, a])
    refused("layer 'add' cannot take 'input', which has a row for each node, and 'global_graph_pooling', which has a row for each sample", Network,
            [x, a], Add()([x, pooled]))
    refused("layer 'graph_conv' must take a row for each node of the graph, received 'global_graph_pooling', which has a row for each sample",
            Network, [x, a], GraphConv(2)([pooled, a]))
    refused("all outputs must have rows for the same, received a row for each node and a row for each sample", Network, [x, a],
            [GraphConv(2)([x, a]), pooled])
    refused("layer 'edge_dot' must take numbers of nodes from an Input, received what layer 'dense' gives", Network, [x, a],
            EdgeDot()([GraphConv(2)([x, a]), Dense(2)(x)]))
    refused("Input: shape must be (features,) where sparse is True, received (3, 4)", Input, (3, 4), sparse=True)
    refused("GraphInput: shape must be (), received (3,)", GraphInput, shape=(3,))
    refused("layer 'gat' cannot take input -> reshape and graph_input: GAT: every node must have one row of features, received samples of shape "
            "(2, 3)", GAT(2), [nnkit.Reshape((2, 3))(x), a])


def test_whole_numbers_of_nodes_are_embedded():
    """Nodes without features get a row of a table each."""
    x, a = Input(()), GraphInput()
    model = model_of(Network([x, a], GraphConv(CLASSES, activation="softmax")([Embedding(V, 8)(x), a])), optimizer=Adam(0.05))
    history = model.fit([np.arange(V), A], LABELS, epochs=40, mask=TRAIN, verbose=0)
    assert history.history["loss"][-1] < 0.3 * history.history["loss"][0]


def test_neighbours_are_sampled_for_training():
    """With all neighbours drawn a batch of seeds gives what the whole graph gives for them; two hops, two layers without normalization."""
    x, a = Input((F,)), GraphInput()
    h = GraphConv(8, activation="relu", normalization=None)([x, a])
    spec = Network([x, a], GraphConv(CLASSES, activation="softmax", normalization=None)([h, a]))
    model = model_of(spec)
    loader = NeighborLoader(X, A, LABELS, nodes=TRAIN, fan_outs=(-1, -1), batch_size=4, seed=1)
    whole, sampled = model.evaluate([X, A], LABELS, mask=TRAIN), model.evaluate(loader)
    assert sampled["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert sampled["accuracy"] == whole["accuracy"]
    ordered = NeighborLoader(X, A, LABELS, nodes=TRAIN, fan_outs=(-1, -1), batch_size=4, shuffle=False, seed=1)
    np.testing.assert_allclose(model.predict(ordered), model.predict([X, A])[TRAIN], rtol=1e-5, atol=1e-6)      # sums over neighbours in other orders
    history = model.fit(NeighborLoader(X, A, LABELS, nodes=TRAIN, fan_outs=(3, 3), batch_size=4, seed=1), epochs=40, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]


def test_many_small_graphs_come_in_batches():
    features, adjacencies, labels = made_shape_graphs(40, seed=0)
    x, a = Input((1,)), GraphInput()
    spec = Network([x, a], Dense(6, activation="softmax")(GlobalGraphPooling("sum")([GraphConv(4, normalization=None)([x, a]), a])))
    model = model_of(spec)
    whole = model.evaluate([np.concatenate(features), Adjacency.blocks(adjacencies)], labels)
    batches = model.evaluate(GraphLoader(features, adjacencies, labels, batch_size=16))
    assert batches["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert batches["accuracy"] == whole["accuracy"]
    predicted = model.predict(GraphLoader(features, adjacencies, labels, batch_size=16, shuffle=False))
    np.testing.assert_allclose(predicted, model.predict([np.concatenate(features), Adjacency.blocks(adjacencies)]), rtol=1e-5, atol=1e-6)
    model.fit(GraphLoader(features, adjacencies, labels, batch_size=16), epochs=3, verbose=0)
    refused("adjacencies must have an entry for each of the 40 graphs, received 39", GraphLoader, features, adjacencies[1:])
    refused("x must have the features of at least one graph, received none", GraphLoader, [], [])
    V = adjacencies[0].nodes
    refused(f"x[0] must have shape ({V}, 1), a row for each node of the graph, received ({V - 1}, 1)", GraphLoader, [features[0][1:]],
            adjacencies[:1])


def test_links_are_learnt_from_batches_of_pairs():
    x, a, pairs = Input((F,)), GraphInput(), Input((2,))
    spec = Network([x, a, pairs], EdgeDot()([GraphConv(8)([x, a]), pairs]))
    model = nnkit.compile(spec, optimizer=Adam(0.05), loss=nnkit.BinaryCrossentropy(from_logits=True), seed=0)
    loader = LinkLoader(X, A, batch_size=32, seed=0)
    before = model.evaluate(loader)["loss"]
    model.fit(loader, epochs=60, verbose=0)
    assert model.evaluate(loader)["loss"] < 0.92 * before
    rule = "a batch of a graph has 1 inputs of nodes, a graph and pairs of nodes, but the network takes numbers, graph"
    refused(rule, model_of().evaluate, loader)


def test_edges_beside_features_may_leave_the_last_nodes_alone():
    """Edges do not say how many nodes there are, so features do: as arrays, lists and pairs, in `fit` and in loaders."""
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    x = X[:5]
    expected = Adjacency.of(edges, nodes=5)
    model = nnkit.compile(network(), optimizer="adam", loss="sparse_categorical_crossentropy", seed=1)
    wanted = model.predict([x, expected])
    for given in (edges, edges.tolist(), tuple(edges)):
        assert_same_bits(model.predict([x, given]), wanted, "predictions")
        assert_same_bits(model.predict(NeighborLoader(x, given, fan_outs=(-1, -1), shuffle=False)), wanted, "sampled")
    one = np.array([[0, 1], [1, 0]])                     # with more than two rows of features these can only be edges
    assert_same_bits(model.predict([x, one]), model.predict([x, Adjacency.of(one, nodes=5)]), "two edges")
    message = ("adjacency must not be whole numbers of shape (2, 2), which are edges or a dense matrix: pass nodes with edges, or floats for a "
               "matrix")
    refused(message, model.predict, [x[:2], one])
    refused("source of the edges must hold whole numbers from 0 to 1, received 2 at position 3", model.predict, [x[:2], edges])
    refused("x[0] must have 40 rows, one for each node of the graph, received 5", model.predict, [x, A])
    loader = GraphLoader([x, X[:3]], [edges, edges], batch_size=2, shuffle=False)
    assert [adjacency.nodes for adjacency in loader.adjacencies] == [5, 3]


def test_what_other_libraries_keep_graphs_in():
    class Data:
        edge_index = np.array([[0, 1], [1, 0]])

    kinds = "adjacency must be an Adjacency, a SciPy sparse matrix, a dense array, an edge array or a NetworkX graph, received"
    refused(f"{kinds} a Data: pass its edge_index", Adjacency.of, Data(), error=TypeError)
    hint = "of 2 of them: nnkit.graph.GraphLoader makes batches of many graphs, Adjacency.blocks one batch"
    for graph in (A, Adjacency.of(A)):
        refused(f"{kinds} a list {hint}", Adjacency.of, [graph, graph], error=TypeError)


def test_a_loader_for_training_and_one_for_validation():
    features, adjacencies, labels = made_shape_graphs(24, seed=0)
    x, a = Input((features[0].shape[1],)), GraphInput()
    spec = Network([x, a], Dense(int(labels.max()) + 1, activation="softmax")(GlobalGraphPooling()([GraphConv(4)([x, a]), a])))
    model = nnkit.compile(spec, optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=1)
    first = GraphLoader(features[:16], adjacencies[:16], labels[:16], batch_size=4)
    second = GraphLoader(features[16:], adjacencies[16:], labels[16:], batch_size=3)
    history = model.fit(first, epochs=2, validation_data=second, verbose=0)
    found = model.evaluate(second)
    assert history["val_accuracy"][-1] == found["accuracy"]
    assert history["val_loss"][-1] == pytest.approx(found["loss"], rel=1e-5)      # other batches: means of float32 are added in another order
