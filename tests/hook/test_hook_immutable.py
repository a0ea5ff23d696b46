"""An artifact holds what its files were when it was logged, also those that wandb itself does not copy."""

from __future__ import annotations

from pathlib import Path

from wandb_spool.spool.log import artifacts

from .programs import Program


def test_an_immutable_artifact_keeps_what_its_file_held_when_it_was_logged(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        for text in ("one", "two"):
            run = wandb.init(project="p", id=text)
            open("model.bin", "w").write(text)
            artifact = wandb.Artifact("model", "model")
            artifact.add_file("model.bin", policy="immutable")
            run.log_artifact(artifact)
            run.finish()
        open("model.bin", "w").write("overwritten")
        """
    )
    assert ended.exit_code == 0, ended.err
    held = {
        fragment.facts.run_id: [Path(entry.local_path) for entry in artifact.entries()]
        for fragment in program.fragments()
        for artifact in artifacts(fragment.log)
    }
    assert {run: [path.read_text() for path in paths] for run, paths in held.items()} == {
        "one": ["one"],
        "two": ["two"],
    }
    assert all(path.is_absolute() for paths in held.values() for path in paths)
