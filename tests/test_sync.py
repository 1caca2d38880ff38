"""The synchronous twin: sessions from scripts, notebooks and threads."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator  # noqa: TC003 (annotations of nodes are read)
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

import remotemedia
from remotemedia import (
    EndOfStream,
    ExecutorError,
    MultiprocessConfig,
    Node,
    Pipeline,
    PipelineError,
    PipelineTerminated,
    ProcessCrashed,
    ResourceLimit,
    SessionNotFound,
    SyncRuntime,
    SyncSession,
    Text,
)
from remotemedia.core import loop_thread
from remotemedia.core.loop_thread import LoopThread
from remotemedia.core.multiprocess.events import (
    Event,
    NodeReady,
    ProcessExited,
    SessionReady,
    SessionStateChanged,
)
from remotemedia.core.multiprocess.states import SessionState
from remotemedia.nodes.text import Split, Suffix, Upper
from tests.executor_helpers import wait_until
from tests.executor_nodes import Deaf
from tests.process_helpers import exists


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def never(text: Text) -> Text:
    raise ValueError(text.text)


class Unready(Node):
    def initialize(self) -> None:
        raise OSError("the model cannot be loaded today")

    def process(self, text: Text) -> Text:
        return text


def shout() -> Pipeline:
    pipeline = Pipeline("shout").add_node("upper", Upper).add_node("bang", Suffix, suffix="!")
    return pipeline.connect("upper", "bang")


def split() -> Pipeline:
    return Pipeline("split").add_node("split", Split)


@pytest.fixture
def runtime() -> Iterator[SyncRuntime]:
    with SyncRuntime() as made:
        yield made


@pytest.fixture
def session(runtime: SyncRuntime) -> Iterator[SyncSession]:
    with runtime.session(split(), executor="inline") as made:
        yield made


@pytest.mark.parametrize("executor", ["python", "inline"])
def test_a_script_streams_without_an_event_loop(runtime: SyncRuntime, executor: str) -> None:
    with runtime.session(shout(), executor=executor) as session:
        assert list(session.stream(Text("hello"))) == [Text("HELLO!")]
        assert session.nodes
    assert session.state is SessionState.TERMINATED


def test_a_session_sends_receives_and_counts(session: SyncSession) -> None:
    assert session.send(Text("a b")) == 1
    assert [session.recv(), session.recv()] == [Text("a"), Text("b")]
    assert session.send_nowait(Text("c")) == 2
    assert session.recv() == Text("c")
    assert session.stats()["split.out"].sent == 3
    assert list(session.nodes) == ["split"]
    assert 0 < time.monotonic() - session.created_at < 60
    assert "split" in repr(session) or "session" in repr(session)


def test_a_recv_that_waits_too_long_loses_nothing(session: SyncSession) -> None:
    with pytest.raises(TimeoutError):
        session.recv(timeout_seconds=0.01)
    session.send(Text("a"))
    assert session.recv(timeout_seconds=30) == Text("a")


def test_outputs_end_when_another_thread_closes_the_session(session: SyncSession) -> None:
    session.send(Text("a b"))
    outputs = session.outputs()
    assert next(outputs) == Text("a")
    closing = threading.Thread(target=session.close)
    closing.start()
    assert list(outputs) == [Text("b")]
    closing.join()
    with pytest.raises((EndOfStream, ExecutorError)):
        session.recv()


def test_a_stream_that_is_left_early_is_given_up(session: SyncSession) -> None:
    for output in session.stream(Text("a b c")):
        assert output == Text("a")
        break
    session.interrupt()
    assert list(session.stream(Text("d"))) == [Text("d")]


def test_events_come_from_the_moment_they_are_asked_for(runtime: SyncRuntime) -> None:
    session = runtime.create_session("one", split(), executor="inline")
    events = session.events()
    session.close()
    seen = list(events)
    assert not [one for one in seen if isinstance(one, SessionReady)]
    last = seen[-1]
    assert isinstance(last, SessionStateChanged)
    assert last.after is SessionState.TERMINATED


def test_sessions_are_known_by_name_and_terminated(runtime: SyncRuntime) -> None:
    runtime.create_session("one", split(), executor="inline")
    assert list(runtime.sessions) == ["one"]
    runtime.terminate_session("one")
    assert runtime.sessions == {}
    with pytest.raises(SessionNotFound):
        runtime.terminate_session("one")


def test_a_mistake_in_a_pipeline_is_shown_without_what_found_it(runtime: SyncRuntime) -> None:
    with pytest.raises(PipelineError) as raised:  # noqa: SIM117
        with runtime.session(Pipeline("wrong").add_node("a", "text.uper")):
            pass
    shown = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert shown[1:] == ["__enter__", "session"]
    assert raised.value.__cause__ is None


STARTS_ITSELF = """\
import remotemedia as rm
class Upper(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        return rm.Text(text.text.upper())
pipeline = rm.Pipeline('p').add_node('upper', Upper)
with rm.SyncRuntime() as runtime, runtime.session(pipeline):
    pass
"""


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(remotemedia.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_script_that_would_start_itself_is_told_so_once_and_in_few_lines(tmp_path: Path) -> None:
    script = tmp_path / "shout.py"
    script.write_text(STARTS_ITSELF)
    ran = python(str(script), cwd=tmp_path)
    assert ran.returncode == 1
    *trace, last = ran.stderr.splitlines()
    assert last.endswith('put what runs the pipeline under `if __name__ == "__main__":`')
    assert ran.stderr.count("starts a session while it is loaded") == 1
    assert f'File "{script}", line 6' in trace[1]
    assert len(trace) < 12


@pytest.mark.parametrize("arguments", [("-m", "shout"), ("-c", "import shout")])
def test_a_module_that_would_start_itself_is_told_so_by_its_first_node(
    tmp_path: Path, arguments: tuple[str, str]
) -> None:
    (tmp_path / "shout.py").write_text(STARTS_ITSELF)
    ran = python(*arguments, cwd=tmp_path)
    assert ran.returncode == 1
    *_, last = ran.stderr.splitlines()
    assert re.search(r"node 'upper' of session '[\w.-]+' failed in import: ", last)
    assert "shout starts a session while it is loaded for its nodes" in last
    assert last.endswith('put what runs the pipeline under `if __name__ == "__main__":`')


def test_a_node_that_fails_to_start_is_shown_without_what_started_it(runtime: SyncRuntime) -> None:
    with pytest.raises(ProcessCrashed, match="cannot be loaded today") as raised:  # noqa: SIM117
        with runtime.session(Pipeline("bad").add_node("a", Unready), executor="inline"):
            pass
    shown = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert shown[1:] == ["__enter__", "session"]
    assert "in initialize" in raised.value.traceback


def test_errors_are_those_of_the_asynchronous_runtime(runtime: SyncRuntime) -> None:
    pipeline = Pipeline("bad").add_node("never", never)
    with pytest.raises(PipelineTerminated) as caught:  # noqa: SIM117
        with runtime.session(pipeline, executor="inline") as session:
            list(session.stream(Text("a")))
    assert "ValueError: a" in str(caught.value)


def test_a_runtime_that_was_shut_down_says_so_and_shuts_down_again() -> None:
    runtime = SyncRuntime()
    with runtime.session(split(), executor="inline"):
        runtime.shutdown()
    runtime.shutdown()
    with pytest.raises(ExecutorError, match="shut down"):
        runtime.create_session("one", split(), executor="inline")


async def nothing() -> None:
    return


class LateThread(LoopThread):
    """Its callers are held up once they have the loop, until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_late = False
        self.has_loop = threading.Event()
        self.goes_on = threading.Event()

    def start(self) -> asyncio.AbstractEventLoop:
        loop = super().start()
        if self.is_late:
            self.has_loop.set()
            assert self.goes_on.wait(10)
        return loop


def in_thread(function: Callable[[], object]) -> Future[object]:
    """Call a function in a thread that holds up nothing, whatever becomes of it."""
    result: Future[object] = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return result


def test_a_call_that_comes_when_another_thread_has_shut_down_is_told_so() -> None:
    thread = LateThread()
    thread.run(nothing())
    thread.is_late = True
    calling = in_thread(lambda: thread.run(nothing()))
    assert thread.has_loop.wait(10)
    thread.finish(nothing, nothing)
    thread.goes_on.set()
    with pytest.raises(ExecutorError, match="was shut down"):
        calling.result(10)


@pytest.mark.parametrize("when", ["while tasks are cancelled", "as the loop is closed"])
def test_a_call_that_comes_while_another_thread_shuts_down_ends(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = LateThread()
    loop = thread.start()
    post, close = loop.call_soon_threadsafe, loop.close
    is_posted = threading.Event()

    def note_posted(callback: Callable[..., object], *arguments: Any) -> None:
        post(callback, *arguments)
        is_posted.set()

    def let_it_come() -> None:
        monkeypatch.setattr(loop, "call_soon_threadsafe", note_posted)
        thread.goes_on.set()
        assert is_posted.wait(10)

    async def end_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            let_it_come()

    def close_late() -> None:
        let_it_come()
        close()

    late: Future[None] | None = None  # kept: a loop does not keep a task that waits for ever
    if when == "as the loop is closed":
        monkeypatch.setattr(loop, "close", close_late)
    else:
        late = asyncio.run_coroutine_threadsafe(end_late(), loop)
    thread.is_late = True
    calling = in_thread(lambda: thread.run(asyncio.sleep(3600)))
    assert thread.has_loop.wait(10)
    thread.finish(nothing, nothing)
    with pytest.raises(ExecutorError, match=r"was cancelled|was shut down"):
        calling.result(10)
    assert late is None or late.cancelled()


def test_two_threads_may_shut_down_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = LoopThread()
    thread.run(nothing())
    waits, goes_on = threading.Event(), threading.Event()

    def wait_late(futures: list[Future[object]]) -> None:
        wait(futures)
        if threading.current_thread() is not threading.main_thread():
            waits.set()
            assert goes_on.wait(10)

    monkeypatch.setattr(loop_thread, "wait", wait_late)
    finishing = in_thread(lambda: thread.finish(nothing, nothing))
    assert waits.wait(10)
    thread.finish(nothing, nothing)
    goes_on.set()
    finishing.result(10)


def test_a_runtime_whose_thread_cannot_be_started_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "remotemedia":
            raise RuntimeError("can't start new thread")
        start(thread)

    def use() -> None:
        with SyncRuntime() as runtime:
            runtime.create_session("one", split(), executor="inline")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourceLimit, match=r"can't start new thread; raise .*ulimit -u"):
        in_thread(use).result(10)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("when", [NodeReady, ProcessExited])
def test_what_a_listener_raises_ends_nothing(
    kind: type[BaseException], when: type[Event], caplog: pytest.LogCaptureFixture
) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, when):
            raise kind("from a listener")

    with SyncRuntime() as runtime, runtime.session(split(), on_event=listen) as session:
        assert list(session.stream(Text("a b"))) == [Text("a"), Text("b")]
    assert "from a listener" in caplog.text


@pytest.mark.anyio
async def test_threads_of_a_running_loop_may_use_it(runtime: SyncRuntime) -> None:
    def work() -> list[object]:
        with runtime.session(split(), executor="inline") as session:
            return list(session.stream(Text("a b")))

    assert (
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(2)))
        == [[Text("a"), Text("b")]] * 2
    )
    assert work() == [Text("a"), Text("b")]  # also the loop's own, which is held up


def is_waiting_in(method: Callable[..., object]) -> bool:
    """Whether the main thread is in a method of the twin, and there waits for the runtime's."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    codes = [one.f_code for one, _ in traceback.walk_stack(frame)]
    return codes[0] is threading.Condition.wait.__code__ and method.__code__ in codes


def interrupt_when(runtime: SyncRuntime, *conditions: Callable[[], bool]) -> Future[None]:
    """Press Ctrl-C when each of these has come true, one after the other."""

    async def press() -> None:
        for condition in conditions:
            try:
                await wait_until(condition)
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # also in vain: the main thread waits for it

    return asyncio.run_coroutine_threadsafe(press(), runtime._thread.start())


def interrupt_recv(runtime: SyncRuntime) -> None:
    """Press Ctrl-C when the main thread waits for an output."""
    interrupt_when(runtime, lambda: is_waiting_in(SyncSession.recv))


def is_ending_in(method: Callable[..., object], session: SyncSession) -> Callable[[], bool]:
    """Say when a session ends and the main thread waits for that in a method."""
    return lambda: session.state is SessionState.TERMINATING and is_waiting_in(method)


def test_ctrl_c_ends_a_wait_and_the_session_goes_on(
    runtime: SyncRuntime, session: SyncSession
) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupt_recv(runtime)
        session.recv()
    assert list(session.stream(Text("a"))) == [Text("a")]


def test_ctrl_c_in_a_block_ends_its_session() -> None:
    with pytest.raises(KeyboardInterrupt), SyncRuntime() as runtime:  # noqa: PT012, SIM117
        with runtime.session(shout()) as session:
            interrupt_recv(runtime)
            session.recv()
    assert session.state is SessionState.TERMINATED


def test_ctrl_c_does_not_cut_a_shutdown_short() -> None:
    runtime = SyncRuntime()
    session = runtime.create_session("one", shout())
    loop = runtime._thread.start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (it strikes anywhere)
        loop.call_soon_threadsafe(os.kill, os.getpid(), signal.SIGINT)
        runtime.shutdown()
    runtime.shutdown()
    assert session.state is SessionState.TERMINATED


def deafen(runtime: SyncRuntime, name: str = "deaf") -> SyncSession:
    """Start a session whose node is at work that it will not leave."""
    session = runtime.create_session(name, Pipeline("deaf").add_node("deaf", Deaf))
    session.send(Text(""))
    end = time.monotonic() + 10
    while not any(one.received for port in session.stats().values() for one in port.connections):
        assert time.monotonic() < end
        time.sleep(0.005)  # nobody announces it
    return session


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SyncSession.recv, SyncSession.terminate),  # in the block, and as it is left
        (SyncSession.close, SyncRuntime.shutdown),
        (SyncRuntime.shutdown, SyncRuntime.shutdown),
    ],
    ids=["in the block", "while it closes", "in the shutdown"],
)
def test_a_second_ctrl_c_kills_what_the_first_has_told_to_end(
    first: Callable[..., object], second: Callable[..., object]
) -> None:
    began = time.monotonic()
    config = MultiprocessConfig(grace_period_seconds=60, drain_timeout_seconds=60)
    with pytest.raises(KeyboardInterrupt), SyncRuntime(config) as runtime:  # noqa: PT012
        session = deafen(runtime)
        (pid,) = session.pids.values()
        in_block = first is SyncSession.recv
        is_second_time = is_ending_in(second, session)
        pressing = interrupt_when(
            runtime,
            (lambda: is_waiting_in(first)) if in_block else is_ending_in(first, session),
            lambda: runtime._thread._interrupted is not None and is_second_time(),
        )
        if in_block:
            with session:
                session.recv()
        elif first is SyncSession.close:
            session.close()
        runtime.shutdown()
    pressing.result(0)
    assert time.monotonic() - began < 10
    assert session.state is SessionState.TERMINATED
    assert not exists(pid)


@pytest.mark.parametrize("first", ["in the block of another", "while another closes"])
def test_the_first_ctrl_c_of_a_later_end_kills_nothing(first: str) -> None:
    config = MultiprocessConfig(grace_period_seconds=60, drain_timeout_seconds=60)
    with SyncRuntime(config) as runtime:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            if first == "in the block of another":
                with runtime.session(split(), executor="inline") as other:
                    interrupt_recv(runtime)
                    other.recv()
            else:
                earlier = deafen(runtime, "earlier")
                interrupt_when(runtime, is_ending_in(SyncSession.close, earlier))
                earlier.close()
        session = deafen(runtime)
        (pid,) = session.pids.values()
        interrupt_when(runtime, is_ending_in(SyncSession.close, session))
        with pytest.raises(KeyboardInterrupt):
            session.close()
        assert session.state is SessionState.TERMINATING
        assert exists(pid)
        for left in runtime.sessions.values():
            left.kill()


def test_a_session_that_is_killed_has_ended(runtime: SyncRuntime) -> None:
    session = deafen(runtime)
    (pid,) = session.pids.values()
    session.kill()
    assert not exists(pid)
    session.kill()


def test_a_repl_that_is_left_without_a_word_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(
        "import remotemedia as rm\n"
        "if __name__ == '__main__':\n"
        "    runtime = rm.SyncRuntime()\n"
        "    pipeline = rm.Pipeline('p').add_node('upper', 'text.upper')\n"
        "    session = runtime.create_session('one', pipeline, executor='python')\n"
        "    print(next(session.stream(rm.Text('a'))).text)\n"
    )
    source = str(Path(remotemedia.__file__).parent.parent)
    ran = subprocess.run(
        [sys.executable, "-c", "import remotemedia.nodes.text, runpy; "
         "runpy.run_path('shout.py', run_name='__main__')"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr, ran.returncode) == ("A\n", "", 0)


def test_a_forked_child_leaves_the_runtime_to_its_parent_and_exits() -> None:
    code = """
import os, sys
from remotemedia import ExecutorError, Pipeline, SyncRuntime, Text
from remotemedia.nodes.text import Split
runtime, unused = SyncRuntime(), SyncRuntime()
pipeline = Pipeline("split").add_node("split", Split)
with runtime.session(pipeline, executor="inline") as session:
    outputs = session.stream(Text("a b"))
    first = next(outputs)
    pid = os.fork()
    if pid == 0:
        for use in (lambda: runtime.sessions, lambda: session.send(Text("c")), session.close):
            try:
                use()
            except ExecutorError as error:
                assert "belongs to the parent" in str(error)
            else:
                raise AssertionError
        outputs.close()
        with unused.session(pipeline, executor="inline") as own:  # nothing of it was started
            assert len(list(own.stream(Text("c d")))) == 2
        sys.exit(7)  # through the block, and what is registered for the exit
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    print(first.text, *(output.text for output in outputs))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a b\n", "", 0)
