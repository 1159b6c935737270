"""A run's config: mistakes are named, the paper's values are the defaults, and OpenRLHF gets all settings."""

from itertools import pairwise
from pathlib import Path

import pytest

from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.openrlhf.flags import openrlhf_flags
from extra_trainer.openrlhf.number_format import number_format, recorded
from extra_trainer.openrlhf.run import Run
from extra_trainer.runs.folder import RunFolder

CONFIGS = Path(__file__).resolve().parents[2] / "trainer" / "configs"
LEAST = "name: x\nmodel: {path: m}\ndata: {train: a, evaluation: b}\n"


def _load(tmp_path: Path, text: str, **overrides: object) -> configs.Config:
    path = tmp_path / "config.yaml"
    path.write_text(LEAST + text)
    return configs.load(path, overrides)


def test_an_unknown_key_is_refused_with_the_nearest_known_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"novelty\.memory_capcity: .*did you mean 'memory_capacity'"):
        _load(tmp_path, "novelty: {memory_capcity: 4}\n")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rollout: {samples_per_prompt: 1}\n", "rollout.samples_per_prompt"),
        ("rollout: {prompts_per_step: 10}\noptimization: {minibatch_prompts: 4}\n", "must divide"),
        ("evaluation: {samples_per_prompt: 4, k: [8]}\n", "between 1 and samples_per_prompt"),
        ("prefix: {policy: longest}\n", "prefix.policy"),
        ("outcome: {groups: some}\n", "outcome.groups"),
        ("rollout: {temperature: 1.0e-38}\n", "rollout.temperature"),
        ("evaluation: {temperature: 1.0e-3}\n", r"0 \(greedy\) or at least 0\.01"),
    ],
)
def test_a_value_that_cannot_work_is_refused_and_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _load(tmp_path, text)


def test_a_template_must_hold_the_problem_and_may_hold_other_braces(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(LEAST.replace("evaluation: b", "evaluation: b, template: 'no place'"))
    with pytest.raises(ConfigError, match="template must contain"):
        configs.load(path)
    path.write_text(LEAST.replace("evaluation: b", r"evaluation: b, template: '{problem} in \boxed{}'"))
    assert configs.load(path).data.template == r"{problem} in \boxed{}"


def test_single_settings_can_be_replaced_by_dotted_path(tmp_path: Path) -> None:
    assert _load(tmp_path, "", **{"novelty.alpha": 0.5, "seed": 3}).novelty.alpha == 0.5


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_that_ship_are_valid(path: Path) -> None:
    assert configs.load(path).name == path.stem


def test_the_paper_s_config_reaches_openrlhf_as_the_paper_states_it(tmp_path: Path) -> None:
    config = configs.load(CONFIGS / "qwen3-1.7b.yaml")
    flags = openrlhf_flags(Run(config, RunFolder(tmp_path), ("g",), "n", "v", "launch"))
    given = dict(pairwise(flags))
    expected = {
        "--rollout.batch_size": "512",
        "--rollout.n_samples_per_prompt": "8",
        "--train.batch_size": "2048",
        "--actor.adam.lr": "1e-06",
        "--actor.adam.weight_decay": "0.01",
        "--algo.kl.init_coef": "0.001",
        "--algo.kl.estimator": "k3",
        "--actor.dual_clip": "10.0",
        "--actor.max_norm": "1.0",
        "--train.num_episodes": "10",
        "--algo.advantage.estimator": "group_norm",
    }
    assert {name: given[name] for name in expected} == expected
    assert flags[flags.index("--actor.eps_clip_low_high") + 1 :][:2] == ["0.2", "0.28"]
    assert "--algo.kl.use_loss" in flags


def test_flags_of_the_openrlhf_section_win(tmp_path: Path) -> None:
    config = _load(tmp_path, "openrlhf: {ds.zero_stage: 3, actor.gradient_checkpointing_enable: true}\n")
    flags = openrlhf_flags(Run(config, RunFolder(tmp_path), ("g",), "n", "v", "launch"))
    assert flags[flags.index("--ds.zero_stage") + 1] == "3"
    assert flags.count("--ds.zero_stage") == 1
    assert "--actor.gradient_checkpointing_enable" in flags


def test_without_a_gpu_the_policy_is_trained_in_float32_unless_the_config_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(text: str) -> tuple[str, bool]:
        config = _load(tmp_path, text)
        flags = openrlhf_flags(Run(config, RunFolder(tmp_path), ("g",), "n", "v", "id"))
        assert recorded(config)["openrlhf"]["ds.param_dtype"] == number_format(config)
        return number_format(config), "--ds.param_dtype" in flags

    half, full = "openrlhf: {ds.param_dtype: bf16}\n", "openrlhf: {ds.param_dtype: fp32}\n"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    # OpenRLHF's parser knows no fp32: it must not see it.
    assert [found(""), found(full), found(half)] == [("fp32", False), ("fp32", False), ("bf16", True)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [found(""), found(half)] == [("bf16", False), ("bf16", True)]
    with pytest.raises(ConfigError, match="fp32 is for machines without a GPU"):
        found(full)


def test_chains_of_operators_are_compared_as_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set verification_method: exact"):
        _load(tmp_path, "", **{"data.train": "rehearsal-operators"})
    exact = {"data.train": "rehearsal-operators", "data.verification_method": "exact"}
    assert _load(tmp_path, "", **exact).data.train == "rehearsal-operators"


def test_a_custom_verifier_and_its_method_belong_together(tmp_path: Path) -> None:
    names = {"data.verification_method": "custom", "data.verifier": "style", "data.references": "all"}
    data = _load(tmp_path, "", **names).data
    assert (data.verify_options.verifier, data.verify_options.references) == ("style", "all")
    for name in ("data.verification_method", "data.verifier"):
        with pytest.raises(ConfigError, match="belong together"):
            _load(tmp_path, "", **{name: names[name]})


def test_several_updates_and_an_entropy_bonus_are_flags_of_openrlhf(tmp_path: Path) -> None:
    def flags(text: str) -> list[str]:
        return openrlhf_flags(Run(_load(tmp_path, text), RunFolder(tmp_path), ("g",), "n", "v", "id"))

    plain = flags("")
    assert plain[plain.index("--train.max_epochs") + 1] == "1"
    assert "--actor.entropy_coef" not in plain
    given = flags("optimization: {updates_per_batch: 2, entropy_bonus: 0.003}\n")
    assert given[given.index("--train.max_epochs") + 1] == "2"
    assert given[given.index("--actor.entropy_coef") + 1] == "0.003"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"metric": "outcome"}, "use the section outcome"),
        ({"metric": "embedding", "scale": "share"}, "it needs metric derivation"),
    ],
)
def test_metrics_and_scales_that_do_not_go_together_are_refused(
    tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    overrides: dict[str, object] = {f"novelty.{name}": value for name, value in settings.items()}
    with pytest.raises(ConfigError, match=reason):
        _load(tmp_path, "", **overrides)
    chosen = _load(tmp_path, "novelty: {metric: derivation, scale: share, window: whole}\n").novelty
    assert (chosen.metric, chosen.scale, chosen.window) == ("derivation", "share", "whole")


def test_derivations_are_compared_unless_a_published_method_is_chosen(tmp_path: Path) -> None:
    assert _load(tmp_path, "").novelty.metric == "derivation"
    for preset in ("paper", "reference"):
        published = _load(tmp_path, f"preset: {preset}\n").novelty
        assert (published.metric, published.window) == ("embedding", "reference")
