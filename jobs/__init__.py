"""The Ray side of dray. Its top folder holds the entry points; what they do is in the folders below."""
