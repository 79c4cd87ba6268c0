"""Model inputs of many rows in one batch: how they are packed, padded, collated and taken apart again."""
