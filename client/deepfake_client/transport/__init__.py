"""From the clients to the servers: connections, calls, TLS and the wire format."""
