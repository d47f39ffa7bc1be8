"""Like ddp_worker.py, but DeepSpeed computes in float16 on any CPU, where it would refuse those without fast float16."""

import runpy
from pathlib import Path

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator


CPU_Accelerator.is_fp16_supported = lambda self: True
runpy.run_path(str(Path(__file__).with_name("ddp_worker.py")), run_name="__main__")
