"""One student distilled without distill-study: what people write around TRL's SFT script. `by_hand.py` runs it and
counts its lines.

    python benchmarks/_by_hand.py DATA TEACHER STUDENT OUT

DATA holds train.jsonl and test.jsonl with question and gold; the models are names or folders as transformers
takes them.
"""

import json
import re
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

SYSTEM = {
    "vanilla": "Answer the question. Reply with the letter of the right choice only.",
    "cot": (
        "Answer the question. Think step by step in at most 80 words, then end with one "
        'line: "Answer: " and the letter of the right choice.'
    ),
}
MAX_NEW_TOKENS = {"vanilla": 8, "cot": 80}
# arm -> (strategy of the teacher's labels, what is learned, prompt of the student)
ARMS = {
    "distilled/vanilla": ("vanilla", "answer", "vanilla"),
    "distilled/cot-answer": ("cot", "answer", "vanilla"),
    "distilled/cot-rationale": ("cot", "text", "cot"),
}


def load_rows(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def load_model(name):
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # not "auto": trained in float16, as its files are, the student writes nonsense
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), tokenizer


def messages(question, strategy):
    return [{"role": "system", "content": SYSTEM[strategy]}, {"role": "user", "content": question}]


@torch.no_grad()
def generate(model, tokenizer, rows, strategy, batch_size=64):
    texts = []
    for start in range(0, len(rows), batch_size):
        prompts = [
            tokenizer.apply_chat_template(
                messages(row["question"], strategy), tokenize=False, add_generation_prompt=True
            )
            for row in rows[start : start + batch_size]
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            max_new_tokens=MAX_NEW_TOKENS[strategy],
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = out[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def extract(text, strategy):
    if strategy == "cot":
        found = re.findall(r"Answer:\s*\(?([A-J])\b", text)
    else:
        found = re.findall(r"\b([A-J])\b", text)
    return found[-1] if found else None


def accuracy(texts, rows, strategy):
    right = [extract(t, strategy) == row["gold"] for t, row in zip(texts, rows)]
    return sum(right) / len(right)


def train(student, tokenizer, rows, out):
    args = SFTConfig(
        output_dir=str(out),
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.0,
        max_length=None,
        completion_only_loss=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = SFTTrainer(model=student, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return trainer.model.eval()


def main(data, teacher_name, student_name, out):
    set_seed(0)
    train_rows = load_rows(Path(data) / "train.jsonl")
    test_rows = load_rows(Path(data) / "test.jsonl")
    scores, labels = {}, {}

    teacher, tokenizer = load_model(teacher_name)
    for strategy in SYSTEM:
        labels[strategy] = generate(teacher, tokenizer, train_rows, strategy)
        texts = generate(teacher, tokenizer, test_rows, strategy)
        scores[f"teacher/{strategy}"] = accuracy(texts, test_rows, strategy)
    del teacher

    student, tokenizer = load_model(student_name)
    texts = generate(student, tokenizer, test_rows, "vanilla")
    scores["student/vanilla"] = accuracy(texts, test_rows, "vanilla")

    for arm, (label, target, prompt) in ARMS.items():
        rows = []
        for row, text in zip(train_rows, labels[label]):
            answer = extract(text, label)
            if answer is None:
                continue
            content = answer if target == "answer" else text
            rows.append(
                {"prompt": messages(row["question"], prompt), "completion": [{"role": "assistant", "content": content}]}
            )
        student, tokenizer = load_model(student_name)
        student = train(student, tokenizer, rows, Path(out) / arm.replace("/", "-"))
        texts = generate(student, tokenizer, test_rows, prompt)
        scores[arm] = accuracy(texts, test_rows, prompt)

    with open(Path(out) / "scores.json", "w", encoding="utf-8") as f:
        json.dump(scores, f, indent=1)
    for arm, score in scores.items():
        print(f"{arm:<28} {score:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
