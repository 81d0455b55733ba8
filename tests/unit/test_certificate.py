"""Certificates: what is signed is what is read, and nothing else passes."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from obliviate.errors import UserError
from obliviate_recipes.requests.certificate import canonical, load_key, load_public_key, make_key, verify
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from requests_world import ROWS, config, runner

Json = dict[str, Any]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of one fulfilled request."""
    url = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(url, create=True)
    ledger.add("production", "base", "<ann>", [text_hash(ROWS[0])])
    runner(config(tmp_path, url), tmp_path).run()
    return Path(str(ledger.request("production", 1).certificate))


def test_it_states_what_when_how_and_what_was_measured(certificate: Path, tmp_path: Path) -> None:
    statement, _ = verify(certificate, load_public_key(tmp_path / "key.pem.pub"))
    assert statement["request"]["texts"] == [text_hash(ROWS[0])]
    assert statement["model"]["before"] == "base"
    assert statement["method"]["label"] == "ME+GD"
    assert statement["policy"]["forget"] == {"forget_efficacy": {"min": 0.9}}
    shares = [statement["measurements"][when]["forgotten"]["forget_efficacy"]["value"] for when in ("before", "after")]
    assert shares == [0.0, 1.0]
    assert all(len(value) == 64 for value in statement["hashes"].values())


def test_its_page_shows_the_figures_and_runs_nothing(certificate: Path, tmp_path: Path) -> None:
    page = certificate.with_suffix(".html").read_text()
    assert "&lt;ann&gt;" in page
    assert "<ann>" not in page
    assert "<td>forget_efficacy</td><td>0.000</td><td>1.000</td>" in page
    assert "default-src 'none'" in page
    assert f"batch 1 of <code>{Ledger(str(tmp_path / 'ledger.sqlite')).identity}</code>" in page


def test_its_layout_does_not_matter(certificate: Path) -> None:
    signed = json.loads(certificate.read_text())
    certificate.write_text(json.dumps(dict(reversed(signed.items())), indent=7))
    verify(certificate)


def write_bare(folder: Path, statement: Json) -> Path:
    """Signed with the key in `folder`."""
    key = load_key(folder / "key")
    signed = {
        "statement": statement,
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "signature": base64.b64encode(key.sign(canonical(statement))).decode(),
    }
    (folder / "bare.json").write_text(json.dumps(signed))
    return folder / "bare.json"


def change_value(signed: Json) -> None:
    signed["statement"]["measurements"]["after"]["forgotten"]["forget_efficacy"]["value"] = 0.99


def add_key(signed: Json) -> None:
    signed["statement"]["note"] = ""


def change_type(signed: Json) -> None:
    signed["statement"]["request"]["id"] = "1"


def change_signature(signed: Json) -> None:
    signed["signature"] = "A" * 86 + "=="


def no_base64(signed: Json) -> None:
    signed["signature"] = "ä"


@pytest.mark.parametrize("tamper", [change_value, add_key, change_type, change_signature, no_base64])
def test_a_tampered_certificate(certificate: Path, tamper: Any) -> None:
    signed = json.loads(certificate.read_text())
    tamper(signed)
    certificate.write_text(json.dumps(signed))
    with pytest.raises(UserError, match="the signature does not fit: the certificate was changed after it was signed"):
        verify(certificate)


def test_a_key_that_is_added_once_more(certificate: Path) -> None:
    """JSON readers take the first of two equal keys or the last: what is read need not be what was signed."""
    text = certificate.read_text()
    certificate.write_text(text.replace('"promoted": ', '"promoted": "1999-01-01", "promoted": ', 1))
    with pytest.raises(UserError, match="the signature does not fit: 'promoted' stands there twice"):
        verify(certificate)


@pytest.mark.parametrize("request_of", [[], {"texts": 5, "requester": "user-17"}, {"texts": []}])
def test_a_request_of_nothing_that_is_signed_all_the_same(tmp_path: Path, request_of: Any) -> None:
    make_key(tmp_path / "key")
    parts = dict.fromkeys(("promoted", "model", "method", "hashes", "policy", "measurements", "code"), "")
    path = write_bare(tmp_path, {"format": "obliviate certificate 1", **parts, "request": request_of})
    with pytest.raises(UserError, match="its request must be an object with requester and texts"):
        verify(path)


def test_a_statement_of_nothing_that_is_signed_all_the_same(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    path = write_bare(tmp_path, {"format": "obliviate certificate 1", "promoted": "today"})
    with pytest.raises(
        UserError, match="its statement lacks code, hashes, measurements, method, model, policy, request"
    ):
        verify(path)


def test_another_ones_key(certificate: Path, tmp_path: Path) -> None:
    other = load_public_key(make_key(tmp_path / "other.pem"))
    with pytest.raises(UserError, match=r"was signed with the key SHA-256 \w+, not with SHA-256"):
        verify(certificate, other)


def test_files_that_are_no_certificate(certificate: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        verify(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="not its HTML"):
        verify(certificate.with_suffix(".html"))
    (tmp_path / "other.json").write_text('{"statement": {}}')
    with pytest.raises(UserError, match="no certificate; it must hold public_key, signature, statement"):
        verify(tmp_path / "other.json")


class TestKeys:
    def test_a_new_one_is_its_owners_and_replaces_none(self, tmp_path: Path) -> None:
        make_key(tmp_path / "key")
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
        with pytest.raises(UserError, match="is there already"):
            make_key(tmp_path / "key")

    def test_files_that_hold_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"`obliviate certificate key .*` makes one"):
            load_key(tmp_path / "nowhere")
        (tmp_path / "text").write_text("hello")
        with pytest.raises(UserError, match="no private key in PEM"):
            load_key(tmp_path / "text")
        with pytest.raises(UserError, match="no public key in PEM"):
            load_public_key(tmp_path / "text")

    def test_keys_of_another_kind(self, tmp_path: Path) -> None:
        key = generate_private_key(SECP256R1())
        (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pub").write_bytes(public)
        with pytest.raises(UserError, match="give an Ed25519 private key"):
            load_key(tmp_path / "key")
        with pytest.raises(UserError, match="give an Ed25519 public key"):
            load_public_key(tmp_path / "key.pub")
