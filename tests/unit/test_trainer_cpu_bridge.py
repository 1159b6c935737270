"""The CPU bridges: a missing module fails only when it is used, and a GPU machine is not changed."""

import subprocess
import sys
from pathlib import Path


def _run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_openrlhf_s_trainer_imports_and_its_engines_fail_clearly_where_vllm_is_missing() -> None:
    out = _run(
        "from extra_trainer.openrlhf import cpu_bridge\n"
        "cpu_bridge._stand_in({'absent_pkg': ('Thing',)}, 'its features')\n"
        "cpu_bridge.install(); cpu_bridge.install()\n"
        "import openrlhf.trainer.ppo_trainer, absent_pkg\n"
        "try: absent_pkg.Thing(1)\n"
        "except ImportError as error: print(error)\n"
    )
    assert "Thing needs the package 'absent_pkg', which is not installed: its features cannot be used" in out


def test_the_current_device_is_the_cpu_and_formats_as_a_number() -> None:
    out = _run(
        "from extra_trainer.openrlhf import cpu_bridge; cpu_bridge.install()\n"
        "import torch\n"
        "device = torch.cuda.current_device()\n"
        "print(torch.ones(1).to(device).device, f'cuda:{device}')\n"
    )
    assert out.split("\n")[-2] == "cpu cuda:0"


def test_where_there_is_a_gpu_and_the_packages_nothing_is_touched() -> None:
    # No GPU can be had here: torch is made to say that there is one, and the packages are empty modules.
    out = _run(
        "import sys, types, torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "for name in ('flash_attn', 'vllm'): sys.modules[name] = types.ModuleType(name)\n"
        "before = dict(sys.modules), torch.cuda.set_device, torch.cuda.current_device\n"
        "from extra_trainer.openrlhf import cpu_bridge; cpu_bridge.install()\n"
        "print(torch.cuda.set_device is before[1], torch.cuda.current_device is before[2],\n"
        "      'vllm.inputs' in sys.modules, 'deepspeed' in sys.modules)\n"
    )
    assert out.split("\n")[-2] == "True True False False"


def test_packed_samples_have_the_log_probabilities_of_padded_ones_without_flash_attn(
    tiny_model: Path,
) -> None:
    out = _run(
        "from extra_trainer.openrlhf import cpu_bridge; cpu_bridge.install()\n"
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
