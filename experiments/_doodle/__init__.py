"""The seven doodles and the eighth: each idea as a measured picture drawn by hand."""
