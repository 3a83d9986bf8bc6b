"""Parts of experiments on networks: points, labels, widths, paths, their figures."""
