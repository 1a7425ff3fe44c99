"""A training run: its loop, what it saves and says, and what it will need."""
