"""What attacks found, in words and in a result that several runs share."""

from benchmarks.attacks.__main__ import _added
from benchmarks.attacks.finding import Finding
from benchmarks.attacks.loads import _black, _png_with_idat_of
from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result
from ensemble.images.headers import read_header


def test_a_finding_tells_its_figures_and_its_note() -> None:
    found = Finding({"memory": (12.34567, "MiB"), "protocols open": (0, "")}, "HTTP 403")
    assert str(found) == "memory: 12.35 MiB; protocols open: 0; HTTP 403"
    assert str(Finding({"protocols open": (2, "")})) == "protocols open: 2"


def result(version: str, attack: str, value: float) -> Result:
    figure = Figure({"attack": attack, "version": version}, "protocols open", "", "lower", [value])
    return Result("attacks", "", circumstances("benchmarks.attacks"), {}, [figure])


def test_figures_of_other_runs_stay_and_those_measured_anew_are_replaced() -> None:
    both = _added(result("old", "a", 2), result("new", "a", 0), {"a, new": "refused"})
    assert [(each.labels["version"], each.rounds) for each in both.figures] == [("old", [2]), ("new", [0])]
    again = _added(both, result("old", "a", 1), {})
    assert [(each.labels["version"], each.rounds) for each in again.figures] == [("new", [0]), ("old", [1])]
    assert again.details == {"a, new": "refused"}


def test_bombs_declare_what_they_should() -> None:
    header = read_header(_black(8000, 625))
    assert (header.width, header.height) == (8000, 625)
    assert _png_with_idat_of(2_000_000_000)[-8:] == (2_000_000_000).to_bytes(4, "big") + b"IDAT"
