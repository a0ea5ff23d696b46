"""The `.wandb` transaction log: read, write, and say what is in it.

The one place that knows the format. Standard library only; no protobuf library and nothing of wandb's own modules.
What a log holds for which calls of a program is written down in docs/log-format.md.

Reading        `read_records(source, salvage=False)` gives a `LogReader`: iterate `Record`s, then look at `ending`
Rows           `rows(source)` gives a `Row` for every committed step; `value_digest(values)` is what compares rows
The whole      `facts(source)` gives `LogFacts` in one pass; `artifacts(source)` walks artifacts and their entries
Writing        `LogWriter(target)`; `rewrite(source, target, transform)` with the transforms of `rewriting`

A `source` is a path or a binary file object that stands at the log's start.

Promises, for every sequence of bytes:
* Torn tails, wrong checksums, unknown kinds, hostile lengths, nesting and sizes are results, never exceptions. Only
  the file system raises (`OSError`).
* Memory does not grow with the log, only with its largest record (at most `MAX_RECORD_BYTES`); time is linear.
* Salvage may lose records that lie in damage, and never makes one up.
* A rewrite that changes nothing gives the same bytes; unknown kinds and fields are kept byte for byte.
"""

from __future__ import annotations

from wandb_spool.spool.log.artifacts import (
    Artifact,
    ArtifactEntry,
    ManifestFileError,
    artifacts,
    read_artifact,
    read_manifest_file,
    rewrite_manifest_file,
)
from wandb_spool.spool.log.canonical import as_nulls, canonical_text, value_digest
from wandb_spool.spool.log.facts import DefinedMetric, FactsCollector, LogFacts, NamedArtifact, NamedFile, facts
from wandb_spool.spool.log.framing import (
    MAX_RECORD_BYTES,
    Cause,
    Damage,
    Ending,
    EndingKind,
    LogReader,
    LogWriter,
    NumGap,
    read_records,
)
from wandb_spool.spool.log.record import Record, RecordKind
from wandb_spool.spool.log.rewriting import (
    Rewrite,
    Transform,
    chain,
    drop_kinds,
    drop_steps_in,
    keep_steps,
    keep_steps_in,
    move_artifacts,
    override_run,
    renumber,
    rewrite,
    set_config,
    set_exit_code,
    set_resume,
    summary_record,
    without_summary,
)
from wandb_spool.spool.log.rows import Row, read_row, read_step_of, rows

__all__ = [
    "MAX_RECORD_BYTES",
    "Artifact",
    "ArtifactEntry",
    "Cause",
    "Damage",
    "DefinedMetric",
    "Ending",
    "EndingKind",
    "FactsCollector",
    "LogFacts",
    "LogReader",
    "LogWriter",
    "ManifestFileError",
    "NamedArtifact",
    "NamedFile",
    "NumGap",
    "Record",
    "RecordKind",
    "Rewrite",
    "Row",
    "Transform",
    "artifacts",
    "as_nulls",
    "canonical_text",
    "chain",
    "drop_kinds",
    "drop_steps_in",
    "facts",
    "keep_steps",
    "keep_steps_in",
    "move_artifacts",
    "override_run",
    "read_artifact",
    "read_manifest_file",
    "read_records",
    "read_row",
    "read_step_of",
    "renumber",
    "rewrite",
    "rewrite_manifest_file",
    "rows",
    "set_config",
    "set_exit_code",
    "set_resume",
    "summary_record",
    "value_digest",
    "without_summary",
]
