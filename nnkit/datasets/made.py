"""Data made on the spot, for examples and tests where no data set is at hand. The same seed gives the same data."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkit.datasets.graphs import CitationGraph
from nnkit.datasets.vocabulary import FIRST, START
from nnkit.graph import Adjacency, CsrArrays, mask_of
from nnkit.graph.csr import LIMIT
from nnkit.training.feed import as_whole

__all__ = ["SHAPES", "made_citation_graph", "made_random_graph", "made_reviews", "made_shape_graphs", "made_text"]

NOT = FIRST                                              # the id of the word that turns the next one's sentiment round
SENTIMENTAL, NEGATED = 0.3, 0.2                          # the parts of words with a sentiment, and of these with a "not" in front
AGREEING = 0.65                                          # the part of words with a sentiment whose meaning is the review's

# Each sentence is one of each list, in this order.
SENTENCE = (
    ("the", "a", "my", "her", "this", "every"),
    ("old", "young", "gentle", "foolish", "noble", "weary"),
    ("king", "queen", "sailor", "painter", "fox", "moon"),
    ("sees", "follows", "greets", "remembers", "leaves", "answers"),
    ("the", "a", "my", "her", "this", "every"),
    ("river", "garden", "castle", "stranger", "mountain", "song"),
)
ENDS = (". ", "! ", "? ", ".\n")

SHAPES = ("cycle", "path", "star", "wheel", "grid", "tree")                      # a label of made_shape_graphs is a position here
SMALLEST, LARGEST = 6, 20                                # nodes of a shape
GRIDS = tuple((a, b) for a in range(2, 5) for b in range(a, 11) if SMALLEST <= a * b <= LARGEST)

CITATIONS = 2                                            # that a paper makes, so that papers have 4 neighbours; Cora has 3.9
WITHIN = 0.7                                             # the part of citations and ...
ON_TOPIC = 0.35                                          # ... of words that keep to the class, the others fall anywhere
WORDS = 18                                               # of a paper, as in Cora
EXPONENT = 2.5                                           # of the power law: few nodes have degrees far above the mean


def made_reviews(samples: int, length: int, vocabulary: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with a sentiment, in the form of `load_imdb`: x an object array (N,) of int32 arrays of ids, y int64 (N,), 0 or 1.

    Ids: 1 the start of every review, 3 "not"; of the others, with K = (vocabulary - 4) // 4, K positive ones from 4, K negative ones from
    4 + K, and neutral ones from 4 + 2 K to vocabulary - 1. A word with a sentiment counts +1 or -1, and the other way round directly after a
    "not"; the label says whether the sum is above 0, and no sum is 0. So the number of good and bad words tells most of the labels (four
    of five in reviews of 40 words, nine of ten in those of 200), their order all.

    >>> x, y = made_reviews(4, length=12, vocabulary=20, seed=0)
    >>> [len(review) <= 12 for review in x], y.shape
    ([True, True, True, True], (4,))

    Args:
        samples: N, at least 1.
        length: the most ids of a review, at least 4; lengths are drawn evenly from half of it (rounded up) to all of it.
        vocabulary: number of ids, at least 8.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    N, T, V = as_whole(samples, 1, "samples"), as_whole(length, 4, "length"), as_whole(vocabulary, NOT + 5, "vocabulary")
    rng = np.random.default_rng(as_whole(seed, 0, "seed"))
    lengths = rng.integers((T + 1) // 2, T + 1, N)
    x, y = np.empty(N, object), rng.integers(0, 2, N)
    for n in range(N):
        x[n] = np.concatenate([[START], _review(rng, int(lengths[n]) - 1, V, bool(y[n]))]).astype(np.int32)
    return x, y


def _review(rng: np.random.Generator, words: int, V: int, positive: bool) -> np.ndarray:
    """The words of one review of that sentiment: drawn until they have it, which every second time they do."""
    K = (V - NOT - 1) // 4
    while True:
        ids = rng.integers(NOT + 1 + 2 * K, V, words)
        places = np.flatnonzero(rng.random(words) < SENTIMENTAL)
        negated = (rng.random(len(places)) < NEGATED) & (places > 0)
        means_good = (rng.random(len(places)) < AGREEING) == positive
        ids[places] = np.where(means_good != negated, NOT + 1, NOT + 1 + K) + rng.integers(0, K, len(places))
        ids[places[negated] - 1] = NOT                   # may take the place of a word with a sentiment, so the sum is taken of what is there
        good, bad = (ids > NOT) & (ids <= NOT + K), (ids > NOT + K) & (ids <= NOT + 2 * K)
        signs = good.astype(int) - bad
        signs[1:][ids[:-1] == NOT] *= -1
        if signs.sum() > 0 if positive else signs.sum() < 0:
            return ids


def made_text(characters: int, seed: int) -> str:
    """A text of that many characters, in sentences of six words, for models of characters.

    Each word is one of six, each end of a sentence one of four: 17.5 bits for some 36 characters. So the best cross-entropy that a model can
    reach is about 0.34 (0.49 bits) a character.

    >>> made_text(34, seed=3)
    'This old queen follows a mountain.'

    Args:
        characters: at least 1.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    most, rng = as_whole(characters, 1, "characters"), np.random.default_rng(as_whole(seed, 0, "seed"))
    pieces: list[str] = []
    written = 0
    while written < most:
        words: list[Any] = [choices[rng.integers(len(choices))] for choices in SENTENCE]
        sentence = " ".join(words).capitalize() + ENDS[rng.integers(len(ENDS))]
        pieces.append(sentence)
        written += len(sentence)
    return "".join(pieces)[:most]


def made_shape_graphs(n: int, seed: int) -> tuple[list[np.ndarray], list[Adjacency], np.ndarray]:
    """Small graphs, each of one of six shapes, for the classification of graphs: features, adjacencies and labels of n graphs.

    Labels are int64 (n,), positions in `SHAPES`: 0 cycle, 1 path, 2 star, 3 wheel (a cycle around a hub), 4 grid, 5 tree (random; neither path
    nor star). All shapes are as frequent as each other, up to one. A graph has 6 to 20 nodes, numbered at random, and undirected edges. Features
    are ones, float32 (V, 1), and tell nothing: only the edges do.

    >>> features, adjacencies, labels = made_shape_graphs(3, seed=0)
    >>> len(adjacencies), features[0].shape[0] == adjacencies[0].nodes
    (3, True)

    Args:
        n: number of graphs, at least 1.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    n, rng = as_whole(n, 1, "n"), np.random.default_rng(as_whole(seed, 0, "seed"))
    labels = rng.permutation(np.arange(n) % len(SHAPES))
    adjacencies = []
    for label in labels:
        V, edges = _shape(SHAPES[label], rng)
        source, target = rng.permutation(V)[edges]
        adjacencies.append(Adjacency.of((np.concatenate([source, target]), np.concatenate([target, source])), nodes=V))
    return [np.ones((adjacency.nodes, 1), np.float32) for adjacency in adjacencies], adjacencies, labels


def _shape(shape: str, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Nodes V, and edges (2, edges), each in one direction, of a graph of that shape."""
    V = int(rng.integers(SMALLEST, LARGEST + 1))
    node = np.arange(V)
    if shape == "cycle":
        return V, np.stack([node, np.roll(node, -1)])
    if shape == "path":
        return V, np.stack([node[:-1], node[1:]])
    if shape == "star":
        return V, np.stack([np.zeros(V - 1, np.int64), node[1:]])
    if shape == "wheel":
        rim = node[1:]
        return V, np.stack([np.concatenate([np.zeros(V - 1, np.int64), rim]), np.concatenate([rim, np.roll(rim, -1)])])
    if shape == "grid":
        rows, columns = GRIDS[rng.integers(len(GRIDS))]
        place = np.arange(rows * columns).reshape(rows, columns)
        return rows * columns, np.stack([np.concatenate([place[:-1].ravel(), place[:, :-1].ravel()]),
                                         np.concatenate([place[1:].ravel(), place[:, 1:].ravel()])])
    while True:                                          # each node hangs on one before it
        edges = np.stack([node[1:], rng.integers(0, node[1:])])
        if 3 <= np.bincount(edges.ravel()).max() < V - 1:
            return V, edges


def made_citation_graph(nodes: int, classes: int, features: int, seed: int) -> CitationGraph:
    """Papers that cite papers, mostly of their own class, and hold a few words of it: in the form of `load_planetoid`.

    Each of V papers makes 2 citations, 7 of 10 within its class, the rest to anyone; edges are undirected, each once. It draws 18 words of F, 7 of
    20 among the F // classes words of its class, the rest among all; features are 1 where a word occurs. So neighbours say more of the class than
    the words do. Classes are as large as each other, up to one. Training has 20 nodes of each class (at most a quarter of the smallest class),
    validation V // 5 (at most 500) and testing 2 V // 5 (at most 1000) of the others.

    Args:
        nodes: V, at least 4 * classes.
        classes: at least 2.
        features: F, at least classes.
        seed: at least 0.

    Raises:
        ValueError: a number below its least.
    """
    K = as_whole(classes, 2, "classes")
    V, F = as_whole(nodes, 4 * K, "nodes"), as_whole(features, K, "features")
    rng = np.random.default_rng(as_whole(seed, 0, "seed"))
    labels = rng.permutation(np.arange(V) % K)
    members, first = np.argsort(labels, kind="stable"), np.searchsorted(np.sort(labels), np.arange(K + 1))
    citing = np.repeat(np.arange(V), CITATIONS)
    low, high = first[labels[citing]], first[labels[citing] + 1]
    cited = np.where(rng.random(len(citing)) < WITHIN, members[rng.integers(low, high)], rng.integers(0, V, len(citing)))
    pairs = _distinct(np.concatenate([citing * V + cited, cited * V + citing])[np.tile(citing != cited, 2)])

    paper, own = np.repeat(np.arange(V), WORDS), F // K
    words = np.where(rng.random(len(paper)) < ON_TOPIC, labels[paper] * own + rng.integers(0, own, len(paper)), rng.integers(0, F, len(paper)))
    held = _of_keys(_distinct(paper * F + words), V, F).matrix.astype(np.float32)

    order = rng.permutation(V)
    train = np.concatenate([order[labels[order] == k][:min(20, V // K // 4)] for k in range(K)])
    rest = order[~np.isin(order, train)]
    validation, test = min(500, V // 5), min(1000, 2 * V // 5)
    return CitationGraph(held, Adjacency(_of_keys(pairs, V, V), np.array([0, V], np.int64)), labels, mask_of(train, V), mask_of(rest[:validation], V),
                         mask_of(rest[validation:validation + test], V), K)


def made_random_graph(nodes: int, edges: int, kind: str = "uniform", seed: int = 0) -> Adjacency:
    """A directed graph of V nodes and exactly E edges of weight 1, none of them twice and none from a node to itself; for benchmarks.

    Args:
        nodes: V, at least 2, less than 2**31.
        edges: E, at least 0, at most a quarter of the V (V - 1) that there can be, less than 2**31.
        kind: "uniform" (default), each edge as likely as any other; or "power_law": with ranks 1 to V, given to nodes at random, the two ends of
            an edge have the ranks r with a likelihood about r^(-2/3), so that the number of nodes of degree d falls as d^(-5/2).
        seed: at least 0; 0 by default.

    Raises:
        ValueError: another kind; a number out of its range.
    """
    V, E = as_whole(nodes, 2, "nodes"), as_whole(edges, 0, "edges")
    if kind not in ("uniform", "power_law"):
        raise ValueError(f"kind must be 'uniform' or 'power_law', received {kind!r}")
    if max(V, E) >= LIMIT or 4 * E > V * (V - 1):
        raise ValueError(f"nodes must be fewer than 2**31, and edges too and at most a quarter of nodes * (nodes - 1), received {V} and {E}")
    rng = np.random.default_rng(as_whole(seed, 0, "seed"))
    named = rng.permutation(V)
    keys = np.empty(0, np.int64)
    while len(keys) < E:                                 # a key is target * V + source
        more = E - len(keys) + (E - len(keys)) // 16 + 16
        if kind == "uniform":
            target, source = rng.integers(0, V, (2, more))
        else:
            target, source = named[(V * rng.random((2, more)) ** (1 / (1 - 1 / (EXPONENT - 1)))).astype(np.int64)]
        keys = _distinct(np.concatenate([keys, (target * V + source)[target != source]]))
    if len(keys) > E:
        keys = np.delete(keys, rng.choice(len(keys), len(keys) - E, replace=False))
    return Adjacency(_of_keys(keys, V, V), np.array([0, V], np.int64))


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Those keys, sorted, each once: np.unique's result in a tenth of its time."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])[:len(keys)]]


def _of_keys(keys: np.ndarray, R: int, C: int) -> CsrArrays:
    """The matrix (R, C) that is 1 at the places row * C + column, which rise."""
    rows = keys // C
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=R))])
    return CsrArrays((R, C), starts, (keys - rows * C).astype(np.int32), np.ones(len(keys)))
