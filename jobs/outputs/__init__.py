"""The output folder of a job: which rows are finished, which job owns the folder, and what is rolled back."""
