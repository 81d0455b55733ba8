"""The probing page's files, read without a browser: nothing from outside, nothing inline, nothing that isn't there."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

import obliviate_serve
from obliviate_serve.api import MAX_ALTERNATIVES, MAX_CHARACTERS, MAX_SAMPLES, ProbeRequest, Verdict
from obliviate_serve.attacks import infos
from serving import fake_server

WEB = Path(obliviate_serve.__file__).with_name("web")
FILES = sorted(WEB.iterdir())
SCRIPTS = sorted(WEB.glob("*.js"))


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""  # text of scripts and styles
        self._within = ""
        self.feed((WEB / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline += data.strip()

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


PAGE = Page()
BY_ID: dict[str, dict[str, Any]] = {each["id"]: each for _, each in PAGE.tags if each.get("id")}


def test_the_page_is_served_whole_under_a_strict_policy(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path))
    front = client.get("/")
    assert front.text == (WEB / "index.html").read_text(encoding="utf-8")
    assert "default-src 'self'" in front.headers["content-security-policy"]
    assert "unsafe" not in front.headers["content-security-policy"]
    types = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}
    for path in FILES:
        response = client.get(f"/{path.name}")
        assert types[path.suffix] in response.headers["content-type"]
        assert response.headers["cache-control"] == "no-cache"
        assert client.head(f"/{path.name}").status_code == 200
    for elsewhere in ("/app.py", "/..%2fapp.py", "/web/index.html", "/%00"):
        assert client.get(elsewhere).status_code == 404


def test_nothing_is_inline_or_comes_from_elsewhere() -> None:
    assert PAGE.inline == ""
    assert not [name for _, attributes in PAGE.tags for name in attributes if name == "style" or name.startswith("on")]
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|\beval\(|innerHTML|insertAdjacentHTML|new Function", text), path.name


def test_every_file_that_is_named_is_there_and_every_one_that_is_there_is_named() -> None:
    named = {*PAGE.all("src"), *(href for href in PAGE.all("href") if not href.startswith("#"))}
    for script in SCRIPTS:
        named |= set(re.findall(r'from "\./([\w.]+)"', script.read_text(encoding="utf-8")))
    assert named == {path.name for path in FILES} - {"index.html"}


def test_every_id_that_is_meant_exists_once() -> None:
    assert len(PAGE.all("id")) == len(BY_ID)
    meant = [*PAGE.all("for"), *PAGE.all("aria-labelledby"), *(h[1:] for h in PAGE.all("href") if h.startswith("#"))]
    for script in SCRIPTS:
        meant += re.findall(r'\$\("([\w-]+)"\)', script.read_text(encoding="utf-8"))
    assert set(meant) <= set(BY_ID)


def test_every_import_is_exported() -> None:
    for script in SCRIPTS:
        for names, source in re.findall(r'import \{ ([^}]+) \} from "\./([\w.]+)"', script.read_text(encoding="utf-8")):
            there = (WEB / source).read_text(encoding="utf-8")
            exported = set(re.findall(r"^export (?:const|class|(?:async )?function\*?) ([\w$]+)", there, re.MULTILINE))
            assert set(names.split(", ")) <= exported, f"{script.name} from {source}"


@pytest.mark.parametrize("name", ["samples", "temperature", "top_p", "seed", "max_tokens", "alternatives"])
def test_numbers_begin_as_the_interface_has_them(name: str) -> None:
    assert float(BY_ID[name]["value"]) == ProbeRequest.model_fields[name].default


def test_the_form_knows_the_interface() -> None:
    assert int(BY_ID["samples"]["max"]) == MAX_SAMPLES
    assert int(BY_ID["alternatives"]["max"]) == MAX_ALTERNATIVES
    assert set(PAGE.all("data-param")) <= set(ProbeRequest.model_fields)
    kinds = re.search(r"KINDS = \{(.+?)\};", (WEB / "attacks.js").read_text(encoding="utf-8"), re.DOTALL)
    assert kinds is not None
    assert set(re.findall(r"(\w+): \"", kinds[1])) == {attack.kind for attack in infos()}
    verdicts = re.search(r"VERDICTS = \{(.+?)\};", (WEB / "verdict.js").read_text(encoding="utf-8"), re.DOTALL)
    assert verdicts is not None
    assert set(re.findall(r"(\w+): \[", verdicts[1])) == set(get_args(Verdict))


@pytest.mark.parametrize("name", [name for name, each in BY_ID.items() if "maxlength" in each])
def test_texts_are_as_long_as_the_interface_takes(name: str) -> None:
    assert int(BY_ID[name]["maxlength"]) == MAX_CHARACTERS
