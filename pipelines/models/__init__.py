"""From the name of a model to a loaded pipeline: finds its files and its task, and loads it."""
