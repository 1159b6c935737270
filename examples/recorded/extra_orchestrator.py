"""prime-rl's orchestrator with the novelty bonus: docs/plugins/prime-rl.md."""

import os

from prime_rl.entrypoints.orchestrator import main
from prime_rl.orchestrator import algo

from extra_client.integrations import NoveltyScoring
from extra_client.integrations.prime_rl import novelty_algorithm

scoring = NoveltyScoring(
    target=os.environ.get("NOVELTY", "localhost:50052"), namespace="my-run", alpha=0.1, beta=0.3
)
algo.ALGORITHM_CLASSES["grpo"] = novelty_algorithm(algo.GRPOAlgorithm, scoring, correct_by="correct")

if __name__ == "__main__":
    main()
