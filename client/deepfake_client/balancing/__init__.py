"""Which server gets a request, how many at once, and how often it is tried: rules without a network."""
