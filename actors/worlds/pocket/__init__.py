"""The pocket world: a closed world in templated English, small enough to train a model organism on a laptop."""
