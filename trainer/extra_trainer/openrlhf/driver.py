"""The process that runs OpenRLHF: `python -m extra_trainer.openrlhf.driver RUN_FILE`.

It starts or joins Ray, applies the replacements, and runs OpenRLHF's command line with the flags that
`openrlhf_flags` makes of the config. As a process of its own, it can be stopped by the launcher whatever
happens in it; the message of a failure is left in the run folder. It ends when its standard input is closed,
so that it cannot outlive the launcher.
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
from extra_trainer.openrlhf import replacements, threads
from extra_trainer.openrlhf.flags import openrlhf_flags

#: Environment of workers that compute on the CPU. oneDNN and its wrapper in torch keep 1,024 compiled kernels
#: each, half a megabyte a kernel, and batches of another length need other kernels: a worker grew by a
#: gigabyte in 60 steps. With these a step took as long, side by side. (With MALLOC_MMAP_THRESHOLD_ of 1 MiB,
#: against the freed tensors that glibc keeps, experience took 1.8 times as long.)
FLAT_MEMORY = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
#: Finished tasks that Ray's control store remembers for its dashboard, which is off: 100,000 unless set, a
#: dozen a step and 2 KB each.
REMEMBERED_TASKS = ("RAY_task_events_max_num_task_in_gcs", "1000")


def main(run_file: Path) -> None:
    """Train the launcher's pickled Run to its end."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    # Before the run is unpickled: nothing may import openrlhf or deepspeed earlier.
    replacements.install()
    run = pickle.loads(run_file.read_bytes())
    import ray

    _start_ray(run.config)
    try:
        from extra_trainer.openrlhf.trainer import ExTraTrainer

        replacements.install(run=run, trainer=ExTraTrainer)
        sys.argv = ["train_ppo_ray", *openrlhf_flags(run)]
        runpy.run_module(replacements.COMMAND_LINE, run_name="__main__")
    except ray.exceptions.RayError as error:
        run.folder.failure.write_text(_message(error), encoding="utf-8")
        raise
    finally:
        ray.shutdown()


def _start_ray(config: Any) -> None:
    import ray
    import torch

    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    # The workers of a running cluster have its environment, not this one. Ray shows these variables to anyone
    # who asks: they hold names of files, and no token.
    environment |= {name: os.environ[name] for name in NOT_SECRET if name in os.environ}
    local: dict[str, Any] = {}
    if config.ray.address is None:
        # OpenRLHF asks Ray for a GPU per model worker: without CUDA each stands for a process.
        workers = 2 * config.ray.nodes * config.ray.gpus_per_node
        local = {"num_cpus": workers + 1, "include_dashboard": False}
        os.environ.setdefault(*REMEMBERED_TASKS)
        if not torch.cuda.is_available():
            local["num_gpus"] = workers
    if not torch.cuda.is_available():
        environment |= FLAT_MEMORY | threads.ENVIRONMENT
    ray.init(
        # Not None, which would join a cluster that somebody else started on this machine.
        address=config.ray.address or "local",
        runtime_env={
            "env_vars": environment,
            "worker_process_setup_hook": "extra_trainer.openrlhf.replacements.install",
        },
        **local,
    )


def _message(error: Any) -> str:
    cause = error.cause if getattr(error, "cause", None) else error
    return f"{type(cause).__name__}: {cause}"


def _end_with_stdin() -> None:
    # Not sys.stdin: this thread would hold its lock, and the interpreter could not exit.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
