"""Data sets and what makes arrays of raw data: padding, windows, vocabularies, loaders of IMDB reviews and graphs, and data made on the spot.

Plain NumPy and SciPy, and nothing is fetched from a network: a loader reads a file that the user has.
"""

from nnkit.datasets.graphs import CitationGraph, load_graph_npz, load_karate_club
from nnkit.datasets.imdb import imdb_vocabulary, load_imdb
from nnkit.datasets.made import SHAPES, made_citation_graph, made_random_graph, made_reviews, made_shape_graphs, made_text
from nnkit.datasets.planetoid import load_planetoid
from nnkit.datasets.sequences import pad_sequences, text_windows, time_series_windows
from nnkit.datasets.vocabulary import Characters, Vocabulary, tokenize

__all__ = [
    "SHAPES",
    "Characters",
    "CitationGraph",
    "Vocabulary",
    "imdb_vocabulary",
    "load_graph_npz",
    "load_imdb",
    "load_karate_club",
    "load_planetoid",
    "made_citation_graph",
    "made_random_graph",
    "made_reviews",
    "made_shape_graphs",
    "made_text",
    "pad_sequences",
    "text_windows",
    "time_series_windows",
    "tokenize",
]
