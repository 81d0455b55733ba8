"""Certificates: what is signed is what is read, and nothing else passes."""

import base64
import json
import re
import shutil
import stat
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from obliviate.errors import UserError
from obliviate_eval.statistics import Figure
from obliviate_recipes.requests.certificate import canonical, load_key, load_public_key, make_key, verify
from obliviate_recipes.requests.clock import due, left
from obliviate_recipes.requests.findings import headline, lines
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.policy import Bound
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
    assert "<td>forget_efficacy</td><td>0.000</td><td>1.000</td><td>at least 0.9</td><td>yes</td><td>1</td>" in page
    assert "<details" not in page  # what is folded is not printed
    assert text_hash(ROWS[0]) in page
    assert "default-src 'none'" in page
    assert f"batch 1 of <code>{Ledger(str(tmp_path / 'ledger.sqlite')).identity}</code>" in page


def test_it_can_be_filed(certificate: Path, tmp_path: Path) -> None:
    """Number, clock, what was found, and the figures with their limits, in the statement that is signed."""
    statement, _ = verify(certificate)
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    assert statement["certificate"] == {
        "number": f"{ledger.identity[:8]}-1", "issued": statement["promoted"], "issuer": None, "case": None,
        "legal_basis": None,
    }  # fmt: skip
    received, until = (datetime.fromisoformat(statement["clock"][key]) for key in ("received", "due"))
    assert until == due(received, 1)
    assert statement["clock"]["in_time"]
    assert statement["found"] == {"texts": 1, "in_data": 1}
    (line,) = statement["findings"]["forgotten"]
    assert (line["name"], line["before"], line["after"], line["limit"], line["passed"]) == (
        "forget_efficacy", 0.0, 1.0, "at least 0.9", True,
    )  # fmt: skip


def test_openssl_alone_verifies_it(certificate: Path, tmp_path: Path) -> None:
    """By the lines of docs/requests.md."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    document = (Path(__file__).parents[2] / "docs" / "requests.md").read_text()
    (lines,) = re.findall(r"```sh\n(python3 -c [^`]*openssl pkeyutl [^`]*)```", document)
    script = lines.replace("CERTIFICATE", str(certificate)).replace("KEY.pub", str(tmp_path / "key.pem.pub"))
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout
    certificate.write_text(certificate.read_text().replace('"in_time": true', '"in_time": false'))
    assert subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True).returncode != 0


def figure_of(value: float, scored: int) -> Figure:
    return Figure(value=value, low=None, high=None, scored=scored, unscored=0)


def test_the_headline_counts_facts() -> None:
    before, after = (
        Measurement(evaluation="e", requests={4: {"key_said": figure_of(value, 10)}}, kept={}) for value in (0.9, 0.2)
    )
    assert headline(4, before, after) == (
        "Asked for what was to be forgotten, the model states 2 of 10 facts; before: 9 of 10."
    )
    bare = Measurement(evaluation="e", requests={4: {}}, kept={})
    assert headline(4, bare, bare).startswith("Facts were not told apart")


def test_each_figure_has_its_limit_and_whether_it_is_met() -> None:
    after = {"rouge": figure_of(0.7, 4), "probability": figure_of(0.2, 4), "mine": figure_of(1.0, 4)}
    bounds = {"rouge": Bound(max=0.6), "probability": Bound(max_of_before=0.5, max=0.9)}
    found = lines(after, {"rouge": figure_of(0.9, 4), "probability": figure_of(0.8, 4)}, bounds)
    assert [(each["name"], each["limit"], each["passed"]) for each in found] == [
        ("rouge", "at most 0.6", False), ("probability", "at most 0.9, at most 0.5 of before", True),
        ("mine", None, None),
    ]  # fmt: skip
    assert found[1]["plain"] == "Probability of the true answer, per token"
    assert found[2]["plain"] == "mine"


@pytest.mark.parametrize(
    ("received", "months", "until"),
    [
        ("2026-01-15T10:00:00+00:00", 1, "2026-02-15T10:00:00+00:00"),
        ("2026-01-31T10:00:00+00:00", 1, "2026-02-28T10:00:00+00:00"),
        ("2028-01-31T10:00:00+00:00", 1, "2028-02-29T10:00:00+00:00"),
        ("2026-11-30T23:00:00+00:00", 3, "2027-02-28T23:00:00+00:00"),
        ("2026-12-01T00:00:00+00:00", 1, "2027-01-01T00:00:00+00:00"),
    ],
)
def test_a_month_later(received: str, months: int, until: str) -> None:
    assert due(datetime.fromisoformat(received), months) == datetime.fromisoformat(until)


def test_what_is_left_in_words() -> None:
    now = datetime.fromisoformat("2026-01-10T00:00:00+00:00")
    assert left(now + timedelta(days=1, hours=5), now) == "due in 1 day"
    assert left(now + timedelta(hours=5), now) == "due in less than a day"
    assert left(now - timedelta(days=3), now) == "overdue by 3 days"


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
