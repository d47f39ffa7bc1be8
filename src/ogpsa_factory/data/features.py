"""From a model and tokenised rows to one vector per row, for `selection.py`: gradients, embeddings, losses.

Gradients of all rows would take rows × parameters numbers, so each is compressed as soon as it is there, by a count
sketch: every number is added, with a random sign, to one of a few random buckets. Inner products of sketches are those
of the gradients in expectation; see :func:`sketch`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OGPSAError
from ..reference import count_label_tokens
from .quiet import quiet_libraries


PIECE = 2**22  # numbers of a gradient that are hashed at a time
Progress = Callable[[int], Any]
Row = Mapping[str, Any]  # a feature with ``input_ids``, ``attention_mask`` and ``labels``


class RowFeatures(NamedTuple):
    """What a model says of some rows, on the CPU.

    Attributes:
        vectors: of shape ``[rows, dimensions]``, float32.
        losses: mean loss of each row's label tokens in nats, of shape ``[rows]``, float32.
        label_tokens: number of tokens that each loss is a mean of, of shape ``[rows]``, float32.
    """

    vectors: Tensor
    losses: Tensor
    label_tokens: Tensor

    def weighted(self) -> Tensor:
        """The vectors times their label tokens, whose sum is the gradient of a reference set of these rows.

        Returns:
            A tensor of shape ``[rows, dimensions]``.
        """
        return self.vectors * self.label_tokens[:, None]


def load_model(name: str) -> Any:
    """Load a model for :func:`gradient_features` and its like, onto the GPU if there is one.

    Args:
        name: its folder, or its name on the hub.

    Returns:
        A causal language model of transformers, in the precision that it was saved in.

    Raises:
        OGPSAError: there is no such model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "Name a folder with config.json and weights, or a model of the hub."
        raise OGPSAError(f"--model {name} cannot be loaded. {hint} ({reason})") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def tokenise(pools: Sequence[str], model: str, *, template: str, **data: Any) -> list[Row | None]:
    """Tokenise pools through LLaMA-Factory, so that formats and templates are those of training.

    Args:
        pools: names in dataset_info.json.
        model: the model whose tokenizer is taken.
        template: LLaMA-Factory's name of its template.
        data: more of LLaMA-Factory's data arguments (``dataset_dir``, ``cutoff_len``).

    Returns:
        One feature per row, pool by pool; None for a row without an answer that could be learnt.

    Raises:
        OGPSAError: a pool or the template cannot be used.
    """
    import datasets

    from ..llamafactory.data import tokenise_pool

    datasets.disable_progress_bars()
    rows: list[Row | None] = []
    for name in pools:
        try:
            with quiet_libraries():
                rows += tokenise_pool(name, model, template=template, **data)
        except Exception as error:  # whatever a reader, converter or tokenizer raises, the user needs the pool's name
            reason = f"{type(error).__name__}: {error}"
            hint = "Is the template right? `ogpsa data check` looks at the rows."
            raise OGPSAError(f"Pool {name} cannot be tokenised with --template {template}: {reason} {hint}") from error
    return rows


def check_finite(found: RowFeatures, places: Sequence[str]) -> None:
    """Refuse rows on which the model breaks down.

    Args:
        found: the rows' features.
        places: where each row comes from, for the message.

    Raises:
        OGPSAError: some features are not finite.
    """
    finite = found.vectors.isfinite().all(dim=1) & found.losses.isfinite()
    bad = [place for place, good in zip(places, finite.tolist(), strict=True) if not good]
    if bad:
        raise OGPSAError(
            f"What the model says is not finite on {len(bad)} rows ({'; '.join(bad[:3])}). Mend or remove them; "
            "if they are many, the model's weights are broken, or its 16-bit format overflows."
        )


def gradient_features(
    model: Any, rows: Sequence[Row], dimensions: int = 1024, seed: int = 0, progress: Progress = lambda rows: None
) -> RowFeatures:
    """Sketch the gradient of every row's mean loss over its label tokens, with respect to all trainable parameters.

    The norms are kept, as OGPSA keeps them: it sums a set's gradients token by token. A choice by span should look at
    unit rows (:func:`~ogpsa_factory.data.selection.unit_rows`), a mean at :meth:`RowFeatures.weighted`.

    Args:
        model: a causal language model of transformers; it is left as it was.
        rows: tokenised rows, each with at least one label token.
        dimensions: length of a sketch; more than the rows that will be chosen.
        seed: of the sketch. Equal seeds give equal sketches on one kind of device (on a GPU up to rounding).
        progress: called with 1 after each row.

    Returns:
        The features, with sketches as vectors. Holds one gradient of the model at a time, besides the sketches.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vectors, losses = torch.empty(len(rows), dimensions), torch.empty(len(rows))
    with _evaluating(model), torch.enable_grad():
        for i, row in enumerate(rows):
            loss = _loss(model, row)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            vectors[i], losses[i] = sketch(gradients, dimensions, seed), loss.detach()
            progress(1)
    return RowFeatures(vectors, losses, _label_tokens(rows))


def embedding_features(model: Any, rows: Sequence[Row], progress: Progress = lambda rows: None) -> RowFeatures:
    """Average the last hidden states of every row over its tokens: a cheap stand-in for gradients.

    Args:
        model: a causal language model of transformers; it is left as it was.
        rows: tokenised rows, each with at least one label token.
        progress: called with 1 after each row.

    Returns:
        The features, with vectors as wide as the model. Rows are passed one at a time, so there is no padding.
    """
    vectors, losses = [], torch.empty(len(rows))
    with _evaluating(model), torch.no_grad():
        for i, row in enumerate(rows):
            output = model(**_inputs(model, row), output_hidden_states=True)
            vectors.append(output.hidden_states[-1][0].float().mean(dim=0).cpu())
            losses[i] = output.loss
            progress(1)
    return RowFeatures(torch.stack(vectors), losses, _label_tokens(rows))


def loss_features(model: Any, rows: Sequence[Row], progress: Progress = lambda rows: None) -> RowFeatures:
    """Compute every row's mean loss over its label tokens.

    Args:
        model: a causal language model of transformers; it is left as it was.
        rows: tokenised rows, each with at least one label token.
        progress: called with 1 after each row.

    Returns:
        The features, with the losses as vectors of length 1.
    """
    losses = torch.empty(len(rows))
    with _evaluating(model), torch.no_grad():
        for i, row in enumerate(rows):
            losses[i] = _loss(model, row)
            progress(1)
    return RowFeatures(losses[:, None].clone(), losses, _label_tokens(rows))


def sketch(tensors: Sequence[Tensor | None], dimensions: int, seed: int) -> Tensor:
    """Compress one long vector, given in parts, to ``dimensions`` numbers.

    A count sketch: number ``i`` is added to bucket ``h(i)`` with sign ``s(i)``, both random. For the sketches ``Sx``
    and ``Sy`` of ``x`` and ``y`` with the same seed, ``E <Sx, Sy> = <x, y>`` and
    ``Var <Sx, Sy> <= (||x||^2 ||y||^2 + <x, y>^2) / dimensions``. Buckets and signs are drawn from a generator per
    part and never stored, so a part that is None (no gradient) changes nothing for the others.

    Args:
        tensors: the parts, in any shapes, dtypes and on any devices; None stands for zeros.
        dimensions: number of buckets.
        seed: of buckets and signs.

    Returns:
        The sketch, of shape ``[dimensions]``, float32, on the CPU; sums are taken in float64.
    """
    total = torch.zeros(dimensions, dtype=torch.float64)
    for number, tensor in enumerate(tensors):
        if tensor is None:
            continue
        device = tensor.device
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
        buckets = torch.zeros(dimensions, dtype=torch.float64, device=device)
        for piece in tensor.detach().reshape(-1).split(PIECE):
            drawn = torch.randint(2 * dimensions, piece.shape, generator=generator, device=device)
            signed = torch.where(drawn >= dimensions, -piece, piece).double()
            buckets.index_add_(0, drawn.remainder_(dimensions), signed)
        total += buckets.cpu()
    return total.float()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off for the block: features are facts of a row, not of chance."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _inputs(model: Any, row: Row) -> dict[str, Any]:
    tensors = {key: torch.tensor([row[key]], device=model.device) for key in ("input_ids", "attention_mask", "labels")}
    return {**tensors, "use_cache": False}


def _loss(model: Any, row: Row) -> Tensor:
    """Mean loss over the label tokens: of one row, so nothing depends on how rows are batched."""
    loss: Tensor = model(**_inputs(model, row)).loss
    return loss


def _label_tokens(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([count_label_tokens(row["labels"]) for row in rows], dtype=torch.float32)
