"""The process that runs OpenRLHF: `python -m extra_trainer.openrlhf.driver RUN_FILE`.

It starts (or joins) Ray, puts our trainer class where OpenRLHF looks for its own, and runs OpenRLHF's own
command line with the flags that `openrlhf_flags` makes of the config. It is a process of its own so that
whatever happens in it, the launcher can stop it and say why: a failure's message is left in the run
folder. It ends with its standard input, so that it cannot outlive the launcher.
"""

import os
import pickle
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from extra_client.credentials import NOT_SECRET
from extra_trainer.openrlhf import cpu_bridge
from extra_trainer.openrlhf.flags import openrlhf_flags


def main(run_file: Path) -> None:
    """Runs the pickled Run of the launcher to its end."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    cpu_bridge.install()
    run = pickle.loads(run_file.read_bytes())
    import ray

    _start_ray(run.config)
    try:
        _put_our_trainer_in_place(run)
        sys.argv = ["train_ppo_ray", *openrlhf_flags(run)]
        runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    except ray.exceptions.RayError as error:
        run.folder.failure.write_text(_message(error), encoding="utf-8")
        raise
    finally:
        ray.shutdown()


def _start_ray(config: Any) -> None:
    import ray
    import torch

    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    # The workers of a cluster that runs already have its environment, not this one. Ray shows what is set
    # here to whoever asks: names of files, and no token.
    environment |= {name: os.environ[name] for name in NOT_SECRET if name in os.environ}
    local: dict[str, Any] = {}
    if config.ray.address is None:
        # OpenRLHF asks Ray for a GPU per model worker: without CUDA they are only names for processes.
        workers = 2 * config.ray.nodes * config.ray.gpus_per_node
        local = {"num_cpus": workers + 1, "include_dashboard": False}
        if not torch.cuda.is_available():
            local["num_gpus"] = workers
    if not torch.cuda.is_available():
        # The policy's and the reference's workers run side by side. With two threads each, a busy neighbour
        # makes a small model's step ten times slower: OpenMP waits at every barrier for a thread that does
        # not run. Ray's own limit comes too late, after the setup hook has imported torch.
        environment["OMP_NUM_THREADS"] = "1"
    ray.init(
        # Not None: it would join a cluster that someone else has started on this machine.
        address=config.ray.address or "local",
        runtime_env={
            "env_vars": environment,
            "worker_process_setup_hook": "extra_trainer.openrlhf.cpu_bridge.install",
        },
        **local,
    )


def _put_our_trainer_in_place(run: Any) -> None:
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ray as openrlhf_ray
    import openrlhf.utils as openrlhf_utils
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from extra_trainer.openrlhf.trainer import ExTraTrainer

    # On this node: the trainer writes the run folder that the launcher reads.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor_class = ray.remote(ExTraTrainer).options(scheduling_strategy=here)

    class WithRun:
        @staticmethod
        def remote(*arguments: Any, **options: Any) -> Any:
            return actor_class.remote(*arguments, run=run, **options)

    # train() imports the class from here when it needs it.
    ppo_trainer.PPOTrainer = WithRun
    # OpenRLHF packs samples only for a run with vLLM engines (trainer_flags.py says one); ours has none.
    openrlhf_ray.create_vllm_engines = lambda *_, **__: None
    flash_attention = run.config.ray.address is not None or cpu_bridge.flash_attn_is_there()
    openrlhf_utils.get_strategy = _with_our_strategy(openrlhf_utils.get_strategy, flash_attention)


def _with_our_strategy(get_strategy: Any, flash_attention: bool) -> Any:
    from extra_trainer.openrlhf.strategy import AccumulatingStrategy

    def with_our_strategy(args: Any) -> Any:
        # OpenRLHF asks for flash attention wherever it packs; without flash-attn torch's does it.
        if not flash_attention and "flash_attention" in args.ds.attn_implementation:
            args.ds.attn_implementation = "sdpa"
        strategy = get_strategy(args)
        strategy.__class__ = AccumulatingStrategy
        return strategy

    return with_our_strategy


def _message(error: Any) -> str:
    cause = error.cause if getattr(error, "cause", None) else error
    return f"{type(cause).__name__}: {cause}"


def _end_with_stdin() -> None:
    # Not sys.stdin: its lock, held by this thread, would be fatal to the interpreter's own exit.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
