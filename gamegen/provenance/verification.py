"""Verification of a clip's manifest: is the file unchanged, who signed it, and with which statements."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import c2pa

from gamegen.provenance.certificates import read_anchors
from gamegen.provenance.manifest import ACTIONS_LABEL, MAX_FILE_BYTES, ORDER_LABEL, c2pa_context, is_mp4

_IN_WORDS = {
    "assertion.bmffHash.mismatch": "the video was changed or cut after it was signed",
    "assertion.hashedURI.mismatch": "a statement in the manifest was changed after it was signed",
    "assertion.missing": "a statement of the manifest was removed",
    "claimSignature.mismatch": "the signature is not of this manifest: it was changed after it was signed",
    "claimSignature.missing": "the signature was removed",
    "claimSignature.outsideValidity": "the certificate was out of date when the clip was signed",
    "signingCredential.expired": "the certificate is out of date",
    "signingCredential.invalid": "the certificate may not sign C2PA manifests",
    "signingCredential.revoked": "the certificate was withdrawn by whoever issued it",
}


class ProvenanceState(StrEnum):
    """Outcome of a verification; VALID means an unchanged file and a signer trusted by the given authorities."""

    VALID = "valid"
    INVALID = "invalid"
    ABSENT = "absent"


@dataclass(frozen=True)
class Action:
    """A step in making the clip, as the signer states it."""

    name: str
    when: datetime | None = None
    agent: str | None = None
    source_type: str | None = None


@dataclass(frozen=True)
class Verification:
    """Result of a verification. Of an INVALID file all but `errors` is a claim, not a fact.

    `signer` and `issuer` are the certificate's names, `when` is the time at which the clip was made or signed.
    """

    state: ProvenanceState
    signer: str | None = None
    issuer: str | None = None
    when: datetime | None = None
    generator: str | None = None
    actions: tuple[Action, ...] = ()
    model: str | None = None
    content_hash: str | None = None
    errors: tuple[str, ...] = ()


def verify_mp4(file: Path, anchors_pem: str = "", max_bytes: int = MAX_FILE_BYTES) -> Verification:
    """Checks the manifest of an MP4; `anchors_pem` are the certificates of the authorities that are trusted.

    Nothing is fetched from the network. Raises ProvenanceError for a file over `max_bytes` or certificates that cannot
    be read, FileNotFoundError for a file that is not there; a damaged file is INVALID.
    """
    # The library would look for what else the file could be.
    if not is_mp4(file, max_bytes):
        return Verification(ProvenanceState.INVALID, errors=("the file is no MP4",))
    anchors = read_anchors(anchors_pem, "anchors_pem") if anchors_pem else ""
    with c2pa_context(anchors) as context, file.open("rb") as opened:
        try:
            with c2pa.Reader("video/mp4", opened, context=context) as reader:
                return _read(reader)
        except c2pa.C2paError.ManifestNotFound:
            return Verification(ProvenanceState.ABSENT, errors=("the file has no C2PA manifest",))
        # Others than the library's: a signed manifest may still say things in no form that is known.
        except (c2pa.C2paError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            return Verification(
                ProvenanceState.INVALID,
                errors=(f"the file is no MP4 with a whole manifest: it is damaged or cut off ({error})",),
            )


def _read(reader: c2pa.Reader) -> Verification:
    manifest = reader.get_active_manifest() or {}
    label = manifest["label"]
    certificate = next(
        shown["signature"].get("certificateInfo", {})
        for shown in json.loads(reader.crjson())["manifests"]
        if shown["label"] == label
    )
    said = {assertion["label"]: assertion["data"] for assertion in manifest.get("assertions", ())}
    actions = tuple(map(_action, said.get(ACTIONS_LABEL, {}).get("actions", ())))
    signed_at = _time(manifest.get("signature_info", {}).get("time"))
    order, signer = said.get(ORDER_LABEL, {}), _name(certificate.get("subject"))
    is_trusted = reader.get_validation_state() == "Trusted"
    errors = _errors(reader.get_validation_results() or {}, signer)
    return Verification(
        ProvenanceState.VALID if is_trusted and not errors else ProvenanceState.INVALID,
        signer,
        _name(certificate.get("issuer")),
        signed_at or next((action.when for action in actions if action.when), None),
        _product(next(iter(manifest.get("claim_generator_info", ())), None)),
        actions,
        order.get("model"),
        order.get("content_hash"),
        errors or (() if is_trusted else ("nobody who is trusted here vouches for the signer",)),
    )


def _errors(results: dict[str, Any], signer: str | None) -> tuple[str, ...]:
    """Sentences about the failed checks, without repetitions."""
    found = list(results.get("activeManifest", {}).get("failure", ()))
    for ingredient in results.get("ingredientDeltas", ()):
        found += ingredient.get("validationDeltas", {}).get("failure", ())
    return tuple(dict.fromkeys(_in_words(failure, signer) for failure in found))


def _in_words(failure: dict[str, Any], signer: str | None) -> str:
    code = failure["code"]
    if code == "signingCredential.untrusted":
        return f"{signer or 'the signer'} is vouched for by nobody who is trusted here"
    return _IN_WORDS.get(code) or f"{failure.get('explanation') or 'something is wrong'} ({code})"


def _action(data: dict[str, Any]) -> Action:
    source_type = data.get("digitalSourceType")
    return Action(
        data["action"],
        _time(data.get("when")),
        _product(data.get("softwareAgent")),
        source_type.rsplit("/", 1)[-1] if source_type else None,
    )


def _product(info: dict[str, Any] | str | None) -> str | None:
    """A program's name and version; older manifests have one text for both."""
    if isinstance(info, dict):
        return " ".join(filter(None, (info.get("name"), info.get("version")))) or None
    return info


def _name(names: dict[str, Any] | None) -> str | None:
    """A certificate's organisation and common name."""
    return ", ".join(str(names[key]) for key in ("O", "CN") if key in names) if names else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
