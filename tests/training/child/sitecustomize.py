"""What the tests change in the processes they start; they put this folder on PYTHONPATH, and Python imports this file.

DS_ACCELERATOR=cpu: accelerate looks for accelerators only when DeepSpeed is on, so on CPU every rank would think it is
alone. Changed are the backend it finds, and that DeepSpeed compiles no shared-memory collectives of its own: gloo does
them. Everything after that, DeepSpeed's engine included, is what runs on GPUs.

FSDP_ON_CPU: accelerate shards only on ranks that have an accelerator each; two CPU ranks are said to be such. PyTorch's
FSDP2 itself runs on them.

DIE_AT=on_step_end:6: rank 0 is killed (signal 9) when training reaches that event of that step.
"""

import os
import signal
import sys

if os.environ.get("DS_ACCELERATOR") == "cpu" and "LOCAL_RANK" in os.environ:
    from importlib import import_module

    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_CPU)
    import_module("deepspeed.comm.torch").build_shm_op = lambda: None

if "FSDP_ON_CPU" in os.environ and "LOCAL_RANK" in os.environ:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begin_as_gpus(state, *given, **named):
        begin(state, *given, **named)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begin_as_gpus

if "DIE_AT" in os.environ and "launch" not in sys.orig_argv and os.environ.get("RANK", "0") == "0":
    from transformers.trainer_callback import CallbackHandler

    event, step = os.environ["DIE_AT"].split(":")
    original = getattr(CallbackHandler, event)

    def die(handler, args, state, *more, **named):
        if state.global_step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(handler, args, state, *more, **named)

    setattr(CallbackHandler, event, die)
