"""A certificate is stamped by an authority of the test's own, which is `openssl ts`."""

import datetime as dt
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from command_line import run_here
from obliviate.errors import UserError
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.timestamp import path_of, stamp, stamped
from requests_world import ROWS, config, runner

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not in PATH")
SETTINGS = """[tsa]
default_tsa = own
[own]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def write_authority(folder: Path) -> None:
    """A root in root.pem, and the authority's key and certificate in tsa.key, tsa.pem."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    keys = {name: generate_private_key(65537, 2048) for name in ("root", "tsa")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in keys}
    for name, key in keys.items():
        builder = x509.CertificateBuilder().subject_name(names[name]).issuer_name(names["root"])
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=name == "root", path_length=None), critical=True)
        if name == "tsa":
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
            builder = builder.add_extension(usage, critical=True)
        signed = builder.sign(keys["root"], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
    (folder / "serial").write_text("01")
    (folder / "tsa.cnf").write_text(SETTINGS.format(folder=folder))


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[str]:
    """Its URL; its root is in root.pem."""
    write_authority(tmp_path)

    class Stamps(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query, reply = tmp_path / "query.tsq", tmp_path / "reply.tsr"
            query.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            asked = [
                "-queryfile",
                query,
                "-inkey",
                tmp_path / "tsa.key",
                "-signer",
                tmp_path / "tsa.pem",
                "-out",
                reply,
            ]
            command = [OPENSSL, "ts", "-reply", "-config", tmp_path / "tsa.cnf", *asked]
            subprocess.run([str(each) for each in command], check=True, capture_output=True)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"nonsense" if self.path == "/nonsense" else reply.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Stamps)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_who_trusts_the_authority_knows_when_it_was_there(
    authority: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a run of requests, by our command, and by openssl alone."""
    url = str(tmp_path / "ledger.sqlite")
    Ledger(url, create=True).add("production", "base", "ann", [text_hash(ROWS[0])])
    runner(config(tmp_path, url, certificates={"timestamp": authority}), tmp_path).run()
    certificate = Path(str(Ledger(url).request("production", 1).certificate))
    cli = run_here(monkeypatch, capsys)
    code, out, _ = cli("certificate", "verify", certificate, "--authority", tmp_path / "root.pem")
    assert (code, f"stamped {dt.datetime.now(dt.UTC):%Y-%m-%d}" in out) == (0, True)
    by_hand = ["ts", "-verify", "-data", certificate, "-in", path_of(certificate), "-CAfile", tmp_path / "root.pem"]
    done = subprocess.run([str(OPENSSL), *map(str, by_hand)], capture_output=True, text=True, check=False)
    assert "Verification: OK" in done.stdout + done.stderr
    certificate.write_bytes(certificate.read_bytes() + b"\n")  # the signature still fits: it is of the statement
    code, _, error = cli("certificate", "verify", certificate, "--authority", tmp_path / "root.pem")
    assert (code, "is no stamp of" in error) == (2, True)


def test_the_same_bytes_are_stamped_once(authority: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate-1.json"
    certificate.write_text("{}")
    stamp(certificate, authority)
    first = path_of(certificate).read_bytes()
    stamp(certificate, authority)
    assert path_of(certificate).read_bytes() == first
    certificate.write_text("{ }")
    stamp(certificate, authority)
    assert path_of(certificate).read_bytes() != first
    assert abs(stamped(certificate, tmp_path / "root.pem") - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("path", "message"), [("/nonsense", "its answer is no stamp of"), (None, "does not answer")]
)  # fmt: skip
def test_what_is_no_authority(authority: str, tmp_path: Path, path: str | None, message: str) -> None:
    certificate = tmp_path / "certificate-1.json"
    certificate.write_text("{}")
    with pytest.raises(UserError, match=message):
        stamp(certificate, "http://127.0.0.1:9/" if path is None else authority + path)
    assert not path_of(certificate).exists()


def test_another_authority_is_not_believed(authority: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate-1.json"
    certificate.write_text("{}")
    stamp(certificate, authority)
    (tmp_path / "other").mkdir()
    write_authority(tmp_path / "other")
    with pytest.raises(UserError, match="by an authority of"):
        stamped(certificate, tmp_path / "other" / "root.pem")
