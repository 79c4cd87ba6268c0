"""`dray verify`: compares committed files with their input, and a sample of rows with new results."""
