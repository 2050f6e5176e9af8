"""The checksum in an exported file: one changed bit would change numbers without a word. No torch."""

import hashlib
import re
from pathlib import Path
from typing import Any

from monoskd.errors import InputError
from monoskd.files import read_bytes

SEAL = "monoskd_sha256"  # the key in the file's metadata
UNSEALED = "0" * 64  # stands in the file while its checksum is computed
_MOST_BYTES = 2**31  # a protobuf cannot be larger
_OURS = b"monoskd"  # in several places of every exported file, so that no changed bit makes it another's
_ENTRY = re.compile(SEAL.encode() + rb"\x12\x40([0-9a-f]{64})")  # in a protobuf: the tag and the length of the value


def sealed(graph: Any) -> bytes:
    """The file of a graph (`onnx.ModelProto`) with its checksum, in place of one that it may have."""
    for index, entry in reversed([*enumerate(graph.metadata_props)]):
        if entry.key == SEAL:
            del graph.metadata_props[index]
    graph.metadata_props.add(key=SEAL, value=UNSEALED)
    content: bytes = graph.SerializeToString()
    start, end = _place(content)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[end:]


def check_seal(model: str | Path) -> None:
    """Raise InputError where a file of ours is not, bit by bit, what was exported; one without a checksum is not."""
    content = read_bytes(model, at_most=_MOST_BYTES)
    if _OURS not in content:
        return
    start, end = _place(content)
    digest = hashlib.sha256(content[:start] + UNSEALED.encode() + content[end:]).hexdigest()
    if digest.encode() != content[start:end]:
        raise InputError(
            f"{model}: expected the file as it was exported, got a changed one: its checksum differs or is missing; "
            "copy or export it again; docs/export.md says how to change a file on purpose"
        )


def _place(content: bytes) -> tuple[int, int]:
    """Where the checksum stands; an empty place at the end where it is damaged."""
    found = [match.span(1) for match in _ENTRY.finditer(content)]
    return found[-1] if found else (len(content), len(content))
