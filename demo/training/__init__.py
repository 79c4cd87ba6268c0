"""Trains and measures the bundled model."""
