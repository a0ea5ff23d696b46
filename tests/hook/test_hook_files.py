"""Saved files arrive as they were; nothing of a finished run is a link."""

from __future__ import annotations

from pathlib import Path

from .programs import Program


def links(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_symlink() or (p.is_file() and p.stat().st_nlink > 1)]


def test_a_saved_file_keeps_the_content_that_its_policy_promises(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        os.makedirs("deep/er")
        for policy in ("now", "live", "end"):
            for fate in ("kept", "overwritten", "replaced", "deleted"):
                name = f"deep/er/{policy}-{fate}.txt"
                open(name, "w").write("at the call")
                run.save(name, policy=policy)
                if fate == "overwritten":
                    open(name, "w").write("later")
                elif fate == "replaced":
                    open("new", "w").write("later"); os.rename("new", name)
                elif fate == "deleted":
                    os.unlink(name)
        run.save("deep/er/*-kept.txt", base_path="deep", policy="now")
        run.finish()
        for name in os.listdir("deep/er"):
            open(f"deep/er/{name}", "w").write("overwritten by the next run")
        """
    )
    assert ended.exit_code == 0, ended.err
    files = program.fragment().path / "files"
    found = {path.name: path.read_text() for path in (files / "deep" / "er").iterdir()}
    for name, content in found.items():
        later = name.startswith(("live", "end")) and ("overwritten" in name or "replaced" in name)
        assert (name, content) == (name, "later" if later else "at the call")
    assert len(found) == 12 and len(list((files / "er").iterdir())) == 3
    assert links(files) == []


def test_an_onnx_model_brings_the_file_with_its_weights(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        os.mkdir("out")
        open("out/model.onnx", "w").write("graph"); open("out/model.onnx.data", "w").write("weights")
        saved = run.save("out/model.onnx", policy="now")
        assert len(saved) == 2, saved
        """
    )
    assert ended.exit_code == 0, ended.err
    fragment = program.fragment()
    assert (fragment.path / "files/out/model.onnx.data").read_text() == "weights"
    assert {"out/model.onnx", "out/model.onnx.data"} <= {file.path for file in fragment.facts.files}
    assert any("model.onnx.data holds the weights" in line for line in ended.notices)
    assert links(fragment.path / "files") == []
