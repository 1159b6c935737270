"""NeMo-RL's examples/run_grpo.py with the novelty bonus, to be put beside it: docs/plugins/nemo-rl.md."""

import os

from nemo_rl.algorithms import grpo
from run_grpo import main

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.nemo_rl import novelty_estimator

scoring = NoveltyScoring(target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1)
grpo.GRPOAdvantageEstimator = novelty_estimator(grpo.GRPOAdvantageEstimator, scoring)

if __name__ == "__main__":
    main()
