"""The files that a bridge needs to watch the simulated agents: tokens, and a sessions file that refers to them."""

import json
from pathlib import Path

from bridge.testing.simulator.service import Simulator

TOKENS_FILE = "sim-tokens.json"


def write_tokens(simulator: Simulator, directory: Path) -> Path:
    """Writes ``{agent_id: token}`` into the directory, to be the bridge's secrets directory; returns the file.

    Creates the directory if necessary. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / TOKENS_FILE
    tokens = {agent_id: caller.token for agent_id, caller in simulator.world.callers.items()}
    file.write_text(json.dumps(tokens, indent=1), encoding="utf-8")
    return file


def sessions_toml(simulator: Simulator) -> str:
    """A sessions file with every agent, its token a reference into the file of `write_tokens`."""
    return "\n".join(
        f"[[sessions]]\n"
        f"agent_id = {json.dumps(agent_id)}\n"
        f"token = {json.dumps(f'file:{TOKENS_FILE}#{agent_id}')}\n"
        f"skills = {json.dumps(caller.life.skills)}\n"
        f"get_conversations = true\n"
        f"labels = {{ site = {json.dumps(caller.life.site)} }}\n"
        for agent_id, caller in simulator.world.callers.items()
    )
