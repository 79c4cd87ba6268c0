"""The input of a job: its files, their rows and columns, and which files have changed."""
