"""Calls that can't work offline: recorded no-ops, or one clear error at once."""

from __future__ import annotations

import pytest

from .programs import Program


def test_links_versions_and_waits_are_no_ops_that_are_told(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        open("f", "w").write("x")
        artifact = wandb.Artifact("data", "dataset"); artifact.add_file("f")
        logged = run.log_artifact(artifact)
        assert logged.wait() is logged and isinstance(logged.version, str)
        run.link_artifact(logged, "registry/data"); logged.link("registry/data")
        run.link_model("f", "registered", name="model")
        run.log_artifact("f", name="path-artifact").wait()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    fragment = program.fragment()
    assert {artifact.name for artifact in fragment.facts.artifacts} >= {"data", "model", "path-artifact"}
    assert [one["call"] for one in fragment.entry["not_done"]] == ["link_artifact", "link_model"]
    assert sum("NOT done" in line for line in ended.notices) == 3


@pytest.mark.parametrize(
    ("before", "call"),
    [
        ("", "wandb.Api()"),
        ("", "wandb.sweep({'method': 'grid'})"),
        ("", "wandb.agent('a/b/c')"),
        ("", "wandb.restore('f', run_path='a/b/c')"),
        ("wandb.init(project='p')", "wandb.use_artifact('data:latest')"),
        ("wandb.init(project='p')", "wandb.run.use_model('m')"),
    ],
)
def test_a_call_that_needs_the_server_fails_at_once_with_call_line_and_remedy(
    program: Program, before: str, call: str
) -> None:
    ended = program.run(
        f"import wandb\n{before}\ntry:\n    {call}\nexcept wandb.UsageError as error:\n    print(error)"
    )
    message = ended.out.strip().splitlines()[-1]
    assert call.partition("(")[0].rpartition(".")[2] in message
    assert f"{program.home / 'train.py'}:" in message and "Remedy: " in message


def test_a_dict_assigned_to_wandb_config_after_init_is_recorded(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p", config={"kept": 1})
        wandb.config = {"lr": 0.1, "kept": 2}
        assert wandb.config["lr"] == 0.1 and wandb.config is run.config
        """
    )
    assert ended.exit_code == 0, ended.err
    config = program.fragment().facts.config
    assert (config["lr"], config["kept"]) == (0.1, 2)


def test_asking_the_api_offline_points_to_the_reader_of_what_is_in_the_spool(program: Program) -> None:
    ended = program.run("import wandb; wandb.Api()")
    assert "wandb_spool.spool.open_run" in ended.err
