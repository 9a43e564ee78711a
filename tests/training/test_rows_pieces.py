"""Rows of search episodes: exactly the ids an episode has, and a loss over what was generated alone."""

import asyncio
from functools import cache

import pytest
import torch
from trl import DPOConfig, SFTConfig, SFTTrainer

from laconic.data_gen.world.episodes import teach_episodes
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.spaced import SPACED, vocabulary
from laconic.data_gen.world.world import World
from laconic.inference.engine import Sampling
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.episode import PROTOCOLS, run_episode
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.trace import prompt_text
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.errors import DataError
from laconic.training import scratch
from laconic.training.dpo import MaskedPairs, TokenisedDPOTrainer
from laconic.training.rows import RowEncoder, preference_dataset, sft_dataset

WORLD = World(seed=3, size=40, distractors=0.0, facts_per_document=1)
RETRIEVER = Bm25Retriever.from_documents(WORLD.documents)
KINDS = {"symbolic": SPACED, "bpe": PROTOCOLS["search_r1"]}
OFFLINE = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "bf16": False}


@cache
def tokenizer_of(kind):
    if kind == "symbolic":
        return scratch.symbolic_tokenizer(vocabulary(WORLD))
    texts = [document.text for document in WORLD.documents] + [KINDS[kind].instruction]
    return scratch.bpe_tokenizer(texts, vocab_size=420)


@cache
def lesson(kind, style="minimal"):
    """A teacher's episode of two searches, as a row of a generate stage."""
    problems = draw_questions(WORLD, "train", 8, hops={2: 1}, shapes={"basic": 1}, unanswerable=0)
    problems = [problem for problem in problems if problem.meta["least_searches"] == 2][:1]
    given = {"retriever": RETRIEVER, "k": 1, "protocol": KINDS[kind], "styles": {style: 1}}
    (episode,) = teach_episodes(WORLD, problems, **given).episodes
    return episode.to_json()


def generated(row, tokenizer):
    """Ids of the generated pieces alone, each encoded by itself, with the end of the sequence."""
    said = [tokenizer.encode(p["text"], add_special_tokens=False) for p in row["pieces"] if p["kind"] == "generated"]
    return [*(id for ids in said for id in ids), tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_token_by_token(kind):
    row, tokenizer = lesson(kind), tokenizer_of(kind)
    assert [piece["kind"] for piece in row["pieces"]] == ["generated", "retrieved"] * 2 + ["generated"]
    encoded = sft_dataset([row], RowEncoder(tokenizer, max_length=None))[0]
    prompt = tokenizer.encode(prompt_text(tokenizer, row["prompt"]))
    position = len(prompt)
    assert encoded["input_ids"][:position] == prompt
    assert encoded["labels"][:position] == [-100] * position
    for piece in row["pieces"]:
        ids = tokenizer.encode(piece["text"], add_special_tokens=False)
        here = slice(position, position + len(ids))
        assert encoded["input_ids"][here] == ids
        assert encoded["labels"][here] == (ids if piece["kind"] == "generated" else [-100] * len(ids))
        position += len(ids)
    assert encoded["input_ids"][position:] == encoded["labels"][position:] == [tokenizer.eos_token_id]


def test_forced_text_is_not_learned_and_a_mask_may_end_on_it():
    tokenizer = tokenizer_of("symbolic")
    pieces = [{"kind": "generated", "text": "</search>"}, {"kind": "forced", "text": SPACED.hint}]
    row = {"prompt": "capital", "completion": f"</search>{SPACED.hint}", "pieces": pieces}
    completion = RowEncoder(tokenizer, max_length=None).completion_of(row)
    # The sequence ended by a limit: that it ends is not the model's to learn.
    assert completion.learned == [1] + [0] * len(SPACED.hint.split()) + [0]


def test_pieces_that_are_not_the_completion_are_refused():
    row = lesson("symbolic") | {"completion": "<think>"}
    with pytest.raises(DataError, match="put together are not its completion"):
        sft_dataset([row], RowEncoder(tokenizer_of("symbolic"), max_length=None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_learned_a_row_plays_exactly_its_ids(kind, tmp_path):
    row, tokenizer = lesson(kind), tokenizer_of(kind)
    dataset = sft_dataset([row], RowEncoder(tokenizer, max_length=None))
    trainer = SFTTrainer(
        model=_model(tokenizer, tmp_path),
        args=SFTConfig(str(tmp_path / "out"), max_steps=80, learning_rate=1e-2, max_length=None, **OFFLINE),
        processing_class=tokenizer,
        train_dataset=dataset,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["labels"][batch["labels"] != -100].tolist() == generated(row, tokenizer)
    trainer.train()
    episode = asyncio.run(_play(trainer.model.eval(), tokenizer, kind, row))
    assert len(episode.searches) == 2
    prompt = len(tokenizer.encode(prompt_text(tokenizer, row["prompt"])))
    # The episode ends with the answer; only the row has the end of the sequence.
    assert list(episode.ids) == dataset[0]["input_ids"][prompt:-1]
    assert [bool(on) for on in episode.loss_mask()] == [label != -100 for label in dataset[0]["labels"][prompt:-1]]


async def _play(model, tokenizer, kind, row):
    engine = TransformersEngine(model, tokenizer)
    ask = Ask(engine, row["prompt"], Ledger(), sampling=Sampling(temperature=0.0, max_tokens=200))
    episode = await run_episode(ask, RETRIEVER, protocol=KINDS[kind], k=1)
    await engine.aclose()
    return episode


def _model(tokenizer, folder):
    spec = ScratchModel(hidden_size=32, layers=2, heads=2, max_length=1024)
    scratch.build(spec, tokenizer, seed=0, folder=folder / "model")
    return str(folder / "model")


def test_pairs_leave_out_what_was_retrieved(tmp_path):
    tokenizer, good, bad = tokenizer_of("symbolic"), lesson("symbolic"), lesson("symbolic", "needless")
    row = {"prompt": good["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
    row |= {"chosen_pieces": good["pieces"], "rejected_pieces": bad["pieces"]}
    # A pair without pieces is learned whole, in the same batch.
    plain = {"prompt": "capital", "chosen": "unknown", "rejected": "unknown unknown"}
    dataset = preference_dataset([row, plain], RowEncoder(tokenizer, max_length=None))
    trainer = TokenisedDPOTrainer(
        model=_model(tokenizer, tmp_path),
        args=DPOConfig(str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, max_length=None, **OFFLINE),
        processing_class=tokenizer,
        train_dataset=dataset,
        data_collator=MaskedPairs(pad_token_id=tokenizer.pad_token_id),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    ids, mask = batch["input_ids"], batch["completion_mask"].bool()
    end, (unknown,) = tokenizer.eos_token_id, tokenizer.encode("unknown")
    learned = [ids[at][mask[at]].tolist() for at in range(4)]
    chosen, rejected = sorted(learned[:2], key=len), sorted(learned[2:], key=len)
    assert chosen == [[unknown, end], generated(good, tokenizer)]
    assert rejected == [[unknown, unknown, end], generated(bad, tokenizer)]
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[-1]["train_loss"]))
