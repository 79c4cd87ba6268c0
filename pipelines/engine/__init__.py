"""Runs batches on the loaded model: threads, precision, time limits, and the memory of what was tuned."""
