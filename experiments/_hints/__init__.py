"""Learning with hints: the task of Gulcehre and Bengio, and its figures."""
