"""Audio, images, video and tables: makes pipeline arguments of the values of cells."""
