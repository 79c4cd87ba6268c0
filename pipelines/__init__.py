"""The model side of dray: transformers pipelines taken apart into their phases. Knows nothing of Ray."""
