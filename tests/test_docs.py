"""What documentation says is so, and is where users look. Other pages are tested beside what they describe: test_extend.py, test_native.py."""

import doctest
import inspect
import pathlib
import re

import pytest

import nnkit

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["keras.md", "pytorch.md"])
def test_coming_from_other_libraries(page):
    found = doctest.testfile(str(DOCS / page), module_relative=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.failed == 0
    assert found.attempted > 20


def test_help_tells_what_classes_share_with_their_bases():
    for cls, words in ((nnkit.Conv2D, "dilation_rate:"), (nnkit.Adam, "clipnorm:"), (nnkit.LSTM, "return_sequences:"),
                       (nnkit.MaxPooling2D, "pool_size:"), (nnkit.HeNormal, "seed:"), (nnkit.GraphConv, "dropout:"), (nnkit.Cropping2D, "cropping:")):
        text = inspect.getdoc(cls)
        assert words in text
        assert not re.search("^ ", text.split("\n\n")[0])      # the class's own text comes first
    assert "kernel_size" not in inspect.getdoc(nnkit.Dense)
