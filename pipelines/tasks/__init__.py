"""What a task is: its columns, arguments, batching rules, and the Arrow type of its predictions."""
