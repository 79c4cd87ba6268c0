"""The three phases of a loaded pipeline: preprocess, forward, postprocess."""
