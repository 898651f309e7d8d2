"""`candor view`: a run in the browser, on this machine only."""
