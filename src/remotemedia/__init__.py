"""Pipelines of real-time media and AI nodes, each node a process of its own."""
