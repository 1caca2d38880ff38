"""What flows through a pipeline: eight message types, their arrays and their bytes."""

from remotemedia.data.media import PIXEL_FORMATS, Audio, Video
from remotemedia.data.message import Message, Metadata, MetadataValue
from remotemedia.data.plain import Binary, Control, File, Json, JsonValue, Text
from remotemedia.data.tensor import DTYPES, Tensor
from remotemedia.data.wire import RuntimeData, decode, encode

__all__ = [
    "DTYPES",
    "PIXEL_FORMATS",
    "Audio",
    "Binary",
    "Control",
    "File",
    "Json",
    "JsonValue",
    "Message",
    "Metadata",
    "MetadataValue",
    "RuntimeData",
    "Tensor",
    "Text",
    "Video",
    "decode",
    "encode",
]
