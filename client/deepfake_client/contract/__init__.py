"""The wire contract: verbatim copies from `ensemble/`, made by `scripts/contract`. Change them there."""
