"""`python -m deepfake_client` is `deepfake-client`."""

from .cli import main

main()
