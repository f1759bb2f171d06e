"""What the documentation site takes from elsewhere: the HTTP routes, models' cards, deploy/README.md."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MARK = "<!-- http -->"
ROOT = Path(__file__).resolve().parent.parent
BUILTINS = ROOT / "registry" / "builtins"
ELSEWHERE = {
    r"registry/builtins/(\S+)/MODEL_CARD\.md": r"models/\1/card.md",
    r"docs/(\S+)": r"\1",
    r"deploy/README\.md": "deployment.md",
}
COMMON = ("400", "401", "403", "413", "415", "422", "429", "503")
"""Refusals that any route may answer; the page says them once."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the cards of the shipped models with their pictures, and how to deploy."""
    files.append(File.generated(config, "deployment.md", abs_src_path=str(ROOT / "deploy" / "README.md")))
    for card in sorted(BUILTINS.glob("*/*/MODEL_CARD.md")):
        name = f"models/{card.parent.parent.name}/{card.parent.name}"
        files.append(File.generated(config, f"{name}/card.md", abs_src_path=str(card)))
        for picture in card.parent.glob("*.png"):
            files.append(File.generated(config, f"{name}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the routes where a page has the mark; lead links out of this folder to the site's own pages."""
    up = "../" * page.file.src_uri.count("/")
    for pattern, place in ELSEWHERE.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{pattern}\)", rf"]({up}{place})", markdown)
    return markdown.replace(MARK, _routes()) if MARK in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things with Sphinx's roles, of which a reader need not know."""
    return re.sub(r":(?:class|meth|func|mod|data|attr|exc):\s*<code>~?", "<code>", html)


def _routes() -> str:
    document = _document()
    groups: dict[str, list[str]] = {tag["name"]: [] for tag in document.get("tags", ())}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            groups.setdefault(tag, []).append(_operation(method.upper(), path, operation, document))
    told = {tag["name"]: tag.get("description", "") for tag in document.get("tags", ())}
    parts = [
        "\n\n".join([f"## {name}", told.get(name, ""), *found]) for name, found in groups.items() if found
    ]
    return "\n\n".join(parts)


def _document() -> dict[str, Any]:
    from registry.app import create_app
    from registry.home import Home

    with tempfile.TemporaryDirectory() as folder:
        Home.create(Path(folder) / "home")
        home = Home.open(Path(folder) / "home")
        try:
            app = create_app(home)
            return dict(app.api_doc)
        finally:
            home.close()


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    lines = [f"### `{method} {path}`", operation.get("summary", ""), operation.get("description", "")]
    parameters = [
        f"| `{entry['name']}` | {entry['in']} | {_type(entry['schema'])} | {_told(entry)} |"
        for entry in operation.get("parameters", ())
    ]
    if parameters:
        lines.append("\n".join(["| parameter | in | type | |", "| --- | --- | --- | --- |", *parameters]))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body, `{media}`: {_type(content.get('schema', {}))}")
        fields = _fields(content.get("schema", {}), document)
        if fields:
            lines.append("\n".join(["| field | type | |", "| --- | --- | --- |", *fields]))
    answers = [
        f"| {status} | {_told(response)} | {_content(response)} |"
        for status, response in sorted(operation["responses"].items())
        if status not in COMMON
    ]
    lines.append("\n".join(["| status | | answer |", "| --- | --- | --- |", *answers]))
    return "\n\n".join(line for line in lines if line)


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = schema.get("required", ())
    return [
        f"| `{name}`{'' if name in required else ' (optional)'} | {_type(field)} | {_told(field)} |"
        for name, field in schema.get("properties", {}).items()
    ]


def _content(response: dict[str, Any]) -> str:
    found = response.get("content", {}).items()
    return ", ".join(f"{_type(content.get('schema', {}))} `{media}`" for media, content in found)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(choice) for choice in schema[key])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", ""))


def _told(entry: dict[str, Any]) -> str:
    return " ".join(entry.get("description", "").split()).replace("|", "\\|")
