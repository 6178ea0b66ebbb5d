"""Data sets and what makes arrays of raw data: padding, windows, vocabularies, a loader of IMDB reviews, and data made on the spot.

Plain NumPy, and nothing is fetched from a network: a loader reads a file that the user has.
"""

from nnkit.datasets.imdb import imdb_vocabulary, load_imdb
from nnkit.datasets.made import made_reviews, made_text
from nnkit.datasets.sequences import pad_sequences, text_windows, time_series_windows
from nnkit.datasets.vocabulary import Characters, Vocabulary, tokenize

__all__ = [
    "Characters", "Vocabulary", "imdb_vocabulary", "load_imdb", "made_reviews", "made_text", "pad_sequences", "text_windows", "time_series_windows",
    "tokenize",
]
