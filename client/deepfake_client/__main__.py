"""`python -m deepfake_client` is `deepfake-client`."""

from ._cli import main

main()
