"""Nodes that come with the package; each is an entry point of the group `remotemedia.nodes`."""
