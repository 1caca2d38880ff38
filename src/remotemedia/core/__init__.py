"""Nodes, pipelines and the executors that run them."""
