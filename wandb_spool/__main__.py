"""`wandb-spool`, and `python -m wandb_spool`.

`run` and `status` are answered without the command line library, as fast as a training and a person may expect;
everything else by `cli`.
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
    if words[:1] == ["status"]:
        from wandb_spool.answering import status

        code = status(words[1:])
        if code is not None:
            return code
    from wandb_spool.cli import answer

    return answer(words)


if __name__ == "__main__":
    sys.exit(main())
