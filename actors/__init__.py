"""Ray actors of a run and what they say to each other, and the worlds that users live in."""
