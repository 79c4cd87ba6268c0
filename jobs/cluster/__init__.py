"""The Ray cluster: how it is found or started, and how a job shares its CPUs, GPUs and memory."""
