"""lm-eval on our own engines: its tasks and ours, and the sandbox for code that a model wrote."""
