"""`remotemedia graph`: pictures of pipelines, in characters and as Mermaid."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.cli import picture
from remotemedia.cli.app import app
from remotemedia.cli.picture import TooLarge, Vertex, draw
from tests.cli_helpers import write_pipeline

if TYPE_CHECKING:
    from pathlib import Path

FORK = """
version: v1
nodes:
  - {id: a, node_type: text.upper}
  - {id: b, node_type: text.upper}
  - {id: c, node_type: text.upper}
connections:
  - {from: a, to: b, policy: latest}
  - {from: a, to: c, capacity: 8}
  - {from: b, to: c}
  - {from: c, to: a, policy: drop_oldest}
"""


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    path = tmp_path / "fork.yaml"
    path.write_text(FORK)
    return path


def test_a_chain_is_drawn_from_top_to_bottom() -> None:
    vertices = {"a": Vertex(("in",), is_box=False), "b": Vertex(("node", "its.type"))}
    assert draw(vertices, [("a", "b")]).splitlines() == [
        "     in",
        "      │",
        "      ▼",
        "┌──────────┐",
        "│   node   │",
        "│ its.type │",
        "└──────────┘",
    ]


def test_a_fork_is_drawn_as_one_line_that_splits() -> None:
    names = "abcd"
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    assert draw({name: Vertex((name,)) for name in names}, edges).splitlines() == [
        "    ┌───┐",
        "    │ a │",
        "    └─┬─┘",
        "  ┌───┴───┐",
        "  ▼       ▼",
        "┌───┐   ┌───┐",
        "│ b │   │ c │",
        "└─┬─┘   └─┬─┘",
        "  └──┐    │",
        "     │ ┌──┘",
        "     ▼ ▼",
        "    ┌───┐",
        "    │ d │",
        "    └───┘",
    ]


@settings(deadline=None, max_examples=60)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9))), st.integers(1, 10))
def test_any_graph_shows_all_its_vertices_and_an_arrow_per_edge(
    pairs: set[tuple[int, int]], count: int
) -> None:
    edges = [(f"n{a}", f"n{b}") for a, b in sorted(pairs) if a < b < count]
    drawn = draw({f"n{n}": Vertex((f"n{n}",)) for n in range(count)}, edges)
    for number in range(count):
        assert drawn.count(f"│ n{number} │") == 1
    assert drawn.count("▼") <= len(edges)
    assert bool(edges) == ("▼" in drawn)


@pytest.mark.parametrize("is_chain", [True, False], ids=["chain", "fan"])
def test_a_picture_of_thousands_of_nodes_is_drawn_all_the_same(is_chain: bool) -> None:
    count = 3000
    names = [f"n{number}" for number in range(count)]
    edges = [(names[n if is_chain else 0], names[n + 1]) for n in range(count - 1)]
    drawn = draw({name: Vertex((name,)) for name in names}, edges)
    assert drawn.count("▼") == count - 1


@pytest.mark.parametrize("is_wide", [True, False])
def test_a_picture_that_nobody_could_look_at_is_refused(is_wide: bool) -> None:
    count = 30_000 if is_wide else 1_000
    names = [f"n{number}" for number in range(count)]
    edges = [] if is_wide else [*pairwise(names), *((names[0], name) for name in names[1:])]
    with pytest.raises(TooLarge, match=r"more than 1,000,000 characters"):
        draw({name: Vertex((name,)) for name in names}, edges)


def test_who_asks_for_a_picture_that_is_too_large_is_told_of_mermaid(
    fork: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_CHARACTERS", 10)
    done = CliRunner().invoke(app, ["graph", str(fork)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("characters; --mermaid prints it as a flowchart\n")


def test_a_file_is_drawn_with_its_connections_below(fork: Path) -> None:
    done = CliRunner().invoke(app, ["graph", str(fork)])
    assert done.exit_code == 0
    assert "│ text.upper │" in done.stdout
    assert done.stdout.splitlines()[-4:] == [
        "a.out -> b.in  Text  latest",
        "a.out -> c.in  Text  block 8",
        "b.out -> c.in  Text  block 100",
        "c.out -> a.in  Text  drop_oldest 100, leads back: not drawn",
    ]


def test_mermaid_draws_lossy_connections_dashed(fork: Path) -> None:
    done = CliRunner().invoke(app, ["graph", str(fork), "--mermaid"])
    assert done.stdout.splitlines() == [
        "flowchart LR",
        '    n0["a<br/>text.upper"]',
        '    n1["b<br/>text.upper"]',
        '    n2["c<br/>text.upper"]',
        '    n0 -.->|"out to in: latest"| n1',
        '    n0 -->|"out to in: block 8"| n2',
        '    n1 -->|"out to in: block 100"| n2',
        '    n2 -.->|"out to in: drop_oldest 100"| n0',
    ]


def test_mermaid_shows_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: v1\nnodes: [{id: a, node_type: text.upper}]\n")
    done = CliRunner().invoke(app, ["graph", str(tmp_path / "p.yaml"), "--mermaid"])
    assert '    in0(["input"]) -->|"in: Text"| n0' in done.stdout
    assert '    n0 -->|"out: Text"| out0(["output"])' in done.stdout


def test_json_has_what_the_picture_shows_with_the_changes_asked_for(tmp_path: Path) -> None:
    path = str(write_pipeline(tmp_path, ("Gain", {"factor": 1.0}), ("Loud", {})))
    asked = ["graph", path, "--json", "--set", "gain.factor=3.0"]
    about = json.loads(CliRunner().invoke(app, asked).stdout)
    assert about["pipeline"] == "tested"
    assert about["nodes"][0] == {
        "id": "gain",
        "node_type": "cli_nodes:Gain",
        "params": {"factor": 3.0},
    }
    assert about["connections"] == [
        {
            "from": "gain.out",
            "to": "loud.in",
            "kinds": ["Audio"],
            "policy": "block",
            "capacity": 100,
            "leads_back": False,
        }
    ]
    assert [about["inputs"], about["outputs"]] == [
        [{"name": "gain.in", "kinds": ["Audio"]}],
        [{"name": "loud.out", "kinds": ["Json"]}],
    ]


def test_a_picture_has_one_form(fork: Path) -> None:
    done = CliRunner().invoke(app, ["graph", str(fork), "--json", "--mermaid"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cannot both be given" in done.stderr


def test_what_is_no_pipeline_is_no_picture(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["graph", str(tmp_path / "missing.yaml")])
    assert done.exit_code == 2
    assert "No such file" in done.stderr
