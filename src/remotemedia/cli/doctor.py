"""`remotemedia doctor`: whether this machine has what the runtime needs."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

import click

from remotemedia.cli.failure import FAILED
from remotemedia.cli.installed import version_of
from remotemedia.cli.wording import bytes_text, json_text, plural
from remotemedia.nodes.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from remotemedia.core.multiprocess.leftovers import Leftovers

__all__ = ["doctor"]

LOW_BYTES = 64 << 20
"""What Docker gives a container by default."""
LOW_DESCRIPTORS = 4096
LOW_PROCESSES = 256
DESCRIPTORS_PER_CHANNEL = 12
"""What a program holds for a session, for each of its channels: measured with one node, which has
two. With five in a chain it is 8, as the ends of most channels are in the processes of nodes."""
STYLES = {"ok": "green", "absent": "blue", "warning": "yellow", "problem": "red"}
NAMED_LEFTOVERS = 3
OUR_EXTRAS = ("bench", "dev", "docs")
"""For who works on this package: nobody misses them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: "ok", "absent" (it can be had, and nothing asks for it), "warning" or "problem".
        text: how it is.
        advice: what to do about it; empty if nothing.
    """

    name: str
    state: str
    text: str
    advice: str = ""


@click.command(short_help="Look at what the machine lacks, and clean it up.")
@click.option("--clean", is_flag=True, help="Remove what dead programs have left.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def doctor(clean: bool, as_json: bool) -> None:
    """Look at what the runtime needs of this machine, and at what dead programs have left on it.

    Exit codes: 0 all is well, perhaps with warnings; 1 there is a problem.
    """
    looks = (_versions, _extension, _kernel, _shared_memory, _descriptors, _processes)
    checks = [look() for look in looks]
    checks += [*_runtime_folder(clean=clean), *_extras()]
    if as_json:
        click.echo(json_text([asdict(check) for check in checks]))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            state = click.style(f"{check.state:8}", fg=STYLES[check.state])
            click.echo(f"{state} {check.name:{width}}  {check.text}")
            if check.advice:
                click.echo(f"{'':9}{'':{width}}  {check.advice}")
    if any(check.state == "problem" for check in checks):
        click.get_current_context().exit(FAILED)


def _versions() -> Check:
    packages = ", ".join(
        f"{name} {version_of(name) or 'is not installed'}"
        for name in ("remotemedia", "iceoryx2", "numpy")
    )
    text = f"Python {platform.python_version()}, {packages}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("versions", "problem", text, "use Python 3.11, 3.12 or 3.13")
    return Check("versions", "ok", text)


def _extension() -> Check:
    from remotemedia.core.multiprocess import native

    if native.IS_NATIVE:
        return Check("extension", "ok", "messages take their way in C")
    text = "messages take their way in Python, twice as long"
    if os.environ.get(native.PURE_PYTHON):
        return Check("extension", "warning", text, f"unset {native.PURE_PYTHON}")
    if native.FAULT:
        return Check(
            "extension", "problem", f"{text}: {native.FAULT}", "install this package again"
        )
    advice = "install a C compiler and the headers of this Python, then this package again"
    return Check("extension", "warning", text, advice)


def _kernel() -> Check:
    text = f"{platform.system()} {platform.release()} {platform.machine()}"
    missing = [name for name, probe in _PROBES.items() if not _works(probe)]
    if missing:
        advice = "it takes Linux 5.3 or later, and a sandbox that lets these calls through"
        return Check("kernel", "problem", f"{text}: no {', '.join(missing)}", advice)
    if not _has_membarrier():
        return Check("kernel", "warning", f"{text}: no membarrier", "messages take longer")
    return Check("kernel", "ok", text)


def _has_membarrier() -> bool:
    from remotemedia.core.multiprocess.transport.membarrier import membarrier

    return membarrier.is_available


_PROBES: dict[str, Callable[[], int]] = {
    "memfd_create": lambda: os.memfd_create("remotemedia-doctor"),
    "eventfd": lambda: os.eventfd(0),
    "pidfd_open": lambda: os.pidfd_open(os.getpid()),
}


def _works(probe: Callable[[], int]) -> bool:
    try:
        os.close(probe())
    except (AttributeError, OSError):
        return False
    return True


def _shared_memory() -> Check:
    from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER

    try:
        state = os.statvfs(SHM_FOLDER)
    except OSError as error:
        advice = "mount a tmpfs there"
        return Check("shared memory", "problem", f"{SHM_FOLDER}: {error.strerror}", advice)
    size, free = state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize
    text = f"{bytes_text(free)} of {bytes_text(size)} free in {SHM_FOLDER}"
    advice = f"enlarge it: mount -o remount,size=1G {SHM_FOLDER}; in a container --shm-size 1g"
    if not os.access(SHM_FOLDER, os.W_OK):
        return Check("shared memory", "problem", f"{SHM_FOLDER} cannot be written", "make it 1777")
    if free < LOW_BYTES:
        return Check("shared memory", "warning", text, advice)
    return Check("shared memory", "ok", text)


def _descriptors() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Check("descriptors", "ok", "unlimited")
    text = f"{hard:,} a process, so about {hard // DESCRIPTORS_PER_CHANNEL:,} channels"
    if hard < LOW_DESCRIPTORS:
        return Check("descriptors", "warning", text, "raise the hard limit: ulimit -Hn")
    return Check("descriptors", "ok", text)


def _processes() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    cores = plural(len(os.sched_getaffinity(0)), "core")
    text = "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,} of this user"
    if soft != resource.RLIM_INFINITY and soft < LOW_PROCESSES:
        return Check("processes", "warning", f"{text}, {cores}", "raise the limit: ulimit -u")
    return Check("processes", "ok", f"{text}, {cores}")


def _runtime_folder(*, clean: bool) -> list[Check]:
    from remotemedia.core.multiprocess import leftovers
    from remotemedia.core.multiprocess.transport.folder import private_folder
    from remotemedia.errors import ExecutorError

    try:
        here = private_folder()
        running = leftovers.living_domains()
        found = leftovers.find_leftovers()
    except ExecutorError as error:
        return [Check("runtime folder", "problem", str(error))]
    if clean and found:
        leftovers.clean(found)
        left = leftovers.find_leftovers()
        check = (
            Check("leftovers", "problem", f"not removed: {_listed(left)}")
            if left
            else Check("leftovers", "ok", f"removed: {_listed(found)}")
        )
    elif found:
        advice = "remotemedia doctor --clean removes them"
        check = Check("leftovers", "problem", _listed(found), advice)
    else:
        check = Check("leftovers", "ok", "none")
    return [Check("runtime folder", "ok", f"{here}, {plural(running, 'runtime')} running"), check]


def _listed(found: Leftovers) -> str:
    parts = [
        *([_named(found.folders, "folder")] if found.folders else []),
        *([_named(found.files, "file")] if found.files else []),
        *(f"process {pid} ({name})" for pid, name in found.processes.items()),
    ]
    return "; ".join(parts)


def _named(paths: Sequence[Path], one: str) -> str:
    names = ", ".join(path.name for path in paths[:NAMED_LEFTOVERS])
    more = len(paths) - NAMED_LEFTOVERS
    names += f" and {more:,} more" if more > 0 else ""
    return f"{plural(len(paths), one)} in {paths[0].parent}: {names}"


def _extras() -> list[Check]:
    """What the extras of this package install, by its own metadata."""
    try:
        requirements = requires("remotemedia") or []
    except PackageNotFoundError:
        text = "unknown, and no node type has its name: remotemedia is on PYTHONPATH, not installed"
        return [Check("extras", "warning", text, "install it")]
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra is None or extra[1] in OUR_EXTRAS:
            continue
        packages = missing.setdefault(extra[1], [])
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        python = re.search(r"python_version >= ['\"](\d+)\.(\d+)['\"]", requirement)
        if python is not None and sys.version_info[:2] < (int(python[1]), int(python[2])):
            packages.append(f"{package} (on Python {python[1]}.{python[2]} or later)")
        elif version_of(package) is None:
            packages.append(package)
    return [_extra(name, missing[name]) for name in sorted(missing)]


def _extra(name: str, missing: Sequence[str]) -> Check:
    if not missing and name == "mic" and find_library("portaudio") is None:
        text = "sounddevice is installed, and PortAudio, which it stands on, is not"
        advice = "install it with the system's packages (Debian, Ubuntu: libportaudio2)"
        return Check("extra mic", "warning", text, advice)
    if not missing:
        return Check(f"extra {name}", "ok", "installed")
    advice = f"to use it: {install_command(name)}"
    return Check(f"extra {name}", "absent", f"not installed: {', '.join(missing)}", advice)
