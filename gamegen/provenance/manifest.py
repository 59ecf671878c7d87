"""The manifest of a clip and its signing into the MP4 (C2PA; training and mining by CAWG 1.1)."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa

import gamegen
from gamegen.files import write_atomically
from gamegen.provenance.certificates import ProvenanceError, Signer

GENERATOR = "GameGen"
ACTIONS_LABEL = "c2pa.actions.v2"
ORDER_LABEL = "org.gamegen.order"
MAX_FILE_BYTES = 1 << 30
"""Of a file that is signed or checked: far above the longest clip."""
MAX_TEXT_LENGTH = 200
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
# What certificates that sign manifests are for: C2PA's own purpose, signing documents, and protecting e-mail, which
# older ones have.
_PURPOSES = ("1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4")
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_USES = ("cawg.ai_generative_training", "cawg.ai_inference", "cawg.ai_training", "cawg.data_mining")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FrameChange:
    """A step of post-processing of a clip's frames: one of C2PA's actions, and a description."""

    action: str
    description: str


@dataclass(frozen=True)
class ClipManifest:
    """A clip's statements about itself; `content_hash` is the order's, `changes` were made to the drawn frames.

    `may_train` says whether others may mine it or train on it. Raises ValueError for a long name or title, another
    hash, or a time without a zone.
    """

    model: str
    content_hash: str
    created_at: datetime
    title: str = "clip.mp4"
    may_train: bool = False
    changes: tuple[FrameChange, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("model", self.model), ("title", self.title)):
            if not 0 < len(value) <= MAX_TEXT_LENGTH:
                raise ValueError(f"{name} has {len(value)} characters: give 1 to {MAX_TEXT_LENGTH}")
        if not _SHA256.fullmatch(self.content_hash):
            raise ValueError(f"content_hash = {self.content_hash[:80]!r}: give a SHA-256 in lower case")
        if self.created_at.tzinfo is None:
            raise ValueError(f"created_at = {self.created_at}: give a time with its zone")


def sign_mp4(
    source: Path, target: Path, manifest: ClipManifest, signer: Signer, max_bytes: int = MAX_FILE_BYTES
) -> None:
    """Writes `source` to `target` with a signed manifest; its tracks keep their bytes. `target` appears whole or not.

    The same file and manifest give a file of the same length and manifest id; salts and signature are random. Raises
    ProvenanceError for a file over `max_bytes`, one that is no MP4, or a certificate that C2PA does not accept.
    """
    if not is_mp4(source, max_bytes):
        raise ProvenanceError(f"{source.name} cannot be signed: it is not an MP4")
    try:
        with (
            write_atomically(target, is_durable=True) as partial,
            source.open("rb") as unsigned,
            partial.open("w+b") as signed,
        ):
            definition = json.dumps(_definition(manifest, _identity(unsigned, manifest)))
            unsigned.seek(0)
            with (
                c2pa_context() as context,
                c2pa.Builder(definition, context=context) as builder,
                _native(signer) as native,
            ):
                builder.sign(native, "video/mp4", unsigned, signed)
    except c2pa.C2paError as error:
        raise ProvenanceError(
            f"{source.name} cannot be signed ({error}): check file and certificate"
        ) from error


def c2pa_context(anchors_pem: str = "") -> c2pa.Context:
    """The C2PA library's settings with trusted authorities, without network: a file could name any address."""
    trust = {"trust_config": "\n".join(_PURPOSES)} | ({"trust_anchors": anchors_pem} if anchors_pem else {})
    return c2pa.Context.from_dict({"verify": _OFFLINE, "trust": trust})


def is_mp4(file: Path, max_bytes: int) -> bool:
    """True for a file that begins as an MP4 does.

    Raises ProvenanceError if it is larger than `max_bytes`, FileNotFoundError if it is not there.
    """
    size_bytes = file.stat().st_size
    if size_bytes > max_bytes:
        raise ProvenanceError(
            f"{file} has {size_bytes} bytes, at most {max_bytes} are read: give a shorter clip"
        )
    with file.open("rb") as opened:
        return opened.read(8)[4:] == b"ftyp"


def _native(signer: Signer) -> c2pa.Signer:
    # No timestamp authority: signing must not wait for another service.
    info = c2pa.C2paSignerInfo(signer.algorithm, signer.chain_pem.encode(), signer.key_pem.encode(), None)
    return c2pa.Signer.from_info(info)


def _identity(unsigned: Any, manifest: ClipManifest) -> uuid.UUID:
    """The manifest's id: a hash of the file and the statements, in the form of a random UUID, which C2PA requires."""
    digest = hashlib.file_digest(unsigned, "sha256")
    digest.update(repr(manifest).encode())
    return uuid.UUID(bytes=digest.digest()[:16], version=4)


def _definition(manifest: ClipManifest, identity: uuid.UUID) -> dict[str, Any]:
    use = "allowed" if manifest.may_train else "notAllowed"
    common = {
        "when": manifest.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "softwareAgent": {"name": GENERATOR, "version": gamegen.__version__},
    }
    changes = [
        {"action": change.action, "description": change.description, **common} for change in manifest.changes
    ]
    created = {
        "action": "c2pa.created",
        **common,
        "digitalSourceType": _SOURCE_TYPE,
        "description": f"drawn by the model {manifest.model}",
    }
    said = {
        ACTIONS_LABEL: {"actions": [created, *changes]},
        "cawg.training-mining": {"entries": {name: {"use": use} for name in _USES}},
        ORDER_LABEL: {"model": manifest.model, "content_hash": manifest.content_hash},
    }
    return {
        "label": f"urn:c2pa:{identity}",
        "instance_id": f"xmp:iid:{identity}",
        "claim_generator_info": [{"name": GENERATOR, "version": gamegen.__version__}],
        "title": manifest.title,
        "format": "video/mp4",
        # The generator's own statements, not ones that it was given.
        "assertions": [{"label": label, "data": data, "created": True} for label, data in said.items()],
    }
