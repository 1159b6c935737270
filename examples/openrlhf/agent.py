"""For OpenRLHF's --train.agent_func_path: verification, alpha x novelty and beta x outcome novelty."""

import os

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.openrlhf import agent_executor

AgentExecutor = agent_executor(
    os.environ.get("VERIFICATION", "localhost:50053"),
    NoveltyScoring(
        target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1, beta=0.3
    ),
)
