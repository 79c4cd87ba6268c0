"""From the name of a model to a loaded pipeline: where it lies, what it is for, how it is loaded."""
