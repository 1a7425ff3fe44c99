"""How tritonserver is started wherever it runs, by the launcher and in NVIDIA's container: the one source of both.

What is closed by default is in `server.access`, which both ask, too.
"""

PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}

DRAIN_SECONDS = 10
"""That requests in flight get to finish when the server is stopped."""


def fixed_options(drain_seconds: int = DRAIN_SECONDS) -> list[str]:
    """Give what does not hang on the user's own options: how it starts, what it measures, and how it stops."""
    return [
        # The configurations are complete, and completing them would start every Python step twice.
        "--disable-auto-complete-config",
        # Quantiles of the time that a request takes: the dashboard draws them.
        "--metrics-config=summary_latencies=true",
        f"--exit-timeout-secs={drain_seconds}",
    ]
