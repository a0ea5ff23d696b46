"""A stand-in W&B service on loopback, for tests, demonstrations and rehearsals of outages.

The real wandb client works against it: `wandb sync`, an online `wandb.init`, `log_artifact`, `wandb.Api`. It keeps
what it is sent in a directory, tells what arrived twice, elsewhere or otherwise (`report`), and goes wrong on demand
(`Fault`, `down`). Importing this package is cheap; the web libraries are imported when a server starts.
"""

from wandb_spool.syncer.rehearsal.behaviour import (
    DEFAULT_ENTITY,
    Account,
    Behaviour,
    DuplicateSteps,
    LineCounts,
    StreamTail,
)
from wandb_spool.syncer.rehearsal.faults import (
    Fault,
    FaultKind,
    FaultPlan,
    dump_faults,
    load_faults,
    parse_faults,
    random_schedule,
)
from wandb_spool.syncer.rehearsal.report import AlertReport, ArtifactReport, FileReport, Report, RunReport
from wandb_spool.syncer.rehearsal.server import RehearsalServer, serve

__all__ = [
    "DEFAULT_ENTITY",
    "Account",
    "AlertReport",
    "ArtifactReport",
    "Behaviour",
    "DuplicateSteps",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "FileReport",
    "LineCounts",
    "RehearsalServer",
    "Report",
    "RunReport",
    "StreamTail",
    "dump_faults",
    "load_faults",
    "parse_faults",
    "random_schedule",
    "serve",
]
