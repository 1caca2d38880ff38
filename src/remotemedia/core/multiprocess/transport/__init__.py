"""Ways to carry samples between processes, and what waits and counts beside them."""
