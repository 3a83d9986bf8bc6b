"""Students of a teacher network: the published shares, and ours beside them."""
