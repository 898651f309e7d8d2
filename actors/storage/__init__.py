"""What is on disk or in object storage: whole files, checked segments, the schema of trajectories."""
