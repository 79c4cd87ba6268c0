"""The model side of dray: transformers pipelines, run phase by phase. Imports no Ray."""
