"""Frameworks as they are: torchrun, accelerate, Lightning, transformers, Hydra, submitit, DataLoader workers."""

from __future__ import annotations

import sys
from pathlib import Path

from wandb_spool.spool.layout import log_path
from wandb_spool.spool.log import rows

from .harness import World, need, whole

RANKS = """
import os, signal, sys, time
import torch.distributed as dist
import wandb

dist.init_process_group("gloo")
rank = dist.get_rank()

def train(name, rows, **more):
    run = wandb.init(project="p", name=name, **more)
    for row in range(rows):
        run.log({"rank": rank, "row": row})
    run.finish()

if rank == 0:
    train("lead", 11)
dist.barrier()
train(f"rank {rank}", 5 + rank, group="all of them", mode="online")
dist.barrier()
dist.destroy_process_group()
"""

DYING = """
import os, signal, time
import wandb

rank = int(os.environ["RANK"])
run = wandb.init(project="p", name=f"rank {rank}", group="all of them")
for row in range(10):
    run.log({"row": row})
time.sleep(1.5)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""


def test_torchrun_with_rank_zero_logging_and_with_every_rank_logging(world: World) -> None:
    need("torch")
    world.write("train.py", RANKS)
    # In a namespace whose only address is loopback, the name of this host may lead nowhere.
    ended = world.run("torchrun", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--master-port=29500", "train.py")
    whole(ended)
    runs = {run.manifest.name: run for run in world.sealed()}
    assert {name: run.counts for name, run in runs.items()} == {
        "lead": (11, 11, 0),
        "rank 0": (5, 5, 0),
        "rank 1": (6, 6, 0),
    }
    assert runs["rank 0"].manifest.group == runs["rank 1"].manifest.group == "all of them"
    assert {run.manifest.exit_known_from for run in runs.values()} == {"record"}
    assert len(world.launches()) == 1


def test_rank_that_dies_takes_no_rows_of_anybody_with_it(world: World) -> None:
    need("torch")
    world.write("train.py", DYING)
    ended = world.run("torchrun", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--master-port=29500", "train.py")
    whole(ended, exit_code=1)
    first, second = world.sealed()
    assert (first.counts, second.counts) == ((10, 10, 0), (10, 10, 0))
    assert (first.manifest.exit_code, first.manifest.exit_known_from) == (143, "record"), "torchrun ends the others"
    assert (second.manifest.exit_code, second.manifest.exit_known_from) == (None, "unknown")


def test_accelerate_launch_with_its_tracker_and_dataloader_workers(world: World) -> None:
    need("accelerate")
    world.write(
        "train.py",
        """
        import torch, wandb
        from accelerate import Accelerator
        from torch.utils.data import DataLoader, TensorDataset

        if __name__ == "__main__":
            accelerator = Accelerator(log_with="wandb", cpu=True)
            accelerator.init_trackers("p", config={"lr": 0.1}, init_kwargs={"wandb": {"name": "tracked"}})
            data = TensorDataset(torch.arange(32.0).reshape(16, 2))
            loader = accelerator.prepare(DataLoader(data, batch_size=4, num_workers=2, persistent_workers=True))
            for epoch in range(3):
                for number, (batch,) in enumerate(loader):
                    accelerator.log({"sum": float(batch.sum())}, step=epoch * 4 + number)
            accelerator.end_training()
        """,
    )
    ended = world.run("accelerate", "launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "train.py")
    whole(ended)
    (run,) = world.sealed()
    assert run.counts == (12, 12, 0) and run.manifest.name == "tracked"


def test_lightning_with_its_own_logger_that_watches_the_model(world: World) -> None:
    need("lightning")
    world.write(
        "train.py",
        """
        import lightning, torch
        from lightning.pytorch.loggers import WandbLogger

        class Model(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.save_hyperparameters({"width": 4})
                self.layer = torch.nn.Linear(4, 1)

            def forward(self, x):
                return self.layer(x)

            def training_step(self, batch, number):
                loss = self(batch[0]).pow(2).mean()
                self.log("loss", loss)
                return loss

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.01)

        data = torch.utils.data.TensorDataset(torch.ones(24, 4))
        logger = WandbLogger(project="p", name="of lightning", log_model=False)
        model = Model()
        logger.watch(model, log="all", log_freq=2)
        trainer = lightning.Trainer(
            max_epochs=2, logger=logger, log_every_n_steps=1, enable_progress_bar=False, accelerator="cpu"
        )
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
        print("version", logger.version, "in", logger.save_dir)
        """,
    )
    ended = world.run(sys.executable, "train.py")
    whole(ended)
    (run,) = world.sealed()
    logged, kept, lost = run.counts
    assert logged == kept and lost == 0 and kept >= 12
    watched = {f"{what}/layer.weight.bins" for what in ("gradients", "parameters")}
    assert {"loss", "epoch", "trainer/global_step", *watched} <= run_keys(run.directory)
    assert run.manifest.name == "of lightning" and run.manifest.exit_code == 0


def test_transformers_trainer_reports_to_wandb(world: World) -> None:
    need("transformers", "accelerate")
    world.write(
        "train.py",
        """
        import torch
        from transformers import Trainer, TrainingArguments

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(4, 1)

            def forward(self, x=None, labels=None):
                return {"loss": (self.layer(x) - labels).pow(2).mean()}

        data = [{"x": torch.ones(4), "labels": torch.ones(1)} for _ in range(16)]
        arguments = TrainingArguments(
            "out", report_to="wandb", run_name="of transformers", logging_steps=1, per_device_train_batch_size=4,
            num_train_epochs=3, use_cpu=True, save_strategy="no", disable_tqdm=True,
        )
        Trainer(Model(), arguments, train_dataset=data).train()
        """,
    )  # fmt: skip
    ended = world.run(sys.executable, "train.py", WANDB_PROJECT="p", WANDB_WATCH="all")
    whole(ended)
    (run,) = world.sealed()
    logged, kept, lost = run.counts
    assert logged == kept and lost == 0 and kept >= 13
    assert {"train/loss", "train/learning_rate", "train/global_step"} <= run_keys(run.directory)
    assert (run.manifest.name, run.manifest.project) == ("of transformers", "p")


HYDRA = """
import hydra, wandb

@hydra.main(version_base=None, config_name="conf", config_path=".")
def main(conf):
    run = wandb.init(project="p", name=f"x {conf.x}", config={"x": conf.x})
    for row in range(conf.x):
        run.log({"row": row})
    run.finish()

main()
"""


def test_hydra_multirun_makes_one_run_for_each_job(world: World) -> None:
    need("hydra")
    world.write("train.py", HYDRA)
    world.write("conf.yaml", "x: 1\n")
    ended = world.run(sys.executable, "train.py", "-m", "x=3,4,5")
    whole(ended)
    assert [run.counts for run in world.sealed()] == [(n, n, 0) for n in (3, 4, 5)]
    assert len(world.launches()) == 1 and ended.loopback == 0
    assert not list(world.work.rglob("wandb")), "a run left the spool"


def test_submitit_jobs_take_the_environment_that_env_prints_along(world: World) -> None:
    need("submitit")
    world.write(
        "submit.py",
        """
        import submitit

        def train(rows):
            import wandb
            run = wandb.init(project="p", name=f"rows {rows}", mode="online")
            for row in range(rows):
                run.log({"row": row})
            run.finish()

        executor = submitit.LocalExecutor("jobs")
        executor.update_parameters(timeout_min=2)
        jobs = [executor.submit(train, rows) for rows in (4, 6)]
        for job in jobs:
            job.result()
        """,
    )
    line = f'eval "$({sys.executable} -m wandb_spool env --spool {world.spool})" && exec {sys.executable} submit.py'
    ended = world.bare("sh", "-c", line)
    whole(ended)
    assert ended.loopback == 0
    world.recover()
    assert [run.counts for run in world.sealed()] == [(4, 4, 0), (6, 6, 0)]


def run_keys(directory: Path) -> set[str]:
    """Every key of a run's history."""
    log = log_path(directory)
    assert log is not None
    return {key for row in rows(log) for key in row.values}
