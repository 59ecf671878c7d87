"""A development certificate: its name says that it proves nothing, and only this machine trusts it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from gamegen.files import write_atomically
from gamegen.folders import create_folder

CERTIFICATE_FILE, KEY_FILE = "certificate.pem", "key.pem"
ORGANISATION = "GameGen development"
_REMEDY = "set XDG_DATA_HOME to a folder that this user can write to, or GAMEGEN_C2PA_CERTIFICATE and GAMEGEN_C2PA_KEY"
_GOOD_FOR = timedelta(days=3650)
_CLOCKS_DIFFER = timedelta(minutes=5)


def make_development_files(folder: Path) -> None:
    """Creates an authority and one ES256 certificate of it, and discards the authority's key; once for a folder.

    `folder` then holds the chain and the certificate's key, which only this user can read. Raises ValueError if they
    cannot be written there.
    """
    # Nothing is written where they are already: the folder may be read-only.
    if (folder / CERTIFICATE_FILE).exists():
        return
    create_folder(folder, _REMEDY, mode=0o700)
    with FileLock(folder / ".lock"):
        if (folder / CERTIFICATE_FILE).exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The chain comes last: where it is, the key is too, whenever this was interrupted.
        _write(folder / KEY_FILE, key_pem, 0o600)
        chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in _issue(key))
        _write(folder / CERTIFICATE_FILE, chain, 0o644)


def _issue(key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, x509.Certificate]:
    """Issues a certificate that may sign C2PA manifests; returns it and its authority's."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _name("authority")
    issuer = (
        _begun(authority, authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    own = (
        _begun(_name("trusted by this machine only"), authority, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return own, issuer


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _GOOD_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(file: Path, data: bytes, mode: int) -> None:
    """Writes a file atomically, never readable by more people than `mode` allows."""
    with write_atomically(file, is_durable=True, mode=mode) as partial:
        partial.write_bytes(data)
