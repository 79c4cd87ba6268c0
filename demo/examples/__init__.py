"""Tiny models for the configs under configs/, trained in minutes, and held-out data to run them on."""
