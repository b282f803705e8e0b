"""A study: a grid of runs, from one file to one report."""
