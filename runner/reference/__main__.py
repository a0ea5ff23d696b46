"""`python -m wandb_spool.runner.reference [flags]`."""

from __future__ import annotations

import sys

from wandb_spool.runner.reference import main

# sys.exit, and looked up here: W&B sees an exit code only in a call of it, not in `raise SystemExit`.
sys.exit(main())
