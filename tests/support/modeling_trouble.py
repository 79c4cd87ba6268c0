"""A slow text classifier that does on certain words what real models do on certain rows; its folder gets a copy of this."""

import ctypes
import os
import signal
import time

import torch
from transformers import BertConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TroubleConfig(BertConfig):
    model_type = "trouble"
    seconds = 0.0  # that a batch takes
    fitting = 1 << 40  # padded tokens that fit the memory
    words: dict | None = None  # token -> what happens where it is in the batch


class TroubleForSequenceClassification(PreTrainedModel):
    config_class = TroubleConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(config.num_labels))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        time.sleep(self.config.seconds)
        if input_ids.numel() > self.config.fitting:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        present = set(input_ids.flatten().tolist())
        for token, trouble in self.config.words.items():
            if int(token) in present:
                TROUBLES[trouble]()
        mask = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        # Whole numbers: the same at every batch size, to the last bit.
        sums = (input_ids * mask).sum(-1, keepdim=True) * torch.tensor([[1, 3, 7]])
        return SequenceClassifierOutput(logits=(sums % 97) / 97 * self.weight)


def fail():
    raise ValueError("this row does not agree with the model")


def ruin():
    raise torch.AcceleratorError("CUDA error: device-side assert triggered (simulated)")


TROUBLES = {
    "fail": fail,
    "ruin": ruin,
    "hang": lambda: time.sleep(1e6),
    "freeze": lambda: ctypes.PyDLL(None).sleep(1_000_000),  # without giving up Python's lock
    "crash": lambda: ctypes.string_at(0),  # a segmentation fault
    "oom": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when memory is short
}
