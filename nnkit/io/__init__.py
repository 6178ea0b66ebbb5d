"""Files: the native format, and weights that other libraries wrote. A file is data, never a program, and everything in it is checked before use."""

from nnkit.io.report import FormatError, Report

__all__ = ["FormatError", "Report"]
