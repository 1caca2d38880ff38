"""Pipelines of real-time media and AI nodes, each node a process of its own.

    import remotemedia as rm

Names are loaded when they are first used (PEP 562): start-up is imports, and a node's process uses
few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remotemedia.core.executor import NodeContext as NodeContext
    from remotemedia.core.executor import NodeExecutor as NodeExecutor
    from remotemedia.core.executor import NodeHandle as NodeHandle
    from remotemedia.core.multiprocess.by_hand import MultiprocessHandle as MultiprocessHandle
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint as Endpoint
    from remotemedia.core.multiprocess.channel.publisher import Publisher as Publisher
    from remotemedia.core.multiprocess.channel.registry import Channel as Channel
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry as ChannelRegistry
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber as Subscriber
    from remotemedia.core.multiprocess.channel.ticket import Ticket as Ticket
    from remotemedia.core.multiprocess.config import MultiprocessConfig as MultiprocessConfig
    from remotemedia.core.multiprocess.executor import (
        InlineExecutor as InlineExecutor,
    )
    from remotemedia.core.multiprocess.executor import (
        MultiprocessExecutor as MultiprocessExecutor,
    )
    from remotemedia.core.multiprocess.executor import (
        SessionExecutor as SessionExecutor,
    )
    from remotemedia.core.multiprocess.plan import Policy as Policy
    from remotemedia.core.multiprocess.plan import SpareTaps as SpareTaps
    from remotemedia.core.multiprocess.session import Session as Session
    from remotemedia.core.multiprocess.transport.memory import MemoryTransport as MemoryTransport
    from remotemedia.core.node import Node as Node
    from remotemedia.core.pipeline import (
        Connection as Connection,
    )
    from remotemedia.core.pipeline import (
        NodeConfig as NodeConfig,
    )
    from remotemedia.core.pipeline import (
        Pipeline as Pipeline,
    )
    from remotemedia.core.pipeline import (
        Restart as Restart,
    )
    from remotemedia.core.pipeline_file import load_pipeline as load_pipeline
    from remotemedia.core.ports import Addressed as Addressed
    from remotemedia.core.ports import Output as Output
    from remotemedia.core.ports import input as input
    from remotemedia.core.registry import Registry as Registry
    from remotemedia.core.registry import node as node
    from remotemedia.core.runtime import Runtime as Runtime
    from remotemedia.core.validation import validate as validate
    from remotemedia.data import (
        Audio as Audio,
    )
    from remotemedia.data import (
        Binary as Binary,
    )
    from remotemedia.data import (
        Control as Control,
    )
    from remotemedia.data import (
        File as File,
    )
    from remotemedia.data import (
        Json as Json,
    )
    from remotemedia.data import (
        Message as Message,
    )
    from remotemedia.data import (
        RuntimeData as RuntimeData,
    )
    from remotemedia.data import (
        Tensor as Tensor,
    )
    from remotemedia.data import (
        Text as Text,
    )
    from remotemedia.data import (
        Video as Video,
    )
    from remotemedia.errors import (
        BackpressureError as BackpressureError,
    )
    from remotemedia.errors import (
        ChannelClosed as ChannelClosed,
    )
    from remotemedia.errors import (
        ChannelError as ChannelError,
    )
    from remotemedia.errors import (
        DataError as DataError,
    )
    from remotemedia.errors import (
        DecodeError as DecodeError,
    )
    from remotemedia.errors import (
        EndOfStream as EndOfStream,
    )
    from remotemedia.errors import (
        ExecutorError as ExecutorError,
    )
    from remotemedia.errors import (
        InitTimeout as InitTimeout,
    )
    from remotemedia.errors import (
        LoanError as LoanError,
    )
    from remotemedia.errors import (
        MessageLost as MessageLost,
    )
    from remotemedia.errors import (
        NodeDefinitionError as NodeDefinitionError,
    )
    from remotemedia.errors import (
        NodeFailed as NodeFailed,
    )
    from remotemedia.errors import (
        PeerLost as PeerLost,
    )
    from remotemedia.errors import (
        PipelineError as PipelineError,
    )
    from remotemedia.errors import (
        PipelineTerminated as PipelineTerminated,
    )
    from remotemedia.errors import (
        ProcessCrashed as ProcessCrashed,
    )
    from remotemedia.errors import (
        ReleasedError as ReleasedError,
    )
    from remotemedia.errors import (
        RemoteMediaError as RemoteMediaError,
    )
    from remotemedia.errors import (
        ResourceLimit as ResourceLimit,
    )
    from remotemedia.errors import (
        SessionNotFound as SessionNotFound,
    )
    from remotemedia.errors import (
        SharedMemoryExhausted as SharedMemoryExhausted,
    )
    from remotemedia.errors import (
        SpawnError as SpawnError,
    )
    from remotemedia.sync import SyncRuntime as SyncRuntime
    from remotemedia.sync import SyncSession as SyncSession

_ERRORS = (
    *("BackpressureError", "ChannelClosed", "ChannelError", "DataError", "DecodeError"),
    *("EndOfStream", "ExecutorError", "InitTimeout", "LoanError", "MessageLost"),
    *("NodeDefinitionError", "NodeFailed", "PeerLost", "PipelineError", "PipelineTerminated"),
    *("ProcessCrashed", "ReleasedError", "RemoteMediaError", "ResourceLimit", "SessionNotFound"),
    *("SharedMemoryExhausted", "SpawnError"),
)
_DATA = ("Audio", "Binary", "Control", "File", "Json", "Message", "RuntimeData", "Tensor", "Text")
_MODULE_OF = {
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys((*_DATA, "Video"), "data"),
    **dict.fromkeys(("Addressed", "Output", "input"), "core.ports"),
    **dict.fromkeys(("Connection", "NodeConfig", "Pipeline", "Restart"), "core.pipeline"),
    **dict.fromkeys(("Registry", "node"), "core.registry"),
    **dict.fromkeys(
        ("InlineExecutor", "MultiprocessExecutor", "SessionExecutor"), "core.multiprocess.executor"
    ),
    **dict.fromkeys(("SyncRuntime", "SyncSession"), "sync"),
    **dict.fromkeys(("NodeContext", "NodeExecutor", "NodeHandle"), "core.executor"),
    "MultiprocessHandle": "core.multiprocess.by_hand",
    **dict.fromkeys(("Channel", "ChannelRegistry"), "core.multiprocess.channel.registry"),
    "Endpoint": "core.multiprocess.channel.endpoint",
    "Ticket": "core.multiprocess.channel.ticket",
    "Publisher": "core.multiprocess.channel.publisher",
    "Subscriber": "core.multiprocess.channel.subscriber",
    **dict.fromkeys(("Policy", "SpareTaps"), "core.multiprocess.plan"),
    "MemoryTransport": "core.multiprocess.transport.memory",
    "MultiprocessConfig": "core.multiprocess.config",
    "Node": "core.node",
    "Runtime": "core.runtime",
    "Session": "core.multiprocess.session",
    "load_pipeline": "core.pipeline_file",
    "validate": "core.validation",
}

__all__ = [name for name in _MODULE_OF if name != "input"]  # `import *` hides no builtin


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'remotemedia' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"remotemedia.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
