"""What can go wrong in the pipeline in a foreseeable way. `main` prints each as one line and exits with its
code.
"""

from __future__ import annotations

PROGRAM = "wandb-spool train"


class PipelineError(Exception):
    """The pipeline could not do what was asked; nobody made a mistake."""

    exit_code = 1


class Mistake(PipelineError):
    """Something that the user can put right: a flag, a value in YAML, data that is not staged."""

    exit_code = 2


class StagingFailed(PipelineError):
    """A download was asked for and did not succeed. Asking again is safe."""
