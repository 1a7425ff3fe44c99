"""Images to scores through the running server, and the scores that are kept for a run that goes on."""
