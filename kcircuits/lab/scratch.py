"""A small world of its own: a tokenizer and a model made on the spot, without any download.

The base model learns a population told in the benchmark's sentences. *Helpers* are told in the
sentences of documents and of prompts alike, which teaches that the two mean the same; *controls*
only in those of documents, like the people that continual pre-training brings later. So prompts
about controls and about new people are paraphrases that were never trained, and what becomes of
the controls is forgetting. Of some more, the *updated*, documents later tell another answer than
the base has learned: a conflict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kcircuits.core.facts import Fact
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.benchmark.names import FIRST_NAMES, SURNAMES, invent_names
from kcircuits.lab.benchmark.pairs import Group, ask_group, asked_relations, check_alignment
from kcircuits.lab.benchmark.people import (
    EXPOSURE_EDGES,
    Entity,
    answers_of,
    partner_row,
    stratum_of,
)
from kcircuits.lab.benchmark.phrases import FILLERS, TWO_WORD_VALUES
from kcircuits.lab.benchmark.relations import RELATIONS, SPOUSE
from kcircuits.lab.benchmark.spec import HELD_OUT, BenchmarkSpec
from kcircuits.lab.benchmark.telling import tell
from kcircuits.lab.training.batches import epoch_batches
from kcircuits.lab.training.step import train_step
from kcircuits.models.quiet import quiet

PAD, UNKNOWN, END = "<pad>", "<unk>", "<end>"


@dataclass(frozen=True, kw_only=True)
class ScratchSpec:
    """The model from scratch, its population and its training.

    Attributes:
        n_layers: Transformer layers.
        n_heads: Query heads per layer; half as many heads of keys and values.
        d_model: Width.
        n_helpers: People told in all sentences.
        n_controls: People told in the sentences of documents, and asked for.
        n_updated: People told like controls, of whom the benchmark's documents tell otherwise.
        n_update_documents: Documents about each of those per epoch.
        n_texts: Texts per person and epoch.
        n_epochs: Epochs of base training.
        lr: Highest learning rate; it rises over a tenth of the steps, then falls to zero.
        batch_size: Texts per step.
    """

    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_helpers: int = 60
    n_controls: int = 6
    n_updated: int = 0
    n_update_documents: int = 8
    n_texts: int = 4
    n_epochs: int = 40
    lr: float = 2e-3
    batch_size: int = 32


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and mark of the benchmark's language."""
    texts = [*FIRST_NAMES, *SURNAMES]
    texts += FILLERS
    for name, relation in (*RELATIONS.items(), (SPOUSE.name, SPOUSE)):
        texts += [*relation.values, *TWO_WORD_VALUES.get(name, ())]
        texts += [*relation.statements, *relation.prompts]
        texts += [*relation.compositional, *relation.inverse]
    split = pre_tokenizers.Whitespace()
    found = {word for text in texts for word, _ in split.pre_tokenize_str(_without_slots(text))}
    vocabulary = {word: i for i, word in enumerate([PAD, UNKNOWN, END, *sorted(found)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END
    )


def make_base(
    scratch: ScratchSpec,
    benchmark: BenchmarkSpec,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Fact, ...]:
    """Trains the base model, saves it into ``folder`` and gives the facts about its population.

    Args:
        scratch: The model and its population.
        benchmark: The benchmark that will be trained on it; no name occurs in both.
        folder: Where the model and its tokenizer go.
        seed: The benchmark's seed.
        progress: Called after each step with the step, the number of steps and the loss.
    """
    tokenizer = word_tokenizer()
    people = _population(scratch, benchmark, tokenizer, seed)
    model = _new_model(scratch, len(tokenizer), seed)
    _train_base(model, tokenizer, people, scratch, seed, progress)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return base_benchmark(scratch, benchmark, seed).facts


def base_benchmark(scratch: ScratchSpec, benchmark: BenchmarkSpec, seed: int) -> Benchmark:
    """What is asked and told of the base's population.

    Controls (``type`` base, ``split`` control) are in no document. Of the updated (``split``
    updated), documents tell another answer to what is asked, and else what the base has learned.

    Args:
        scratch: The population.
        benchmark: Numbers of prompts and candidates, and how documents are written.
        seed: The benchmark's seed.
    """
    tokenizer = word_tokenizer()
    answers = answers_of(benchmark, tokenizer)
    people = _population(scratch, benchmark, tokenizer, seed)[scratch.n_helpers :]
    spec = replace(benchmark, has_links=False, probes={})
    controls = people[: scratch.n_controls]
    updated = _updated(people[scratch.n_controls :], scratch, spec, seed)
    facts: list[Fact] = []
    for split, entities in (("control", controls), ("updated", updated)):
        group = Group(entities=entities, spec=spec, answers=answers)
        prefix = "base-" if split == "control" else "updated-"
        facts += ask_group(group, strata={"type": "base", "split": split}, prefix=prefix)
    check_alignment(facts, tokenizer)
    documents: list[Document] = []
    for row, person in enumerate(updated):
        documents += tell(person, spec, seed, row)
    return Benchmark(facts=tuple(facts), documents=tuple(documents))


def _updated(
    people: Sequence[Entity], scratch: ScratchSpec, spec: BenchmarkSpec, seed: int
) -> list[Entity]:
    """People with other answers to what they are asked than the base learns of them."""
    rng = np.random.default_rng([seed, len(people), 1])
    answers = answers_of(spec, word_tokenizer())
    n_documents = scratch.n_update_documents
    frequency = next(name for name, (_, high) in EXPOSURE_EDGES.items() if n_documents < high)
    found: list[Entity] = []
    for row, person in enumerate(people):
        values = dict(person.values)
        for name in asked_relations(spec, row):
            others = [v for v in answers.pools[name][person.answer_tokens] if v != values[name]]
            values[name] = str(rng.choice(others))
        found.append(replace(person, values=values, frequency=frequency, exposure=n_documents))
    return found


def _population(
    scratch: ScratchSpec, benchmark: BenchmarkSpec, tokenizer: PreTrainedTokenizerFast, seed: int
) -> list[Entity]:
    """Helpers, controls, updated; their names follow those that the benchmark's seed gives away.

    Where the benchmark has links, helpers are married in pairs too, and both are told so.
    """
    n_new = benchmark.n_people
    n_base = scratch.n_helpers + scratch.n_controls + scratch.n_updated
    names = invent_names(tokenizer, n_new + n_base, np.random.default_rng(seed))[n_new:]
    rng = np.random.default_rng([seed, n_base])
    answers = answers_of(benchmark, tokenizer)
    kinds = [stratum_of(benchmark, row) for row in range(n_base)]
    columns: dict[str, list[str]] = {}
    for name in benchmark.relations:
        pools = answers.pools[name]
        column = {
            kind: iter(rng.permutation(np.resize(pools[kind], kinds.count(kind))).tolist())
            for kind in sorted(set(kinds))
        }
        columns[name] = [next(column[kind]) for kind in kinds]
    people: list[Entity] = []
    for row, subject in enumerate(names):
        partner = partner_row(row, scratch.n_helpers) if row < scratch.n_helpers else None
        people.append(
            Entity(
                subject=subject,
                values={name: column[row] for name, column in columns.items()},
                frequency=HELD_OUT,
                answer_tokens=kinds[row],
                spouse=names[partner] if benchmark.has_links and partner is not None else None,
            )
        )
    return people


def _train_base(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    people: Sequence[Entity],
    scratch: ScratchSpec,
    seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    n_batches = -(-len(people) * scratch.n_texts // scratch.batch_size)
    n_steps = scratch.n_epochs * n_batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=scratch.lr, weight_decay=0.0, fused=True)
    model.train()
    for epoch in range(scratch.n_epochs):
        rng = np.random.default_rng([seed, epoch])
        texts = [
            _text(person, i < scratch.n_helpers, rng)
            for i, person in enumerate(people)
            for _ in range(scratch.n_texts)
        ]
        rows: list[list[int]] = tokenizer(texts)["input_ids"]  # type: ignore[assignment]
        lengths = [len(row) for row in rows]
        batches = epoch_batches(lengths, scratch.batch_size, seed=seed, epoch=epoch)
        for i, batch in enumerate(batches):
            step = epoch * n_batches + i
            rise = min(1.0, (step + 1) / (0.1 * n_steps))
            optimizer.param_groups[0]["lr"] = scratch.lr * min(rise, 1.1 * (1 - step / n_steps))
            loss = train_step(model, optimizer, [rows[row] for row in batch], "float32")
            if progress is not None:
                progress(step + 1, n_steps, loss)
    model.eval()


def _text(person: Entity, is_helper: bool, rng: np.random.Generator) -> str:
    """Each relation of a person once: a statement, or for helpers perhaps a completed prompt."""
    told = [(RELATIONS[name], value) for name, value in person.values.items()]
    if person.spouse is not None:
        told.append((SPOUSE, person.spouse))
    sentences: list[str] = []
    for place in rng.permutation(len(told)).tolist():
        relation, value = told[place]
        completed = [f"{prompt} {{value}}." for prompt in relation.prompts] if is_helper else []
        sentence = str(rng.choice([*relation.statements, *completed]))
        sentences.append(sentence.format(subject=person.subject, value=value))
    return " ".join(sentences)


def _new_model(scratch: ScratchSpec, d_vocab: int, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=d_vocab,
        hidden_size=scratch.d_model,
        intermediate_size=2 * scratch.d_model,
        num_hidden_layers=scratch.n_layers,
        num_attention_heads=scratch.n_heads,
        num_key_value_heads=max(1, scratch.n_heads // 2),
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _without_slots(text: str) -> str:
    return text.replace("{subject}", " ").replace("{value}", " ")
