"""Pipelines as they are written in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remotemedia.core.node import Node
from remotemedia.core.pipeline import Connection, NodeConfig, Pipeline, Restart

if TYPE_CHECKING:
    from remotemedia.data import Text


class Upper(Node):
    def process(self, text: Text) -> Text:
        return text


def test_nodes_and_connections_are_kept_in_order_by_chained_calls() -> None:
    pipeline = (
        Pipeline("shout")
        .add_node("upper", Upper)
        .add_node("bang", "text.suffix", suffix="!", node="a parameter", node_type=3)
        .add_node(
            NodeConfig(
                node_type="lfm2_audio",
                node_id="s2s",
                executor="python",
                config={"model": "large", "device": "cuda"},
            )
        )
        .connect("upper", "bang")
        .connect("bang.out", "s2s", policy="latest")
        .connect(Connection("s2s", "audio", "upper", "in", "drop_oldest", 8))
    )
    assert pipeline.nodes == (
        NodeConfig(Upper, "upper"),
        NodeConfig(
            "text.suffix", "bang", config={"suffix": "!", "node": "a parameter", "node_type": 3}
        ),
        NodeConfig("lfm2_audio", "s2s", "python", {"model": "large", "device": "cuda"}),
    )
    assert [str(connection) for connection in pipeline.connections] == [
        "upper -> bang",
        "bang.out -> s2s",
        "s2s.audio -> upper.in",
    ]
    assert pipeline.connections[2].capacity == 8
    assert repr(pipeline) == "Pipeline('shout', nodes=[upper, bang, s2s], connections=3)"


def test_defaults_start_a_node_like_this_process_and_never_again() -> None:
    config = NodeConfig("x", "x")
    assert (config.executor, dict(config.config), dict(config.environment)) == (None, {}, {})
    assert config.inherit_environment
    assert config.restart == Restart("never", 3, 30.0, (0.1, 5.0))
    assert config.on_error == "fail"
    assert config.stall_timeout_seconds is None


def test_calls_that_say_too_little_or_too_much_are_refused() -> None:
    pipeline = Pipeline()
    with pytest.raises(TypeError, match="needs a node type"):
        pipeline.add_node("upper")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="says everything itself"):
        pipeline.add_node(NodeConfig("x", "x"), size=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="needs a target"):
        pipeline.connect("upper")  # type: ignore[call-overload]
