"""The commands that start nothing: validate, nodes, and what all have in common."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

import remotemedia as rm
from remotemedia.cli.app import app
from remotemedia.cli.docstring import described
from remotemedia.cli.wording import bytes_text, duration_text, rate_text
from remotemedia.nodes.extras import install_command
from tests.cli_helpers import COMMAND, NODES, remotemedia, write_pipeline

BAD = """version: v1
nodes:
  - {id: a, node_type: text.uper}
  - {id: b, node_type: text.suffix, params: {sufix: "!"}}
connections:
  - {from: a, to: c}
"""


def test_validate_says_everything_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[:2] == [
        f"{path}:3: node 'a': unknown node type 'text.uper'",
        "    did you mean 'text.upper'?",
    ]
    assert [line.partition(": ")[0] for line in done.stderr.splitlines() if line[0] != " "] == [
        f"{path}:{line}" for line in (3, 4, 4, 6)
    ]


@pytest.mark.parametrize(
    "words", ["validate ../p.yaml", "run ../p.yaml --text a", "graph ../p.yaml", "new a"]
)
def test_a_working_folder_that_was_removed_is_a_clear_error(tmp_path: Path, words: str) -> None:
    (tmp_path / "m.py").write_text("")
    path = tmp_path / "p.yaml"
    path.write_text("version: v1\nmodules: [m.py]\nnodes: [{id: a, node_type: text.upper}]\n")
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command = ["sh", "-c", script, "sh", str(tmp_path / "gone"), *COMMAND, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the working folder no longer exists; go to another\n"


def test_validate_says_what_is_wrong_with_keys_and_with_the_rest_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("""version: v1
nmae: x
modules: [nowhere.py]
nodes:
  - {id: a, nodetype: text.upper}
  - {id: b, node_type: text.join, parms: {count: 2}}
  - {id: c, node_type: text.uper}
  - {id: d, node_type: text.suffix, params: {sufix: "!", suffix: ""}, on_error: skipp}
connections:
  - {fom: a, to: b}
  - {from: a, to: b, policy: blok}
  - {from: b, to: e, polcy: block}
""")
    done = CliRunner().invoke(app, ["validate", str(path)])
    found = [line.removeprefix(f"{path}:") for line in done.stderr.splitlines() if line[0] != " "]
    assert (done.exit_code, found) == (
        2,
        [
            "2: pipeline, key 'nmae': unknown key",
            f"3: module 'nowhere.py': cannot be imported: there is no Python file "
            f"{tmp_path}/nowhere.py",
            "5: node 'a', key 'nodetype': unknown key",
            "6: node 'b', key 'parms': unknown key",
            "7: node 'c': unknown node type 'text.uper'",
            "8: node 'd', key 'on_error': must be one of 'fail', 'skip', got 'skipp'",
            "8: node 'd', parameter 'sufix': unknown parameter",
            "10: connections[0], key 'fom': unknown key",
            "11: connection a -> b, key 'policy': must be one of 'block', 'drop_oldest', "
            "'latest', 'error', got 'blok'",
            "12: connection b -> e, key 'polcy': unknown key",
            "12: connection b -> e: there is no node 'e'",
        ],
    )
    done = CliRunner().invoke(app, ["run", str(path), "--text", "a"])
    assert (done.exit_code, done.stderr.count("\n  line ")) == (2, 11)


def test_a_syntax_error_of_a_module_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "version: v1\nmodules: [odd.py]\nnodes: [{id: a, node_type: 'odd:Odd'}]\n"
    )
    odd = tmp_path / "odd.py"
    odd.write_text("import remotemedia as rm\n\n\nclass Odd(rm.Node)\n    x = 1\n")
    shown = [
        "SyntaxError: expected ':'",
        f'  File "{odd}", line 4',
        "    class Odd(rm.Node)",
        "                      ^",
    ]
    done = CliRunner().invoke(app, ["validate", str(tmp_path / "p.yaml")])
    head = f"{tmp_path}/p.yaml:2: module 'odd.py': cannot be imported: "
    assert (done.exit_code, done.stderr.splitlines()) == (2, [head + shown[0], *shown[1:]])
    done = CliRunner().invoke(app, ["run", str(tmp_path / "p.yaml"), "--text", "a"])
    assert [line.removeprefix("  ") for line in done.stderr.splitlines()[2:]] == shown[1:]
    done = CliRunner().invoke(app, ["nodes", "-m", str(odd)])
    assert done.stderr.splitlines()[1:] == shown[1:]


@pytest.mark.parametrize(
    "wrong",
    ["modles: [a.py]\nnodes: [{id: a, node_type: 'a:A'}]", "nodes: [{node_type: x}, {id: 3}]"],
)
def test_validate_does_not_take_consequences_for_mistakes(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"version: v1\n{wrong}\nconnections: [{{from: a, to: b}}]\n")
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert done.exit_code == 2
    assert "there is no node" not in done.stderr
    assert "is not among" not in done.stderr


def test_validate_gives_its_findings_as_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    done = CliRunner().invoke(app, ["validate", str(path), "--json"])
    assert done.exit_code == 2
    answer = json.loads(done.stdout)
    assert not answer["ok"]
    assert [one["line"] for one in answer["findings"]] == [3, 4, 4, 6]


@pytest.mark.parametrize("name", ["p.yaml", "\udcff.yaml", "\xe9.yaml"])
def test_all_commands_write_json_in_the_same_form(tmp_path: Path, name: str) -> None:
    path = write_pipeline(tmp_path, ("Gain", {})).rename(tmp_path / name)
    words: list[list[object]] = [
        ["validate", path],
        ["validate", f"{path}.gone"],
        ["graph", path],
        ["doctor"],
        ["nodes"],
    ]
    words += [["nodes", "text.upper"], ["run", path]]
    for command in words:
        line = CliRunner().invoke(app, [*map(str, command), "--json"]).stdout.rstrip("\n")
        is_utf8 = "\\udcff" not in line
        compact = json.dumps(json.loads(line), ensure_ascii=not is_utf8, separators=(",", ":"))
        assert line == compact, command


def test_validate_passes_what_can_run_with_the_changes_asked_for(tmp_path: Path) -> None:
    path = str(write_pipeline(tmp_path, ("Gain", {}), ("Loud", {})))
    done = CliRunner().invoke(app, ["validate", path])
    assert (done.exit_code, done.stdout) == (0, f"{path}: ok, 2 nodes, 1 connection\n")
    done = CliRunner().invoke(app, ["validate", path, "--set", "gain.factor=much"])
    assert done.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"just text", b"nodes: [", b"[]"])
def test_validate_survives_what_is_no_pipeline(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{path}:")


def test_validate_finds_two_nodes_of_one_id_also_where_one_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nname: p\nnodes:\n"
        "  - {id: up, node_type: text.upper}\n"
        "  - {id: up, node_type: text.upper, parms: {a: 1}}\n"
        "  - {id: up, node_type: text.upper, parms: {a: 2}}\n"
    )
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert done.exit_code == 2
    assert done.stderr.count("there are two nodes of this id") == 2


def test_validate_gives_a_hint_once_that_several_problems_have(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nname: p\nnodes:\n"
        "  - {id: a, node_type: text.uper}\n"
        "  - {id: b, node_type: text.splti}\n"
        "  - {id: c, node_type: text.uper}\n"
    )
    done = CliRunner().invoke(app, ["validate", str(path)])
    hints = [line for line in done.stderr.splitlines() if line.startswith(" ")]
    assert done.stderr.count("unknown node type") == 3
    assert hints == ["    did you mean 'text.upper'?", "    did you mean 'text.split'?"]


@pytest.fixture
def without_xllamacpp(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        return None if name == "xllamacpp" else found(name)

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.usefixtures("without_xllamacpp")
def test_validate_warns_of_an_extra_that_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nname: p\nnodes:\n  - {id: a, node_type: llm.chat}\n"
        f"  - {{id: b, node_type: llm.chat, python_executable: {sys.executable}}}\n"
        "  - {id: c, node_type: llm.chat, python_executable: /no/such/python}\n"
    )
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert (done.exit_code, done.stdout) == (0, f"{path}: ok, 3 nodes, 0 connections\n")
    assert done.stderr == (
        f"{path}: node 'a': warning: it needs the extra 'llm', which is not installed "
        f"(no xllamacpp)\n    {install_command('llm')}\n"
        f"{path}: node 'c', python_executable: warning: there is no program /no/such/python\n"
    )
    said = json.loads(CliRunner().invoke(app, ["validate", str(path), "--json"]).stdout)
    assert said["ok"]
    assert [one["where"] for one in said["warnings"]] == ["node 'a'", "node 'c', python_executable"]


@pytest.mark.usefixtures("without_xllamacpp")
def test_run_starts_nothing_and_says_all_that_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nname: p\nnodes:\n  - {id: a, node_type: llm.chat}\n"
        "  - {id: b, node_type: llm.chat}\n"
    )
    done = CliRunner().invoke(app, ["run", str(path), "--text", "hi", "--to", "a"])
    assert done.exit_code == 1
    lacking = "it needs the extra 'llm', which is not installed (no xllamacpp)"
    assert done.stderr == (
        f"error: nothing was started:\n  node 'a': {lacking} ({install_command('llm')})\n"
        f"  node 'b': {lacking} ({install_command('llm')})\n"
    )


@pytest.mark.usefixtures("without_xllamacpp")
def test_nodes_marks_types_whose_extra_is_not_installed() -> None:
    done = CliRunner().invoke(app, ["nodes"])
    assert re.search(r"^llm\.chat .*\(extra llm, not installed\)$", done.stdout, re.MULTILINE)
    assert "(extra None" not in done.stdout
    done = CliRunner().invoke(app, ["nodes", "llm.chat"])
    assert f"\nneeds the extra llm, not installed: {install_command('llm')}\n" in done.stdout


def test_nodes_lists_types_with_the_first_line_of_their_documentation() -> None:
    done = CliRunner().invoke(app, ["nodes"])
    assert done.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["text.upper"] == "Writes text in capitals."


def test_nodes_shows_ports_and_parameters_of_one_type() -> None:
    done = CliRunner().invoke(app, ["nodes", "text.join"])
    assert done.exit_code == 0
    assert "inputs\n  in  Text\n" in done.stdout
    assert "  count: int            how many make one, at least 1. (required)\n" in done.stdout
    assert "  separator: str = ' '  what is put between them.\n" in done.stdout


def test_nodes_looks_into_modules_that_are_named() -> None:
    done = CliRunner().invoke(app, ["nodes", "cli_nodes:Mixer", "-m", str(NODES), "--json"])
    about = json.loads(done.stdout)
    assert [port["name"] for port in about["inputs"]] == ["left", "right"]
    done = CliRunner().invoke(app, ["nodes", "-m", str(NODES)])
    assert re.search(r"^cli_nodes:Gain +Makes sound louder\.$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["text.jion"], "did you mean 'text.join'?"),
        (["nodes:Shout"], "remotemedia nodes -m nodes.py nodes:Shout"),
        (["lib/nodes.py"], "remotemedia nodes -m lib/nodes.py"),
        (["lib/nodes.py:Shout"], "remotemedia nodes -m lib/nodes.py nodes:Shout"),
        (["cli_nodes:Gian", "-m", str(NODES)], "did you mean 'cli_nodes:Gain'?"),
        (["cli_noeds:Gain", "-m", str(NODES)], "did you mean 'cli_nodes:Gain'?"),
        (["-m", "no.such.module"], "cannot be imported"),
    ],
)
def test_nodes_says_what_it_cannot_find(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["nodes", *arguments])
    assert done.exit_code == 2
    assert problem in done.stderr


def test_a_docstring_is_taken_apart() -> None:
    doc = """First line.

    More of it: with a colon.

    Args:
        one: the first,
            on two lines.
        two, three: the others.
        four (int): typed.

    Raises:
        ValueError: never.
    """
    import inspect

    found = described(inspect.cleandoc(doc))
    assert found.text == "First line.\n\nMore of it: with a colon."
    assert found.arguments == {
        "one": "the first, on two lines.",
        "two": "the others.",
        "three": "the others.",
        "four": "typed.",
    }
    assert described("").text == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (131e-6, "131 us"),
        (0.0042, "4.2 ms"),
        (0.537, "537 ms"),
        (2.149, "2.15 s"),
        (42.0, "42.0 s"),
        (200.0, "3:20 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_sizes_and_rates_too() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1536, 200 << 20, 3 << 40)] == [
        *("0 B", "1023 B", "1.5 KiB", "200 MiB", "3.0 TiB")
    ]
    assert [rate_text(n) for n in (0, 0.42, 50.4)] == ["0/s", "0.4/s", "50/s"]


def test_the_version_is_that_of_the_package() -> None:
    done = remotemedia("--version")
    assert done.stdout == "remotemedia 0.1.0\n"


def test_where_the_package_is_found_by_pythonpath_alone_the_version_is_said_to_be_unknown(
    tmp_path: Path,
) -> None:
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "remotemedia" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "remotemedia").symlink_to(Path(rm.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def stdout_of(*arguments: str) -> str:
        python = [sys.executable, "-S", "-m", "remotemedia"]
        done = subprocess.run(
            [*python, *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout

    assert stdout_of("--version").startswith("remotemedia of unknown version")
    found = stdout_of("doctor")
    assert "remotemedia is not installed" in found
    assert "no node type has its name" in found
    assert ": ok, 1 node," in stdout_of("validate", str(write_pipeline(tmp_path, ("Gain", {}))))


@pytest.mark.parametrize("command", ["", *sorted(app.commands)])
def test_every_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"] if command else ["--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


def test_help_loads_no_runtime() -> None:
    code = (
        "import sys; from remotemedia.cli.app import app; "
        "app(['run', '--help'], standalone_mode=False); "
        "print(*(n for n in ('asyncio', 'numpy', 'yaml', 'rich') if n in sys.modules))"
    )
    done = subprocess.run([*COMMAND[:1], "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "", done.stderr
