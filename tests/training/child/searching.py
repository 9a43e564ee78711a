"""A small world, a model that has learned to search in it, and two steps of GRPO in which every gradient is noted.

torchrun --nproc_per_node 2 searching.py MODEL OUT trains MODEL (which `school` makes) and writes OUT/<rank>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from laconic.data_gen.world.episodes import teach_episodes
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.spaced import SPACED, vocabulary
from laconic.data_gen.world.world import World
from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.recipes.model_spec import ScratchModel
from laconic.recipes.search_model import SearchSpec
from laconic.training import scratch
from laconic.training.episode_rollouts import SampledEpisodes
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.rows import RowEncoder, prompt_dataset
from laconic.training.search_columns import searched_problem

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

WORLD = World(seed=1, size=40, distractors=0.0, facts_per_document=1, wordings=1, taught_share=0.5)
TEXTS = {document.id: document.contents for document in WORLD.documents}
DRAWN = draw_questions(WORLD, "train", 12, hops={1: 1.0}, shapes={"basic": 1.0}, unanswerable=0.0)
PROBLEMS = [searched_problem(problem, tool="search", texts=TEXTS) for problem in DRAWN]
SEARCH = SearchSpec(protocol="spaced", k=1, max_searches=2, document_tokens=24)
GROUP, ROWS = 4, 12
"""Three groups a step: on two ranks with six rows each the middle one is split."""
LIMIT = 64


def school(folder, *, steps=60):
    """Train a model on the teacher's episodes until it searches by itself; returns the last loss."""
    tokenizer = scratch.symbolic_tokenizer(vocabulary(WORLD))
    spec = ScratchModel(hidden_size=64, layers=2, heads=2, max_length=256)
    scratch.build(spec, tokenizer, seed=0, folder=folder)
    model, encoder = AutoModelForCausalLM.from_pretrained(folder), RowEncoder(tokenizer, max_length=256)
    styles = {"minimal": 0.5, "needless": 0.3, "premature": 0.2}
    lessons = teach_episodes(WORLD, PROBLEMS, styles=styles, samples=2, protocol=SPACED, k=1)
    rows = []
    for episode in lessons.episodes:
        ids, labels = encoder.prompt(episode.prompt), [-100] * len(encoder.prompt(episode.prompt))
        for piece in episode.pieces:
            new = tokenizer.encode(piece.text, add_special_tokens=False)
            ids, labels = ids + new, labels + (new if piece.kind == "generated" else [-100] * len(new))
        rows.append((torch.tensor(ids), torch.tensor(labels)))
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row[0] for row in rows], batch_first=True, padding_value=tokenizer.pad_token_id)
    labels = pad([row[1] for row in rows], batch_first=True, padding_value=-100)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        part = torch.arange(step % 2, len(rows), 2)
        mask = (ids[part] != tokenizer.pad_token_id).long()
        loss = model(input_ids=ids[part], attention_mask=mask, labels=labels[part]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return loss.item()


class Watched(GRPOTrainer):
    """Notes what comes out of the last layer for every token of every completion, and the loss's gradient for it.

    From there on the model is a matrix and a softmax, which the loss computes in one piece.
    """

    def __init__(self, *arguments, **given):
        super().__init__(*arguments, **given)
        self.seen, self.heads = [], []

    def _compute_loss(self, model, inputs):
        caught = []
        self.heads.append(self.accelerator.unwrap_model(model).lm_head.weight.detach().clone())

        def catch(_, __, output):
            output.register_hook(caught.append)
            caught.append(output.detach())

        with self.accelerator.unwrap_model(model).model.norm.register_forward_hook(catch):
            loss = super()._compute_loss(model, inputs)
        names = ("completion_ids", "completion_mask", "tool_mask", "advantages", "num_items_in_batch")
        self.seen.append((caught, {name: inputs[name].clone() for name in names}))
        return loss

    def gradients(self):
        """Of every completion: step, token ids, mask, advantage, and the gradient's size at each token."""
        rows = []
        for step, ((_, gradient), inputs) in enumerate(self.seen):
            # What comes out before a token decides on it. Ranks' gradients are averaged.
            sizes = gradient[:, -inputs["completion_ids"].shape[1] - 1 : -1].abs().sum(-1)
            sizes = sizes / self.accelerator.num_processes
            for row, length in enumerate(inputs["completion_mask"].sum(1).tolist()):
                part = slice(0, length)
                found = {"ids": inputs["completion_ids"][row, part], "mask": inputs["tool_mask"][row, part]}
                found |= {"advantage": inputs["advantages"][row], "sizes": sizes[row, part]}
                rows.append({"step": step, **{name: value.tolist() for name, value in found.items()}})
        return rows


def scorer(model):
    """Reads rollouts about the world's problems."""
    problems, tokenizer = {problem.id: problem for problem in PROBLEMS}, AutoTokenizer.from_pretrained(model)
    return GroupScorer(problems, tokenizer, num_generations=GROUP)


def make_trainer(
    model,
    out,
    rewards,
    *,
    rows=ROWS,
    disabled=0.0,
    steps=2,
    retriever=None,
    problems=None,
    episodes=SampledEpisodes,
    **settings,
):
    """A trainer whose rewards are entries of a recipe; with it its rollout function and its rewards."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    shared = scorer(model)
    adapters = [RewardAdapter(entry, shared, log_raw=at == 0) for at, entry in enumerate(rewards)]
    rollouts = episodes(
        retriever or Fts5Retriever.from_documents(WORLD.documents),
        search=SEARCH,
        seed=0,
        disabled=disabled,
        columns=shared.columns,
    )
    given = {"learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "max_steps": steps} | settings
    arguments = GRPOConfig(
        output_dir=str(out),
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        per_device_train_batch_size=rows,
        num_generations=GROUP,
        max_completion_length=LIMIT,
        **given,
    )
    trainer = Watched(
        str(model),
        reward_funcs=adapters,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=prompt_dataset(PROBLEMS[:problems]),
        rollout_func=rollouts,
    )
    return trainer, rollouts, adapters


REWARDS = ({"name": "mash", "decay": 0.5}, {"name": "saas"})


def trained(model, out, *, rows):
    """What two steps of training came to on this process."""
    trainer, rollouts, adapters = make_trainer(model, out, REWARDS, rows=rows, disabled=0.5)
    told = []
    original = rollouts.__class__.__call__

    def noted(prompts, trainer):
        told.append(original(rollouts, prompts, trainer))
        return told[-1]

    trainer.rollout_func = noted
    trainer.train()
    rollouts.close()
    return trainer, {
        "rollouts": [{name: values for name, values in one.items() if name != "episode"} for one in told],
        "texts": [[one.text for one in step["episode"]] for step in told],
        "logs": [row for row in trainer.state.log_history if "reward" in row],
        "memory": [adapter.state_dict() for adapter in adapters],
        "weights": [weight.double().sum().item() for weight in trainer.model.parameters()],
        "gradients": trainer.gradients(),
    }


def served(model, out, *, rows, **settings):
    """The likeliest episodes of this process, on a double of TRL's vLLM; with them the trainer."""
    from laconic.training.vllm_episodes import VllmEpisodes

    given = {"rows": rows, "disabled": 0.5, "episodes": VllmEpisodes, "use_vllm": True, "vllm_mode": "server"}
    trainer, rollouts, _ = make_trainer(model, out, REWARDS, **given | settings)
    trainer.args.temperature = 0.0
    first = trainer.accelerator.process_index * rows
    found = rollouts(prompts()[first : first + rows], trainer)
    rollouts.close()
    return trainer, found


def prompts():
    """A group of the rows of a step is all about one problem."""
    return [[{"role": "user", "content": PROBLEMS[row // GROUP].prompt}] for row in range(ROWS)]


if __name__ == "__main__":
    import pytest
    import vllm_double

    state = PartialState(cpu=True)
    model, out = map(Path, sys.argv[1:])
    _, found = trained(model, out, rows=ROWS // state.num_processes)
    with pytest.MonkeyPatch.context() as patch:
        vllm_double.install(patch)
        _, given = served(model, out, rows=ROWS // state.num_processes)
    found["served"] = {name: values for name, values in given.items() if name != "episode"}
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
