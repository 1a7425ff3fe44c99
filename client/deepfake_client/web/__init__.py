"""A page to drop photographs and videos on, and a REST interface. Needs the extra `web`."""

from .app import create_app

__all__ = ["create_app"]
