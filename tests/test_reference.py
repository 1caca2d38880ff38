"""How node types given in Python are found again by another process."""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from remotemedia.core import describe
from remotemedia.core.node import Node
from remotemedia.core.reference import (
    FileReference,
    ModuleReference,
    NodeReference,
    SourceReference,
    load_file,
    reference_to,
    script_being_loaded,
)
from remotemedia.core.source import source_of
from remotemedia.data import Text
from remotemedia.errors import NodeDefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = """
import remotemedia.data as rm
from remotemedia.core.node import Node
{extra}
class Upper(Node):
    def process(self, text: rm.Text) -> rm.Text:
        return rm.Text(text.text.upper())

def lower(text: rm.Text) -> rm.Text:
    return rm.Text(text.text.lower())
"""

PRINT_REFERENCE = """
import msgspec, sys
from remotemedia.core.reference import reference_to
if __name__ == "__main__":
    for target in (Upper, lower):
        print(msgspec.json.encode(reference_to(target)).decode())
"""


class Here(Node):
    def process(self, text: Text) -> Text:
        return text


def run(*arguments: str, cwd: Path | None = None, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        input=text,
    )
    return done.stdout


def resolved_elsewhere(reference: NodeReference, cwd: Path) -> str:
    """Resolve a reference in a bare process, as a runner does, and return what it describes."""
    code = """
import msgspec, sys
from remotemedia.core.describe import describe
from remotemedia.core.reference import NodeReference
reference = msgspec.json.decode(sys.stdin.read(), type=NodeReference)
print(describe(reference.resolve()).inputs[0].kinds, reference.resolve() is reference.resolve())
"""
    return run("-c", code, cwd=cwd, text=msgspec.json.encode(reference).decode())


def references_printed(output: str) -> list[NodeReference]:
    return [msgspec.json.decode(line, type=NodeReference) for line in output.splitlines()]


def test_a_class_of_a_module_is_found_by_import_with_the_folder_that_holds_it() -> None:
    reference = reference_to(Here)
    assert isinstance(reference, ModuleReference)
    assert reference.resolve() is Here
    assert reference.search_path is not None
    assert (Path(reference.search_path) / reference.module.replace(".", "/")).with_suffix(
        ".py"
    ) == (Path(__file__).resolve())


def test_what_is_installed_is_found_by_name_alone() -> None:
    module = types.ModuleType("msgspec.fake")
    module.__file__ = str(Path(msgspec.__file__).parent / "fake.py")
    module.Gone = type("Gone", (Here,), {"__module__": "msgspec.fake"})  # type: ignore[attr-defined]
    sys.modules["msgspec.fake"] = module
    try:
        assert reference_to(module.Gone) == ModuleReference("msgspec.fake", "Gone", None)
    finally:
        del sys.modules["msgspec.fake"]


def test_references_travel_as_plain_data() -> None:
    for reference in (
        ModuleReference("a.b", "C", "/x"),
        FileReference("/x/y.py", "y", "C"),
        SourceReference("class C: ...", "C"),
    ):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(reference), type=NodeReference) == (
            reference
        )


def test_nodes_of_a_script_are_found_without_running_its_main_part(tmp_path: Path) -> None:
    script = tmp_path / "shout.py"
    script.write_text(NODE.format(extra="") + PRINT_REFERENCE)
    upper, lower = references_printed(run(str(script)))
    assert upper == FileReference(str(script), "__remotemedia_main__", "Upper")
    for reference in (upper, lower):
        assert resolved_elsewhere(reference, Path("/")) == "('Text',) True\n"


def test_a_script_finds_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(NODE.format(extra=""))
    script = tmp_path / "main.py"
    script.write_text("from helpers import Upper, lower\n" + PRINT_REFERENCE)
    upper, _ = references_printed(run(str(script)))
    assert upper == ModuleReference("helpers", "Upper", str(tmp_path))
    assert resolved_elsewhere(upper, Path("/")) == "('Text',) True\n"


def test_nodes_of_a_package_that_is_run_are_found_by_import(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "other.py").write_text("NAME = 1\n")
    main = NODE.format(extra="from .other import NAME") + PRINT_REFERENCE
    (tmp_path / "app" / "__main__.py").write_text(main)
    upper, _ = references_printed(run("-m", "app", cwd=tmp_path))
    assert upper == ModuleReference("app.__main__", "Upper", str(tmp_path))
    assert resolved_elsewhere(upper, Path("/")) == "('Text',) True\n"


def test_a_script_knows_that_it_is_loaded_for_its_nodes(tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(
        "from remotemedia.core.reference import script_being_loaded\nSEEN = script_being_loaded()\n"
    )
    module = load_file(str(script), "bare_script")
    del sys.modules["bare_script"]
    assert str(script) == module.SEEN
    assert script_being_loaded() is None


def test_a_file_that_fails_to_load_is_not_half_loaded(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_file(str(script), "broken_script")
    assert "broken_script" not in sys.modules
    with pytest.raises(ImportError, match=r"there is no Python file .*missing\.py"):
        load_file(str(tmp_path / "missing.py"), "missing")


def test_what_only_a_function_knows_is_refused() -> None:
    class Local(Node): ...

    with pytest.raises(NodeDefinitionError, match="define it at the top level of a module"):
        reference_to(Local)
    with pytest.raises(NodeDefinitionError, match="inside of a function"):
        reference_to(lambda text: text)


def test_a_name_that_now_means_something_else_is_refused() -> None:
    other = type("Here", (Here,), {})
    with pytest.raises(
        NodeDefinitionError, match=r"Here is not it but .*give it a name of its own"
    ):
        reference_to(other)


def test_a_name_that_means_nothing_is_told_to_be_put_into_a_file() -> None:
    nameless: dict[str, type[Node]] = {}
    exec("from remotemedia import Node\nclass Cell(Node): ...", nameless)
    for other in (nameless["Cell"], type("Elsewhere", (Here,), {"__module__": __name__})):
        with pytest.raises(
            NodeDefinitionError, match=r"has nothing of this name.*top level of a Python file"
        ):
            reference_to(other)
    with pytest.raises(NodeDefinitionError, match=r"'gone' is not loaded.*of a Python file"):
        reference_to(type("Here", (Here,), {"__module__": "gone"}))


def test_a_definition_that_is_gone_is_named() -> None:
    reference = ModuleReference(__name__, "Missing")
    with pytest.raises(NodeDefinitionError, match=r"test_reference:Missing cannot be .* not there"):
        reference.resolve()


class Prompt:
    """Types cells into a `__main__` without a file and keeps their text, as a notebook does."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.files: list[str] = []

    def type(self, text: str, *, is_kept: bool = True) -> None:
        filename = f"<cell-{len(self.files)}>"
        self.files.append(filename)
        if is_kept:
            lines = text.splitlines(keepends=True)
            linecache.cache[filename] = (len(text), None, lines, filename)
        exec(compile(text, filename, "exec", dont_inherit=True), self.names)


@pytest.fixture
def prompt() -> Iterator[Prompt]:
    prompt = Prompt()
    yield prompt
    for filename in prompt.files:
        linecache.cache.pop(filename, None)


def test_a_node_typed_at_a_prompt_travels_with_all_that_it_uses(
    prompt: Prompt, tmp_path: Path
) -> None:
    prompt.type("import remotemedia.data as rm\nfrom remotemedia.core.node import Node\n")
    prompt.type(
        "import json as j\nfrom dataclasses import dataclass\nEND = '!'\nunused = object()\n"
    )
    prompt.type("@dataclass\nclass Options:\n    size: int = 1\n")
    prompt.type("def shout(text):\n    return j.loads(j.dumps(text.upper())) + END\n")
    prompt.type("""
if True:
    class Upper(Node):
        def __init__(self, options: Options = Options()):
            self.options = options

        def process(self, text: rm.Text) -> rm.Text | rm.RuntimeData:
            unused = shout(text.text)
            return rm.Text(unused)
""")
    source = source_of(prompt.names["Upper"])
    target = SourceReference(source, "Upper").resolve()
    node = target()
    assert getattr(node, "process")(Text("hi")) == Text("HI!")  # noqa: B009
    assert describe.describe(target).parameters[0].type == "Options"
    assert "unused = object" not in source
    assert resolved_elsewhere(SourceReference(source, "Upper"), tmp_path) == "('Text',) True\n"


def test_a_value_that_cannot_travel_is_named_with_what_to_do(prompt: Prompt) -> None:
    prompt.type("import remotemedia.data as rm\nmodel = object()\n")
    prompt.type("def ask(text: rm.Text) -> rm.Text:\n    return model.ask(text)\n")
    with pytest.raises(
        NodeDefinitionError, match=r"ask cannot be a node: it uses 'model', a object .* initialize"
    ):
        source_of(prompt.names["ask"])


def test_a_prompt_that_keeps_no_text_says_what_to_do(prompt: Prompt) -> None:
    prompt.type("import remotemedia.data as rm\n")
    prompt.type("def ask(text: rm.Text) -> rm.Text:\n    return text\n", is_kept=False)
    with pytest.raises(NodeDefinitionError, match="put it into a Python file and import it"):
        source_of(prompt.names["ask"])


def test_a_definition_in_a_main_without_a_file_becomes_its_source(tmp_path: Path) -> None:
    code = (
        f"""
import linecache
text = {NODE.format(extra="")!r}
linecache.cache["<cell>"] = (len(text), None, text.splitlines(keepends=True), "<cell>")
exec(compile(text, "<cell>", "exec"))
"""
        + PRINT_REFERENCE
    )
    upper, lower = references_printed(run("-c", code))
    assert isinstance(upper, SourceReference)
    assert json.loads(msgspec.json.encode(upper))["type"] == "source"
    for reference in (upper, lower):
        assert resolved_elsewhere(reference, tmp_path) == "('Text',) True\n"
