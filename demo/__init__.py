"""The bundled model and speech, and how they were made."""
