"""Triton adapter of `aesthetic_client.tokenizer`: unpack, tokenise, pack."""

from pathlib import Path

import triton_python_backend_utils as pb_utils

from aesthetic_client.contract import PROMPT, TOKEN_COUNT, TOKENS
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import PAD_END, VOCABULARY_FILE, Tokenizer, decoded


class TritonPythonModel:
    def initialize(self, args):
        version = Path(args["model_repository"]) / args["model_version"]
        self.tokenizer = Tokenizer(version / VOCABULARY_FILE)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        # Each request answers for itself: an exception here would fail its neighbours in the batch.
        try:
            prompts = pb_utils.get_input_tensor_by_name(request, PROMPT.name).as_numpy()
            texts = [
                decoded(data, position=f"prompts[{row}]")
                for row, data in enumerate(prompts.reshape(-1))
            ]
            tokens, counts = self.tokenizer.rows(texts, pad=PAD_END)
        except InputError as error:
            return failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            return failure(
                f"tokenize failed: {type(error).__name__}", pb_utils.TritonError.INTERNAL
            )
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(TOKENS.name, tokens),
                pb_utils.Tensor(TOKEN_COUNT.name, counts.reshape(-1, 1)),
            ]
        )


def failure(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
