"""The public face: every signature as recorded, no name that is also a module, nothing heavy at import.

After a wanted change: `python tests/test_public_api.py --update`, and look at the difference.
"""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ntkit

SNAPSHOT = Path(__file__).with_name("api_snapshot.txt")
FOLDERS = (
    "ntkit",
    "ntkit.architecture",
    "ntkit.infinite.dual",
    "ntkit.infinite.rules",
    "ntkit.cli",
    "ntkit.report",
    *(f"ntkit.{name}" for name in ntkit._FOLDERS),
)


def public_names(module) -> list[str]:
    return sorted(getattr(module, "__all__", []))


def signature_of(value) -> str:
    try:
        return str(inspect.signature(value)).replace("NoneType", "None")
    except (TypeError, ValueError):
        return ""


def describe_class(where: str, cls: type) -> list[str]:
    bases = ", ".join(base.__name__ for base in cls.__bases__)
    rows = [f"{where}{signature_of(cls)} < {bases}"]
    for name, member in sorted(vars(cls).items()):
        if name == "__call__" or not name.startswith("_"):
            if isinstance(member, property):
                rows.append(f"{where}.{name} (property)")
            elif inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod)):
                rows.append(f"{where}.{name}{signature_of(getattr(cls, name))}")
    return rows


def describe() -> str:
    rows = []
    for folder in sorted(FOLDERS):
        module = importlib.import_module(folder)
        for name in public_names(module):
            value, where = getattr(module, name), f"{folder}.{name}"
            if inspect.ismodule(value):
                rows.append(f"{where} (folder)")
            elif inspect.isclass(value):
                rows += describe_class(where, value)
            elif callable(value):
                rows.append(f"{where}{signature_of(value)}")
            elif name != "__version__":
                rows.append(f"{where}: {type(value).__name__}")
    return "\n".join(rows) + "\n"


def test_every_public_signature_is_as_recorded():
    fresh = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True).stdout
    assert fresh == SNAPSHOT.read_text(), "run `python tests/test_public_api.py --update` where the change is wanted"


def modules() -> list[str]:
    found = (m.name for m in pkgutil.walk_packages(ntkit.__path__, "ntkit."))
    return ["ntkit", *(name for name in found if not name.endswith(".__main__"))]  # those run when imported


def test_no_public_name_is_also_a_module():
    for path in modules():
        package = importlib.import_module(path)
        if not hasattr(package, "__path__"):
            continue
        below = {m.name for m in pkgutil.iter_modules(package.__path__)}
        for name in set(public_names(package)) & below:
            assert inspect.ismodule(getattr(package, name)), f"{path}.{name} is a value and a module"


def test_every_public_name_exists_and_dir_lists_it():
    for path in modules():
        module = importlib.import_module(path)
        for name in public_names(module):
            assert hasattr(module, name), f"{path}.__all__ names {name}, which does not exist"
    assert dir(ntkit) == sorted(ntkit.__all__)


def test_every_module_says_what_it_is_for():
    missing = [path for path in modules() if not (importlib.import_module(path).__doc__ or "").strip()]
    assert missing == []


def test_importing_ntkit_imports_nothing_heavy():
    code = "import sys, ntkit; print(*sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'scipy')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known():
    with pytest.raises(AttributeError, match=r"no attribute 'NTK'; it has .*InfiniteKernel"):
        ntkit.NTK  # noqa: B018


def test_every_error_belongs_to_the_family():
    errors = ntkit.errors
    own = {name for name, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__}
    assert own == set(errors.__all__)
    for name in own - {"NtkitError"}:
        cls = getattr(errors, name)
        assert issubclass(cls, errors.NtkitError)
        builtin = [base for base in cls.__mro__ if base.__module__ == "builtins" and base not in Exception.__mro__]
        assert builtin, f"{name} should also be the builtin error that people catch"
        assert cls.__doc__


if __name__ == "__main__":
    if "--update" in sys.argv:
        SNAPSHOT.write_text(describe())
    else:
        sys.stdout.write(describe())
