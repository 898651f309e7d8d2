"""Evaluations: policy in, the outcome of every item out, and figures that are computed from those outcomes alone."""
