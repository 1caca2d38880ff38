"""The tables of `run`: nodes and connections while it runs, latencies at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from remotemedia.cli.watch import percentile
from remotemedia.cli.wording import bytes_text, duration_text, plural, progress_text, rate_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import ConsoleDimensions, RenderableType

    from remotemedia.cli.watch import NodeView, Watch
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats

__all__ = ["as_data", "live_view", "summary"]

STATE_STYLES = {
    "ready": "green",
    "processing": "bold green",
    "draining": "yellow",
    "stopping": "yellow",
    "stopped": "dim",
    "error": "bold red",
}


HEAD_ROWS = 2
"""Of a table: the names of its columns, and a line."""

Item = TypeVar("Item")


def live_view(watch: Watch, size: ConsoleDimensions) -> RenderableType:
    """Return what to show of a session at this moment.

    Args:
        watch: of the session.
        size: of the terminal. Where it is too small for all, the busiest nodes and connections are
            shown, and at least twice as many of these as of those.
    """
    # The cursor rests on the empty line at its end, where the terminal writes its ^C.
    end = Text()
    nodes = watch.read_nodes()
    if watch.ready_at is None:
        head = Text(f"starting for {duration_text(time.monotonic() - watch.started_at)}")
        head = _headed(watch, head)
        rows = size.height - _height(head, size.width) - HEAD_ROWS - 2
        return Group(head, Text(), _nodes(nodes, rows), end)
    parts = [f"{duration_text(time.monotonic() - watch.ready_at)}"]
    if watch.pipeline.inputs:
        seconds = f" ({duration_text(watch.sent_seconds)})" if watch.sent_seconds else ""
        parts.append(f"in {watch.sent:,}{seconds}")
    parts.append(f"out {watch.received:,}")
    head = _headed(watch, Text("   ".join(parts)))
    connections = [(one, watch.rate(one)) for one in watch.connections()]
    rows = size.height - _height(head, size.width) - 2 * HEAD_ROWS - 3
    node_rows = max(rows - len(connections), rows // 3)
    table = _connections(connections, rows - min(node_rows, len(nodes)))
    return Group(head, Text(), _nodes(nodes, node_rows), Text(), table, end)


def _height(text: Text, width: int) -> int:
    return -(-text.cell_len // width)


def _busiest(
    items: Sequence[Item], rows: int, key: Callable[[Item], tuple[bool, float]]
) -> list[Item]:
    """Return the items of the largest keys, as many as have rows, at least one, in their order."""
    ranked = sorted(range(len(items)), key=lambda at: key(items[at]), reverse=True)
    return [items[at] for at in sorted(ranked[: max(1, rows)])]


def _counted(name: str, shown: Sequence[Item], items: Sequence[Item]) -> str:
    """Return the head of a column that says how many of all are shown, where some are not."""
    return name if len(shown) == len(items) else f"{name} {len(shown)}/{len(items)}"


def _headed(watch: Watch, head: Text) -> Text:
    hint = "ending; Ctrl-C again ends it now" if watch.is_ending else "Ctrl-C ends it"
    return Text.assemble((watch.pipeline.name, "bold"), "   ", head, "   ", (hint, "dim"))


def _table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        header_style="dim",
    )


def _nodes(nodes: Sequence[NodeView], rows: int) -> Table:
    def importance(node: NodeView) -> tuple[bool, float]:
        is_usual = node.phase in ("ready", "processing") and not node.skipped and not node.restarts
        return not is_usual, node.cpu_percent

    shown = _busiest(nodes, rows, importance)
    table = _table()
    table.add_column(_counted("node", shown, nodes), no_wrap=True)
    table.add_column("type", style="dim", no_wrap=True)
    table.add_column("state", min_width=12)
    table.add_column("cpu", justify="right", no_wrap=True, min_width=5)
    table.add_column("memory", justify="right", no_wrap=True, min_width=9)
    for node in shown:
        memory = bytes_text(node.memory_bytes) if node.memory_bytes else ""
        cpu = f"{node.cpu_percent:.0f} %" if node.memory_bytes else ""
        table.add_row(node.node_id, node.type_name, _state(node), cpu, memory)
    return table


def _state(node: NodeView) -> Text:
    fraction = node.fraction if node.ready_seconds is None else 0.0
    words = progress_text(node.phase, fraction, node.message)
    text = Text(words, style=STATE_STYLES.get(node.phase, "cyan"))
    if node.skipped:
        text.append(f" {node.skipped} skipped", style="red")
    if node.restarts:
        text.append(f" {plural(node.restarts, 'restart')}", style="red")
    return text


def _connections(connections: Sequence[tuple[ConnectionStats, float]], rows: int) -> Table:
    def importance(row: tuple[ConnectionStats, float]) -> tuple[bool, float]:
        one, rate = row
        return one.queued * 2 >= one.capacity > 1, rate

    shown = _busiest(connections, rows, importance)
    table = _connection_table(_counted("connection", shown, connections), ("rate", "queued"))
    for one, rate in shown:
        queued = f"{one.queued}/{one.capacity}"
        table.add_row(*_connection_row(one, rate_text(rate), queued))
    return table


def _totals(watch: Watch) -> Table:
    table = _connection_table("connection", ("messages",))
    for one in watch.connections():
        table.add_row(*_connection_row(one, f"{one.sent:,}"))
    return table


def _connection_table(name: str, counts: Sequence[str]) -> Table:
    table = _table()
    table.add_column(name, overflow="fold", min_width=16)
    table.add_column("policy", style="dim", no_wrap=True)
    for count in counts:
        table.add_column(count, justify="right", no_wrap=True)
    table.add_column("p50 <", justify="right", no_wrap=True)
    table.add_column("p99 <", justify="right", no_wrap=True)
    table.add_column("dropped", justify="right", no_wrap=True)
    return table


def _connection_row(one: ConnectionStats, *counts: str) -> tuple[str | Text, ...]:
    percentiles = (_percentile(one, percent) for percent in (50, 99))
    return (shown_name(one.name), one.policy, *counts, *percentiles, _dropped(one))


def shown_name(name: str) -> str:
    """Return the short name of a connection: without ports that everybody has, out and in.

    The session's own ends are called input and output.
    """
    source, _, target = name.partition(" -> ")
    source = "input" if source.startswith("input ") else source.removesuffix(".out")
    target = "output" if target == "session" else target.removesuffix(".in")
    return f"{source} -> {target}"


def _percentile(one: ConnectionStats, percent: float) -> str:
    nanoseconds = one.latency.percentile_ns(percent)
    return duration_text(nanoseconds / 1e9) if nanoseconds else "-"


def _dropped(one: ConnectionStats) -> Text:
    reasons = {reason: count for reason, count in one.dropped.items() if count}
    if not reasons:
        return Text("0", style="dim")
    text = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return Text(text, style="yellow" if set(reasons) <= {"overwritten"} else "red")


def summary(watch: Watch) -> RenderableType:
    """Return what is worth knowing of a session that has ended."""
    lines = _end_to_end(watch)
    return Group(Text(), _totals(watch), *([Text()] if lines else []), *lines)


def _end_to_end(watch: Watch) -> list[Text]:
    latency = watch.latency
    lines = []
    if latency.delays:
        p50, p99 = (duration_text(percentile(latency.delays, percent)) for percent in (50, 99))
        most = duration_text(max(latency.delays))
        lines.append(
            f"from an input to its first output: p50 {p50}, p99 {p99}, most {most} "
            f"({len(latency.delays):,} of {watch.sent:,} inputs had one)"
        )
    if sounds := latency.to_first_sound.values():
        p50, most = duration_text(percentile(sounds, 50)), duration_text(max(sounds))
        lines.append(
            f"from the end of speech to the first sound: p50 {p50}, most {most} "
            f"({plural(len(sounds), 'time')})"
        )
    if latency.after_last is not None:
        lines.append(f"from the last input to the next output: {duration_text(latency.after_last)}")
    if (seconds := watch.drain_seconds) is not None:
        lines.append(
            f"from the end of the input to the end of the output: {duration_text(seconds)}"
        )
    return [Text(line) for line in lines]


def as_data(watch: Watch) -> dict[str, object]:
    """Return the summary as plain data, times in seconds."""
    latency = watch.latency
    first: dict[str, object] = {"count": len(latency.delays)}
    if latency.delays:
        first |= {f"p{n}_seconds": percentile(latency.delays, n) for n in (50, 99)}
        first["max_seconds"] = max(latency.delays)
    sounds = latency.to_first_sound.values()
    sound: dict[str, object] = {"count": len(sounds)}
    if sounds:
        sound |= {"p50_seconds": percentile(sounds, 50), "max_seconds": max(sounds)}
    return {
        "type": "summary",
        "pipeline": watch.pipeline.name,
        "inputs": watch.sent,
        "outputs": watch.received,
        "first_output": first,
        "speech_end_to_first_sound": sound,
        "after_last_input_seconds": latency.after_last,
        "drain_seconds": watch.drain_seconds,
        "connections": [
            {
                "name": one.name,
                "policy": one.policy,
                "capacity": one.capacity,
                "sent": one.sent,
                "received": one.received,
                "dropped": {reason: count for reason, count in one.dropped.items() if count},
                "p50_below_seconds": one.latency.percentile_ns(50) / 1e9,
                "p99_below_seconds": one.latency.percentile_ns(99) / 1e9,
            }
            for one in watch.connections()
        ],
    }
