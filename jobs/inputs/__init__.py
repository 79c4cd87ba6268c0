"""What a job reads: which files there are, what is in them, and which of it has changed."""
