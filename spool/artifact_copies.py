"""The bytes of a run's artifacts, copied out to `artifacts/NAME/…`, each checked against the artifact's own manifest.

Guarantees: what is copied has the size and the MD5 that were logged; nothing is written outside the directory, whatever
names a log holds, and no link is followed. What is gone, differs or can't be named here is told in `missing`.
Fails with `OSError` where the directory can't be written.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from .bundle_disk import read_chunks
from .layout import safe_relative
from .log import Artifact
from .run_reader import ArtifactFile, RunReader


@dataclass
class ArtifactCopies:
    """Takes the artifacts of fragment after fragment; the same one is copied once."""

    root: Path
    files: int = 0
    references: int = 0
    missing: list[str] = field(default_factory=list)
    """A line for each file that could not be copied."""
    directories: dict[tuple[str, str], str] = field(default_factory=dict)
    """Name and digest of each artifact → its directory below `root`."""

    def take(self, reader: RunReader, artifact: Artifact) -> None:
        key = (artifact.name, artifact.digest)
        if key in self.directories:
            return
        directory = self.directories[key] = self._free_name(artifact)
        for file in reader.artifact_files(artifact):
            self._take_file(self.root / directory, artifact, file)

    def _free_name(self, artifact: Artifact) -> str:
        """The artifact's name; `NAME.2` for another one of the same name, such as a later checkpoint."""
        name = re.sub(r"[^\w.-]", "_", artifact.name)[:200].lstrip(".") or "artifact"
        taken = {each.casefold() for each in self.directories.values()}
        unique, number = name, 2
        while unique.casefold() in taken:
            unique, number = f"{name}.{number}", number + 1
        return unique

    def _take_file(self, directory: Path, artifact: Artifact, file: ArtifactFile) -> None:
        if file.reference:
            self.references += 1
            return
        wrong = _copy(file, directory)
        if wrong is None:
            self.files += 1
        else:
            self.missing.append(f"{artifact.name}: {file.name!r} {wrong}")


def _copy(file: ArtifactFile, directory: Path) -> str | None:
    """Copy and check one file; what is wrong with it in one phrase, or None."""
    relative = safe_relative(file.name)
    if relative is None or not relative.parts:
        return "has a name that leads out"
    if file.path is None:
        return "is gone"
    target = directory / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("xb")
    except (FileExistsError, NotADirectoryError):
        return "has the same name as another one here"
    digest = hashlib.md5(usedforsecurity=False)
    size_bytes = 0
    with stream:
        try:
            for chunk in read_chunks(file.path):
                digest.update(chunk)
                size_bytes += len(chunk)
                stream.write(chunk)
        except (FileNotFoundError, PermissionError, ValueError) as error:
            target.unlink()
            return f"can't be read ({error})"
    if size_bytes != file.size_bytes or base64.b64encode(digest.digest()).decode() != file.md5:
        target.unlink()
        return "holds other bytes than those that were logged"
    return None
