"""What a person sees of a run, while it is under way and afterwards."""
