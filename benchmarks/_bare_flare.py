"""Bare FLARE: a plain array to all sites and back, by direct calls; what `flare.py` compares with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.decomposers import numpy_decomposers
from nvflare.fuel.utils import fobs

TOPIC, CONTROLLER, EXECUTOR = "bare", "_bare_flare.BareController", "_bare_flare.BareExecutor"


def register() -> None:
    fobs.register(numpy_decomposers.NumpyArrayDecomposer)


class BareController(Controller):
    def __init__(self, n: int, rounds: int, out: str) -> None:
        super().__init__()
        register()
        self.n, self.rounds, self.out = n, rounds, out

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        pass

    def process_result_of_unknown_task(self, *args, **kwargs):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        engine = fl_ctx.get_engine()
        sites = [client.name for client in engine.get_clients()]
        array, seconds = np.random.default_rng(0).normal(size=self.n).astype(np.float32), []
        while len(seconds) < self.rounds:
            begun = time.perf_counter()
            request = Shareable()
            request["array"] = array
            replies = engine.send_aux_request(sites, TOPIC, request, 300.0, fl_ctx, secure=False)
            arrays = [r["array"] for r in replies.values() if isinstance(r, Shareable) and "array" in r]
            if len(arrays) < len(sites):  # not all are up yet
                time.sleep(0.5)
                continue
            array = np.add.reduce(arrays) / np.float32(len(arrays))
            seconds.append(time.perf_counter() - begun)
        Path(self.out).write_text(json.dumps(seconds))


class BareExecutor(Executor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.START_RUN:
            register()
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self.answer)

    def answer(self, topic, request, fl_ctx):
        reply = make_reply(ReturnCode.OK)
        reply["array"] = request["array"] + np.float32(1)
        return reply
