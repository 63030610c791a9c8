"""A server that follows vLLM's documented interface, for tests where vllm cannot run.

It loads the adapters that it is told of with PEFT onto a base of its own, and samples with plain
transformers, one token after another. Its faults are those that vLLM has, in vLLM's words.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reply = tuple[int, Any]
BASE_NAME = "tiny-base"


class RefusedError(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": kind, "param": None, "code": status},
        }


class FakeVLLM:
    """The server, while a `with` block lasts.

    Attributes:
        base: that it serves; PEFT's layers are put into it.
        logprobs_mode: as of `vllm serve --logprobs-mode`.
        allows_updates: VLLM_ALLOW_RUNTIME_LORA_UPDATING.
        sees_files: whether paths of the client mean something here.
        fault: (path, body) -> a reply in the place of the usual one, or None.
        change: changes the value that is answered with.
        bodies: of the requests for completions.
        loaded: {name: folder} of all adapters that it ever loaded, in order.
        here: names of those that it has now.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.base, self.tokenizer = base.eval(), tokenizer
        self.logprobs_mode = "raw_logprobs"
        self.max_lora_rank = 16
        self.max_model_len: int | None = None
        self.root = BASE_NAME
        self.key: str | None = None
        self.allows_updates = self.sees_files = True
        self.fault: Callable[[str, dict[str, Any]], Reply | None] = lambda *_: None
        self.change: Callable[[str, Any], Any] = lambda _, value: value
        self.seconds = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.loaded: dict[str, str] = {}
        self.here: dict[str, str] = {}
        self._peft: PeftModel | None = None
        self._lock = threading.Lock()  # one model, and an adapter is switched on for a request
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                status, value = server.reply(self.path, body, self.headers.get("Authorization"))
                content = value if isinstance(value, str) else json.dumps(value)
                try:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(content.encode())
                except OSError:  # the client has gone
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeVLLM:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def reply(self, path: str, body: dict[str, Any], authorization: str | None) -> Reply:
        injected = self.fault(path, body)
        if injected is not None:
            return injected
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/v1/models": self._models,
            "/v1/completions": self._complete,
        }
        if self.allows_updates:
            ways |= {
                "/v1/load_lora_adapter": self._load,
                "/v1/unload_lora_adapter": self._unload,
            }
        if path not in ways:
            return 404, {"detail": "Not Found"}
        with self._lock:
            time.sleep(self.seconds)
            try:
                return 200, self.change(path, ways[path](body))
            except RefusedError as error:
                return error.status, error.body

    def _models(self, _: dict[str, Any]) -> dict[str, Any]:
        base = {"id": BASE_NAME, "object": "model", "root": self.root, "parent": None}
        adapters = [
            {"id": name, "object": "model", "root": place, "parent": BASE_NAME}
            for name, place in self.here.items()
        ]
        return {"object": "list", "data": [base | {"max_model_len": self.max_model_len}, *adapters]}

    def _load(self, body: dict[str, Any]) -> str:
        name, place = body["lora_name"], Path(body["lora_path"])
        if name in self.here and not body.get("load_inplace"):
            raise RefusedError(
                400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput"
            )
        if not self.sees_files or not (place / "adapter_config.json").exists():
            raise RefusedError(
                404, f"Loading lora {name} failed: No adapter found for {place}", "NotFoundError"
            )
        config = json.loads((place / "adapter_config.json").read_text())
        faults = []
        if config.get("modules_to_save"):
            faults.append("vLLM only supports modules_to_save being None.")
        if config.get("use_dora"):
            faults.append("vLLM does not yet support DoRA.")
        if config["r"] > self.max_lora_rank:
            faults.append(
                f"LoRA rank {config['r']} is greater than max_lora_rank {self.max_lora_rank}."
            )
        if faults:
            raise RefusedError(500, " ".join(faults), "InternalServerError")
        # PEFT's names of adapters may hold no dash's worth of trouble: a number of its own.
        own = f"a{len(self.loaded)}"
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.base, place, adapter_name=own)
        else:
            self._peft.load_adapter(place, adapter_name=own)
        self._peft.eval()
        self.loaded[name] = own
        self.here[name] = str(place)
        return f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: dict[str, Any]) -> str:
        name = body["lora_name"]
        if name not in self.here:
            raise RefusedError(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.here[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        name, prompt = body["model"], body["prompt"]
        if name != BASE_NAME and name not in self.here:
            raise RefusedError(404, f"The model `{name}` does not exist.", "NotFoundError")
        room = self.max_model_len
        if room is not None and len(prompt) + body["max_tokens"] > room:
            raise RefusedError(400, f"This model's maximum context length is {room} tokens.")
        choices = []
        for member in range(body.get("n", 1)):
            choice = self._choice(name, prompt, body, member)
            choices.append({"index": member, "prompt_token_ids": prompt} | choice)
        return {"id": "cmpl-0", "object": "text_completion", "model": name, "choices": choices}

    @torch.no_grad()
    def _logits(self, name: str, ids: list[int]) -> torch.Tensor:
        """(T, V), float32."""
        inputs = torch.tensor([ids])
        if name != BASE_NAME:
            assert self._peft is not None
            self._peft.set_adapter(self.loaded[name])
            return self._peft(input_ids=inputs).logits[0].float()
        if self._peft is None:
            return self.base(input_ids=inputs).logits[0].float()
        with self._peft.disable_adapter():
            return self._peft(input_ids=inputs).logits[0].float()

    def _choice(
        self, name: str, prompt: list[int], body: dict[str, Any], member: int
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed((body.get("seed") or 0) + member)
        drawn: list[int] = []
        logprobs: list[float] = []
        reason, stop_reason, text = "length", None, ""
        ends = {*body.get("stop_token_ids", []), self.base.generation_config.eos_token_id}
        while len(drawn) < body["max_tokens"]:
            raw = self._logits(name, prompt + drawn)[-1]
            processed = _processed(raw, body)
            token = int(torch.multinomial(processed.softmax(-1), 1, generator=generator))
            kind, _, what = self.logprobs_mode.partition("_")
            values = raw if kind == "raw" else processed
            values = values.log_softmax(-1) if what == "logprobs" else values
            drawn.append(token)
            logprobs.append(max(float(values[token]), -9999.0))
            text = self.tokenizer.decode(drawn, skip_special_tokens=True)
            found = [stop for stop in body.get("stop", []) if stop in text]
            if token in ends or found:
                reason, stop_reason = "stop", found[0] if found else token
                break
        choice: dict[str, Any] = {
            "text": text,
            "logprobs": {"token_logprobs": logprobs, "tokens": [str(one) for one in drawn]},
            "finish_reason": reason,
            "stop_reason": stop_reason,
            "token_ids": drawn if body.get("return_token_ids") else None,
            "prompt_logprobs": None,
        }
        if body.get("prompt_logprobs") is not None:
            found_logprobs = self._logits(name, prompt).log_softmax(-1)
            choice["prompt_logprobs"] = [
                None,
                *(
                    {str(token): {"logprob": float(row[token]), "rank": 1, "decoded_token": ""}}
                    for row, token in zip(found_logprobs[:-1], prompt[1:], strict=True)
                ),
            ]
        return choice


def _processed(logits: torch.Tensor, body: dict[str, Any]) -> torch.Tensor:
    allowed = body.get("allowed_token_ids")
    if allowed is not None:
        masked = torch.full_like(logits, -torch.inf)
        masked[allowed] = logits[allowed]
        logits = masked
    logits = logits / body["temperature"]
    if body["top_k"] > 0:
        least = logits.topk(min(body["top_k"], len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if body["top_p"] < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        beyond = probabilities.cumsum(0) - probabilities >= body["top_p"]
        logits = logits.index_fill(0, order[beyond], -torch.inf)
    return logits
