"""Sweeps: many runs that differ in what a file says, one table of all their figures, and one report."""
