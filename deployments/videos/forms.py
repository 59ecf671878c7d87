"""Bodies of multipart/form-data (RFC 7578) that were read whole, within the limit of a body."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

_MOST_PARTS = 64
_MOST_HEADER_BYTES = 4096
_HOW = "send it as multipart/form-data, as curl -F or the openai client do"


@dataclass(frozen=True)
class Part:
    """A field: its bytes, and its type if it is a file."""

    name: str
    data: bytes
    media_type: str
    is_file: bool

    @property
    def text(self) -> str:
        """The value of a field that is no file; raises ValueError if it is not text in UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: not text in UTF-8") from error


def read_form(body: bytes, content_type: str) -> list[Part]:
    """The parts in their order; raises ValueError, which says what is wrong."""
    boundary = _boundary(content_type)
    # The delimiter begins with the line's end before it, which the first one may lack.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, _MOST_PARTS + 2)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        problem = "has too many parts" if len(pieces) > _MOST_PARTS else "ends too early"
        raise ValueError(f"the form {problem}: {_HOW}")
    return [_part(piece) for piece in pieces[1:-1]]


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if not boundary or not boundary.isascii() or len(boundary) > 70:
        raise ValueError(f"the form has no boundary: {_HOW}")
    return boundary.encode()


def _part(piece: bytes) -> Part:
    headers, empty_line, data = piece.partition(b"\r\n\r\n")
    if not empty_line or len(headers) > _MOST_HEADER_BYTES:
        raise ValueError(f"a part of the form has no headers: {_HOW}")
    parsed = BytesHeaderParser().parsebytes(headers.lstrip(b" \t").removeprefix(b"\r\n") + b"\r\n\r\n")
    name = parsed.get_param("name", header="content-disposition")
    if not isinstance(name, str) or parsed.get_content_disposition() != "form-data":
        raise ValueError(f"a part of the form has no name: {_HOW}")
    return Part(name, data, parsed.get_content_type(), parsed.get_filename() is not None)
