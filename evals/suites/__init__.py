"""Items: what a suite consists of, where it is from, and what identifies it."""
