"""The files of deploy/ as tests use them: with paths and ports of their own."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

from tests.servers import program

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPTS = Path(sysconfig.get_path("scripts"))
INSTALLED = "/opt/hallmark/bin"
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir())


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a systemd unit: name -> values in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def certificate(folder: Path) -> Path:
    """A folder with a self-signed certificate for 127.0.0.1 as nginx's configuration names it."""
    folder.mkdir()
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-nodes", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def nginx_configuration(folder: Path, http: int, https: int, socket: Path) -> Path:
    """A whole nginx.conf around deploy/nginx/hallmark.conf, with its paths and ports inside ``folder``."""
    site = (DEPLOY / "nginx" / "hallmark.conf").read_text()
    for old, new in (
        ("unix:/run/hallmark/registry.sock", f"unix:{socket}"),
        ("/etc/hallmark/tls", str(certificate(folder / "tls"))),
        ("/var/log/nginx", str(folder)),
        ("listen 80;", f"listen 127.0.0.1:{http};"),
        ("listen [::]:80;", ""),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{https} ssl http2;"),
        ("listen [::]:443 ssl http2;", ""),
    ):
        assert old in site, f"deploy/nginx/hallmark.conf has no {old!r} any more"
        site = site.replace(old, new)
    (folder / "hallmark.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    configuration = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # pytest's folders are for their owner alone
    configuration.write_text(
        f"{user}daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx-error.log;\n"
        "worker_processes 1;\nevents { worker_connections 256; }\n"
        f"http {{\n    default_type application/octet-stream;\n{temporary}"
        f"    access_log off;\n    include {folder}/hallmark.conf;\n}}\n"
    )
    return configuration
