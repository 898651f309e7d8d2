"""Trainers: rated trajectories in, the next policy out."""
