"""Language models as actors reach them: engines, endpoints, what calls cost, and who may spend what."""
