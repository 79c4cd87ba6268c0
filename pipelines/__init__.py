"""The model side of dray: runs transformers pipelines phase by phase. Imports no Ray."""
