"""From the clients to the servers: connections, balancing, retries, limits on concurrency, TLS and the wire format."""
