"""Whose certificate signs."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gamegen.provenance.certificates import (
    ProvenanceError,
    read_anchors,
    signer_from_environment,
    trusted_anchors,
)
from gamegen.provenance.manifest import sign_mp4
from gamegen.provenance.verification import ProvenanceState, verify_mp4
from tests.provenance.certificates import Authority, key_pem, name, pem_of
from tests.provenance.conftest import MANIFEST


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_the_development_certificate_is_made_once_and_its_key_is_this_users(tmp_path):
    folder = tmp_path / "data" / "provenance"
    with ThreadPoolExecutor(4) as pool:
        signers = list(pool.map(signer_from_environment, [folder] * 4))
    assert len(set(signers)) == 1 and signers[0].is_development
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert (
        "development"
        in x509.load_pem_x509_certificates(signers[0].chain_pem.encode())[0].subject.rfc4514_string()
    )
    assert "PRIVATE KEY" not in repr(signers[0])


def test_an_interrupted_start_is_taken_up_again(tmp_path):
    (tmp_path / "key.pem").write_text("half a ke")
    (tmp_path / "certificate.pem.partial").write_text("half a certifi")
    assert signer_from_environment(tmp_path).is_development


def test_this_machine_trusts_who_signs_here_and_makes_nothing_to_check(tmp_path, monkeypatch, authority):
    assert trusted_anchors(tmp_path) == "" and not list(tmp_path.iterdir())
    signer = signer_from_environment(tmp_path)
    assert trusted_anchors(tmp_path) == signer.anchors_pem
    monkeypatch.setenv("GAMEGEN_C2PA_CERTIFICATE", authority.chain(ec.generate_private_key(ec.SECP256R1())))
    assert trusted_anchors(tmp_path) == pem_of(authority.certificate)
    monkeypatch.setenv("GAMEGEN_C2PA_ANCHORS", signer.anchors_pem)
    assert trusted_anchors(tmp_path) == signer.anchors_pem


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
@pytest.mark.parametrize("given_as", ["text", "file"])
def test_a_certificate_from_the_environment_signs(key, given_as, authority, unsigned, tmp_path, monkeypatch):
    for variable, text in (
        ("GAMEGEN_C2PA_CERTIFICATE", authority.chain(key)),
        ("GAMEGEN_C2PA_KEY", key_pem(key)),
    ):
        (tmp_path / variable).write_text(text)
        monkeypatch.setenv(variable, text if given_as == "text" else str(tmp_path / variable))
    signer = signer_from_environment(tmp_path / "unused")
    assert not signer.is_development and not (tmp_path / "unused").exists()
    sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, signer)
    found = verify_mp4(tmp_path / "clip.mp4", pem_of(authority.certificate))
    assert (found.state, found.errors) == (ProvenanceState.VALID, ())
    assert (found.signer, found.issuer) == ("Example Studios, clips", "Example Studios, Example authority")


@pytest.mark.parametrize(
    "purpose",
    ["1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4"],
    ids=["C2PA", "documents", "mail"],
)
def test_certificates_for_signing_are_accepted(purpose, authority, unsigned, monkeypatch, tmp_path):
    key = ec.generate_private_key(ec.SECP521R1())
    monkeypatch.setenv("GAMEGEN_C2PA_CERTIFICATE", authority.chain(key, purpose=purpose))
    monkeypatch.setenv("GAMEGEN_C2PA_KEY", key_pem(key))
    sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, signer_from_environment())
    found = verify_mp4(tmp_path / "clip.mp4", pem_of(authority.certificate))
    assert found.state is ProvenanceState.VALID


def test_a_web_servers_certificate_is_not(authority, unsigned, monkeypatch, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setenv("GAMEGEN_C2PA_CERTIFICATE", authority.chain(key, purpose="1.3.6.1.5.5.7.3.1"))
    monkeypatch.setenv("GAMEGEN_C2PA_KEY", key_pem(key))
    with pytest.raises(ProvenanceError, match=r"unsigned\.mp4 cannot be signed \(.*certificate is invalid"):
        sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, signer_from_environment())
    assert not list(tmp_path.iterdir())


def self_signed(key: ec.EllipticCurvePrivateKey) -> str:
    authority = Authority()
    own = (
        x509.CertificateBuilder()
        .subject_name(name("me"))
        .issuer_name(name("me"))
        .public_key(key.public_key())
    )
    own = own.serial_number(1).not_valid_before(authority.certificate.not_valid_before_utc)
    return pem_of(own.not_valid_after(authority.certificate.not_valid_after_utc).sign(key, hashes.SHA256()))


def test_what_cannot_be_used_is_refused_by_name_and_never_shown(authority, monkeypatch, tmp_path):
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    unknown = ec.generate_private_key(ec.SECP256K1())
    good = authority.chain(key)
    for certificate, key_text, sentence in (
        (good, "", "GAMEGEN_C2PA_CERTIFICATE is set and GAMEGEN_C2PA_KEY is not"),
        ("", key_pem(key), "GAMEGEN_C2PA_KEY is set and GAMEGEN_C2PA_CERTIFICATE is not"),
        (good, key_pem(other), "the key is not that of the first certificate"),
        (good, key_pem(key, b"secret"), "must be an unencrypted PEM private key"),
        (good, "-----BEGIN RUBBISH-----", "must be an unencrypted PEM private key"),
        ("-----BEGIN RUBBISH-----", key_pem(key), "holds no PEM certificate"),
        ("/nowhere/at-all.pem", key_pem(key), "neither PEM nor a readable file"),
        (good, "s3cr3t", "GAMEGEN_C2PA_KEY is neither PEM nor a readable file"),
        (authority.chain(key, -20, -10), key_pem(key), "not today: renew it"),
        (authority.chain(key, 10, 20), key_pem(key), "not today: renew it"),
        (self_signed(key), key_pem(key), "signed by itself"),
        (authority.chain(unknown), key_pem(unknown), "does not sign with the kind of key"),
    ):
        monkeypatch.setenv("GAMEGEN_C2PA_CERTIFICATE", certificate)
        monkeypatch.setenv("GAMEGEN_C2PA_KEY", key_text)
        with pytest.raises(ProvenanceError, match=sentence) as refused:
            signer_from_environment(tmp_path)
        assert "s3cr3t" not in str(refused.value) and "BEGIN" not in str(refused.value)


def test_anchors_are_certificates_and_nothing_else(authority):
    text = pem_of(authority.certificate) + key_pem(authority.key)
    assert "PRIVATE" not in read_anchors(text, "anchors.pem")
    with pytest.raises(ProvenanceError, match=r"anchors\.pem holds no PEM certificate"):
        read_anchors("nothing", "anchors.pem")
