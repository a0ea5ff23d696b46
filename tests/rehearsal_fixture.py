"""Fixtures: `rehearsal`, a started rehearsal server with an empty data directory; `private_ca` for one with TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import RehearsalServer


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[RehearsalServer]:
    """A stand-in W&B service on loopback; what it keeps lies in `tmp_path / "rehearsal-data"`."""
    with RehearsalServer(tmp_path / "rehearsal-data") as server:
        yield server


@pytest.fixture
def private_ca(tmp_path: Path) -> tuple[Path, Path]:
    """Certificate and key of a server on loopback whose certificate authority nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=rehearsal", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return certificate, key
