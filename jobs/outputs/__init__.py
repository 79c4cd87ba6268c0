"""What a job has written: which rows are finished, whose output folder it is, and what is taken back."""
