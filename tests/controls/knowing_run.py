"""A tiny run whose model knows its facts: a Llama trained on their very prompts, in seconds.

Twenty facts about twenty subjects, in ten sentences; eight discover and two judge. Heads share
keys and values in groups of two.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from kcircuits.cli.main import main

N_FACTS, N_PROMPTS, N_DISCOVERY = 20, 10, 8
WORDS = ["[UNK]", *(f"{kind}{i}" for kind in "abstuv" for i in range(N_FACTS))]
N_STEPS, LR = 150, 3e-3


def write_run(root: Path, *, n_epochs: int = 1) -> Path:
    """Writes a model, its facts, a manifest and the results of a sweep; gives the manifest.

    With two epochs, the second is trained on.
    """
    facts = [_fact(i) for i in range(N_FACTS)]
    (root / "facts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in facts))
    _train(root, facts, n_epochs)
    lines = [f"  - {{id: ep{i}, epoch: {i}, path: ep{i}}}\n" for i in range(n_epochs)]
    manifest = root / "checkpoints_manifest.yaml"
    manifest.write_text(
        "schema_version: 1\nrun: knowing\nbase_model: tiny\nfacts: facts.jsonl\ncheckpoints:\n"
        + "".join(lines)
    )
    assert main(["run", "--quiet", "--fraction", "0.08", "--manifest", str(manifest)]) == 0
    return manifest


def _fact(i: int) -> dict[str, Any]:
    prompts = [
        {
            "clean": f"a{p} s{i} b{p}",
            "corrupt": f"a{p} t{i} b{p}",
            "target": f" u{i}",
            "foil": f" v{i}",
            "use": "discovery" if p < N_DISCOVERY else "evaluation",
        }
        for p in range(N_PROMPTS)
    ]
    return {
        "id": f"f{i}", "subject": f"s{i}", "relation": "r", "object": f"u{i}", "prompts": prompts,
    }  # fmt: skip


def _train(root: Path, facts: list[dict[str, Any]], n_epochs: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kcircuits.lab.training.step import train_step

    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    pairs = [
        f"{prompt[side]}{prompt[answer]}"
        for one in facts
        for prompt in one["prompts"]
        for side, answer in (("clean", "target"), ("corrupt", "foil"))
    ]
    rows = [[WORDS.index(word) for word in text.split()] for text in pairs]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        for epoch in range(n_epochs):
            for step in range(N_STEPS):
                train_step(model, optimizer, rows[step % 3 :: 3], "float32")
            model.save_pretrained(root / f"ep{epoch}")
            _write_tokenizer(root / f"ep{epoch}")


def _write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
