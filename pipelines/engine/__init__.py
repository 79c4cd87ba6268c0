"""Runs batches on the loaded model: threads, precision, time limits, and the cache of tuned batch sizes."""
