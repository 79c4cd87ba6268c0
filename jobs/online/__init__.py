"""The HTTP service: the app, its routes, and how it is hosted."""
