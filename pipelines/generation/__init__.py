"""Generated text: random numbers for each row, batches that shrink, continuous batching, streaming."""
