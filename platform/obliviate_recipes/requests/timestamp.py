"""A time stamping authority (RFC 3161) says when a certificate was there: a date that its issuer could not choose.

The authority's answer lies beside the certificate, over that file's bytes, so that `openssl ts -verify` checks it too.
"""

from datetime import datetime
from hashlib import sha512
from pathlib import Path

import requests
from cryptography.x509 import load_pem_x509_certificates
from rfc3161_client import (
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import write_whole

TIMEOUT_S = 30.0


def path_of(certificate: Path) -> Path:
    return certificate.with_name(f"{certificate.name}.tsr")


def stamp(certificate: Path, url: str | None) -> None:
    """Ask for the file's stamp and write it beside; nothing where `url` is None, or where there is one of these bytes.

    Raises UserError where the authority does not answer, or stamps something else.
    """
    if url is None:
        return
    content, path = certificate.read_bytes(), storage.fetch(path_of(certificate))
    if path.exists() and _covers(path.read_bytes(), content):
        return
    asked = TimestampRequestBuilder().data(content).build()  # by SHA-512
    try:
        answer = requests.post(
            url, asked.as_bytes(), headers={"Content-Type": "application/timestamp-query"}, timeout=TIMEOUT_S
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"certificates.timestamp: {url}: does not answer ({error}); run the same command again once it does, or "
            "remove the key"
        ) from error
    if not _covers(answer.content, content):
        raise UserError(
            f"certificates.timestamp: {url}: its answer is no stamp of {certificate}; give the URL of an authority as "
            "RFC 3161 has it"
        )
    write_whole(path, lambda temporary: temporary.write_bytes(answer.content))


def stamped(certificate: Path, roots: Path) -> datetime:
    """When the file beside says that the certificate was there; `roots`: PEM file of whom it is believed.

    Raises UserError where there is no stamp, or it is not of these bytes, or not by one of those.
    """
    path = storage.fetch(path_of(certificate))
    try:
        answer = decode_timestamp_response(path.read_bytes())
        builder = VerifierBuilder()
        for root in load_pem_x509_certificates(roots.read_bytes()):
            builder = builder.add_root_certificate(root)
        builder.build().verify_message(answer, certificate.read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; the stamp lies beside its certificate") from error
    except (VerificationError, ValueError) as error:
        raise UserError(f"{path}: is no stamp of {certificate} by an authority of {roots} ({error})") from error
    return answer.tst_info.gen_time


def _covers(answer: bytes, content: bytes) -> bool:
    try:
        found: TimeStampResponse = decode_timestamp_response(answer)
        granted = PKIStatus(found.status) is PKIStatus.GRANTED
        return granted and found.tst_info.message_imprint.message == sha512(content).digest()
    except ValueError:
        return False
