"""Who says what an answer states: panels of judges, their prompts, and how far they agree."""
