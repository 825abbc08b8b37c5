"""Triton adapter of `aesthetic_guidance.personalize`: unpack all, personalise one by one, pack.

The one adapter that imports guidance: the algorithm has one home, and this model needs torch where
it serves anyway.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from aesthetic_client.contract import (
    AESTHETIC_EMBEDDING,
    AGREEMENT,
    LAST_HIDDEN_STATE,
    PROMPT,
    RECIPE,
    TEXT_EMBEDDING,
    TOKEN_COUNT,
)
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import Tokenizer, TruncationWarning, decoded
from aesthetic_client.vectors import one_vector
from aesthetic_export.text_weights import TEXT_WEIGHTS, read_text_weights
from aesthetic_guidance.personalize import Stopped, personalize_each
from aesthetic_guidance.recipe_json import recipe_from_json
from aesthetic_guidance.text_models import text_model


class TritonPythonModel:
    def initialize(self, args):
        warnings.simplefilter("ignore", TruncationWarning)  # `token_count` says it
        parameters = json.loads(args["model_config"])["parameters"]
        self.max_steps = int(parameters["max_steps"]["string_value"])
        self.tokenizer = Tokenizer()
        version = Path(args["model_repository"]) / args["model_version"]
        self.text = text_model(read_text_weights(version / TEXT_WEIGHTS))
        if args["model_instance_kind"] == "GPU" and torch.cuda.is_available():
            self.text.to(f"cuda:{args['model_instance_device_id']}")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            inputs = [
                pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
                for tensor in (PROMPT, AESTHETIC_EMBEDDING, RECIPE)
            ]
            prompts, embeddings, recipes = inputs
            # All of them, before the first is computed for seconds.
            checked = [
                self.checked(row, *values)
                for row, values in enumerate(
                    zip(prompts.reshape(-1), embeddings, recipes.reshape(-1), strict=True)
                )
            ]
            # True once a gRPC client has cancelled, or its deadline is over; Triton 2.51 does not
            # see HTTP clients go.
            stop = request.is_cancelled
            rows = [self.personalized(row, *values, stop) for row, values in enumerate(checked)]
        except Stopped:
            return failure("the client has gone", pb_utils.TritonError.CANCELLED)
        except InputError as error:
            return failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            return failure(
                f"aesthetic_personalize failed: {type(error).__name__}",
                pb_utils.TritonError.INTERNAL,
            )
        return pb_utils.InferenceResponse(packed(rows))

    def checked(self, row, prompt, embedding, recipe):
        """A row's text, its number of tokens, its embedding and its recipe.

        Raises InputError that names its input.
        """
        recipe = recipe_from_json(recipe, position=f"recipe[{row}]")
        if recipe.steps > self.max_steps:
            raise InputError(
                f"steps={recipe.steps}: this server takes at most {self.max_steps}",
                position=f"recipe[{row}]",
            )
        text = decoded(prompt, position=f"prompt[{row}]")
        count = len(self.tokenizer.encode(text, position=f"prompt[{row}]"))
        one_vector(embedding, f"aesthetic_embedding[{row}]")
        return text, count, embedding, recipe

    def personalized(self, row, text, count, embedding, recipe, stop):
        """A prompt's result and its number of tokens.

        Raises InputError that names its recipe, Stopped where `stop` says so.
        """
        try:
            # Each from fresh weights: nothing of a prompt is left for the next one.
            (result,) = personalize_each([text], embedding, self.text, recipe, stop=stop)
        except InputError as error:
            raise InputError(error.message, position=f"recipe[{row}]") from None
        return result, count


def packed(rows):
    """The output tensors. Agreements of fewer steps than the longest are followed by NaN."""
    length = max(len(result.agreement) for result, _ in rows)
    agreement = np.full((len(rows), length), np.nan, np.float32)
    for row, (result, _) in enumerate(rows):
        agreement[row, : len(result.agreement)] = result.agreement
    return [
        pb_utils.Tensor(
            TEXT_EMBEDDING.name, np.stack([result.embedding.cpu().numpy() for result, _ in rows])
        ),
        pb_utils.Tensor(
            LAST_HIDDEN_STATE.name,
            np.stack([result.last_hidden_state.cpu().numpy() for result, _ in rows]),
        ),
        pb_utils.Tensor(AGREEMENT.name, agreement),
        pb_utils.Tensor(TOKEN_COUNT.name, np.array([[count] for _, count in rows], np.int32)),
    ]


def failure(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
