"""Writing a world's personas with language models, and finding what is wrong with a world."""
