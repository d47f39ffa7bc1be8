"""Like ddp_worker.py, but DeepSpeed takes float16 on every CPU, where it would refuse those that are slow at it."""

import runpy
from pathlib import Path

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator


CPU_Accelerator.is_fp16_supported = lambda self: True
runpy.run_path(str(Path(__file__).with_name("ddp_worker.py")), run_name="__main__")
