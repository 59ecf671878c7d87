"""What is wrong with a file of weights that cannot be read, told by its bytes."""

from __future__ import annotations

import json
from pathlib import Path

_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def file_fault(file: Path) -> str | None:
    """What keeps a file of a checkpoint from being read, and what to do (`is damaged: it is empty; ...`), or None.

    Weights (.safetensors) are checked from their header to their last byte, of other files only the first bytes are
    looked at. Raises OSError if the file cannot be opened.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        begin = stream.read(max(map(len, (_LFS_POINTER, *_PICKLES))))
    if not begin:
        return "is damaged: it is empty; fetch the checkpoint again"
    if begin.startswith(_LFS_POINTER):
        return "is a Git LFS pointer and not the file itself: run git lfs pull in its repository"
    if file.suffix != ".safetensors":
        return None
    if begin.startswith(_PICKLES):
        return "is a pickle of PyTorch's: write its tensors with safetensors.torch.save_file"
    return _safetensors_fault(file, size)


def _safetensors_fault(file: Path, size: int) -> str | None:
    """A safetensors file is 8 bytes with the length of a JSON header, that header, and the tensors it places."""
    no_weights = "is damaged: it is no safetensors file; fetch the checkpoint again"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            return no_weights
        header = stream.read(length)
    if size < 8 + length:
        return (
            f"is damaged: it is cut, with {size:,} bytes, and its header alone takes {8 + length:,}; fetch the "
            "checkpoint again"
        )
    try:
        places = [
            entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"
        ]
        whole = 8 + length + max(places, default=0)
    except (ValueError, TypeError, LookupError, AttributeError):
        return no_weights
    if size < whole:
        return f"is damaged: it is cut, with {size:,} of {whole:,} bytes; fetch the checkpoint again"
    if size > whole:
        return f"is damaged: it has {size - whole:,} bytes too many; fetch the checkpoint again"
    return None
