"""Audio, images, video and tables: from the value in a cell to what a pipeline takes."""
