"""``fcntag bench --device cuda``: every stage on a GPU, peers beside it, and the ceilings that percentages refer to."""
