"""A training that logs every kind of media and file; run by the launcher in a process of its own.

Prints one line of JSON: what a person expects to find on the server, as path or row key → SHA-256 or content.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import struct
import wave
from pathlib import Path
from typing import Any, Literal

import numpy
import wandb


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def noise(size: int) -> bytes:
    return os.urandom(size)


def made_media() -> dict[str, Path]:
    """Media that lie in files before they are logged; wandb does not look into them."""
    sound = Path("sound.wav")
    with wave.open(str(sound), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 5))) for n in range(800)))
    made = {
        "audio": sound,
        "video": Path("film.mp4"),
        "html": Path("page.html"),
        "molecule": Path("water.pdb"),
        "object3d": Path("cube.obj"),
        "image_file": Path("photo.jpg"),
    }
    made["video"].write_bytes(b"\0\0\0\x18ftypmp42" + noise(3000))
    made["html"].write_text("<html><body><b>grün</b></body></html>")
    made["molecule"].write_text("HETATM    1  O   HOH A   1       0.000   0.000   0.000\n")
    made["object3d"].write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    from PIL import Image

    Image.fromarray(numpy.full((8, 8, 3), 99, dtype=numpy.uint8)).save(made["image_file"])
    return made


def log_media() -> dict[str, Any]:
    made = made_media()
    run = wandb.init(project="media", id="media", save_code=True, settings=wandb.Settings(code_dir="."))
    run.log({"audio": wandb.Audio(str(made["audio"]), caption="a sine")})
    run.log({"video": wandb.Video(str(made["video"]), format="mp4")})
    run.log({"html": wandb.Html(made["html"].open(), inject=False)})
    run.log({"molecule": wandb.Molecule(str(made["molecule"]))})
    run.log({"object3d": wandb.Object3D(made["object3d"].open())})
    run.log({"image_file": wandb.Image(str(made["image_file"]))})
    pixels = (numpy.arange(48) * 5).astype(numpy.uint8).reshape(4, 4, 3)
    mask = {"mask_data": numpy.eye(4, dtype=numpy.uint8), "class_labels": {1: "one"}}
    run.log({"images": [wandb.Image(pixels, masks={"truth": mask}), wandb.Image(255 - pixels)]})
    run.log({"points": wandb.Object3D(numpy.arange(12.0).reshape(4, 3))})
    run.log({"histogram": wandb.Histogram(list(range(100)))})
    run.log({"table": wandb.Table(columns=["n", "text"], data=[[1, "one"], [2, "zwei"]])})
    run.log({"pictures": wandb.Table(columns=["picture"], data=[[wandb.Image(pixels)]])})
    run.log({"chart": wandb.plot.line_series([0, 1], [[1, 2]], keys=["k"], title="t")})
    if importlib.util.find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(1, 1))
        figure.add_subplot().plot([1, 2])
        run.log({"figure": wandb.Image(figure)})
    if importlib.util.find_spec("plotly"):
        from plotly import graph_objects  # type: ignore[import-untyped, unused-ignore]

        run.log({"plotly": graph_objects.Figure(graph_objects.Bar(y=[1, 2, 3]))})
    code = run.log_code(".", name="source", include_fn=lambda path: path.endswith("media_program.py"))
    assert code is not None
    media = Path(run.dir) / "media"
    written = {
        f"media/{path.relative_to(media).as_posix()}": sha256(path.read_bytes())
        for path in sorted(media.rglob("*"))
        if path.is_file()
    }
    run.finish()
    return {
        "originals": {kind: sha256(path.read_bytes()) for kind, path in made.items()},
        "written": written,
        "code": sha256(Path("media_program.py").read_bytes()),
        "pixels": pixels.tolist(),
    }


def save_files() -> dict[str, str]:
    """Every policy with every fate of the original; returns name → digest of what must arrive."""
    run = wandb.init(project="media", id="files")
    expected: dict[str, str] = {}
    Path("deep/er").mkdir(parents=True)

    def write(name: str) -> str:
        Path(name).write_bytes(noise(700))
        return sha256(Path(name).read_bytes())

    policies: tuple[Literal["now", "live", "end"], ...] = ("now", "live", "end")
    for policy in policies:
        for fate in ("kept", "overwritten", "replaced", "deleted"):
            name = f"deep/er/{policy}-{fate}.bin"
            at_call = write(name)
            run.save(name, policy=policy)
            later = at_call
            if fate == "overwritten":
                later = write(name)
            elif fate == "replaced":
                later = write("new")
                os.rename("new", name)
            elif fate == "deleted":
                os.unlink(name)
            expected[name] = at_call if policy == "now" else later
    for name in ("a.txt", "b.txt", "c.dat"):
        write(f"deep/{name}")
    run.save("deep/*.txt", policy="now")
    run.save("deep/[c]*", base_path="deep", policy="end")
    expected |= {name: sha256(Path(name).read_bytes()) for name in ("deep/a.txt", "deep/b.txt")}
    expected["c.dat"] = sha256(Path("deep/c.dat").read_bytes())
    Path("folder/inner").mkdir(parents=True)
    for name in ("folder/one.bin", "folder/inner/two.bin"):
        expected[name] = write(name)
    run.save("folder/*", policy="now")
    run.save(os.path.abspath("folder/inner/two.bin"), base_path=os.getcwd(), policy="end")
    Path("out").mkdir()
    for name in ("out/model.onnx", "out/model.onnx.data"):
        expected[name] = write(name)
    run.save("out/model.onnx")
    run.log({"done": 1})
    run.finish()
    return expected


def log_artifacts() -> dict[str, str]:
    run = wandb.init(project="media", id="artifacts")
    Path("tree/sub").mkdir(parents=True)
    expected = {}
    artifact = wandb.Artifact("model", type="model")
    for name in ("tree/weights.bin", "tree/sub/größe.txt", "tree/empty"):
        Path(name).write_bytes(noise(5000) if name != "tree/empty" else b"")
        expected[name.removeprefix("tree/")] = sha256(Path(name).read_bytes())
    artifact.add_dir("tree")
    with artifact.new_file("made.json") as stream:
        stream.write("{}")
    expected["made.json"] = sha256(b"{}")
    run.log_artifact(artifact, aliases=["best"])
    run.log({"done": 1})
    run.finish()
    return expected


if __name__ == "__main__":
    told = {"media": log_media(), "files": save_files(), "artifacts": log_artifacts()}
    print(json.dumps(told))
