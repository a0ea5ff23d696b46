"""`sync_tensorboard`: rows that wandb-core makes of event files are kept, and nobody pretends to have counted them."""

from __future__ import annotations

import pytest

from .programs import Program

pytest.importorskip("tensorboard", reason="needs tensorboard, which torch.utils.tensorboard writes with")

# Two directories: before it has seen a second one wandb-core waits ten seconds for the root of them all.
WRITING = """
import wandb
from torch.utils.tensorboard import SummaryWriter
wandb.init(project="p", sync_tensorboard=True)
writers = [SummaryWriter("board/" + name) for name in ("train", "test")]
for i in range(40):
    writers[0].add_scalar("loss", i, i)
    writers[0].flush()
    if i == {kill}:
        time.sleep(2)
        os.kill(core(), signal.SIGKILL)
        time.sleep(2)
for writer in writers:
    writer.close()
wandb.finish()
print("trained")
"""


@pytest.mark.parametrize("kill", [-1, 20], ids=["undisturbed", "wandb-core killed"])
def test_every_row_of_tensorboards_files_is_there_and_nobody_pretends_to_have_counted(
    program: Program, kill: int
) -> None:
    ended = program.run(WRITING.format(kill=kill))
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    *earlier, last = program.fragments()
    assert len(earlier) == (kill > 0)
    assert [value for row in last.rows for key, value in row.values.items() if key.endswith("loss")] == list(range(40))
    for fragment in (*earlier, last):
        assert (fragment.log.parent / "shared").exists()
        shown = {row.step: row.values.get("train/loss") for row in fragment.rows}
        assert shown.items() <= {row.step: row.values.get("train/loss") for row in last.rows}.items()
    assert not any("nothing is lost" in line for line in ended.notices)
