"""What `deepfake_client` promises to those who import it, held against what is there."""

import ast
import dataclasses
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import deepfake_client
import pytest
from deepfake_client import (
    AsyncDetectorClient,
    DetectorClient,
    DetectorError,
    Face,
    RequestFailedError,
    Verdict,
    errors,
)

from tests.golden import ROOT

README = (ROOT / "client" / "README.md").read_text()
PACKAGE = Path(deepfake_client.__file__).parent
PUBLIC = {name: getattr(deepfake_client, name) for name in deepfake_client.__all__}
CLASSES = [value for value in PUBLIC.values() if inspect.isclass(value)]
ERRORS = [value for value in CLASSES if issubclass(value, Exception)]
CLIENTS = [DetectorClient, AsyncDetectorClient]


def members(cls: type) -> dict[str, Callable[..., Any]]:
    """The public methods and properties of a class, its constructor where it is written out, those inherited too."""
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    ours = {
        name: getattr(value, "fget", value)
        for name, value in found.items()
        if isinstance(value, property) or inspect.isfunction(value)
    }
    if not dataclasses.is_dataclass(cls) and inspect.isfunction(cls.__init__) and not issubclass(cls, Exception):
        ours["__init__"] = cls.__init__
    return ours


FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)} | {
    f"{cls.__name__}.{name}": function for cls in CLASSES for name, function in members(cls).items()
}


def optional_modules() -> list[ModuleType]:
    """The adapters of those engines that are installed."""
    for extra in ("ray", "spark"):
        pytest.importorskip({"ray": "ray", "spark": "pyspark"}[extra], reason=f"needs pip install './client[{extra}]'")
    return [importlib.import_module(f"deepfake_client.{extra}") for extra in ("ray", "spark")]


def test_the_readme_lists_every_public_name_and_no_other() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(set(listed))
    adapters = [name for module in optional_modules() for name in module.__all__]
    assert sorted(listed) == sorted([*deepfake_client.__all__, *adapters])


def test_nothing_public_is_left_out() -> None:
    bound = {name for name, value in vars(deepfake_client).items() if not inspect.ismodule(value)}
    assert {name for name in bound if not name.startswith("_")} == set(deepfake_client.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_documented(name: str) -> None:
    value = PUBLIC[name]
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")  # what dataclasses write where there is no docstring
    else:
        assert documented_constants()[name]


def documented_constants() -> dict[str, str]:
    """The string below every assignment at the top of a module, by the name that is assigned."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for statement, after in pairwise(body):
            match statement, after:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = text
    return found


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_says_what_it_takes(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name])
    assert text
    if see := re.search(r"see `DetectorClient\.(\w+)`", text):
        text = inspect.getdoc(getattr(DetectorClient, see[1])) or ""
    takes = [each for each in inspect.signature(FUNCTIONS[name]).parameters if each != "self"]
    if len(takes) > 1 or name.endswith("__init__"):
        _, _, arguments = text.partition("Args:\n")
        documented = re.findall(r"^    (\w+): ", arguments.partition("\n\n")[0], re.MULTILINE)
        assert documented == takes


@pytest.mark.parametrize("cls", [c for c in CLASSES if dataclasses.is_dataclass(c)])
def test_every_field_is_documented(cls: Any) -> None:
    documented = []
    for each in reversed(cls.__mro__):  # what is inherited is documented there
        _, _, attributes = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        documented += re.findall(r"^    (\w+): ", attributes, re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(cls)]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_errors_and_types_that_are_named_are_public(name: str) -> None:
    function = FUNCTIONS[name]
    for raised in re.findall(r"^    (\w+Error): ", function.__doc__ or "", re.MULTILINE):
        assert raised in PUBLIC or issubclass(getattr(importlib.import_module("builtins"), raised), Exception)
    for hint in get_type_hints(function).values():
        for word in re.findall(r"deepfake_client\.(?:\w+\.)+(\w+)", repr(hint)):
            assert word in PUBLIC


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking, asynchronous = map(members, CLIENTS)
    assert set(blocking) == set(asynchronous)
    for name, method in blocking.items():
        ours, theirs = (inspect.signature(each).parameters for each in (method, asynchronous[name]))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]


def test_the_tree_of_errors_is_as_drawn() -> None:
    tree, _, _ = (errors.__doc__ or "").partition("\n\nA file")
    drawn = re.findall(r"^[ │]*(?:[├└]── )?(\w+Error)\b", tree, re.MULTILINE)
    assert sorted(drawn) == sorted(error.__name__ for error in ERRORS)
    assert all(issubclass(error, DetectorError) for error in ERRORS)
    assert set(re.findall(r"`(\w+Error)`", README)) >= set(drawn)


@pytest.mark.parametrize("cls", ERRORS)
def test_errors_pass_between_processes(cls: type[DetectorError]) -> None:
    error = cls("no answer", "UNAVAILABLE") if issubclass(cls, RequestFailedError) else cls("no answer")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_verdicts_pass_between_processes() -> None:
    verdict = Verdict("photo.jpg", "ok", 0.7, 0.68, face=Face((1.0, 2.0, 3.0, 4.0), 0.9, "raw"))
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_type_checkers_see_the_types() -> None:
    assert (files("deepfake_client") / "py.typed").is_file()


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_client_alone_imports_no_engine() -> None:
    engines = "{'ray', 'pyspark', 'pyarrow', 'pandas'}"
    done = run(f"import sys, deepfake_client; sys.exit(', '.join({engines} & set(sys.modules)) or 0)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("extra", "engine"), [("ray", "ray"), ("ray", "pyarrow"), ("spark", "pyspark")])
def test_an_engine_that_is_not_installed_is_told_with_what_installs_it(extra: str, engine: str) -> None:
    done = run(f"import sys; sys.modules['{engine}'] = None; import deepfake_client.{extra}")
    assert done.returncode == 1
    assert f"pip install './client[{extra}]'" in done.stderr.splitlines()[-1]
