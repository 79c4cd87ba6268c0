"""The batch job: the checks before it, the dataflow, its workers, and its summary."""
