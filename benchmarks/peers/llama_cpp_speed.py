"""The peer of quantised_speed.py: llama.cpp. Each line on standard input is a round, answered with its seconds."""

import json
import sys
import time

import llama_cpp
import numpy as np


def main() -> None:
    job = json.loads(sys.argv[1])
    batch, context, prompt = job["batch"], job["context"], job["prompt"]
    model = llama_cpp.llama_model_load_from_file(job["path"].encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = context * batch, 512, 512
    settings.n_seq_max, settings.n_threads, settings.n_threads_batch = batch, job["threads"], job["threads"]
    context_of = llama_cpp.llama_init_from_model(model, settings)
    memory = llama_cpp.llama_get_memory(context_of)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    room = llama_cpp.llama_batch_init(max(512, batch), 0, 1)

    def run(tokens: list[tuple[int, int, int]], last: bool) -> None:
        """(token, place, sequence); logits of every token, or of the last alone."""
        room.n_tokens = len(tokens)
        for i, (token, place, sequence) in enumerate(tokens):
            room.token[i], room.pos[i], room.n_seq_id[i], room.seq_id[i][0] = token, place, 1, sequence
            room.logits[i] = not last or i == len(tokens) - 1
        assert llama_cpp.llama_decode(context_of, room) == 0
        llama_cpp.llama_synchronize(context_of)

    def best() -> list[int]:
        return [
            int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context_of, i), (vocab,)).argmax())
            for i in range(batch)
        ]

    print(json.dumps({"ready": True, "version": llama_cpp.__version__}), flush=True)
    for _ in sys.stdin:
        llama_cpp.llama_memory_clear(memory, True)
        started = time.perf_counter()
        for sequence in range(batch):
            run([(t, i, sequence) for i, t in enumerate(prompt)], last=True)
        if job["steps"]:
            tokens = [prompt[-1]] * batch
            started = time.perf_counter()
            for step in range(job["steps"]):
                run([(t, len(prompt) + step, i) for i, t in enumerate(tokens)], last=False)
                tokens = best()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
