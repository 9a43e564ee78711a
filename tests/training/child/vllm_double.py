"""What stands in for TRL's `VLLMGeneration`: the same calls, answered by a small model in this process.

The server's double takes the arguments of TRL's `VLLMClient.generate` and answers in its form. The colocated one takes
those of vLLM's `LLM.generate`. Rows are decoded one by one, by the text they come to.
"""

from __future__ import annotations

import copy
import sys
import threading
import types
from types import SimpleNamespace

import torch
import trl.trainer.grpo_trainer


class Decoder:
    """A copy of the model, with the weights it was sent."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = copy.deepcopy(model).eval(), tokenizer
        self.draws = torch.Generator().manual_seed(0)
        self.alone = threading.Lock()

    @torch.inference_mode()
    def complete(self, ids, *, temperature, max_tokens, stop, stop_token_ids):
        """Drawn ids, what ended them included, and their log-probabilities."""
        drawn, logprobs = [], []
        while len(drawn) < max_tokens:
            logits = self.model(torch.tensor([[*ids, *drawn]])).logits[0, -1]
            values = (logits / (temperature or 1.0)).log_softmax(-1)
            token = torch.multinomial(values.exp(), 1, generator=self.draws) if temperature else values.argmax()
            drawn.append(token.item())
            logprobs.append(values[drawn[-1]].item())
            text = self.tokenizer.decode(drawn)
            if drawn[-1] in stop_token_ids or any(one in text for one in stop):
                break
        return drawn, logprobs


class Client:
    """TRL's `VLLMClient`."""

    def __init__(self, decoder):
        self.decoder, self.requests = decoder, []

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 256}}

    def generate(
        self,
        prompts,
        features=None,
        n=1,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        max_tokens=16,
        logprobs=0,
        structured_outputs_regex=None,
        generation_kwargs=None,
    ):
        assert (n, repetition_penalty, top_p, top_k, min_p, logprobs) == (1, 1.0, 1.0, 0, 0.0, 0)
        given = {name: generation_kwargs[name] for name in ("stop", "stop_token_ids")}
        with self.decoder.alone:
            self.requests.append((len(prompts), max_tokens, generation_kwargs))
            rows = [
                self.decoder.complete(ids, temperature=temperature, max_tokens=max_tokens, **given) for ids in prompts
            ]
        return {
            "prompt_ids": prompts,
            "completion_ids": [ids for ids, _ in rows],
            "logprobs": [[[value] for value in values] for _, values in rows],
            "logprob_token_ids": [[[number] for number in ids] for ids, _ in rows],
        }


class Llm:
    """VLLM's `LLM`."""

    def __init__(self, decoder, told):
        self.decoder, self.told, self.calls = decoder, told, []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=256))

    def wake_up(self, tags):
        self.told.append(f"wake {tags[0]}")

    def sleep(self, level):
        self.told.append("sleep")

    def generate(self, prompts, sampling_params, use_tqdm):
        assert self.told[-1:] != ["sleep"]
        assert use_tqdm is False
        self.calls.append(sampling_params)
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            given = {name: getattr(params, name) for name in ("temperature", "max_tokens", "stop", "stop_token_ids")}
            ids, values = self.decoder.complete(prompt["prompt_token_ids"], **given)
            entries = [{number: SimpleNamespace(logprob=value)} for number, value in zip(ids, values, strict=True)]
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids), logprobs=entries)]))
        return outputs


class Generation:
    """TRL's `VLLMGeneration`."""

    def __init__(self, model, accelerator, processing_class, mode, enable_sleep_mode, tensor_parallel_size, **settings):
        self.model, self.mode, self.told = model, mode, []
        self.repetition_penalty, self.min_p = settings["repetition_penalty"], settings["min_p"]
        self.generation_kwargs = settings["generation_kwargs"] or {}
        self.tensor_parallel_size, self.enable_sleep_mode = tensor_parallel_size, enable_sleep_mode
        self._llm_weights_sleeping = enable_sleep_mode
        self.decoder = Decoder(model, processing_class)
        if mode == "colocate":
            self.llm = Llm(self.decoder, self.told)
        elif accelerator.is_main_process:
            self.vllm_client = Client(self.decoder)

    def sync_weights(self):
        self.told.append("weights")
        self._llm_weights_sleeping = False
        self.decoder.model.load_state_dict(self.model.state_dict())


def install(patch):
    """Put it in TRL's place, and into `vllm` what is imported from there."""
    patch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", Generation)
    module = types.ModuleType("vllm")
    module.SamplingParams = SimpleNamespace
    patch.setitem(sys.modules, "vllm", module)
