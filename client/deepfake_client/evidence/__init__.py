"""Evidence for a verdict: maps, votes, what would change it, stability, identity; receipts that can be replayed."""

from .bundle import Evidence, bundle, collect, report_html
from .changes import Change, VoteRule, rule_of, what_would_change
from .receipt import Deployment, ask_deployment, differences, make_receipt

__all__ = [
    "Change",
    "Deployment",
    "Evidence",
    "VoteRule",
    "ask_deployment",
    "bundle",
    "collect",
    "differences",
    "make_receipt",
    "report_html",
    "rule_of",
    "what_would_change",
]
