"""The weights folder: found, fetched, verified and compared."""
