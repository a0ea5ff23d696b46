"""What every test module may use."""

from __future__ import annotations

pytest_plugins = ["rehearsal_fixture"]
