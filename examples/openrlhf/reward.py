"""For OpenRLHF's --reward.remote_url, instead of the agent hook; see docs/plugins/openrlhf.md."""

import os

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.openrlhf import reward_function

reward_func = reward_function(
    os.environ.get("VERIFICATION", "localhost:50053"),
    NoveltyScoring(target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1),
    group_size=8,  # --rollout.n_samples_per_prompt
)
