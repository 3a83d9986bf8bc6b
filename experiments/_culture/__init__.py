"""Hinton and Nowlan's and Bengio's questions about culture: what a population of learners hands on."""
