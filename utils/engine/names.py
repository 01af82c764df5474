"""Names that the flags of a run take. Nothing here needs torch, so that `--help` is answered at once."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
#: What `--precision` takes.
AskedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
#: The same where models only run forward.
AskedForward = Literal["auto", "fp32", "bf16"]
EngineName = Literal["ddp", "fsdp", "bmtrain"]
Schedule = Literal["linear", "constant"]
OptimizerName = Literal["adamw", "bertadam"]
#: `False`: a new run; `True`: at the newest checkpoint; `"auto"`: at the newest that is whole, or a new run.
Resume = Literal[False, True, "auto"]

#: Value of `TrainerConfig.max_steps` that means: no limit.
NO_STEP_LIMIT = 10_000_000
