"""The driver: the order of a round, and everything a person sees of a run."""
