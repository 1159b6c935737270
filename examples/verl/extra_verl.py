"""For verl's reward.reward_manager and reward.custom_reward_function; see docs/plugins/verl.md."""

import os

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.verl import reward_manager, verification_score

compute_score = verification_score(os.environ.get("VERIFICATION", "localhost:50053"))
NoveltyRewardManager = reward_manager(
    NoveltyScoring(
        target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1, beta=0.3
    )
)
