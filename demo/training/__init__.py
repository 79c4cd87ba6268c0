"""Training and evaluation of the bundled model."""
