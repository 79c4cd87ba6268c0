"""Formats of input files: a module for each family, and the table of all."""
