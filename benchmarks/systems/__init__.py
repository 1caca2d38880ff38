"""One module a system, so that a process imports its own and nothing else."""
