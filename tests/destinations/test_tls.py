"""A server with a certificate of a private authority, behind a proxy that alone knows its name. Real TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from delivery.fragments import Fragments
from delivery.syncing import why

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import RehearsalServer

from .configured import Person
from .tunnel import Tunnel

HOST = "wandb.example.test"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own and a server certificate for HOST."""
    at = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=at, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30",
            "-subj", "/CN=private authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={HOST}"
    )
    (at / "ext").write_text(f"subjectAltName=DNS:{HOST},IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "ext", "-out", "server.pem")  # fmt: skip
    return Certificates(at / "ca.pem", at / "server.pem", at / "server.key")


@pytest.fixture
def secure(tmp_path: Path, certificates: Certificates) -> Iterator[RehearsalServer]:
    with RehearsalServer(tmp_path / "secure", tls=(certificates.certificate, certificates.key)) as server:
        yield server


@pytest.fixture
def person(home: Path, spool: Spool) -> Person:
    return Person(home, spool)


@pytest.fixture
def tunnel(secure: RehearsalServer) -> Iterator[Tunnel]:
    with Tunnel(secure.port, HOST) as tunnel:
        yield tunnel


def arrived(server: RehearsalServer, run_id: str) -> list[int]:
    return sorted(server.report().run(run_id).steps)


def test_ca_and_proxy_of_a_destination_lead_to_a_private_server(
    fragments: Fragments, person: Person, secure: RehearsalServer, tunnel: Tunnel, certificates: Certificates
) -> None:
    person.configure(
        f'[destination.default]\nbase_url = "https://{HOST}"\nproxy = "{tunnel.address}"\n'
        f'ca = "{certificates.authority}"\nkey_file = "{person.key_file("key", secure.api_key)}"\n'
    )
    name = fragments.add("rich", "run-1")
    # What a destination says outranks the environment.
    person.sync(
        environ={"REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt", "HTTPS_PROXY": "http://127.0.0.1:9"}
    )
    assert fragments.state(name) == "delivered"
    assert arrived(secure, "run-1")
    assert set(tunnel.asked) == {f"CONNECT {HOST}:443"}
    assert fragments.entry(name).receipt is not None
    assert person.seen_by_others(secure.api_key) == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_proxy_and_certificates_of_the_environment_are_kept(
    fragments: Fragments,
    person: Person,
    secure: RehearsalServer,
    tunnel: Tunnel,
    certificates: Certificates,
    variable: str,
) -> None:
    fragments.add("tiny", "run-2")
    environ = {variable: str(certificates.authority), "HTTPS_PROXY": tunnel.address}
    person.sync(environ=environ | {"WANDB_BASE_URL": f"https://{HOST}", "WANDB_API_KEY": secure.api_key})
    assert arrived(secure, "run-2") == list(range(20))


def test_certificate_that_nobody_vouches_for_is_told_as_tls_and_not_as_a_bad_key(
    fragments: Fragments, person: Person, secure: RehearsalServer, tunnel: Tunnel
) -> None:
    name = fragments.add("tiny", "run-3")
    environ = {"WANDB_BASE_URL": f"https://{HOST}", "WANDB_API_KEY": secure.api_key, "HTTPS_PROXY": tunnel.address}
    person.sync(code=75, environ=environ)
    told = why(fragments.entry(name))
    assert told.startswith("tls: ") and "set `ca`" in told and "the key is not the problem" in told
    assert fragments.entry(name).attempts == 0


def test_proxy_that_asks_for_a_login_is_told_and_its_password_is_not(
    fragments: Fragments, person: Person, secure: RehearsalServer, certificates: Certificates
) -> None:
    import base64

    login = base64.b64encode(b"ada:hush-hush-word").decode()
    with Tunnel(secure.port, HOST, login=login) as tunnel:
        name = fragments.add("tiny", "run-4")
        environ = {
            "WANDB_BASE_URL": f"https://{HOST}",
            "WANDB_API_KEY": secure.api_key,
            "SSL_CERT_FILE": str(certificates.authority),
        }
        person.sync(code=75, environ=environ | {"HTTPS_PROXY": tunnel.address})
        assert fragments.state(name) == "deferred"
        known = tunnel.address.replace("http://", "http://ada:hush-hush-word@")
        person.sync(environ=environ | {"HTTPS_PROXY": known})
    assert arrived(secure, "run-4") == list(range(20))
    assert person.seen_by_others("hush-hush-word") == []


def test_server_that_can_be_reached_directly_needs_only_the_authority(
    fragments: Fragments, person: Person, secure: RehearsalServer, certificates: Certificates
) -> None:
    fragments.add("tiny", "run-5")
    environ = {"WANDB_BASE_URL": secure.base_url, "WANDB_API_KEY": secure.api_key}
    person.sync(environ=environ | {"SSL_CERT_FILE": str(certificates.authority)})
    assert arrived(secure, "run-5") == list(range(20))
