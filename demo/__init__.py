"""The bundled model and speech, and the code that made them."""
