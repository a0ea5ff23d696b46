"""wandb-spool: offline-first experiment logging for PyTorch and W&B, with deferred sync that proves itself."""

__version__ = "0.1.0"
