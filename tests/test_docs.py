"""What pages of the documentation say is so. Others are tested beside what they describe: extending.md in test_extend.py, format.md in test_native.py."""

import doctest
import pathlib

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_coming_from_keras():
    found = doctest.testfile(str(DOCS / "keras.md"), module_relative=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.failed == 0
    assert found.attempted > 20
