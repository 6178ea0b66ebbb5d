"""Model, fit and what belongs to it."""
