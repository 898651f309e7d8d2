"""Intervals, paired comparisons and checks of printed figures; nothing here knows a suite."""
