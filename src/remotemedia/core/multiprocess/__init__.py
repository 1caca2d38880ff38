"""The executor that runs every node in a process of its own."""
