"""The Ray side of dray. The modules at the top are the entry points; the folders below hold their work."""
