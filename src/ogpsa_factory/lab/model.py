"""The miniature world's tokenizer and model, and the loop that trains the model from scratch.

Prompts are encoded as LLaMA-Factory's template `chatml` encodes them, here and in evaluation, so that fine-tuning
through LLaMA-Factory continues where this training ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from .themes.theme import Question, Theme
from .themes.town import TOWN
from .vocabulary import vocabulary


PAD, UNKNOWN, START, END = "<|endoftext|>", "<|unknown|>", "<|im_start|>", "<|im_end|>"
PROMPT = f"{START}user\n{{}}{END}\n{START}assistant\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IGNORE = -100  # label of a position that no loss is taken on


def make_tokenizer(theme: Theme = TOWN) -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token a word, words being separated by white space.

    Args:
        theme: gives the words.

    Returns:
        A tokenizer whose vocabulary holds every word of every world of the theme and the special tokens of `chatml`.
    """
    words = [PAD, UNKNOWN, START, END, "system", "user", "assistant"]
    words += [word for word in vocabulary(theme) if word not in words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[START],
        padding_side="right",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Make the untrained model.

    Args:
        tokenizer: gives the vocabulary's size and the special tokens.
        seed: of the initial weights.

    Returns:
        A Qwen2 model of about 0.3M parameters in fp32.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def encode_prompts(tokenizer: PreTrainedTokenizerFast, instructions: Sequence[str]) -> list[list[int]]:
    """Encode prompts, up to where the answer begins.

    Args:
        tokenizer: the world's tokenizer.
        instructions: what the user says.

    Returns:
        Token numbers, one list a prompt.
    """
    return tokenizer([PROMPT.format(text) for text in instructions], add_special_tokens=False)["input_ids"]


def encode_answers(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> list[list[int]]:
    """Encode answers with the token that ends them.

    Args:
        tokenizer: the world's tokenizer.
        answers: what the assistant says.

    Returns:
        Token numbers, one list an answer.
    """
    return tokenizer([f"{text}{END}\n" for text in answers], add_special_tokens=False)["input_ids"]


def encode(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Question]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encode questions and answers for training.

    Args:
        tokenizer: the world's tokenizer.
        rows: the questions with their answers.

    Returns:
        Token numbers of shape `[rows, longest]` padded on the right, labels of the same shape (`IGNORE` at prompt and
        padding), and lengths of shape `[rows]` in tokens.
    """
    prompts = encode_prompts(tokenizer, [row[0] for row in rows])
    answers = encode_answers(tokenizer, [row[1] for row in rows])
    lengths = torch.tensor([len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)])
    tokens = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id)
    labels = torch.full_like(tokens, IGNORE)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens[i, : lengths[i]] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : lengths[i]] = torch.tensor(answer)

    return tokens, labels, lengths


def batches(lengths: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of row numbers for ever, rows of similar length together, in random order.

    Args:
        lengths: of each row in tokens, shape `[rows]`.
        size: rows of a batch.
        generator: source of chance.

    Yields:
        Row numbers, shape `[size]`, or fewer at the end of a pass.
    """
    pool = 16 * size
    while True:
        for rows in torch.randperm(len(lengths), generator=generator).split(pool):
            groups = rows[lengths[rows].argsort(stable=True)].split(size)
            for i in torch.randperm(len(groups), generator=generator).tolist():
                yield groups[i]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread within the block.

    The order of additions, and with it the model, then depends on no machine's number of cores; and a model this small
    loses more than it gains by a second thread when the cores are shared with anything else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Question],
    *,
    steps: int,
    seed: int,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a model in place with AdamW, warm-up and cosine decay; the loss is taken on answers only.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        rows: questions with their answers.
        steps: optimizer steps.
        seed: of the order of the rows.
        batch_size: rows of a step.
        learning_rate: highest learning rate.
        on_step: told the number of steps taken and the last loss (nats a token).
    """
    tokens, labels, lengths = encode(tokenizer, rows)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        progress = (step - warmup) / max(1, steps - warmup)
        return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    order = batches(lengths, batch_size, generator)
    for step in range(1, steps + 1):
        chosen = next(order)
        width = int(lengths[chosen].max())
        target = labels[chosen, 1:width]
        # Padding is on the right, where causal attention never looks back from: no mask is needed.
        hidden = model.model(input_ids=tokens[chosen, : width - 1], use_cache=False).last_hidden_state
        answered = target != IGNORE
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[answered]), target[answered])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())

    model.eval()
