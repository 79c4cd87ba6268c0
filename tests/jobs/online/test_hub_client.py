"""`huggingface_hub.InferenceClient` over HTTP where its answers come in pieces, or by OpenAI's paths."""

import json
import os
import subprocess
import sys

import pytest
from support import tiny_text
from support.serving import listening
from transformers import pipeline

MESSAGES = [{"role": "user", "content": "the people who made this"}]
CODE = f"""
import json, sys
from huggingface_hub import InferenceClient
client = InferenceClient(base_url=sys.argv[1])
chat = dict(messages={MESSAGES!r}, max_tokens=6, temperature=0)
asked = dict(max_new_tokens=6, do_sample=False, return_full_text=False)
print(json.dumps(dict(
    chat=client.chat_completion(**chat).choices[0].message.content,
    chat_stream="".join(each.choices[0].delta.content or "" for each in client.chat_completion(**chat, stream=True)),
    text=client.text_generation("time and", **asked),
    text_stream="".join(client.text_generation("time and", **asked, stream=True)),
)))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_text.chat_model(tmp_path_factory.mktemp("chat"))


def test_chats_and_texts_whole_and_streamed(model):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "none"}
    with listening("text-generation", model) as url:
        done = subprocess.run([sys.executable, "-c", CODE, url], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    pipe = pipeline("text-generation", model=model)
    text = pipe("time and", max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
    reply = pipe(MESSAGES, max_new_tokens=6, do_sample=False)[0]["generated_text"][-1]["content"]
    assert got == {"chat": reply, "chat_stream": reply, "text": text, "text_stream": text}
