"""Where compiled code is kept between processes, and what happens where nothing can be kept.

A file holds the machine code of one function for one signature. Its name is a digest of all that the code depends on
(every source of this folder, versions, processor), so nothing stale is ever read, and processes that compile the same
at the same moment write the same file, whole. Its first bytes are a digest of the rest: a damaged file is compiled
again. numba's own cache does none of this: it notices changes of the one source file only, its index can hand two
processes that start together each other's code, and a truncated file ends every later call.

What lies there is executed, so it must be a folder that this user alone can write. Where there is none, ntkit compiles
anew in each process and says so once.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

import llvmlite
import numba
import numpy as np
from numba.core import sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

_config: Any = numba.config  # its attributes come from NUMBA_… variables
_VERSION = re.compile(r"numba-[\w.+]+-[0-9a-f]{16}")
_VERSIONS_KEPT = 8  # folders of other versions of ntkit or numba beside the one in use

if hasattr(os, "register_at_fork"):  # a child of a fork in the middle of a compilation would wait for it for ever
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class CompiledCodeNotKept(UserWarning):
    """Compiled code cannot be written anywhere, so each process compiles again (some seconds)."""


# ---- the folder --------------------------------------------------------------------------------------------------


def user_folder() -> Path:
    """ntkit's folder in the user's cache folder of the platform; it need not exist."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ntkit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "ntkit" / "Cache"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))  # XDG base directories: a relative one counts as not set
    return (named if named.is_absolute() else home / ".cache") / "ntkit"


def places() -> list[Path]:
    """Folders that may hold the folder of kept code, the first choice first; absolute, existing or not."""
    found = [Path(_config.CACHE_DIR).absolute() / "ntkit"] if _config.CACHE_DIR else []  # NUMBA_CACHE_DIR
    if named := os.environ.get("NTKIT_CACHE"):
        found.append(Path(os.path.expanduser(named)))
    found += [user_folder(), Path(__file__).parent / "__pycache__"]
    return [place for place in found if place.is_absolute()]  # "~" stays where nobody knows the home


@lru_cache
def folder() -> Path | None:
    """The folder of kept code; None where none can be had."""
    for place in places():
        path = place / f"numba-{numba.__version__}-{fingerprint()}"
        known = os.path.exists(path)
        if (ours := _as_ours(path)) is not None:
            if not known:
                _forget_others(ours)
            return ours
    return None


def _as_ours(path: Path) -> Path | None:
    """The folder, made if need be, where this user can write it and no other user can; else None."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        with tempfile.TemporaryFile(dir=path):
            os.utime(path)  # when it was last used
        own, above = path.stat(), [parent.stat().st_mode for parent in path.parents]
    except OSError:
        return None
    if not hasattr(os, "geteuid"):  # Windows: the user's folders are the user's
        return path
    if own.st_uid != os.geteuid() or own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    # whoever can write a folder above can put another one in its place, unless it is sticky like /tmp
    open_above = any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in above)
    return None if open_above else path


def _forget_others(path: Path) -> None:
    """Of the folders of other versions keeps those that were used last."""
    with contextlib.suppress(OSError):  # another process does the same
        others = [other for other in path.parent.iterdir() if _VERSION.fullmatch(other.name) and other != path]
        others.sort(key=lambda other: other.stat().st_mtime)
        for other in others[:-_VERSIONS_KEPT]:
            shutil.rmtree(other, ignore_errors=True)


_warned = threading.Lock()


def _warn(reason: str) -> None:
    if _warned.acquire(blocking=False):  # never released: once a process
        warnings.warn(
            f"compiled code cannot be kept, so every process compiles again, which takes some seconds: {reason}; set "
            "NUMBA_CACHE_DIR to a folder that you alone can write",
            CompiledCodeNotKept,
            stacklevel=2,
        )


@lru_cache
def fingerprint() -> str:
    """A digest of this folder's sources and of what compiles them."""
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.implementation.cache_tag)
    digest = hashlib.sha256(repr((versions, _config.OPT, _config.BOUNDSCHECK)).encode())
    for source in sorted(resources.files(__name__.rpartition(".")[0]).iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


# ---- one function's files ----------------------------------------------------------------------------------------


class _Kept:
    """A function's machine code, one file a signature; numba asks it before it compiles, and tells it afterwards."""

    def __init__(self, home: Path, name: str):
        self.home, self.name = home, name
        self.cache_path = str(home)  # what a dispatcher's `stats` reports

    def _path(self, signature: Any, codegen: Any) -> Path:
        what = repr((self.name, str(signature), codegen.magic_tuple()))  # the last: processor and its features
        return self.home / f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:24]}.code"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kept code, or None."""
        target_context.refresh()
        content = _read(self._path(sig, target_context.codegen()))
        # numba's form of compiled code is a pickle: `folder` has seen to it that nobody else can have written it
        return None if content is None else CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps code, unless it holds addresses of this process."""
        if not data.library.has_dynamic_globals:
            _write(self._path(sig, data.codegen), dumps(data._reduce()))


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:32], content[32:]
    return content if hashlib.sha256(content).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(f".{uuid4().hex}")
    try:
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, path)  # whole or not at all: other processes may read it now
    except OSError as error:  # the disk is full, the folder gone
        with contextlib.suppress(OSError):
            partial.unlink()
        _warn(str(error))


# ---- functions ---------------------------------------------------------------------------------------------------


def _keep(compiled: Any, name: str) -> None:
    """Lets numba's function look for its code among the kept ones."""
    home = folder()
    if home is None:
        _warn(f"none of {', '.join(map(str, places()))} is or can be made a folder that this user alone can write")
    else:
        compiled._cache = _Kept(home, name)


def kept(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` that keeps its machine code where it can."""

    def decorate(function: Callable[..., Any]) -> Any:
        function = inspect.unwrap(function)  # type checks that tests put around it cannot be compiled
        dispatcher = numba.njit(**options)(function)
        _keep(dispatcher, f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}")
        return dispatcher

    return decorate


def callback(source: str, function: str, scope: dict[str, Any], signature: Any, **options: Any) -> Any:
    """`numba.cfunc` of a function that is given as source, which keeps its machine code where it can.

    Args:
        source: Python source that defines the function and says all that it depends on beside this folder.
        function: the function's name in it.
        scope: names that the source leaves free.
        signature: of the function.
        options: numba's.
    """
    name = f"{function}_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    scope = {**scope, "__name__": __name__}  # a module that exists: kept code looks it up
    exec(compile(source, f"<ntkit {name}>", "exec"), scope)
    made = scope[function]
    made.__qualname__ = f"{name}.{function}"  # symbols of different processes may meet in one: each has its own name
    compiled = CFunc(made, sigutils.normalize_signature(signature), locals={}, options=options)
    _keep(compiled, name)
    compiled.compile()
    return compiled
