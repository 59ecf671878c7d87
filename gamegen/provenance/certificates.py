"""Signing certificates: from the environment, or a development one that only this machine trusts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gamegen.folders import data_folder
from gamegen.provenance.development import CERTIFICATE_FILE, KEY_FILE, make_development_files

CERTIFICATE_VARIABLE = "GAMEGEN_C2PA_CERTIFICATE"
"""A PEM chain, or a file of one: the signer's certificate first, then whoever issued it, and so on."""
KEY_VARIABLE = "GAMEGEN_C2PA_KEY"
"""The PEM key of the chain's first certificate, or a file of it."""
ANCHORS_VARIABLE = "GAMEGEN_C2PA_ANCHORS"
"""PEM certificates of the authorities that `gamegen verify` trusts, or a file of them."""
MAX_PEM_BYTES = 1 << 20
_ALGORITHM_OF_CURVE = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class ProvenanceError(ValueError):
    """A certificate, key or file that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Signer:
    """A certificate chain (PEM, the signer's own first), its unencrypted key (PEM) and C2PA's name of the algorithm."""

    chain_pem: str
    key_pem: str = field(repr=False)
    algorithm: str
    is_development: bool = False

    @property
    def anchors_pem(self) -> str:
        """The root certificate of the chain (PEM), which verifiers have to trust."""
        return _pem(x509.load_pem_x509_certificates(self.chain_pem.encode())[-1])


def signer_from_environment(folder: Path | None = None) -> Signer:
    """The signer of `GAMEGEN_C2PA_CERTIFICATE` and `GAMEGEN_C2PA_KEY`, else the development one of `folder`.

    The latter is made when there is none; `folder` is the user's data folder by default. Raises ProvenanceError if only
    one variable is set, or if certificate and key are unreadable, do not belong together or are out of date.
    """
    certificate, key = os.environ.get(CERTIFICATE_VARIABLE), os.environ.get(KEY_VARIABLE)
    if certificate and key:
        chain = _pem_or_file(certificate, CERTIFICATE_VARIABLE)
        return _checked(chain, _pem_or_file(key, KEY_VARIABLE), CERTIFICATE_VARIABLE)
    if certificate or key:
        given, missing = (CERTIFICATE_VARIABLE, KEY_VARIABLE)[:: 1 if certificate else -1]
        raise ProvenanceError(
            f"{given} is set and {missing} is not: set both, or neither to sign for development"
        )
    folder = folder or default_folder()
    make_development_files(folder)
    chain, key = (folder / CERTIFICATE_FILE).read_text(), (folder / KEY_FILE).read_text()
    return _checked(chain, key, str(folder), is_development=True)


def trusted_anchors(folder: Path | None = None) -> str:
    """The authorities that this machine trusts, PEM; empty if there are none.

    They are `GAMEGEN_C2PA_ANCHORS`, or the issuer of the certificate that this machine signs with.
    """
    given = os.environ.get(ANCHORS_VARIABLE)
    if given:
        return read_anchors(_pem_or_file(given, ANCHORS_VARIABLE), ANCHORS_VARIABLE)
    certificate = os.environ.get(CERTIFICATE_VARIABLE)
    if certificate:
        return _pem(_certificates(_pem_or_file(certificate, CERTIFICATE_VARIABLE), CERTIFICATE_VARIABLE)[-1])
    file = (folder or default_folder()) / CERTIFICATE_FILE
    return _pem(_certificates(file.read_text(), str(file))[-1]) if file.exists() else ""


def read_anchors(text: str, where: str) -> str:
    """Extracts the certificates of a PEM text; raises ProvenanceError that names `where`."""
    return "".join(map(_pem, _certificates(text, where)))


def default_folder() -> Path:
    """The folder of the development certificate."""
    return data_folder() / "provenance"


def _pem_or_file(value: str, variable: str) -> str:
    """PEM text of a variable, or of the file that it names; no error message shows it."""
    if value.lstrip().startswith("-----BEGIN"):
        return value
    try:
        file = Path(value)
        if file.stat().st_size > MAX_PEM_BYTES:
            raise ProvenanceError(f"the file of {variable} has over {MAX_PEM_BYTES} bytes: give a PEM file")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, ProvenanceError):
            raise
        raise ProvenanceError(f"{variable} is neither PEM nor a readable file: give one of them") from error


def _certificates(text: str, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ProvenanceError(f"{where} holds no PEM certificate: give the chain, your own first") from error


def _checked(chain: str, key_text: str, where: str, is_development: bool = False) -> Signer:
    """A signer whose certificate and key belong together and may be used today."""
    certificates = _certificates(chain, where)
    own = certificates[0]
    try:
        key = load_pem_private_key(key_text.encode(), None)
    except (ValueError, TypeError) as error:
        raise ProvenanceError(
            f"the key of {where} must be an unencrypted PEM private key: set {KEY_VARIABLE} to one"
        ) from error
    if key.public_key() != own.public_key():
        raise ProvenanceError(
            f"the key is not that of the first certificate of {where}: give the two that belong"
        )
    if own.issuer == own.subject:
        raise ProvenanceError(
            f"the certificate of {where} is signed by itself: C2PA wants one of an authority"
        )
    if not own.not_valid_before_utc <= datetime.now(UTC) <= own.not_valid_after_utc:
        raise ProvenanceError(
            f"the certificate of {where} is good from {own.not_valid_before_utc:%Y-%m-%d} to "
            f"{own.not_valid_after_utc:%Y-%m-%d}, not today: "
            + ("remove that folder, another is made" if is_development else "renew it")
        )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Signer("".join(map(_pem, certificates)), key_pem, _algorithm(key, where), is_development)


def _algorithm(key: PrivateKeyTypes, where: str) -> str:
    """C2PA's name of the algorithm that goes with a key; raises ProvenanceError for one that it does not know."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _ALGORITHM_OF_CURVE:
        return _ALGORITHM_OF_CURVE[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ProvenanceError(f"C2PA does not sign with the kind of key of {where}: take P-256, Ed25519 or RSA")


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
