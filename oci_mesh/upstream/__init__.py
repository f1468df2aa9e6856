"""HTTP out: asking other registries, with their authentication, and nobody else."""
