"""A batch job from start to finish: the checks before it, the dataflow, what its workers do, and its summary."""
