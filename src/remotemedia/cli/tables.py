"""The tables of `run`: nodes and connections while it runs, latencies at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from remotemedia.cli.watch import percentile
from remotemedia.cli.wording import bytes_text, duration_text, plural, progress_text, rate_text

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def live_view(watch: Watch) -> RenderableType:
    """Return what to show of a session at this moment."""
    # The cursor rests on the empty line at its end, where the terminal writes its ^C.
    end = Text()
    if watch.ready_at is None:
        head = Text(f"starting for {duration_text(time.monotonic() - watch.started_at)}")
        return Group(_headed(watch, head), Text(), _nodes(watch), end)
    parts = [f"{duration_text(time.monotonic() - watch.ready_at)}"]
    if watch.pipeline.inputs:
        seconds = f" ({duration_text(watch.sent_seconds)})" if watch.sent_seconds else ""
        parts.append(f"in {watch.sent:,}{seconds}")
    parts.append(f"out {watch.received:,}")
    head = Text("   ".join(parts))
    connections = _connections(watch, is_live=True)
    return Group(_headed(watch, head), Text(), _nodes(watch), Text(), connections, end)


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


def _nodes(watch: Watch) -> Table:
    table = _table()
    table.add_column("node", no_wrap=True)
    table.add_column("type", style="dim", no_wrap=True)
    table.add_column("state", min_width=12)
    table.add_column("cpu", justify="right", no_wrap=True, min_width=5)
    table.add_column("memory", justify="right", no_wrap=True, min_width=9)
    for node in watch.read_nodes():
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


def _connections(watch: Watch, *, is_live: bool) -> Table:
    table = _table()
    table.add_column("connection", overflow="fold", min_width=16)
    table.add_column("policy", style="dim", no_wrap=True)
    table.add_column("rate" if is_live else "messages", justify="right", no_wrap=True)
    if is_live:
        table.add_column("queued", justify="right", no_wrap=True)
    table.add_column("p50 <", justify="right", no_wrap=True)
    table.add_column("p99 <", justify="right", no_wrap=True)
    table.add_column("dropped", justify="right", no_wrap=True)
    for one in watch.connections():
        row = [shown_name(one.name), one.policy]
        if is_live:
            row += [rate_text(watch.rate(one)), f"{one.queued}/{one.capacity}"]
        else:
            row.append(f"{one.sent:,}")
        table.add_row(*row, _percentile(one, 50), _percentile(one, 99), _dropped(one))
    return table


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
    return Group(Text(), _connections(watch, is_live=False), *([Text()] if lines else []), *lines)


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
