"""Generated text: sampling by row, batches that shrink, continuous batching, streaming."""
