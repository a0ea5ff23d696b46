"""The version of wandb-spool; pyproject.toml says the same (tests/test_packaging.py)."""

VERSION = "0.1.0"
