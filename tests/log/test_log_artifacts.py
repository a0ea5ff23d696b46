"""Where artifact bytes lie, and how a log is told that they lie elsewhere."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from wandb_spool.spool.log import (
    ManifestFileError,
    artifacts,
    facts,
    move_artifacts,
    read_manifest_file,
    rewrite,
    rewrite_manifest_file,
)


def test_entries_name_the_staged_files(real_logs: dict[str, Path]) -> None:
    (artifact,) = artifacts(real_logs["described"])
    (entry,) = artifact.entries()
    assert (artifact.name, artifact.type, set(artifact.aliases)) == ("model", "model", {"best", "latest"})
    assert (entry.path, entry.size_bytes) == ("kept.txt", len("content"))
    assert Path(entry.local_path).read_text() == "content"


def test_moved_artifacts_keep_everything_but_the_local_path(real_logs: dict[str, Path]) -> None:
    log = real_logs["described"]
    target = io.BytesIO()
    rewrite(log, target, move_artifacts(lambda path: "/moved/" + Path(path).name))
    (before,), (after,) = artifacts(log), artifacts(io.BytesIO(target.getvalue()))
    (old,), (new,) = before.entries(), after.entries()
    assert new.local_path == "/moved/" + Path(old.local_path).name
    assert (new.path, new.digest, new.size_bytes, after.digest) == (old.path, old.digest, old.size_bytes, before.digest)

    back = io.BytesIO()
    rewrite(io.BytesIO(target.getvalue()), back, move_artifacts(lambda path: old.local_path))
    assert back.getvalue() == log.read_bytes()


def test_a_manifest_in_a_file_of_its_own_is_read_and_rewritten(real_logs: dict[str, Path], tmp_path: Path) -> None:
    log = real_logs["manyfiles"]
    (artifact,) = artifacts(log)
    assert list(artifact.entries()) == []
    before = list(read_manifest_file(Path(artifact.manifest_file_path)))
    assert sorted(entry.path for entry in before) == [f"{number}.txt" for number in range(5)]
    assert facts(log).artifacts[0].manifest_file_path == artifact.manifest_file_path

    moved = tmp_path / "manifest.jl.gz"
    rewrite_manifest_file(Path(artifact.manifest_file_path), moved, lambda path: "/moved/" + Path(path).name)
    after = list(read_manifest_file(moved))
    assert [entry.local_path for entry in after] == ["/moved/" + Path(entry.local_path).name for entry in before]
    assert [(entry.path, entry.digest, entry.size_bytes) for entry in after] == [
        (entry.path, entry.digest, entry.size_bytes) for entry in before
    ]

    target = io.BytesIO()
    rewrite(log, target, move_artifacts(lambda path: path, lambda path: str(moved)))
    (renamed,) = artifacts(io.BytesIO(target.getvalue()))
    assert renamed.manifest_file_path == str(moved)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no json\n"), gzip.compress(b"[1]\n"), gzip.compress(b"{}\n" * 9)[:-9]],
    ids=["empty", "not gzip", "not json", "not an object", "cut"],
)
def test_a_file_that_is_no_manifest_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(content)
    if content == b"":
        assert list(read_manifest_file(path)) == []
        return
    with pytest.raises(ManifestFileError):
        list(read_manifest_file(path))
