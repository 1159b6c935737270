"""The OpenRLHF plug-in in OpenRLHF's own executor, reward loader and rollout code, with real services.

The engine is a fake that returns given tokens; test_plugin_openrlhf_vllm.py uses vLLM's engine.
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from extra_client import NamespaceClient, NamespaceSettings, PrefixClient, UnavailableError
from extra_client.errors import FailedPreconditionError
from extra_client.integrations import NoveltyScoring, prompt_id
from extra_client.integrations.openrlhf import PrefixCollecting, agent_executor, reward_function
from extra_trainer.openrlhf import replacements
from support.faulty_services import free_port
from support.generation_models import make_model
from support.novelty_server import Server
from support.outcome_model import OutcomeModel
from support.pages import blocks
from support.recorded_logs import assert_as_recorded, log_samples
from support.trainers.openrlhf_actor import Engine, parameters, rollouts
from support.verification_server import verification_server

ANSWERS = ["so 4", "thus 4", "it is 4", "no idea"]


@pytest.fixture(scope="module", autouse=True)
def openrlhf_can_be_imported() -> None:
    replacements.install()


def right(response: str, label: str) -> bool | None:
    return None if response == "hm" else response.endswith(label)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"


def scoring(target: str, namespace: str, **options: Any) -> NoveltyScoring:
    settings = NamespaceSettings(min_history=1)
    options = {"metric": "embedding"} | options
    return NoveltyScoring(target=target, namespace=namespace, alpha=0.5, settings=settings, **options)


def written(folder: Path, text: str) -> str:
    path = folder / "file.py"
    path.write_text(text)
    return str(path)


def test_the_agent_file_gives_whole_groups_verification_plus_alpha_times_novelty(
    tokenizer: Any, server: str, tmp_path: Path
) -> None:
    path = written(
        tmp_path,
        f"""
from extra_client import NamespaceSettings
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.openrlhf import agent_executor

def right(response, label):
    return response.endswith(label)

settings = NamespaceSettings(min_history=1)
novelty = NoveltyScoring(
    target="{server}", namespace="agent", settings=settings, alpha=0.5, metric="embedding"
)
AgentExecutor = agent_executor(right, novelty)
""",
    )

    async def steps() -> list[list[Any]]:
        from openrlhf.trainer.ray import vllm_engine

        executor = vllm_engine._load_agent_executor(path)
        # The same prompt twice in a batch, and another time with a group of another size.
        twice = [rollouts(executor, tokenizer, ANSWERS) for _ in range(2)]
        return [*await asyncio.gather(*twice), await rollouts(executor, tokenizer, ["but 4", "or then 4"])]

    first, second, third = asyncio.run(steps())
    assert [output["scores"] for output in first] == [1.0, 1.0, 1.0, 0.0]
    with NamespaceClient(server, "agent") as client:
        (prompt,) = client.list_prompts()
        assert (prompt.prompt_id, prompt.solutions_added) == (prompt_id("2 + 2 = "), 3 + 3 + 2)
    for output in [*first, *second, *third]:
        logs = output["extra_logs"]
        assert output["reward"] == output["scores"] + 0.5 * logs["novelty"]
        assert logs["novelty_missing"] == logs["undecided"] == 0
    # The first group found an empty memory, the second what it knows already.
    assert not any(output["extra_logs"]["novelty"] for output in [*first, *second])
    assert all(output["extra_logs"]["novelty"] > 0 for output in third)


def last_word(response: str) -> str | None:
    return None if response == "no idea" else response.split()[-1]


def advantages(outputs: list[Any], estimator: str) -> list[float]:
    """The advantages of a group's first tokens, by OpenRLHF's experience maker."""
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    experiences = [SamplesGenerator._process_response_into_experience(None, each) for each in outputs]
    for number, experience in enumerate(experiences):
        experience.index = [number]
        experience.kl = torch.zeros(experience.action_mask.shape)
    settings = SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=1.0, no_std_norm=False)),
        rollout=SimpleNamespace(n_samples_per_prompt=len(outputs)),
        reward=SimpleNamespace(
            clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None
        ),
    )
    maker = SimpleNamespace(
        strategy=SimpleNamespace(args=settings),
        advantage_estimator=estimator,
        kl_ctl=SimpleNamespace(value=0.0),
    )
    maker.get_cumulative_returns = RemoteExperienceMaker.get_cumulative_returns.__get__(maker)
    made = RemoteExperienceMaker.compute_advantages_and_returns(maker, experiences)
    return [float(each.advantages[0][each.action_mask[0].bool()][0]) for each in made]


@pytest.mark.parametrize("estimator", ["group_norm", "dr_grpo"])
def test_outcome_novelty_is_added_to_the_wrong_rollouts_of_all_wrong_groups(
    tokenizer: Any, server: str, estimator: str
) -> None:
    groups = [
        ["so 5", "thus 5", "it is 6", "no idea"],
        ["so 5", "it is 7", "hm", "or 6"],
        # With a correct one: nothing is added, and nothing is counted.
        ["so 4", "so 7", "so 7", "so 7"],
        ["a 5", "a 7", "a 7", "a 6"],
    ]
    novelty = NoveltyScoring(target=server, namespace=estimator, alpha=0.0, beta=0.3)

    async def steps() -> list[list[Any]]:
        executor = agent_executor(
            right, novelty, answers=last_word, estimator=estimator, undecided_reward=0.0
        )()
        return [await rollouts(executor, tokenizer, texts) for texts in groups]

    model = OutcomeModel(beta=0.3)
    for texts, outputs in zip(groups, asyncio.run(steps()), strict=True):
        bonus = model.bonus("p", [right(text, "4") for text in texts], [last_word(text) for text in texts])
        assert [output["scores"] for output in outputs] == [float(right(text, "4") is True) for text in texts]
        plain = advantages([{**output, "reward": output["scores"]} for output in outputs], estimator)
        ours = advantages(outputs, estimator)
        added = [after - before for after, before in zip(ours, plain, strict=True)]
        assert added == pytest.approx(bonus, abs=1e-6)
        logged = [0.3 * output["extra_logs"]["outcome_novelty"] for output in outputs]
        assert logged == pytest.approx(bonus, abs=1e-6)
    with NamespaceClient(server, estimator) as client:
        (prompt,) = client.list_prompts()
    assert (prompt.prompt_id, prompt.answers) == (prompt_id("2 + 2 = "), len(model.counts["p"]))


def test_final_answers_come_from_the_verification_service(
    tokenizer: Any, server: str, tmp_path: Path
) -> None:
    novelty = NoveltyScoring(target=server, namespace="service", alpha=0.0, beta=0.3)

    async def run(address: str) -> list[Any]:
        executor = agent_executor(address, novelty)()
        texts = ["the answer is 5", "well, the answer is 5", "the answer is 6", "no idea"]
        return await rollouts(executor, tokenizer, texts)

    with verification_server(tmp_path, workers=1) as verification:
        outputs = asyncio.run(run(verification.address))
    bonus = OutcomeModel(1.0).bonus("p", [False] * 4, ["5", "5", "6", None])
    assert [each["extra_logs"]["outcome_novelty"] for each in outputs] == pytest.approx(bonus, abs=1e-6)


def test_a_sample_that_fails_keeps_no_other_waiting(tokenizer: Any, server: str) -> None:
    def fails(response: str, label: str) -> bool:
        if response == "so 6":
            raise RuntimeError("this one")
        return response.endswith(label)

    novelty = NoveltyScoring(target=server, namespace="fails", alpha=0.0, beta=0.3)

    async def run() -> Any:
        executor = agent_executor(fails, novelty, answers=last_word)()
        engine = Engine(tokenizer, ["so 5", "so 6", "so 7"])
        calls = [executor.execute("2 + 2 = ", "4", parameters(), 64, tokenizer, engine) for _ in range(3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(second, RuntimeError)
    assert first["reward"] == third["reward"] == 0
    with NamespaceClient(server, "fails") as client:
        (prompt,) = client.list_prompts()
    assert prompt.answers == 2


def test_beta_that_openrlhf_would_change_is_refused(server: str) -> None:
    novelty = NoveltyScoring(target=server, namespace="refused", beta=0.3)
    refused: dict[str, dict[str, Any]] = {
        "give answers": {},
        "not 'reinforce_baseline'": {"answers": last_word, "estimator": "reinforce_baseline"},
        "undecided_reward=0": {"answers": last_word, "undecided_reward": -1.0},
    }
    for match, options in refused.items():
        with pytest.raises(ValueError, match=match):
            agent_executor(right, novelty, **options)
    with pytest.raises(ValueError, match="beta is for agent_executor"):
        reward_function(right, novelty, group_size=4)


def test_with_weights_of_0_the_experience_is_bit_identical_to_the_plain_executor_and_nothing_is_called(
    tokenizer: Any, tmp_path: Path
) -> None:
    path = written(
        tmp_path, "def reward_func(q, p, l):\n    return {'rewards': float('4' in q[0].split('=')[1])}\n"
    )
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    async def run(executor: Any) -> list[Any]:
        return await rollouts(executor, tokenizer, ANSWERS)

    plain = asyncio.run(run(SingleTurnAgentExecutor([path])))
    silent = NoveltyScoring(target=f"localhost:{free_port()}", namespace="none", alpha=0.0, beta=0.0)
    ours = asyncio.run(run(agent_executor(right, silent)()))
    make = SamplesGenerator._process_response_into_experience
    for one, other in zip(plain, ours, strict=True):
        before, after = make(None, one), make(None, other)
        for name in ("sequences", "attention_mask", "action_mask", "rewards", "scores"):
            assert getattr(before, name).numpy().tobytes() == getattr(after, name).numpy().tobytes()


def test_the_reward_file_forms_groups_of_what_comes_sample_by_sample(
    tokenizer: Any, server: str, tmp_path: Path
) -> None:
    """Eight samples at once, more than the event loop of a small machine has threads."""
    path = written(
        tmp_path,
        f"""
from extra_client import NamespaceSettings
from extra_client.integrations import NoveltyScoring
from extra_client.integrations.openrlhf import reward_function

settings = NamespaceSettings(min_history=1)
novelty = NoveltyScoring(target="{server}", namespace="file", settings=settings, metric="embedding")
reward_func = reward_function(lambda response, label: label in response, novelty, group_size=8)
""",
    )

    async def steps() -> list[list[Any]]:
        from openrlhf.utils.agent import SingleTurnAgentExecutor

        executor = SingleTurnAgentExecutor([path])
        return [
            await rollouts(executor, tokenizer, texts) for texts in (ANSWERS * 2, [*ANSWERS[:1] * 7, "ah 4"])
        ]

    first, second = asyncio.run(steps())
    assert [output["scores"] for output in first] == [1.0, 1.0, 1.0, 0.0] * 2
    news = [output["extra_logs"]["novelty"] for output in second]
    # A text embedded in another batch may differ in the last bit.
    assert news[:7] == pytest.approx([0.0] * 7, abs=1e-6)
    assert news[7] > 0
    assert second[7]["reward"] == pytest.approx(1 + 0.1 * news[7])


def test_the_rollouts_of_a_hard_prompt_reach_the_prefix_service_with_their_entropies(
    tokenizer: Any, server: str
) -> None:
    long = "\n".join(["add one and one and one and one"] * 4)
    prefixes = PrefixCollecting(target=server, namespace="prefixes")

    async def run() -> None:
        executor = agent_executor(right, scoring(server, "hard"), prefixes=prefixes)()
        await rollouts(executor, tokenizer, [long] * 3)

    asyncio.run(run())
    with PrefixClient(server, "prefixes") as client:
        (stored,) = client.list_prefixes([prompt_id("2 + 2 = ")])
    assert len(stored.prefixes) == 2
    assert {prefix.mean_entropy for prefix in stored.prefixes} == {0.5}


def test_an_undecided_response_fails_the_step_unless_it_is_given_a_reward(
    tokenizer: Any, server: str
) -> None:
    async def run(**options: Any) -> list[Any]:
        executor = agent_executor(right, scoring(server, "undecided"), **options)()
        return await rollouts(executor, tokenizer, ["hm"])

    with pytest.raises(FailedPreconditionError, match="undecided_reward"):
        asyncio.run(run())
    (output,) = asyncio.run(run(undecided_reward=-1.0))
    assert (output["reward"], output["extra_logs"]["undecided"]) == (-1.0, 1.0)


def test_a_rollout_whose_server_is_killed_fails_or_goes_on_as_it_was_told(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = f"unix:{tmp_path / 'socket'}"

    async def run(server: Server) -> list[Any]:
        executors = [
            agent_executor(right, scoring(target, "run", metric="ngram_count", on_failure=told))()
            for told in ("fail", "continue")
        ]
        for executor in executors:
            await rollouts(executor, tokenizer, ANSWERS)
        server.stop(signal.SIGKILL)
        outputs = [rollouts(executor, tokenizer, ANSWERS) for executor in executors]
        return list(await asyncio.gather(*outputs, return_exceptions=True))

    with caplog.at_level(logging.WARNING, "extra_client"), Server(tmp_path, "--embedder=none") as server:
        failed, went_on = asyncio.run(run(server))
    assert isinstance(failed, UnavailableError)
    assert [output["reward"] for output in went_on] == [1.0, 1.0, 1.0, 0.0]
    assert {output["extra_logs"]["novelty_missing"] for output in went_on} == {1.0}
    assert [record.message.split(" until")[0] for record in caplog.records] == [
        "training goes on without the novelty bonus"
    ]


def test_the_program_of_the_page_rewards_and_remembers_a_group(
    tokenizer: Any, server: str, tmp_path: Path
) -> None:
    with verification_server(tmp_path, workers=1) as verification:
        addresses = {"localhost:50052": server, "localhost:50053": verification.address}
        (program,) = blocks("docs/plugins/openrlhf.md", "python", addresses)
        # The answers here have no derivation.
        program = program.replace("alpha=0.1", 'alpha=0.1, metric="embedding"')
        names: dict[str, Any] = {}
        exec(program, names)
        outputs = asyncio.run(rollouts(names["AgentExecutor"](), tokenizer, ANSWERS))
    assert [output["scores"] for output in outputs] == [1.0, 1.0, 1.0, 0.0]
    with NamespaceClient(server, "my-run") as client:
        (prompt,) = client.list_prompts()
    assert prompt.solutions_added == 3


def test_the_inspector_opens_the_samples(tmp_path: Path) -> None:
    log_samples(tmp_path / "logs")
    assert_as_recorded("openrlhf", tmp_path / "logs", tmp_path / "cache")
