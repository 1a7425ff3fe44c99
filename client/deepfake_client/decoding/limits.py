"""What one job may take."""

MEMORY = 2 << 30
"""Bytes of address space beyond what a worker has at its start: several frames of the largest size."""

SECONDS = 20.0
"""Processor time without a sign of progress; decoding one packet or writing one picture takes a fraction of it."""

MAX_PIXELS = 50_000_000
"""Largest frame or image, width × height: the server's own limit by default."""
