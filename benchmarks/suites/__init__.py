"""Suites for asv. Each benchmark checks its result and warms up in `setup`, then times."""
