"""`wandb-spool`, and `python -m wandb_spool`.

`run` is answered without the command line library, as fast as a training may expect; everything else by `cli`.
"""

from __future__ import annotations

import sys


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["run"]:
        from wandb_spool.run_arguments import parse

        arguments = parse(words[1:])
        if arguments is not None:
            from wandb_spool.running import run

            return run(arguments)
    from wandb_spool.cli import answer

    return answer(words)


if __name__ == "__main__":
    sys.exit(main())
