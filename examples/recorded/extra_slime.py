"""For slime's and miles' --custom-rm-path and --custom-reward-post-process-path: docs/plugins/slime.md."""

import os

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.slime import post_process, reward_function

scoring = NoveltyScoring(
    target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1, beta=0.3
)
reward = reward_function(os.environ.get("VERIFICATION", "localhost:50053"), undecided_reward=0.0)
rewards = post_process(scoring)
