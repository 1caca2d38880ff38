"""Names become node types without importing what they happen to spell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from remotemedia.core import registry as registry_module
from remotemedia.core.describe import describe
from remotemedia.core.node import Node
from remotemedia.core.reference import FileReference, ModuleReference, reference_to
from remotemedia.core.registry import NodeTypeNotFound, Registry, default_registry, node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from remotemedia.data import Text

MODULE = """
from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Text

@node("their.upper")
class Upper(Node):
    def process(self, text: Text) -> Text:
        return Text(text.text.upper())

class Lower(Node):
    def process(self, text: Text) -> Text:
        return Text(text.text.lower())

SIZE = 3
"""


class Upper(Node):
    def process(self, text: Text) -> Text:
        return text


def lower(text: Text) -> Text:
    return text


@pytest.fixture(autouse=True)
def _separate_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(default_registry, "_targets", {})
    registry_module._declared.cache_clear()
    yield
    registry_module._declared.cache_clear()


def install(folder: Path, distribution: str, *lines: str) -> None:
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[remotemedia.nodes]", *lines]) + "\n")


def test_a_registered_name_is_found_and_describes_itself_by_it() -> None:
    decorated = node("text.upper")(Upper)
    try:
        assert default_registry.find("text.upper") is decorated is Upper
        assert describe(Upper).name == "text.upper"
    finally:
        del Upper.__remotemedia_type__  # type: ignore[attr-defined]


def test_a_child_sees_its_parents_names_and_not_the_other_way_round() -> None:
    parent = Registry()
    child = Registry(parent)
    parent.register("upper", Upper)
    child.register("lower", lower)
    assert child.names() == ("lower", "upper")
    assert child.find("upper") is Upper
    with pytest.raises(NodeTypeNotFound):
        parent.find("lower")


def test_an_unknown_name_is_answered_with_the_one_that_was_meant() -> None:
    registry = Registry()
    registry.register("text.upper", Upper)
    with pytest.raises(NodeTypeNotFound, match=r"unknown node type 'text.uper' .did you mean"):
        registry.find("text.uper")
    with pytest.raises(NodeTypeNotFound, match=r"there is 'text.upper'"):
        registry.find("os")


def test_a_name_belongs_to_one_definition_which_may_be_run_again() -> None:
    registry = Registry()
    registry.register("upper", Upper)
    again = type("Upper", (Node,), {"__module__": __name__})
    registry.register("upper", again)
    assert registry.find("upper") is again
    with pytest.raises(ValueError, match=r"'upper' is .*\.Upper already, so .*\.lower needs"):
        registry.register("upper", lower)


def test_only_nodes_can_be_registered() -> None:
    with pytest.raises(TypeError, match="neither a subclass of Node nor a function"):
        Registry().register("x", int)
    with pytest.raises(TypeError, match="neither a subclass of Node nor a function"):
        node("x")(int)
    with pytest.raises(TypeError, match=r'write @node\("a.name"\)'):
        node(Upper)  # type: ignore[arg-type]


def test_a_name_never_turns_into_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tempting.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NodeTypeNotFound, match="'tempting' is not among the pipeline's modules"):
        default_registry.find("tempting:Upper")
    assert "tempting" not in sys.modules


def test_entry_points_are_listed_without_and_found_with_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_one.py").write_text(MODULE)
    install(tmp_path, "plugin-one", "plug.upper = plugin_one:Upper", "plug.size = plugin_one:SIZE")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"plug.upper", "plug.size"} <= set(default_registry.names())
    assert "plugin_one" not in sys.modules
    found = default_registry.find("plug.upper")
    assert found is sys.modules.pop("plugin_one").Upper
    with pytest.raises(NodeTypeNotFound, match="plugin_one:SIZE of plugin-one, which is no node"):
        default_registry.find("plug.size")


def test_a_plugin_that_cannot_be_imported_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_bad.py").write_text("import no_such_library\n")
    install(tmp_path, "plugin-bad", "bad = plugin_bad:Bad")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NodeTypeNotFound, match=r"No module named 'no_such_library' .*initialize"):
        default_registry.find("bad")


def test_two_distributions_of_one_name_are_both_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "plugin-a", "same = plugin_a:A")
    install(tmp_path, "plugin-b", "same = plugin_b:B")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NodeTypeNotFound, match="declared by plugin-a and plugin-b"):
        default_registry.find("same")


def test_modules_that_are_named_give_their_nodes_to_this_registry_only(tmp_path: Path) -> None:
    (tmp_path / "voice.py").write_text(MODULE)
    registry = Registry(default_registry)
    path_before = list(sys.path)
    registry.load_module("voice.py", tmp_path)
    assert sys.path == path_before
    assert registry.find("voice:Lower") is not registry.find("voice:Upper")
    assert registry.find("their.upper") is registry.find("voice:Upper")
    with pytest.raises(NodeTypeNotFound):
        default_registry.find("their.upper")
    with pytest.raises(NodeTypeNotFound, match=r"voice has no 'Uper' .did you mean 'voice:Upper'"):
        registry.find("voice:Uper")
    with pytest.raises(NodeTypeNotFound, match="voice:SIZE is int, neither"):
        registry.find("voice:SIZE")


def test_a_module_can_be_loaded_for_two_pipelines_and_after_an_edit(tmp_path: Path) -> None:
    (tmp_path / "voice.py").write_text(MODULE)
    one, two, three = Registry(), Registry(), Registry()
    one.load_module("voice.py", tmp_path)
    two.load_module("voice.py", tmp_path)
    assert one.find("their.upper") is two.find("their.upper")
    (tmp_path / "voice.py").write_text(MODULE.replace("their.upper", "edited"))
    three.load_module("voice.py", tmp_path)
    assert three.names() == ("edited", "voice:Lower", "voice:Upper")


def test_nodes_of_named_modules_can_be_found_by_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voice.py").write_text("from beside import Lower\n" + MODULE)
    (tmp_path / "beside.py").write_text(MODULE.replace("their.upper", "beside.upper"))
    registry = Registry()
    registry.load_module("voice.py", tmp_path)
    registry.load_module("beside", tmp_path)
    reference = reference_to(registry.find("voice:Upper"))
    assert isinstance(reference, FileReference)
    assert reference.path == str(tmp_path / "voice.py")
    beside = reference_to(registry.find("beside:Upper"))
    assert beside == ModuleReference("beside", "Upper", str(tmp_path))
    monkeypatch.delitem(sys.modules, "beside")


def test_a_module_that_cannot_be_loaded_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("1 / 0\n")
    registry = Registry()
    with pytest.raises(ImportError, match="ZeroDivisionError: division by zero"):
        registry.load_module("raises.py", tmp_path)
    with pytest.raises(ImportError, match=r"there is no Python file .*missing\.py"):
        registry.load_module("missing.py", tmp_path)
    with pytest.raises(ImportError, match="No module named 'missing'"):
        registry.load_module("missing", tmp_path)


@pytest.mark.parametrize("name", ["", "../../proc/self/mem", "a..b", ".beside"])
def test_a_module_is_a_python_file_or_a_dotted_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"neither a path that ends in \.py nor a dotted name"):
        Registry().load_module(name, tmp_path)


def test_two_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "voice.py").write_text(MODULE)
    registry = Registry()
    registry.load_module("a/voice.py", tmp_path)
    with pytest.raises(ValueError, match="there are two modules 'voice'"):
        registry.load_module("b/voice.py", tmp_path)


def test_a_module_hidden_by_an_imported_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(MODULE)
    with pytest.raises(ImportError, match=r"'json' beside the pipeline is hidden by"):
        Registry().load_module("json", tmp_path)


def test_a_module_that_exits_is_one_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\n")
    with pytest.raises(ImportError, match="SystemExit: 7"):
        Registry().load_module("leaves.py", tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("voise:Loud", "did you mean 'voice:Loud'?"),
        ("voice.py:Loud", "did you mean 'voice:Loud'?"),
        ("lib/other.py:Quiet", "add it to them, and write other:Quiet"),
        ("lib/other.py", "list it among the modules, and say which class: other:ClassName"),
    ],
)
def test_a_module_that_is_not_listed_is_told_from_one_that_is_misspelled(
    tmp_path: Path, name: str, hint: str
) -> None:
    (tmp_path / "voice.py").write_text(
        "import remotemedia as rm\n\n\nclass Loud(rm.Node):\n"
        "    def process(self, text: rm.Text) -> rm.Text:\n        return text\n"
    )
    registry = Registry()
    registry.load_module("voice.py", tmp_path)
    with pytest.raises(NodeTypeNotFound) as raised:
        registry.find(name)
    assert raised.value.suggestion == hint
