"""The reference pipeline: a convolutional image classifier, trained the way users of W&B and PyTorch train.

It is a plain training script. Nothing in it knows of a spool; under `wandb-spool run` it logs into one,
started as `python -m wandb_spool.runner.reference` it logs wherever W&B is set to log. Importing this
package imports neither torch nor wandb.

As a library, on a run of your own:

    import wandb
    from wandb_spool.runner.reference.training import train

    with wandb.init(project="digits") as run:
        run.config.epochs = 2
        run.config.update({"kernels": [8, 16]})
        train(run)
"""

from __future__ import annotations

from wandb_spool.runner.reference.script import main

__all__ = ["main"]
