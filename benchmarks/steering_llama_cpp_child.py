"""Logits by llama.cpp, run by the interpreter that has it: imports nothing of this project.

`python steering_llama_cpp_child.py MODEL VECTOR IDS_JSON` prints JSON: logits of every token
without the control vector, with it, and with it laid one block earlier and later.
"""

import ctypes
import importlib
import json
import re
import sys
from typing import Any

import numpy as np

gguf, llama_cpp = (importlib.import_module(name) for name in ("gguf", "llama_cpp"))


def main(model_path: str, vector_path: str, given: str) -> None:
    """Print the logits."""
    ids = json.loads(given)
    llama_cpp.llama_backend_init()
    asked = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), asked)
    assert model, f"llama.cpp could not open {model_path}"
    width, n_blocks = llama_cpp.llama_model_n_embd(model), llama_cpp.llama_model_n_layer(model)
    found = {"plain": logits_of(model, ids, None)}
    for later in (0, -1, 1):
        found[str(later)] = logits_of(model, ids, laid_out(vector_path, width, n_blocks, later))
    print(json.dumps(found))


def laid_out(path: str, width: int, n_blocks: int, later: int) -> Any:
    """The buffer that llama.cpp's own loader makes: direction.N is its row N - 1."""
    rows = np.zeros((n_blocks, width), dtype=np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        number = re.fullmatch(r"direction\.(\d+)", tensor.name)
        if number:
            rows[int(number[1]) - 1 + later] += tensor.data
    return rows


def logits_of(model: Any, ids: list[int], rows: Any) -> list[list[float]]:
    """Logits at every token; its flash attention is off, since that computes in float16."""
    asked = llama_cpp.llama_context_default_params()
    asked.n_ctx, asked.n_batch, asked.n_ubatch = 128, 128, 128
    asked.n_threads = asked.n_threads_batch = 1
    asked.type_k = asked.type_v = llama_cpp.GGML_TYPE_F32
    asked.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, asked)
    if rows is not None:
        data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        n_blocks, width = rows.shape
        done = llama_cpp.llama_set_adapter_cvec(context, data, rows.size, width, 1, n_blocks)
        assert done == 0, f"llama.cpp refused the control vector: {done}"
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
    assert llama_cpp.llama_decode(context, batch) == 0, "llama.cpp could not run the tokens"
    width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    found = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, place), (width,)).tolist()
        for place in range(len(ids))
    ]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
