"""Admission: how much work may be in the server at once. What is over the limits is refused before any work is done.

Triton limits the queue of one step. That does not help here: the first step is quick, so under overload the requests
would wait without limit in front of the networks. Therefore the first step counts what is inside. Each admitted request
carries a permit, the last step gives the permit back, and the difference is inside.

Steps that work on encoded images can be called by their names, past the first one. They ask for permits of their own
then, for at most half of the limits, so that such calls keep no place from the ensembles.

The steps are processes of one server. They share a small piece of memory that has no name, so that only processes of
the same user can reach it. A permit is a random number, so that nobody can give back a permit that is not theirs.
"""

from ensemble.admission.controller import SILENCE_SECONDS, AdmissionController, Load
from ensemble.admission.executor import RequestExecutor
from ensemble.admission.ledger import Ledger
from ensemble.admission.steps import Admission, Release, StepAdmission
from ensemble.contract import OVERLOADED, STUCK

__all__ = [
    "OVERLOADED",
    "SILENCE_SECONDS",
    "STUCK",
    "Admission",
    "AdmissionController",
    "Ledger",
    "Load",
    "Release",
    "RequestExecutor",
    "StepAdmission",
]
