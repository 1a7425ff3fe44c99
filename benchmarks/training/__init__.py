"""What training costs: `python -m benchmarks.training`."""
