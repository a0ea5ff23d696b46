"""Addresses for uploads and downloads: they follow the request's host, end in the file's name, and carry a signature.

As with the real service the address alone admits: no key is sent to it. The signature is derived from the data
directory's key, so addresses outlive a restart of the server and nobody can make one up.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Links:
    """Makes addresses below `base_url`, and tells which signatures are its own."""

    base_url: str
    secret: str

    def run_file(self, run: Sequence[str], name: str) -> str:
        return self._link("run", *run, name)

    def artifact_file(self, artifact: int, digest_hex: str, name: str) -> str:
        return self._link("artifact", str(artifact), digest_hex, name)

    def part(self, upload: str, number: int, name: str) -> str:
        return self._link("part", upload, str(number), name)

    def manifest(self, artifact: int, name: str) -> str:
        return self._link("manifest", str(artifact), name)

    def blob(self, sha256: str, name: str) -> str:
        return self._link("blob", sha256, name)

    def admits(self, signature: str, kind: str, *parts: str) -> bool:
        return hmac.compare_digest(signature, self._sign(kind, *parts))

    def _link(self, kind: str, *parts: str) -> str:
        *places, name = parts
        path = "/".join([*(quote(place, safe="") for place in places), quote(name, safe="/")])
        return f"{self.base_url}/storage/{kind}/{self._sign(kind, *parts)}/{path}"

    def _sign(self, kind: str, *parts: str) -> str:
        text = "\0".join([kind, *parts]).encode("utf-8", "surrogatepass")
        return hmac.new(self.secret.encode(), text, "sha256").hexdigest()[:20]
