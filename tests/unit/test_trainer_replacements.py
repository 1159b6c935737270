"""The table of replacements: each target exists, another release is refused, a GPU machine is left alone."""

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from extra_rl.config_file import ConfigError
from extra_trainer.openrlhf import parser, replacements
from extra_trainer.openrlhf.missing_packages import FLASH_ATTN, VLLM


def _run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_openrlhf_s_trainer_imports_and_its_engines_fail_clearly_where_vllm_is_missing() -> None:
    out = _run(
        "from extra_trainer.openrlhf import missing_packages, replacements\n"
        "missing_packages.stand_in({'absent_pkg': ('Thing',)}, 'its features')\n"
        "replacements.install(); replacements.install()\n"
        "import openrlhf.trainer.ppo_trainer, absent_pkg\n"
        "try: absent_pkg.Thing(1)\n"
        "except ImportError as error: print(error)\n"
    )
    assert "Thing needs the package 'absent_pkg', which is not installed: its features cannot be used" in out


def test_the_current_device_is_the_cpu_and_formats_as_a_number() -> None:
    out = _run(
        "from extra_trainer.openrlhf import replacements; replacements.install()\n"
        "import torch\n"
        "device = torch.cuda.current_device()\n"
        "print(torch.ones(1).to(device).device, f'cuda:{device}')\n"
    )
    assert out.split("\n")[-2] == "cpu cuda:0"


def test_a_policy_without_a_gpu_can_have_float32_weights() -> None:
    out = _run(
        "from extra_trainer.openrlhf import replacements; replacements.install()\n"
        "from openrlhf.utils.utils import convert_to_torch_dtype as of\n"
        "print(of('fp32'), of('bf16'))\n"
    )
    assert out.split("\n")[-2] == "torch.float32 torch.bfloat16"


def test_where_there_is_a_gpu_and_the_packages_nothing_is_touched() -> None:
    # No GPU can be had here: torch is made to say that there is one, and the packages are empty modules.
    out = _run(
        "import sys, types, torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "for name in ('flash_attn', 'vllm'): sys.modules[name] = types.ModuleType(name)\n"
        "before = dict(sys.modules), torch.cuda.set_device, torch.cuda.current_device\n"
        "from extra_trainer.openrlhf import replacements; replacements.install()\n"
        "print(torch.cuda.set_device is before[1], torch.cuda.current_device is before[2],\n"
        "      'vllm.inputs' in sys.modules, 'deepspeed' in sys.modules)\n"
    )
    assert out.split("\n")[-2] == "True True False False"


def test_packed_samples_have_the_log_probabilities_of_padded_ones_without_flash_attn(
    tiny_model: Path,
) -> None:
    out = _run(
        "from extra_trainer.openrlhf import replacements; replacements.install()\n"
        "import torch\n"
        "from openrlhf.models import Actor\n"
        "ids = torch.arange(3, 18).repeat(3, 1) % 17\n"
        "mask = torch.ones_like(ids)\n"
        "for row, padding in enumerate((0, 4, 7)): mask[row, len(mask[row]) - padding:] = 0\n"
        "actions = mask[:, 1:].bool()\n"
        "found = []\n"
        "for packs in (True, False):\n"
        "    options = dict(attn_implementation='sdpa', packing_samples=packs)\n"
        f"    actor = Actor({str(tiny_model)!r}, **options).float()\n"
        "    found.append(actor(ids, action_mask=actions, attention_mask=mask))\n"
        "print((found[0] - found[1]).abs().max().item() < 1e-5, found[0].min().item() < -1)\n"
    )
    assert out.split("\n")[-2] == "True True"


def test_every_name_that_is_relied_on_exists_in_the_installed_release() -> None:
    # In a process of its own: the modules take seconds to import and change torch.
    out = _run(
        "import inspect\n"
        "from extra_trainer.openrlhf import replacements\n"
        "replacements.install()\n"
        "for row in replacements.TABLE:\n"
        "    try:\n"
        "        target = replacements.resolve(row.target)\n"
        "    except (ImportError, AttributeError) as error:\n"
        "        print('MISSING', row.target, error)\n"
        "        continue\n"
        "    source = inspect.getsource(target) if row.names else ''\n"
        "    for name in row.names:\n"
        "        if not hasattr(target, name) and name not in source:\n"
        "            print('MISSING', row.target, name)\n"
        "print('checked', len(replacements.TABLE))\n"
    )
    assert "MISSING" not in out, out
    assert out.split("\n")[-2] == f"checked {len(replacements.TABLE)}"


def test_stand_ins_have_every_name_that_openrlhf_imports_of_the_packages() -> None:
    folder = Path(str(importlib.util.find_spec("openrlhf").origin)).parent  # type: ignore[union-attr]
    imported, at_import_time = set(), set()
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("flash_attn", "vllm"):
                names = {(str(node.module), alias.name) for alias in node.names}
                imported |= names
                at_import_time |= names if node in tree.body else set()
    provided = {(module, name) for names in (FLASH_ATTN, VLLM) for module in names for name in names[module]}
    assert at_import_time
    assert at_import_time <= provided
    assert provided <= imported


def test_rows_are_complete_and_replaced_once() -> None:
    replaced = [row.target for row in replacements.TABLE if row.make is not None]
    assert len(set(replaced)) == len(replaced)
    for row in replacements.TABLE:
        assert row.why, row.target
        assert row.without, row.target
        assert row.since, row.target
        assert (row.make is None) == (row.where is replacements.Where.USED), row.target


@pytest.mark.parametrize("call", [replacements.install, lambda: parser.parse([])])
def test_another_release_of_openrlhf_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, call: object
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.12.0" if name == "openrlhf" else real(name)
    )
    before = dict(sys.modules)
    with pytest.raises(ConfigError, match=r"openrlhf 0\.12\.0 is installed.*pip install openrlhf==0\.11\.2"):
        call()  # type: ignore[operator]
    assert "vllm" not in sys.modules.keys() - before.keys()


def test_a_missing_openrlhf_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install 'extra-rl\[trainer\]'"):
        replacements.install()
